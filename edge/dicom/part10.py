"""Which files are DICOM files; needs no package, so it can be asked of any path."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})


def is_dicom(path: Path) -> bool:
    """By its suffix, or by the mark behind the preamble (PS3.10 section 7.1); a DICOMDIR is none."""
    if path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def dicom_files(folder: Path) -> Iterator[Path]:
    """Those at any depth; hidden files and folders are left out."""
    for file in folder.rglob("*"):
        if is_dicom(file) and not any(part.startswith(".") for part in file.relative_to(folder).parts):
            yield file
