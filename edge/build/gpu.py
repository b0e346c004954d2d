"""Engines for GPUs: compiled ahead of time, or bundled for the device; judged by emulating the same graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from edge.backends import Engine, EngineOptions, backend
from edge.build import emulate, plan, rewrite
from edge.build import lint as linter
from edge.build.graph import serialize, sha256
from edge.build.numerics import QuantType
from edge.build.plan import Plan, Variant
from edge.build.resources import current_rss, in_child
from edge.build.tensorrt import CompileRequest, Profile, compile_engine, refuse_what_cannot_fit
from edge.build.workshop import Made, Workshop
from edge.config import ProfileConfig
from edge.errors import GateError, RuntimeFault
from edge.manifest import Accuracy, BuilderInfo
from edge.targets import Target


def make_for_gpu(shop: Workshop, target: Target, variant: Variant, builder: str, label: str) -> Made:
    """An engine compiled ahead of time, or a bundle for the device, judged by emulating the same graph.

    A quantized engine has the first type of the target's preference that passes the gate: fp8 keeps three
    bits of mantissa, and where that is too coarse int8 may still do.

    Args:
        builder: "tensorrt_rtx" to compile here, "tensorrt" for a bundle.

    Raises:
        ModelError: lint or the compiler refuses the graph.
        GateError: no type is accurate enough; the preferred one's error.
    """
    kinds: tuple[QuantType | None, ...] = target.quantized if variant == "fast" else (None,)
    rejected: dict[QuantType | None, GateError] = {}
    for kind in kinds:
        made = plan.make(shop.graph, target, variant, shop.ranges, kind=kind)
        try:
            engine = _make(shop, target, made, builder, f"{label} ({kind})" if rejected else label)
        except GateError as e:
            rejected[kind] = e
            continue
        why = [f"{kind}, because {other} fails the gate: {e.why}" for other, e in rejected.items()]
        return dataclasses.replace(engine, reason="; ".join([*why, engine.reason]))
    raise rejected[kinds[0]]


def _make(shop: Workshop, target: Target, made: Plan, builder: str, label: str) -> Made:
    """The engine of one plan."""
    typed = rewrite.rewrite(shop.graph, made, shop.ranges, target)
    findings = linter.lint(typed, target)
    linter.refuse(findings, target)
    folder = f"{target.name}/{made.kind or made.carrier}"
    graph = shop.write(shop.opened(typed), f"{folder}/graph.onnx")
    ahead = builder == "tensorrt_rtx"
    request = compile_request(shop, graph, target, made, builder)
    product = _compiled(shop, request, graph, label) if ahead else _bundled(request, graph, target)
    accuracy = _judge_emulated(shop, typed, made, label)
    shop.pass_gate(accuracy, label)
    return Made(
        files={"graph.onnx": graph, **product.files},
        engine_file=product.engine_file,
        backend=builder,
        builder=BuilderInfo(name=builder, version=product.version),
        state="simulated" if ahead else "bundle",
        plan=made,
        accuracy=accuracy,
        reason=product.reason,
        lint=(*map(str, findings), *product.warnings),
        compiler_peak_rss=product.peak_rss,
    )


@dataclass(frozen=True, slots=True)
class _Product:
    """What came out of compiling or bundling a graph."""

    files: Mapping[str, Path]
    engine_file: str
    reason: str
    version: str = ""
    warnings: tuple[str, ...] = ()
    peak_rss: int = 0


def compile_request(shop: Workshop, graph: Path, target: Target, made: Plan, builder: str) -> CompileRequest:
    """What a graph is compiled with, here for a target or later on its device."""
    profile = shop.profile or ProfileConfig()
    return CompileRequest(
        graph.read_bytes(),
        builder,
        target.compute_capability,
        {} if shop.shapes is None else {shop.graph.inputs[0]: shop.shapes},
        profile.workspace_mb,
        profile.gpu_memory_mb,
        plan=planned_precisions(made),
    )


def _compiled(shop: Workshop, request: CompileRequest, graph: Path, label: str) -> _Product:
    """Compile in a process of its own; memory is this process's and the child's together."""
    shop.progress(f"compile {label}", 0, 0)
    here = current_rss()
    compiled, peak = in_child(
        compile_engine,
        request,
        progress=lambda phase, done, total: shop.progress(f"compile {label}", done, total),
    )
    files = {"engine.rtx": graph.with_name("engine.rtx")}
    files["engine.rtx"].write_bytes(compiled.engine)
    if compiled.layers:
        files["layers.json"] = graph.with_name("layers.json")
        files["layers.json"].write_text(compiled.layers, encoding="utf-8")
    return _Product(
        files=files,
        engine_file="engine.rtx",
        reason="compiled ahead of time; accuracy emulated on the processor",
        version=compiled.version,
        warnings=tuple(f"compiler: {text}" for text in (*compiled.findings, *compiled.warnings)),
        peak_rss=here + peak,
    )


def planned_precisions(made: Plan) -> tuple[tuple[str, str], ...]:
    """Node → precision as the graph has it: control flow and its like run in fp32, whatever the carrier."""
    return tuple((s.node, "fp32" if s.op in rewrite.FP32_ISLANDS else s.precision) for s in made.steps)


def _bundled(request: CompileRequest, graph: Path, target: Target) -> _Product:
    refuse_what_cannot_fit(request)
    script = _finish_script(graph.parent, target, request.profiles)
    reason = f"graph ready; on the device run: sh {script.name}"
    return _Product({script.name: script}, graph.name, reason)


def _finish_script(folder: Path, target: Target, profiles: Mapping[str, Profile]) -> Path:
    """The one command that finishes a bundle on the device, with the tool that comes with TensorRT."""
    path = folder / "finish.sh"
    shapes = "".join(
        f" --{end}Shapes={name}:{'x'.join(map(str, sizes))}"
        for name, p in profiles.items()
        for end, sizes in (("min", p.minimum), ("opt", p.optimum), ("max", p.maximum))
    )
    path.write_text(
        "#!/bin/sh\n"
        f"# Compiles this bundle on {target.devices[0]} (compute capability {target.capability_text}) "
        f"with TensorRT {'.'.join(map(str, target.min_tensorrt or (10, 3)))} or newer.\n"
        'cd "$(dirname "$0")" || exit 1\n'
        'trtexec="$(command -v trtexec || echo /usr/src/tensorrt/bin/trtexec)"\n'
        f'exec "$trtexec" --onnx=graph.onnx --stronglyTyped --saveEngine=engine.plan{shapes} "$@"\n'
    )
    return path


def _load_emulation(path: Path, label: str) -> Engine:
    try:
        return backend("onnxruntime").load(path, EngineOptions(exact=True))
    except RuntimeFault as e:  # its own text names a temporary file
        raise RuntimeFault(f"ONNX Runtime cannot emulate {label}", e.why, "export the model again") from e


def _judge_emulated(shop: Workshop, typed: onnx.ModelProto, made: Plan, label: str) -> Accuracy:
    wide = emulate.emulated(typed)
    digest = sha256(serialize(wide))
    if digest not in shop.judged:
        path = shop.write(wide, f"{digest}.onnx")
        engine = _load_emulation(path, label)
        try:
            emulate.check(path, engine, next(iter(shop.reference)).feeds)
            how = f"emulated on the processor ({made.kind or 'no'} quantization, {made.carrier} carrier)"
            shop.judge(digest, engine, how, label)
        finally:
            engine.close()
            path.unlink()
    return shop.judged[digest]
