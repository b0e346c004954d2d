"""The examples in configs/streams: each is valid, its sources and sinks exist, and its comments hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edge.address import split
from edge.config import ROOT
from edge.sinks import SINKS, FeedInfo, outputs
from edge.sources import SOURCES, locate, open_source
from edge.stream.config import STREAMS, FeedConfig, StreamConfig, load_stream

EXAMPLES = sorted(path.stem for path in STREAMS.glob("*.toml"))

examples = pytest.mark.parametrize("name", EXAMPLES)


@pytest.fixture(autouse=True)
def _study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that an example reads."""
    (tmp_path / "study").mkdir()
    monkeypatch.chdir(tmp_path)


def feed(config: StreamConfig, name: str) -> FeedConfig:
    return next(feed for feed in config.feeds if feed.name == name)


def test_there_is_an_example_of_each_kind() -> None:
    assert EXAMPLES == ["camera", "dicom_and_camera", "sixteen_cameras"]


@examples
def test_it_loads_by_its_bare_name(name: str) -> None:
    config = load_stream(Path(name))
    assert config.engine.model and config.feeds and config.sinks
    names = [feed.name for feed in config.feeds]
    assert all(names) and len(set(names)) == len(names)


@examples
def test_its_model_is_one_of_the_examples_too(name: str) -> None:
    model = load_stream(Path(name)).engine.model
    assert (ROOT / "configs/models" / f"{model}.toml").exists()


@examples
def test_its_sources_and_sinks_are_addresses_of_known_kinds_and_settings(name: str) -> None:
    config = load_stream(Path(name))
    for one in config.feeds:
        kind, address = locate(one.source)
        module = __import__(SOURCES[kind], fromlist=["describe"])
        if hasattr(module, "describe"):
            assert module.describe(address).shown
    infos = [FeedInfo(one.name, None) for one in config.feeds]
    for sink in config.sinks:
        assert sink.to.partition(":")[0] in SINKS
        outputs(sink.to, infos)


@examples
def test_every_line_of_it_is_explained(name: str) -> None:
    """A comment behind it, or before its table; what repeats needs none."""
    text = (STREAMS / f"{name}.toml").read_text(encoding="utf-8")
    assert text.startswith("# ") and "docs/streams.md" in text
    assert max(map(len, text.splitlines())) <= 115
    keys = set(re.findall(r"^([\w.]+) =", text, re.MULTILINE))
    told = set(re.findall(r"^([\w.]+) = .* {2,}# \S", text, re.MULTILINE))
    assert keys - told <= {"source", "name", "model", "to", "policy", "share"}


def test_sixteen_cameras_have_what_they_share_from_the_defaults_and_may_differ() -> None:
    config = load_stream(Path("sixteen_cameras"))
    assert len(config.feeds) == 16
    gate, yard, floor = feed(config, "gate"), feed(config, "yard"), feed(config, "floor-8")
    assert (gate.fps, yard.fps, floor.fps) == (25, 10, 10)
    assert all(one.health.withhold and one.alarm and one.alarm.classes == ("person",) for one in config.feeds)
    assert yard.motion and yard.motion.regions == ((0, 0.5, 1, 0.5),) and yard.motion.share == 0.001
    assert feed(config, "depot").health.lens is False and feed(config, "ramp").health.lens is True
    assert split("", feed(config, "ramp").source).query == {"transport": "udp"}


def test_the_study_is_a_file_and_the_room_a_feed_that_comes_and_goes() -> None:
    config = load_stream(Path("dicom_and_camera"))
    study, room = feed(config, "study"), feed(config, "room")
    assert locate(study.source)[0] == "dicom" and study.realtime
    assert room.reconnect.give_up_s == 600 and study.reconnect.give_up_s is None


def test_the_modality_is_received_and_its_series_wait_ten_seconds(tmp_path: Path) -> None:
    pytest.importorskip("pynetdicom", reason="the extra 'pacs' is not installed")
    address = feed(load_stream(Path("dicom_and_camera")), "modality").source
    source = open_source(address.replace("11112", "0"))
    try:
        assert address.startswith("dicom+scp://") and split("", address).query["quiet"] == "10"
        assert (tmp_path / "spool/modality/spool.db").exists()
    finally:
        source.close()
        source.outcomes.close()  # type: ignore[attr-defined]
