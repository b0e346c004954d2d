"""What the engines of one build share: the graph, ranges, fp32 results, the gate, and judging by them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import onnx

from edge.backends import Engine, EngineOptions, backend
from edge.build.choose import Chooser, Chosen, Opener
from edge.build.evidence import Samples
from edge.build.finish import Finished
from edge.build.opening import dimensions, open_dimensions
from edge.build.reference import REFERENCE, take
from edge.build.tensorrt import Profile
from edge.build.verify import Reference, failures, measure
from edge.config import GateConfig, ModelConfig, ProfileConfig
from edge.errors import GateError
from edge.graph import Graph, serialize
from edge.machine import Machine
from edge.manifest import Accuracy, BuilderInfo, Tensor
from edge.precision.compensation import NO_COMPENSATION
from edge.precision.cost import Costs
from edge.precision.plan import Plan, Planner, Variant
from edge.precision.policy import Policy
from edge.precision.search import Found
from edge.targets import State, Target

Progress = Callable[[str, int, int], None]
"""What is being done, steps done, steps in all."""


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
    finished: Finished | None = None
    """What its device said, for an engine that was compiled and judged there."""
    chosen: Chosen | None = None
    """Its plan, and what the search for it came to."""
    speed_up: float | None = None
    """Over everything in the carrier: measured on a processor, estimated for a GPU; None if neither."""
    samples: Samples | None = None
    """What its evaluation showed sample by sample."""
    tail: tuple[Tensor, ...] = ()
    """Outputs that the engine has beside the network's own."""


@dataclass
class Workshop:
    """What all engines of one build share.

    Attributes:
        graph: prepared, fp32.
        chooser: finds plans; None if no quantized engine is asked for.
        folder: for temporary files; everything in it may be deleted when the build ends.
        preparation_peak_rss: of calibration and the fp32 reference, in bytes.
    """

    graph: Graph
    chooser: Chooser | None
    reference: Reference
    config: ModelConfig
    policy: Policy
    machine: Machine
    folder: Path
    progress: Progress
    preparation_peak_rss: int
    shapes: Profile | None = None
    """Of the picture input, where engines take more than one picture of one size."""
    warnings: tuple[str, ...] = ()
    """What is wrong with the calibration pictures."""
    judged: dict[str, Accuracy] = field(default_factory=dict)
    """Accuracy by hash of the graph that was run: targets with the same plan share one evaluation."""
    looked_at: dict[str, Samples] = field(default_factory=dict)
    """What the evaluation showed sample by sample, by the same hash."""

    @property
    def gate(self) -> GateConfig:
        return self.config.gate

    @property
    def profile(self) -> ProfileConfig | None:
        return self.config.profile

    @cached_property
    def reference_file(self) -> Path:
        """A few held-out samples, to travel with engines to their device."""
        path = self.folder / REFERENCE
        take(((case.feeds, case.outputs) for case in self.reference), self.config.input).save(path)
        return path

    def opened(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """What is compiled and published of a fixed graph: it takes the batches and sizes of [profile]."""
        return model if self.shapes is None else open_dimensions(model, self.shapes)

    @cached_property
    def dimensions(self) -> Mapping[str, tuple[int | str, ...]]:
        """Shapes of inputs and outputs, with names for what varies; empty if nothing does."""
        return {} if self.shapes is None else dimensions(self.opened(self.graph.model))

    @property
    def options(self) -> EngineOptions:
        """How engines are run to judge and to measure them: one picture of the usual size."""
        size = None if self.shapes is None else (self.shapes.optimum[2], self.shapes.optimum[3])
        return EngineOptions(size=size)

    def chosen(
        self, target: Target, variant: Variant, opened: Opener, label: str, costs: Costs | None = None
    ) -> Chosen:
        """The plan of an engine, with the numbers that are written with it.

        Args:
            costs: measured on the target; None where it is not here.
        """
        if self.chooser is None or variant == "exact":
            plan = Planner(self.graph, target, "exact", {}, policy=self.policy).plan()
            return Chosen(self.graph, plan, {}, NO_COMPENSATION)
        return self.chooser.choose(target, variant, opened, label, costs=costs)

    def write(self, model: onnx.ModelProto, name: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(serialize(model))
        return path

    @contextmanager
    def running(
        self, model: onnx.ModelProto, name: str, options: EngineOptions
    ) -> Iterator[tuple[Path, Engine]]:
        """A graph as a file and an engine, for as long as it is needed."""
        path = self.write(model, name)
        engine = backend("onnxruntime").load(path, options)
        try:
            yield path, engine
        finally:
            engine.close()
            path.unlink()

    def judge(self, digest: str, engine: Engine, how: str, label: str) -> Accuracy:
        """Accuracy of the graph with this hash; the same graph is run once."""
        if digest not in self.judged:
            samples = Samples(self.reference.task)
            self.judged[digest] = measure(
                engine.run,
                self.reference,
                how,
                lambda done, total: self.progress(f"verify {label}", done, total),
                samples.add,
            )
            self.looked_at[digest] = samples
        return self.judged[digest]

    def pass_gate(self, accuracy: Accuracy, label: str, found: Found | None = None) -> None:
        """Raise GateError if the engine may not be published.

        Args:
            found: the search that its plan comes from.
        """
        failed = failures(accuracy, self.gate)
        if not failed:
            return
        fix = "use more calibration pictures, a policy with `at_least`, or another gate"
        if found is not None:
            shares = ", ".join(f"{share:.0%} {p}" for p, share in found.plan.mac_shares.items())
            failed.append(
                f"the best of {len(found.judged)} plans that were run has {shares} of the work and reaches "
                f"{accuracy.metric} {accuracy.this or 0.0:.6g} (fp32 {accuracy.fp32 or 0.0:.6g})"
            )
            fix = (
                "use 'exact' or 'w8a16', a policy with `at_least`, more calibration pictures, or another gate"
            )
        raise GateError(
            f"{label} fails its accuracy gate", "; ".join(failed), f"it was not published; {fix}", accuracy
        )
