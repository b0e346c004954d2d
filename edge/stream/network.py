"""An engine together with what goes in and what comes out: everything a frame passes between two queues."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from edge.backends import (
    Engine,
    EngineOptions,
    Expectation,
    Lender,
    PictureEngine,
    PictureSlot,
    Slot,
    backend,
)
from edge.config import InputConfig, ModelConfig, validate
from edge.errors import ModelError, RuntimeFault
from edge.machine import usable_cores
from edge.stream.outlet import DEPTH
from edge.targets import parse_capability
from edge.tasks.outputs import SUM, streamed
from edge.types import Array, EngineId, Frame, Image, Payload

if TYPE_CHECKING:
    from edge.machine import Machine
    from edge.manifest import Entry, Manifest
    from edge.preprocess import Placement, Preparation
    from edge.store import Store
    from edge.tasks import Task

SLOTS = 2
"""Batches in flight: one executes while the next is copied in and the last is copied out."""
WARM_UP = 4
"""Batches until a GPU slot works as it will go on: a CUDA graph is recorded with the third."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """The finding of a network that looks at nothing."""

    def to_json(self) -> dict[str, Any]:
        return {}

    def found(self) -> dict[str, float]:
        return {}

    def draw(self, image: Image) -> Image:
        copy: Image = image.copy()
        return copy


class Network:
    """One engine as the loops see it. Used by one thread, except for what its slots do inside.

    Args:
        reopen: loads the engine again after its GPU's context died.
        slots: batches in flight at the same time.
        patience: seconds that the first frame of a batch waits for others, where the engine takes several.
        runtime: name of the backend that runs it, which may not be the one its target has.
        precision: in which types it works, in words.
    """

    def __init__(
        self,
        id: EngineId,
        engine: Engine,
        preprocess: Preparation | None = None,
        task: Task | None = None,
        input_name: str = "",
        reopen: Callable[[], Engine] | None = None,
        slots: int = SLOTS,
        patience: float = 0.0,
        runtime: str = "",
        precision: str = "",
    ) -> None:
        self.id, self.engine, self.runtime, self.precision = id, engine, runtime, precision
        self.preprocess, self.task = preprocess, task
        self.input_name, self.patience = input_name, patience
        self._reopen, self._count = reopen, slots
        self._slots: list[Slot] = []

    @property
    def reads_volumes(self) -> bool:
        """Whether it looks at whole series instead of pictures."""
        return self.preprocess is not None and self.preprocess.config.volume is not None

    @property
    def batch(self) -> int:
        """The most frames of one batch."""
        return self.engine.batch

    def slot(self) -> Slot:
        """A slot beside those of the loop."""
        return self.engine.slot()

    def slots(self) -> list[Slot]:
        """The slots that the loop uses, made once."""
        if not self._slots:
            self._slots = [self.engine.slot() for _ in range(self._count)]
        return self._slots

    @property
    def allocations(self) -> int:
        """Host and device buffers that the engine has made so far."""
        return self.engine.allocations

    def lender(self) -> Lender | None:
        """Page-locked memory for one more reader's frames; None where no GPU would read them."""
        if not self.engine.takes_pictures:
            return None
        on_their_way = (self._count + 1) * self.batch + DEPTH + 2
        return cast(PictureEngine, self.engine).frames.lend(on_their_way)

    def prepare(self, frame: Frame, slot: Slot, index: int = 0) -> Placement | None:
        """Bring the picture into place `index` of the slot's next batch."""
        if self.preprocess is None:
            return None
        if self.engine.takes_pictures:
            return cast(PictureSlot, slot).place(index, frame.image)
        given = frame.image if frame.volume is None else frame.volume
        place: Placement = self.preprocess.into(given, slot.inputs[self.input_name][index])
        return place

    def interpret(self, outputs: Mapping[str, Array], placement: Placement | None, index: int = 0) -> Payload:
        """What the outputs say about picture `index` of the batch."""
        if self.task is None or placement is None:
            return Nothing()
        return self.task.postprocess(outputs, index, placement)

    def warm_up(self) -> None:
        """Run empty batches through every slot: the first ones allocate, compile, and record CUDA graphs.

        Not for volumes: an empty one takes as long as any, and the first is no slower than those after it.
        """
        if self.reads_volumes:
            return
        for slot in self.slots():
            for _ in range(WARM_UP):
                self._place_black(slot)
                slot.submit()
                slot.wait()
                if not slot.spans:
                    break  # no GPU: the first one has done all of that

    def reopen(self) -> None:
        """Load the engine again, in a new context.

        Raises:
            RuntimeFault: it cannot be.
        """
        if self._reopen is None:
            raise RuntimeFault("the engine cannot be loaded again", "nobody said how")
        self._slots = []
        self.engine.close()  # with it goes the dead context
        self.engine = self._reopen()
        self.warm_up()

    def close(self) -> None:
        self._slots = []
        self.engine.close()

    def _place_black(self, slot: Slot) -> None:
        if self.preprocess is None or not self.engine.takes_pictures:
            return
        black = np.zeros((*self.preprocess.config.size, 3), np.uint8)
        for index in range(self.batch):
            cast(PictureSlot, slot).place(index, black)


def null_network(settings: str = "", batch: int = 1, patience: float = 0.0) -> Network:
    """A network that costs nothing; `settings` as in `edge.backends.null`."""
    from pathlib import Path

    engine = backend("null").load(Path(f"null:{settings}"), EngineOptions(batch=batch))
    return Network(EngineId("null", "null", "null", "null"), engine, runtime="null", patience=patience)


def find_engine(
    store: Store, model: str, target: str | None, variant: str, runtime: str | None = None
) -> Entry:
    """The engine to run: of the given target, or of the best target of this machine that has one.

    Args:
        runtime: a backend to run it with instead of its own; those read ONNX files, the processor's engines.

    Raises:
        UsageError: there is none; the error names what there is and how to build it.
        StoreError: it is damaged, or made for another machine.
    """
    from edge.machine import detect
    from edge.manifest import check_machine
    from edge.targets import local, select

    machine = detect()
    target = target or ("cpu" if runtime else None)
    rows = select(target, machine) if target else local(machine)
    names = sorted((row.name for row in rows), key="cpu".__eq__)  # a GPU's before the processor's
    built = [name for name in names if target or _runs_here(store.current(model, name, variant), machine)]
    entry = store.find(model, (built or names[-1:])[0], variant)
    check_machine(entry.manifest, machine)
    return entry


def _runs_here(entry: Entry | None, machine: Machine) -> bool:
    """Whether there is an engine whose runtime is installed."""
    if entry is None or entry.manifest.state == "bundle":
        return False
    return not backend(entry.manifest.backend).unavailable(machine)


def open_network(
    entry: Entry,
    options: EngineOptions,
    slots: int | None = None,
    patience: float = 0.0,
    runtime: str | None = None,
) -> Network:
    """The engine of a store entry, with the preprocessing and task it was built with.

    Args:
        slots: batches in flight; default: 2, on a processor one more than execute side by side, so that no
            stream waits for the loop.
        runtime: a backend to run it with instead of the manifest's.

    Raises:
        ModelError: the manifest's input does not exist or is no picture.
        ConfigError, RuntimeFault: the manifest's config or the engine file is not usable.
        StoreError: the engine file is not what the manifest says.
    """
    from edge import tasks
    from edge.preprocess import preparation

    manifest = entry.manifest
    config = validate(ModelConfig, manifest.config, f"the config in {entry.path / 'manifest.json'}")
    options = replace(
        options,
        size=config.input.size,
        picture=config.input,
        outputs=streamed(tensor.name for tensor in manifest.outputs),
        expected=_expectation(manifest),
    )
    if config.input.volume is not None:
        options, slots = _one_at_a_time(options), 1

    name = runtime or manifest.backend

    def load() -> Engine:
        return backend(name).load(entry.engine, options)

    engine = load()
    try:
        input_name = _input_name(engine, config.input, manifest.model)
        preprocess, task = preparation(config.input), tasks.create(config)
    except BaseException:
        engine.close()
        raise
    id = EngineId(manifest.model, manifest.target, manifest.variant, manifest.key)
    slots = slots or (SLOTS if engine.takes_pictures else options.streams + 1)
    words = manifest.precision
    return Network(id, engine, preprocess, task, input_name, load, slots, patience, name, words)


def _expectation(manifest: Manifest) -> Expectation:
    capability = manifest.compute_capability
    return Expectation(
        manifest.files[manifest.engine_file],
        (manifest.builder.name, manifest.builder.version),
        parse_capability(capability) if capability else None,
    )


def _input_name(engine: Engine, config: InputConfig, model: str) -> str:
    """The engine's picture input, checked against what preprocessing writes."""
    names = [spec.name for spec in engine.inputs]
    name = config.name or (names[0] if len(names) == 1 else None)
    if name not in names:
        raise ModelError(
            f"model '{model}': input {config.name!r}", f"the engine's inputs are {', '.join(names)}"
        )
    spec = engine.inputs[names.index(name)]
    wanted = config.shape
    open_size = spec.shape[1:] == (config.channels, "height", "width")
    if not (spec.shape[1:] == wanted or open_size) or spec.dtype != "float32":
        raise ModelError(
            f"model '{model}': input '{name}' is {spec.dtype} {list(spec.shape)}",
            f"preprocessing makes float32 {['batch', *wanted]}",
            "build the engine again with the size in its config",
        )
    return name


def engine_options(threads: int, live: bool, serial: bool, spin: bool = False) -> EngineOptions:
    """How to spend `threads` processor threads.

    A live feed wants each answer soon: all threads on one picture, none spinning while they wait for the
    camera unless `spin` says so. A file wants many answers: two pictures side by side, so that no core waits
    for another (measured on 2 cores, docs/streaming.md).

    Args:
        threads: of the processor; 0 for all that this process may use.
    """
    threads = threads or usable_cores()
    if live or serial:
        return EngineOptions(threads=threads, spin=spin or not live)
    return EngineOptions(threads=max(1, threads - 1), streams=2, in_order=False)


def _one_at_a_time(options: EngineOptions) -> EngineOptions:
    """All threads on one volume: two side by side would take gigabytes each, and end no earlier."""
    return replace(options, threads=max(1, options.threads + options.streams - 1), streams=1)


def has_nan(outputs: Mapping[str, Array], index: int | None = None) -> bool:
    """Whether an output (of picture `index` of the batch) holds NaN or infinity.

    The sum tells without a temporary array; only a sum that is not finite, which large finite values can
    cause too, needs the closer look. Where the device has summed up already, its sum is all there is.
    """
    if SUM in outputs:
        sums = outputs[SUM].tolist() if index is None else [outputs[SUM].item(index)]
        return not all(map(math.isfinite, sums))
    for array in outputs.values():
        if array.dtype.kind != "f":
            continue
        part = array if index is None or array.ndim == 0 or len(array) == 1 else array[index]
        with np.errstate(over="ignore", invalid="ignore"):
            total = float(np.add.reduce(part, axis=None))
        if not math.isfinite(total) and not np.isfinite(part).all():
            return True
    return False
