"""Engines for GPUs: compiled ahead of time, or bundled for the device; judged by emulating the same graph."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx

from edge.backends import Engine, EngineOptions
from edge.backends.trt_api import PACKAGES, capabilities
from edge.build import device_times, emulate, profiles
from edge.build import lint as linter
from edge.build.bundle import GRAPH, SCRIPT, documents
from edge.build.choose import Chosen, Opener, told
from edge.build.finish import ENGINE_FILES, Draft, finish, written
from edge.build.reference import REFERENCE
from edge.build.resources import current_rss, give_back, in_child
from edge.build.site import Site
from edge.build.suitable import refuse_unsuitable
from edge.build.tails import PLUGINS, append_tail, tail_outputs
from edge.build.tensorrt import CompileRequest, compile_engine, refuse_what_cannot_fit
from edge.build.verify import Run, measure
from edge.build.workshop import Made, Workshop
from edge.errors import ConfigError, GateError, RuntimeFault
from edge.graph import serialize, sha256
from edge.manifest import Accuracy, BuilderInfo
from edge.precision.given import QUANTIZERS
from edge.precision.plan import Plan, Variant
from edge.precision.rewrite import planned_precisions
from edge.targets import Target


def make_for_gpu(
    shop: Workshop, target: Target, variant: Variant, builder: str, label: str, site: Site | None = None
) -> Made:
    """An engine compiled ahead of time, or a bundle for the device, judged by emulating the same graph.
    Where the device is here, the engine is compiled for it, and judged again on it. Where a plan with the
    type that the device prefers fails its gate, one without that type is tried.

    Args:
        builder: "tensorrt_rtx" to compile ahead of time, "tensorrt" for a bundle; the site's, if any.
        site: the device, if it is here.

    Raises:
        ModelError: lint or the compiler refuses the graph.
        GateError: nothing is accurate enough; the error of what came nearest.
    """
    rejected: list[GateError] = []
    for row in _rows(target, variant):
        try:
            engine = _make(shop, row, variant, builder, label, site)
        except GateError as e:
            rejected.append(e)
            continue
        except ConfigError:  # a policy asks for the type that is left out now
            if not rejected:
                raise
            break
        if not rejected:
            return engine
        kept, left = row.quantized[0], target.quantized[0]
        why = f"{kept}, because with {left} it fails the gate: {rejected[0].why}"
        return dataclasses.replace(engine, reason=f"{why}; {engine.reason}")
    raise max(rejected, key=_reached)


def _reached(error: GateError) -> tuple[float, float]:
    """How good an engine is that failed its gate: by its task's metric, then by its outputs."""
    found = error.accuracy or Accuracy()
    cosines = [output.cosine or 0.0 for output in found.outputs]
    return found.this if found.this is not None else -math.inf, min(cosines, default=0.0)


def _rows(target: Target, variant: Variant) -> list[Target]:
    """The target's row, and for quantized engines the same without each type that it prefers."""
    count = len(target.quantized) if variant == "fast" else 1
    return [target, *(dataclasses.replace(target, quantized=target.quantized[n:]) for n in range(1, count))]


def _make(
    shop: Workshop, target: Target, variant: Variant, builder: str, label: str, site: Site | None
) -> Made:
    refuse_unsuitable(shop.graph, target)
    costs = None if site is None or variant != "fast" else device_times.measured(shop, target, site, label)
    chosen = shop.chosen(target, variant, emulation(shop, target, label), label, costs)
    typed, made = chosen.typed(target), chosen.plan
    came_with = {node.name for node in shop.graph.nodes if node.op_type in QUANTIZERS}
    findings = linter.lint(typed, target, came_with)
    linter.refuse(findings, target)
    folder = f"{target.name}/{variant}"
    complete = _with_tail(shop, shop.opened(typed), target, builder, site)
    graph = shop.write(complete, f"{folder}/{GRAPH}")
    accuracy, digest = _judge_emulated(shop, typed, made, label)
    shop.pass_gate(accuracy, label, chosen.found)
    ahead = builder == "tensorrt_rtx" and site is None
    request = compile_request(shop, graph, target, made, builder)
    product = _compiled(shop, request, graph, label) if ahead else _bundled(request)
    travelling = {GRAPH: graph, REFERENCE: shop.reference_file, **documents(graph.parent, target)}
    judged = Made(
        files={**travelling, **product.files},
        engine_file=product.engine_file,
        backend=builder,
        builder=BuilderInfo(name=builder, version=product.version),
        state="simulated" if ahead else "bundle",
        plan=made,
        accuracy=accuracy,
        reason="; ".join([*told(chosen.found), product.reason]),
        lint=(*map(str, findings), *product.warnings),
        compiler_peak_rss=product.peak_rss,
        tail=tail_outputs(complete),
        chosen=chosen,
        speed_up=chosen.speed_up,
        samples=shop.looked_at.get(digest),
    )
    return judged if site is None else _verified(shop, judged, site, label)


def emulation(shop: Workshop, target: Target, label: str) -> Opener:
    """Runs a plan for a GPU on the processor, in the number formats of the GPU."""

    @contextmanager
    def opened(chosen: Chosen) -> Iterator[Run]:
        wide = emulate.emulated(chosen.typed(target))
        with _running(shop, wide, f"{target.name}/search.onnx", label) as (_, engine):
            yield engine.run

    return opened


def _verified(shop: Workshop, made: Made, site: Site, label: str) -> Made:
    """The same graph compiled for the GPU that is here, and judged there with every held-out sample."""
    graph = made.files[GRAPH]
    verify = f"verify {label} on {site.gpu.name}"

    def judge(engine: Engine) -> Accuracy:
        how = f"run on {site.gpu.name}"
        found = measure(
            engine.run, shop.reference, how, lambda done, total: shop.progress(verify, done, total)
        )
        return found.model_copy(update={"promised": made.accuracy.outputs})

    feeds = next(iter(shop.reference)).feeds
    plan = planned_precisions(made.plan.steps, made.plan.carrier)
    draft = Draft(label, graph.read_bytes(), plan, shop.config, made.accuracy, feeds)
    done = finish(draft, site, judge, graph.parent, shop.progress)
    return dataclasses.replace(
        made,
        files={GRAPH: graph, REFERENCE: shop.reference_file, **done.files},
        accuracy=done.accuracy,
        reason=f"compiled and verified on {site.gpu.name}",
        lint=(*made.lint, *done.findings),
        compiler_peak_rss=done.compiler_peak_rss,
        finished=done,
    )


def _with_tail(
    shop: Workshop, typed: onnx.ModelProto, target: Target, builder: str, site: Site | None
) -> onnx.ModelProto:
    """The graph that is compiled: behind the one that is judged, what its task has the device compute.

    A bundle that either runtime may finish has no plugins.
    """
    either = site is None and len(target.builders) > 1
    oldest = ".".join(map(str, target.min_tensorrt or (10, 3)))
    version = shop.machine.packages.get(PACKAGES[builder][0]) or oldest
    plugins = PLUGINS if capabilities(builder, version).plugins and not either else ()
    return append_tail(typed, shop.reference.task, shop.config.input, plugins)


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
    precisions = planned_precisions(made.steps, made.carrier)
    request = CompileRequest(graph.read_bytes(), builder, target.compute_capability, plan=precisions)
    return profiles.within(request, shop.profile, shop.shapes, shop.graph.inputs[0])


def _compiled(shop: Workshop, request: CompileRequest, graph: Path, label: str) -> _Product:
    """Compile in a process of its own; memory is this process's and the child's together."""
    shop.progress(f"compile {label}", 0, 0)
    give_back()
    here = current_rss()
    compiled, peak = in_child(
        compile_engine,
        request,
        progress=lambda phase, done, total: shop.progress(f"compile {label}", done, total),
    )
    return _Product(
        files=written(compiled, request.runtime, graph.parent),
        engine_file=ENGINE_FILES[request.runtime],
        reason="compiled ahead of time; accuracy emulated on the processor",
        version=compiled.version,
        warnings=tuple(f"compiler: {text}" for text in (*compiled.findings, *compiled.warnings)),
        peak_rss=here + peak,
    )


def _bundled(request: CompileRequest) -> _Product:
    refuse_what_cannot_fit(request)
    return _Product({}, GRAPH, f"graph ready; on the device run: sh {SCRIPT}")


@contextmanager
def _running(shop: Workshop, wide: onnx.ModelProto, name: str, label: str) -> Iterator[tuple[Path, Engine]]:
    """An emulated graph as an engine."""
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(shop.running(wide, name, EngineOptions(exact=True)))
        except RuntimeFault as e:  # its own text names a temporary file
            raise RuntimeFault(f"ONNX Runtime cannot emulate {label}", e.why, "export the model again") from e
        yield opened


def _judge_emulated(shop: Workshop, typed: onnx.ModelProto, made: Plan, label: str) -> tuple[Accuracy, str]:
    """Accuracy, and the hash of the graph that was run for it."""
    wide = emulate.emulated(typed)
    digest = sha256(serialize(wide))
    if digest not in shop.judged:
        with _running(shop, wide, f"{digest}.onnx", label) as (path, engine):
            emulate.check(path, engine, next(iter(shop.reference)).feeds)
            how = f"emulated on the processor ({made.label}, {made.carrier} carrier)"
            shop.judge(digest, engine, how, label)
    return shop.judged[digest], digest
