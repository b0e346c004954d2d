"""Compiling a graph with TensorRT or TensorRT-RTX.

Networks are strongly typed: the graph holds every precision, the builder chooses kernels only. TensorRT-RTX
compiles for a named compute capability on any x86-64 machine, without a GPU or driver; TensorRT compiles for
the GPU it runs on.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from edge.backends.trt_api import Capabilities, capabilities, runtime_module
from edge.backends.trt_log import Notes
from edge.build import layers
from edge.build.memory import MIB, least_memory
from edge.errors import ModelError

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""What the compiler is doing, and how far the whole build is: done of total."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Shapes of one input: the smallest, the one to be fastest at, the largest."""

    minimum: tuple[int, ...]
    optimum: tuple[int, ...]
    maximum: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CompileRequest:
    """What to compile, and for what.

    Attributes:
        graph: serialized ONNX with its precisions written in (`edge.precision.rewrite`).
        runtime: the module, "tensorrt_rtx" or "tensorrt".
        capability: CUDA compute capability, for example (8, 9); None for this machine's GPU.
        profiles: range of shapes for each input that leaves sizes open.
        workspace_mb: MiB that one kernel may use for intermediate results; None leaves it to the runtime.
        gpu_memory_mb: MiB of GPU memory that weights and one execution context may take together.
        timing_cache: folder for kernel timings that later builds reuse; one file a version and GPU.
        gpu: what this machine's GPU is called in the name of that file, for example "sm87".
        plan: node → precision, compared with what the compiler made of it.
    """

    graph: bytes
    runtime: str = "tensorrt_rtx"
    capability: tuple[int, int] | None = None
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    workspace_mb: int | None = None
    gpu_memory_mb: int | None = None
    timing_cache: Path | None = None
    gpu: str = "gpu"
    plan: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Compiled:
    """A serialized engine and what the compiler said.

    Attributes:
        layers: the engine inspector's JSON; "" where the engine cannot be loaded (no GPU of its kind here).
        findings: nodes that do not run in the precision they were planned in.
        timing_cache: file and content hash of the kernel timings that were used; "" if there are none.
    """

    engine: bytes
    version: str
    warnings: tuple[str, ...] = ()
    layers: str = ""
    findings: tuple[str, ...] = ()
    timing_cache: str = ""


def compile_engine(request: CompileRequest, progress: Progress | None = None) -> Compiled:
    """Compile in this process; `edge.build.resources.in_child` gives it one of its own.

    Args:
        progress: hears every step. An exception from it, KeyboardInterrupt for one, stops the build at the
            next step and is raised again here.

    Raises:
        MissingPackage: the runtime is not installed.
        RuntimeFault: it is too old, or does not start on this machine.
        ModelError: the parser or the compiler refuses the graph, and the message names the node; or the model
            does not fit into `gpu_memory_mb`.
    """
    refuse_what_cannot_fit(request)
    trt = runtime_module(request.runtime)
    job = _Job(request, trt, capabilities(request.runtime, str(trt.__version__)))
    network = job.parse()
    findings = layers.compare_network(network, request.plan)
    engine = job.build(network, progress)
    inspected = job.inspect(engine)
    return Compiled(
        engine,
        str(trt.__version__),
        job.notes.said("WARNING"),
        inspected,
        tuple(dict.fromkeys([*findings, *layers.compare_engine(inspected, request.plan)])),
        job.cache.label,
    )


def refuse_what_cannot_fit(request: CompileRequest) -> None:
    """Before minutes are spent on a build whose result could not be loaded.

    Raises:
        ModelError: weights and the largest layer alone need more than `gpu_memory_mb`.
    """
    budget = request.gpu_memory_mb
    if budget is None:
        return
    largest = {name: profile.maximum for name, profile in request.profiles.items()}
    least = least_memory(request.graph, largest)
    if least.total > budget * MIB:
        raise ModelError(
            f"the model needs at least {least.total / MIB:.1f} MiB of GPU memory, gpu_memory_mb is {budget}",
            str(least),
            "raise gpu_memory_mb under [profile], or lower the largest batch or size",
        )


class _Job:
    """One compilation, and the TensorRT objects that have to live until its end."""

    def __init__(self, request: CompileRequest, trt: ModuleType, can: Capabilities) -> None:
        self.request, self.trt, self.can = request, trt, can
        self.what = f"{can.product} {trt.__version__}"
        self.notes = Notes(trt)
        if can.plugins:
            trt.init_libnvinfer_plugins(self.notes.logger, "")
        self.builder = self.notes.started(trt.Builder, self.what)
        self.cache = _TimingCache(request, trt) if can.timing_cache else _NoCache()

    def parse(self) -> Any:
        """The graph as a TensorRT network."""
        flags = 0
        if self.can.strongly_typed_flag:
            flags = 1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = self.builder.create_network(flags)
        self.parser = self.trt.OnnxParser(network, self.notes.logger)
        if not self.parser.parse(self.request.graph):
            raise self._parse_error()
        return network

    def _parse_error(self) -> ModelError:
        said = [_told(self.parser.get_error(index)) for index in range(self.parser.num_errors)]
        return ModelError(
            f"{self.what} cannot read the graph",
            "; ".join(dict.fromkeys(said)) or self.notes.reason("its parser gave no reason"),
            "replace the operators it names, or export with another opset",
        )

    def build(self, network: Any, progress: Progress | None) -> bytes:
        """The serialized engine."""
        config = self._configure()
        monitor = _monitor(self.trt, progress)
        config.progress_monitor = monitor
        engine = self.builder.build_serialized_network(network, config)
        if monitor.interruption is not None:
            raise monitor.interruption
        if engine is None:
            raise ModelError(
                f"{self.what} cannot compile the graph for {self._device()}",
                self.notes.reason("the compiler gave no reason"),
                "the node it names may need the carrier's precision",
            )
        self.cache.keep(config)
        return bytes(engine)

    def _configure(self) -> Any:
        config = self.builder.create_builder_config()
        config.profiling_verbosity = self.trt.ProfilingVerbosity.DETAILED
        self._name_device(config)
        if self.request.profiles:
            self._add_profile(config)
        limits = [mb for mb in (self.request.workspace_mb, self.request.gpu_memory_mb) if mb is not None]
        if limits:
            config.set_memory_pool_limit(self.trt.MemoryPoolType.WORKSPACE, min(limits) * MIB)
        self.cache.use(config)
        return config

    def _name_device(self, config: Any) -> None:
        capability = self.request.capability
        if not self.can.ahead_of_time:
            if capability is not None:
                raise ModelError(
                    f"{self.what} cannot compile for {self._device()} from here",
                    "it compiles for the GPU it runs on",
                    "compile on the device: the builder makes a bundle for that",
                )
            return
        config.num_compute_capabilities = 1
        config.set_compute_capability(self._capability(), 0)

    def _capability(self) -> Any:
        capability, known = self.request.capability, self.trt.ComputeCapability.__members__
        if capability is None:
            return self.trt.ComputeCapability.CURRENT
        name = f"SM{capability[0]}{capability[1]}"
        if name not in known:
            raise ModelError(
                f"{self.what} has no target {name}",
                f"it compiles for {', '.join(n for n in known if n.startswith('SM'))}",
                "compile on the device with full TensorRT instead: the builder makes a bundle for that",
            )
        return known[name]

    def _device(self) -> str:
        if self.request.capability is None:
            return "this machine's GPU"
        return "compute capability {}.{}".format(*self.request.capability)

    def _add_profile(self, config: Any) -> None:
        profile = self.builder.create_optimization_profile()
        for name, shapes in self.request.profiles.items():
            profile.set_shape(name, shapes.minimum, shapes.optimum, shapes.maximum)
        config.add_optimization_profile(profile)

    def inspect(self, engine: bytes) -> str:
        """The inspector's JSON, "" where the engine cannot be loaded; checks the memory it takes."""
        if self.request.capability is not None:
            return ""  # for another machine
        runtime = self.notes.started(self.trt.Runtime, self.what)
        loaded = runtime.deserialize_cuda_engine(engine)
        if loaded is None:
            return ""
        self._refuse_what_does_not_fit(len(engine), loaded.device_memory_size_v2)
        inspector = loaded.create_engine_inspector()
        return str(inspector.get_engine_information(self.trt.LayerInformationFormat.JSON))

    def _refuse_what_does_not_fit(self, weights: int, context: int) -> None:
        budget = self.request.gpu_memory_mb
        if budget is not None and weights + context > budget * MIB:
            raise ModelError(
                f"the engine needs {(weights + context) / MIB:.1f} MiB of GPU memory, "
                f"gpu_memory_mb allows {budget}",
                f"{weights / MIB:.1f} MiB for the engine, {context / MIB:.1f} MiB for an execution context",
                "raise gpu_memory_mb under [profile], or lower workspace_mb, the largest batch or size",
            )


def _told(error: Any) -> str:
    """A parser's error: node, operator, reason, kind, and the line of the parser that found it."""
    where = f", {Path(error.file()).name}:{error.line()}" if error.file() else ""
    node = f"node '{error.node_name()}' ({error.node_operator()})"
    return f"{node}: {error.desc()} [{error.code().name}{where}]"


def _monitor(trt: ModuleType, progress: Progress | None) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc,name-defined]  # the class exists at run time only
        """Phases nest: each runs within one step of its parent, so the outermost tells how far the build is.

        TensorRT calls it from C++, which must see no exception: one is kept, the build is stopped, and
        `compile_engine` raises it.
        """

        def __init__(self) -> None:
            super().__init__()
            self.open: dict[str, _Phase] = {}
            self.done = 0.0
            self.interruption: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.open[phase_name] = _Phase(self.open.get(parent_phase or ""), max(1, num_steps))

        def phase_finish(self, phase_name: str) -> None:
            self.open.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                phase = self.open.get(phase_name)
                if phase is not None and progress is not None:
                    phase.steps_done = min(step + 1, phase.steps)
                    self.done = max(self.done, phase.build_done())
                    progress(phase_name, int(self.done * STEPS), STEPS)
            except BaseException as e:
                self.interruption = self.interruption or e
            return self.interruption is None

    return Monitor()


STEPS = 100
"""Progress of a build is told in as many parts."""


@dataclass
class _Phase:
    """A phase of the build, inside a step of its parent."""

    parent: _Phase | None
    steps: int
    steps_done: int = 0

    def build_done(self) -> float:
        """How far the whole build is, 0–1, judged by this phase and those around it."""
        share, phase = self.steps_done / self.steps, self
        while phase.parent is not None:
            phase = phase.parent
            share = min(1.0, (phase.steps_done + share) / phase.steps)
        return share


class _NoCache:
    """For a runtime that times no kernels."""

    label = ""

    def use(self, config: Any) -> None:
        pass

    def keep(self, config: Any) -> None:
        pass


class _TimingCache(_NoCache):
    """Kernel timings of earlier builds, in a file for each TensorRT version and GPU.

    A build that reuses them may choose other kernels than one that does not: what was used is recorded.
    """

    def __init__(self, request: CompileRequest, trt: ModuleType) -> None:
        name = f"{request.runtime}-{trt.__version__}-{request.gpu}.timing"
        self.path = None if request.timing_cache is None else request.timing_cache / name

    def use(self, config: Any) -> None:
        """Attach what there is; a file that cannot be used is as good as none."""
        if self.path is None:
            return
        known = self._read()
        if not (known and config.set_timing_cache(config.create_timing_cache(known), False)):
            known = b""
            config.set_timing_cache(config.create_timing_cache(known), False)
        digest = hashlib.sha256(known).hexdigest()[:12] if known else "new"
        self.label = f"{self.path.name} ({digest})"

    def _read(self) -> bytes:
        assert self.path is not None
        try:
            return self.path.read_bytes()
        except OSError:
            return b""

    def keep(self, config: Any) -> None:
        """Replace the file in one step; a full disk costs the next build time, and this one nothing."""
        if self.path is None:
            return
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(bytes(config.get_timing_cache().serialize()))
            temporary.replace(self.path)
        except OSError as e:
            log.warning("cannot keep kernel timings in %s: %s", self.path, e)
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
