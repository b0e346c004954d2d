"""What differs between two engines: plan, scales, accuracy, and what they were made from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edge.build.bundle import GRAPH
from edge.manifest import Accuracy, Entry, Manifest, OutputAccuracy
from edge.precision.given import QUANTIZERS
from edge.precision.numerics import PRECISION


@dataclass(frozen=True, slots=True)
class Scale:
    """A scale, or those of one tensor, and the type that they are for; "" where the graph does not say."""

    values: NDArray[np.float64]
    kind: str


Scales = dict[str, Scale]


@dataclass(frozen=True, slots=True)
class PlanChange:
    """A node that computes in another precision; "" where an engine has no such node.

    Attributes:
        carried: whether it is in the carrier in both engines, which have different ones.
    """

    node: str
    op: str
    before: str
    after: str
    reason: str
    carried: bool = False


@dataclass(frozen=True, slots=True)
class ScaleChange:
    """A scale, or scales of one tensor, with another value.

    Attributes:
        ratio: of the largest change among them, above 1 where the scale grew; None where there are more or
            fewer of them.
        before: the type that it was for. Those of another type are larger or smaller by nature.
        after: the type that it is for.
    """

    name: str
    count: int
    ratio: float | None
    before: str = ""
    after: str = ""

    @property
    def size(self) -> float:
        """How large the change is, whichever way it goes."""
        return math.inf if self.ratio is None else abs(math.log(self.ratio))


@dataclass(frozen=True, slots=True)
class Difference:
    """Engine `b` seen from engine `a`.

    Attributes:
        facts: what they were made from and with, where that differs: name, of a, of b.
        scales: None where an engine holds no graph to read them from.
    """

    a: Manifest
    b: Manifest
    facts: tuple[tuple[str, str, str], ...]
    plan: tuple[PlanChange, ...]
    scales: tuple[ScaleChange, ...] | None
    only_a: tuple[str, ...] = field(default=())
    only_b: tuple[str, ...] = field(default=())

    @property
    def same(self) -> bool:
        return not (self.facts or self.plan or self.scales or self.only_a or self.only_b)

    def to_json(self) -> dict[str, Any]:
        return {
            "a": {"engine": self.a.address, "key": self.a.key},
            "b": {"engine": self.b.address, "key": self.b.key},
            "same": self.same,
            "facts": [{"name": name, "a": a, "b": b} for name, a, b in self.facts],
            "plan": [
                {"node": c.node, "op": c.op, "a": c.before, "b": c.after, "reason": c.reason}
                for c in self.plan
            ],
            "scales": None
            if self.scales is None
            else [
                {"name": c.name, "count": c.count, "ratio": c.ratio, "a_type": c.before, "b_type": c.after}
                for c in self.scales
            ],
            "scales_only_in_a": list(self.only_a),
            "scales_only_in_b": list(self.only_b),
        }


def compare(a: Entry, b: Entry) -> Difference:
    """Everything that differs between two engines."""
    scales_a, scales_b = _scales(a), _scales(b)
    changed: tuple[ScaleChange, ...] | None = None
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()
    if scales_a is not None and scales_b is not None:
        changed = tuple(_changed(scales_a, scales_b))
        only_a = tuple(name for name in scales_a if name not in scales_b)
        only_b = tuple(name for name in scales_b if name not in scales_a)
    return Difference(
        a.manifest,
        b.manifest,
        tuple(_facts(a, b)),
        tuple(_plan(a.manifest, b.manifest)),
        changed,
        only_a,
        only_b,
    )


def _facts(first: Entry, second: Entry) -> Iterator[tuple[str, str, str]]:
    a, b = first.manifest, second.manifest
    graphs = [entry.manifest.files.get(_graph(entry), "none")[:16] for entry in (first, second)]
    pairs = [
        ("model", a.model, b.model),
        ("target", a.target, b.target),
        ("variant", a.variant, b.variant),
        ("state", a.state, b.state),
        ("fp32 graph", a.graph_sha256[:16], b.graph_sha256[:16]),
        ("calibration", (a.calibration_sha256 or "none")[:16], (b.calibration_sha256 or "none")[:16]),
        ("typed graph", graphs[0], graphs[1]),
        ("carrier", a.carrier, b.carrier),
        ("builder", f"{a.builder.name} {a.builder.version}", f"{b.builder.name} {b.builder.version}"),
        ("built on", a.machine, b.machine),
        ("compute capability", a.compute_capability or "none", b.compute_capability or "none"),
        ("work by precision", shares_text(a), shares_text(b)),
        ("expected speed-up", _number(a.speed_up), _number(b.speed_up)),
        ("size", f"{a.size_bytes:,} bytes", f"{b.size_bytes:,} bytes"),
        *_accuracies(a.accuracy or Accuracy(), b.accuracy or Accuracy()),
        *_configs(a.config, b.config),
    ]
    return ((name, x, y) for name, x, y in pairs if x != y)


def _configs(a: dict[str, Any], b: dict[str, Any], key: str = "config") -> Iterator[tuple[str, str, str]]:
    """Every key of the models' configs."""
    for name in dict.fromkeys([*a, *b]):
        x, y = a.get(name), b.get(name)
        if isinstance(x, dict) and isinstance(y, dict):
            yield from _configs(x, y, f"{key}.{name}")
        else:
            yield f"{key}.{name}", "none" if x is None else str(x), "none" if y is None else str(y)


def _accuracies(a: Accuracy, b: Accuracy) -> Iterator[tuple[str, str, str]]:
    yield "metric", a.metric, b.metric
    yield "fp32", _number(a.fp32), _number(b.fp32)
    yield a.metric or "accuracy", _number(a.this), _number(b.this)
    yield "judged", f"{a.how}, {a.samples} samples", f"{b.how}, {b.samples} samples"
    mine, yours = ({o.name: o for o in accuracy.outputs} for accuracy in (a, b))
    for name in dict.fromkeys([*mine, *yours]):
        x, y = (side.get(name, OutputAccuracy(name=name)) for side in (mine, yours))
        yield f"cosine of {name}", _number(x.cosine), _number(y.cosine)
        yield f"SQNR of {name}", _number(x.sqnr_db), _number(y.sqnr_db)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.5g}"


def shares_text(m: Manifest) -> str:
    """Share of the work by precision, in a line."""
    return ", ".join(f"{share:.1%} {precision}" for precision, share in m.mac_shares.items()) or "unknown"


def _plan(a: Manifest, b: Manifest) -> Iterator[PlanChange]:
    before, after = ({entry.node: entry for entry in m.plan} for m in (a, b))
    for node in dict.fromkeys([*before, *after]):
        x, y = before.get(node), after.get(node)
        if x is None or y is None or x.precision != y.precision:
            known = y or x
            assert known is not None
            pair = x.precision if x else "", y.precision if y else ""
            yield PlanChange(node, known.op, *pair, known.reason, pair == (a.carrier, b.carrier))


def _graph(entry: Entry) -> str:
    """The file of an engine's typed graph; "" where it holds none."""
    name = GRAPH if GRAPH in entry.manifest.files else entry.manifest.engine_file
    return name if name.endswith(".onnx") else ""


def _scales(entry: Entry) -> Scales | None:
    """All scales of an engine's graph by name; None where it holds no graph."""
    name = _graph(entry)
    if not name:
        return None
    graph = onnx.load(entry.path / name).graph
    types = {t.name: PRECISION.get(t.data_type, "") for t in graph.initializer}
    read = {n.input[1]: types.get([*n.input, ""][2], "") for n in graph.node if n.op_type in QUANTIZERS}
    return {
        t.name: Scale(numpy_helper.to_array(t).astype(np.float64), read[t.name])
        for t in graph.initializer
        if t.name in read
    }


def _changed(a: Scales, b: Scales) -> Iterator[ScaleChange]:
    for name in (n for n in a if n in b):
        before, after, kinds = a[name].values, b[name].values, (a[name].kind, b[name].kind)
        if before.shape != after.shape:
            yield ScaleChange(name, max(before.size, after.size), None, *kinds)
            continue
        ratio = after / before
        count = int(np.count_nonzero(ratio != 1))
        if count:
            largest = int(np.abs(np.log(ratio)).argmax())
            yield ScaleChange(name, count, float(ratio.reshape(-1)[largest]), *kinds)
