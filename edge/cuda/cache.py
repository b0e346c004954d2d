"""Where compiled kernels and runtime caches are kept between runs."""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

_DIGEST = hashlib.sha256().digest_size


def folder() -> Path:
    """`$EDGE_CACHE`, else `edge` in the user's cache folder (XDG); it need not exist yet."""
    if chosen := os.environ.get("EDGE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge"


def read(name: str) -> bytes | None:
    """The entry, None if there is none or it cannot be read."""
    try:
        return (folder() / name).read_bytes()
    except OSError:
        return None


def write(name: str, content: bytes) -> bool:
    """Keep `content`, whole or not at all; False where nothing can be written (a cache is not needed)."""
    path = folder() / name
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".tmp-", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
        temporary.replace(path)
        return True
    except OSError:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()
        return False


def sealed(content: bytes) -> bytes:
    """An entry that tells when it was damaged: the content behind its own SHA-256."""
    return hashlib.sha256(content).digest() + content


def read_sealed(name: str) -> bytes | None:
    """The content of an entry of `write_sealed`; None if there is none or it is not whole."""
    entry = read(name)
    if entry is None or hashlib.sha256(entry[_DIGEST:]).digest() != entry[:_DIGEST]:
        return None
    return entry[_DIGEST:]


def write_sealed(name: str, content: bytes) -> bool:
    """`write`, so that `read_sealed` gives it only as it is now."""
    return write(name, sealed(content))
