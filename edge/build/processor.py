"""Engines for processors: several ways to run the graph, measured here; the fastest that passes is kept."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from edge.backends import Engine, backend
from edge.build import layer_times
from edge.build.choose import Chooser, Chosen, Opener
from edge.build.verify import Run
from edge.build.workshop import Made, Workshop
from edge.errors import GateError, ModelError, RuntimeFault
from edge.graph import sha256
from edge.machine import INT8_DOT, Machine
from edge.manifest import BuilderInfo
from edge.precision.cost import Costs
from edge.precision.plan import Plan, Variant
from edge.targets import Activation, Target
from edge.types import Array

ROUNDS, RUNS = 5, 4
"""Latency is measured in alternating rounds of so many runs, so that a noisy machine hits all alike."""
MEASURE_SECONDS = 10.0
"""After so long no further runs are made."""
WORTHWHILE = 0.97
"""int8 has to take at most this share of fp32's time to be chosen: less would be noise."""


HOPELESS = 2.0
"""All of int8 taking so many times as long as fp32, no part of it is looked at."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run the graph on the processor."""

    name: str
    chosen: Chosen
    path: Path
    engine: Engine

    @property
    def plan(self) -> Plan:
        return self.chosen.plan


def make_for_processor(shop: Workshop, target: Target, variant: Variant, label: str) -> Made:
    """The fastest of the candidates, measured here, that passes its gate.

    Raises:
        GateError: none passes.
    """
    workbench = _Workbench(shop, target, variant, label)
    try:
        workbench.gather()
        seconds = _latencies(shop, workbench.candidates, label)
        return _fastest_that_passes(shop, workbench.candidates, seconds, workbench.refused, label)
    finally:
        for candidate in workbench.candidates:
            candidate.engine.close()


class _Workbench:
    """Everything that could be the engine, fp32 first, and why some are not among them."""

    def __init__(self, shop: Workshop, target: Target, variant: Variant, label: str) -> None:
        self.shop, self.target, self.variant, self.label = shop, target, variant, label
        self.candidates: list[Candidate] = []
        self.refused: list[str] = []

    def gather(self) -> None:
        chooser = self.shop.chooser
        if self.variant not in ("fast", "exact"):
            chosen = self.shop.chosen(self.target, self.variant, running(self.shop, self.target), self.label)
            self._add(chosen.plan.label, chosen)
            return
        self._add("fp32", self.shop.chosen(self.target, "exact", running(self.shop, self.target), self.label))
        if self.variant == "fast" and self.shop.config.input.volume is not None:
            self.refused.append("int8 left out: volumes are not calibrated yet")
        elif self.variant == "fast" and chooser is not None:
            for scheme in self.target.int8_activations:
                self._add_quantized(chooser, scheme)

    def _add_quantized(self, chooser: Chooser, scheme: Activation) -> None:
        """int8 wherever that is possible, and only where it is faster."""
        name = f"int8 {scheme}×s8"
        plan = chooser.planner(self.target, self.variant, scheme).plan()
        if not plan.quantized:
            self.refused.append(f"{name} left out: no layer can be quantized")
            return
        if not self._add(name, chooser.rounded(plan)):
            return
        feeds, rough = next(iter(self.shop.reference)).feeds, self.candidates.pop()
        with closing(rough.engine):
            whole, plain = (_fastest(c.engine, feeds) for c in (rough, self.candidates[0]))
        if whole > HOPELESS * plain:
            self.refused.append(f"{name} left out: it takes {whole / plain:.1f}× fp32's time")
            return
        costs = measured_costs(self.shop, chooser, self.target, scheme)
        mixed = chooser.choose(
            self.target, self.variant, running(self.shop, self.target), self.label, scheme, costs
        )
        every = chooser.written(plan)  # now that the search has measured what it is written with
        self._add(name, every)
        if mixed.plan.quantized and mixed.plan.precisions != every.plan.precisions:
            self._add(f"{name} in part", mixed)

    def _add(self, name: str, chosen: Chosen) -> bool:
        """Whether ONNX Runtime takes it."""
        model = self.shop.opened(chosen.typed(self.target))
        path = self.shop.write(model, f"{self.target.name}/{self.variant}/{name}.onnx".replace(" ", "_"))
        try:
            engine = backend("onnxruntime").load(path, self.shop.options)
        except RuntimeFault as e:
            if name == "fp32":
                raise ModelError(
                    "ONNX Runtime refuses the prepared graph", e.why, "export the model again"
                ) from e
            self.refused.append(f"{name} left out: ONNX Runtime refuses it ({e.why[:120]})")
            return False
        self.candidates.append(Candidate(name, chosen, path, engine))
        return True


def running(shop: Workshop, target: Target) -> Opener:
    """Runs a plan for this processor."""

    @contextmanager
    def opened(chosen: Chosen) -> Iterator[Run]:
        model = chosen.typed(target)
        with shop.running(model, f"{target.name}/search.onnx", shop.options) as (_, engine):
            yield engine.run

    return opened


def measured_costs(shop: Workshop, chooser: Chooser, target: Target, scheme: Activation) -> Costs:
    """How long each product takes on this processor, in fp32 and in int8."""
    planner = chooser.planner(target, "fast", scheme)
    plans = chooser.planner(target, "exact").plan(), planner.plan()
    plain, every = (chooser.rounded(plan).typed(target) for plan in plans)
    feeds = next(iter(shop.reference)).feeds
    return layer_times.measured(chooser.graph, planner.groups, plain, every, feeds)


def _fastest(engine: Engine, feeds: Mapping[str, Array]) -> float:
    """Seconds of the fastest of a few runs."""
    engine.run(feeds)
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        engine.run(feeds)
        times.append(time.perf_counter() - start)
    return min(times)


def _latencies(shop: Workshop, candidates: list[Candidate], label: str) -> dict[str, float]:
    """Median seconds of one inference, by candidate."""
    times: dict[str, list[float]] = {c.name: [] for c in candidates}
    if len(candidates) == 1:
        return {candidates[0].name: 0.0}
    feeds = next(iter(shop.reference)).feeds
    for candidate in candidates:
        candidate.engine.run(feeds)
    begun = time.perf_counter()
    for done in range(ROUNDS):
        shop.progress(f"measure {label}", done, ROUNDS)
        for candidate in candidates:
            for _ in range(RUNS):
                start = time.perf_counter()
                if times[candidate.name] and start - begun > MEASURE_SECONDS:
                    break  # a large model: fewer runs, each candidate at least one
                candidate.engine.run(feeds)
                times[candidate.name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in times.items()}


def _fastest_that_passes(
    shop: Workshop,
    candidates: list[Candidate],
    seconds: dict[str, float],
    refused: list[str],
    label: str,
) -> Made:
    """Judge candidates in order of speed; int8 counts as faster only if it is worthwhile."""
    handicap = {c.name: seconds[c.name] * (1 if c.name == "fp32" else 1 / WORTHWHILE) for c in candidates}
    rejected: dict[str, str] = {}
    error: GateError | None = None
    for candidate in sorted(candidates, key=lambda c: handicap[c.name]):
        digest = sha256(candidate.path.read_bytes())
        accuracy = shop.judge(
            digest, candidate.engine, "run on this processor", f"{label} ({candidate.name})"
        )
        try:
            shop.pass_gate(accuracy, f"{label} ({candidate.name})", candidate.chosen.found)
        except GateError as e:
            rejected[candidate.name], error = "fails the gate", error or e
            continue
        return Made(
            files={"engine.onnx": candidate.path},
            engine_file="engine.onnx",
            backend="onnxruntime",
            builder=BuilderInfo(name="onnxruntime", version=shop.machine.packages.get("onnxruntime", "")),
            state="verified",
            plan=candidate.plan,
            accuracy=accuracy,
            reason=_choice(candidate, seconds, rejected, refused),
            requires=_required(candidate.plan, shop.machine),
            chosen=candidate.chosen,
            speed_up=seconds["fp32"] / seconds[candidate.name] if len(seconds) > 1 else None,
            samples=shop.looked_at.get(digest),
        )
    if error is None:
        raise ModelError(f"nothing to run for {label}", "; ".join(refused), "build the variant 'exact'")
    raise error


def _choice(
    candidate: Candidate, seconds: dict[str, float], rejected: Mapping[str, str], refused: list[str]
) -> str:
    """Why this candidate, with the others' time against fp32's."""
    name = candidate.name
    if len(seconds) == 1:
        told = "weights alone are quantized" if candidate.plan.weight_only else "everything in the carrier"
        given = " but what the graph came with" if candidate.plan.given else ""
        return "; ".join([f"{name}: {told}{given}", *refused])
    others = []
    for other, time_taken in seconds.items():
        if other != "fp32":
            text = f"{other} takes {time_taken / seconds['fp32']:.2f}× fp32's time"
            others.append(f"{text} and {rejected[other]}" if other in rejected else text)
    return "; ".join([f"chosen {name}: {', '.join(others)} here", *refused])


def _required(made: Plan, machine: Machine) -> tuple[str, ...]:
    """u8 × s8 products saturate on processors without a dot product; then the numbers would be others."""
    return (INT8_DOT,) if (made.quantized or made.given) and INT8_DOT in machine.cpu_features else ()
