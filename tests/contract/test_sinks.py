"""What every sink promises, for each kind in the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge.errors import InputError, UsageError
from edge.sinks import SINKS, FeedInfo, Policy, Sink, open_sink
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
        "display": "display:",
        "triage": f"triage:{folder}/deep/er/t.html",
    }[kind]


@pytest.fixture(params=list(SINKS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A screen that is a folder: `fakes/screen`."""
    screen = tmp_path / "screen"
    screen.mkdir()
    (screen / "log").touch()
    monkeypatch.setenv("DISPLAY", ":fake")
    monkeypatch.setenv("FAKE_SCREEN", str(screen))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "fakes" / "screen"))
    return screen


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


def test_it_takes_results_of_a_feed_that_was_added_later(sink: Sink) -> None:
    for feed in ("one", "later", "later", "one"):
        sink.write(result(feed, 1))
        sink.flush()
    sink.close()


def test_it_goes_on_after_it_was_closed_for_a_fault(kind: str, tmp_path: Path) -> None:
    sink = open_sink(uri(kind, tmp_path), FEEDS)
    sink.write(result("one", 0))
    sink.close()
    if reopen := getattr(sink, "reopen", None):
        reopen()
        sink.write(result("one", 1))
        sink.write(result("two", 0))
        sink.flush()
        sink.close()


def test_its_policy_is_its_own_or_that_of_the_address(kind: str, tmp_path: Path) -> None:
    place = uri(kind, tmp_path)
    own: Policy = "drop-oldest" if kind == "display" else "block"
    other: Policy = "block" if kind == "display" else "drop-oldest"
    for address, asked, policy in (
        (place, None, own),
        (place, other, other),
        (f"{place}?policy={other}", None, other),
        (f"{place}?policy={other}", own, other),
    ):
        sink = open_sink(address, FEEDS, asked)
        assert sink.policy == policy
        sink.close()


def test_a_setting_that_it_lacks_is_a_usage_error_that_names_it(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no setting 'colour'"):
        open_sink(uri(kind, tmp_path) + "?colour=red", FEEDS)
    with pytest.raises(UsageError, match="did you mean 'drop-oldest'"):
        open_sink(uri(kind, tmp_path) + "?policy=drop-newest", FEEDS)


def test_it_does_not_change_the_picture(sink: Sink) -> None:
    shown = result("one", 3)
    before = shown.frame.image.copy()
    sink.write(shown)
    sink.close()
    np.testing.assert_array_equal(shown.frame.image, before)


@pytest.mark.parametrize("kind", ["jsonl", "video"])
def test_a_place_that_cannot_be_written_is_an_error_before_the_run(kind: str, tmp_path: Path) -> None:
    (tmp_path / "deep").write_text("a file where a folder is needed")
    with pytest.raises(InputError, match="cannot write"):
        open_sink(uri(kind, tmp_path), FEEDS)


def test_a_place_that_it_cannot_have_is_a_usage_error(kind: str) -> None:
    wrong = {"null": "null:somewhere", "display": "display:three"}
    with pytest.raises(UsageError):
        open_sink(wrong.get(kind, f"{kind}:"), FEEDS)


@pytest.mark.parametrize("wrong", ["jsnl:x", "results.jsonl", "mqtt://broker", ""])
def test_an_unknown_scheme_says_which_there_are(wrong: str) -> None:
    with pytest.raises(UsageError, match=r"did you mean 'jsonl'|known: display, jsonl, null, triage, video"):
        open_sink(wrong, FEEDS)


def test_a_file_whose_name_looks_like_settings_is_not_guessed_about(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl?append=1").touch()
    with pytest.raises(UsageError, match="a file is called so"):
        open_sink(f"jsonl:{tmp_path}/r.jsonl?append=1", FEEDS)
