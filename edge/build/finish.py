"""Finishing an engine on its device: compile it there, run it, compare with fp32, measure its latency.

What is compiled is the graph that the builder made and judged by emulation, on this machine or on another.
Only an engine that ran on the GPU and passed its model's gate there is `verified`.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge.backends import Engine, EngineOptions, Expectation, Slot, backend
from edge.backends.trt_api import check_driver
from edge.build.layers import Precisions
from edge.build.profiles import input_shapes, within
from edge.build.reference import ReferenceSamples
from edge.build.resources import current_rss, give_back, in_child
from edge.build.site import Site
from edge.build.tensorrt import Compiled, CompileRequest, compile_engine
from edge.build.verify import COSINE, Comparison, failures, lowest_cosine
from edge.config import ModelConfig
from edge.errors import GateError
from edge.manifest import Accuracy, GpuInfo, Latency, OutputAccuracy, sha256
from edge.types import Array

Progress = Callable[[str, int, int], None]
"""What is being done, steps done, steps in all."""
Judge = Callable[[Engine], Accuracy]
"""Runs an engine on samples and compares."""

ENGINE_FILES = {"tensorrt": "engine.plan", "tensorrt_rtx": "engine.rtx"}
WARM_UP, RUNS, SECONDS = 20, 300, 2.0
"""Latency: runs before, and runs or seconds of each of the two measurements, whichever ends first."""
PROFILED = 50
"""Runs over which layers are timed."""
WORSE_DB = 3.0
"""Noise so far above what emulation promised is worth a word, even where the gate lets it pass."""


@dataclass(frozen=True, slots=True)
class Finished:
    """An engine that ran on its GPU and passed its gate there, not yet published.

    Attributes:
        files: name in the store → where it is now; the engine file is `ENGINE_FILES[runtime]`.
        findings: what the compiler and the device had to say.
        compiler_peak_rss: of this process and the compiler's together, in bytes.
    """

    files: Mapping[str, Path]
    version: str
    accuracy: Accuracy
    latency: Latency
    gpu: GpuInfo
    findings: tuple[str, ...]
    timing_cache: str
    compiler_peak_rss: int


@dataclass(frozen=True, slots=True)
class Draft:
    """What an engine is finished from.

    Attributes:
        label: what to call it.
        plan: node → precision, compared with what the compiler makes of it.
        promised: what emulation found.
        feeds: one input, to measure latency with.
    """

    label: str
    graph: bytes
    plan: Precisions
    config: ModelConfig
    promised: Accuracy
    feeds: Mapping[str, Array]


def finish(draft: Draft, site: Site, judge: Judge, folder: Path, progress: Progress) -> Finished:
    """Compile for the GPU that is here, run there, compare, measure.

    Args:
        folder: for the files.

    Raises:
        GateError: it is not accurate enough on the device.
        ModelError: TensorRT refuses the graph.
        RuntimeFault, MissingPackage: the GPU, its driver or a package is not what is needed.
    """
    ready = _made_ready(draft, site, folder, progress)
    compiled = ready.compiled
    progress(f"verify {draft.label} on {site.gpu.name}", 0, 0)
    with closing(backend(site.runtime).load(ready.path, ready.options)) as engine:
        accuracy = judge(engine)
        _pass_gate(accuracy, draft, site)
        latency = measure_latency(
            engine, draft.feeds, lambda done, total: progress(f"measure {draft.label}", done, total)
        )
    said = tuple(f"compiler: {text}" for text in (*compiled.findings, *compiled.warnings))
    return Finished(
        files=ready.files,
        version=compiled.version,
        accuracy=accuracy,
        latency=latency,
        gpu=GpuInfo(name=site.gpu.name, driver=site.gpu.driver),
        findings=(*said, *broken_promises(accuracy.outputs, draft.promised.outputs)),
        timing_cache=compiled.timing_cache,
        compiler_peak_rss=ready.peak,
    )


@dataclass(frozen=True, slots=True)
class _Ready:
    """Compiled for the GPU that is here, not yet loaded.

    Attributes:
        path: of the engine file among `files`.
        options: to load it with.
        peak: memory of this process and the compiler's together, in bytes.
    """

    compiled: Compiled
    files: Mapping[str, Path]
    path: Path
    options: EngineOptions
    peak: int


def _made_ready(draft: Draft, site: Site, folder: Path, progress: Progress) -> _Ready:
    gpu = _checked_gpu(site)  # before minutes are spent on compiling
    with only_gpu(gpu):
        compiled, peak = _compile(draft, site, progress)
    files = written(compiled, site.runtime, folder)
    path = files[ENGINE_FILES[site.runtime]]
    expected = Expectation(sha256(path), (site.runtime, compiled.version), site.gpu.compute_capability)
    options = EngineOptions(size=draft.config.input.size, gpu=gpu, expected=expected)
    return _Ready(compiled, files, path, options, peak)


def _checked_gpu(site: Site) -> int:
    """The number of the site's GPU, whose driver is new enough for the site's runtime."""
    from edge.cuda.device import find_gpu
    from edge.cuda.driver import bindings, supported_cuda

    gpu = find_gpu(site.gpu.compute_capability)
    check_driver(site.runtime, site.version, supported_cuda(bindings()))
    return gpu


@contextmanager
def only_gpu(number: int) -> Iterator[None]:
    """Processes started inside the block see this GPU alone, and so compile for it."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if number > 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = before.split(",")[number] if before else str(number)
    try:
        yield
    finally:
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before
        else:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)


def _compile(draft: Draft, site: Site, progress: Progress) -> tuple[Compiled, int]:
    """The engine, and the peak memory of this process and the compiler's together."""
    give_back()
    here = current_rss()
    label = f"compile {draft.label} with {site.builder}"
    progress(label, 0, 0)
    compiled, peak = in_child(
        compile_engine,
        _request(draft, site),
        progress=lambda phase, done, total: progress(label, done, total),
    )
    return compiled, here + peak


def _request(draft: Draft, site: Site) -> CompileRequest:
    from edge.cuda import cache

    request = CompileRequest(
        draft.graph,
        site.runtime,
        capability=None,
        timing_cache=cache.folder() / "timings",
        gpu="sm{}{}".format(*site.gpu.compute_capability),
        plan=draft.plan,
    )
    return within(request, draft.config.profile, input_shapes(draft.config), next(iter(draft.feeds)))


def written(compiled: Compiled, runtime: str, folder: Path) -> dict[str, Path]:
    """The engine, and what the compiler tells of its layers, as files by their name in the store."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {ENGINE_FILES[runtime]: compiled.engine}
    if compiled.layers:
        contents["layers.json"] = compiled.layers.encode()
    files = {name: folder / name for name in contents}
    for name, content in contents.items():
        files[name].write_bytes(content)
    return files


# ---------------------------------------------------------------------- judging


def judge_by(samples: ReferenceSamples, draft: Draft, site: Site) -> Judge:
    """Compare with the results that travelled along; the task's metric is the one that was emulated."""

    def judge(engine: Engine) -> Accuracy:
        comparison = Comparison(silent=1.0)
        for feeds, outputs in samples.samples(draft.config.input):
            comparison.add(outputs, engine.run(feeds))
        found, promised = comparison.outputs(), draft.promised
        how = f"run on {site.gpu.name}: {len(samples)} reference sample{'s' if len(samples) != 1 else ''}"
        measured = {"how": how, "outputs": found, "promised": promised.outputs}
        if promised.metric in ("", COSINE):
            score = {"metric": COSINE, "fp32": 1.0, "this": lowest_cosine(found), "samples": len(samples)}
            return Accuracy.model_validate({**measured, **score})
        source = promised.how.rpartition(f"; {promised.metric}: ")[2]
        return promised.model_copy(update={**measured, "how": f"{how}; {promised.metric}: {source}"})

    return judge


def _pass_gate(accuracy: Accuracy, draft: Draft, site: Site) -> None:
    found = failures(accuracy, draft.config.gate)
    if found:
        raise GateError(
            f"{draft.label} fails its accuracy gate on {site.gpu.name}",
            f"{'; '.join(found)} ({_promise(draft.promised.outputs)})",
            "it was not published; update TensorRT, or use the 'exact' variant, and report what was found",
            accuracy=accuracy,
        )


def _promise(outputs: Sequence[OutputAccuracy]) -> str:
    cosines = ", ".join(f"{o.cosine:.6g}" for o in outputs if o.cosine is not None)
    return f"emulated: cosine {cosines}" if cosines else "emulation gave no cosine"


def broken_promises(found: Iterable[OutputAccuracy], promised: Iterable[OutputAccuracy]) -> tuple[str, ...]:
    """Outputs with clearly more noise on the device than emulation told, though the gate lets them pass."""
    expected = {output.name: output.sqnr_db for output in promised}
    said = []
    for output in found:
        before = expected.get(output.name)
        if before is not None and output.sqnr_db is not None and output.sqnr_db < before - WORSE_DB:
            said.append(
                f"device: SQNR of '{output.name}' is {output.sqnr_db:.1f} dB, emulation gave {before:.1f}"
            )
    return tuple(said)


# ---------------------------------------------------------------------- measuring


def measure_latency(
    engine: Engine, feeds: Mapping[str, Array], progress: Callable[[int, int], None]
) -> Latency:
    """How long one batch executes on the device, and how many samples a second come through two slots."""
    slots = [engine.slot(), engine.slot()]
    for slot in slots:
        for name, value in feeds.items():
            slot.inputs[name][...] = value  # one sample, repeated where a batch has several
    _timed(slots[:1], WARM_UP)
    progress(1, 3)
    seconds, _ = _timed(slots[:1], RUNS)
    progress(2, 3)
    _timed(slots, WARM_UP)
    batches, spent = _timed(slots, RUNS)
    progress(3, 3)
    p50, p99 = (round(1e3 * float(np.percentile(seconds, q)), 4) for q in (50, 99))
    rate = engine.batch * len(batches) / spent
    return Latency(p50_ms=p50, p99_ms=p99, per_second=round(rate, 2), batch=engine.batch)


def layer_seconds(
    draft: Draft, site: Site, folder: Path, progress: Progress
) -> tuple[str, Mapping[str, float]]:
    """Compile for the GPU that is here and time every layer there.

    Returns:
        The engine inspector's JSON, and seconds by the layer names in it.

    Raises:
        as `finish`, but for the gate.
    """
    ready = _made_ready(draft, site, folder, progress)
    options = replace(ready.options, graphs=False, profile=True)
    progress(f"time the layers of {draft.label}", 0, 0)
    with closing(backend(site.runtime).load(ready.path, options)) as engine:
        times = engine.layer_times  # type: ignore[attr-defined]  # both runtimes of a site are TensorRT
        for runs in (WARM_UP, PROFILED):
            times.clear()
            for _ in range(runs):
                engine.run(draft.feeds)
        return ready.compiled.layers, times.seconds


def _timed(slots: Sequence[Slot], runs: int) -> tuple[list[float], float]:
    """Keep all slots in flight; each batch's execution time, and how long all took together, in seconds."""
    seconds: list[float] = []
    start = time.perf_counter()
    for slot in slots:
        slot.submit()
    in_flight = deque(slots)
    while in_flight:
        slot = in_flight.popleft()
        slot.wait()
        seconds.append(slot.infer_seconds)
        if len(seconds) + len(in_flight) < runs and time.perf_counter() - start < SECONDS:
            slot.submit()
            in_flight.append(slot)
    return seconds, time.perf_counter() - start
