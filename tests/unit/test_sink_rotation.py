"""Files of lines that are kept for months: rotated by size and time, whole after every mishap."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from disks import full_disk

from edge.errors import InputError, RuntimeFault, UsageError
from edge.sinks import Gone, Sink, open_sink
from edge.sinks.files import free, prune, stamped
from edge.sinks.jsonl import JsonLines, result_line
from edge.sinks.rotating import Keeping, LinesFile
from edge.stream.network import Nothing
from edge.types import EngineId, Frame, Result

STAMPED = re.compile(r"r-\d{8}T\d{6}\.\d{3}Z(-\d+)?\.jsonl")


def result(seq: int) -> Result:
    frame = Frame("a", seq, np.zeros((2, 2, 3), np.uint8), None, 1.0, 1.7e9)
    return Result(frame, EngineId("m", "cpu", "fast", "k"), Nothing(), {})


def write(sink: Sink, *numbers: int) -> None:
    for seq in numbers:
        sink.write(result(seq))
        sink.flush()


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["seq"] for line in path.read_text().splitlines() if line]


def aside(folder: Path) -> list[Path]:
    """Files that were put aside, the oldest first."""
    return sorted(
        (path for path in folder.iterdir() if STAMPED.fullmatch(path.name)),
        key=lambda p: p.stat().st_mtime_ns,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "r.jsonl"


def test_without_settings_a_file_is_replaced(path: Path) -> None:
    path.write_text("old\n")
    sink = open_sink(f"jsonl:{path}", [])
    write(sink, 0, 1)
    sink.close()
    assert numbers(path) == [0, 1]


def test_a_file_is_put_aside_before_it_is_too_large_and_nothing_is_lost(path: Path) -> None:
    sink = open_sink(f"jsonl:{path}?rotate_mb=0.002", [])
    write(sink, *range(100))
    sink.close()
    files = aside(path.parent)
    assert len(files) > 5
    assert all(file.stat().st_size <= 2000 for file in (*files, path))
    assert sorted(n for file in files for n in numbers(file)) + numbers(path) == list(range(100))


def test_only_the_newest_are_kept_and_other_files_are_left_alone(path: Path) -> None:
    others = [
        path.with_name(name) for name in ("r-notes.jsonl", "rr-20250101T000000.000Z.jsonl", "r-2025.txt")
    ]
    for other in others:
        other.touch()
    sink = open_sink(f"jsonl:{path}?rotate_mb=0.001&keep=3", [])
    write(sink, *range(100))
    sink.close()
    kept = sorted(n for file in aside(path.parent) for n in numbers(file)) + numbers(path)
    assert len(aside(path.parent)) == 3
    assert kept == list(range(kept[0], 100))
    assert all(other.exists() for other in others)


def test_a_line_that_is_larger_than_a_file_may_be_is_a_file_of_its_own(path: Path) -> None:
    sink = open_sink(f"jsonl:{path}?rotate_mb=0.000001", [])
    write(sink, *range(3))
    sink.close()
    assert [len(numbers(file)) for file in (*aside(path.parent), path)] == [1, 1, 1]


def test_a_file_is_put_aside_when_its_hour_is_over(path: Path) -> None:
    now = 3600.0 * 10 + 100
    file = LinesFile(path, Keeping(rotate_s=3600.0), lambda: now)
    for now in (36100.0, 39599.0, 39600.0, 39700.0, 50000.0):
        file.add(f"{now}\n".encode())
    file.close()
    assert path.read_text() == "50000.0\n"
    names = {
        "r-19700101T110000.000Z.jsonl": "36100.0\n39599.0\n",
        "r-19700101T135320.000Z.jsonl": "39600.0\n39700.0\n",
    }
    assert {p.name: p.read_text() for p in aside(path.parent)} == names


def test_an_hour_goes_on_after_a_restart(path: Path) -> None:
    """The last line of the file says which hour it belongs to."""
    path.write_text("before\n")
    os.utime(path, (36100.0, 36100.0))
    for now, rotated in ((39000.0, 0), (39700.0, 1)):
        os.utime(path, (36100.0, 36100.0))
        file = LinesFile(path, Keeping(append=True, rotate_s=3600.0), lambda now=now: now)
        file.add(b"after\n")
        file.close()
        assert len(aside(path.parent)) == rotated


def test_names_tell_the_time_and_never_meet(path: Path) -> None:
    first = stamped(path, 1.7e9 + 0.125)
    assert first.name == "r-20231114T221320.125Z.jsonl"
    first.touch()
    second = stamped(path, 1.7e9 + 0.125)
    assert second.name == "r-20231114T221320.125Z-2.jsonl"
    assert free(path) == path


def test_the_oldest_go_first_also_of_the_same_moment(path: Path) -> None:
    files = [stamped(path, 1.0)]
    for _ in range(11):
        files[-1].touch()
        files.append(stamped(path, 1.0))
    prune(path, 2)
    assert [file.exists() for file in files[:-1]] == [False] * 9 + [True] * 2


@pytest.mark.parametrize(
    ("settings", "appends"),
    [("append=1", True), ("rotate_mb=1", True), ("rotate_mb=1&append=0", False), ("append=no", False)],
)
def test_a_log_outlives_a_restart_where_it_should(settings: str, appends: bool, path: Path) -> None:
    for seq in (0, 1):
        sink = open_sink(f"jsonl:{path}?{settings}", [])
        write(sink, seq)
        sink.close()
    assert numbers(path) == ([0, 1] if appends else [1])


def test_a_line_that_a_crash_tore_does_not_spoil_the_next(path: Path) -> None:
    path.write_text('{"seq":0}\n{"se')
    sink = open_sink(f"jsonl:{path}?append=1", [])
    write(sink, 1)
    sink.close()
    first, torn, second = path.read_text().splitlines()
    assert (json.loads(first)["seq"], torn, json.loads(second)["seq"]) == (0, '{"se', 1)


def test_a_full_disk_leaves_whole_lines_and_the_sink_goes_on(path: Path) -> None:
    sink = open_sink(f"jsonl:{path}", [])
    write(sink, 0, 1)
    with full_disk(path.stat().st_size + 50):
        sink.write(result(2))
        with pytest.raises(RuntimeFault, match=r"cannot write .*r\.jsonl: .*\(free some space\)"):
            sink.flush()
        assert numbers(path) == [0, 1]
        sink.close()
    assert isinstance(sink, JsonLines)
    sink.reopen()
    write(sink, 3)
    sink.close()
    assert numbers(path) == [0, 1, 3]


def test_a_file_that_is_moved_away_or_deleted_is_begun_anew(path: Path) -> None:
    sink = open_sink(f"jsonl:{path}", [])
    write(sink, 0)
    path.rename(path.with_name("moved"))
    write(sink, 1)
    shutil.rmtree(path.parent)
    write(sink, 2)
    sink.close()
    assert numbers(path) == [2]


@pytest.mark.parametrize(
    ("policy", "synced"), [("never", 0), ("rotate", 3), ("always", 7), ("1000", 1), ("0", 7)]
)
def test_how_often_the_disk_is_waited_for(
    policy: str, synced: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr("os.fsync", calls.append)
    size = 2 * len(result_line(result(0)) + "\n")
    sink = open_sink(f"jsonl:{path}?rotate_mb={size / 1e6}&fsync={policy}", [])
    write(sink, *range(6))
    sink.close()
    assert len(aside(path.parent)) == 2
    assert len(calls) == synced  # always: with each of the lines, and once more at the end


def test_a_pipe_whose_reader_is_gone_is_gone(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    sink = open_sink(f"jsonl:{pipe}", [])
    os.close(reader)
    with pytest.raises(Gone, match="its reader is gone"):
        write(sink, 0)
    sink.close()


def test_a_place_that_cannot_be_written_at_the_start_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file" / "r.jsonl", Path("/proc/none/r.jsonl")):
        with pytest.raises(InputError, match="cannot write"):
            open_sink(f"jsonl:{place}?append=1", [])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("rotate_gb=1", "did you mean 'rotate_mb'"),
        ("rotate_mb=many", "not a value of this setting"),
        ("rotate_mb=-1", "not a number from 0"),
        ("rotate_s=nan", "not a number from 0"),
        ("keep=3", "keep without rotation"),
        ("append=maybe", "not a value of this setting"),
        ("fsync=sometimes", "never, rotate, always"),
        ("fsync=-1", "never, rotate, always"),
    ],
)
def test_a_wrong_setting_is_told(settings: str, said: str, path: Path) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        open_sink(f"jsonl:{path}?{settings}", [])
    assert settings.partition("=")[0] in str(caught.value)
    assert not path.exists()


def test_neither_standard_output_nor_a_device_is_rotated() -> None:
    with pytest.raises(UsageError, match="standard output has no settings"):
        open_sink("jsonl:-?rotate_mb=1", [])
    with pytest.raises(UsageError, match="pipe or a device"):
        open_sink("jsonl:/dev/null?rotate_mb=1", [])
