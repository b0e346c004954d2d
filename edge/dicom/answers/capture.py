"""Secondary capture: the overlay burned into the display picture, for viewers that show nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.dicom.answers.codes import text
from edge.dicom.answers.dress import blank, dress, lossy, side
from edge.dicom.answers.finding import Inference, LabelVolume
from edge.dicom.answers.source import Source, Sources
from edge.tasks import drawing
from edge.types import Image

KIND = "sc"

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
MULTI_FRAME_TRUE_COLOR = "1.2.840.10008.5.1.4.1.1.7.4"

MOST_BYTES = 128 << 20
"""Of one object. Of a longer cine the frames with the best scores are shown."""

TINT = 0.45
"""Strength of a label's colour over the slice."""


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """One picture.

    Attributes:
        score: how much it is worth showing, 0–1.
        draw: the finding over a copy of the display picture.
    """

    source: Source
    frame: int
    score: float
    draw: Callable[[Image], Image]


def build(inference: Inference, sources: Sources) -> list[Any]:
    """One object a source object, multi-frame where more than one frame was looked at; one of all slices of a
    volume."""
    groups: dict[Any, list[Shot]] = {}
    for shot in _shots(inference, sources):
        source = shot.source
        group = (source.rows, source.columns) if inference.volume else source.path
        groups.setdefault(group, []).append(shot)
    answers = []
    for number, shots in enumerate(groups.values(), 1):
        answer = _capture(_affordable(shots), sources, inference)
        answers.append(dress(answer, KIND, number, inference, sources))
    return answers


def _shots(inference: Inference, sources: Sources) -> Iterator[Shot]:
    if (volume := inference.volume) is not None:
        for i, (path, labels) in enumerate(zip(volume.paths, volume.labels, strict=True)):
            share = float(np.count_nonzero(labels)) / max(1, labels.size)
            yield Shot(sources[path], volume.frame(i), share, _Labelled(labels, volume).draw)
        return
    for found in inference.found:
        score = max(found.payload.found().values(), default=0.0)
        yield Shot(sources[found.path], found.frame, score, found.payload.draw)


@dataclass(frozen=True, slots=True, eq=False)
class _Labelled:
    """The labels of one slice."""

    labels: NDArray[np.uint8]
    volume: LabelVolume

    def draw(self, image: Image) -> Image:
        """Each label in a colour of its own, with a legend."""
        canvas = drawing.canvas(image)
        line = drawing.style(canvas)
        for number, value in enumerate(self.volume.values):
            strength = np.where(self.labels == value, np.float32(TINT), np.float32(0))
            canvas = drawing.tint(canvas, strength, drawing.color_of(number))
        for number, value in enumerate(self.volume.values):
            y = (number + 1) * (line.text + 2 * line.gap)
            drawing.tag(canvas, self.volume.names[value], 0, y, drawing.color_of(number))
        return canvas


def _affordable(shots: Sequence[Shot]) -> list[Shot]:
    """All pictures, or as many of the best as one object may hold, in their order."""
    source = shots[0].source
    most = max(1, MOST_BYTES // (3 * source.rows * source.columns))
    best = sorted(range(len(shots)), key=lambda index: shots[index].score, reverse=True)[:most]
    return [shots[index] for index in sorted(best)]


def _capture(shots: Sequence[Shot], sources: Sources, inference: Inference) -> Any:
    source = shots[0].source
    sop_class = MULTI_FRAME_TRUE_COLOR if len(shots) > 1 else SECONDARY_CAPTURE
    answer = blank(
        sop_class, "OT"
    )  # not the source's: what is routed to this program by modality is no answer
    answer.ConversionType = "SYN"
    answer.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    answer.BurnedInAnnotation = "YES"
    answer.PatientOrientation = source.dataset.get("PatientOrientation")
    side(answer, source)
    lossy(answer, source)
    answer.DerivationDescription = text(f"Result of {inference.engine.model} drawn over the image", 1024)
    frames: dict[Source, list[int]] = {}
    for shot in shots:
        frames.setdefault(shot.source, []).append(shot.frame)
    answer.SourceImageSequence = [source.reference(numbers) for source, numbers in frames.items()]
    _true_color(answer, _pictures(shots, sources, inference.window))
    if len(shots) > 1:
        _multi_frame(answer, shots)
    return answer


def _pictures(shots: Sequence[Shot], sources: Sources, window: int | str) -> Iterator[Image]:
    """What display and network got (PS3.4 N.2), drawn over; H × W × 3 RGB."""
    image = None
    for shot in shots:
        if image is None or image.path != shot.source.path:
            image = sources.image(shot.source.path)
        picture, _ = image.frame(shot.frame, window)
        yield np.ascontiguousarray(shot.draw(picture)[..., ::-1])


def _true_color(answer: Any, pictures: Iterator[Image]) -> None:
    """PS3.3 C.7.6.3."""
    data = []
    for picture in pictures:
        answer.Rows, answer.Columns = picture.shape[:2]
        data.append(picture.tobytes())
    data.append(bytes(sum(map(len, data)) % 2))
    answer.PixelData = b"".join(data)
    answer["PixelData"].VR = "OB"
    answer.SamplesPerPixel, answer.PhotometricInterpretation = 3, "RGB"
    answer.PlanarConfiguration = answer.PixelRepresentation = 0
    answer.BitsAllocated = answer.BitsStored = 8
    answer.HighBit = 7


def _multi_frame(answer: Any, shots: Sequence[Shot]) -> None:
    """PS3.3 C.7.6.6 and C.8.6.4: the pages of a cine are numbered as its frames, those of slices in order."""
    cine = len({shot.source for shot in shots}) == 1
    answer.NumberOfFrames = len(shots)
    answer.FrameIncrementPointer = 0x00182001  # Page Number Vector
    answer.PageNumberVector = [shot.frame + 1 if cine else page for page, shot in enumerate(shots, 1)]
