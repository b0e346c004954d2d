"""Being here makes `tests/` importable: the tests share `graphs.py` and `streaming.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import rtsp
from rtsp import RtspServer

from edge.store import Store


@pytest.fixture(scope="session", autouse=True)
def own_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The key for pseudonyms is one of the tests, and not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("settings")))
        yield


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


@pytest.fixture(scope="session")
def rtsp_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RtspServer]:
    """One server with a mount of every kind; a test that kills or freezes it starts one of its own."""
    if why := rtsp.missing():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("rtsp")
    with RtspServer(folder, rtsp.every_kind(folder)) as server:
        yield server
