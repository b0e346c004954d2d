"""TensorRT and TensorRT-RTX: one runtime interface, given the module that implements it."""

from __future__ import annotations

from pathlib import Path

from edge.backends import Engine, EngineOptions
from edge.errors import RuntimeFault


def load(path: Path, options: EngineOptions) -> Engine:
    """Refuse: compiled GPU engines cannot be run by this version.

    Raises:
        RuntimeFault: always; engines are compiled and checked by emulation, and run by later versions.
    """
    raise RuntimeFault(
        f"cannot run {path}",
        "this version compiles TensorRT engines ahead of time but has no GPU runtime yet",
        "run the cpu engine with --target cpu, or load the engine with TensorRT-RTX's own tools",
    )
