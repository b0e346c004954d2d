"""`edge run` with live feeds as a user meets it: what is told, what is never told, and how fast it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rtsp
from live import until
from rtsp import RtspServer
from streaming import Collect

from edge.cli import main
from edge.sources import open_source
from edge.stream.feed import Feed
from edge.stream.network import null_network
from edge.stream.run import Run

pytest.importorskip("av")

NULL = ["run", "--backend", "null"]
TRIES = 3
"""A machine that is busy may miss a limit once, not three times."""


def edge(words: Sequence[object]) -> int:
    return main([str(word) for word in words])


@contextmanager
def start(*words: object) -> Iterator[subprocess.Popen[str]]:
    """The command as a process, which ends with the block at the latest."""
    command = [sys.executable, "-m", "edge", *NULL, *(str(word) for word in words)]
    folder = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def told(process: subprocess.Popen[str], what: str) -> str:
    """What it says on standard error, until it says `what`."""
    text = ""
    assert process.stderr
    while what not in text:
        line = process.stderr.readline()
        assert line, f"it ended without saying {what!r}:\n{text}"
        text += line
    return text


# ---- passwords


@pytest.mark.parametrize(("password", "code"), [("s3cret%2Fword", 0), ("wr0ng%2Fword", 5)])
def test_no_output_holds_a_password(
    rtsp_server: RtspServer, tmp_path: Path, capfd: pytest.CaptureFixture[str], password: str, code: int
) -> None:
    url = rtsp_server.url("/secret", user=f"guard:{password}")
    config = tmp_path / "yard.toml"
    config.write_text(f"[[feeds]]\nsource = '{url}'\n")
    words = ["--config", config, "--source", "test:text?size=32x32&frames=3", "--frames", 3]
    words += ["--give-up", 1 if code else 60]
    summary, lines = tmp_path / "s.json", tmp_path / "r.jsonl"
    video = ["--sink", f"video:{tmp_path / 'seen.mkv'}?segment_s=60"]
    assert edge([*NULL, *words, *video, "--sink", f"jsonl:{lines}", "--summary", summary, "--json"]) == code
    everything = [*capfd.readouterr(), summary.read_text(), lines.read_text()]
    everything += [str(path) for path in tmp_path.iterdir()]
    assert any("guard:***@127.0.0.1" in text for text in everything)
    for secret in ("s3cret", "wr0ng"):
        assert not any(secret in text for text in everything)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--source", "rtsp://guard:s3cret@127.0.0.1:1/live?transport=pigeon"],
        ["--source", "rstp://guard:s3cret@127.0.0.1/live"],
        ["--source", "rtsp://guard:s3cret@127.0.0.1:none/live"],
        ["--source", "rtsp://guard:s3cret@127.0.0.1:1/live", "--give-up", "0.1"],
    ],
)
def test_no_error_holds_a_password(wrong: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert edge([*NULL, *wrong]) in (2, 4)
    out, err = capfd.readouterr()
    assert "***" in err
    assert "s3cret" not in out + err


# ---- beginnings and ends


def test_a_camera_that_is_absent_does_not_keep_files_from_being_read_and_is_given_up(tmp_path: Path) -> None:
    summary = tmp_path / "s.json"
    absent = ["--source", f"door=rtsp://127.0.0.1:{rtsp.free_port()}/live", "--give-up", 0.5]
    file = ["--source", "test:text?size=32x32&frames=9"]
    assert edge([*NULL, *absent, *file, "--summary", summary]) == 5
    door, text = json.loads(summary.read_text())["feeds"]
    assert (door["feed"], door["state"], door["captured"]) == ("door", "failed", 0)
    assert "Connection refused" in door["error"]
    assert (text["delivered"], text["ended"]) == (9, "end")


def test_sigterm_while_a_feed_is_looked_for_ends_the_run_within_a_second(tmp_path: Path) -> None:
    best = float("inf")
    for _ in range(TRIES):
        summary = tmp_path / "s.json"
        source = f"rtsp://guard:s3cret@127.0.0.1:{rtsp.free_port()}/live"
        with start("--source", source, "--summary", summary) as process:
            text = told(process, "the next attempt in")
            time.sleep(1.0)  # pauses grow
            begun = time.monotonic()
            process.send_signal(signal.SIGTERM)
            rest = process.communicate(timeout=60)[1]
            best = min(best, time.monotonic() - begun)
        assert process.returncode == 0
        assert "s3cret" not in text + rest
        (feed,) = json.loads(summary.read_text())["feeds"]
        assert (feed["captured"], feed["ended"]) == (0, "shutdown")
        if best <= 1:
            break
    assert best <= 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_whose_server_hangs_with_its_summary(tmp_path: Path, number: int) -> None:
    if why := rtsp.missing():
        pytest.skip(why)
    with RtspServer(tmp_path, rtsp.every_kind(tmp_path)[:1]) as server:
        lines, summary = tmp_path / "r.jsonl", tmp_path / "s.json"
        words = ["--source", server.url("/cam0"), "--sink", f"jsonl:{lines}", "--summary", summary]
        with start(*words) as process:
            until(lambda: lines.exists() and lines.stat().st_size, 60)
            server.freeze()
            told(process, "stalled")
            process.send_signal(number)
            process.communicate(timeout=60)
        server.thaw()
    assert process.returncode == 0
    (feed,) = json.loads(summary.read_text())["feeds"]
    assert feed["in_flight"] == 0
    assert feed["delivered"] == len(lines.read_text().splitlines()) > 0


# ---- a file that grows


def film(path: Path, count: int) -> bytes:
    """A Motion JPEG video whose frames follow one another in the file."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for number in range(count):
        writer.write(np.full((48, 64, 3), number, np.uint8))
    writer.release()
    return path.read_bytes()


def test_a_file_that_grows_while_it_is_read_costs_no_frame_that_was_there(tmp_path: Path) -> None:
    """What is recorded meanwhile may be read or not; nothing is counted twice or fails."""
    whole, growing = film(tmp_path / "whole.avi", 100), tmp_path / "growing.avi"
    half = len(whole) // 2
    growing.write_bytes(whole[:half])
    grown = threading.Event()

    def grow(result: Any) -> None:
        if result.frame.seq == 10:
            with growing.open("ab") as file:
                file.write(whole[half:])
                file.flush()
                os.fsync(file.fileno())
            grown.set()

    sink = Collect(grow)
    feed = Feed("growing", "growing.avi", open_source(str(growing)))
    summary = Run(null_network(), [feed], [("c:", sink)]).go()
    (row,) = summary.data["feeds"]
    assert grown.is_set() and summary.exit_code == 0
    assert row["ended"] in ("end", "truncated")
    assert 40 <= row["delivered"] == row["captured"] <= 100
    assert sink.sequence("growing") == list(range(row["delivered"]))
    for result in sink.results[:40]:
        assert abs(int(result.frame.image[0, 0, 0]) - result.frame.seq) <= 3
