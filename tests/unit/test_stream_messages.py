"""What somebody gets wrong on the first day with cameras: each message says what, why and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.cli import main
from edge.errors import MissingPackage, missing_package
from edge.sources import network


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """The exit code of `edge run …`, and what it said."""
    code = main(["run", "--backend", "null", "--sink", "null:", *words])
    text = capsys.readouterr().err
    assert "Traceback" not in text and text.startswith("error: ")
    assert len(text.splitlines()) <= 3
    return code, text


@pytest.mark.parametrize(
    ("source", "code", "parts"),
    [
        ("rstp://10.0.0.1/live", 2, ("no scheme 'rstp'", "did you mean 'rtsp'?")),
        ("cam:0", 2, ("no scheme 'cam'", "did you mean 'camera'?")),
        ("10.0.0.1/live", 4, ("no such file or folder", "rtsp://HOST/PATH")),
        ("webcam", 4, ("no such file or folder", "camera:0")),
        ("camera:front", 2, ("no camera 'front'", "camera:0")),
        ("rtsp:10.0.0.1/live", 2, ("not an address", "e.g. rtsp://")),
        ("rtsp://", 2, ("not an address", "e.g. rtsp://")),
        ("rtsp://10.0.0.1:99999999/live", 2, ("not an address",)),
        ("rtsp://10.0.0.1/live?transport=tpc", 2, ("no transport 'tpc'", "did you mean 'tcp'?")),
        ("udp://5000", 2, ("has no port", "e.g. udp://:5000")),
    ],
)
def test_an_address(
    source: str, code: int, parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("av")
    found, text = told(capsys, "--source", source)
    assert found == code
    assert all(part in text for part in parts), text


FEED = '[[feeds]]\nsource = "test:text"\n'


@pytest.mark.parametrize(
    ("toml", "parts"),
    [
        (FEED + "fsp = 3\n", ("unknown key 'feeds.0.fsp', did you mean 'fps'?",)),
        ("[[feed]]\n", ("unknown key 'feed', did you mean 'feeds'?",)),
        ('[feeds]\nsource = "test:text"\n', ("two brackets: [[feeds]]",)),
        ('[sinks]\nto = "null:"\n' + FEED, ("two brackets: [[sinks]]",)),
        (FEED + 'name = "a b"\n', ("feeds.0.name: a name has letters, digits",)),
        ((FEED + 'name = "a"\n') * 2, ("two feeds are called 'a'",)),
        ('[[feeds]]\nname = "a"\n', ("feeds.0.source: Field required",)),
        (FEED + "roi = [0, 0, 2, 1]\n", ("does not lie inside the picture",)),
        (FEED + "motion.regions = [0, 0, 1, 1]\n", ("feeds.0.motion.regions.0: it is a list",)),
        ("defaults = 3\n" + FEED, ("defaults: it is a table (got 3)",)),
        ('[[feeds]]\nsource = ["rtsp://u:s3cret@h/live"]\n', ("feeds.0.source:", "u:***@h")),
        (FEED + '[[sinks]]\nto = "json:x"\n', ("no sink 'json:x'", "did you mean 'jsonl', e.g. jsonl:")),
    ],
)
def test_a_config(
    toml: str, parts: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stream.toml").write_text(toml)
    code, text = told(capsys, "--config", str(tmp_path / "stream.toml"))
    assert code == 2
    assert all(part in text for part in parts), text
    assert "s3cret" not in text


def test_what_is_wrong_in_the_defaults_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stream.toml").write_text("[defaults.health]\nfrozen_s = -1\n" + 16 * FEED)
    _, text = told(capsys, "--config", str(tmp_path / "stream.toml"))
    assert text.count("frozen_s") == 1


def test_the_name_of_a_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'camera'?" in told(capsys, "--config", "camra")[1]
    assert "cannot read camra.toml" in told(capsys, "--config", "camra.toml")[1]


def test_a_package_that_is_missing_is_told_before_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> None:
        raise missing_package("av", "feeds", "a stream of the network")

    monkeypatch.setattr(network, "pyav", missing)
    code, text = told(capsys, "--source", "rtsp://10.0.0.1/live", "--source", "test:text")
    assert code == MissingPackage.exit_code
    assert "pip install" in text and "feeds" in text


def test_a_scheme_in_capitals_is_the_same_one() -> None:
    from edge.sources import locate
    from edge.sources.url import parse

    assert parse(locate("RTSP://10.0.0.1/Live")[1], {}).full == "rtsp://10.0.0.1/Live"
