"""What the project uses of the TensorRT Python API, in TensorRT and in TensorRT-RTX."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType

from edge.errors import missing_package

PACKAGES: Mapping[str, tuple[str, str]] = {
    "tensorrt_rtx": ("tensorrt-rtx", "rtx"),
    "tensorrt": ("tensorrt", "trt"),
}
"""Module → package and the extra that brings it."""


def runtime_module(name: str) -> ModuleType:
    """Import `tensorrt` or `tensorrt_rtx`.

    Raises:
        MissingPackage: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as e:
        package, extra = PACKAGES[name]
        raise missing_package(package, extra, "compiling a TensorRT engine") from e
