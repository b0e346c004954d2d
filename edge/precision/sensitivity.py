"""What each group costs in accuracy: the network's results with this group alone quantized.

One pass for a type serves every target that has it. For each group it measures, on samples that neither
ranges nor weights were fitted to,

1. which threshold of each tensor loses least in what the group writes, and whether weights whose errors
   cancel are better than rounded ones;
2. by how much the mean of each output channel moves, which a bias then restores;
3. how far the network's result moves when what is left of the error is added to what the group writes.

Only the rest of the network is run for that, from stages whose heads are kept (`stages.py`). Thresholds are
chosen by the first and not by the last: what moves the results of a few samples least does not do so for
others (docs/precision.md).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from edge.graph import Graph
from edge.precision.calibrate import Calibration
from edge.precision.compensation import NO_COMPENSATION, Compensation
from edge.precision.groups import Group, has_finite_constants, is_weighted, operands
from edge.precision.local import Local, local
from edge.precision.numerics import Floats, QuantType
from edge.precision.ranges import Candidate, Range, candidates
from edge.precision.sessions import observer
from edge.precision.stages import ERROR, Stage, Values, outputs_of, stages
from edge.precision.watch import BUDGET
from edge.preprocess import Placement
from edge.tasks import Sample, Task
from edge.types import Array

STAGES = 8
"""Into how many the graph is cut, at least."""

Progress = Callable[[int, int], None]
Run = Callable[[Values], dict[str, Array]]


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A sample that sensitivity is measured on."""

    sample: Sample
    feeds: Mapping[str, Array]
    placement: Placement


@dataclass(frozen=True, slots=True)
class Tried:
    """A threshold that was tried, and the error it leaves in what its readers write: squared over squared."""

    method: str
    threshold: float
    error: float


@dataclass(frozen=True, slots=True)
class GroupNoise:
    """What quantizing one group alone does.

    Attributes:
        noise: the task's divergence of the network's result, mean over the samples.
        sqnr_db: of the network's outputs; None where nothing changed.
        local_db: of what the group itself writes.
        drop: of the task's metric, where the samples have labels.
        compensated: whether its weights' errors cancel (else they are rounded one by one).
    """

    noise: float
    sqnr_db: float | None
    local_db: float | None
    drop: float | None
    compensated: bool
    estimated: bool = False
    """Whether there was no time to run the network: the noise follows from the error in what it writes."""


@dataclass(frozen=True, slots=True, eq=False)
class Sensitivity:
    """Of every group that can be quantized to one type.

    Attributes:
        groups: by group.
        tried: thresholds by tensor, the chosen one first.
        compensation: weights and biases as they were measured.
    """

    kind: QuantType
    samples: int
    groups: Mapping[str, GroupNoise]
    tried: Mapping[str, tuple[Tried, ...]]
    compensation: Compensation

    def ranges(self, before: Mapping[str, Range]) -> dict[str, Range]:
        """The ranges with this type's thresholds put in."""
        chosen = {name: tried[0].threshold for name, tried in self.tried.items()}
        if self.kind == "int8":
            return {n: dataclasses.replace(r, int8=chosen.get(n, r.int8)) for n, r in before.items()}
        return {n: dataclasses.replace(r, fp8=chosen.get(n, r.fp8)) for n, r in before.items()}

    @property
    def complete(self) -> bool:
        """Whether every figure was measured."""
        return not any(group.estimated for group in self.groups.values())

    def joined(self, later: Sensitivity) -> Sensitivity:
        """With groups that were measured later."""
        return Sensitivity(
            self.kind,
            self.samples,
            {**self.groups, **later.groups},
            {**self.tried, **later.tried},
            self.compensation.joined(later.compensation),
        )


def measure(
    graph: Graph,
    groups: Sequence[Group],
    kind: QuantType,
    calibration: Calibration,
    compensation: Compensation,
    task: Task,
    probes: Sequence[Probe],
    run_on: int,
    progress: Progress = lambda done, total: None,
    tried: Mapping[str, tuple[Tried, ...]] | None = None,
    deadline: float = math.inf,
) -> Sensitivity:
    """Sensitivity of groups to being quantized to `kind`.

    Args:
        compensation: weights for this type; where they prove no better than rounded ones they are dropped.
        probes: in an order that depends on their content alone.
        run_on: how many of them the rest of the network is run on, for each group.
        tried: thresholds of tensors for which they were chosen before.
        deadline: on `time.perf_counter`; behind it the noise of groups is estimated.
    """
    able = [g for g in groups if can_be_measured(graph, g, kind, calibration.ranges)]
    if not able or not probes:
        return Sensitivity(kind, min(len(probes), run_on), {}, tried or {}, NO_COMPENSATION)
    measurement = _Measurement(graph, able, kind, calibration, compensation, task, progress)
    return measurement.run(probes, run_on, tried or {}, deadline)


def can_be_measured(graph: Graph, group: Group, kind: QuantType, ranges: Mapping[str, Range]) -> bool:
    """Whether the group can be quantized to this type at all: its ranges are known, its constants finite."""
    if group.kind == "skip" and kind != "int8":
        return False
    nodes = {node.name: node for node in graph.nodes if node.name in group.products}
    for node in nodes.values():
        for name in operands(graph, node):
            if name not in ranges or ranges[name].dead:
                return False
        if node.op_type == "Add":
            continue
        if is_weighted(graph, node):
            if not has_finite_constants(graph, node):
                return False
        elif len(operands(graph, node)) < 2:
            return False
    return True


class _Measurement:
    """One sweep over the stages for one type."""

    def __init__(
        self,
        graph: Graph,
        groups: Sequence[Group],
        kind: QuantType,
        calibration: Calibration,
        compensation: Compensation,
        task: Task,
        progress: Progress,
    ) -> None:
        self.graph, self.groups, self.kind, self.task, self.progress = graph, groups, kind, task, progress
        self.ranges, self.compensation = calibration.ranges, compensation
        self.nodes = {node.name: node for node in graph.nodes}
        self.tensors = {g.name: self._read(g) for g in groups}
        self.written = {g.name: [node.output[0] for node in outputs_of(graph, g)] for g in groups}
        self.stages = stages(graph, groups, min(self._stage_count(), len(groups)))
        read = dict.fromkeys(t for tensors in self.tensors.values() for t in tensors)
        self.candidates = {name: candidates(calibration.histograms[name], kind) for name in read}
        self.thresholds = {name: _threshold(self.ranges[name], kind) for name in read}
        self.tried: dict[str, tuple[Tried, ...]] = {}
        self.compensated: set[str] = set()
        self.cancelling: dict[str, bool] = {}
        """Weights that were decided on: whether they are those whose errors cancel."""
        self.found: dict[str, GroupNoise] = {}
        self.errors: dict[str, float] = {}
        self.late: dict[str, float] = {}
        """Error in what a group writes: of those that were run in the network, and of those that were not."""
        self.biases: dict[tuple[str, str], Floats] = {}

    def _stage_count(self) -> int:
        """So many that what is looked at in one of them fits into memory."""
        looked_at = {t for found in (self.tensors, self.written) for names in found.values() for t in names}
        size = sum(4 * prod(self.graph.shape(name) or (0,)) for name in looked_at)
        return max(STAGES, size // BUDGET)

    def _read(self, group: Group) -> list[str]:
        return list(dict.fromkeys(t for n in group.products for t in operands(self.graph, self.nodes[n])))

    def run(
        self,
        probes: Sequence[Probe],
        run_on: int,
        tried: Mapping[str, tuple[Tried, ...]],
        deadline: float,
    ) -> Sensitivity:
        self.deadline = deadline
        self.tried |= tried
        self.thresholds |= {name: t[0].threshold for name, t in tried.items() if name in self.thresholds}
        heads: list[Values] = [dict(probe.feeds) for probe in probes]
        self.probes = probes[:run_on]
        whole = observer(self.graph.model, self.graph.outputs)
        self.outputs = [whole(probe.feeds) for probe in self.probes]
        self.clean = _Result(self.task)
        for probe, outputs in zip(self.probes, self.outputs, strict=True):
            self.clean.add(probe, outputs, outputs)
        for stage in self.stages:
            heads = self._measure_stage(stage, heads)
        self._estimate()
        weights = {k: w for k, w in self.compensation.weights.items() if self._is_kept(k)}
        return Sensitivity(
            self.kind, len(self.probes), self.found, self.tried, Compensation(weights, self.biases)
        )

    # ------------------------------------------------------------------ one stage

    def _measure_stage(self, stage: Stage, heads: list[Values]) -> list[Values]:
        """Everything about the groups of one stage; the heads of the next one."""
        both = {g.name: self._locals(g) for g in stage.groups}
        trials = {g.name: self._trials(g) for g in stage.groups}
        read = [t for g in stage.groups for t in (*both[g.name][0].inputs, *self.written[g.name])]
        observe = stage.observer(read)
        for head in heads:
            seen = {**head, **observe(head)}
            for group in stage.groups:
                cancelling, *rounded = both[group.name]
                for label, thresholds in trials[group.name].items():
                    cancelling.add(label, seen, thresholds)
                for alone in rounded:
                    alone.add(ASSUMED, seen, trials[group.name][ASSUMED])
            del seen  # before the next ones are made
        self._choose_thresholds(stage.groups, {g.name: both[g.name][0] for g in stage.groups})
        chosen = {g.name: self._better(g, both[g.name]) for g in stage.groups}
        following: list[Values] = []
        for head in heads:
            seen = {**head, **observe(head)}
            for alone in chosen.values():
                alone.add(FINAL, seen, self.thresholds)
            following.append({name: seen[name] for name in stage.tail})
            del seen
        self._run_network(stage, heads, observe, chosen)
        return following

    def _locals(self, group: Group) -> list[Local]:
        """The group with weights whose errors cancel, and with rounded ones where that is something else."""
        found = [local(self.graph, group, self.kind, self.ranges, self.compensation)]
        if any(self._is_of(group, key) for key in self.compensation.weights):
            found.append(local(self.graph, group, self.kind, self.ranges, NO_COMPENSATION))
        return found

    def _is_of(self, group: Group, key: tuple[str, int, str]) -> bool:
        return any(self.nodes[name].input[1] == key[0] for name in group.products)

    def _is_kept(self, key: tuple[str, int, str]) -> bool:
        """Whether all groups here that have these weights, and there are some, are better off with them."""
        groups = [g for g in self.groups if self._is_of(g, key)]
        return bool(groups) and all(g.name in self.compensated for g in groups)

    def _trials(self, group: Group) -> dict[str, Mapping[str, float]]:
        """Thresholds by label: those assumed so far, and each candidate of each tensor not yet decided."""
        assumed = {t: self.thresholds[t] for t in self.tensors[group.name]}
        found: dict[str, Mapping[str, float]] = {ASSUMED: assumed}
        for tensor in self.tensors[group.name]:
            for c in self.candidates[tensor] if tensor not in self.tried else ():
                found[_label(tensor, c)] = {**assumed, tensor: c.threshold}
        return found

    def _better(self, group: Group, both: list[Local]) -> Local:
        """The group with the weights that leave less error in what it writes; of groups that share weights
        the first decides, since biases are for the weights that they were measured with."""
        weights = [self.nodes[name].input[1] for name in group.products]
        decided = [self.cancelling[name] for name in weights if name in self.cancelling]
        better = both[0].error(ASSUMED) <= both[-1].error(ASSUMED)
        cancelling = len(both) > 1 and (all(decided) if decided else better)
        if cancelling:
            self.compensated.add(group.name)
        if len(both) > 1:
            self.cancelling |= dict.fromkeys(weights, cancelling)
        return both[0] if cancelling else both[-1]

    def _choose_thresholds(self, groups: Sequence[Group], alone: Mapping[str, Local]) -> None:
        """For each tensor the candidate with the least error in what is written by those who read it here."""
        for tensor in dict.fromkeys(t for g in groups for t in self.tensors[g.name]):
            if tensor in self.tried:
                continue
            readers = [alone[g.name] for g in groups if tensor in self.tensors[g.name]]
            found = []
            for c in self.candidates[tensor]:
                errors = [max(local.error(_label(tensor, c)), 1e-30) for local in readers]
                found.append(Tried(c.method, c.threshold, float(np.exp(np.mean(np.log(errors))))))
            self.tried[tensor] = tuple(sorted(found, key=lambda t: (t.error, -t.threshold)))
            self.thresholds[tensor] = self.tried[tensor][0].threshold

    def _run_network(
        self, stage: Stage, heads: list[Values], observe: Run, chosen: Mapping[str, Local]
    ) -> None:
        """Add what is left of each group's error to what it writes, and run the rest of the network."""
        results = {g.name: _Result(self.task) for g in stage.groups}
        for name in results:
            self.biases |= chosen[name].biases(FINAL)
        if time.perf_counter() > self.deadline:
            self.late |= {name: chosen[name].error(FINAL) for name in results}
            return
        rest = stage.rest([t for g in stage.groups for t in self.written[g.name]])
        for probe, head, outputs in zip(self.probes, heads, self.outputs, strict=False):
            seen = {**head, **observe(head)}
            reference = {**outputs, **rest(head)}
            for name, result in results.items():
                errors = chosen[name].errors(FINAL, seen, self.thresholds)
                disturbed = rest({**head, **{f"{t}{ERROR}": e for t, e in errors.items()}})
                result.add(probe, reference, {**outputs, **disturbed})
            del seen
        for name, result in results.items():
            compensated = name in self.compensated
            self.errors[name] = chosen[name].error(FINAL)
            self.found[name] = result.sum_up(self.clean, self.errors[name], compensated)
        self.progress(len(self.found), len(self.groups))

    def _estimate(self) -> None:
        """Figures for groups that there was no time for, as if their errors went as far as the others'."""
        ratios = [self.found[name].noise / error for name, error in self.errors.items() if error > 0]
        typical = float(np.median(ratios)) if ratios else 1.0
        for name, error in self.late.items():
            compensated = name in self.compensated
            self.found[name] = GroupNoise(
                typical * error, None, _db(error), None, compensated, estimated=True
            )


ASSUMED, FINAL = "assumed", "final"


def _db(error: float) -> float | None:
    """Relative squared error as a signal-to-noise ratio."""
    return None if error <= 0 else float(-10 * np.log10(error))


def _label(tensor: str, candidate: Candidate) -> str:
    return f"{tensor}: {candidate.method}"


def _threshold(r: Range, kind: QuantType) -> float:
    return r.int8 if kind == "int8" else r.fp8


class _Result:
    """How far the network's results move, over samples."""

    def __init__(self, task: Task) -> None:
        self.task, self.scorer = task, task.scorer()
        self.divergence: list[float] = []
        self.signal = self.error = 0.0
        self.labelled = False

    def add(self, probe: Probe, reference: Values, this: Values) -> None:
        self.divergence.append(self.task.divergence(reference, this, probe.placement))
        for name, value in reference.items():
            self.signal += float(np.square(value, dtype=np.float64).sum())
            self.error += float(np.square(value.astype(np.float64) - this[name]).sum())
        if probe.sample.label is not None:
            self.labelled = True
            self.scorer.add(probe.sample, self.task.score_payload(this, 0, probe.placement))

    @property
    def noise(self) -> float:
        return float(np.mean(self.divergence))

    def sum_up(self, clean: _Result, local_error: float, compensated: bool) -> GroupNoise:
        sqnr = float(10 * np.log10(self.signal / self.error)) if self.error and self.signal else None
        drop = clean.scorer.value() - self.scorer.value() if self.labelled else None
        return GroupNoise(self.noise, sqnr, _db(local_error), drop, compensated)
