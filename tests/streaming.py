"""What the streaming tests share: a small real network, sources that follow a script, sinks that remember."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge import tasks
from edge.backends import EngineOptions, backend
from edge.config import ModelConfig
from edge.errors import InputError
from edge.manifest import BuilderInfo, Entry, Manifest
from edge.preprocess import Preprocess
from edge.sources import Picture
from edge.store import Store
from edge.stream.feed import Feed
from edge.stream.network import Network
from edge.types import EngineId, Result

SIZE = 32


def heatmap_graph(
    path: Path, height: int | str = SIZE, width: int | str = SIZE, batch: int | str = 1
) -> Path:
    """A convolution with stride 4 and a sigmoid: image 1×3×32×32 → heatmap 1×1×8×8, or with open sizes."""
    weights = np.random.default_rng(3).normal(0, 0.4, (1, 3, 4, 4)).astype(np.float32)
    open_size = isinstance(height, str)
    out = ["oh", "ow"] if open_size else [SIZE // 4, SIZE // 4]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "weights"], ["raw"], strides=[4, 4], name="conv"),
            helper.make_node("Sigmoid", ["raw"], ["heatmap"], name="sigmoid"),
        ],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, height, width])],
        [helper.make_tensor_value_info("heatmap", TensorProto.FLOAT, [batch, 1, *out])],
        [numpy_helper.from_array(weights, "weights")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def log_graph(path: Path) -> Path:
    """The logarithm of the mean plane: NaN or infinity wherever a picture is black."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1], keepdims=1, name="mean"),
            helper.make_node("Log", ["mean"], ["heatmap"], name="log"),
        ],
        "log",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("heatmap", TensorProto.FLOAT, [1, 1, SIZE, SIZE])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def config_of(graph: Path) -> ModelConfig:
    return ModelConfig.model_validate(
        {
            "name": "tiny",
            "onnx": graph,
            "input": {"size": (SIZE, SIZE)},
            "task": {"kind": "segment", "label": "thing"},
            "calibration": {"images": graph.parent},
        }
    )


def network_of(graph: Path, options: EngineOptions | None = None) -> Network:
    """The graph as the runner sees it."""
    config = config_of(graph)
    engine = backend("onnxruntime").load(graph, options or EngineOptions(threads=1, size=(SIZE, SIZE)))
    id = EngineId("tiny", "cpu", "fast", "k0")
    return Network(id, engine, Preprocess(config.input), tasks.create(config), engine.inputs[0].name)


def publish(root: Path, graph: Path, variant: str = "fast", **changes: Any) -> Entry:
    """Put the graph into a store, as the builder would."""
    stated = {"model": "tiny", "config": config_of(graph).model_dump(mode="json"), **changes}
    manifest = Manifest(
        target="cpu",
        variant=variant,
        state="verified",
        key=f"key-{variant}",
        graph_sha256="0" * 64,
        carrier="fp32",
        builder=BuilderInfo(name="onnxruntime", version="test"),
        backend="onnxruntime",
        engine_file="engine.onnx",
        **stated,
    )
    return Store(root).publish(manifest, {"engine.onnx": graph})


class Script:
    """A source that plays steps: a picture, an exception to raise, or a number of seconds to stall."""

    fps: float | None = None
    truth_kind: str | None = None

    def __init__(
        self, steps: Iterable[Picture | Exception | float], live: bool = False, paced: bool = False
    ) -> None:
        self.label, self.live, self.paced = "script", live, paced
        self.problem: str | None = None
        self.steps = iter(steps)
        self.read_count = 0
        self.closed = False

    def read(self) -> Picture | None:
        for step in self.steps:
            if isinstance(step, Exception):
                self.read_count += isinstance(step, OSError)
                raise step
            if isinstance(step, Picture):
                self.read_count += 1
                return step
            time.sleep(step)
        return None

    def close(self) -> None:
        self.closed = True


def pictures(count: int, seed: int = 0, size: tuple[int, int] = (24, 40)) -> list[Picture]:
    """Noise, each picture another."""
    random = np.random.default_rng(seed)
    return [Picture(random.integers(0, 256, (*size, 3), np.uint8), i / 25) for i in range(count)]


def lost(count: int = 1) -> list[Exception]:
    return [InputError("this picture cannot be read") for _ in range(count)]


def feed(name: str, source: Any, max_age: float | None = None) -> Feed:
    return Feed(name, f"{name}:", source, max_age)


class Collect:
    """A sink that remembers; `trouble` may raise, or wait."""

    def __init__(self, trouble: Callable[[Result], None] | None = None) -> None:
        self.results: list[Result] = []
        self.trouble = trouble
        self.closed = False

    def write(self, result: Result) -> None:
        if self.trouble:
            self.trouble(result)
        self.results.append(result)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def sequence(self, name: str) -> list[int]:
        return [result.frame.seq for result in self.results if result.frame.feed == name]
