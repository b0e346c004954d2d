"""Engines for processors: several ways to run the graph, measured here; the fastest that passes is kept."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from edge.backends import Engine, backend
from edge.build import rewrite
from edge.build.workshop import Made, Workshop
from edge.errors import GateError, ModelError, RuntimeFault
from edge.graph import sha256
from edge.machine import INT8_DOT, Machine
from edge.manifest import BuilderInfo
from edge.precision import plan
from edge.precision.plan import Plan, Variant
from edge.targets import Target

ROUNDS, RUNS = 5, 4
"""Latency is measured in alternating rounds of so many runs, so that a noisy machine hits all alike."""
MEASURE_SECONDS = 10.0
"""After so long no further runs are made."""
WORTHWHILE = 0.97
"""int8 has to take at most this share of fp32's time to be chosen: less would be noise."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run the graph on the processor."""

    name: str
    plan: Plan
    path: Path
    engine: Engine


def make_for_processor(shop: Workshop, target: Target, variant: Variant, label: str) -> Made:
    """The fastest of the candidates, measured here, that passes its gate.

    Raises:
        GateError: none passes.
    """
    candidates, refused = _candidates(shop, target, variant)
    try:
        seconds = _latencies(shop, candidates, label)
        return _fastest_that_passes(shop, target, candidates, seconds, refused, label)
    finally:
        for candidate in candidates:
            candidate.engine.close()


def _candidates(shop: Workshop, target: Target, variant: Variant) -> tuple[list[Candidate], list[str]]:
    """Everything that could be the engine, fp32 first, and why some are not among them."""
    schemes = target.int8_activations if variant == "fast" else ()
    plans = {"fp32": plan.make(shop.graph, target, "exact", shop.ranges)}
    plans |= {f"int8 {a}×s8": plan.make(shop.graph, target, variant, shop.ranges, a) for a in schemes}
    found, refused = [], []
    for name, made in plans.items():
        if name != "fp32" and not made.quantized:
            refused.append(f"{name} left out: no layer can be quantized")
            continue
        model = shop.opened(rewrite.rewrite(shop.graph, made, shop.ranges, target))
        path = shop.write(model, f"{target.name}/{variant}/{name}.onnx".replace(" ", "_"))
        try:
            engine = backend("onnxruntime").load(path, shop.options)
        except RuntimeFault as e:
            if name == "fp32":
                raise ModelError(
                    "ONNX Runtime refuses the prepared graph", e.why, "export the model again"
                ) from e
            refused.append(f"{name} left out: ONNX Runtime refuses it ({e.why[:120]})")
            continue
        found.append(Candidate(name, made, path, engine))
    return found, refused


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
    target: Target,
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
            shop.pass_gate(accuracy, f"{label} ({candidate.name})")
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
            reason=_choice(candidate.name, seconds, rejected, refused),
            requires=_required(candidate.plan, shop.machine),
        )
    assert error is not None  # there is always the fp32 candidate
    raise error


def _choice(name: str, seconds: dict[str, float], rejected: Mapping[str, str], refused: list[str]) -> str:
    """Why this candidate, with the others' time against fp32's."""
    if len(seconds) == 1:
        return "; ".join([f"{name}: everything in the carrier", *refused])
    others = []
    for other, time_taken in seconds.items():
        if other != "fp32":
            text = f"{other} takes {time_taken / seconds['fp32']:.2f}× fp32's time"
            others.append(f"{text} and {rejected[other]}" if other in rejected else text)
    return "; ".join([f"chosen {name}: {', '.join(others)} here", *refused])


def _required(made: Plan, machine: Machine) -> tuple[str, ...]:
    """u8 × s8 products saturate on processors without a dot product; then the numbers would be others."""
    return (INT8_DOT,) if made.quantized and INT8_DOT in machine.cpu_features else ()
