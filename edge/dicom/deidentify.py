"""De-identifies a header by the Basic Application Level Confidentiality Profile (PS3.15 Annex E).

What is to be done with which attribute is in the tables of the library dicom-anonymizer, made from the
standard's Table E.1-1. They are applied to the items of sequences, too, and UIDs become keyed pseudonyms:
objects that belonged together still do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from edge.errors import missing_package
from edge.privacy import STANDARD, Pseudonyms

TABLES = "dicomfields_2026c"

DUMMY, EMPTY, REMOVE, UID, CLEAN = "D", "Z", "X", "U", "C"
ACTIONS = {
    "D_TAGS": DUMMY,
    "Z_TAGS": EMPTY,
    "X_TAGS": REMOVE,
    "U_TAGS": UID,
    "Z_D_TAGS": DUMMY,
    "X_Z_TAGS": EMPTY,
    "X_D_TAGS": DUMMY,
    "X_Z_D_TAGS": DUMMY,
    "X_Z_U_STAR_TAGS": CLEAN,
}
"""Of actions that depend on an attribute's type in the IOD the one that is right for the strictest type."""

DATES = {"DA": "19000101", "DT": "19000101000000", "TM": "000000"}
"""Values that judges of DICOM files take; the library's first day of year 1 is none to them."""

CURVES, OVERLAYS = 0x5000, 0x6000
"""Repeating groups, whose last digits count planes: removed as a whole (PS3.15 Table E.1-1)."""

PROFILE = ("113100", "Basic Application Confidentiality Profile")
CLEAN_PIXELS = ("113101", "Clean Pixel Data Option")

METHOD = "PS3.15 Basic Application Level Confidentiality Profile"
CAVEAT = "Burned-in text found by a model, blacked out; not verified"
"""Why BurnedInAnnotation = NO is no promise; Deidentification Method takes 64 characters a value."""


def deidentify(dataset: Any, pseudonyms: Pseudonyms, cleaned: bool) -> None:
    """Change a pydicom Dataset in place; its file meta information is not touched.

    Args:
        cleaned: text was blacked out in its pixels (Clean Pixel Data Option, PS3.15 E.3.1).

    Raises:
        MissingPackage: dicom-anonymizer is not installed.
    """
    patient = str(dataset.get("PatientID") or "")
    _walk(dataset, _rules(), pseudonyms)
    dataset.PatientID = f"P-{pseudonyms.name(patient)}" if patient else ""
    dataset.PatientName = dataset.get("PatientName") or ""
    dataset.PatientIdentityRemoved = "YES"
    dataset.LongitudinalTemporalInformationModified = "REMOVED"
    dataset.DeidentificationMethod = [METHOD, CAVEAT] if cleaned else [METHOD]
    codes = [PROFILE, CLEAN_PIXELS] if cleaned else [PROFILE]
    dataset.DeidentificationMethodCodeSequence = [_code(*code) for code in codes]
    if cleaned:
        dataset.BurnedInAnnotation = "NO"


def require() -> None:
    """
    Raises:
        MissingPackage: dicom-anonymizer is not installed.
    """
    _rules()


@cache
def _rules() -> Mapping[int, str]:
    """Tag → action."""
    try:
        from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector
    except ImportError as e:
        raise missing_package("dicom-anonymizer", "pacs", "de-identifying DICOM files") from e
    tables = dicom_anonymization_database_selector(TABLES)
    return {
        tag[0] << 16 | tag[1]: action
        for name, action in ACTIONS.items()
        for tag in tables[name]
        if len(tag) == 2  # four numbers are a repeating group
    }


def _walk(dataset: Any, rules: Mapping[int, str], pseudonyms: Pseudonyms) -> None:
    for tag in list(dataset.keys()):
        if _is_foreign(tag):
            del dataset[tag]
            continue
        element = dataset[tag]
        action = rules.get(int(tag))
        if action == REMOVE or element.VR == "UN":
            del dataset[tag]
        elif element.VR == "SQ":
            if action in (None, CLEAN):
                for item in element.value:
                    _walk(item, rules, pseudonyms)
            elif action == EMPTY:
                element.value = []
            else:
                del dataset[tag]
        elif element.VR == "UI":
            _map(element, pseudonyms.uid)
        elif action == EMPTY:
            element.value = None
        elif action == DUMMY and not _dummy(element):
            del dataset[tag]


def _is_foreign(tag: Any) -> bool:
    """Private, of a repeating group that is removed, or unknown to the standard's dictionary."""
    from pydicom.datadict import dictionary_has_tag

    if tag.is_private or tag.group & 0xFF00 in (CURVES, OVERLAYS):
        return True
    return not dictionary_has_tag(tag)


def _map(element: Any, pseudonym: Callable[[str], str]) -> None:
    """All UIDs but the standard's own, which name kinds of things."""
    values = element.value if element.VM > 1 else [element.value]
    mapped = [uid if not uid or str(uid).startswith(STANDARD) else pseudonym(str(uid)) for uid in values]
    element.value = mapped if element.VM > 1 else mapped[0]


def _dummy(element: Any) -> bool:
    """Give it a value that means nothing; False where its value representation has none."""
    if element.VR in DATES:
        element.value = DATES[element.VR]
        return True
    from dicomanonymizer.simpledicomanonymizer import replace_element

    try:
        replace_element(element)
    except NotImplementedError:
        return False
    return True


def _code(value: str, meaning: str) -> Any:
    """An item of a code sequence (PS3.3 8.8)."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item
