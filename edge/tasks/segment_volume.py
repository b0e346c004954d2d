"""Which voxels of a series are of which class: a score for each → labels, their volumes, labelled slices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import Field

from edge.config import SamplesConfig, Section, validate
from edge.dicom.conform import Conformed, nearest_plane
from edge.dicom.part10 import dicom_files
from edge.dicom.volume import Volume, open_volume
from edge.errors import InputError, ModelError
from edge.tasks import Sample, drawing, likeness
from edge.tasks.outputs import one_picture
from edge.tasks.samples import find_series
from edge.types import Array, Image

if TYPE_CHECKING:
    from edge.dicom.answers.finding import LabelVolume

MOST_CLASSES = 256
"""Labels are bytes."""

STRENGTH = 0.4
"""How strongly a label tints the slice it is drawn on."""


class SegmentVolumeSettings(Section):
    """The keys of `[task]` with `kind = "segment_volume"`."""

    output: str | None = Field(None, description="the graph's output; default: its first")
    scores: Literal["logits", "probabilities"] = Field(
        "logits", description="what the output holds; logits go through a softmax"
    )
    labels: tuple[str, ...] = Field(
        (), description="name of each class, by channel; the first is the background"
    )


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What was found in one series.

    Attributes:
        labels: class of each voxel of the network's grid, 0 for background.
        probabilities: of each class, the mean over the voxels that got it; 0 where none did.
        names: of the classes.
        placement: where the grid lies on the slices.
    """

    labels: NDArray[np.uint8]
    probabilities: tuple[float, ...]
    names: tuple[str, ...]
    placement: Conformed

    @cached_property
    def ml(self) -> tuple[float, ...]:
        """Volume of each class in millilitres, as counted on the network's grid."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.names))
        return tuple(float(count) * self.placement.grid.voxel_ml for count in counts)

    def to_json(self) -> dict[str, Any]:
        found = zip(self.names, self.ml, self.probabilities, strict=True)
        volumes = [
            {"class": index, "name": name, "ml": round(ml, 3), "score": round(score, 4)}
            for index, (name, ml, score) in enumerate(found)
        ]
        return {"volumes": volumes[1:]}

    def found(self) -> dict[str, float]:
        found = zip(self.names[1:], self.ml[1:], self.probabilities[1:], strict=True)
        return {name: score for name, ml, score in found if ml}

    def draw(self, image: Image) -> Image:
        """The labels over the middle slice, and what their colours mean."""
        canvas = drawing.canvas(image)
        labels = self.on_slice(self.placement.volume.middle)
        size = (canvas.shape[1], canvas.shape[0])
        labels = np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST), np.uint8)
        for index in range(1, len(self.names)):
            strength = np.where(labels == index, np.float32(STRENGTH), np.float32(0))
            canvas = drawing.tint(canvas, strength, drawing.color_of(index - 1))
        line = drawing.style(canvas)
        for index in range(1, len(self.names)):
            text, y = f"{self.names[index]} {self.ml[index]:.0f} ml", index * (line.text + 2 * line.gap)
            drawing.tag(canvas, text, 0, y, drawing.color_of(index - 1))
        return canvas

    def on_slice(self, index: int) -> NDArray[np.uint8]:
        """The labels of one source slice, H × W: of the voxel that each pixel's centre lies in."""
        return nearest_plane(self.labels, self.placement.grid, self.placement.source, index)

    def on_slices(self) -> LabelVolume:
        """The labels on the source slices: files along the normal, the frames of one in their own order."""
        from edge.dicom.answers.finding import LabelVolume

        slices = self.placement.volume.slices
        rank = {path: index for index, path in enumerate(dict.fromkeys(each.path for each in slices))}
        order = sorted(range(len(slices)), key=lambda i: (rank[slices[i].path], slices[i].frame))
        planes = [self.on_slice(index) for index in order]
        return LabelVolume(
            planes, [slices[index].path for index in order], dict(enumerate(self.names[1:], 1))
        )


@dataclass
class MeanDice:
    """Dice of each class over the voxels of all source slices together, averaged over the classes; 0–1."""

    task: SegmentVolume
    both: Counter[int] = field(default_factory=Counter)
    either: Counter[int] = field(default_factory=Counter)

    def add(self, sample: Sample, payload: Segmentation) -> None:
        if sample.label is None:
            return
        truth = sample.label if isinstance(sample.label, np.ndarray) else _read_labels(sample.label)
        shape = payload.placement.source.shape
        if truth.shape != shape:
            raise InputError(
                f"labels of {_times(truth.shape)} voxels for {sample.path.name}",
                f"its series has {_times(shape)}",
                "labels are slices × rows × columns, in the order along the normal",
            )
        for index, true in enumerate(truth):
            found = payload.on_slice(index)
            for label in range(1, len(payload.names)):
                self.both[label] += int(np.count_nonzero((found == label) & (true == label)))
                self.either[label] += int(np.count_nonzero(found == label) + np.count_nonzero(true == label))

    def value(self) -> float:
        found = [2 * self.both[label] / total for label, total in self.either.items() if total]
        return float(np.mean(found)) if found else float("nan")


class SegmentVolume:
    """One score a class and voxel: N × classes × D × H × W."""

    kind = "segment_volume"
    metric = "dice"

    def __init__(self, settings: SegmentVolumeSettings) -> None:
        self.settings = settings

    def samples(self, config: SamplesConfig) -> Sequence[Sample]:
        """Folders that each hold the slices of one series; in `config.labels` the labels of `a/b` are
        `a/b.npy`: bytes, slices × rows × columns."""
        return find_series(config, ".npy")

    def network_image(self, sample: Sample) -> Volume:
        return open_volume(sorted(file for file in dicom_files(sample.path) if file.parent == sample.path))

    def tail(self) -> None:
        return None

    def postprocess(self, outputs: Mapping[str, Array], index: int, placement: Conformed) -> Segmentation:
        scores = one_picture(
            outputs, self.settings.output, index, 4, "batch × classes × depth × height × width"
        )
        names = self._names(len(scores))
        if scores.shape[1:] != placement.grid.shape:
            raise ModelError(
                f"an output of {_times(scores.shape[1:])} voxels",
                f"the input has {_times(placement.grid.shape)}",
                "the network has to keep the size",
            )
        labels = np.empty(placement.grid.shape, np.uint8)
        sums, counts = np.zeros(len(names)), np.zeros(len(names), np.int64)
        for plane, probabilities in enumerate(self._probabilities(scores)):
            labels[plane] = probabilities.argmax(0)
            best = probabilities.max(0)
            sums += np.bincount(labels[plane].ravel(), best.ravel(), len(names))
            counts += np.bincount(labels[plane].ravel(), minlength=len(names))
        means = tuple(float(mean) for mean in sums / np.maximum(counts, 1))
        return Segmentation(labels, means, names, placement)

    score_payload = postprocess

    def scorer(self) -> MeanDice:
        return MeanDice(self)

    def divergence(
        self, reference: Mapping[str, Array], this: Mapping[str, Array], placement: Conformed
    ) -> float:
        """Of the voxels' classes, averaged over the grid."""
        a, b = (
            one_picture(outputs, self.settings.output, 0, 4, "batch × classes × depth × height × width")
            for outputs in (reference, this)
        )
        planes = zip(self._probabilities(a), self._probabilities(b), strict=True)
        return sum(likeness.categorical(p, q) for p, q in planes) / int(np.prod(a.shape[1:]))

    def believed(
        self, sample: Sample, outputs: Mapping[str, Array], placement: Conformed, random: Generator
    ) -> Sequence[Sample]:
        """Labels whose voxels were drawn by their probabilities."""
        found = self.postprocess(outputs, 0, placement)
        scores = one_picture(outputs, self.settings.output, 0, 4, "")
        for plane, probabilities in enumerate(self._probabilities(scores)):
            drawn = (probabilities.cumsum(0) < random.random(probabilities.shape[1:])).sum(0)
            found.labels[plane] = np.minimum(drawn, len(scores) - 1)
        slices = range(len(placement.volume.slices))
        return [Sample(sample.path, np.stack([found.on_slice(index) for index in slices]))]

    def _names(self, count: int) -> tuple[str, ...]:
        """The classes' names, their numbers where the config gives none."""
        names = self.settings.labels
        if not 2 <= count <= MOST_CLASSES or (names and len(names) != count):
            wanted = f"[task] labels names {len(names)}" if names else f"a task has 2 to {MOST_CLASSES}"
            raise ModelError(f"an output of {count} classes", wanted, "mend [task]")
        return names or tuple(map(str, range(count)))

    def _probabilities(self, scores: Array) -> Iterator[NDArray[np.float32]]:
        """Classes × H × W, plane by plane; NaN as 0, so that a voxel without a score is background."""
        for plane in range(scores.shape[1]):
            values = np.nan_to_num(np.asarray(scores[:, plane], np.float32), nan=0.0)
            if self.settings.scores == "logits":
                values = np.exp(values - values.max(0))
                values /= values.sum(0)
            yield values


def _read_labels(path: Path) -> NDArray[np.uint8]:
    try:
        labels = np.load(path, allow_pickle=False)
        if labels.dtype != np.uint8:
            raise ValueError(f"its type is {labels.dtype}, not uint8")
    except (OSError, ValueError, EOFError) as e:
        raise InputError(f"cannot read the labels {path}", str(e), "write them with numpy.save") from e
    return np.asarray(labels, np.uint8)


def _times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def create(settings: dict[str, Any], where: str) -> SegmentVolume:
    return SegmentVolume(validate(SegmentVolumeSettings, settings, where))
