"""Segmentation: masks at the size of the source's frames, one bit a pixel (PS3.3 A.51)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.dicom.answers import codes
from edge.dicom.answers.dress import MANUFACTURER, blank, dress, engine_facts, lossy
from edge.dicom.answers.finding import Inference
from edge.dicom.answers.observation import label_of, pixels
from edge.dicom.answers.source import Plane, Source, Sources
from edge.dicom.answers.uids import derived
from edge.tasks import drawing
from edge.tasks.segment import Mask
from edge.types import Array

KIND = "seg"

SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"

BY_SEGMENT = (0x0062000B, 0x0062000A)
"""Referenced Segment Number in Segment Identification Sequence: the first dimension of frames."""

BY_POSITION = (0x00200032, 0x00209113)
"""Image Position (Patient) in Plane Position Sequence: the second dimension of frames at different places."""

BY_ORDER = (0x00209057, 0x00209111)
"""In-Stack Position Number in Frame Content Sequence: of frames without a place, or at the same one."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """The labels of one source frame.

    Attributes:
        labels: rows × columns; 0, or a segment number.
    """

    source: Source
    frame: int
    labels: NDArray[np.uint8]

    @property
    def plane(self) -> Plane | None:
        """Where it lies in the frame of reference; None where the source has none."""
        return self.source.plane(self.frame) if self.source.frame_of_reference else None

    @property
    def raster(self) -> tuple[Any, ...]:
        """What all frames of one Segmentation have in common."""
        plane, source = self.plane, self.source
        shared = (plane.axes, plane.spacing, plane.thickness) if plane else ()
        return source.series, source.rows, source.columns, source.frame_of_reference, shared


def build(inference: Inference, sources: Sources) -> list[Any]:
    """One Segmentation for all frames of a series that share size and orientation; none where no mask is."""
    names, layers = _layers(inference, sources)
    groups: dict[tuple[Any, ...], list[Layer]] = {}
    for layer in layers:
        if layer.labels.any():
            groups.setdefault(layer.raster, []).append(layer)
    answers = []
    for number, group in enumerate(groups.values(), 1):
        answer = _segmentation(group, names, inference)
        answers.append(dress(answer, KIND, number, inference, sources))
    return answers


def _layers(inference: Inference, sources: Sources) -> tuple[list[str], list[Layer]]:
    """What each segment is, by number from 1, and the labels of every frame."""
    if (volume := inference.volume) is not None:
        values = volume.values
        numbers = np.zeros(256, np.uint8)
        numbers[values] = range(1, len(values) + 1)
        slices = zip(volume.paths, volume.labels, strict=True)
        return [volume.names[value] for value in values], [
            Layer(sources[path], volume.frame(i), numbers[labels]) for i, (path, labels) in enumerate(slices)
        ]
    masks = [(sources[f.path], f.frame, f.payload) for f in inference.found if isinstance(f.payload, Mask)]
    names = sorted({label_of(mask) for _, _, mask in masks})
    return names, [
        Layer(source, frame, pixels(mask) * np.uint8(names.index(label_of(mask)) + 1))
        for source, frame, mask in masks
    ]


def _segmentation(layers: Sequence[Layer], names: Sequence[str], inference: Inference) -> Any:
    answer = blank(SEGMENTATION_STORAGE, "SEG")
    _image_pixel(answer, layers[0].source)
    frames = [
        (number, layer)
        for number in range(1, len(names) + 1)
        for layer in _ordered(layers)
        if (layer.labels == number).any()
    ]
    answer.NumberOfFrames = len(frames)
    answer.PixelData = b"".join(_packed(layer.labels == number for number, layer in frames))
    answer["PixelData"].VR = "OB"
    answer.SegmentSequence = [_segment(n, name, inference) for n, name in enumerate(names, 1)]
    if uid := layers[0].source.frame_of_reference:
        answer.FrameOfReferenceUID, answer.PositionReferenceIndicator = uid, None
    else:
        answer.PatientOrientation = layers[0].source.dataset.get("PatientOrientation")
    _functional_groups(answer, frames, derived(inference.key, "dimensions"))
    answer.ReferencedSeriesSequence = [_referenced_series(layers)]
    return answer


def _image_pixel(answer: Any, source: Source) -> None:
    """PS3.3 C.7.6.3 and C.8.20.2."""
    answer.ImageType = ["DERIVED", "PRIMARY"]
    answer.Rows, answer.Columns = source.rows, source.columns
    answer.SamplesPerPixel, answer.PhotometricInterpretation = 1, "MONOCHROME2"
    answer.BitsAllocated = answer.BitsStored = 1
    answer.HighBit = answer.PixelRepresentation = 0
    lossy(answer, source)
    answer.BurnedInAnnotation = "NO"
    answer.SegmentationType, answer.SegmentsOverlap = "BINARY", "NO"
    answer.ContentLabel, answer.ContentDescription, answer.ContentCreatorName = "MASKS", None, None


def _packed(masks: Iterator[NDArray[np.bool_]]) -> Iterator[bytes]:
    """Eight pixels a byte, lowest bit first, frames without a gap (PS3.5 8.1.1); of an even length."""
    rest: Array = np.empty(0, bool)
    length = 0
    for mask in masks:
        bits = np.concatenate([rest, mask.ravel()])
        whole = len(bits) // 8 * 8
        rest = bits[whole:]
        length += whole // 8
        yield np.packbits(bits[:whole], bitorder="little").tobytes()
    tail = np.packbits(rest, bitorder="little").tobytes()
    yield tail + bytes((length + len(tail)) % 2)


def _segment(number: int, name: str, inference: Inference) -> Any:
    """PS3.3 C.8.20.4."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription

    engine = inference.engine
    blue, green, red = drawing.color_of(number - 1)
    concept = codes.class_code(name)
    known = concept.scheme_designator != codes.SCHEME
    return SegmentDescription(
        segment_number=number,
        segment_label=codes.text(name),
        segmented_property_category=codes.tissue() if known else codes.spatial_concept(),
        segmented_property_type=concept,
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=codes.text(engine.model),
            family=codes.code("123110", "DCM", "Artificial Intelligence"),
            version=codes.text(engine.key),
            source=MANUFACTURER,
            parameters=engine_facts(inference),
        ),
        display_color=CIELabColor.from_rgb(red, green, blue),
        tracking_uid=derived(inference.key, "segment", number),
        tracking_id=codes.text(name),
    )


def _ordered(layers: Sequence[Layer]) -> list[Layer]:
    """Along the normal; without a place as they came."""
    planes = [layer.plane for layer in layers]
    depths = [plane.depth for plane in planes if plane is not None]
    if len(depths) < len(layers):
        return list(layers)
    return [layers[i] for i in np.argsort(depths, kind="stable")]


def _functional_groups(answer: Any, frames: Sequence[tuple[int, Layer]], uid: str) -> None:
    """What is common to all frames, what is of each, and how they are indexed (PS3.3 C.7.6.16, C.7.6.17)."""
    layers = _ordered(list({id(layer): layer for _, layer in frames}.values()))
    ranks = {id(layer): rank for rank, layer in enumerate(layers, 1)}
    shared = _item()
    first = layers[0].plane
    if first is not None:
        shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=_decimals(first.axes))]
        thickness = first.thickness or _gap(layers) or first.spacing[0]
        measures = _item(PixelSpacing=_decimals(first.spacing), SliceThickness=_decimals([thickness])[0])
        shared.PixelMeasuresSequence = [measures]
    answer.SharedFunctionalGroupsSequence = [shared]
    answer.PerFrameFunctionalGroupsSequence = [
        _frame_item(number, layer, ranks[id(layer)]) for number, layer in frames
    ]
    answer.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=uid)]
    depths = {layer.plane.depth for layer in layers if layer.plane is not None}
    place = BY_POSITION if len(depths) == len(layers) else BY_ORDER
    answer.DimensionIndexSequence = [_dimension(uid, *BY_SEGMENT), _dimension(uid, *place)]


def _gap(layers: Sequence[Layer]) -> float:
    """The smallest distance between slices in mm; 0 where there are no two."""
    depths = sorted({layer.plane.depth for layer in layers if layer.plane is not None})
    return min((b - a for a, b in pairwise(depths)), default=0.0)


def _frame_item(number: int, layer: Layer, rank: int) -> Any:
    purpose = codes.code("121322", "DCM", "Source image for image processing operation")
    image = layer.source.reference([layer.frame])
    image.PurposeOfReferenceCodeSequence = [purpose]
    image.SpatialLocationsPreserved = "YES"
    derivation = _item(
        SourceImageSequence=[image],
        DerivationCodeSequence=[codes.code("113076", "DCM", "Segmentation")],
    )
    content = _item(DimensionIndexValues=[number, rank], StackID="1", InStackPositionNumber=rank)
    item = _item(
        FrameContentSequence=[content],
        DerivationImageSequence=[derivation],
        SegmentIdentificationSequence=[_item(ReferencedSegmentNumber=number)],
    )
    if (plane := layer.plane) is not None:
        item.PlanePositionSequence = [_item(ImagePositionPatient=_decimals(plane.position))]
    return item


def _dimension(uid: str, pointer: int, group: int) -> Any:
    from pydicom.datadict import keyword_for_tag

    return _item(
        DimensionOrganizationUID=uid,
        DimensionIndexPointer=pointer,
        FunctionalGroupPointer=group,
        DimensionDescriptionLabel=keyword_for_tag(pointer),
    )


def _referenced_series(layers: Sequence[Layer]) -> Any:
    """PS3.3 C.12.2."""
    instances = {layer.source.instance: layer.source for layer in layers}
    return _item(
        SeriesInstanceUID=layers[0].source.series,
        ReferencedInstanceSequence=[source.reference() for source in instances.values()],
    )


def _decimals(values: Sequence[float]) -> list[str]:
    """As DS, of at most 16 characters (PS3.5 6.2)."""
    from pydicom.valuerep import format_number_as_ds

    return [format_number_as_ds(value) for value in values]


def _item(**elements: Any) -> Any:
    from pydicom import Dataset

    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item
