"""Being here makes `tests/` importable: the tests share `graphs.py` and `streaming.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.store import Store


@pytest.fixture(scope="module")
def no_sync() -> Iterator[None]:
    """Nobody cuts the power here, and waiting for a busy disk takes longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty engine store."""
    return Store(tmp_path / "engines")
