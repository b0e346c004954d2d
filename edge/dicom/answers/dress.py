"""What all answers have in common: patient and study of the source, a new series, our equipment, one time."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from edge import __version__
from edge.dicom.answers.codes import text
from edge.dicom.answers.finding import Inference
from edge.dicom.answers.source import Source, Sources
from edge.dicom.answers.uids import derived, instance_uid, series_uid
from edge.dicom.encoding import IMPLEMENTATION_CLASS, IMPLEMENTATION_VERSION

MANUFACTURER = "edge"

SERIES_NUMBERS = {"sr": 9001, "seg": 9002, "sc": 9003, "gsps": 9004, "ko": 9005}
"""High, so that answers are listed behind the images of a study."""

DESCRIPTIONS = {"sr": "findings", "seg": "masks", "sc": "overlay", "gsps": "outlines", "ko": "key images"}

TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyID",
)
"""Present in every answer, empty where the source has none (PS3.3 C.7.1.1, C.7.2.1)."""

OPTIONAL = (
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "TypeOfPatientID",
    "PatientAge",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "LongitudinalTemporalInformationModified",
    "IssuerOfAccessionNumberSequence",
    "StudyDescription",
    "TimezoneOffsetFromUTC",
)
"""Copied where the source has them."""

UTF_8 = "ISO_IR 192"

SEXES = ("M", "F", "O")

TIMES = ("Content", "Acquisition", "Series", "Study")
"""Whose date and time stand for the moment of an inference that bears none; the first that there is."""


def dress(answer: Any, kind: str, number: int, inference: Inference, sources: Sources) -> Any:
    """Complete an answer, in place; it can be written as a file then (PS3.10 7).

    Args:
        number: from 1, within the answers of this kind.
        sources: all that the answer may refer to.
    """
    source = sources.first
    _true_references(answer, {source.instance: source for source in sources})
    _same_study(answer, source, inference)
    _own_series(answer, kind, number, inference)
    _dated(answer, moment_of(inference, source))
    _same_dimensions(answer)
    _file_meta(answer)
    return answer


def blank(sop_class: str, modality: str) -> Any:
    """A data set to be filled and dressed."""
    from pydicom import Dataset

    answer = Dataset()
    answer.SOPClassUID, answer.Modality = sop_class, modality
    answer.ContentDate = answer.ContentTime = None  # until it is dressed
    return answer


def side(answer: Any, source: Source) -> None:
    """Which body part it shows, and which of a pair (PS3.3 C.7.3.1).

    Laterality is empty where neither is told; beside a part that is no pair it may not be.
    """
    part = source.dataset.get("BodyPartExamined")
    which = source.dataset.get("Laterality") or source.dataset.get("ImageLaterality")
    if part:
        answer.BodyPartExamined = part
    if which or not part:
        answer.Laterality = which or None


def identity(inference: Inference, kind: str, number: int) -> dict[str, Any]:
    """What highdicom wants to be told of the new object."""
    return {
        "series_instance_uid": series_uid(inference.key, kind),
        "series_number": SERIES_NUMBERS[kind],
        "sop_instance_uid": instance_uid(inference.key, kind, number),
        "instance_number": number,
        "manufacturer": MANUFACTURER,
    }


def engine_facts(inference: Inference) -> dict[str, str]:
    """What tells one engine of a model from another."""
    engine = inference.engine
    facts = {"target": engine.target, "variant": engine.variant, "precision": inference.precision}
    return {name: text(value) for name, value in facts.items() if value}


def _same_study(answer: Any, source: Source, inference: Inference) -> None:
    """Patient and study as the source has them, byte for byte where its character set is kept."""
    from pydicom.datadict import tag_for_keyword

    answer.StudyInstanceUID = source.study
    for keyword in (*TYPE_2, *OPTIONAL):
        if keyword in answer:
            del answer[keyword]
    charset = source.dataset.get("SpecificCharacterSet")
    recoded = not all(map(str.isascii, _our_texts(inference)))
    if recoded:
        charset = UTF_8
    if charset:
        answer.SpecificCharacterSet = charset
    elif "SpecificCharacterSet" in answer:
        del answer["SpecificCharacterSet"]
    for keyword in (*TYPE_2, *OPTIONAL):
        tag = tag_for_keyword(keyword)
        if tag in source.dataset:
            answer[tag] = source.dataset[tag] if recoded else _as_written(source.dataset, tag)
        if keyword in ("StudyDate", "StudyTime", "PatientBirthDate", "PatientSex"):
            _mend(answer, keyword)
        elif keyword in TYPE_2 and keyword not in answer:
            setattr(answer, keyword, None)
    methods = ("DeidentificationMethod", "DeidentificationMethodCodeSequence")
    if answer.get("PatientIdentityRemoved") == "YES" and not any(answer.get(method) for method in methods):
        answer.DeidentificationMethod = "not stated in the source images"  # type 1C (PS3.3 C.7.1.1)


def _true_references(item: Any, sources: Mapping[str, Source]) -> None:
    """The class of every source that is referred to, at any depth."""
    source = sources.get(str(item.get("ReferencedSOPInstanceUID", "")))
    if source is not None:
        item.ReferencedSOPClassUID = source.sop_class
    for element in item:
        if element.VR == "SQ":
            for inner in element.value:
                _true_references(inner, sources)


def _our_texts(inference: Inference) -> Iterable[str]:
    """What an answer says besides what it copies: names of classes and of the model."""
    yield inference.engine.model
    yield inference.precision
    if inference.volume:
        yield from inference.volume.names.values()
    for found in inference.found:
        yield from found.payload.found()


def _as_written(dataset: Any, tag: Any) -> Any:
    """An element with the bytes it was read as, so that a name survives whatever its encoding is."""
    from pydicom.datadict import dictionary_VR
    from pydicom.dataelem import RawDataElement

    element = dataset.get_item(tag)
    if not isinstance(element, RawDataElement) or dictionary_VR(tag) == "SQ" or element.value is None:
        return copy.deepcopy(dataset[tag])
    return element._replace(VR=dictionary_VR(tag), is_implicit_VR=False, is_little_endian=True)


def _mend(answer: Any, keyword: str) -> None:
    """A date, time or sex in the form that the standard has now (PS3.5 6.2), or nothing."""
    value = str(answer.get(keyword) or "").strip()
    if keyword == "PatientSex":
        answer.PatientSex = value if value in SEXES else None
        return
    found = _date(value) if keyword.endswith("Date") else _time(value)
    setattr(answer, keyword, found or None)


def _date(value: str) -> str:
    """YYYYMMDD; before 1993 dates were written with dots."""
    digits = value.replace(".", "")
    try:
        datetime.strptime(digits, "%Y%m%d")
    except ValueError:
        return ""
    return digits if len(digits) == 8 else ""


def _time(value: str) -> str:
    """HHMMSS.FFFFFF, seconds and minutes optional; before 1993 with colons."""
    digits = value.replace(":", "")
    return digits if re.fullmatch(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?", digits) else ""


def _own_series(answer: Any, kind: str, number: int, inference: Inference) -> None:
    engine = inference.engine
    answer.SeriesInstanceUID = series_uid(inference.key, kind)
    answer.SOPInstanceUID = instance_uid(inference.key, kind, number)
    answer.SeriesNumber, answer.InstanceNumber = SERIES_NUMBERS[kind], number
    answer.SeriesDescription = text(f"{engine.model}: {DESCRIPTIONS[kind]}")
    answer.Manufacturer, answer.ManufacturerModelName = MANUFACTURER, text(engine.model)
    answer.DeviceSerialNumber = text(engine.key)
    answer.SoftwareVersions = [f"edge {__version__}", text(f"{engine.target}/{engine.variant}")]


def moment_of(inference: Inference, source: Source) -> datetime:
    """When the answer was found, on the source's clock.

    An answer without a moment bears its images' time, or else that of their file's arrival.
    """
    offset = _offset(source.dataset)
    if inference.moment is not None:
        return inference.moment.astimezone(offset)
    for name in TIMES:
        day = _date(str(source.dataset.get(f"{name}Date") or ""))
        if day:
            hour = _time(str(source.dataset.get(f"{name}Time") or ""))[:6].ljust(6, "0")
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


def _same_dimensions(answer: Any) -> None:
    """Dimension Organization UID, which highdicom draws by chance."""
    if "DimensionOrganizationSequence" not in answer:
        return
    uid = derived(answer.SOPInstanceUID, "dimensions")
    for item in (*answer.DimensionOrganizationSequence, *answer.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid


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
