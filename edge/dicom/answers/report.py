"""Structured report: what was found, as measurements (Comprehensive SR, PS3.16 TID 1500)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from edge import __version__
from edge.dicom.answers import codes
from edge.dicom.answers.dress import MANUFACTURER, blank, dress, engine_facts, evidence
from edge.dicom.answers.finding import Inference, LabelVolume
from edge.dicom.answers.observation import Observation, Region, observe
from edge.dicom.answers.source import Source, Sources
from edge.dicom.answers.uids import derived, tracking_uid

KIND = "sr"

COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""For highdicom, which takes no region of an image of a retired or private class."""


def build(inference: Inference, sources: Sources) -> list[Any]:
    """One report of the whole unit of work, also where nothing was found; none where nothing is measured."""
    from highdicom.sr import MeasurementReport, ObservationContext

    groups = [*_of_frames(inference, sources), *_of_volume(inference, sources)]
    if not groups:
        return []
    report = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer(inference)),
        procedure_reported=codes.code("363679005", "SCT", "Imaging procedure"),
        imaging_measurements=groups,
        title=codes.code("126000", "DCM", "Imaging Measurement Report"),
    )
    answer = blank(COMPREHENSIVE_SR, "SR")
    answer.update(report[0])
    answer.CompletionFlag, answer.VerificationFlag = "COMPLETE", "UNVERIFIED"
    answer.PreliminaryFlag = "PRELIMINARY"
    answer.PerformedProcedureCodeSequence = answer.ReferencedPerformedProcedureStepSequence = []
    answer.CurrentRequestedProcedureEvidenceSequence = [evidence(sources)]
    return [dress(answer, KIND, 1, inference, sources)]


def observer(inference: Inference) -> Any:
    """Who says so: this program with this engine (TID 1002, TID 1004)."""
    from highdicom.sr import DeviceObserverIdentifyingAttributes, ObserverContext

    engine = inference.engine
    device = DeviceObserverIdentifyingAttributes(
        uid=derived("engine", engine.key),
        name=codes.text(f"{engine.model} on {engine.target}/{engine.variant}"),
        manufacturer_name=MANUFACTURER,
        model_name=f"edge {__version__}",
        serial_number=codes.text(engine.key),
    )
    return ObserverContext(codes.code("121007", "DCM", "Device"), device)


def _algorithm(inference: Inference) -> Any:
    """Which network, in which precision (TID 4019)."""
    from highdicom.sr import AlgorithmIdentification

    engine = inference.engine
    return AlgorithmIdentification(
        name=codes.text(engine.model),
        version=codes.text(engine.key),
        parameters=[f"{name}: {value}" for name, value in engine_facts(inference).items()],
        manufacturer=MANUFACTURER,
    )


def _of_frames(inference: Inference, sources: Sources) -> Iterator[Any]:
    """Measurement groups of all frames, in order."""
    algorithm = _algorithm(inference)
    for found in inference.found:
        source = sources[found.path]
        seen = observe(found.payload, source.columns, source.rows)
        yield from _of_classes(inference.key, source, found.frame, seen, algorithm)
        if seen.regions is not None:
            yield _summary(inference.key, source, found.frame, seen, algorithm)
            for number, region in enumerate(seen.regions, 1):
                yield _of_region(inference.key, source, found.frame, number, region, algorithm)


def _of_classes(key: str, source: Source, frame: int, seen: Observation, algorithm: Any) -> Iterator[Any]:
    """A group a class: the whole frame shows it, so certainly (TID 1501)."""
    for number, (name, score) in enumerate(seen.classes, 1):
        track = tracking(f"class {number}", derived(key, "class", source.instance, frame, number))
        yield _group(source, frame, track, codes.class_code(name), [_certainty(score)], algorithm)


def _summary(key: str, source: Source, frame: int, seen: Observation, algorithm: Any) -> Any:
    """How many regions a frame has, and how much of it they cover: so that none is a statement too."""
    values = [_number(codes.regions_found(), len(seen.regions or ()), codes.count())]
    if seen.share is not None:
        values.append(_number(codes.share(), round(100 * seen.share, 4), codes.percent()))
    track = tracking("frame", derived(key, "frame", source.instance, frame))
    return _group(source, frame, track, None, values, algorithm)


def _of_region(key: str, source: Source, frame: int, number: int, region: Region, algorithm: Any) -> Any:
    """A group with the region's outline (TID 1410)."""
    from highdicom.sr import (
        ImageRegion,
        PlanarROIMeasurementsAndQualitativeEvaluations,
        SourceImageForRegion,
    )

    image = SourceImageForRegion(SECONDARY_CAPTURE, source.instance, source.numbers(frame))
    area = ImageRegion("POLYLINE", outline(region), image)
    area.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPClassUID = source.sop_class
    if "TotalPixelMatrixRows" in source.dataset:
        area.PixelOriginInterpretation = "FRAME"  # of a tile, not of the whole slide
    uid = tracking_uid(key, source.instance, frame, number)
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking(f"region {number}", uid),
        referenced_region=area,
        finding_type=codes.class_code(region.name),
        measurements=[_certainty(region.score)],
        algorithm_id=algorithm,
    )


def outline(region: Region) -> Any:
    """The box as a closed line, 5 × 2 (PS3.3 C.18.6.1.2)."""
    x1, y1, x2, y2 = region.box
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]])


def _of_volume(inference: Inference, sources: Sources) -> Iterator[Any]:
    """A group a label: its volume in the patient; none where the slices have no place in it."""
    from highdicom.sr import MeasurementsAndQualitativeEvaluations, SourceImageForMeasurementGroup

    volume = inference.volume
    if volume is None:
        return
    slices = {path: sources[path] for path in volume.paths}.values()
    for value, size in _millilitres(volume, sources).items():
        yield MeasurementsAndQualitativeEvaluations(
            tracking_identifier=tracking(f"label {value}", derived(inference.key, "label", value)),
            finding_type=codes.class_code(volume.names[value]),
            measurements=[_number(codes.volume(), round(size, 3), codes.millilitres())],
            algorithm_id=_algorithm(inference),
            source_images=[
                SourceImageForMeasurementGroup(source.sop_class, source.instance) for source in slices
            ],
        )


def _millilitres(volume: LabelVolume, sources: Sources) -> dict[int, float]:
    """Volume of each label; {} where the slices have no place in the patient."""
    planes = [sources[path].plane(volume.frame(i)) for i, path in enumerate(volume.paths)]
    known = [plane for plane in planes if plane is not None]
    if len(known) < len(planes) or len({plane.axes for plane in known}) != 1:
        return {}
    order = np.argsort([plane.depth for plane in known], kind="stable")
    depths = np.array([plane.depth for plane in known])[order]
    heights = np.abs(np.gradient(depths)) if len(depths) > 1 else np.array([known[0].thickness or 0.0])
    areas = np.array([known[i].spacing[0] * known[i].spacing[1] for i in order])
    counts = [np.bincount(np.ravel(volume.labels[i]), minlength=256) for i in order]
    sizes = (np.array(counts) * (areas * heights)[:, None]).sum(0) / 1000
    return {value: float(sizes[value]) for value in volume.values}


def _group(source: Source, frame: int, track: Any, finding: Any, values: list[Any], algorithm: Any) -> Any:
    """Measurements of a frame as a whole (TID 1501)."""
    from highdicom.sr import MeasurementsAndQualitativeEvaluations, SourceImageForMeasurementGroup

    image = SourceImageForMeasurementGroup(source.sop_class, source.instance, source.numbers(frame))
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=track,
        finding_type=finding,
        measurements=values,
        algorithm_id=algorithm,
        source_images=[image],
    )


def tracking(name: str, uid: str) -> Any:
    from highdicom.sr import TrackingIdentifier

    return TrackingIdentifier(uid=uid, identifier=name)


def _certainty(score: float) -> Any:
    return _number(codes.certainty(), round(100 * score, 2), codes.percent())


def _number(name: Any, value: float, unit: Any) -> Any:
    from highdicom.sr import Measurement

    return Measurement(name=name, value=value, unit=unit)
