"""A slot put together from an execution context: buffers for every tensor, bound once.

If a part cannot be had (out of memory, a shape outside the profile) the others are given back.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

from edge.config import InputConfig
from edge.cuda.buffers import Exchange
from edge.cuda.device import Device
from edge.cuda.slot import DeviceSlot, Executor, Feeder, TensorFeeder, Turn
from edge.cuda.timeline import Timeline
from edge.errors import EdgeError, RuntimeFault
from edge.types import Array, TensorSpec

if TYPE_CHECKING:
    from edge.cuda.kernels import PreprocessKernel

log = logging.getLogger(__name__)

Fitting = tuple["PreprocessKernel", InputConfig]
"""What fits pictures into an input on the device, and by which rule."""


class Bindable(Executor, Protocol):
    """An executor whose tensors still need memory."""

    def tensors(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs, every size known, after `resize`."""
        ...

    def bind(self, name: str, address: int) -> None:
        """From now on this tensor is at this device address."""
        ...

    def free(self) -> None:
        """Give the context back; nothing of it is in flight."""
        ...


def assemble(
    device: Device,
    timeline: Timeline,
    executor: Bindable,
    rows: int,
    picture: Fitting | None,
    wanted: Sequence[str] | None,
    label: str,
    turn: Turn | None = None,
) -> DeviceSlot:
    """A slot for batches of up to `rows`.

    Args:
        picture: how pictures are fitted into the one input on the device; None for tensors from the host.
        wanted: outputs that are copied to the host; None for all.
        turn: of the slots that execute one after the other.

    Raises:
        OutOfDeviceMemory: there is no room.
        RuntimeFault: a tensor cannot be bound, or its first size is not the batch.
    """
    with ExitStack() as parts:
        parts.callback(executor.free)
        executor.resize(rows)
        inputs, outputs = executor.tensors()
        _check_batch((*inputs, *outputs), rows, label)
        feeder = _feeder(device, executor, inputs, picture, rows, parts)
        fetched = _outputs(device, executor, outputs, wanted, parts)
        slot = DeviceSlot(device, timeline, feeder, executor, fetched, rows, label, turn)
        slot.parts = parts.pop_all()
    return slot


def _feeder(
    device: Device,
    executor: Bindable,
    inputs: Sequence[TensorSpec],
    picture: Fitting | None,
    rows: int,
    parts: ExitStack,
) -> Feeder:
    if picture is not None:
        from edge.cuda.feeder import PictureFeeder

        (spec,) = inputs
        pictures = PictureFeeder(device, *picture, spec)
        parts.callback(pictures.free)
        executor.bind(spec.name, pictures.address)
        return pictures
    exchanges: dict[str, Exchange] = {}
    for spec in inputs:
        exchanges[spec.name] = exchange = device.exchange(_sizes(spec), spec.dtype, write_combined=True)
        parts.callback(exchange.free)
        exchange.host[...] = 0
        executor.bind(spec.name, exchange.address)
    return TensorFeeder(exchanges, rows)


def _outputs(
    device: Device,
    executor: Bindable,
    outputs: Sequence[TensorSpec],
    wanted: Sequence[str] | None,
    parts: ExitStack,
) -> dict[str, Exchange]:
    """Memory for all outputs; those that are wanted have a host array too."""
    fetched: dict[str, Exchange] = {}
    for spec in outputs:
        if wanted is not None and spec.name not in wanted:
            hidden = device.device_array(_sizes(spec), spec.dtype)
            parts.callback(hidden.free)
            executor.bind(spec.name, hidden.address)
            continue
        fetched[spec.name] = exchange = device.exchange(_sizes(spec), spec.dtype)
        parts.callback(exchange.free)
        executor.bind(spec.name, exchange.address)
    return fetched


def fitting(device: Device, picture: InputConfig | None, inputs: Sequence[TensorSpec]) -> Fitting | None:
    """What slots need to take pictures; None if the processor has to prepare them.

    An engine with several inputs, and a machine without a compiler for the kernel, are such cases.
    """
    if picture is None or len(inputs) != 1:
        return None
    from edge.cuda import kernels

    try:
        return kernels.load(device), picture
    except EdgeError as e:
        log.warning("pictures are prepared on the processor: %s", e)
        return None


def _sizes(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(int(size) for size in spec.shape)


def _check_batch(specs: Sequence[TensorSpec], rows: int, label: str) -> None:
    for spec in specs:
        if rows > 1 and (not spec.shape or spec.shape[0] != rows):
            raise RuntimeFault(
                f"{label}: tensor '{spec.name}' is {list(spec.shape)} in a batch of {rows}",
                "its first size is not the batch",
                "run it with --batch 1",
            )


def fill(inputs: Mapping[str, Array], feeds: Mapping[str, Array], batch: int, label: str) -> int:
    """Write `feeds` into a slot's input arrays; how many rows of the batch they are.

    Raises:
        RuntimeFault: an input is missing, unknown, or of a wrong type or shape.
    """
    if set(inputs) != set(feeds):
        raise RuntimeFault(
            f"{label}: inputs {', '.join(sorted(feeds)) or 'none'}",
            f"the engine's inputs are {', '.join(sorted(inputs))}",
        )
    whole = all(value.shape == inputs[name].shape for name, value in feeds.items())
    rows = {batch} if whole else {value.shape[0] if value.ndim else 1 for value in feeds.values()}
    for name, value in feeds.items():
        target = inputs[name]
        if value.dtype != target.dtype or value.shape[1:] != target.shape[1:] or len(rows) > 1:
            raise RuntimeFault(
                f"{label}: input '{name}' is {value.dtype} {list(value.shape)}",
                f"the engine takes {target.dtype} {list(target.shape)}",
            )
    (count,) = rows
    if not 1 <= count <= batch:
        raise RuntimeFault(f"{label}: a batch of {count}", f"the engine takes 1 to {batch}", "see --batch")
    for name, value in feeds.items():
        inputs[name][... if whole else slice(count)] = value
    return count
