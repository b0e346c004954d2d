"""Videos in segments: each plays, the last one also after kill -9 or on a full disk."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from disks import full_disk

from edge.errors import RuntimeFault, UsageError
from edge.sinks import FeedInfo, Sink, open_sink
from edge.stream.network import Nothing
from edge.types import EngineId, Frame, Result

START = 1.7e9
"""2023-11-14 22:13:20 UTC."""


def result(pts: float | None, feed: str = "a", grey: int = 100, size: tuple[int, int] = (48, 64)) -> Result:
    image = np.full((*size, 3), grey, np.uint8)
    frame = Frame(feed, 0, image, pts, 1.0, START + (pts or 0.0))
    return Result(frame, EngineId("m", "cpu", "fast", "k"), Nothing(), {})


def opened(folder: Path, settings: str = "segment_s=1", feeds: tuple[str, ...] = ("a",)) -> Sink:
    return open_sink(f"video:{folder}/v.mkv?{settings}", [FeedInfo(name, 25.0) for name in feeds])


def write(sink: Sink, frames: int, start: float = 0.0, **changes: Any) -> None:
    for number in range(frames):
        sink.write(result(start + number / 25, **changes))


def frames_of(path: Path) -> list[tuple[float, np.ndarray]]:
    """Times in milliseconds, and pictures."""
    capture, frames = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), []
    while (got := capture.read())[0]:
        frames.append((capture.get(cv2.CAP_PROP_POS_MSEC), got[1]))
    capture.release()
    return frames


def segments(folder: Path, stem: str = "v") -> list[Path]:
    return sorted(folder.glob(f"{stem}-2*.mkv"))


def test_segments_follow_each_other_and_hold_every_frame(tmp_path: Path) -> None:
    sink = opened(tmp_path)
    write(sink, 60)
    sink.close()
    assert [path.name for path in segments(tmp_path)] == [
        "v-20231114T221320.000Z.mkv", "v-20231114T221321.000Z.mkv", "v-20231114T221322.000Z.mkv",
    ]  # fmt: skip
    assert [len(frames_of(path)) for path in segments(tmp_path)] == [25, 25, 10]
    capture = cv2.VideoCapture(str(segments(tmp_path)[0]), cv2.CAP_FFMPEG)
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 25  # it knows how long it is
    capture.release()


def test_frames_keep_their_own_times(tmp_path: Path) -> None:
    sink = opened(tmp_path, "segment_s=60")
    for pts in (5.0, 5.04, 5.5, 8.0):
        sink.write(result(pts))
    sink.close()
    assert [round(ms) for ms, _ in frames_of(segments(tmp_path)[0])] == [0, 40, 500, 3000]


def test_a_feed_without_a_clock_goes_at_its_pace(tmp_path: Path) -> None:
    sink = opened(tmp_path, "segment_s=60")
    for _ in range(3):
        sink.write(result(None))
    sink.close()
    assert [round(ms) for ms, _ in frames_of(segments(tmp_path)[0])] == [0, 40, 80]


@pytest.mark.parametrize("pts", [1.0, 100.0], ids=["back", "ahead"])
def test_a_clock_that_jumps_begins_a_segment(pts: float, tmp_path: Path) -> None:
    sink = opened(tmp_path, "segment_s=60")
    for moment in (2.0, 2.04, pts, pts + 0.04):
        sink.write(result(moment))
    sink.close()
    assert [len(frames_of(path)) for path in segments(tmp_path)] == [2, 2]


def test_another_size_begins_a_segment(tmp_path: Path) -> None:
    sink = opened(tmp_path, "segment_s=60")
    write(sink, 3)
    write(sink, 3, start=0.2, size=(33, 41))
    sink.close()
    assert [frames_of(path)[0][1].shape for path in segments(tmp_path)] == [(48, 64, 3), (33, 41, 3)]


def test_pictures_look_as_they_did(tmp_path: Path) -> None:
    sink = opened(tmp_path)
    for number in range(5):
        sink.write(result(number / 25, grey=40 * number))
    sink.close()
    assert [round(p.mean()) for _, p in frames_of(segments(tmp_path)[0])] == pytest.approx(
        [0, 40, 80, 120, 160], abs=1
    )


def test_only_the_newest_are_kept_of_each_feed(tmp_path: Path) -> None:
    sink = opened(tmp_path, "segment_s=1&keep=2", ("a", "b"))
    write(sink, 130)
    write(sink, 30, feed="b")
    sink.close()
    assert [len(frames_of(path)) for path in segments(tmp_path, "v-a")] == [25, 5]
    assert [len(frames_of(path)) for path in segments(tmp_path, "v-b")] == [25, 5]


def test_a_feed_that_comes_later_gets_its_own(tmp_path: Path) -> None:
    sink = opened(tmp_path)
    write(sink, 3)
    write(sink, 4, feed="later")
    sink.close()
    assert len(frames_of(segments(tmp_path)[0])) == 3
    assert len(frames_of(segments(tmp_path, "v-later")[0])) == 4


def test_a_later_feed_replaces_no_file(tmp_path: Path) -> None:
    """Not even without segments."""
    (tmp_path / "v-later.avi").write_text("precious")
    sink = open_sink(f"video:{tmp_path}/v.avi", [FeedInfo("a")])
    sink.write(result(None, feed="later"))
    sink.close()
    assert (tmp_path / "v-later.avi").read_text() == "precious"
    assert len(frames_of(tmp_path / "v-later-2.avi")) == 1


def test_what_was_written_before_a_fault_is_not_replaced(tmp_path: Path) -> None:
    sink = open_sink(f"video:{tmp_path}/v.avi", [FeedInfo("a")])
    sink.write(result(None))
    sink.close()
    sink.reopen()  # type: ignore[attr-defined]
    sink.write(result(None))
    sink.write(result(None))
    sink.close()
    assert len(frames_of(tmp_path / "v.avi")) == 1
    assert len(frames_of(tmp_path / "v-2.avi")) == 2


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[2:]
from test_sink_segments import opened, write
from pathlib import Path
sink = opened(Path(sys.argv[1]), "segment_s=4")
write(sink, 130)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_after_kill_9_every_frame_is_there(tmp_path: Path) -> None:
    """Also of a quiet scene, where encoders hold seconds back."""
    here = Path(__file__).parent
    paths = [str(here), str(here.parent), str(here.parents[1])]
    child = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), *paths], timeout=120)
    assert child.returncode == -signal.SIGKILL
    assert [len(frames_of(path)) for path in segments(tmp_path)] == [100, 30]


def test_a_full_disk_is_told_at_once_and_what_is_there_plays(tmp_path: Path) -> None:
    sink = opened(tmp_path, "segment_s=60")
    write(sink, 5)
    with full_disk(segments(tmp_path)[0].stat().st_size + 100):
        with pytest.raises(RuntimeFault, match=r"cannot write .*v\.mkv.*free some space"):
            write(sink, 1, start=0.2)
        sink.close()
    sink.reopen()  # type: ignore[attr-defined]
    write(sink, 3, start=0.24)
    sink.close()
    assert [len(frames_of(path)) for path in segments(tmp_path)] == [5, 3]


def test_a_full_disk_is_not_littered_with_empty_files(tmp_path: Path) -> None:
    sink = opened(tmp_path)
    for size in (100, 300):  # too little for the head, too little for the first picture
        with full_disk(size):
            with pytest.raises(RuntimeFault):
                write(sink, 1)
            sink.close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone_is_made_again_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "usb"
    sink = opened(folder)
    write(sink, 10)
    shutil.rmtree(folder)
    write(sink, 30, start=0.4)
    sink.close()
    assert [len(frames_of(path)) for path in segments(folder)] == [25, 5]


def test_better_quality_takes_more_room(tmp_path: Path) -> None:
    sizes = []
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    for quality in (30, 95):
        sink = opened(tmp_path / str(quality), f"segment_s=1&quality={quality}")
        frame = Frame("a", 0, noise, 0.0, 1.0, START)
        sink.write(Result(frame, EngineId("m", "cpu", "fast", "k"), Nothing(), {}))
        sink.close()
        sizes.append(os.path.getsize(segments(tmp_path / str(quality))[0]))
    assert sizes[1] > 1.5 * sizes[0]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("v.mp4?segment_s=60", "end the name in .mkv"),
        ("v.mkv?keep=3", "add segment_s=60"),
        ("v.mkv?quality=90", "add segment_s=60"),
        ("v.mkv?segment_s=-1", "segment_s=-1 is out of range"),
        ("v.mkv?segment_s=60&keep=-1", "keep=-1 is out of range"),
        ("v.mkv?segment_s=60&quality=0", "quality=0 is out of range"),
        ("v.mkv?segments=60", "did you mean 'segment_s'"),
    ],
)
def test_a_wrong_setting_is_told(address: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        open_sink(f"video:{tmp_path}/{address}", [])
