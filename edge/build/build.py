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
from pathlib import Path
from typing import Any, Protocol

from edge.backends import EngineOptions, backend
from edge.build import calibrate, graph, placement, profiles
from edge.build.gpu import make_for_gpu
from edge.build.inputs import Inputs, gather
from edge.build.plan import Variant
from edge.build.processor import make_for_processor
from edge.build.resources import peak_rss, reset_peak
from edge.build.verify import Reference
from edge.build.workshop import Made, Workshop
from edge.config import ModelConfig
from edge.errors import EdgeError, GateError, RuntimeFault, StoreError
from edge.machine import Machine
from edge.manifest import Accuracy, Entry, Manifest, PlanEntry, Tensor
from edge.store import Store
from edge.targets import Target, format_capability

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one engine.

    Attributes:
        state: the engine's, or "failed".
        cached: nothing had changed, the published engine was kept.
        path: the engine's folder; None if it failed.
    """

    model: str
    target: str
    variant: str
    state: str
    key: str
    size_bytes: int
    quantized_mac_share: float
    accuracy: Accuracy | None
    build_seconds: float
    peak_rss_bytes: int
    path: Path | None
    reason: str
    cached: bool = False
    error: EdgeError | None = None

    def to_json(self) -> dict[str, Any]:
        accuracy = self.accuracy and self.accuracy.model_dump(include={"metric", "fp32", "this", "samples"})
        return {
            "model": self.model,
            "target": self.target,
            "variant": self.variant,
            "state": self.state,
            "key": self.key,
            "size_bytes": self.size_bytes,
            "quantized_mac_share": round(self.quantized_mac_share, 4),
            "accuracy": accuracy,
            "build_seconds": round(self.build_seconds, 3),
            "peak_rss_bytes": self.peak_rss_bytes,
            "path": None if self.path is None else str(self.path),
            "reason": self.reason,
            "cached": self.cached,
        }


class Reporter(Protocol):
    """Hears how the build gets on."""

    def step(self, text: str, done: int, total: int) -> None:
        """A step's progress; total 0 means that it is not known."""
        ...

    def row(self, row: Row) -> None:
        """An engine is finished."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """One engine to be made."""

    target: Target
    variant: Variant
    key: str
    builder: str

    @property
    def label(self) -> str:
        return f"{self.target.name}/{self.variant}"


def build(
    config: ModelConfig,
    targets: Sequence[Target],
    variants: Sequence[Variant],
    store: Store,
    machine: Machine,
    reporter: Reporter,
) -> list[Row]:
    """Build every variant for every target; a row each, in that order.

    Raises:
        EdgeError: what all engines need (graph, samples, calibration) cannot be had. An engine that fails on
            its own is a row with an error instead.
    """
    reporter.step("read the model and its samples", 0, 0)
    inputs = gather(config)
    jobs = [_job(inputs, target, variant, machine) for target in targets for variant in variants]
    cached = {job: _unchanged(store, config.name, job) for job in jobs}
    rows = {job: _cached_row(entry) for job, entry in cached.items() if entry is not None}
    for row in rows.values():
        reporter.row(row)
    todo = [job for job in jobs if job not in rows]
    if todo:
        with tempfile.TemporaryDirectory(prefix="edge-build-") as folder:
            shop = _open_workshop(inputs, todo, store, machine, reporter, Path(folder))
            for job in todo:
                rows[job] = _finish(inputs, job, shop, store, machine)
                reporter.row(rows[job])
    return [rows[job] for job in jobs]


def _job(inputs: Inputs, target: Target, variant: Variant, machine: Machine) -> Job:
    builder = choose_builder(target, machine)
    version = machine.packages.get(builder.replace("_", "-"), "")
    return Job(target, variant, inputs.key(target, variant, machine, f"{builder} {version}"), builder)


def choose_builder(target: Target, machine: Machine) -> str:
    """What makes the engine here: the first of the row's builders that this machine has, else a bundle."""
    if not target.is_gpu:
        return "onnxruntime"
    return "tensorrt_rtx" if target.compiles_ahead(machine) else "tensorrt"


def _unchanged(store: Store, model: str, job: Job) -> Entry | None:
    """The live engine, if it is whole and nothing that determines it has changed."""
    try:
        entry = store.current(model, job.target.name, job.variant)
        if entry is None or entry.manifest.key != job.key:
            return None
        entry.verify()
    except StoreError:
        return None  # damaged: build it again
    return entry


def _cached_row(entry: Entry) -> Row:
    m = entry.manifest
    return Row(
        model=m.model,
        target=m.target,
        variant=m.variant,
        state=m.state,
        key=m.key,
        size_bytes=m.size_bytes,
        quantized_mac_share=m.quantized_mac_share,
        accuracy=m.accuracy,
        build_seconds=m.build_seconds,
        peak_rss_bytes=m.peak_rss_bytes,
        path=entry.path,
        reason=m.reason,
        cached=True,
    )


def _open_workshop(
    inputs: Inputs, jobs: Sequence[Job], store: Store, machine: Machine, reporter: Reporter, folder: Path
) -> Workshop:
    """Prepare the graph, calibrate, and run fp32 on the held-out samples."""
    config = inputs.config
    reset_peak()
    reporter.step("prepare the graph", 0, 0)
    shape = (config.input.channels, *config.input.size)
    model = graph.prepare(graph.read(config.onnx), config.input.name, shape)
    index = graph.Graph(model)
    shapes = profiles.input_shapes(config)
    if shapes is not None:
        reporter.step("prove the range of batches and sizes", 0, 0)
        profiles.prove(model, config, shapes)
    path = folder / "fp32.onnx"
    path.write_bytes(graph.serialize(model))
    engine = backend("onnxruntime").load(path, EngineOptions())
    try:
        wanted = any(job.variant == "fast" for job in jobs)
        ranges = _calibrated(inputs, index, store, reporter).ranges if wanted else {}
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
    finally:
        engine.close()
    return Workshop(
        index,
        ranges,
        reference,
        config.gate,
        machine,
        folder,
        reporter.step,
        peak_rss(),
        config.profile,
        shapes,
    )


def _calibrated(
    inputs: Inputs, index: graph.Graph, store: Store, reporter: Reporter
) -> calibrate.Calibration:
    """Ranges from the store's cache, or measured now and kept there."""
    digest = inputs.calibration_sha256
    path = store.root / inputs.config.name / ".calibration" / f"{digest[:16]}.npz"
    found = calibrate.Calibration.load(path, digest)
    if found is None:
        found = calibrate.calibrate(
            index.model,
            placement.observed_tensors(index),
            inputs.feeds(index.inputs[0]),
            len(inputs.calibration),
            digest,
            lambda done, total: reporter.step("calibrate", done, total),
        )
        found.save(path)
    return found


def _finish(inputs: Inputs, job: Job, shop: Workshop, store: Store, machine: Machine) -> Row:
    """Make, judge and publish one engine; what goes wrong becomes a row."""
    start = time.perf_counter()
    reset_peak()
    shop.progress(f"plan {job.label}", 0, 0)
    try:
        if job.target.is_gpu:
            made = make_for_gpu(shop, job.target, job.variant, job.builder, job.label)
        else:
            made = make_for_processor(shop, job.target, job.variant, job.label)
        seconds = time.perf_counter() - start
        peak = max(peak_rss(), made.compiler_peak_rss, shop.preparation_peak_rss)
        entry = store.publish(_manifest(inputs, job, made, shop, machine, seconds, peak), made.files)
    except EdgeError as e:
        return _failed_row(inputs.config.name, job, time.perf_counter() - start, e)
    except OSError as e:
        fault = RuntimeFault(
            f"cannot build {job.label}", f"{e.strerror or e}", "check the disk, and build again"
        )
        return _failed_row(inputs.config.name, job, time.perf_counter() - start, fault)
    except Exception as e:  # a fault of ours: it costs this engine and no other
        log.exception("building %s", job.label)
        fault = RuntimeFault(f"cannot build {job.label}", f"{type(e).__name__}: {e}", "please report it")
        return _failed_row(inputs.config.name, job, time.perf_counter() - start, fault)
    return dataclasses.replace(_cached_row(entry), cached=False)


def _failed_row(model: str, job: Job, seconds: float, error: EdgeError) -> Row:
    return Row(
        model=model,
        target=job.target.name,
        variant=job.variant,
        state="failed",
        key=job.key,
        size_bytes=0,
        quantized_mac_share=0.0,
        accuracy=error.accuracy if isinstance(error, GateError) else None,
        build_seconds=seconds,
        peak_rss_bytes=peak_rss(),
        path=None,
        reason=f"{error.what}: {error.why}" if error.why else error.what,
        error=error,
    )


def _manifest(
    inputs: Inputs, job: Job, made: Made, shop: Workshop, machine: Machine, seconds: float, peak: int
) -> Manifest:
    origin = f" ({inputs.origin})" if inputs.origin else ""
    accuracy = made.accuracy.model_copy(update={"how": made.accuracy.how + origin})
    return Manifest(
        model=inputs.config.name,
        target=job.target.name,
        variant=job.variant,
        state=made.state,
        key=job.key,
        graph_sha256=inputs.graph_sha256,
        calibration_sha256=inputs.calibration_sha256 if made.plan.quantized else None,
        plan=tuple(
            PlanEntry(node=s.node, op=s.op, precision=s.precision, reason=s.reason) for s in made.plan.steps
        ),
        carrier=made.plan.carrier,
        builder=made.builder,
        backend=made.backend,
        engine_file=made.engine_file,
        compute_capability=format_capability(job.target.compute_capability),
        requires=made.requires,
        inputs=tuple(_tensor(shop, name) for name in shop.graph.inputs),
        outputs=tuple(_tensor(shop, name) for name in shop.graph.outputs),
        config=inputs.config.model_dump(mode="json"),
        accuracy=accuracy,
        quantized_mac_share=made.plan.quantized_mac_share,
        lint=made.lint,
        build_seconds=seconds,
        peak_rss_bytes=peak,
        machine=machine.label,
        reason=made.reason,
        licence=inputs.config.licence,
    )


def _tensor(shop: Workshop, name: str) -> Tensor:
    """Inputs and outputs stay float32 on every target; "?" is a size that depends on the data."""
    shape = shop.dimensions.get(name) or shop.graph.shape(name) or ("?",)
    return Tensor(name=name, dtype="float32", shape=shape)
