"""Where compiled kernels and runtime caches are kept between runs."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path


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
