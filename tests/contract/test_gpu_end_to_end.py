"""From a graph to results on a machine with a GPU: `edge build --targets local`, then `edge run`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import graphs
import kernel_on_host
import numpy as np
import pytest
from devices import HOPPER, L4, ORIN, Board, Device, device

from edge.cli import main
from edge.stream.network import SLOTS, WARM_UP

BOARDS = [pytest.param(board, id=board.target) for board in (HOPPER, ORIN, L4)]


def run(here: Device, source: Path, *words: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The result lines and the summary of `edge run`."""
    lines, summary = source.with_name("lines.jsonl"), source.with_name("summary.json")
    out = ["--sink", f"jsonl:{lines}", "--summary", str(summary), "--engines", str(here.store.root)]
    assert main(["run", "--model", "net", "--source", str(source), *out, *words]) == 0
    return [json.loads(line) for line in lines.read_text().splitlines()], json.loads(summary.read_text())


def video(path: Path, frames: int = 40) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
    random = np.random.default_rng(0)
    for _ in range(frames):
        writer.write(cv2.resize(random.integers(0, 256, (6, 8, 3), np.uint8), (64, 48)))
    writer.release()
    return path


def benched(here: Device, report: Path) -> dict[str, int]:
    """Batches that `edge bench` keeps in flight on each target; where several are, the clock counts."""
    found = {}
    for target in (here.board.target, "cpu"):
        words = ["--target", target, "--variant", "exact", "--seconds", "0.05", "--json", str(report)]
        assert main(["bench", "--model", "net", *words, "--engines", str(here.store.root)]) == 0
        (row,) = json.loads(report.read_text())
        assert row["per_second"] > 0
        found[target] = row["in_flight"]
    return found


def detector(folder: Path) -> Path:
    """The config of a detector with YOLOX's head: 1×3×32×32 → 16 cells × (4 + objectness + 3 classes)."""
    net = graphs.Net()
    weights, bias = net.weights("w", 8, 3, 8, 8), net.constant("b", [0] * 8)
    cells = net.op("Conv", "image", weights, bias, name="head", strides=[8, 8])
    rows = net.op("Reshape", cells, net.constant("shape", [1, 8, 16], np.int64), name="rows")
    values = net.op("Transpose", rows, name="turn", perm=[0, 2, 1])
    likely = net.op("Sigmoid", values, name="likely")
    keep = net.constant("keep", [[[1] * 4 + [0] * 4]])  # boxes stay raw, the rest are probabilities
    kept, other = (
        net.op("Mul", values, keep, name="boxes"),
        net.op("Sub", net.constant("one", 1), keep, name="rest"),
    )
    graph = net.model(net.op("Add", kept, net.op("Mul", likely, other, name="scores"), name="all"))
    graph = graphs.saved(graph, folder / "net.onnx")
    config = folder / "net.toml"
    config.write_text(
        f"""
name = "net"
onnx = "{graph}"
[input]
size = [32, 32]
[task]
kind = "detect"
decode = "yolox"
strides = [8]
confidence = 0.01
[calibration]
images = "{graphs.pictures(folder / "pictures", 5)}"
"""
    )
    return config


@pytest.mark.skipif(bool(kernel_on_host.ABSENT), reason=kernel_on_host.ABSENT)
def test_a_second_engine_that_does_not_load_leaves_nothing_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """PyCUDA ends the process with an abort where a context is left open."""
    with device(HOPPER, tmp_path) as here:
        kernel_on_host.install(here.cuda, monkeypatch, tmp_path / "cache")
        assert here.build("--model", str(detector(tmp_path)), "--targets", "local") == 0
        runtime, engines = sys.modules["tensorrt"].Runtime, []
        real = runtime.deserialize_cuda_engine

        def once(self: Any, content: bytes) -> Any:
            engines.append(content)
            return real(self, content) if len(engines) == 1 else None

        monkeypatch.setattr(runtime, "deserialize_cuda_engine", once)
        assert main(["bench", "--model", "net", "--seconds", "0.05", "--engines", str(here.store.root)]) == 5
        assert len(engines) == 2 and "refuses" in capsys.readouterr().err


@pytest.mark.skipif(bool(kernel_on_host.ABSENT), reason=kernel_on_host.ABSENT)
@pytest.mark.parametrize("board", BOARDS)
def test_a_gpu_gives_what_the_processor_gives(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, film = detector(tmp_path), video(tmp_path / "film.avi")
    with device(board, tmp_path) as here:
        kernel_on_host.install(here.cuda, monkeypatch, tmp_path / "cache")
        assert here.build("--model", str(config), "--targets", "local") == 0
        states = {(row["target"], row["state"]) for row in here.rows}
        assert states == {("cpu", "verified"), (board.target, "verified")}
        before = here.cuda.calls["cuMemcpyDtoHAsync"]
        on_gpu, summary = run(here, film, "--variant", "exact")
        copies = here.cuda.calls["cuMemcpyDtoHAsync"] - before
        serial, _ = run(here, film, "--variant", "exact", "--serial", "--slots", "1")
        on_cpu, _ = run(here, film, "--variant", "exact", "--target", "cpu")
        store = str(here.store.root)
        in_flight = benched(here, tmp_path / "bench.json")
        assert main(["inspect", f"net/{board.target}/exact", "--engines", store]) == 0
    assert in_flight == {board.target: SLOTS, "cpu": 1}
    assert [line["target"] for line in on_gpu] == [board.target] * 40
    assert summary["device"]["batches"] == 40 and summary["device"]["allocations_after_warm_up"] == 0
    batches = 40 + 2 * WARM_UP  # of which each copies the candidates and the sum, and not the raw output
    assert copies == (0 if board.integrated else 2 * batches)
    assert [line["detections"] for line in on_gpu] == [line["detections"] for line in serial]
    for one, other in zip(on_gpu, on_cpu, strict=True):
        assert abs(len(one["detections"]) - len(other["detections"])) <= 1
        best, expected = one["detections"][0], other["detections"][0]
        assert abs(best["score"] - expected["score"]) < 0.01  # bf16 carries 8 bits
