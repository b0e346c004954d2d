"""Runtimes that load and run an engine: one file each, listed in `BACKENDS`.

A backend module offers

    load(path: Path, options: EngineOptions) -> Engine

and imports its runtime inside it. `contract/test_backends.py` runs over the table.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from edge.errors import UsageError, nearest
from edge.types import Array, TensorSpec

BACKENDS = {
    "onnxruntime": "edge.backends.onnxruntime",
    "tensorrt_rtx": "edge.backends.tensorrt",
    "null": "edge.backends.null",
}


COMPILED_ONLY = frozenset({"tensorrt_rtx", "tensorrt"})
"""Runtimes that engines are compiled for here and that this version cannot run yet."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to run an engine.

    Attributes:
        threads: processor threads for one inference; 0 lets the runtime choose.
        spin: let idle threads spin between inferences (faster when unpaced, costs CPU when paced).
        exact: switch off graph optimizations that may change results; how fp8 graphs must be emulated.
        batch: the batch size a slot's buffers are made for.
        streams: how many slots may execute side by side; each adds the thread that runs it.
        size: height and width of picture inputs whose graph leaves them open.
    """

    threads: int = 0
    spin: bool = True
    exact: bool = False
    batch: int = 1
    streams: int = 1
    size: tuple[int, int] | None = None


class Slot(Protocol):
    """The buffers (on a GPU also the stream and events) that one batch in flight owns.

    Fill `inputs`, `submit()`, and touch nothing until `wait()` returns. What `wait` returns stays valid
    until the next `submit`.
    """

    @property
    def inputs(self) -> Mapping[str, Array]:
        """Host arrays to write the batch into: allocated once, batch first."""
        ...

    def submit(self) -> None:
        """Start copy-in, execution and copy-out; returns at once."""
        ...

    def wait(self) -> Mapping[str, Array]:
        """Block until the outputs are in host memory.

        Raises:
            RuntimeFault: the runtime failed; the slot can be used again.
        """
        ...

    @property
    def infer_seconds(self) -> float:
        """How long the last batch took, from the start of its execution to its end."""
        ...


class Engine(Protocol):
    """A loaded engine. Slots share its weights and nothing else."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def slot(self) -> Slot:
        """A new slot with buffers of its own."""
        ...

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One inference, in the calling thread: outputs by name, freshly allocated."""
        ...

    def close(self) -> None:
        """Give everything back; slots must be idle. A second call does nothing."""
        ...


class Backend(Protocol):
    def load(self, path: Path, options: EngineOptions) -> Engine:
        """Load the engine file at `path`.

        Raises:
            MissingPackage: the runtime is not installed.
            RuntimeFault: the runtime refuses the file.
        """
        ...


def backend(name: str) -> Backend:
    """The backend called `name`; its runtime is imported when it loads an engine, not here."""
    if name not in BACKENDS:
        raise UsageError(f"no backend '{name}'", nearest(name, BACKENDS))
    return cast(Backend, importlib.import_module(BACKENDS[name]))
