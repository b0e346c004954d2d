"""Is an engine still right? Its outputs and the task's metric against fp32, on samples calibration never saw.

fp32 inputs, outputs and placements are computed once and kept in files, one a sample, so that any number of
engines can be compared with them in the memory of one sample.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge.build.scoring import Score, Scores, standard_error
from edge.config import GateConfig, InputConfig
from edge.errors import ModelError
from edge.manifest import Accuracy, OutputAccuracy
from edge.preprocess import Placement, preparation
from edge.tasks import Sample, Task
from edge.types import Array

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Inputs by name → outputs by name."""
Progress = Callable[[int, int], None]

COSINE = "cosine"
"""The metric's name where samples have no labels: lowest cosine similarity of any output."""


@dataclass(frozen=True, slots=True)
class Case:
    """A held-out sample with what fp32 makes of it.

    Attributes:
        labelled: the sample with each label that it is scored against; none where there is none.
    """

    sample: Sample
    labelled: tuple[Sample, ...]
    feeds: dict[str, Array]
    placement: Placement
    outputs: dict[str, Array]


class Reference:
    """fp32 results of the held-out samples, in files below `folder`.

    Args:
        believed: score against labels drawn from what fp32 itself believes of the samples (`Task.believed`),
            not against their own; the samples' order then has to depend on their content alone.

    Raises:
        ModelError: the fp32 graph gives NaN or infinity; the sample is named.
    """

    def __init__(
        self,
        task: Task,
        config: InputConfig,
        input_name: str,
        samples: Sequence[Sample],
        run: Run,
        folder: Path,
        progress: Progress = lambda done, total: None,
        believed: bool = False,
    ) -> None:
        self.task, self.count, self.folder = task, len(samples), folder
        self.labelled = believed or any(sample.label is not None for sample in samples)
        preprocess = preparation(config)
        scores = Scores(task, self.count, folds=not believed)
        for index, sample in enumerate(samples):
            tensor, (placement,) = preprocess.batch([task.network_image(sample)])
            outputs = dict(run({input_name: tensor}))
            _refuse_non_finite(sample, outputs)
            labelled = tuple([sample] if sample.label is not None else [])
            if believed:
                random = np.random.default_rng(index)
                labelled = tuple(task.believed(sample, outputs, placement, random))
            case = Case(sample, labelled, {input_name: tensor}, placement, outputs)
            _score(scores, index, task, case, outputs)
            with self._file(index).open("wb") as file:
                pickle.dump(case, file, protocol=pickle.HIGHEST_PROTOCOL)
            progress(index + 1, self.count)
        self.metric = task.metric if self.labelled else COSINE
        self.score = scores.score() if self.labelled else Score(1.0)

    def __iter__(self) -> Iterator[Case]:
        for index in range(self.count):
            with self._file(index).open("rb") as file:
                yield pickle.load(file)

    def _file(self, index: int) -> Path:
        return self.folder / f"{index:06d}.case"


def _score(scores: Scores, index: int, task: Task, case: Case, outputs: Mapping[str, Array]) -> None:
    if case.labelled:
        scores.add(index, case.labelled, task.score_payload(outputs, 0, case.placement))


def _refuse_non_finite(sample: Sample, outputs: Mapping[str, Array]) -> None:
    for name, value in outputs.items():
        if not np.isfinite(value).all():
            raise ModelError(
                f"the fp32 model gives NaN or infinity in output '{name}' for {sample.path.name}",
                "so there is nothing an engine could be compared with",
                "check the model and the preprocessing under [input] (scale, mean, std)",
            )


def _refuse_other_shape(name: str, reference: Array, this: Array) -> None:
    if reference.shape != this.shape:
        raise ModelError(
            f"output '{name}' is {list(this.shape)} where fp32 gives {list(reference.shape)}",
            "its size depends on the data, so it cannot be compared value by value",
            "export the model without it (no NMS, NonZero or Compress in the graph)",
        )


@dataclass
class _Likeness:
    """Sums over all samples for one output, in float64."""

    product: float = 0.0
    reference: float = 0.0
    this: float = 0.0
    noise: float = 0.0

    def add(self, reference: Array, this: Array) -> None:
        a, b = reference.astype(np.float64).ravel(), this.astype(np.float64).ravel()
        self.product += float(a @ b)
        self.reference += float(a @ a)
        self.this += float(b @ b)
        self.noise += float(np.square(a - b).sum())

    @property
    def silent(self) -> bool:
        """Both outputs are zero throughout."""
        return self.reference == self.this == self.noise == 0

    @property
    def cosine(self) -> float | None:
        """1 is the same direction; None if an output was zero throughout or not finite."""
        norm = float(np.sqrt(self.reference) * np.sqrt(self.this))
        return self.product / norm if norm > 0 and np.isfinite(norm) else None

    @property
    def sqnr_db(self) -> float | None:
        """Signal over quantization noise, 10·log₁₀; None where there is no noise or no signal."""
        if not (self.noise > 0 and self.reference > 0 and np.isfinite(self.noise)):
            return None
        return float(10 * np.log10(self.reference / self.noise))


class Comparison:
    """How close an engine's outputs are to fp32's, over any number of samples.

    Args:
        silent: the cosine of an output that is zero throughout, in both: None, as there is none, or 1 where
            samples are so few that this may happen.
    """

    def __init__(self, silent: float | None = None) -> None:
        self._silent = silent
        self._likeness: dict[str, _Likeness] = {}

    def add(self, reference: Mapping[str, Array], this: Mapping[str, Array]) -> None:
        """Outputs for one sample, those of fp32 and the engine's.

        Raises:
            ModelError: an output has another shape than fp32's.
        """
        for name, value in reference.items():
            _refuse_other_shape(name, value, this[name])
            self._likeness.setdefault(name, _Likeness()).add(value, this[name])

    def outputs(self) -> tuple[OutputAccuracy, ...]:
        return tuple(
            OutputAccuracy(name=n, cosine=self._silent if v.silent else v.cosine, sqnr_db=v.sqnr_db)
            for n, v in self._likeness.items()
        )


def lowest_cosine(outputs: Iterable[OutputAccuracy]) -> float:
    """The metric where there are no labels; 0 if an output has no cosine."""
    return min((o.cosine if o.cosine is not None else 0.0) for o in outputs)


Each = Callable[[Case, Mapping[str, Array], float], None]
"""Hears of every sample: what fp32 made of it, what the engine did, and how far these lie apart."""


def measure(
    run: Run,
    reference: Reference,
    how: str,
    progress: Progress = lambda done, total: None,
    each: Each = lambda case, outputs, divergence: None,
) -> Accuracy:
    """Compare one engine with fp32 on every held-out sample.

    Args:
        how: where its numbers come from, for the manifest.
    """
    task = reference.task
    scores = Scores(task, reference.count, folds=bool(reference.score.without))
    comparison = Comparison()
    divergence = 0.0
    for index, case in enumerate(reference):
        outputs = run(case.feeds)
        comparison.add(case.outputs, outputs)
        apart = task.divergence(case.outputs, outputs, case.placement)
        each(case, outputs, apart)
        divergence += apart
        _score(scores, index, task, case, outputs)
        progress(index + 1, reference.count)
    found = comparison.outputs()
    score = scores.score() if reference.labelled else Score(lowest_cosine(found))
    return Accuracy(
        metric=reference.metric,
        fp32=reference.score.value,
        this=score.value,
        drop_error=standard_error(reference.score, score),
        samples=reference.count,
        how=how,
        outputs=found,
        divergence=divergence / reference.count if np.isfinite(divergence) else None,
    )


def failures(accuracy: Accuracy, gate: GateConfig) -> list[str]:
    """What the gate objects to, with by how much; empty if the engine may be published."""
    found = []
    for output in accuracy.outputs:
        cosine = output.cosine
        if cosine is None:
            found.append(f"output '{output.name}' is zero, NaN or infinite")
        elif cosine < gate.min_cosine:
            found.append(f"cosine of '{output.name}' is {cosine:.6g}, the gate asks for {gate.min_cosine:g}")
        if gate.min_sqnr_db is not None and output.sqnr_db is not None and output.sqnr_db < gate.min_sqnr_db:
            found.append(
                f"SQNR of '{output.name}' is {output.sqnr_db:.1f} dB, the gate asks for {gate.min_sqnr_db:g}"
            )
    if gate.max_drop is not None and accuracy.metric != COSINE:
        assert accuracy.fp32 is not None and accuracy.this is not None
        drop = accuracy.fp32 - accuracy.this
        if not drop <= gate.max_drop:
            found.append(
                f"{accuracy.metric} falls by {drop:.4g}{_give_or_take(accuracy)} from {accuracy.fp32:.4g} "
                f"to {accuracy.this:.4g}, the gate allows {gate.max_drop:g}"
            )
    return found


def _give_or_take(accuracy: Accuracy) -> str:
    return "" if accuracy.drop_error is None else f" ± {accuracy.drop_error:.2g}"
