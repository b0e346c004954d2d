"""What the tests of a real GPU share: engines of every runtime that is here, pictures through the kernel."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu.synthetic import SyntheticEngine
from streaming import SIZE, heatmap_graph

from edge.backends import Engine, EngineOptions, backend
from edge.config import InputConfig
from edge.cuda.device import Device
from edge.cuda.picture import PicturePreprocess, SourcePicture
from edge.errors import EdgeError, MissingPackage
from edge.targets import for_gpu

INDEX = int(os.environ.get("EDGE_TEST_GPU_INDEX", "0"))
SIMULATED = os.environ.get("EDGE_TEST_GPU") == "simulated"
RUNTIMES = ("tensorrt", "tensorrt_rtx", "onnxruntime_cuda", "synthetic")
INPUT = InputConfig(size=(SIZE, SIZE))
ROUNDS = 1000


def engine_of(name: str, folder: Path, device: Device, batch: int = 1, **options: Any) -> Engine:
    """The tiny heat map network, or the synthetic engine; skips the test where the runtime is missing."""
    given = EngineOptions(gpu=INDEX, batch=batch, size=(SIZE, SIZE), **options)
    try:
        if name == "synthetic":
            engine: Any = SyntheticEngine(given, INPUT, ROUNDS)
            return engine
        graph = heatmap_graph(folder / "tiny.onnx")
        path = graph if name == "onnxruntime_cuda" else _compiled(name, graph, device)
        return backend(name).load(path, given)
    except MissingPackage as e:
        pytest.skip(str(e))


def _compiled(runtime: str, graph: Path, device: Device) -> Path:
    try:
        known = for_gpu(device.compute_capability).builders
    except EdgeError as e:
        pytest.skip(str(e))
    if runtime not in known:
        pytest.skip(f"{runtime} does not know {device.name}")
    path = graph.with_name(f"{runtime}.plan")
    path.write_bytes(_engine(runtime, graph.read_bytes()))
    return path


@functools.cache
def _engine(runtime: str, graph: bytes) -> bytes:
    """Compiling takes seconds, even what is tiny."""
    from edge.build.tensorrt import CompileRequest, compile_engine

    return compile_engine(CompileRequest(graph, runtime)).engine


def through_kernel(
    device: Device,
    preprocess: PicturePreprocess,
    rows: np.ndarray,
    picture: SourcePicture,
    out_bytes: int,
    levels: np.ndarray | None = None,
) -> np.ndarray:
    """A picture's bytes through the kernel; `picture` says how they lie, its addresses are filled in here."""
    source = device.exchange((rows.nbytes,), np.uint8)
    table = device.exchange((levels.nbytes if levels is not None else 1,), np.uint8)
    out = device.exchange((out_bytes + 64,), np.uint8)
    stream = device.stream()
    source.host[...] = rows.view(np.uint8).ravel()
    table.host[...] = 0 if levels is None else levels
    out.host[...] = 77
    for exchange in (source, table, out):
        exchange.upload(stream)
    placed = picture._replace(
        address=source.address, levels_address=table.address if levels is not None else 0
    )
    preprocess.launch(stream, placed, out.address)
    out.download(stream)
    stream.synchronize()
    found = np.array(out.host)
    for resource in (source, table, out, stream):
        resource.free()
    assert (found[out_bytes:] == 77).all(), "the kernel wrote beside its output"
    return found[:out_bytes]
