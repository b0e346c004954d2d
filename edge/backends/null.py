"""An engine without tensors that costs nothing: what is left of a run is the runner itself.

The path may carry settings, `null:delay_ms=5&fail_every=7`: a batch takes that long, one batch at a time as
on a device, and every seventh one fails.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edge.backends import EngineOptions, Span
from edge.errors import RuntimeFault, UsageError, nearest
from edge.types import Array, TensorSpec

if TYPE_CHECKING:
    from edge.machine import Machine

_SETTINGS = ("delay_ms", "fail_every")


def load(path: Path, options: EngineOptions) -> NullEngine:
    """An engine with the settings in `path`.

    Raises:
        UsageError: a setting is unknown or not a number.
    """
    settings = dict.fromkeys(_SETTINGS, 0.0)
    for pair in str(path).partition("null:")[2].split("&"):
        name, _, value = pair.partition("=")
        if not name:
            continue
        if name not in settings:
            raise UsageError(f"{path}: no setting '{name}'", "", nearest(name, _SETTINGS))
        try:
            settings[name] = float(value)
        except ValueError as e:
            raise UsageError(f"{path}: {name}={value!r} is not a number") from e
    return NullEngine(settings["delay_ms"] / 1e3, int(settings["fail_every"]), options.batch)


def unavailable(machine: Machine) -> str:
    return ""


class NullEngine:
    """Answers every batch with no outputs."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    takes_pictures = False
    allocations = 0

    def __init__(self, delay: float = 0.0, fail_every: int = 0, batch: int = 1) -> None:
        self.delay, self.fail_every, self.batch = delay, fail_every, batch
        self.busy_until = 0.0
        self.batches = 0

    def slot(self) -> NullSlot:
        return NullSlot(self)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        slot = NullSlot(self)
        if feeds:
            raise RuntimeFault(f"null: inputs {', '.join(feeds)}", "the engine has none")
        slot.submit()
        return dict(slot.wait())

    def close(self) -> None:
        pass


class NullSlot:
    """Keeps the promises of a slot: each batch is submitted once and waited for once."""

    def __init__(self, engine: NullEngine) -> None:
        self.inputs: dict[str, Array] = {}
        self.infer_seconds = 0.0
        self.spans: Mapping[str, Span] = {}
        self._engine = engine
        self._finish: float | None = None
        self._fails = False

    def submit(self, rows: int | None = None) -> None:
        if self._finish is not None:
            raise RuntimeFault("a slot was submitted twice", "its last batch was not waited for")
        engine = self._engine
        engine.batches += 1
        self._fails = bool(engine.fail_every) and engine.batches % engine.fail_every == 0
        self.infer_seconds = engine.delay
        self._finish = 0.0
        if engine.delay:
            engine.busy_until = max(engine.busy_until, time.perf_counter()) + engine.delay
            self._finish = engine.busy_until

    def done(self) -> bool:
        return self._finish is None or time.perf_counter() >= self._finish

    def wait(self) -> Mapping[str, Array]:
        if self._finish is None:
            raise RuntimeFault("a slot was waited for", "nothing was submitted")
        if self._finish:
            time.sleep(max(0.0, self._finish - time.perf_counter()))
        self._finish = None
        if self._fails:
            raise RuntimeFault("null: this batch fails", f"fail_every={self._engine.fail_every}")
        return {}
