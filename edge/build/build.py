"""The build of a model for many targets: each engine is made, judged and published on its own.

What can be shared is done once: calibration (cached in the store), fp32 results of the held-out samples, and
the evaluation of graphs that several targets have in common. An engine whose inputs did not change is a cache
hit. One that fails leaves the published one in place, and the others are still built.
"""

from __future__ import annotations

import dataclasses
import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edge import graph
from edge.backends import Engine, EngineOptions, backend
from edge.build import evidence, profiles, samples_check
from edge.build.carried import carried, finish_carried, unchanged, verified
from edge.build.choose import RUN_ON, SEARCHED, Chooser, comparable, within_reach
from edge.build.gpu import make_for_gpu
from edge.build.inputs import Inputs, engine_key, gather
from edge.build.processor import make_for_processor
from edge.build.resources import peak_rss, reset_peak
from edge.build.rows import Identity, Reporter, Row, attempted, row_of
from edge.build.site import Site, find_site, gpu_of, obstacle
from edge.build.suitable import refuse_for_volumes
from edge.build.verify import Reference
from edge.build.workshop import Made, Workshop
from edge.config import ModelConfig
from edge.errors import GateError
from edge.machine import Machine
from edge.manifest import Entry, Manifest, PlanEntry, Tensor
from edge.precision import calibrate, equalize, placement
from edge.precision.given import has_quantizers
from edge.precision.plan import Variant
from edge.store import Store
from edge.targets import Target, format_capability

log = logging.getLogger(__name__)

__all__ = ["Reporter", "Row", "build"]


@dataclass(frozen=True, slots=True)
class Job:
    """One engine to be made.

    Attributes:
        recipe: hash of what its graph is made of.
        key: hash of what the engine is made of.
        builder: what compiles it, or is to compile it on its device.
        site: where on this machine it can be run, and so be verified; None if it cannot.
    """

    target: Target
    variant: Variant
    recipe: str
    key: str
    builder: str
    site: Site | None

    @property
    def label(self) -> str:
        return f"{self.target.name}/{self.variant}"

    def identity(self, model: str) -> Identity:
        return Identity(model, self.target.name, self.variant, self.key)


def build(
    config: ModelConfig,
    targets: Sequence[Target],
    variants: Sequence[Variant],
    store: Store,
    machine: Machine,
    reporter: Reporter,
    search_seconds: float | None = None,
) -> list[Row]:
    """Build every variant for every target; a row each, in that order.

    Args:
        search_seconds: what the search for one plan may take; None leaves it to the size of the model.

    Raises:
        EdgeError: what all engines need (graph, samples, calibration) cannot be had. An engine that fails on
            its own is a row with an error instead.
    """
    reporter.step("read the model and its samples", 0, 0)
    inputs = gather(config)
    jobs = [new_job(inputs, target, variant, machine) for target in targets for variant in variants]
    rows: dict[Job, Row] = {}
    for job in jobs:
        row = _from_store(job, config.name, store, machine, reporter)
        if row is not None and not isinstance(row.error, GateError):  # the model may give a better one
            rows[job] = row
            reporter.row(row)
    todo = [job for job in jobs if job not in rows]
    if todo:
        with tempfile.TemporaryDirectory(prefix="edge-build-") as folder:
            shop = open_workshop(inputs, todo, store, machine, reporter, Path(folder), search_seconds)
            for job in todo:
                rows[job] = _make(inputs, job, shop, store, machine)
                reporter.row(rows[job])
    return [_told(rows[job], job, machine) for job in jobs]


def new_job(inputs: Inputs, target: Target, variant: Variant, machine: Machine) -> Job:
    recipe = inputs.recipe(target, variant, machine)
    site = find_site(target, machine)
    builder = choose_builder(target, machine)
    if site is not None:
        key = engine_key(recipe, site.builder, site.gpu.compute_capability)
        return Job(target, variant, recipe, key, site.runtime, site)
    version = machine.packages.get(builder.replace("_", "-"), "") if builder != "tensorrt" else ""
    return Job(target, variant, recipe, engine_key(recipe, f"{builder} {version}"), builder, None)


def choose_builder(target: Target, machine: Machine) -> str:
    """What makes the engine away from its device: TensorRT-RTX ahead of time, else a bundle for TensorRT."""
    if not target.is_gpu:
        return "onnxruntime"
    return "tensorrt_rtx" if target.compiles_ahead(machine) else "tensorrt"


def _from_store(job: Job, model: str, store: Store, machine: Machine, reporter: Reporter) -> Row | None:
    """What needs no calibration: an engine that is there already, or is there to be finished."""
    identity = job.identity(model)
    published = unchanged(store, identity, "" if job.site else job.recipe)
    if published is not None:
        return row_of(published, cached=True)
    bundle = carried(store, identity, job.recipe) if job.site else None
    if bundle is None or job.site is None:
        return None
    return finish_carried(bundle, job.site, job.key, store, machine, reporter)


def _told(row: Row, job: Job, machine: Machine) -> Row:
    """The row, with what keeps a GPU that is here from running its engine."""
    if job.site is not None or gpu_of(job.target, machine) is None or row.error is not None:
        return row
    why = obstacle(job.target, machine)
    if why is None or row.state == "verified":
        return row
    return dataclasses.replace(row, reason=f"{row.reason}; not verified here: {why.why}: {why.fix}")


def open_workshop(
    inputs: Inputs,
    jobs: Sequence[Job],
    store: Store,
    machine: Machine,
    reporter: Reporter,
    folder: Path,
    seconds: float | None,
) -> Workshop:
    """Prepare the graph, calibrate, and run fp32 on the held-out samples."""
    config = inputs.config
    reset_peak()
    reporter.step("prepare the graph", 0, 0)
    source = graph.read(config.onnx, config.quantize.given)
    model = graph.prepare(source, config.input.name, config.input.shape)
    index = graph.Graph(model)
    shapes = profiles.input_shapes(config)
    if shapes is not None:
        reporter.step("prove the range of batches and sizes", 0, 0)
        profiles.prove(model, config, shapes)
    path = folder / "fp32.onnx"
    path.write_bytes(graph.serialize(model))
    engine = backend("onnxruntime").load(path, EngineOptions(exact=has_quantizers(model)))
    try:
        quantized = config.input.volume is None and any(job.variant != "exact" for job in jobs)
        chooser = None
        if quantized:
            cache = store.root / config.name / ".calibration" / inputs.measured(machine)
            chooser = _open_chooser(inputs, index, engine, cache, reporter, folder, seconds)
        cases = folder / "cases"
        cases.mkdir()
        reference = Reference(
            inputs.task,
            config.input,
            index.inputs[0],
            inputs.evaluation,
            engine.run,
            cases,
            lambda done, total: reporter.step("fp32 on held-out samples", done, total),
        )
        if chooser is not None:
            chooser.gate = comparable(config.gate, reference, chooser.search)
    finally:
        engine.close()
    return Workshop(
        index,
        chooser,
        reference,
        config,
        inputs.policy,
        machine,
        folder,
        reporter.step,
        peak_rss(),
        shapes,
        samples_check.warnings(inputs) if quantized else (),
    )


def _open_chooser(
    inputs: Inputs,
    index: graph.Graph,
    engine: Engine,
    cache: Path,
    reporter: Reporter,
    folder: Path,
    seconds: float | None,
) -> Chooser:
    """Calibrate, and run fp32 on the samples that plans are compared on."""
    macs = sum(index.macs(node) for node in index.nodes)
    equalized = _equalized(inputs, index, cache, macs, reporter)
    calibration = _calibrated(inputs, equalized.graph, cache, reporter)
    cases = folder / "search"
    cases.mkdir()
    samples = inputs.search[: within_reach(macs, SEARCHED)]
    search = Reference(
        inputs.task,
        inputs.config.input,
        index.inputs[0],
        samples,
        engine.run,
        cases,
        lambda done, total: reporter.step("fp32 on the search's samples", done, total),
        believed=True,
    )
    return Chooser(
        inputs,
        equalized.graph,
        calibration,
        search,
        inputs.policy,
        inputs.config.gate,
        cache,
        reporter.step,
        equalized.strengths,
        seconds,
    )


def _equalized(
    inputs: Inputs, index: graph.Graph, cache: Path, macs: int, reporter: Reporter
) -> equalize.Equalized:
    """The graph with channels of like range; by the factors of an earlier build, if there was one."""
    path = cache / "channels.npz"
    found = equalize.load(path, index) if inputs.config.quantize.equalize else equalize.unchanged(index)
    if found is None:
        every, tried, unseen = (
            (probe.feeds for probe in inputs.probes(index.inputs[0], samples))
            for samples in (
                inputs.calibration,
                inputs.calibration[: within_reach(macs, RUN_ON)],
                inputs.search[: within_reach(macs, RUN_ON)],
            )
        )
        say = partial(reporter.step, "equalize channels")
        found = equalize.equalize(index, every, list(tried), list(unseen), say)
        equalize.save(found, path)
    return found


def _calibrated(inputs: Inputs, index: graph.Graph, cache: Path, reporter: Reporter) -> calibrate.Calibration:
    """Ranges from the store's cache, or measured now and kept there."""
    digest = inputs.calibration_sha256
    found = calibrate.Calibration.load(cache / "ranges.npz", digest)
    if found is None:
        found = calibrate.calibrate(
            index.model,
            placement.observed_tensors(index),
            (probe.feeds for probe in inputs.probes(index.inputs[0], inputs.calibration)),
            len(inputs.calibration),
            digest,
            lambda done, total: reporter.step("calibrate", done, total),
            [f"picture {sample.path.name}" for sample in inputs.calibration],
        )
        found.save(cache / "ranges.npz")
    return found


def _make(inputs: Inputs, job: Job, shop: Workshop, store: Store, machine: Machine) -> Row:
    """Make, judge and publish one engine; what goes wrong becomes a row."""
    start = time.perf_counter()
    reset_peak()
    shop.progress(f"plan {job.label}", 0, 0)

    def make() -> Entry:
        refuse_for_volumes(inputs.config, job.target, job.variant)
        if job.target.is_gpu:
            made = make_for_gpu(shop, job.target, job.variant, job.builder, job.label, job.site)
        else:
            made = make_for_processor(shop, job.target, job.variant, job.label)
        seconds = time.perf_counter() - start
        peak = max(peak_rss(), made.compiler_peak_rss, shop.preparation_peak_rss)
        entry = store.publish(_manifest(inputs, job, made, shop, machine, seconds, peak), made.files)
        _keep_evidence(entry, made, shop, store)
        return entry

    return dataclasses.replace(
        attempted(job.identity(inputs.config.name), make), warnings=_warnings(job, shop)
    )


def _warnings(job: Job, shop: Workshop) -> tuple[str, ...]:
    """What is wrong with the calibration pictures matters to quantized engines alone."""
    return () if job.variant == "exact" else shop.warnings


def _keep_evidence(entry: Entry, made: Made, shop: Workshop, store: Store) -> None:
    """For the report. The engine is published and good: what goes wrong here must not call it a failure."""
    try:
        evidence.save(evidence.gather(entry.manifest, made.chosen, made.samples, shop.chooser), store.root)
    except Exception:
        log.warning("the report of %s will know less", entry.manifest.address, exc_info=True)


def _manifest(
    inputs: Inputs, job: Job, made: Made, shop: Workshop, machine: Machine, seconds: float, peak: int
) -> Manifest:
    origin = f" ({inputs.origin})" if inputs.origin else ""
    accuracy = made.accuracy.model_copy(update={"how": made.accuracy.how + origin})
    manifest = Manifest(
        model=inputs.config.name,
        target=job.target.name,
        variant=job.variant,
        state=made.state,
        key=job.key,
        recipe=job.recipe,
        graph_sha256=inputs.graph_sha256,
        calibration_sha256=inputs.calibration_sha256
        if made.plan.quantized or made.plan.weight_only
        else None,
        plan=tuple(
            PlanEntry(node=s.node, op=s.op, precision=s.precision, reason=s.reason, group=s.group)
            for s in made.plan.steps
        ),
        carrier=made.plan.carrier,
        builder=made.builder,
        backend=made.backend,
        engine_file=made.engine_file,
        compute_capability=format_capability(job.target.compute_capability),
        requires=made.requires,
        inputs=tuple(_tensor(shop, name) for name in shop.graph.inputs),
        outputs=(*(_tensor(shop, name) for name in shop.graph.outputs), *made.tail),
        config=inputs.config.model_dump(mode="json"),
        accuracy=accuracy,
        quantized_mac_share=made.plan.quantized_mac_share,
        mac_shares=made.plan.mac_shares,
        speed_up=made.speed_up,
        lint=made.lint,
        warnings=_warnings(job, shop),
        build_seconds=seconds,
        peak_rss_bytes=peak,
        machine=machine.label,
        reason=made.reason,
        licence=inputs.config.licence,
    )
    if job.site is None or made.finished is None:
        return manifest
    return manifest.model_copy(update=verified(job.site, made.finished))


def _tensor(shop: Workshop, name: str) -> Tensor:
    """Inputs and outputs stay float32 on every target; "?" is a size that depends on the data."""
    shape = shop.dimensions.get(name) or shop.graph.shape(name) or ("?",)
    return Tensor(name=name, dtype="float32", shape=shape)
