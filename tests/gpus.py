"""What the tests of the GPU runtime share: a network on a simulated device, pictures fitted there or here."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import kernel_on_host
import pytest
from fakes.cuda import FakeCuda
from fakes.tensorrt import FakeTensorRT, fake_plan
from streaming import SIZE, config_of, heatmap_graph

from edge import tasks
from edge.backends import Engine, EngineOptions, Expectation, backend
from edge.preprocess import Preprocess
from edge.stream.network import SLOTS, Network
from edge.types import EngineId


def install(
    monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda, folder: Path, version: str = "10.3.0", rtx: bool = False
) -> FakeTensorRT:
    """PyCUDA, libcuda and TensorRT are simulated from now on, and the kernel is compiled as C++.

    Args:
        folder: for caches.
    """
    cuda.install(monkeypatch)
    trt = FakeTensorRT(cuda, version, rtx)
    trt.install(monkeypatch)
    monkeypatch.setenv("EDGE_CACHE", str(folder / "cache"))
    if not kernel_on_host.ABSENT:
        kernel_on_host.install(cuda, monkeypatch, folder / "cache")
    return trt


def plan(folder: Path, batch: int | str = 1, graph: Path | None = None, **settings: Any) -> Path:
    """An engine file of the tiny heat map network, beside its ONNX file `tiny.onnx`."""
    graph = graph or heatmap_graph(folder / "tiny.onnx", batch=batch)
    path = folder / "engine.plan"
    path.write_bytes(fake_plan(graph, **settings))
    return path


def gpu_network(
    path: Path,
    options: EngineOptions | None = None,
    pictures: bool = False,
    slots: int = SLOTS,
    patience: float = 0.0,
    runtime: str = "tensorrt",
) -> Network:
    """The engine as the loops see it.

    Args:
        pictures: fit pictures into the input on the device.
    """
    config = config_of(path.with_name("tiny.onnx"))
    options = replace(
        options or EngineOptions(),
        size=(SIZE, SIZE),
        picture=config.input if pictures else None,
        expected=Expectation(hashlib.sha256(path.read_bytes()).hexdigest(), (runtime, "10.3.0"), (9, 0)),
    )

    def load() -> Engine:
        return backend(runtime).load(path, options)

    id = EngineId("tiny", "hopper", "fast", "k0")
    return Network(id, load(), Preprocess(config.input), tasks.create(config), "image", load, slots, patience)
