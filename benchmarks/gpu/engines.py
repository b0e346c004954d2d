"""Which engines can be had for this GPU, and networks to run them in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from edge.backends import EngineOptions
from edge.errors import EdgeError, MissingPackage, OutOfDeviceMemory
from edge.machine import Machine
from edge.manifest import Entry
from edge.stream.network import Network, open_network
from edge.targets import TARGETS, local
from gpu.report import Section
from gpu.setting import Deadline, OutOfTime, Setting, or_say_why

SYNTHETIC_SECONDS = 2e-3
"""One execution of the synthetic engine: as long as a detector on a small GPU, longer than any copy."""


def check(setting: Setting, found: Section) -> None:
    """Build the model as `build_engines.py --targets local` does, less the processor's quantized engine."""
    from edge.build.build import build

    machine = setting.machine()
    targets = local(machine)
    if not any(target.is_gpu for target in targets):
        found.skip("an engine for this GPU", "the hardware matrix has no row for its compute capability")
    gpus, processors = ([t for t in targets if t.is_gpu is is_gpu] for is_gpu in (True, False))
    reporter, config, store = _Reporter(setting.seconds), setting.config(), setting.store
    try:
        with or_say_why(found, "building"):
            build(config, processors, ["exact"], store, machine, reporter)  # all else is compared with it
            build(config, gpus, ["fast", "exact"], store, machine, reporter)
    except OutOfTime:
        found.skip("the rest of the build", f"it took longer than {setting.seconds:.0f} s")
    for row in reporter.rows:
        _tell(row, machine, found)


def _tell(row: Any, machine: Machine, found: Section) -> None:
    """Only what ran on the GPU, or should have, gets a verdict."""
    from edge.build.site import obstacle

    name, target = f"{row.target}/{row.variant}", TARGETS[row.target]
    found.details[name] = row.to_json()
    if isinstance(row.error, MissingPackage):
        found.skip(f"engine {name}", str(row.error))
    elif target.is_gpu and (why := obstacle(target, machine)):
        found.note(name, row.state)
        found.skip(f"compiling and running {name}", str(why))
    elif target.is_gpu:
        found.expect(
            name, "verified" if row.state == "verified" else f"{row.state}: {row.reason}", "verified"
        )
    else:
        found.note(name, row.state if row.error is None else f"{row.state}: {row.reason}")


class _Reporter:
    """Keeps the rows, says each step once, and ends the build when its time is up."""

    def __init__(self, seconds: float) -> None:
        self.rows: list[Any] = []
        self._deadline, self._last = Deadline(seconds), ""

    def step(self, text: str, done: int, total: int) -> None:
        if text != self._last:
            print(f"  {text}", file=sys.stderr, flush=True)
        self._last = text
        self._deadline.check()

    def row(self, row: Any) -> None:
        self.rows.append(row)


# ---------------------------------------------------------------------- engines to run


@dataclass(frozen=True, slots=True)
class Contender:
    """An engine that can be measured.

    Attributes:
        kind: "tensorrt", "tensorrt_rtx", "onnxruntime_cuda" or "synthetic".
        open: loads it: options, slots, seconds of patience.
    """

    kind: str
    label: str
    open: Callable[[EngineOptions, int, float], Network]

    @contextmanager
    def network(
        self, options: EngineOptions, slots: int = 2, patience: float = 0.0, warm: bool = True
    ) -> Iterator[Network]:
        """Loaded, warmed up, and closed at the end.

        Raises:
            EdgeError: it cannot be loaded here.
        """
        network = self.open(options, slots, patience)
        try:
            if warm:
                network.warm_up()
            yield network
        finally:
            network.close()


def compiled(setting: Setting) -> list[Contender]:
    """Engines in the store that were compiled for GPUs, quantized ones first."""
    entries = [e for e in setting.store.entries(setting.config().name) if e.manifest.compute_capability]
    ready = [e for e in entries if e.manifest.state != "bundle"]
    return [_of_entry(e) for e in sorted(ready, key=lambda e: e.manifest.variant, reverse=True)]


def with_onnxruntime(setting: Setting) -> list[Contender]:
    """The processor's fp32 engine on ONNX Runtime's CUDA provider."""
    entry = setting.store.current(setting.config().name, "cpu", "exact")
    return [_of_entry(entry, "onnxruntime_cuda")] if entry else []


def _of_entry(entry: Entry, runtime: str | None = None) -> Contender:
    def load(options: EngineOptions, slots: int, patience: float) -> Network:
        return open_network(entry, options, slots, patience, runtime)

    m = entry.manifest
    kind = runtime or m.backend
    return Contender(kind, f"{kind} {m.target}/{m.variant}", load)


def synthetic(setting: Setting, seconds: float = SYNTHETIC_SECONDS) -> Contender:
    """The engine that needs no runtime; its kernel is compiled and timed here.

    Raises:
        MissingPackage: PyCUDA or a compiler is missing.
    """
    from edge.preprocess import Preprocess
    from edge.types import EngineId
    from gpu.synthetic import Digest, SyntheticEngine, rounds_for

    picture = setting.config().input
    rounds = rounds_for(seconds, EngineOptions(gpu=setting.gpu), picture)

    def load(options: EngineOptions, slots: int, patience: float) -> Network:
        engine: Any = SyntheticEngine(replace(options, picture=picture), picture, rounds)
        id = EngineId("synthetic", "gpu", str(rounds), "")
        task: Any = Digest()
        return Network(id, engine, Preprocess(picture), task, "image", None, slots, patience)

    return Contender("synthetic", f"synthetic, {rounds} rounds", load)


def loads(setting: Setting, contender: Contender, found: Section) -> bool:
    """Whether an engine can be run here.

    One that was compiled for this GPU and cannot, though all is installed, is a miss; ONNX Runtime's CUDA
    provider may lack libraries that nobody claims to be there.
    """
    try:
        with contender.network(EngineOptions(gpu=setting.gpu), slots=1):
            return True
    except (MissingPackage, OutOfDeviceMemory) as e:
        found.skip(contender.label, str(e))
    except EdgeError as e:
        if contender.kind == "onnxruntime_cuda":
            found.skip(contender.label, str(e))
        else:
            found.expect(f"{contender.label} loads", f"no: {e}", "yes")
    return False


def best(setting: Setting, found: Section) -> Contender | None:
    """The first engine that loads: compiled ones, then ONNX Runtime's, then the synthetic one."""
    for contender in compiled(setting) + with_onnxruntime(setting):
        if loads(setting, contender, found):
            return contender
    with or_say_why(found, "any engine"):
        return synthetic(setting)
    return None
