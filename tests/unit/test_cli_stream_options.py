"""What is streamed: the command line over the stream's config, feed by feed."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.cli import run as command
from edge.cli.stream_options import stream_config
from edge.errors import ConfigError, UsageError
from edge.stream.config import StreamConfig

CONFIG = """
[engine]
model = "burned_in_text"
threads = 3
slots = 2
batch = 4

[defaults]
max_age_ms = 500
reconnect = { first_s = 0.5 }

[[feeds]]
name = "door"
source = "rtsp://door/live"
max_age_ms = 100
reconnect = { longest_s = 7 }

[[sinks]]
to = "jsonl:out.jsonl"
policy = "block"
"""


def options(*words: object) -> StreamConfig:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return stream_config(parser.parse_args([str(word) for word in words]))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "yard.toml"
    path.write_text(CONFIG)
    return path


def test_a_config_alone_is_taken_as_it_is(config: Path) -> None:
    stream = options("--config", config)
    assert (stream.engine.model, stream.engine.threads, stream.engine.batch) == ("burned_in_text", 3, 4)
    assert [(feed.name, feed.source, feed.max_age_ms) for feed in stream.feeds] == [
        ("door", "rtsp://door/live", 100)
    ]
    assert [(sink.to, sink.policy) for sink in stream.sinks] == [("jsonl:out.jsonl", "block")]


def test_options_go_before_the_engine_of_the_config(config: Path) -> None:
    engine = options(
        *("--config", config, "--model", "detector", "--threads", 1, "--batch", 2, "--latency-ms", 40),
        *("--backend", "null", "--engines", "store", "--target", "cpu", "--variant", "exact", "--gpu", 0),
    ).engine
    assert (engine.model, engine.threads, engine.batch, engine.latency_ms) == ("detector", 1, 2, 40)
    assert (engine.backend, engine.target, engine.variant, engine.gpu) == ("null", "cpu", "exact", 0)
    assert engine.engines == Path("store")
    assert engine.slots == 2, "what is not given stays"


def test_sources_and_sinks_come_after_those_of_the_config(config: Path) -> None:
    stream = options(
        "--config", config, "--source", "yard=camera:1", "--source", "clip.mp4", "--sink", "null:"
    )
    assert [(feed.name, feed.source) for feed in stream.feeds] == [
        ("door", "rtsp://door/live"),
        ("yard", "camera:1"),
        ("", "clip.mp4"),
    ]
    assert [sink.to for sink in stream.sinks] == ["jsonl:out.jsonl", "null:"]


def test_a_source_of_the_command_line_has_the_defaults_of_the_config(config: Path) -> None:
    added = options("--config", config, "--source", "camera:1").feeds[1]
    assert (added.max_age_ms, added.reconnect.first_s) == (500, 0.5)


def test_what_is_said_of_all_feeds_goes_before_what_each_says(config: Path) -> None:
    stream = options(
        *("--config", config, "--source", "camera:1"),
        *("--realtime", "--max-age-ms", 50, "--give-up", 30),
    )
    for feed in stream.feeds:
        assert (feed.realtime, feed.max_age_ms, feed.reconnect.give_up_s) == (True, 50, 30)
        assert feed.reconnect.first_s == 0.5
    assert stream.feeds[0].reconnect.longest_s == 7


def test_without_a_config_the_defaults_are_those_of_the_config(config: Path) -> None:
    stream = options("--source", "camera:0")
    assert stream == StreamConfig.model_validate({"feeds": [{"source": "camera:0"}]})


def test_nothing_to_stream_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").write_text("[engine]\nslots = 1\n")
    for words in ([], ["--config", tmp_path / "empty.toml"]):
        with pytest.raises(UsageError, match="nothing to stream"):
            options(*words)


def test_a_wrong_config_is_told_before_anything_else(tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text("[engin]\n")
    with pytest.raises(ConfigError, match="engine"):
        options("--config", tmp_path / "wrong.toml")


# ---- names


@pytest.mark.parametrize(
    ("text", "name", "source"),
    [
        ("yard=rtsp://h/live?a=b", "yard", "rtsp://h/live?a=b"),
        ("cam-1=camera:0", "cam-1", "camera:0"),
        ("rtsp://h/live?a=b", "", "rtsp://h/live?a=b"),
        ("test:text?size=64x48&fps=3", "", "test:text?size=64x48&fps=3"),
        ("folder/a=b.mp4", "", "folder/a=b.mp4"),
        ("a=b=c", "a", "b=c"),
        ("=camera:0", "", "=camera:0"),
    ],
)
def test_a_name_stands_before_the_address(text: str, name: str, source: str) -> None:
    feed = options("--source", text).feeds[0]
    assert (feed.name, feed.source) == (name, source)


def test_a_file_that_is_there_is_never_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("take=2.mp4").touch()
    feed = options("--source", "take=2.mp4").feeds[0]
    assert (feed.name, feed.source) == ("", "take=2.mp4")


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text[0] != "-"))
def test_any_source_is_kept_letter_by_letter(text: str) -> None:
    feed = options(f"--source={text}").feeds[0]
    assert text == (f"{feed.name}={feed.source}" if feed.name else feed.source)
