"""Coded concepts of answers: the standard's where it has them, else ours."""

from __future__ import annotations

import hashlib
from typing import Any

SCHEME = "99EDGE"
"""Our private coding scheme; designators that begin with 99 are free for all (PS3.3 8.2)."""

KNOWN = {
    "white matter": ("389080008", "SCT", "White Matter"),
    "gray matter": ("389081007", "SCT", "Gray Matter"),
    "grey matter": ("389081007", "SCT", "Gray Matter"),
    "cerebral white matter": ("68523003", "SCT", "Cerebral White Matter"),
    "cerebral gray matter": ("40146001", "SCT", "Cerebral Gray Matter"),
}
"""Names of classes that the standard has a code for."""

LONGEST_VALUE, LONGEST_MEANING = 16, 64
"""Characters of Code Value and Code Meaning (PS3.3 8.1, 8.3)."""


def code(value: str, scheme: str, meaning: str) -> Any:
    """A highdicom CodedConcept."""
    from highdicom.sr import CodedConcept

    return CodedConcept(value, scheme, meaning)


def class_code(name: str) -> Any:
    """The concept that a class of a model is: the same name has the same code, whatever the model."""
    if known := KNOWN.get(name.lower()):
        return code(*known)
    return code(_value(name), SCHEME, text(name) or "class without a name")


def _value(name: str) -> str:
    """The name itself where it may be a code value (SH, PS3.5 6.2), else a hash of it."""
    plain = name.isascii() and name.isprintable() and name.strip() == name and "\\" not in name
    if plain and 0 < len(name) <= LONGEST_VALUE:
        return name
    return hashlib.sha256(name.encode()).hexdigest()[:LONGEST_VALUE]


def text(value: str, longest: int = LONGEST_MEANING) -> str:
    """`value` as the value of an LO or SH: without control characters and backslashes, not too long."""
    clean = "".join(c if c.isprintable() and c != "\\" else " " for c in value)
    return clean[:longest].strip()


def certainty() -> Any:
    return code("111012", "DCM", "Certainty of Finding")


def regions_found() -> Any:
    return code("regions", SCHEME, "Number of regions found")


def share() -> Any:
    return code("share", SCHEME, "Part of the frame that is covered")


def volume() -> Any:
    return code("118565006", "SCT", "Volume")


def percent() -> Any:
    return code("%", "UCUM", "Percent")


def count() -> Any:
    return code("{regions}", "UCUM", "regions")


def millilitres() -> Any:
    return code("ml", "UCUM", "milliliter")


def spatial_concept() -> Any:
    """The category of a segment that may be anything (CID 7150)."""
    return code("309825002", "SCT", "Spatial and Relational Concept")


def tissue() -> Any:
    return code("85756007", "SCT", "Tissue")
