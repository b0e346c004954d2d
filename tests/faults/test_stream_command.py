"""`edge run` and `edge bench` as a user meets them: real processes, real files, and how faults are told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes.cuda import FakeCuda
from fakes.ort import FakeOnnxRuntime
from gpus import install
from streaming import heatmap_graph, log_graph, publish

from edge.cli import main

NULL = ["run", "--backend", "null"]


def edge(words: Sequence[object]) -> int:
    return main([str(word) for word in words])


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    publish(tmp_path / "engines", heatmap_graph(tmp_path / "tiny.onnx"))
    publish(tmp_path / "engines", heatmap_graph(tmp_path / "tiny.onnx"), "exact")
    return tmp_path / "engines"


def test_a_stored_engine_streams_and_the_summary_says_what_happened(engines: Path, tmp_path: Path) -> None:
    summary, lines = tmp_path / "s.json", tmp_path / "r.jsonl"
    run = ["run", "--model", "tiny", "--engines", engines, "--threads", 1, "--summary", summary]
    feeds = ["--source", "test:text?size=64x48&frames=8", "--source", "second=test:text?size=80x48&frames=5"]
    assert edge([*run, *feeds, "--sink", f"jsonl:{lines}"]) == 0
    data = json.loads(summary.read_text())
    assert [(f["feed"], f["delivered"], f["ended"]) for f in data["feeds"]] == [
        ("test-text", 8, "end"),
        ("second", 5, "end"),
    ]
    assert data["feeds"][0]["engine"] == {
        "model": "tiny",
        "target": "cpu",
        "variant": "fast",
        "key": "key-fast",
        "runtime": "onnxruntime",
    }
    assert 0 <= data["feeds"][0]["score"]["f1"] <= 1
    assert len(lines.read_text().splitlines()) == 13


def test_the_summary_names_the_runtime_that_really_ran(
    engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An engine of the cpu target may run on a GPU: nothing else in the results would say so."""
    summary = tmp_path / "s.json"
    run = ["run", "--model", "tiny", "--engines", engines, "--variant", "fast", "--summary", summary]
    with FakeCuda() as cuda:
        install(monkeypatch, cuda, tmp_path)
        FakeOnnxRuntime(cuda).install(monkeypatch)
        assert edge([*run, "--backend", "onnxruntime_cuda", "--source", "test:text?size=64x48&frames=3"]) == 0
        cuda.assert_clean()
    engine = json.loads(summary.read_text())["feeds"][0]["engine"]
    assert (engine["target"], engine["runtime"]) == ("cpu", "onnxruntime_cuda")
    assert "tiny/cpu/fast by onnxruntime_cuda" in capsys.readouterr().err


def test_serial_and_overlapped_write_the_same_lines(engines: Path, tmp_path: Path) -> None:
    written = []
    for name in ("--serial", "--threads=2"):
        lines = tmp_path / f"{name}.jsonl"
        source = ["--source", "test:text?size=64x48&frames=12"]
        assert (
            edge(["run", "--model", "tiny", "--engines", engines, *source, "--sink", f"jsonl:{lines}", name])
            == 0
        )
        fields = [json.loads(line) for line in lines.read_text().splitlines()]
        written.append(
            [{k: v for k, v in f.items() if k not in ("latency_ms", "captured_at")} for f in fields]
        )
    assert written[0] == written[1]


def test_json_puts_the_summary_and_nothing_else_on_standard_output(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert edge([*NULL, "--source", "test:text?size=32x32&frames=3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["feeds"][0]["delivered"] == 3


def test_lines_on_standard_output_are_not_mixed_with_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert edge([*NULL, "--source", "test:text?size=32x32&frames=3", "--sink", "jsonl:-"]) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["seq"] for line in out.splitlines()] == [0, 1, 2]
    assert "test-text" in err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([*NULL, "--source", "absent.mp4"], 4, "no such file"),
        ([*NULL, "--source", "tset:text"], 2, "did you mean 'test'"),
        ([*NULL, "--source", "test:text", "--sink", "jsnl:x"], 2, "did you mean 'jsonl'"),
        ([*NULL, "--source", "test:text", "--sink", "jsonl:/proc/none/x"], 4, "cannot write"),
        ([*NULL, "--source", "test:text", "--summary", "/proc/none/x"], 4, "cannot write"),
        ([*NULL, "--source", "test:text", "--sink", "jsonl:-", "--json"], 2, "standard output"),
        ([*NULL, "--source", "test:text", "--frames", "0"], 2, "not above zero"),
        ([*NULL, "--source", "test:text", "--max-age-ms", "-3"], 2, "not above zero"),
        (["run", "--source", "test:text"], 2, "--model"),
        (["run", "--model", "tiny"], 2, "--source"),
    ],
)
def test_a_wrong_command_line_is_refused_before_the_run(
    words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edge(words) == code
    assert said in capsys.readouterr().err


def black(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), np.zeros((32, 32, 3), np.uint8))
    return path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--source", "in/a.png", "--sink", "jsonl:in/../in/a.png"], "is a source"),
        (["--source", "in/a.png", "--sink", "jsonl:link"], "is a source"),
        (["--source", "in/a.png", "--summary", "in/a.png"], "is a source"),
        (["--source", "in", "--sink", "video:in/a.mp4"], "inside the source"),
        (
            ["--source", "in/a.png", "--sink", "jsonl:r", "--sink", "jsonl:./r"],
            "--sink jsonl:r writes it too",
        ),
        (["--source", "in/a.png", "--sink", "jsonl:r", "--summary", "r"], "--sink jsonl:r writes it too"),
        (
            [
                "--source",
                "x=in/a.png",
                "--source",
                "y=in/a.png",
                "--sink",
                "video:v.mp4",
                "--sink",
                "jsonl:v-y.mp4",
            ],
            "--sink video:v.mp4 writes it too",
        ),
    ],
)
def test_an_output_never_replaces_a_source_or_another_output(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = black(tmp_path / "in" / "a.png").read_bytes()
    (tmp_path / "link").symlink_to("in/a.png")
    assert edge([*NULL, *words]) == 2
    assert said in capsys.readouterr().err
    assert (tmp_path / "in" / "a.png").read_bytes() == before


def test_devices_may_be_written_twice() -> None:
    words = [
        "--source",
        "test:text?size=32x32&frames=2",
        "--sink",
        "jsonl:/dev/null",
        "--summary",
        "/dev/null",
    ]
    assert edge([*NULL, *words, "--sink", "jsonl:/dev/null"]) == 0


def test_a_model_that_is_not_there_names_those_that_are(
    engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edge(["run", "--model", "tinny", "--engines", engines, "--source", "test:text"]) == 2
    said = capsys.readouterr().err
    assert "did you mean 'tiny'" in said
    assert "edge build" in said


def test_an_engine_that_was_changed_is_refused(engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = next(engines.glob("tiny/cpu/fast/*/engine.onnx"))
    file.write_bytes(file.read_bytes() + b"x")
    assert edge(["run", "--model", "tiny", "--engines", engines, "--source", "test:text"]) == 5
    assert "engine.onnx is not the file that was published" in capsys.readouterr().err


def test_an_engine_that_needs_another_processor_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path / "e", heatmap_graph(tmp_path / "tiny.onnx"), requires=("a_feature_of_next_year",))
    assert edge(["run", "--model", "tiny", "--engines", tmp_path / "e", "--source", "test:text"]) == 5
    assert "a_feature_of_next_year" in capsys.readouterr().err


def test_a_model_that_makes_nan_runs_to_the_end_and_exits_with_a_fault(tmp_path: Path) -> None:
    publish(tmp_path / "e", log_graph(tmp_path / "log.onnx"))
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((32, 32, 3), np.uint8))
    lines = tmp_path / "r.jsonl"
    words = ["run", "--model", "tiny", "--engines", tmp_path / "e", "--source", tmp_path / "black.png"]
    assert edge([*words, "--sink", f"jsonl:{lines}"]) == 5
    assert json.loads(lines.read_text())["flags"] == ["nan"]


def test_a_truncated_video_is_streamed_as_far_as_it_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, cut = tmp_path / "whole.avi", tmp_path / "cut.avi"
    writer = cv2.VideoWriter(str(whole), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for number in range(60):
        writer.write(np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8))
    writer.release()
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert edge([*NULL, "--source", cut, "--summary", tmp_path / "s.json"]) == 0
    row = json.loads((tmp_path / "s.json").read_text())["feeds"][0]
    assert row["ended"] == "truncated"
    assert 5 < row["delivered"] < 60
    assert "of 60 frames" in capsys.readouterr().err


def test_a_folder_without_one_readable_picture_is_unreadable_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(b"broken")
    assert edge([*NULL, "--source", tmp_path]) == 4
    assert "no frame could be read" in capsys.readouterr().err


# ---- signals: they need a process of their own


def start(*words: object) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "edge",
        *NULL,
        "--source",
        "test:text?size=64x48&frames=0",
        *map(str, words),
    ]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True)


def wait_for_lines(path: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if path.exists() and path.stat().st_size > 2000:
            return
        time.sleep(0.02)
    raise AssertionError(f"no results: {process.communicate(timeout=5)[1]}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("pace", ["--realtime", "--serial"])
def test_a_signal_drains_flushes_and_exits_with_0(number: signal.Signals, pace: str, tmp_path: Path) -> None:
    lines, summary = tmp_path / "r.jsonl", tmp_path / "s.json"
    process = start("--sink", f"jsonl:{lines}", "--summary", summary, pace)
    wait_for_lines(lines, process)
    process.send_signal(number)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 0, said
    row = json.loads(summary.read_text())["feeds"][0]
    written = [json.loads(line)["seq"] for line in lines.read_text().splitlines()]
    assert (row["ended"], row["in_flight"], len(written)) == ("shutdown", 0, row["delivered"])
    assert row["captured"] == row["delivered"] + sum(row["dropped"].values())
    assert "test-text" in said


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """The first cannot finish: the sink's reader never reads, so its pipe is full."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    process = start("--sink", f"jsonl:{pipe}")
    try:
        _wait_until_full(reader)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130
    finally:
        process.kill()
        process.communicate()
        os.close(reader)


def _wait_until_full(pipe: int) -> None:
    """Until bytes wait in the pipe and no more come."""
    end, before = time.monotonic() + 60, -1
    while time.monotonic() < end:
        waiting = _waiting(pipe)
        if waiting == before > 10_000:
            return
        before = waiting
        time.sleep(0.3)
    raise AssertionError(f"{before} bytes in the pipe")


def _waiting(descriptor: int) -> int:
    """Bytes in a pipe that nobody has read."""
    import fcntl
    import struct
    import termios

    return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, b"\0\0\0\0"))[0])


# ---- bench


def test_bench_compares_the_variants_with_the_exact_one(
    engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "bench",
        "--model",
        "tiny",
        "--engines",
        engines,
        "--threads",
        1,
        "--seconds",
        0.2,
        "--json",
        "-",
    ]
    assert edge(words) == 0
    rows = {row["variant"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == {"fast", "exact"}
    assert rows["exact"]["ratio_to_exact"] == 1.0
    for row in rows.values():
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["batches"] > 10


def test_bench_of_a_model_that_was_never_built_says_how(
    engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edge(["bench", "--model", "tin", "--engines", engines]) == 2
    said = capsys.readouterr().err
    assert "did you mean 'tiny'" in said
    assert "edge build --model tin" in said


def test_a_batch_that_the_engine_does_not_take_is_refused_with_the_way_to_get_it(
    engines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--model", "tiny", "--engines", engines, "--source", "test:text?size=64x48&frames=4"]
    assert edge([*words, "--batch", 4]) == 2
    said = capsys.readouterr().err
    assert "tiny/cpu/fast takes 1 at a time" in said and "batch = [1, 4, 4]" in said
    publish(tmp_path / "open", heatmap_graph(tmp_path / "open.onnx", batch="n"))
    words[words.index(engines)] = tmp_path / "open"
    assert edge([*words, "--batch", 4]) == 0
