"""Channels brought to a like range before they are quantized together; the graph computes what it did.

One scale has to serve all channels of an activation, and a channel of small range is left few of its levels.
Where a channel can be scaled by what writes it and scaled back by what reads it (`channels.py`), the
difference moves into the weights, which have a scale for each output channel anyway: cross-layer equalization
(Nagel et al. 2019), and with a normalization as the writer SmoothQuant (Xiao et al. 2023). How much of the
difference is moved is chosen by the measured error of the int8 products that read the channels.

Behind a Relu6 a factor also moves the limit. It is kept away from what was seen, and samples that the factors
were not chosen on have to give the same results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edge.errors import RuntimeFault
from edge.graph import Graph
from edge.precision import kept
from edge.precision.channels import Channels, channels
from edge.precision.compensation import NO_COMPENSATION
from edge.precision.groups import Group, groups, is_weighted, operands, products
from edge.precision.histogram import Histogram
from edge.precision.local import local
from edge.precision.ranges import choose
from edge.precision.sensitivity import can_be_measured
from edge.precision.sessions import observer
from edge.precision.watch import Watch
from edge.types import Array

STRENGTHS = (0.0, 0.5, 0.75, 1.0)
"""Part of the difference (in logarithms) that may be moved."""
LARGEST = 64.0
"""Largest factor: rare channels are not blown up, and fp16 keeps its range."""
HEADROOM = (2.0, 4.0, 8.0, math.inf)
"""A channel behind a Relu6 is scaled so that so many times what was seen is not clipped. The next one is
taken where other samples are clipped nevertheless; the last leaves such channels alone."""
WORTHWHILE = 0.9
"""Error that has to be left, as a part of what there was, for a change to be made."""
SAME = 1e-3
"""How far results may move, as a part of the largest value: by rounding in fp32 alone."""

Factors = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Equalized:
    """A graph with factors written into its constants.

    Attributes:
        factors: by class of channels.
        strengths: by tensor that is read by products: the part of the difference that was moved.
    """

    graph: Graph
    factors: Factors
    strengths: Mapping[str, float]


Feeds = Iterable[Mapping[str, Array]]
"""Network inputs, one sample at a time."""


def equalize(
    graph: Graph,
    samples: Feeds,
    tried: Sequence[Mapping[str, Array]],
    unseen: Sequence[Mapping[str, Array]],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Equalized:
    """The graph with like ranges, as far as that lowers the error of int8 products.

    Args:
        samples: that show how large each channel becomes; run through once.
        tried: a few of them, on which errors are measured.
        unseen: others, that have to give the same results as before.

    Raises:
        RuntimeFault: the results are not what they were; that is a fault of ours.
    """
    known, nothing = channels(graph), unchanged(graph)
    tensors = _movable(graph, known)
    if not tensors or not tried:
        return nothing
    peaks = _peaks(graph, known, tensors, samples)
    if not all(np.isfinite(peak).all() for peak in peaks.values()):
        return nothing  # calibration will say which tensor it is
    errors = []
    for index, strength in enumerate(STRENGTHS):
        factors = _factors(known, tensors, peaks, dict.fromkeys(tensors, strength), HEADROOM[0])
        errors.append(_errors(rescaled(graph, known, factors), tensors, tried))
        progress(index + 1, len(STRENGTHS))
    strengths = _best(known, tensors, errors)
    if not any(strengths.values()):
        return nothing
    moved = math.inf
    for headroom in HEADROOM if known.clipped else HEADROOM[-1:]:
        factors = _factors(known, tensors, peaks, strengths, headroom)
        found = rescaled(graph, known, factors)
        moved = _moved(graph, found, unseen)
        if moved <= SAME:
            return Equalized(found, factors, {name: s for name, s in strengths.items() if s})
    raise RuntimeFault(
        f"equalizing channels moves results by {moved:.2g} of their largest value",
        "a factor was written where it does not cancel",
        "please report it; until then set `equalize = false` under [quantize]",
    )


def save(found: Equalized, path: Path) -> None:
    """Keep the factors, whole or not at all."""
    names, strengths = np.array(list(found.strengths)), np.array(list(found.strengths.values()))
    kept.save(path, {"factors": found.factors, "names": names, "strengths": strengths})


def load(path: Path, graph: Graph) -> Equalized | None:
    """The graph with the factors that were kept; None where there are none, or not whole."""
    try:
        with path.open("rb") as file, np.load(file) as stored:
            factors = np.asarray(stored["factors"], np.float64)
            strengths = dict(zip(stored["names"].tolist(), stored["strengths"].tolist(), strict=True))
    except kept.DAMAGED:
        return None
    if not strengths:
        return unchanged(graph)
    known = channels(graph)
    return (
        Equalized(rescaled(graph, known, factors), factors, strengths)
        if len(factors) == known.count
        else None
    )


def unchanged(graph: Graph) -> Equalized:
    """The graph as it is."""
    return Equalized(graph, np.ones(0), {})


def rescaled(graph: Graph, known: Channels, factors: Factors) -> Graph:
    """The graph with the factors written into its constants."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    values = {
        t.name: numpy_helper.to_array(t).astype(np.float64)
        for t in model.graph.initializer
        if _is_scaled(t.name, known)
    }
    for scaled in (s for found in known.scaled.values() for s in found):
        shape = [1] * values[scaled.constant].ndim
        shape[scaled.axis] = -1
        factor = factors[scaled.ids].reshape(shape)
        values[scaled.constant] = values[scaled.constant] * (factor if scaled.written else 1 / factor)
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name].astype(np.float32), tensor.name))
    return Graph(model)


def _is_scaled(name: str, known: Channels) -> bool:
    return any(name == s.constant for found in known.scaled.values() for s in found)


def _movable(graph: Graph, known: Channels) -> list[str]:
    """Tensors that weighted products read and whose channels are free, at least some of them."""
    found: dict[str, None] = {}
    for node in products(graph):
        if is_weighted(graph, node) and node.name in known.scaled:
            (name,) = operands(graph, node)
            layout = known.layout.get(name)
            if layout is not None and not known.frozen[layout.ids].all():
                found[name] = None
    return list(found)


def _peaks(
    graph: Graph, known: Channels, tensors: Sequence[str], samples: Feeds
) -> dict[str, NDArray[np.float64]]:
    """Largest magnitude of each channel of the tensors, and of those that a Clip limits."""
    wanted = list(dict.fromkeys([*tensors, *known.clipped]))
    watch = Watch(graph, {name: [name] for name in wanted})
    found = {name: np.zeros(len(known.layout[name].ids)) for name in wanted}
    for feeds in samples:
        for name, values in watch(feeds):
            (value,) = values.values()
            axes = tuple(a for a in range(value.ndim) if a != known.layout[name].axis)
            found[name] = np.maximum(found[name], np.abs(value).max(axis=axes))
    return found


def _factors(
    known: Channels,
    tensors: Sequence[str],
    peaks: Mapping[str, NDArray[np.float64]],
    strengths: Mapping[str, float],
    headroom: float,
) -> Factors:
    """A factor for each class: 1 where it is frozen, was never seen, or nothing is to be moved."""
    share = np.zeros(known.count)
    strength = np.zeros(known.count)
    for name in tensors:
        ids, peak = known.layout[name].ids, peaks[name]
        top = peak.max()
        if top > 0:
            np.maximum.at(share, ids, peak / top)
            np.maximum.at(strength, ids, strengths[name])
    with np.errstate(divide="ignore"):
        factors = np.where(share > 0, share**-strength, 1.0)
    factors = np.clip(factors, 1 / LARGEST, LARGEST)
    for name, limit in known.clipped.items():
        ids, peak = known.layout[name].ids, peaks[name]
        most = np.where(peak > 0, limit / (headroom * np.maximum(peak, 1e-30)), 1.0)
        bound = np.full(known.count, np.inf)
        np.minimum.at(bound, ids, np.maximum(most, 1.0))
        touched = np.isfinite(bound)
        factors[touched] = np.clip(factors[touched], 1.0, bound[touched])
    factors[known.frozen] = 1.0
    return np.asarray(factors, np.float64)


def _errors(graph: Graph, tensors: Sequence[str], samples: Sequence[Mapping[str, Array]]) -> dict[str, float]:
    """By tensor: error of the int8 products that read it, as the geometric mean over them."""
    readers = [g for g in groups(graph) if g.kind != "skip" and _reads(graph, g) & set(tensors)]
    read = list(dict.fromkeys(t for g in readers for t in _reads(graph, g)))
    watch = Watch(graph, {name: [name] for name in read})
    histograms = {name: Histogram() for name in read}
    for feeds in samples:
        for name, values in watch(feeds):
            histograms[name].add(values[name])
    ranges = {name: choose(h) for name, h in histograms.items()}
    alive = [g for g in readers if can_be_measured(graph, g, "int8", ranges)]
    locals_ = {g.name: local(graph, g, "int8", ranges, NO_COMPENSATION) for g in alive}
    wanted = {n: [*found.inputs, *(end.output[0] for end in found.ends)] for n, found in locals_.items()}
    beside = Watch(graph, wanted)
    thresholds = {name: r.int8 for name, r in ranges.items()}
    for feeds in samples:
        for name, seen in beside(feeds):
            locals_[name].add("", seen, thresholds)
    by_tensor: dict[str, list[float]] = {name: [] for name in tensors}
    for group in alive:
        for name in _reads(graph, group) & set(tensors):
            by_tensor[name].append(max(locals_[group.name].error(""), 1e-30))
    return {name: float(np.exp(np.mean(np.log(e)))) if e else 1.0 for name, e in by_tensor.items()}


def _reads(graph: Graph, group: Group) -> set[str]:
    nodes = [node for node in graph.nodes if node.name in group.products]
    return {name for node in nodes for name in operands(graph, node)}


def _best(known: Channels, tensors: Sequence[str], errors: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The strength with the least error, for all tensors together that share a class of channels."""
    found: dict[str, float] = {}
    for together in _components(known, tensors):
        total = [float(np.mean([np.log(e[name]) for name in together])) for e in errors]
        best = int(np.argmin(total))
        worthwhile = total[best] - total[0] < np.log(WORTHWHILE)
        found |= dict.fromkeys(together, STRENGTHS[best] if worthwhile else 0.0)
    return found


def _components(known: Channels, tensors: Sequence[str]) -> list[list[str]]:
    found: list[tuple[set[int], list[str]]] = []
    for name in tensors:
        ids = {int(i) for i in known.layout[name].ids if not known.frozen[i]}
        touching = [part for part in found if part[0] & ids]
        found = [part for part in found if not part[0] & ids]
        found.append((ids.union(*(p[0] for p in touching)), [n for p in touching for n in p[1]] + [name]))
    return [names for _, names in found]


def _moved(before: Graph, after: Graph, samples: Sequence[Mapping[str, Array]]) -> float:
    """How far any result differs, as a part of the largest value of its output; of integers, how many do."""
    first, second = (observer(graph.model, graph.outputs) for graph in (before, after))
    most = 0.0
    for feeds in samples:
        expected, found = first(feeds), second(feeds)
        most = max(most, *(_apart(value, found[name]) for name, value in expected.items()))
    return most


def _apart(expected: Array, found: Array) -> float:
    if not np.issubdtype(expected.dtype, np.floating):
        return float(np.count_nonzero(found != expected) / max(expected.size, 1))
    moved = float(np.abs(found - expected).max(initial=0))
    return moved / max(float(np.abs(expected).max(initial=0)), 1e-6)
