"""The windows of `display:`, on a screen that is a folder (`fakes/screen`)."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edge.errors import InputError, RuntimeFault, UsageError
from edge.sinks import FeedInfo, open_sink
from edge.sinks.display import Display, _has_screen
from edge.sinks.viewer import Windows
from edge.stream.network import Nothing
from edge.types import EngineId, Frame, Result


@pytest.fixture
def screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "log").touch()
    monkeypatch.setenv("DISPLAY", ":fake")
    monkeypatch.setenv("FAKE_SCREEN", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "fakes" / "screen"))
    return tmp_path


def result(feed: str, grey: int) -> Result:
    frame = Frame(feed, 0, np.full((48, 64, 3), grey, np.uint8), None, 1.0, 1.7e9)
    return Result(frame, EngineId("m", "cpu", "fast", "k"), Nothing(), {})


def lines(screen: Path, last: str) -> list[str]:
    """What happened on the screen, up to this line."""
    end = time.monotonic() + 30
    while last not in (seen := (screen / "log").read_text().splitlines()):
        assert time.monotonic() < end, seen
        time.sleep(0.005)
    return seen[2:]  # without the window that was tried at first


def test_each_feed_has_a_window_of_its_size(screen: Path) -> None:
    sink = open_sink("display:", [FeedInfo("a"), FeedInfo("b")])
    for feed, grey in (("a", 10), ("b", 20), ("a", 30)):
        sink.write(result(feed, grey))
    assert lines(screen, "show a 30") == [
        "open a", "size a 64x48", "show a 10", "open b", "size b 64x48", "show b 20", "show a 30",
    ]  # fmt: skip
    sink.close()


def test_one_feed_can_be_shown_alone(screen: Path) -> None:
    sink = open_sink("display:b", [FeedInfo("a"), FeedInfo("b")])
    for feed in "ab":
        sink.write(result(feed, 20))
    assert lines(screen, "show b 20") == ["open b", "size b 64x48", "show b 20"]
    sink.close()


def test_a_key_closes_the_windows_for_good_and_nothing_fails(screen: Path) -> None:
    sink = open_sink("display:", [])
    sink.write(result("a", 10))
    lines(screen, "show a 10")
    (screen / "keys").touch()
    lines(screen, "close a")
    sink.write(result("a", 20))
    sink.write(result("b", 30))
    assert "show a 20" not in lines(screen, "show b 30")
    sink.close()


def test_a_window_that_was_closed_by_its_frame_stays_closed() -> None:
    visible, shown = {"a": 0.0, "b": 0.0}, []
    cv2 = SimpleNamespace(
        WINDOW_NORMAL=0, WINDOW_KEEPRATIO=0, WND_PROP_VISIBLE=4,
        namedWindow=lambda name, flags: None, resizeWindow=lambda name, width, height: None,
        imshow=lambda name, image: shown.append(name), pollKey=lambda: -1,
        getWindowProperty=lambda name, what: visible[name],
        destroyWindow=lambda name: pytest.fail("it is closed already"),
    )  # fmt: skip
    windows, image = Windows(cv2), np.zeros((48, 64, 3), np.uint8)
    for a, b in ((0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.0, 1.0)):  # it takes a while to be on the screen
        windows.show("a", image)
        windows.show("b", image)
        visible.update(a=a, b=b)
        windows.look_after()
    assert (shown.count("a"), shown.count("b")) == (3, 4)


def test_windows_that_are_lost_are_a_fault_and_come_back(screen: Path) -> None:
    sink = open_sink("display:", [])
    assert isinstance(sink, Display)
    sink._viewer.kill()
    sink._viewer.wait()
    with pytest.raises(RuntimeFault, match="the windows are gone"):
        sink.write(result("a", 10))
    sink.close()
    sink.reopen()
    sink.write(result("a", 20))
    lines(screen, "show a 20")
    sink.close()


def test_without_a_screen_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(InputError, match="there is no screen"):
        open_sink("display:", [])


def test_an_opencv_without_windows_is_an_error_before_the_run(screen: Path) -> None:
    (screen / "log").unlink()
    with pytest.raises(InputError, match=r"cannot open a window: .*not implemented.*headless"):
        open_sink("display:", [])


def test_a_screen_that_cannot_be_reached_ends_no_more_than_the_sink(
    screen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real OpenCV: Qt aborts its process."""
    monkeypatch.delenv("PYTHONPATH")
    monkeypatch.setenv("DISPLAY", ":fake")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(InputError, match=r"cannot open a window: .+"):
        open_sink("display:", [])


def test_a_feed_that_is_not_there_cannot_be_shown(screen: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'front'"):
        open_sink("display:frnt", [FeedInfo("front"), FeedInfo("back")])


def test_where_there_are_screens() -> None:
    assert _has_screen("linux", {"DISPLAY": ":0"})
    assert _has_screen("linux", {"WAYLAND_DISPLAY": "wayland-0"})
    assert not _has_screen("linux", {"DISPLAY": ""})
    assert _has_screen("win32", {})
