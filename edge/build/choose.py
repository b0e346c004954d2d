"""The plan of each engine: what is measured once for a model, and the search for each target."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path as File

import onnx

from edge.build.inputs import Inputs
from edge.build.verify import Reference, Run, failures, measure
from edge.config import GateConfig
from edge.graph import Graph
from edge.manifest import Accuracy
from edge.precision import cache, sensitivity
from edge.precision.calibrate import Calibration
from edge.precision.compensation import NO_COMPENSATION, Compensation
from edge.precision.cost import Costs, roofline
from edge.precision.fitting import Fitting
from edge.precision.groups import Group
from edge.precision.numerics import QuantType
from edge.precision.offsets import Offsets
from edge.precision.path import Path
from edge.precision.plan import Plan, Planner, Variant
from edge.precision.policy import Policy
from edge.precision.ranges import Range
from edge.precision.rewrite import rewrite
from edge.precision.search import SHARE, Found, Verdict, search
from edge.precision.sensitivity import Probe, Sensitivity
from edge.precision.trend import Trend
from edge.targets import Activation, Target
from edge.tasks import Sample
from edge.types import Array

Progress = Callable[[str, int, int], None]

AMPLE = 0.5
"""A plan that uses this part of what the search allows needs no finer one."""
KINDS: tuple[QuantType, ...] = ("int8", "fp8")
PLENTY = 2e9
"""Multiply–accumulates up to which a model is looked at with all the samples it could be."""
PROBES, RUN_ON, FITTED, SEARCHED = (6, 24), (2, 8), (8, 24), (8, 32)
"""Fewest and most samples: to fit thresholds and biases to, to run the network on for each group, to fit
weights to, and to compare plans on."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A plan and what is written into the graph with it.

    Attributes:
        graph: that it is for, fp32.
        offsets: moves weights to hold the means that the carrier's biases cannot; None leaves them.
        found: what the search came to; None where there was nothing to search.
        speed_up: expected over everything in the carrier; None where nothing tells.
    """

    graph: Graph
    plan: Plan
    ranges: Mapping[str, Range]
    compensation: Compensation
    offsets: Offsets | None = None
    found: Found | None = None
    speed_up: float | None = None

    def typed(self, target: Target) -> onnx.ModelProto:
        """The graph with the plan in it."""
        compensation = self.compensation
        if self.offsets is not None:
            compensation = self.offsets.held(self.plan, compensation, target)
        return rewrite(self.graph, self.plan, self.ranges, target, compensation)


Opener = Callable[[Chosen], AbstractContextManager[Run]]


@dataclass
class Chooser:
    """What all searches of one build share; measured when it is first asked for, kept in the store's cache.

    Attributes:
        graph: prepared and repaired.
        calibration: ranges and histograms of that graph.
        search: fp32 results of the samples that plans are compared on, with labels that fp32 believes in.
        gate: as it is on those labels (`comparable`).
        folder: of the store's cache for this calibration.
        equalized: tensors whose channels were brought to a like range, and how far.
        seconds: what one search may take; None for as long as it needs.
    """

    inputs: Inputs
    graph: Graph
    calibration: Calibration
    search: Reference
    policy: Policy
    gate: GateConfig
    folder: File
    progress: Progress
    equalized: Mapping[str, float]
    seconds: float | None = None
    _sensitivities: dict[QuantType, Sensitivity] = field(default_factory=dict)
    _carriers: dict[str, Accuracy] = field(default_factory=dict)

    def choose(
        self,
        target: Target,
        variant: Variant,
        opened: Opener,
        label: str,
        activations: Activation = "s8",
        costs: Costs | None = None,
    ) -> Chosen:
        """The plan of one engine.

        Args:
            opened: makes something that runs of a plan.
            costs: measured; None for the roofline estimate of the target's row.
        """
        planner = self.planner(target, variant, activations)
        if costs is None and (target.is_gpu or variant == "fast"):
            costs = roofline(self.graph, planner.groups, target)
        kinds = [kind for kind in target.quantized if _is_used(planner, kind)] if variant == "fast" else []
        if not kinds or costs is None:
            plan = planner.plan()
            chosen = self.written(plan)
            return dataclasses.replace(chosen, speed_up=costs.speed_up(plan) if costs else None)
        found: dict[str, Sensitivity] = {kind: self.sensitivity(kind, planner) for kind in kinds}
        carrier = self._carrier(planner, opened)
        path = Path(planner, found, costs, carrier.divergence or 0.0, self.policy.prefer)
        share = SHARE[self.policy.prefer]
        gate, ample = (_stricter(self.gate, part, carrier) for part in (share, AMPLE * share))
        trend = Trend(carrier)

        def judge(plan: Plan) -> Verdict:
            with opened(self.written(plan)) as run:
                accuracy = measure(run, self.search, "while searching", self._saying(f"search {label}"))
            steady = trend.steadied(accuracy)
            enough = ample.max_drop is not None and not failures(steady, ample)
            return Verdict(accuracy, tuple(failures(steady, gate)), enough)

        result = search(path, judge, self.seconds)
        late = [kind for kind, measured in found.items() if not measured.complete]
        if late and self.seconds is not None:
            note = f"sensitivity to {' and '.join(late)} is estimated in part, after {self.seconds:g} s"
            result = dataclasses.replace(result, note="; ".join(filter(None, (note, result.note))))
        return dataclasses.replace(self.written(result.plan), found=result, speed_up=result.speed_up)

    def planner(self, target: Target, variant: Variant, activations: Activation = "s8") -> Planner:
        """The rules for one engine, applied to the graph."""
        return Planner(self.graph, target, variant, self.calibration.ranges, activations, self.policy)

    def _carrier(self, planner: Planner, opened: Opener) -> Accuracy:
        """Of everything in the carrier, on the search's samples."""
        carrier = planner.target.carrier
        if carrier not in self._carriers:
            exact = Planner(self.graph, planner.target, "exact", {}).plan()
            with opened(self.written(exact)) as run:
                say = self._saying(f"{carrier} alone")
                self._carriers[carrier] = measure(run, self.search, "while searching", say)
        return self._carriers[carrier]

    def rounded(self, plan: Plan) -> Chosen:
        """The plan with its weights rounded one by one: to be timed, before anything is fitted."""
        return Chosen(self.graph, plan, self.calibration.ranges, NO_COMPENSATION)

    def written(self, plan: Plan) -> Chosen:
        """The plan with the ranges and compensation of its types."""
        ranges: Mapping[str, Range] = self.calibration.ranges
        compensation = NO_COMPENSATION
        kinds = {plan.precisions[node] for node in plan.quantized}
        for kind in (k for k in KINDS if k in kinds):
            if plan.activations == "s8":
                measured = self.sensitivity(kind)
                ranges = measured.ranges(ranges)
                compensation = compensation.joined(measured.compensation)
            else:
                compensation = compensation.joined(self.fitting.weights(kind, plan.quantized))
        for precision in sorted({plan.precisions[node] for node in plan.weight_only}):
            compensation = compensation.joined(self.fitting.weights(precision, plan.weight_only))
        return Chosen(self.graph, plan, ranges, compensation, self.fitting.offsets)

    # ------------------------------------------------------------------ measured once

    @cached_property
    def fitting(self) -> Fitting:
        """Weights fitted to what they meet on samples of their own."""
        samples = self._fitted_set

        def feeds() -> Iterator[Mapping[str, Array]]:
            return (probe.feeds for probe in self._probes(samples))

        return Fitting(self.graph, self.calibration, feeds, len(samples), self.progress)

    @property
    def known(self) -> list[QuantType]:
        """Types whose sensitivity was measured."""
        return [kind for kind in KINDS if kind in self._sensitivities]

    def sensitivity(self, kind: QuantType, planner: Planner | None = None) -> Sensitivity:
        """What groups cost in this type.

        Args:
            planner: whose groups have to be among them, as far as it may quantize them to this type; what is
                missing is measured.
        """
        found = self._sensitivities.get(kind) or cache.load(self.folder / f"{kind}.npz")
        missing = [] if planner is None else self._missing(kind, planner, found)
        if found is None or missing:
            later = self._measure(kind, missing, found)
            found = later if found is None else found.joined(later)
            if found.complete:  # what was cut short is measured again another time
                cache.save(found, self.folder / f"{kind}.npz")
        self._sensitivities[kind] = found
        return found

    def _missing(self, kind: QuantType, planner: Planner, found: Sensitivity | None) -> list[Group]:
        known, ranges = found.groups if found else {}, self.calibration.ranges
        wanted = [g for g in planner.groups if kind in planner.choosable(g) and g.name not in known]
        return [g for g in wanted if sensitivity.can_be_measured(self.graph, g, kind, ranges)]

    def _measure(self, kind: QuantType, missing: Sequence[Group], found: Sensitivity | None) -> Sensitivity:
        deadline = math.inf if self.seconds is None else time.perf_counter() + self.seconds
        names = {name for group in missing for name in group.products}
        return sensitivity.measure(
            self.graph,
            missing,
            kind,
            self.calibration,
            self.fitting.weights(kind, names),
            self.inputs.task,
            list(self._probes(self._probe_set)),
            within_reach(self._macs, RUN_ON),
            self._saying(f"sensitivity to {kind}"),
            found.tried if found else None,
            deadline,
        )

    # ------------------------------------------------------------------ samples

    @cached_property
    def _macs(self) -> int:
        return sum(self.graph.macs(node) for node in self.graph.nodes)

    @property
    def _probe_set(self) -> Sequence[Sample]:
        """Samples that sensitivity is measured on; neither weights nor plans are fitted to them."""
        return self.inputs.calibration[: within_reach(self._macs, PROBES)]

    @property
    def _fitted_set(self) -> Sequence[Sample]:
        """Samples that weights are fitted to: others, where there are enough."""
        probes, wanted = len(self._probe_set), within_reach(self._macs, FITTED)
        others = self.inputs.calibration[probes : probes + wanted]
        return others if len(others) >= probes else self.inputs.calibration[:wanted]

    def _probes(self, samples: Sequence[Sample]) -> Iterator[Probe]:
        return self.inputs.probes(self.graph.inputs[0], samples)

    def _saying(self, text: str) -> Callable[[int, int], None]:
        return lambda done, total: self.progress(text, done, total)


def told(found: Found | None) -> list[str]:
    """What has to be said about a search, for people."""
    if found is None:
        return []
    text = [f"about {found.speed_up:.2g}× as fast as everything in {found.plan.carrier} ({found.costs})"]
    if not found.passed:
        text.append("no plan passed the search's stricter gate; this is the best of them")
    return text + ([found.note] if found.note else [])


def within_reach(macs: int, span: tuple[int, int]) -> int:
    """How many samples are looked at, so that a large model does not take hours: by its work alone, not by
    the clock, so that every machine looks at the same ones."""
    return min(max(round(span[1] * PLENTY / max(macs, 1)), span[0]), span[1])


def _is_used(planner: Planner, kind: str) -> bool:
    return any(kind in options.precisions for options in planner.options.values())


def comparable(gate: GateConfig, held_out: Reference, search: Reference) -> GateConfig:
    """The gate as the search has to see it: where fp32 itself scores less against the labels that it believes
    in than against real ones, the same loss shows as a smaller drop."""
    real, believed = held_out.score.value, search.score.value
    same = held_out.metric == search.metric
    if gate.max_drop is None or not same or not 0 < believed < real:
        return gate
    return gate.model_copy(update={"max_drop": gate.max_drop * believed / real})


def _stricter(gate: GateConfig, share: float, carrier: Accuracy) -> GateConfig:
    """The gate with a part of its drop, on top of what the carrier alone loses."""
    if gate.max_drop is None or carrier.fp32 is None or carrier.this is None:
        return gate
    lost = max(carrier.fp32 - carrier.this, 0.0)
    return gate.model_copy(update={"max_drop": share * gate.max_drop + lost})
