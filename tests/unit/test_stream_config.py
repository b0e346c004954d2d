"""Stream configs: what feeds have from [defaults], and what is refused with a hint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import ConfigError, InputError, UsageError
from edge.stream import config as configs
from edge.stream.config import FeedSettings, find_stream, load_stream


def written(folder: Path, text: str, name: str = "yard.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refused(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_stream(written(folder, text))
    return str(caught.value)


def test_what_a_feed_leaves_out_it_has_from_the_defaults_table_by_table(tmp_path: Path) -> None:
    stream = load_stream(
        written(
            tmp_path,
            """
            [defaults]
            fps = 10
            max_age_ms = 500
            [defaults.reconnect]
            first_s = 0.5
            longest_s = 20
            [defaults.motion]
            share = 0.01

            [[feeds]]
            source = "rtsp://gate/live"

            [[feeds]]
            name = "yard"
            source = "rtsp://yard/live"
            fps = 5
            reconnect = { longest_s = 60 }
            motion = { contrast = 20 }
            """,
        )
    )
    gate, yard = stream.feeds
    assert (gate.fps, gate.max_age_ms, gate.reconnect.first_s, gate.reconnect.longest_s) == (10, 500, 0.5, 20)
    assert (yard.fps, yard.max_age_ms, yard.reconnect.first_s, yard.reconnect.longest_s) == (5, 500, 0.5, 60)
    assert gate.motion is not None and yard.motion is not None
    assert (gate.motion.share, yard.motion.share, yard.motion.contrast) == (0.01, 0.01, 20)
    assert (gate.name, yard.name) == ("", "yard")


def test_an_empty_file_is_a_stream_of_nothing_with_the_defaults(tmp_path: Path) -> None:
    stream = load_stream(written(tmp_path, ""))
    assert (stream.feeds, stream.sinks) == ((), ())
    assert stream.engine.engines == Path("engines")
    assert stream.defaults == FeedSettings()
    reconnect, health = stream.defaults.reconnect, stream.defaults.health
    assert (reconnect.first_s, reconnect.longest_s, reconnect.give_up_s) == (0.2, 10, None)
    assert (health.stalled_s, health.withhold) == (2.0, False)


def test_engines_are_looked_for_beside_the_file_where_it_names_them(tmp_path: Path) -> None:
    stream = load_stream(written(tmp_path, '[engine]\nengines = "store"'))
    assert stream.engine.engines == tmp_path / "store"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[feeds]]\nsuorce = "camera:0"', ("source",)),
        ('[[feeds]]\nsource = "camera:0"\nframerate = 5', ("framerate",)),
        ('[[feeds]]\nsource = "camera:0"\nfps = 0', ("fps", "greater than 0")),
        ('[[feeds]]\nsource = "camera:0"\nstride = 0', ("stride",)),
        ('[[feeds]]\nsource = "camera:0"\nname = "a/b"', ("name",)),
        ('[[feeds]]\nsource = "camera:0"\nreconnect = { frist_s = 1 }', ("first_s",)),
        ('[[feeds]]\nsource = "camera:0"\nhealth = { stalled_s = "two" }', ("stalled_s",)),
        ("[[feeds]]\nfps = 5", ("source",)),
        ("[defaults]\nstried = 2", ("stride",)),
        ("[engine]\nslots = 9", ("slots",)),
        ('[engine]\nbackend = "tensorflow"', ("backend", "null")),
        ('[[sinks]]\nto = "null:"\npolicy = "drop"', ("policy", "drop-oldest")),
        ("[[sink]]\nto = 'null:'", ("sinks",)),
        ("feeds = 3", ("feeds",)),
        ("feeds = [3]", ("feeds",)),
        ("defaults = 3", ("defaults",)),
        ('[[feeds]]\nsource = "camera:0"\nalarm = {}', ("nothing raises the alarm",)),
        ('[[feeds]]\nsource = "camera:0"\nalarm = { motion = 0.1 }', ("needs the table `motion`",)),
    ],
)
def test_a_wrong_key_or_value_is_refused_and_named(tmp_path: Path, text: str, said: tuple[str, ...]) -> None:
    told = refused(tmp_path, text)
    for word in (*said, "yard.toml"):
        assert word in told


@pytest.mark.parametrize("where", ["roi", "motion.regions"])
@pytest.mark.parametrize(
    "rectangle",
    [[0.5, 0, 0.6, 1], [0, 0.5, 1, 0.6], [-0.1, 0, 0.5, 0.5], [0, 0, 0, 1], [1, 0, 0.1, 1], [0, 0, 640, 480]],
)
def test_rectangles_have_to_lie_inside_the_picture(
    tmp_path: Path, where: str, rectangle: list[float]
) -> None:
    setting = f"roi = {rectangle}" if where == "roi" else f"motion = {{ regions = [{rectangle}] }}"
    assert "does not lie inside the picture" in refused(tmp_path, f"[[feeds]]\nsource = 'x'\n{setting}")


@given(st.tuples(*[st.floats(0, 1)] * 4))
def test_rectangles_inside_the_picture_are_taken(parts: tuple[float, float, float, float]) -> None:
    left, top, width, height = parts
    right, bottom = max(width * (1 - left), 1e-6), max(height * (1 - top), 1e-6)
    inside = (left * 0.999, top * 0.999, right, bottom)
    assert FeedSettings.model_validate({"roi": inside}).roi == inside


def test_a_file_that_cannot_be_read_is_an_error_of_the_input(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(InputError):
            load_stream(path)


def test_a_file_that_is_no_toml_says_where(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line 2"):
        load_stream(written(tmp_path, "[engine]\nslots = = 2"))


# ---- names


@pytest.fixture
def streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of named streams, and another one to work in."""
    named, here = tmp_path / "streams", tmp_path / "here"
    named.mkdir()
    here.mkdir()
    written(named, '[[feeds]]\nsource = "camera:0"', "one_camera.toml")
    monkeypatch.setattr(configs, "STREAMS", named)
    monkeypatch.chdir(here)
    return named


def test_a_bare_name_is_looked_for_among_the_streams(streams: Path) -> None:
    assert find_stream(Path("one_camera")) == streams / "one_camera.toml"
    assert load_stream(Path("one_camera")).feeds[0].source == "camera:0"


def test_a_file_that_is_there_goes_before_a_name(streams: Path) -> None:
    Path("one_camera").write_text("")
    assert find_stream(Path("one_camera")) == Path("one_camera")


def test_a_misspelt_name_names_the_nearest(streams: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'one_camera'"):
        load_stream(Path("one_camra"))


@pytest.mark.parametrize("path", ["one_camra.toml", "folder/one_camera"])
def test_what_is_clearly_a_path_is_one(streams: Path, path: str) -> None:
    with pytest.raises(InputError, match="one_cam"):
        load_stream(Path(path))


def test_the_streams_that_come_along_can_be_read() -> None:
    for path in configs.STREAMS.glob("*.toml"):
        stream: Any = load_stream(Path(path.stem))
        assert stream.feeds, path
