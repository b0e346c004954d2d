"""Inferences to be answered in DICOM, and what judges the answers."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.dicom.answers import Found, Inference
from edge.preprocess import Placement
from edge.tasks.classify import Classes
from edge.tasks.detect import Detections
from edge.tasks.segment import Mask, Window
from edge.types import EngineId, Payload
from tests.dicoms import write

ENGINE = EngineId("chest", "cpu", "fast", "0123456789abcdef")
KEY = "5" * 32
PRECISION = "int8, first layer fp32"

STUDY = {
    "StudyInstanceUID": "1.2.8",
    "SeriesInstanceUID": "1.2.9",
    "StudyDate": "20010203",
    "StudyTime": "040506",
    "AccessionNumber": "ACC7",
    "Modality": "OT",
}
"""What a source says of its study."""


def source(path: Path, stored: Any, **elements: Any) -> Path:
    """A DICOM file of a whole study."""
    return write(path, stored, **(STUDY | elements))


def inference(found: list[Found], **others: Any) -> Inference:
    """A unit of work of these frames."""
    return Inference(others.pop("key", KEY), ENGINE, PRECISION, found, **others)


def boxes(width: int, height: int) -> Detections:
    """Two objects: one inside, one that reaches over the edge."""
    places = np.float32([[1, 2, width / 2, height / 2], [width / 3, height / 4, width + 5, height - 1]])
    return Detections(places, np.float32([0.9, 0.4]), np.array([0, 1]), ("nodule", "a long name of a thing"))


def nothing(width: int, height: int) -> Detections:
    return Detections(
        np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.intp), ("nodule",)
    )


def classes(width: int, height: int) -> Classes:
    return Classes(np.array([1, 0]), np.float32([0.8, 0.2]), ("pneumonia", "normal"))


def mask(width: int, height: int, label: str = "text") -> Mask:
    """A rectangle of rows 2 to 5 and columns 3 to 8 of 20."""
    heat = np.zeros((20, 20), np.float32)
    heat[2:6, 3:9] = 0.9
    placement = Placement(width, height, 160 / width, 160 / height, 0, 0, 160, 160)
    return Mask(heat, Window(slice(0, 20), slice(0, 20), 8.0, 8.0), (20, 20), placement, 0.5, 0, label)


PAYLOADS: dict[str, Callable[[int, int], Payload]] = {"boxes": boxes, "classes": classes, "mask": mask}


def written(answer: Any) -> bytes:
    """The answer as a Part 10 file."""
    file = io.BytesIO()
    answer.save_as(file, enforce_file_format=True)
    return file.getvalue()


def errors(answer: Any, folder: Path) -> list[str]:
    """What dciodvfy calls an error; the test is skipped where it is absent."""
    judge = shutil.which("dciodvfy")
    if judge is None:
        pytest.skip("dciodvfy is absent (apt install dicom3tools)")
    file = folder / "answer.dcm"
    file.write_bytes(written(answer))
    run = subprocess.run([judge, "-new", file], capture_output=True, text=True, errors="replace", check=False)
    return [line for line in (run.stdout + run.stderr).splitlines() if line.startswith("Error")]
