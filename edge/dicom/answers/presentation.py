"""Presentation state: outlines and labels that a viewer draws over the source itself (PS3.3 A.33.1)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from edge.dicom.answers.codes import text
from edge.dicom.answers.dress import blank, dress, side
from edge.dicom.answers.finding import Inference
from edge.dicom.answers.observation import Region, observe
from edge.dicom.answers.report import outline
from edge.dicom.answers.source import Source, Sources
from edge.dicom.answers.uids import tracking_uid
from edge.dicom.pixels import DicomImage
from edge.dicom.transforms import GreyTransform, inverted_because
from edge.dicom.voi import choose, options, windows

KIND = "gsps"

GRAYSCALE_SOFTCOPY = "1.2.840.10008.5.1.4.1.1.11.1"

LAYER = "FINDINGS"

COLOR = (62, 28, 79)
"""Of the outlines on colour screens: CIELab of orange, as numbers from 0 to 100 and −128 to 127."""


@dataclass(slots=True, eq=False)
class Look:
    """Frames that are shown in the same way, so that one presentation state can hold them.

    Attributes:
        elements: modality, VOI and presentation LUT, and the displayed area.
        frames: sources, frames, and their regions.
    """

    elements: Any
    frames: list[tuple[Source, int, tuple[Region, ...]]] = field(default_factory=list)


def build(inference: Inference, sources: Sources) -> list[Any]:
    """One state for all frames of a series that are shown alike; only of grey frames with regions."""
    looks: dict[str, Look] = {}
    images: dict[Any, DicomImage] = {}
    for found in inference.found:
        source = sources[found.path]
        regions = observe(found.payload, source.columns, source.rows).regions
        if not source.grey or not regions:
            continue
        if found.path not in images:
            images = {found.path: sources.image(found.path)}
        elements = _look(source, found.frame, images[found.path], inference.window)
        look = looks.setdefault(source.series + elements.to_json(), Look(elements))
        look.frames.append((source, found.frame, regions))
    answers = []
    for number, look in enumerate(looks.values(), 1):
        answer = _state(look, inference)
        answers.append(dress(answer, KIND, number, inference, sources))
    return answers


def _state(look: Look, inference: Inference) -> Any:
    from highdicom.color import CIELabColor
    from highdicom.pr import GraphicLayer
    from pydicom import Dataset

    answer = blank(GRAYSCALE_SOFTCOPY, "PR")
    del answer.ContentDate, answer.ContentTime
    answer.PresentationCreationDate = answer.PresentationCreationTime = None
    answer.ContentLabel = LAYER
    answer.ContentDescription = text(f"regions found by {inference.engine.model}")
    answer.ContentCreatorName = None
    side(answer, look.frames[0][0])
    answer.update(look.elements)
    series = Dataset()
    series.SeriesInstanceUID = look.frames[0][0].series
    used = {source.instance: source for source, _, _ in look.frames}
    series.ReferencedImageSequence = [source.reference() for source in used.values()]
    answer.ReferencedSeriesSequence = [series]
    color = CIELabColor(*COLOR)
    answer.GraphicLayerSequence = [GraphicLayer(LAYER, order=1, display_color=color)]
    answer.GraphicAnnotationSequence = list(_annotations(look, inference.key))
    return answer


def _annotations(look: Look, key: str) -> Iterator[Any]:
    """An item a frame: a closed line and a label for each region (PS3.3 C.10.5)."""
    from highdicom.pr import GraphicObject, TextObject
    from pydicom import Dataset

    for source, frame, regions in look.frames:
        lines, labels = [], []
        for number, region in enumerate(regions, 1):
            track: dict[str, Any] = {
                "tracking_id": f"region {number}",
                "tracking_uid": tracking_uid(key, source.instance, frame, number),
            }
            lines.append(GraphicObject("POLYLINE", outline(region), "PIXEL", **track))
            label = f"{region.name} {100 * region.score:.0f}%"
            anchor = (region.box[0], region.box[1])
            labels.append(
                TextObject(label, "PIXEL", anchor_point=anchor, anchor_point_visible=False, **track)
            )
        item = Dataset()
        item.GraphicLayer = LAYER
        item.ReferencedImageSequence = [source.reference([frame])]
        item.GraphicObjectSequence, item.TextObjectSequence = lines, labels
        yield item


def _look(source: Source, frame: int, image: DicomImage, window: int | str) -> Any:
    """How this program shows the frame, as a presentation state says it."""
    from pydicom import Dataset

    look = Dataset()
    transform = GreyTransform.of(source.dataset, frame, window)
    _modality(look, transform)
    voi = _voi(transform, image)
    if voi is not None:
        look.SoftcopyVOILUTSequence = [voi]
    look.PresentationLUTShape = "INVERSE" if inverted_because(source.dataset) else "IDENTITY"
    area = Dataset()
    area.DisplayedAreaTopLeftHandCorner = [1, 1]
    area.DisplayedAreaBottomRightHandCorner = [source.columns, source.rows]
    area.PresentationSizeMode = "SCALE TO FIT"
    plane = source.plane(frame)
    if plane is not None:
        area.PresentationPixelSpacing = [f"{mm:.10g}" for mm in plane.spacing]
    else:
        area.PresentationPixelAspectRatio = source.dataset.get("PixelAspectRatio") or [1, 1]
    look.DisplayedAreaSelectionSequence = [area]
    return look


def _modality(look: Any, transform: GreyTransform) -> None:
    """PS3.3 C.11.1."""
    source = transform.modality
    if tables := source.get("ModalityLUTSequence"):
        table = copy.deepcopy(tables[0])
        table.ModalityLUTType = str(table.get("ModalityLUTType") or "US")
        look.ModalityLUTSequence = [table]
    elif source.get("RescaleSlope") is not None and source.get("RescaleIntercept") is not None:
        look.RescaleIntercept, look.RescaleSlope = source.RescaleIntercept, source.RescaleSlope
        look.RescaleType = str(source.get("RescaleType") or "US")


def _voi(transform: GreyTransform, image: DicomImage) -> Any | None:
    """The chosen VOI LUT or window (PS3.3 C.11.8); of a deep image without one, its range of values."""
    from pydicom import Dataset

    item = Dataset()
    source = transform.voi
    tables, names = source.get("VOILUTSequence") or [], options(source)
    index = choose(names, transform.window) if names else 0
    if index < len(tables):
        item.VOILUTSequence = [copy.deepcopy(tables[index])]
        return item
    function = str(source.get("VOILUTFunction") or "LINEAR").upper()
    if names:
        center, width, _ = windows(source)[index - len(tables)]
        function = "LINEAR_EXACT" if function == "LINEAR" and width < 1 else function
    elif transform.windowless:
        span = image.span
        center, width = (span.low + span.high) / 2, span.high - span.low or 1.0
        function = "LINEAR_EXACT"
    else:
        return None
    item.WindowCenter, item.WindowWidth = f"{center:.10g}", f"{width:.10g}"
    if function != "LINEAR":
        item.VOILUTFunction = function
    return item
