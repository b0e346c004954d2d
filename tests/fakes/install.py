"""Putting the simulated device where the project looks for a real one."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fakes.cuda import FakeCuda


def install_cuda(cuda: FakeCuda, monkeypatch: Any) -> None:
    """PyCUDA and libcuda are the simulator's from now on; nothing of another test is remembered."""
    import edge.cuda.device
    import edge.cuda.driver
    from edge.cuda.libcuda import LibCuda

    package: Any = ModuleType("pycuda")
    package.__path__ = []
    package.driver = cuda.driver
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", cuda.driver)
    monkeypatch.setattr(
        edge.cuda.driver, "LibCuda", lambda: cuda.libcuda if cuda.present else LibCuda("libcuda.so.0")
    )
    monkeypatch.setattr(edge.cuda.device, "_open", {})
    _fresh_bindings(monkeypatch)


def _fresh_bindings(monkeypatch: Any) -> None:
    """`bindings` remembers what it opened, in every module that has imported it."""
    original = sys.modules["edge.cuda.driver"].bindings
    fresh = functools.cache(original.__wrapped__)
    for found in pkgutil.iter_modules(sys.modules["edge.cuda"].__path__, "edge.cuda."):
        importlib.import_module(found.name)
    for name, module in list(sys.modules.items()):
        if name.startswith("edge.") and getattr(module, "bindings", None) is original:
            monkeypatch.setattr(module, "bindings", fresh)
