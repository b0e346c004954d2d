"""What engines on a GPU have in common, whichever runtime executes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from edge.backends import EngineOptions
from edge.cuda.assembly import Bindable, Fitting, assemble, fill, fitting
from edge.cuda.device import Device
from edge.cuda.pool import FramePool
from edge.cuda.slot import DeviceSlot, Turn
from edge.cuda.timeline import Timeline
from edge.errors import RuntimeFault
from edge.types import Array, TensorSpec


class DeviceEngine(ABC):
    """An engine whose slots work on one GPU; it owns one `open_device` of it.

    A subclass opens its runtime, calls `_ready`, and makes executors.

    Attributes:
        batch: the most pictures a slot takes.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: int
    one_stream = False
    """Whether the runtime itself executes one batch after the other."""

    def __init__(self, device: Device, path: Path, options: EngineOptions) -> None:
        self.device, self.path, self.options = device, path, options
        self._slots: list[DeviceSlot] = []
        self._alone: DeviceSlot | None = None
        self._open = False
        self._fitting: Fitting | None = None

    def _ready(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], batch: int) -> None:
        """The runtime is there, and these are its tensors."""
        self.inputs, self.outputs, self.batch = inputs, outputs, batch
        self._fitting = fitting(self.device, self.options.picture, inputs)
        self._timeline = Timeline(self.device)
        self._turn = Turn() if self.options.in_order or self.one_stream else None
        self._open = True

    @abstractmethod
    def _executor(self) -> Bindable:
        """A new execution context."""

    @abstractmethod
    def _release(self) -> None:
        """Drop the runtime's objects; all contexts are gone already."""

    @property
    def takes_pictures(self) -> bool:
        return self._fitting is not None

    @property
    def frames(self) -> FramePool:
        """Buffers that sources decode into."""
        return self.device.frames

    @property
    def allocations(self) -> int:
        """Host and device buffers made so far."""
        return self.device.counters.total + self.frames.misses

    def slot(self) -> DeviceSlot:
        """A new slot with buffers, streams and an execution context of its own.

        Raises:
            OutOfDeviceMemory: there is no room for it.
            RuntimeFault: the options ask for a size that the engine does not take.
        """
        return self._slot(self.takes_pictures, self.options.outputs)

    def tensor_slot(self) -> DeviceSlot:
        """A slot for tensors that the processor has prepared, with all outputs."""
        return self._slot(False, None)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One inference of prepared tensors: all outputs by name, freshly allocated.

        Raises:
            RuntimeFault: an input is missing, unknown, or of a wrong type or shape.
        """
        if self._alone is None:
            self._alone = self.tensor_slot()
        rows = fill(self._alone.inputs, feeds, self.batch, self.path.name)
        self._alone.submit(rows)
        return {name: value.copy() for name, value in self._alone.wait().items()}

    def close(self) -> None:
        """Give everything back; what is in flight is waited for. A second call does nothing."""
        if not self._open:
            return
        self._open = False
        for slot in self._slots:
            slot.free()
        self._slots, self._alone = [], None
        self._timeline.free()
        self._release()
        self._fitting = None  # the kernel's module goes before its context
        self.device.close()

    def _slot(self, pictures: bool, wanted: tuple[str, ...] | None) -> DeviceSlot:
        if not self._open:
            raise RuntimeFault(f"{self.path.name}: the engine is closed")
        made = self._fitting if pictures else None
        slot = assemble(
            self.device,
            self._timeline,
            self._executor(),
            self.batch,
            made,
            wanted,
            self.path.name,
            self._turn,
        )
        self._slots.append(slot)
        return slot
