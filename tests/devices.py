"""The machine that bundles are built on, and devices that they are carried to, whose GPU is simulated."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import graphs
import onnx
import pytest
from fakes.cuda import FakeCuda
from fakes.tensorrt import FakeTensorRT

from edge import machine
from edge.build import finish
from edge.build.tensorrt import Compiled, CompileRequest, Progress, compile_engine
from edge.cli import main
from edge.machine import Gpu, Machine
from edge.manifest import Manifest
from edge.store import Store

Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Board:
    """A kind of device.

    Attributes:
        version: of its TensorRT; "" for TensorRT-RTX.
    """

    name: str
    target: str
    capability: tuple[int, int]
    integrated: bool = False
    version: str = "10.3.0"

    def machine(self, **packages: str | None) -> Machine:
        """What is detected on it; None takes a package away."""
        here = machine.detect()
        installed: dict[str, str | None] = {**here.packages, "pycuda": "2026.1", "tensorrt-rtx": None}
        runtime = {"tensorrt": self.version} if self.version else {"tensorrt-rtx": "1.7.1.116"}
        found = {k: v for k, v in {**installed, **runtime, **packages}.items() if v is not None}
        return Machine(
            "ARMv8" if self.integrated else "Xeon",
            "aarch64" if self.integrated else "x86_64",
            gpus=(Gpu(self.name, self.capability, "" if self.integrated else "570.1"),),
            jetson=self.name if self.integrated else None,
            packages=found,
        )

    def cuda(self) -> FakeCuda:
        return FakeCuda(integrated=self.integrated, capability=self.capability, jitter=False)


ORIN = Board("Jetson AGX Orin", "orin", (8, 7), integrated=True)
HOPPER = Board("NVIDIA H200", "hopper", (9, 0), version="10.13.0")
L4 = Board("NVIDIA L4", "ada", (8, 9), version="")


def quick(patch: pytest.MonkeyPatch) -> None:
    """No sync to a busy disk, and few timed runs."""
    patch.setattr("os.fsync", lambda descriptor: None)
    patch.setattr(finish, "WARM_UP", 2)
    patch.setattr(finish, "RUNS", 8)


def builder(patch: pytest.MonkeyPatch) -> None:
    """This machine without TensorRT-RTX and GPU: engines for GPUs become bundles, which is quick."""
    here = machine.detect()
    packages = {k: v for k, v in here.packages.items() if k != "tensorrt-rtx"}
    bare = dataclasses.replace(here, gpus=(), packages=packages)
    patch.setattr(machine, "detect", lambda: bare)


def bundles(folder: Path, model: onnx.ModelProto | None = None, targets: str = "orin,hopper") -> Path:
    """Build a model's bundles, and pack them; the folder of the .tar files."""
    graph = graphs.saved(graphs.residual() if model is None else model, folder / "net.onnx")
    pictures = graphs.pictures(folder / "pictures", 5)
    words = ["--onnx", str(graph), "--calib", str(pictures), "--targets", targets]
    words += ["--policy", str(fastest(folder))]
    words += ["--out", str(folder / "engines"), "--bundles", str(folder / "tars")]
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        builder(patch)
        assert main(["build", *words]) == 0
    return folder / "tars"


def fastest(folder: Path) -> Path:
    """A policy that takes what the devices prefer."""
    path = folder / "fastest.json"
    path.write_text('{"name": "fastest", "prefer": "speed"}')
    return path


class Device:
    """A device with an engine store of its own."""

    def __init__(self, board: Board, folder: Path, cuda: FakeCuda) -> None:
        self.board, self.cuda = board, cuda
        self.store = Store(folder / "device")
        self.rows_file = folder / "rows.json"

    def finish(self, *paths: Path) -> int:
        """`edge build --bundle PATH...`"""
        return self.build("--bundle", *map(str, paths))

    def build(self, *words: str) -> int:
        return main(["build", *words, "--out", str(self.store.root), "--json", str(self.rows_file)])

    @property
    def rows(self) -> Rows:
        rows: Rows = json.loads(self.rows_file.read_text())
        return rows

    def manifest(self, variant: str = "fast") -> Manifest:
        """Of its engine, every byte checked."""
        return self.store.find("net", self.board.target, variant).manifest

    @property
    def published(self) -> list[str]:
        """What its store holds."""
        return [str(path) for path in self.store.root.rglob("*") if path.is_file() and path.name != ".lock"]


@contextmanager
def device(board: Board, folder: Path, **packages: str | None) -> Iterator[Device]:
    """Everything detected, imported and opened inside the block is the board's."""
    with pytest.MonkeyPatch.context() as patch, board.cuda() as cuda:
        quick(patch)
        cuda.install(patch)
        FakeTensorRT(cuda, board.version, rtx=not board.version).install(patch)
        patch.setenv("EDGE_CACHE", str(folder / "cache"))
        found = board.machine(**packages)
        patch.setattr(machine, "detect", lambda: found)
        patch.setattr(finish, "in_child", here)
        yield Device(board, folder, cuda)
        cuda.assert_clean()


def here(
    work: Callable[..., Any], *args: Any, progress: Callable[..., None] | None = None
) -> tuple[Any, int]:
    """Instead of `in_child`, which takes a second to start."""
    return work(*args, progress=progress), 0


def compile_for_orin(request: CompileRequest, progress: Progress | None = None) -> Compiled:
    """`compile_engine` for a process of its own, where nothing is simulated yet."""
    with ORIN.cuda() as cuda:
        sys.modules["tensorrt"] = FakeTensorRT(cuda, ORIN.version)  # type: ignore[assignment]
        return compile_engine(request, progress)
