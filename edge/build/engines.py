"""Make one engine: plan → rewrite → lint → compile → measure its accuracy. Publishing is `build.py`'s."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import onnx

from edge.backends import Engine, EngineOptions, backend
from edge.backends.tensorrt import Compiled, compile_ahead_of_time
from edge.build import emulate, plan, rewrite
from edge.build import lint as linter
from edge.build.calibrate import Range
from edge.build.graph import Graph, serialize, sha256
from edge.build.plan import Plan, Variant
from edge.build.resources import current_rss, in_child
from edge.build.verify import Reference, failures, measure
from edge.config import GateConfig
from edge.errors import GateError, ModelError, RuntimeFault
from edge.machine import INT8_DOT, Machine
from edge.manifest import Accuracy, BuilderInfo
from edge.targets import State, Target

Progress = Callable[[str, int, int], None]
"""What is being done, steps done, steps in all."""

ROUNDS, RUNS = 5, 4
"""Latency is measured in alternating rounds of so many runs, so that a noisy machine hits all alike."""
MEASURE_SECONDS = 10.0
"""After so long no further runs are made."""
WORTHWHILE = 0.97
"""int8 has to take at most this share of fp32's time to be chosen: less would be noise."""


@dataclass(frozen=True, slots=True)
class Made:
    """An engine that passed its gate, not yet published."""

    files: Mapping[str, Path]
    engine_file: str
    backend: str
    builder: BuilderInfo
    state: State
    plan: Plan
    accuracy: Accuracy
    reason: str
    lint: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    compiler_peak_rss: int = 0


@dataclass
class Workshop:
    """What all engines of one build share.

    Attributes:
        graph: prepared, fp32.
        ranges: of every tensor that a plan may quantize; empty if no quantized engine is asked for.
        folder: for temporary files; everything in it may be deleted when the build ends.
    """

    graph: Graph
    ranges: Mapping[str, Range]
    reference: Reference
    gate: GateConfig
    machine: Machine
    folder: Path
    progress: Progress
    judged: dict[str, Accuracy] = field(default_factory=dict)
    """Accuracy by hash of the graph that was run: targets with the same plan share one evaluation."""

    def write(self, model: onnx.ModelProto, name: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(serialize(model))
        return path

    def judge(self, digest: str, engine: Engine, how: str, label: str) -> Accuracy:
        """Accuracy of the graph with this hash; the same graph is run once."""
        if digest not in self.judged:
            self.judged[digest] = measure(
                engine.run,
                self.reference,
                how,
                lambda done, total: self.progress(f"verify {label}", done, total),
            )
        return self.judged[digest]

    def pass_gate(self, accuracy: Accuracy, label: str) -> None:
        """Raise GateError if the engine may not be published."""
        found = failures(accuracy, self.gate)
        if found:
            raise GateError(
                f"{label} fails its accuracy gate",
                "; ".join(found),
                "it was not published; use the 'exact' variant, better calibration pictures, or another gate",
            )


# ---------------------------------------------------------------- GPUs


def make_for_gpu(shop: Workshop, target: Target, variant: Variant, builder: str, label: str) -> Made:
    """An engine compiled ahead of time, or a bundle for the device, judged by emulating the same graph.

    Args:
        builder: "tensorrt_rtx" to compile here, "tensorrt" for a bundle.

    Raises:
        ModelError: lint or the compiler refuses the graph.
        GateError: it is not accurate enough.
    """
    made = plan.make(shop.graph, target, variant, shop.ranges)
    typed = rewrite.rewrite(shop.graph, made, shop.ranges, target)
    findings = linter.lint(typed, target)
    linter.refuse(findings, target)
    graph = shop.write(typed, f"{target.name}/{variant}/graph.onnx")
    files, engine_file, info, peak = {"graph.onnx": graph}, "graph.onnx", BuilderInfo(name="", version=""), 0
    said = [str(f) for f in findings]
    if builder == "tensorrt_rtx":
        shop.progress(f"compile {label}", 0, 0)
        (compiled, engine), peak = _compile(graph, target)
        files["engine.rtx"], engine_file = engine, "engine.rtx"
        info = BuilderInfo(name="tensorrt_rtx", version=compiled.version)
        said += [f"compiler: {text}" for text in compiled.warnings]
        reason = "compiled ahead of time; accuracy emulated on the processor"
    else:
        info = BuilderInfo(name="tensorrt", version="")
        files["finish.sh"] = _finish_script(graph.parent, target)
        reason = "graph ready; on the device run: sh finish.sh"
    accuracy = _judge_emulated(shop, typed, made, label)
    shop.pass_gate(accuracy, label)
    state: State = "simulated" if builder == "tensorrt_rtx" else "bundle"
    return Made(files, engine_file, builder, info, state, made, accuracy, reason, tuple(said), (), peak)


def _compile(graph: Path, target: Target) -> tuple[tuple[Compiled, Path], int]:
    """Compile in a process of its own; memory is this process's and the child's together."""
    assert target.compute_capability is not None
    here = current_rss()
    compiled, peak = in_child(compile_ahead_of_time, graph.read_bytes(), target.compute_capability)
    path = graph.with_name("engine.rtx")
    path.write_bytes(compiled.engine)
    return (compiled, path), here + peak


def _finish_script(folder: Path, target: Target) -> Path:
    """The one command that finishes a bundle on the device, with the tool that comes with TensorRT."""
    path = folder / "finish.sh"
    path.write_text(
        "#!/bin/sh\n"
        f"# Compiles this bundle on {target.devices[0]} (compute capability {target.capability_text}) "
        f"with TensorRT {'.'.join(map(str, target.min_tensorrt or (10, 3)))} or newer.\n"
        'cd "$(dirname "$0")" || exit 1\n'
        'trtexec="$(command -v trtexec || echo /usr/src/tensorrt/bin/trtexec)"\n'
        'exec "$trtexec" --onnx=graph.onnx --stronglyTyped --saveEngine=engine.plan "$@"\n'
    )
    return path


def _judge_emulated(shop: Workshop, typed: onnx.ModelProto, made: Plan, label: str) -> Accuracy:
    wide = emulate.emulated(typed)
    digest = sha256(serialize(wide))
    if digest not in shop.judged:
        path = shop.write(wide, f"{digest}.onnx")
        engine = backend("onnxruntime").load(path, EngineOptions(exact=True))
        try:
            emulate.check(path, engine, next(iter(shop.reference)).feeds)
            how = f"emulated on the processor ({made.kind or 'no'} quantization, {made.carrier} carrier)"
            shop.judge(digest, engine, how, label)
        finally:
            engine.close()
            path.unlink()
    return shop.judged[digest]


# ---------------------------------------------------------------- processors


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
        model = rewrite.rewrite(shop.graph, made, shop.ranges, target)
        path = shop.write(model, f"{target.name}/{variant}/{name}.onnx".replace(" ", "_"))
        try:
            engine = backend("onnxruntime").load(path, EngineOptions())
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
