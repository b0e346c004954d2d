"""Full disks, and readers that do not read: the run goes on, and the account of its sinks is exact."""

from __future__ import annotations

import json
import os
import resource
import threading
from pathlib import Path
from typing import Any

import pytest
from disks import full_disk
from streaming import Collect, Script, feed, pictures

from edge.sinks import open_sink
from edge.sinks.rotating import LinesFile
from edge.stream import outlet
from edge.stream.network import null_network
from edge.stream.run import Run


def sequence(path: Path) -> list[int]:
    return [json.loads(line)["seq"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("settings", ["", "?rotate_mb=0.1", "?policy=drop-oldest"])
def test_a_disk_that_is_full_for_a_while_costs_what_came_meanwhile(
    settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlet, "PAUSES", (0.001,))
    path, opened, failed = tmp_path / "r.jsonl", threading.Event(), threading.Event()
    reopen, flush = LinesFile.reopen, LinesFile.flush

    def reopening(file: LinesFile) -> None:
        reopen(file)
        opened.set()

    def flushing(file: LinesFile) -> None:
        try:
            flush(file)
        except OSError:
            opened.clear()
            failed.set()
            raise

    monkeypatch.setattr(LinesFile, "reopen", reopening)
    monkeypatch.setattr(LinesFile, "flush", flushing)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def trouble(result: Any) -> None:
        """The disk is full from frame 50 until that was noticed."""
        if result.frame.seq == 50:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
        if result.frame.seq == 150:
            assert failed.wait(30)
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            assert opened.wait(30)

    other = Collect(trouble)
    sinks = [("j", open_sink(f"jsonl:{path}{settings}", [])), ("other", other)]
    try:
        summary = Run(null_network(), [feed("a", Script(pictures(400)))], sinks).go()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    row = summary.data["sinks"][0]
    kept = sequence(path)
    assert other.sequence("a") == list(range(400))
    assert row["written"] == len(kept)
    assert row["written"] + row["lost"] + row["dropped"] == 400
    assert kept == sorted(set(kept))
    assert kept[-1] == 399
    assert row["lost"] > 0
    assert row["retries"] > 0
    assert (row["failing"], "free some space" in row["error"], summary.exit_code) == (False, True, 5)


def test_a_disk_that_stays_full_fails_no_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlet, "PAUSES", (0.001,))
    uris = [f"jsonl:{tmp_path}/r.jsonl", f"video:{tmp_path}/v.mkv?segment_s=60"]
    with full_disk(10):
        sinks = [(uri, open_sink(uri, [])) for uri in uris]
        summary = Run(null_network(), [feed("a", Script(pictures(100)))], sinks).go()
    assert summary.data["feeds"][0]["delivered"] == 100
    assert [(row["written"], row["lost"], row["failing"]) for row in summary.data["sinks"]] == [
        (0, 100, True),
        (0, 100, True),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["r.jsonl"]
    assert (tmp_path / "r.jsonl").read_text() == ""


def test_a_reader_that_does_not_read_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipe is full, and the write into it does not come back."""
    monkeypatch.setattr(outlet, "LONGEST_WRITE", 0.05)
    monkeypatch.setattr(outlet, "LONGEST_CLOSE", 0.05)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    sinks = [("pipe", open_sink(f"jsonl:{pipe}", []))]
    summary = Run(null_network(), [feed("a", Script(pictures(2000)))], sinks).go()
    os.close(reader)  # and the write comes back
    row = summary.data["sinks"][0]
    assert summary.data["feeds"][0]["delivered"] == 2000
    assert 0 < row["written"] < 2000 == row["written"] + row["lost"]
    assert row["failing"]
    assert "hangs" in row["error"]
