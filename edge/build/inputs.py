"""What a build starts from: the graph, the pictures, and the hashes that tell whether anything changed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import onnx

from edge import tasks
from edge.config import ROOT, ModelConfig
from edge.errors import ConfigError, InputError
from edge.graph import sha256
from edge.machine import Machine
from edge.precision.calibrate import fingerprint
from edge.precision.plan import Variant
from edge.precision.policy import NOTHING, Policy, load_policy
from edge.precision.sensitivity import Probe
from edge.preprocess import preparation
from edge.targets import ComputeCapability, Target
from edge.tasks import Sample, Task
from edge.tasks.samples import content_sha256

HELD_OUT = 4
"""Without an evaluation set every fourth calibration sample is held out for verification."""
SEARCHED, MOST_SEARCHED = 4, 32
"""Of the rest every fourth, in the order of their content, is kept for the search; at most so many."""
NUMBERS_DEPEND_ON = ("onnxruntime", "opencv-python", "pydicom")
"""Packages through which pictures and fp32 results come."""
_KEY_LENGTH = 16


@dataclass(frozen=True, slots=True)
class Inputs:
    """A model with its data, read and hashed.

    Attributes:
        calibration: what ranges and weights are fitted to, in an order that depends on content alone.
        search: calibration samples kept from that, on which plans are compared; in the same order.
    """

    config: ModelConfig
    task: Task
    policy: Policy
    graph_sha256: str
    calibration: Sequence[Sample]
    search: Sequence[Sample]
    evaluation: Sequence[Sample]
    calibration_sha256: str
    evaluation_sha256: str
    origin: str
    """What is to be said about where `evaluation` comes from, for the manifest; usually nothing."""

    def probes(self, input_name: str, samples: Sequence[Sample]) -> Iterator[Probe]:
        """Samples as network inputs, one at a time."""
        preprocess = preparation(self.config.input)
        for sample in samples:
            tensor, (placement,) = preprocess.batch([self.task.network_image(sample)])
            yield Probe(sample, {input_name: tensor}, placement)

    def measured(self, machine: Machine) -> str:
        """Hash of everything that what is measured on the calibration pictures depends on."""
        return _digest(
            [self.calibration_sha256, _labelled_sha256((*self.calibration, *self.search)), _packages(machine)]
        )

    def recipe(self, target: Target, variant: Variant, machine: Machine) -> str:
        """Hash of everything that determines the graph an engine is compiled from, and how it is judged.

        Processor engines are chosen by measuring, so for them the processor counts too.
        """
        facts: dict[str, Any] = {
            "graph": self.graph_sha256,
            "calibration": self.calibration_sha256,
            "evaluation": self.evaluation_sha256,
            "config": self.config.model_dump(
                mode="json", exclude={"onnx", "calibration", "evaluation", "quantize"}
            ),
            "quantize": self.config.quantize.model_dump(mode="json", exclude={"policy"}),
            "policy": self.policy.model_dump(mode="json", by_alias=True),
            "target": dataclasses.asdict(target),
            "variant": variant,
            "packages": _packages(machine),
            "code": code_sha256(),
        }
        if not target.is_gpu:
            facts["processor"] = [machine.cpu, machine.cores, sorted(machine.cpu_features)]
        return _digest(facts)


def engine_key(recipe: str, builder: str, capability: ComputeCapability | None = None) -> str:
    """Hash of everything that determines an engine.

    Args:
        builder: what compiles it, with its version; of a bundle, which nothing compiled yet, the name alone.
        capability: of the GPU that the engine is finished on.
    """
    return _digest([recipe, builder, capability, code_sha256()])


def _packages(machine: Machine) -> dict[str, str]:
    return {name: machine.packages.get(name, "") for name in NUMBERS_DEPEND_ON}


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:_KEY_LENGTH]


def gather(config: ModelConfig) -> Inputs:
    """Read what the config names.

    Raises:
        InputError: the graph or a picture folder cannot be read, or is empty.
        ConfigError: the task's settings are wrong.
    """
    task = tasks.create(config)
    try:
        graph = graph_sha256(config.onnx)
    except OSError as e:
        raise InputError(
            f"cannot read {e.filename or config.onnx}", e.strerror or str(e), "check `onnx` in its config"
        ) from e
    calibration = list(task.samples(config.calibration))
    if config.evaluation is not None:
        evaluation, origin = list(task.samples(config.evaluation)), ""
    elif config.input.volume is not None:
        evaluation, origin = calibration, ""
    else:
        calibration, evaluation = split(calibration)
        origin = "held out from the calibration set"
    if config.input.volume is not None:
        calibration = []  # engines for volumes are judged, and need no ranges
    calibration, search = split_by_content(calibration)
    _refuse_unlabelled(config, evaluation)
    if _contents([*calibration, *search]) & _contents(evaluation):
        origin = "some pictures were calibrated with, too"
    settings = config.input.model_dump_json() + json.dumps(
        [config.task.model_dump(mode="json"), config.quantize.equalize], sort_keys=True
    )
    return Inputs(
        config,
        task,
        load_policy(config.quantize.policy) if config.quantize.policy else NOTHING,
        graph,
        calibration,
        search,
        evaluation,
        fingerprint(graph + code_sha256(), [s.path for s in (*calibration, *search)], settings),
        _labelled_sha256(evaluation),
        origin,
    )


def _contents(samples: Sequence[Sample]) -> set[str]:
    return {content_sha256(sample.path) for sample in samples}


def _refuse_unlabelled(config: ModelConfig, samples: Sequence[Sample]) -> None:
    """A gate on the task's metric must not be passed because no label was found."""
    if any(sample.label is not None for sample in samples):
        return
    if config.evaluation is not None and config.evaluation.labels is not None:
        raise InputError(
            f"no picture in {config.evaluation.images} has a label",
            f"{config.evaluation.labels} names none of them",
            "check `labels` under [evaluation]: names have to match",
        )
    if config.gate.max_drop is not None:
        raise ConfigError(
            "max_drop under [gate] needs labelled pictures",
            "without labels there is no metric that could drop",
            "give `labels` under [evaluation], or gate on min_cosine alone",
        )


def graph_sha256(path: Path) -> str:
    """Hash of an ONNX file, and of the files that hold its weights where they lie outside of it."""
    data = path.read_bytes()
    try:
        tensors = onnx.load_model_from_string(data).graph.initializer
    except Exception:  # protobuf's own; `graph.read` says what is wrong
        return sha256(data)
    outside = [t for t in tensors if t.data_location == onnx.TensorProto.EXTERNAL]
    names = sorted({entry.value for t in outside for entry in t.external_data if entry.key == "location"})
    if not names:
        return sha256(data)
    return sha256("".join([sha256(data), *(sha256((path.parent / n).read_bytes()) for n in names)]).encode())


def split(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Samples to calibrate with, and those held out; a single sample has to serve as both."""
    held_out = list(samples[HELD_OUT - 1 :: HELD_OUT]) or list(samples[-1:])
    kept = [s for i, s in enumerate(samples) if i % HELD_OUT != HELD_OUT - 1]
    if len(samples) < HELD_OUT:
        kept = list(samples[:-1]) or list(samples)
    return kept, held_out


def split_by_content(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Samples to fit to, and those kept for the search, each in the order of their files' hashes.

    A set that is too small serves as both.
    """
    ordered = sorted(samples, key=lambda sample: content_sha256(sample.path))
    if len(ordered) < 2 * SEARCHED:
        return ordered, ordered
    count = min(len(ordered) // SEARCHED, MOST_SEARCHED)
    return ordered[count:], ordered[:count]


def _labelled_sha256(samples: Sequence[Sample]) -> str:
    """Hash of pictures and labels, in this order."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(bytes.fromhex(content_sha256(sample.path)))
        digest.update(_label_bytes(sample.label))
    return digest.hexdigest()


def _label_bytes(label: Any) -> bytes:
    if isinstance(label, Path):
        return label.read_bytes()
    return label.tobytes() if hasattr(label, "tobytes") else repr(label).encode()


@cache
def code_sha256() -> str:
    """Hash of the code that makes and judges engines: after an upgrade nothing stale is taken for current."""
    package = ROOT / "edge"
    files = [f for part in ("build", "precision", "tasks", "dicom") for f in package.glob(f"{part}/*.py")]
    files += [*package.glob("precision/*.json"), *(package / f"{n}.py" for n in ("graph", "simplify"))]
    files += [package / "preprocess.py", package / "backends" / "trt_api.py"]
    files += [package / "backends" / "onnxruntime.py"]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
