"""What all answers have in common: the source's study, a new series, our equipment, one time."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import Any

from edge import __version__
from edge.dicom.answers.codes import text
from edge.dicom.answers.finding import Inference
from edge.dicom.answers.patient import date, same_study, time_of_day
from edge.dicom.answers.source import Source, Sources
from edge.dicom.answers.uids import instance_uid, series_uid
from edge.dicom.receiving.encoding import IMPLEMENTATION_CLASS, IMPLEMENTATION_VERSION

MANUFACTURER = "edge"

SERIES_NUMBERS = {"sr": 9001, "seg": 9002, "sc": 9003, "gsps": 9004, "ko": 9005}
"""High, so that answers are listed behind the images of a study."""

DESCRIPTIONS = {"sr": "findings", "seg": "masks", "sc": "overlay", "gsps": "outlines", "ko": "key images"}

LONGEST_PARAMETER = 1024
"""Characters of what an answer says of its engine in one line."""

TIMES = ("Content", "Acquisition", "Series", "Study")
"""Whose date and time stand for the moment of an inference that bears none; the first that there is."""


def dress(answer: Any, kind: str, number: int, inference: Inference, sources: Sources) -> Any:
    """Complete an answer, in place; it can be written as a file then (PS3.10 7).

    Args:
        number: from 1, within the answers of this kind.
        sources: all that the answer may refer to.
    """
    source = sources.first
    same_study(answer, source, inference)
    _own_series(answer, kind, number, inference)
    _dated(answer, moment_of(inference, source))
    _file_meta(answer)
    return answer


def is_answer(dataset: Any) -> bool:
    """Whether an object is one of ours: what comes back from an archive is not answered again."""
    versions = dataset.get("SoftwareVersions") or ""
    first = versions if isinstance(versions, str) else next(iter(versions), "")
    return dataset.get("Manufacturer") == MANUFACTURER and str(first).startswith(f"{MANUFACTURER} ")


def blank(sop_class: str, modality: str) -> Any:
    """A data set to be filled and dressed."""
    from pydicom import Dataset

    answer = Dataset()
    answer.SOPClassUID, answer.Modality = sop_class, modality
    answer.ContentDate = answer.ContentTime = None  # until it is dressed
    return answer


def side(answer: Any, source: Source) -> None:
    """Which of a pair of body parts it shows; empty where that is not told (PS3.3 C.7.3.1)."""
    answer.Laterality = source.dataset.get("Laterality") or source.dataset.get("ImageLaterality") or None


def lossy(answer: Any, source: Source) -> None:
    """What was lost in the source is lost in what was made of it (PS3.3 C.7.6.1.1.5)."""
    if source.dataset.get("LossyImageCompression") != "01":
        answer.LossyImageCompression = "00"
        return
    for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if source.dataset.get(keyword):
            setattr(answer, keyword, source.dataset[keyword].value)


def evidence(sources: Iterable[Source]) -> Any:
    """An item that lists objects, by series (PS3.3 C.17.2.3)."""
    from pydicom import Dataset

    sources = list(sources)
    study = Dataset()
    study.StudyInstanceUID = sources[0].study
    series: dict[str, Any] = {}
    for source in sources:
        if source.series not in series:
            series[source.series] = Dataset()
            series[source.series].SeriesInstanceUID = source.series
            series[source.series].ReferencedSOPSequence = []
        series[source.series].ReferencedSOPSequence.append(source.reference())
    study.ReferencedSeriesSequence = list(series.values())
    return study


def engine_facts(inference: Inference) -> dict[str, str]:
    """What tells one engine of a model from another."""
    engine = inference.engine
    facts = {"target": engine.target, "variant": engine.variant, "precision": inference.precision}
    return {name: text(value, LONGEST_PARAMETER) for name, value in facts.items() if value}


def _own_series(answer: Any, kind: str, number: int, inference: Inference) -> None:
    engine = inference.engine
    answer.SeriesInstanceUID = series_uid(inference.key, kind)
    answer.SOPInstanceUID = instance_uid(inference.key, kind, number)
    answer.SeriesNumber, answer.InstanceNumber = SERIES_NUMBERS[kind], number
    answer.SeriesDescription = text(f"{engine.model}: {DESCRIPTIONS[kind]}")
    answer.Manufacturer, answer.ManufacturerModelName = MANUFACTURER, text(engine.model)
    answer.DeviceSerialNumber = text(engine.key)
    answer.SoftwareVersions = [f"{MANUFACTURER} {__version__}", text(f"{engine.target}/{engine.variant}")]


def moment_of(inference: Inference, source: Source) -> datetime:
    """When the answer was found, on the source's clock.

    An answer without a moment bears its images' time, or else that of their file's arrival.
    """
    offset = _offset(source.dataset)
    if inference.moment is not None:
        return inference.moment.astimezone(offset)
    for name in TIMES:
        day = date(str(source.dataset.get(f"{name}Date") or ""))
        if day:
            hour = time_of_day(str(source.dataset.get(f"{name}Time") or ""))[:6].ljust(6, "0")
            return datetime.strptime(day + hour, "%Y%m%d%H%M%S")
    return datetime.fromtimestamp(source.path.stat().st_mtime, offset)


def _offset(dataset: Any) -> timezone | None:
    """Timezone Offset From UTC (PS3.3 C.12.1.1); None, which is this machine's, where it is absent."""
    match = re.fullmatch(r"([+-])(\d\d)(\d\d)", str(dataset.get("TimezoneOffsetFromUTC") or "").strip())
    if match is None:
        return None
    minutes = int(match[1] + "1") * (60 * int(match[2]) + int(match[3]))
    return timezone(timedelta(minutes=minutes)) if -720 <= minutes <= 840 else None


def _dated(answer: Any, moment: datetime) -> None:
    day, hour = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S")
    for name in ("InstanceCreation", "Series"):
        setattr(answer, f"{name}Date", day)
        setattr(answer, f"{name}Time", hour)
    for name in ("Content", "PresentationCreation"):
        if f"{name}Date" in answer:
            setattr(answer, f"{name}Date", day)
            setattr(answer, f"{name}Time", hour)


def _file_meta(answer: Any) -> None:
    """PS3.10 7.1."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = answer.SOPClassUID
    meta.MediaStorageSOPInstanceUID = answer.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    answer.file_meta = meta
    answer.preamble = bytes(128)
