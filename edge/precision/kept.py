"""Measured numbers in files that are whole or not there."""

from __future__ import annotations

import uuid
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edge.types import Array

DAMAGED = (
    *(OSError, ValueError, KeyError, TypeError, EOFError, IndexError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)
"""What reading an absent, damaged or foreign file raises."""


def save(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write them compressed; `path` ends in .npz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex}.npz")
    try:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # a full disk leaves nothing behind
