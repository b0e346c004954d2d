"""An engine file as it is read: whole, and compared with what its manifest says before anyone uses it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edge.backends import Expectation
from edge.errors import InputError, StoreError


def read(path: Path, expected: Expectation | None) -> bytes:
    """The file's bytes: those that were hashed are those that a runtime is given.

    Raises:
        InputError: it cannot be read.
        StoreError: it is not what `expected` says.
    """
    try:
        content = path.read_bytes()
    except OSError as e:
        raise InputError(f"cannot read {path}", e.strerror or str(e), "build the engine again") from e
    if expected is not None and hashlib.sha256(content).hexdigest() != expected.sha256:
        raise StoreError(
            f"the engine {path} was changed after it was published",
            "its sha256 is not the one in its manifest; it was not loaded",
            "build it again, and find out who writes to the engine store",
        )
    return content
