"""Every attribute of TensorRT that is used is listed, and is there in every version that is supported.

`tests/golden/tensorrt_api` holds what the Python bindings of other versions offer: the attributes of the
classes that this project uses. Where a TensorRT is installed, its table is written with

    cd tests/golden/tensorrt_api && python ../../unit/test_trt_api.py tensorrt "Ubuntu 24.04" > 11.5.0.json
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from edge.backends import trt_api
from edge.backends.trt_api import (
    API,
    Capabilities,
    capabilities,
    check_driver,
    least_cuda,
    runtime_module,
    used,
)
from edge.errors import MissingPackage, RuntimeFault

ROOT = Path(__file__).parents[2]
TABLES = sorted((ROOT / "tests" / "golden" / "tensorrt_api").glob("*.json"))
SPEAKS_TENSORRT = (
    "edge/backends/tensorrt.py",
    "edge/backends/trt_engine.py",
    "edge/backends/trt_log.py",
    "edge/backends/trt_profile.py",
    "edge/build/tensorrt.py",
    "edge/build/layers.py",
)
"""The files that hold TensorRT objects."""
PYTHONS = {name for kind in (list, dict, str) for name in dir(kind)}
OURS = {"builder", "engine", "logger", "name", "shape"}
"""Names that objects of this project have, too."""
CLASSES = sorted({name.rpartition(".")[0] or name for name in API})

Table = dict[str, set[str]]


def table(module: ModuleType) -> Table:
    """Class → its public attributes, for the classes of `API` that there are; "" is the module itself."""
    owners = {name: found for name in CLASSES if isinstance(found := _find(module, name), type)}
    functions = {name for name in API if "." not in name and hasattr(module, name)}
    classes = {name: {n for n in dir(owner) if not n.startswith("_")} for name, owner in owners.items()}
    return {"": functions | set(owners)} | classes


def _find(module: ModuleType, dotted: str) -> Any:
    owner: Any = module
    for part in dotted.split("."):
        owner = getattr(owner, part, None)
    return owner


def write(module: ModuleType, source: str) -> str:
    """The table of an installed TensorRT as the content of a file in `TABLES`."""
    classes = {name: " ".join(sorted(found)) for name, found in sorted(table(module).items())}
    return json.dumps({"version": module.__version__, "source": source, "classes": classes}, indent=1)


def read(path: Path) -> tuple[str, Table]:
    """The version and its table."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return content["version"], {name: set(text.split()) for name, text in content["classes"].items()}


def has(found: Table, name: str) -> bool:
    owner, _, attribute = name.rpartition(".")
    return attribute in found.get(owner, ()) or name in found[""]


@pytest.fixture(scope="module")
def rtx() -> ModuleType:
    return pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")


class TestEveryVersionHasWhatIsUsed:
    @pytest.mark.parametrize("path", TABLES, ids=lambda p: p.stem)
    def test_of_tensorrt(self, path: Path) -> None:
        version, found = read(path)
        needed = used(capabilities("tensorrt", version))
        assert [name for name in sorted(needed) if not has(found, name)] == []

    def test_the_oldest_supported_and_an_11(self) -> None:
        versions = [read(path)[0] for path in TABLES]
        assert any(v.startswith("10.3.") for v in versions) and any(v.startswith("11.") for v in versions)

    def test_of_the_installed_tensorrt_rtx(self, rtx: ModuleType) -> None:
        needed = used(capabilities("tensorrt_rtx", rtx.__version__))
        found = table(rtx)
        assert [name for name in sorted(needed) if not has(found, name)] == []

    @pytest.mark.parametrize("path", TABLES, ids=lambda p: p.stem)
    def test_what_is_gated_off_is_not_there_or_has_no_effect(self, path: Path) -> None:
        """A capability that a version of TensorRT gains would be noticed here."""
        version, found = read(path)
        here = capabilities("tensorrt", version)
        off = [name for name, gate in API.items() if gate and not getattr(here, gate)]
        ignored = {name for name, gate in API.items() if gate == "strongly_typed_flag"}
        without_effect = {"ICudaEngine.create_runtime_config", *ignored}  # its config holds no cache there
        assert {name for name in off if has(found, name)} <= without_effect


def attributes(path: Path) -> set[str]:
    """Every name after a point in a file, and every method that a class in it defines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.bases:
            found |= {f.name for f in node.body if isinstance(f, ast.FunctionDef)}
    return found


class TestEveryUseIsListed:
    """What looks like an attribute of TensorRT, in the files that hold its objects, must be in `API`."""

    def known(self, rtx: ModuleType) -> set[str]:
        """Objects of a class that is not in `API` can be had only from an attribute of one that is."""
        tables = [table(rtx), *(read(path)[1] for path in TABLES)]
        modules = {name for name in dir(rtx) if name[0].isupper()}
        return modules.union(*(names for found in tables for names in found.values()))

    @pytest.mark.parametrize("file", SPEAKS_TENSORRT)
    def test_in(self, file: str, rtx: ModuleType) -> None:
        listed = {part for name in API for part in name.split(".")}
        unlisted = (attributes(ROOT / file) & self.known(rtx)) - listed - PYTHONS - OURS
        assert sorted(unlisted) == []

    def test_nothing_is_listed_that_is_not_used(self) -> None:
        """Names of enumerations' members appear as texts, too: `dtype.name == "BF16"`."""
        names: set[str] = set()
        for file in SPEAKS_TENSORRT:
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            names |= attributes(ROOT / file) | {
                str(n.value) for n in ast.walk(tree) if isinstance(n, ast.Constant)
            }
        assert [name for name in API if name.split(".")[-1] not in names] == []

    def test_no_other_file_opens_the_module(self) -> None:
        opens = {
            str(path.relative_to(ROOT))
            for path in (ROOT / "edge").rglob("*.py")
            if "runtime_module(" in path.read_text(encoding="utf-8")
        }
        assert opens <= {*SPEAKS_TENSORRT, "edge/backends/trt_api.py"}


class TestCapabilities:
    def test_tensorrt_10_asks_for_strong_typing_and_11_always_has_it(self) -> None:
        assert capabilities("tensorrt", "10.3.0").strongly_typed_flag
        assert capabilities("tensorrt", "10.16.1.11").strongly_typed_flag
        assert not capabilities("tensorrt", "11.4.0.106").strongly_typed_flag

    def test_only_rtx_compiles_ahead_and_only_tensorrt_times_kernels(self) -> None:
        full, rtx = capabilities("tensorrt", "10.3.0"), capabilities("tensorrt_rtx", "1.7.1.116")
        assert (full.ahead_of_time, full.timing_cache, full.plugins) == (False, True, True)
        assert (rtx.ahead_of_time, rtx.timing_cache, rtx.plugins) == (True, False, False)
        assert rtx.runtime_cache and rtx.cuda_graph_strategy and not full.runtime_cache

    def test_the_first_rtx_cannot_capture_cuda_graphs_by_itself(self) -> None:
        assert not capabilities("tensorrt_rtx", "1.1.1.26").cuda_graph_strategy
        assert capabilities("tensorrt_rtx", "1.2.0.44").cuda_graph_strategy

    def test_a_version_nobody_knows_yet_is_like_the_newest(self) -> None:
        assert capabilities("tensorrt", "12.0") == capabilities("tensorrt", "11.0")
        assert capabilities("tensorrt_rtx", "2.0") == capabilities("tensorrt_rtx", "1.7")

    @pytest.mark.parametrize("version", ["8.6.1", "10.2.0.post1", "", "unknown"])
    def test_one_that_is_too_old_is_refused(self, version: str) -> None:
        with pytest.raises(RuntimeFault, match="too old") as caught:
            capabilities("tensorrt", version)
        assert "10.3" in caught.value.why and "JetPack" in caught.value.fix

    def test_every_gate_is_a_capability(self) -> None:
        assert {gate for gate in API.values() if gate} <= set(Capabilities.__dataclass_fields__)

    def test_rows_are_in_order(self) -> None:
        for module in trt_api.PACKAGES:
            since = [row.since for row in trt_api._ROWS if row.module == module]
            assert since == sorted(since) and since


def test_an_absent_module_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingPackage, match="needs the package 'tensorrt'") as caught:
        runtime_module("tensorrt")
    assert "pip install tensorrt" in caught.value.fix


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libnvinfer.so.10: cannot open shared object file: No such file or directory"),
        ModuleNotFoundError("No module named 'tensorrt_libs'", name="tensorrt_libs"),
        OSError("libcudart.so.12: cannot open shared object file"),
    ],
)
def test_one_that_is_installed_and_broken_is_not_called_absent(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> ModuleType:
        raise error

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(RuntimeFault, match="installed, but cannot be imported") as caught:
        runtime_module("tensorrt")
    assert str(error) == caught.value.why and "reinstall" in caught.value.fix


class TestDriver:
    """The CUDA that a driver has to support is that of the wheels that are installed."""

    @pytest.fixture
    def installed(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
        def install(*names: str) -> None:
            found = [SimpleNamespace(metadata={"Name": name}) for name in names]
            monkeypatch.setattr(importlib.metadata, "distributions", lambda: found)

        return install

    @pytest.mark.parametrize(
        ("names", "module", "version", "needs"),
        [
            (("tensorrt", "tensorrt_cu13", "tensorrt_cu13_libs"), "tensorrt", "10.14.1", (13, 0)),
            (("tensorrt-cu12",), "tensorrt", "10.14.1", (12, 0)),
            (("tensorrt-cu12",), "tensorrt", "11.4.0", (12, 2)),
            (("tensorrt_rtx", "tensorrt_rtx_cu13"), "tensorrt_rtx", "1.7.1", (13, 0)),
            (("tensorrt_rtx_cu12", "tensorrt_cu13"), "tensorrt_rtx", "1.7.1", (12, 0)),
            (("tensorrt",), "tensorrt", "10.3.0", (12, 0)),  # JetPack's
        ],
    )
    def test_least_cuda(
        self,
        names: tuple[str, ...],
        module: str,
        version: str,
        needs: tuple[int, int],
        installed: Callable[..., None],
    ) -> None:
        installed(*names)
        assert least_cuda(module, capabilities(module, version)) == needs

    def test_one_that_is_too_old_is_refused_with_the_wheel_that_fits_it(
        self, installed: Callable[..., None]
    ) -> None:
        installed("tensorrt_cu13")
        with pytest.raises(RuntimeFault, match=r"supports CUDA 12\.8, CUDA 13\.0 is needed") as caught:
            check_driver("tensorrt", "10.14.1", (12, 8))
        assert "pip install tensorrt-cu12" in caught.value.fix
        check_driver("tensorrt", "10.14.1", (13, 0))


if __name__ == "__main__":
    print(write(importlib.import_module(sys.argv[1]), sys.argv[2]))
