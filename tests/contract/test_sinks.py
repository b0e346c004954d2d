"""What every sink promises, for each kind in the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge.errors import InputError, UsageError
from edge.sinks import SINKS, FeedInfo, Sink, open_sink
from edge.stream.network import Nothing
from edge.types import EngineId, Frame, Result

FEEDS = [FeedInfo("one", 25.0), FeedInfo("two")]
STAGES = dict.fromkeys(("capture", "queue", "preprocess", "infer", "postprocess", "total"), 0.001)


def result(feed: str, seq: int, size: tuple[int, int] = (48, 64)) -> Result:
    image = np.full((*size, 3), 10 * seq, np.uint8)
    frame = Frame(feed, seq, image, seq / 25, 1.0, 1.7e9 + seq)
    return Result(frame, EngineId("m", "cpu", "fast", "k"), Nothing(), STAGES)


def uri(kind: str, folder: Path) -> str:
    return {
        "null": "null:",
        "jsonl": f"jsonl:{folder}/deep/er/r.jsonl",
        "video": f"video:{folder}/deep/er/v.mp4",
    }[kind]


@pytest.fixture(params=list(SINKS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def sink(kind: str, tmp_path: Path) -> Sink:
    return open_sink(uri(kind, tmp_path), FEEDS)


def test_it_takes_results_of_all_feeds_in_any_mix_of_sizes(sink: Sink) -> None:
    for seq in range(3):
        sink.write(result("one", seq))
        sink.write(result("two", seq, (30 + seq, 41)))
        sink.flush()
    sink.close()


def test_it_can_be_closed_without_a_result(sink: Sink) -> None:
    sink.close()


def test_it_does_not_change_the_picture(sink: Sink) -> None:
    shown = result("one", 3)
    before = shown.frame.image.copy()
    sink.write(shown)
    sink.close()
    np.testing.assert_array_equal(shown.frame.image, before)


@pytest.mark.parametrize("kind", [kind for kind in SINKS if kind != "null"])
def test_a_place_that_cannot_be_written_is_an_error_before_the_run(kind: str, tmp_path: Path) -> None:
    (tmp_path / "deep").write_text("a file where a folder is needed")
    with pytest.raises(InputError, match="cannot write"):
        open_sink(uri(kind, tmp_path), FEEDS)


def test_a_scheme_without_a_place_is_a_usage_error(kind: str) -> None:
    with pytest.raises(UsageError):
        open_sink("null:somewhere" if kind == "null" else f"{kind}:", FEEDS)


@pytest.mark.parametrize("wrong", ["jsnl:x", "results.jsonl", "mqtt://broker", ""])
def test_an_unknown_scheme_says_which_there_are(wrong: str) -> None:
    with pytest.raises(UsageError, match=r"did you mean 'jsonl'|known: jsonl, null, video"):
        open_sink(wrong, FEEDS)
