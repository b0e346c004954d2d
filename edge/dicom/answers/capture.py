"""Secondary capture: the overlay burned into the display picture, for viewers that show nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge.dicom.answers.codes import text
from edge.dicom.answers.dress import blank, dress, side
from edge.dicom.answers.finding import Found, Inference
from edge.dicom.answers.source import Source, Sources
from edge.dicom.pixels import DicomImage
from edge.types import Image

KIND = "sc"

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
MULTI_FRAME_TRUE_COLOR = "1.2.840.10008.5.1.4.1.1.7.4"

MOST_BYTES = 256 << 20
"""Of one object. Of a longer cine the frames with the best scores are shown."""


def build(inference: Inference, sources: Sources) -> list[Any]:
    """One object a source object; multi-frame where more than one frame was looked at."""
    by_source: dict[Any, list[Found]] = {}
    for found in inference.found:
        by_source.setdefault(found.path, []).append(found)
    answers = []
    for number, (path, frames) in enumerate(by_source.items(), 1):
        answer = _capture(sources[path], sources.image(path), frames, inference)
        answers.append(dress(answer, KIND, number, inference, sources))
    return answers


def _capture(source: Source, image: DicomImage, found: Sequence[Found], inference: Inference) -> Any:
    shown = _affordable(source, found)
    pictures = _pictures(image, shown, inference.window)
    several = len(shown) > 1
    sop_class = MULTI_FRAME_TRUE_COLOR if several else SECONDARY_CAPTURE
    answer = blank(sop_class, str(source.dataset.get("Modality") or "OT"))
    answer.ConversionType = "SYN"
    answer.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    answer.BurnedInAnnotation = "YES"
    answer.PatientOrientation = source.dataset.get("PatientOrientation")
    side(answer, source)
    answer.LossyImageCompression = "01" if source.dataset.get("LossyImageCompression") == "01" else "00"
    answer.DerivationDescription = text(f"Result of {inference.engine.model} drawn over the image", 1024)
    answer.SourceImageSequence = [source.reference([frame.frame for frame in shown])]
    _true_color(answer, pictures)
    if several:
        _multi_frame(answer, shown)
    return answer


def _affordable(source: Source, found: Sequence[Found]) -> list[Found]:
    """All frames, or as many of the best as one object may hold, in their order."""
    most = max(1, MOST_BYTES // (3 * source.rows * source.columns))
    if len(found) <= most:
        return list(found)

    def score(index: int) -> float:
        return max(found[index].payload.found().values(), default=0.0)

    best = sorted(range(len(found)), key=score, reverse=True)[:most]
    return [found[index] for index in sorted(best)]


def _pictures(image: DicomImage, found: Sequence[Found], window: int | str) -> list[Image]:
    """What display and network got (PS3.4 N.2), drawn over; H × W × 3 RGB."""
    drawn = (frame.payload.draw(image.frame(frame.frame, window)[0]) for frame in found)
    return [np.ascontiguousarray(picture[..., ::-1]) for picture in drawn]


def _true_color(answer: Any, pictures: Sequence[Image]) -> None:
    """PS3.3 C.7.6.3."""
    answer.Rows, answer.Columns = pictures[0].shape[:2]
    answer.SamplesPerPixel, answer.PhotometricInterpretation = 3, "RGB"
    answer.PlanarConfiguration = answer.PixelRepresentation = 0
    answer.BitsAllocated = answer.BitsStored = 8
    answer.HighBit = 7
    data = b"".join(picture.tobytes() for picture in pictures)
    answer.PixelData = data + bytes(len(data) % 2)
    answer["PixelData"].VR = "OB"


def _multi_frame(answer: Any, shown: Sequence[Found]) -> None:
    """PS3.3 C.7.6.6 and C.8.6.4: frames are numbered as in the source."""
    answer.NumberOfFrames = len(shown)
    answer.FrameIncrementPointer = 0x00182001  # Page Number Vector
    answer.PageNumberVector = [frame.frame + 1 for frame in shown]
