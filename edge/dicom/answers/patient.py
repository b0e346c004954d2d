"""Patient and study of an answer: what it copies of its source, and in which character set."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from edge.dicom.answers.finding import Inference
from edge.dicom.answers.source import Source

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


def same_study(answer: Any, source: Source, inference: Inference) -> None:
    """Patient and study as the source has them, byte for byte where its character set is kept."""
    from pydicom.charset import convert_encodings
    from pydicom.datadict import tag_for_keyword

    answer.StudyInstanceUID = source.study
    charset = source.dataset.get("SpecificCharacterSet")
    recoded = not all(map(str.isascii, _our_texts(inference)))
    if recoded:
        charset = UTF_8
    if charset:
        answer.SpecificCharacterSet = charset
    answer.set_original_encoding(False, True, convert_encodings(charset))  # elements are written as they are
    for keyword in (*TYPE_2, *OPTIONAL):
        tag = tag_for_keyword(keyword)
        if tag in source.dataset:
            answer[tag] = (_decoded if recoded else _as_written)(source.dataset, tag)
        if keyword in MENDED:
            value = str(answer.get(keyword) or "").strip()
            setattr(answer, keyword, MENDED[keyword](value) or None)
        elif keyword in TYPE_2 and keyword not in answer:
            setattr(answer, keyword, None)
    if not answer.PatientAge:
        del answer.PatientAge
    methods = ("DeidentificationMethod", "DeidentificationMethodCodeSequence")
    if answer.get("PatientIdentityRemoved") == "YES" and not any(answer.get(method) for method in methods):
        answer.DeidentificationMethod = "not stated in the source images"  # type 1C (PS3.3 C.7.1.1)


def _our_texts(inference: Inference) -> Iterable[str]:
    """What an answer says besides what it copies: names of classes and of the model."""
    yield inference.engine.model
    yield inference.precision
    if inference.volume:
        yield from inference.volume.names.values()
    for found in inference.found:
        yield from found.payload.found()


def _decoded(dataset: Any, tag: Any) -> Any:
    """An element as text, without the escape sequences that pydicom leaves in some Chinese names."""
    element = copy.deepcopy(dataset[tag])
    if isinstance(element.value, str) or element.VR == "PN":
        element.value = re.sub(r"\x1b[ -/]+[0-~]", "", str(element.value))
    return element


def _as_written(dataset: Any, tag: Any) -> Any:
    """An element with the bytes it was read as, so that a name survives whatever its encoding is."""
    from pydicom.datadict import dictionary_VR
    from pydicom.dataelem import RawDataElement

    element = dataset.get_item(tag)
    if not isinstance(element, RawDataElement) or dictionary_VR(tag) == "SQ" or element.value is None:
        return copy.deepcopy(dataset[tag])
    return element._replace(VR=dictionary_VR(tag), is_implicit_VR=False, is_little_endian=True)


def date(value: str) -> str:
    """YYYYMMDD; before 1993 dates were written with dots."""
    digits = value.replace(".", "")
    try:
        datetime.strptime(digits, "%Y%m%d")
    except ValueError:
        return ""
    return digits if len(digits) == 8 else ""


def time_of_day(value: str) -> str:
    """HHMMSS.FFFFFF, seconds and minutes optional; before 1993 with colons."""
    digits = value.replace(":", "")
    return digits if re.fullmatch(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?", digits) else ""


def _sex(value: str) -> str:
    return value if value in ("M", "F", "O") else ""


def _age(value: str) -> str:
    """Three digits and a unit."""
    return value if re.fullmatch(r"\d{3}[DWMY]", value) else ""


MENDED: dict[str, Callable[[str], str]] = {
    "StudyDate": date,
    "StudyTime": time_of_day,
    "PatientBirthDate": date,
    "PatientSex": _sex,
    "PatientAge": _age,
}
"""Elements that files get wrong, and what makes the form of PS3.5 6.2 of them, or nothing."""
