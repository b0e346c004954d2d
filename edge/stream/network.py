"""An engine together with what goes in and what comes out: everything a frame passes between two queues."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.backends import COMPILED_ONLY, Engine, EngineOptions, Slot, backend
from edge.config import InputConfig, ModelConfig, validate
from edge.errors import ModelError
from edge.types import Array, EngineId, Frame, Image, Payload

if TYPE_CHECKING:
    from edge.manifest import Entry
    from edge.preprocess import Placement, Preprocess
    from edge.store import Store
    from edge.tasks import Task


@dataclass(frozen=True, slots=True)
class Nothing:
    """The finding of a network that looks at nothing."""

    def to_json(self) -> dict[str, Any]:
        return {}

    def draw(self, image: Image) -> Image:
        copy: Image = image.copy()
        return copy


class Network:
    """One engine as the loops see it. Used by one thread, except for what its slots do inside."""

    def __init__(
        self,
        id: EngineId,
        engine: Engine,
        preprocess: Preprocess | None = None,
        task: Task | None = None,
        input_name: str = "",
    ) -> None:
        self.id, self.engine = id, engine
        self.preprocess, self.task = preprocess, task
        self.input_name = input_name

    def slot(self) -> Slot:
        return self.engine.slot()

    def prepare(self, frame: Frame, slot: Slot) -> Placement | None:
        """Write the picture into the slot's input."""
        if self.preprocess is None:
            return None
        return self.preprocess.into(frame.image, slot.inputs[self.input_name][0])

    def interpret(self, outputs: Mapping[str, Array], placement: Placement | None) -> Payload:
        """What the outputs say about the picture."""
        if self.task is None or placement is None:
            return Nothing()
        return self.task.postprocess(outputs, 0, placement)

    def warm_up(self) -> None:
        """Run one empty batch: the first one allocates, and may compile."""
        slot = self.slot()
        slot.submit()
        slot.wait()

    def close(self) -> None:
        self.engine.close()


def null_network(settings: str = "") -> Network:
    """A network that costs nothing; `settings` as in `edge.backends.null`."""
    from pathlib import Path

    engine = backend("null").load(Path(f"null:{settings}"), EngineOptions())
    return Network(EngineId("null", "null", "null", "null"), engine)


def find_engine(store: Store, model: str, target: str | None, variant: str) -> Entry:
    """The engine to run: of the given target, or of the best target of this machine that has one.

    Raises:
        UsageError: there is none; the error names what there is and how to build it.
        StoreError: it is damaged, or made for another machine.
    """
    from edge.machine import detect
    from edge.manifest import check_machine
    from edge.targets import local, select

    machine = detect()
    rows = select(target, machine) if target else local(machine)
    names = sorted((row.name for row in rows), key="cpu".__eq__)  # a GPU's before the processor's
    built = [name for name in names if target or _runs_here(store.current(model, name, variant))]
    entry = store.find(model, (built or names[-1:])[0], variant)
    check_machine(entry.manifest, machine)
    return entry


def _runs_here(entry: Entry | None) -> bool:
    """Whether there is an engine whose runtime this version can drive."""
    return entry is not None and entry.manifest.backend not in COMPILED_ONLY


def open_network(entry: Entry, options: EngineOptions) -> Network:
    """The engine of a store entry, with the preprocessing and task it was built with.

    Raises:
        ModelError: the manifest's input does not exist or is no picture.
        ConfigError, RuntimeFault: the manifest's config or the engine file is not usable.
    """
    from dataclasses import replace

    from edge import tasks
    from edge.preprocess import Preprocess

    manifest = entry.manifest
    config = validate(ModelConfig, manifest.config, f"the config in {entry.path / 'manifest.json'}")
    engine = backend(manifest.backend).load(entry.engine, replace(options, size=config.input.size))
    return Network(
        EngineId(manifest.model, manifest.target, manifest.variant, manifest.key),
        engine,
        Preprocess(config.input),
        tasks.create(config),
        _input_name(engine, config.input, manifest.model),
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
    wanted = (1, config.channels, *config.size)
    if spec.shape != wanted or spec.dtype != "float32":
        raise ModelError(
            f"model '{model}': input '{name}' is {spec.dtype} {list(spec.shape)}",
            f"preprocessing makes float32 {list(wanted)}",
            "build the engine again with the size in its config",
        )
    return name


def engine_options(threads: int, live: bool, serial: bool) -> EngineOptions:
    """How to spend `threads` processor threads.

    A live feed wants each answer soon: all threads on one picture, none spinning while they wait for the
    camera. A file wants many answers: two pictures side by side, so that no core waits for another (measured
    on 2 cores, docs/streaming.md).

    Args:
        threads: of the processor; 0 for all that this process may use.
    """
    threads = threads or usable_cores()
    if live or serial:
        return EngineOptions(threads=threads, spin=not live)
    return EngineOptions(threads=max(1, threads - 1), streams=2)


def usable_cores() -> int:
    """Cores this process may run on (a container or `taskset` may allow fewer than there are)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def has_nan(outputs: Mapping[str, Array]) -> bool:
    """Whether an output holds NaN or infinity. The sum tells without a temporary array; only a sum that is
    not finite, which large finite values can cause too, needs the closer look."""
    for array in outputs.values():
        if array.dtype.kind != "f":
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            total = float(np.add.reduce(array, axis=None))
        if not math.isfinite(total) and not np.isfinite(array).all():
            return True
    return False
