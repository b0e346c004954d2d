"""Is a published engine still what it was? Its gate again, later: a new driver, a new runtime, new pictures.

An engine that runs on this machine is run; any other is judged by emulating the graph it was compiled from,
as when it was built. Other pictures may be given to judge by, and others to look for values that its scales
clip.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from edge import tasks
from edge.backends import Engine, EngineOptions, Expectation, backend
from edge.build import emulate
from edge.build.bundle import GRAPH
from edge.build.inputs import graph_sha256, split
from edge.build.verify import Reference, failures, measure
from edge.config import ModelConfig, SamplesConfig, validate
from edge.errors import InputError, StoreError
from edge.graph import Graph, attribute, prepare, read, serialize
from edge.machine import Machine
from edge.manifest import Accuracy, Entry, Manifest, check_machine
from edge.precision.given import has_quantizers
from edge.precision.numerics import PRECISION, QMAX
from edge.precision.policy import QUANTIZED, WEIGHT_ONLY
from edge.precision.sessions import observer
from edge.preprocess import preparation
from edge.tasks import Sample, Task
from edge.tasks.outputs import TAIL
from edge.types import Array

Progress = Callable[[str, int, int], None]

RARE = 1e-3
"""Share of a tensor's values that may be clipped before it is told."""
LAST_STEP = {"fp8": 32}
"""From the largest number of a type to the one before, in units of its scale; 1 for integers."""
FAR, NEAR = 2.0, 0.25
"""A tensor whose largest value is so many times its threshold, or so small a part of it, is told."""


@dataclass(frozen=True, slots=True)
class Clipped:
    """A quantized tensor on new pictures.

    Attributes:
        threshold: largest magnitude that its scale represents.
        peak: largest magnitude that was seen.
        share: part of its values beyond the threshold.
    """

    tensor: str
    kind: str
    threshold: float
    peak: float
    share: float

    @property
    def unusual(self) -> str:
        """What is to be said about it; usually nothing."""
        if self.share > RARE:
            return f"{self.share:.2%} of its values are clipped"
        if self.peak > FAR * self.threshold:
            return f"its largest value is {self.peak / self.threshold:.1f} times what its scale holds"
        if self.peak < NEAR * self.threshold:
            return f"only {self.peak / self.threshold:.0%} of its range is used"
        return ""


@dataclass(frozen=True, slots=True)
class Drift:
    """An engine then and now.

    Attributes:
        how: where the numbers of now come from.
        failures: what its gate objects to now.
        changes: what is different from when it was built, in words.
        clipped: quantized tensors on the pictures that were given for that; empty if none were.
    """

    manifest: Manifest
    then: Accuracy
    now: Accuracy
    failures: tuple[str, ...]
    changes: tuple[str, ...]
    clipped: tuple[Clipped, ...] = ()

    def to_json(self) -> dict[str, Any]:
        m = self.manifest
        return {
            "engine": m.address,
            "key": m.key,
            "passed": not self.failures,
            "then": m.accuracy and m.accuracy.model_dump(),
            "now": self.now.model_dump(),
            "failures": list(self.failures),
            "changes": list(self.changes),
            "clipped": [
                {
                    "tensor": c.tensor,
                    "type": c.kind,
                    "threshold": c.threshold,
                    "peak": c.peak,
                    "share": c.share,
                    "unusual": c.unusual,
                }
                for c in self.clipped
            ],
        }


def verify(
    entry: Entry,
    machine: Machine,
    progress: Progress,
    evaluation: SamplesConfig | None = None,
    calibration: Path | None = None,
) -> Drift:
    """Judge an engine again.

    Args:
        evaluation: samples to judge by; None for those it was judged by when it was built.
        calibration: a folder of pictures on which to look for values that its scales clip.

    Raises:
        InputError: the fp32 graph or the pictures are not where they were, or not what they were.
        StoreError: the engine was made with a configuration that this version does not read.
    """
    m = entry.manifest
    config = validate(ModelConfig, m.config, f"the config of {m.address}")
    _same_graph(m, config)
    task = tasks.create(config)
    samples = _samples(task, config, evaluation)
    pictures = task.samples(SamplesConfig(images=calibration)) if calibration else ()
    progress("prepare the fp32 graph", 0, 0)
    model = prepare(read(config.onnx, config.quantize.given), config.input.name, config.input.shape)
    with tempfile.TemporaryDirectory(prefix="edge-verify-") as folder:
        fp32 = Path(folder) / "fp32.onnx"
        fp32.write_bytes(serialize(model))
        with closing(backend("onnxruntime").load(fp32, EngineOptions(exact=has_quantizers(model)))) as engine:
            cases = Path(folder) / "cases"
            cases.mkdir()
            reference = Reference(
                task,
                config.input,
                Graph(model).inputs[0],
                samples,
                engine.run,
                cases,
                lambda done, total: progress("fp32 on the samples", done, total),
            )
        with _opened(entry, config, machine, Path(folder)) as (engine, how):
            say = f"run {m.address}"
            now = measure(engine.run, reference, how, lambda done, total: progress(say, done, total))
        clipped = _clipped(entry, config, pictures, progress) if pictures else ()
    return Drift(
        m,
        m.accuracy or Accuracy(),
        now,
        tuple(failures(now, config.gate)),
        tuple(_changes(m, machine, evaluation is not None)),
        clipped,
    )


def _samples(task: Task, config: ModelConfig, given: SamplesConfig | None) -> Sequence[Sample]:
    """What is judged by: what was given, or what the engine was judged by when it was built."""
    chosen = given or config.evaluation
    return task.samples(chosen) if chosen else split(task.samples(config.calibration))[1]


def _same_graph(m: Manifest, config: ModelConfig) -> None:
    """The fp32 graph has to be the one that the engine was made from.

    Raises:
        InputError: it is gone, or another one.
    """
    try:
        found = graph_sha256(config.onnx)
    except OSError as e:
        raise InputError(
            f"cannot read {config.onnx}, which {m.address} was made from",
            e.strerror or str(e),
            "put the fp32 graph back, or build the engine again",
        ) from e
    if found != m.graph_sha256:
        raise InputError(
            f"{config.onnx} is not the graph that {m.address} was made from",
            f"its sha256 begins with {found[:12]}, the engine's with {m.graph_sha256[:12]}",
            "put that graph back, or build the engine from the new one",
        )


@contextmanager
def _opened(
    entry: Entry, config: ModelConfig, machine: Machine, folder: Path
) -> Iterator[tuple[Engine, str]]:
    """The engine itself where this machine runs it, else its graph, emulated."""
    m = entry.manifest
    try:
        check_machine(m, machine)
        here = m.backend == "onnxruntime" or not backend(m.backend).unavailable(machine)
    except StoreError:
        here = False
    if here:
        expected = Expectation(m.files[m.engine_file], (m.builder.name, m.builder.version), _capability(m))
        options = EngineOptions(size=config.input.size, expected=expected if m.compute_capability else None)
        with closing(backend(m.backend).load(entry.engine, options)) as engine:
            yield engine, f"run on {m.gpu.name if m.gpu else 'this processor'}"
        return
    path = folder / "emulated.onnx"
    path.write_bytes(serialize(emulate.emulated(_graph(entry))))
    options = EngineOptions(exact=True, size=config.input.size)
    with closing(backend("onnxruntime").load(path, options)) as engine:
        yield engine, f"emulated on the processor ({_types(m)}, {m.carrier} carrier)"


def _types(m: Manifest) -> str:
    """Its types in a word, the most used one first."""
    return "+".join(p for p in m.mac_shares if p in QUANTIZED + WEIGHT_ONLY) or m.carrier


def _capability(m: Manifest) -> tuple[int, int] | None:
    if m.compute_capability is None:
        return None
    major, minor = m.compute_capability.split(".")
    return int(major), int(minor)


def _graph(entry: Entry) -> onnx.ModelProto:
    """The typed graph of an engine, without what its task has the device compute behind the network.

    Raises:
        StoreError: the engine holds no graph.
    """
    name = GRAPH if GRAPH in entry.manifest.files else entry.manifest.engine_file
    if not name.endswith(".onnx"):
        raise StoreError(
            f"{entry.manifest.address} holds no graph", "it cannot be emulated", "verify it on its device"
        )
    model = onnx.load(entry.path / name)
    kept = [output for output in model.graph.output if output.name not in TAIL]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    return model


def _changes(m: Manifest, machine: Machine, other_samples: bool) -> Iterator[str]:
    if other_samples:
        yield "judged by other samples than when it was built"
    package = {"tensorrt_rtx": "tensorrt-rtx"}.get(m.builder.name, m.builder.name)
    installed = machine.packages.get(package, "")
    if m.builder.version and installed and installed != m.builder.version:
        yield f"{m.builder.name} {m.builder.version} → {installed}"
    if m.machine != machine.label:
        yield f"built on {m.machine or 'another machine'}, now {machine.label}"
    drivers = {gpu.driver for gpu in machine.gpus if gpu.driver}
    if m.gpu is not None and m.gpu.driver and drivers and m.gpu.driver not in drivers:
        yield f"driver {m.gpu.driver} → {', '.join(sorted(drivers))}"


# ---------------------------------------------------------------------- scales and new pictures


@dataclass(frozen=True, slots=True)
class Held:
    """What the quantizer of a tensor can hold, from its scale and zero point.

    Attributes:
        slack: how far beyond the ends a value may lie and still be rounded to them as to any other: half a
            step.
    """

    kind: str
    low: float
    high: float
    slack: float

    def clips(self, values: Array) -> int:
        """How many of them it clips."""
        low, high = self.low - self.slack, self.high + self.slack
        return int(np.count_nonzero((values < low) | (values > high)))


def held(model: onnx.ModelProto) -> dict[str, Held]:
    """By activation, for every tensor that a graph quantizes with a scale that is known."""
    constants = {t.name: t for t in model.graph.initializer}
    quantizers = [
        n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] not in constants
    ]
    found = {node.input[0]: _held(node, constants) for node in quantizers}
    return {name: holds for name, holds in found.items() if holds is not None}


def _held(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> Held | None:
    """None of a quantizer that came with the graph and is none of ours: of 16 bits, or with many scales."""
    scale, zero = (constants.get(name) for name in [*node.input[1:], ""][:2])
    code = zero.data_type if zero is not None else attribute(node, "output_dtype", 0)
    kind = PRECISION.get(
        code or onnx.TensorProto.UINT8, ""
    )  # the default of a quantizer without a zero point
    if scale is None or np.prod(scale.dims) != 1 or kind not in (*QMAX, "uint8"):
        return None
    step, origin = (
        0.0 if t is None else numpy_helper.to_array(t).astype(float).item() for t in (scale, zero)
    )
    low, high = (0.0, 255.0) if kind == "uint8" else (-QMAX[kind], QMAX[kind])
    return Held(kind, (low - origin) * step, (high - origin) * step, LAST_STEP.get(kind, 1) / 2 * step)


def _clipped(
    entry: Entry, config: ModelConfig, pictures: Sequence[Sample], progress: Progress
) -> tuple[Clipped, ...]:
    """Every quantized tensor, on these pictures."""
    model = emulate.emulated(_graph(entry))
    holds = held(model)
    if not holds:
        return ()
    run = observer(model, list(holds), plain=True)
    peak, beyond, count = (dict.fromkeys(holds, 0.0) for _ in range(3))
    for feeds in _feeds(entry.manifest.inputs[0].name, config, pictures, progress):
        for name, value in run(feeds).items():
            peak[name] = max(peak[name], float(np.abs(value).max(initial=0)))
            beyond[name] += holds[name].clips(value)
            count[name] += value.size
    return tuple(
        Clipped(name, h.kind, max(-h.low, h.high), peak[name], beyond[name] / max(count[name], 1))
        for name, h in holds.items()
    )


def _feeds(
    name: str, config: ModelConfig, pictures: Sequence[Sample], progress: Progress
) -> Iterator[dict[str, Array]]:
    """Pictures as network inputs."""
    task, preprocess = tasks.create(config), preparation(config.input)
    for index, sample in enumerate(pictures):
        tensor, _ = preprocess.batch([task.network_image(sample)])
        yield {name: tensor}
        progress("ranges on the new pictures", index + 1, len(pictures))
