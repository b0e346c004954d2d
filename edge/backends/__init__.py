"""Runtimes that load and run an engine: one file each, listed in `BACKENDS`.

A backend offers

    load(path: Path, options: EngineOptions) -> Engine
    unavailable(machine: Machine) -> str

and imports its runtime inside `load`. `contract/test_backends.py` runs over the table.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from edge.errors import UsageError, nearest
from edge.types import Array, Image, TensorSpec

if TYPE_CHECKING:
    from edge.config import InputConfig
    from edge.machine import Machine
    from edge.preprocess import Placement

BACKENDS = {
    "onnxruntime": "edge.backends.onnxruntime",
    "onnxruntime_cuda": "edge.backends.onnxruntime_cuda",
    "tensorrt": "edge.backends.tensorrt:tensorrt",
    "tensorrt_rtx": "edge.backends.tensorrt:tensorrt_rtx",
    "null": "edge.backends.null",
}
"""Name → module, or module:object where one file serves several runtimes."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the manifest says of an engine file, checked before a byte of it reaches a runtime.

    Attributes:
        sha256: of the file.
        builder: name and version of what compiled it.
        compute_capability: of the GPU it was compiled for; None where it is not bound to one.
    """

    sha256: str
    builder: tuple[str, str] = ("", "")
    compute_capability: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to run an engine.

    Attributes:
        threads: processor threads for one inference; 0 lets the runtime choose.
        spin: let idle threads spin between inferences (faster when unpaced, costs CPU when paced).
        exact: switch off graph optimizations that may change results; how fp8 graphs must be emulated.
        batch: the most pictures a slot takes; its buffers are made for as many.
        streams: how many slots may execute side by side; each adds the thread that runs it.
        size: height and width of picture inputs whose graph leaves them open.
        gpu: number of the GPU, for runtimes that use one; None for the first that the engine was made for.
        in_order: executions of different slots follow each other instead of sharing the GPU: each takes no
            longer than alone (live feeds); side by side, small networks give more results a second (files).
        graphs: launch the work of a batch as one CUDA graph where shapes stay the same.
        outputs: names of the outputs that are wanted in host memory; None for all.
        picture: how pictures are fitted into the input, for engines that do it on the device.
        expected: what the file has to be; None skips the check.
        profile: let TensorRT time each layer (`TensorRTEngine.layer_times`); wants `graphs` off.
    """

    threads: int = 0
    spin: bool = True
    exact: bool = False
    batch: int = 1
    streams: int = 1
    size: tuple[int, int] | None = None
    gpu: int | None = None
    in_order: bool = True
    graphs: bool = True
    outputs: tuple[str, ...] | None = None
    picture: InputConfig | None = None
    expected: Expectation | None = None
    profile: bool = False


Span = tuple[float, float]
"""Start and end of a stage on the device's clock, in seconds."""

DEVICE_STAGES = ("copy_in", "preprocess", "execute", "copy_out")


class Slot(Protocol):
    """The buffers (on a GPU also the stream and events) that one batch in flight owns.

    Fill `inputs`, `submit()`, and touch nothing until `wait()` returns. What `wait` returns stays valid
    until the next `submit`.
    """

    @property
    def inputs(self) -> Mapping[str, Array]:
        """Host arrays to write the batch into: allocated once, batch first."""
        ...

    def submit(self, rows: int | None = None) -> None:
        """Start copy-in, execution and copy-out; returns at once.

        Args:
            rows: pictures in this batch, up to `Engine.batch`; None for all.

        Raises:
            RuntimeFault: the runtime refuses the batch; the slot can be used again.
            DeviceLost: the GPU's context is dead; the engine has to be loaded again.
        """
        ...

    def done(self) -> bool:
        """Whether `wait` would return at once."""
        ...

    def wait(self) -> Mapping[str, Array]:
        """Block until the outputs are in host memory, `rows` of each.

        Raises:
            RuntimeFault: the runtime failed; the slot can be used again.
            DeviceLost: as for `submit`.
        """
        ...

    @property
    def infer_seconds(self) -> float:
        """How long the last batch took, from the start of its execution to its end."""
        ...

    @property
    def spans(self) -> Mapping[str, Span]:
        """When the DEVICE_STAGES of the last batch ran, on one clock for all slots; empty on processors."""
        ...


class PictureSlot(Slot, Protocol):
    """A slot that fits pictures into its input on the device."""

    def place(self, index: int, image: Image) -> Placement:
        """Picture `index` of the next batch; it must not change until `wait` returns.

        Raises:
            InputError: it is no picture, or of a size that the device cannot take.
            OutOfDeviceMemory: it is larger than the ones before, and there is no room.
        """
        ...


class Engine(Protocol):
    """A loaded engine. Slots share its weights and nothing else."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def batch(self) -> int:
        """The most pictures a slot takes."""
        ...

    @property
    def allocations(self) -> int:
        """Host and device buffers made so far, the same number at every frame of a steady run; 0 where none
        are counted."""
        ...

    @property
    def takes_pictures(self) -> bool:
        """Its slots are `PictureSlot`s."""
        ...

    def slot(self) -> Slot:
        """A new slot with buffers of its own."""
        ...

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One inference, in the calling thread: outputs by name, freshly allocated."""
        ...

    def close(self) -> None:
        """Give everything back; slots must be idle. A second call does nothing."""
        ...


class Lender(Protocol):
    """Gives one reader page-locked memory, so that its frames reach the device without another copy."""

    def __call__(self, shape: tuple[int, ...]) -> Image:
        """An uninitialised uint8 array to decode into."""
        ...

    def copy(self, image: Image) -> Image:
        """The picture in page-locked memory; itself, if there is none to be had."""
        ...


class FrameBuffers(Protocol):
    """Page-locked memory for frames."""

    def lend(self, buffers: int) -> Lender:
        """For a reader that has up to `buffers` frames on their way."""
        ...


class PictureEngine(Engine, Protocol):
    """An engine whose slots are `PictureSlot`s."""

    @property
    def frames(self) -> FrameBuffers: ...


class Backend(Protocol):
    def load(self, path: Path, options: EngineOptions) -> Engine:
        """Load the engine file at `path`.

        Raises:
            MissingPackage: the runtime is not installed.
            RuntimeFault: the runtime refuses the file.
            StoreError: it is not what `options.expected` says.
        """
        ...

    def unavailable(self, machine: Machine) -> str:
        """Why this machine cannot run its engines, judged by what is installed; "" if it can."""
        ...


def backend(name: str) -> Backend:
    """The backend called `name`; its runtime is imported when it loads an engine, not here."""
    if name not in BACKENDS:
        raise UsageError(f"no backend '{name}'", nearest(name, BACKENDS))
    module, _, member = BACKENDS[name].partition(":")
    found = importlib.import_module(module)
    return cast(Backend, getattr(found, member) if member else found)
