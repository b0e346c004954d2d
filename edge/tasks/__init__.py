"""What goes into a network and what comes out of it: one file a task, listed in `TASKS`.

A task module offers `create(settings: dict, where: str) -> Task`. `contract/test_tasks.py` runs over it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from numpy.random import Generator

from edge.config import ModelConfig, SamplesConfig
from edge.errors import ConfigError, nearest
from edge.preprocess import Placement
from edge.types import Array, Image, Payload

if TYPE_CHECKING:
    from edge.build.tails import TailWriter
    from edge.dicom.volume import Volume

TASKS = {
    "classify": "edge.tasks.classify",
    "detect": "edge.tasks.detect",
    "segment": "edge.tasks.segment",
    "image": "edge.tasks.image",
    "segment_volume": "edge.tasks.segment_volume",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture of a calibration or evaluation set, or one series in a folder of its own."""

    path: Path
    label: Any = None
    """The right answer in the task's own form; None where the set has no labels."""


@dataclass(frozen=True, slots=True)
class Tail:
    """What a task has computed on the device behind the network, so that little has to be copied to the host.

    Attributes:
        output: the graph's output that it starts from; None for the first.
        write: adds the nodes (`edge.build.tails`); may find that nothing would be saved and add none.
    """

    output: str | None
    write: Callable[[TailWriter], None]


class Scorer(Protocol):
    """Accumulates a metric over samples; higher is better."""

    def add(self, sample: Sample, payload: Payload) -> None: ...

    def value(self) -> float: ...


class Task(Protocol):
    """A task with its settings."""

    kind: str
    metric: str
    """Name of the accuracy figure, higher is better: top1 (%), ap (%), f1 (0–1), psnr_y (dB), dice (0–1)."""

    def samples(self, config: SamplesConfig) -> Sequence[Sample]:
        """The set's pictures in name order, labelled if `config.labels` (or the folder's layout) says how.

        Raises:
            InputError: folder or labels cannot be read, or hold no picture.
        """
        ...

    def network_image(self, sample: Sample) -> Image | Volume:
        """The picture as a camera would have delivered it (image-to-image makes its degraded input here); of
        a task on volumes the series, whose placement is an `edge.dicom.conform.Conformed`."""
        ...

    def tail(self) -> Tail | None:
        """What GPU engines compute of `postprocess` themselves; None: nothing, the outputs are small."""
        ...

    def postprocess(self, outputs: Mapping[str, Array], index: int, placement: Placement) -> Payload:
        """Outputs (batch first) of picture `index` → the finding, in source-image coordinates.

        Where the engine has a tail, `outputs` may hold what that computed and nothing else.
        """
        ...

    def scorer(self) -> Scorer:
        """A fresh scorer for labelled samples. May need thresholds other than those for display."""
        ...

    def score_payload(self, outputs: Mapping[str, Array], index: int, placement: Placement) -> Payload:
        """Like `postprocess` from the network's own outputs, with the thresholds that define the metric."""
        ...

    def divergence(
        self, reference: Mapping[str, Array], this: Mapping[str, Array], placement: Placement
    ) -> float:
        """How far two results for one picture (batch of 1) lie apart, as the task sees it: 0 for equal ones;
        small independent errors add up (`likeness`)."""
        ...

    def believed(
        self, sample: Sample, outputs: Mapping[str, Array], placement: Placement, random: Generator
    ) -> Sequence[Sample]:
        """The sample with labels drawn from what the network itself believes of it, one or several times.

        Scored against them, two engines differ by as much as is to be expected of true labels, if the network
        knows how sure it is. That is how engines are compared where nobody has labelled anything.
        """
        ...


def create(config: ModelConfig) -> Task:
    """The task of a model, with its settings validated."""
    kind = config.task.kind
    if kind not in TASKS:
        raise ConfigError(f"model '{config.name}': no task '{kind}'", nearest(kind, TASKS))
    module = importlib.import_module(TASKS[kind])
    return cast(Task, module.create(config.task.settings, f"model '{config.name}', table [task]"))
