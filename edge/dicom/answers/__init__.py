"""Answers to a unit of work as DICOM objects: report, masks, overlay, outlines, key images.

    answers = build("sr", inference)      # pydicom data sets that can be written or sent as they are

Every object is of the source's patient and study, in a series of its own a kind. It is made from nothing but
the inference and the source files: made again after a crash it has the same UIDs and the same bytes.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from edge.dicom.answers.finding import Found, Inference, LabelVolume
from edge.errors import UsageError, missing_package, nearest

__all__ = ["KINDS", "Found", "Inference", "LabelVolume", "build", "build_all", "require"]

KINDS = {
    "sr": "edge.dicom.answers.report",
    "seg": "edge.dicom.answers.segmentation",
    "sc": "edge.dicom.answers.capture",
    "gsps": "edge.dicom.answers.presentation",
    "ko": "edge.dicom.answers.selection",
}
"""Kinds of answers, and who builds them: `build(inference, sources) -> list`."""


def build(kind: str, inference: Inference) -> list[Any]:
    """The answers of one kind; none where it does not fit what was found.

    Raises:
        UsageError: there is no such kind.
        InputError: a source cannot be read, or the sources are of several studies.
        MissingPackage: highdicom is not installed.
    """
    return build_all([kind], inference)[kind]


def build_all(kinds: Iterable[str], inference: Inference) -> dict[str, list[Any]]:
    """The answers of several kinds; the sources are read once."""
    from edge.dicom.answers.source import Sources
    from edge.dicom.header import reading

    kinds = list(dict.fromkeys(kinds))
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"no kind of answer '{kind}'", "", nearest(kind, KINDS))
    require()
    sources = Sources([path for path, _ in inference.frames()], inference.key)
    answers = {}
    for kind in kinds if len(sources) else ():
        with reading(sources.first.path, "answer"):
            answers[kind] = importlib.import_module(KINDS[kind]).build(inference, sources)
    return {kind: answers.get(kind, []) for kind in kinds}


def require() -> None:
    """
    Raises:
        MissingPackage: what answers are built with is not installed.
    """
    try:
        importlib.import_module("highdicom")
    except ImportError as e:
        raise missing_package("highdicom", "pacs", "answering in DICOM") from e
