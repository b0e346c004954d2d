"""Which files are DICOM files; needs no package, so it can be asked of any path."""

from __future__ import annotations

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
