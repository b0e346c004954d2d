"""Compiling the preprocessing kernel, keeping what was compiled, and saying why it cannot be."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edge.cuda import cache, kernels, nvrtc
from edge.errors import DeviceLost, MissingPackage, RuntimeFault, UsageError

ORIN = (8, 7)
ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_100", "sm_110", "sm_120")

NVCC = kernels.find_nvcc()
NVRTC = nvrtc.find()


class Toolchain:
    """A stand-in for nvcc that is really started: it notes each start and copies the source."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder / "toolkit", folder / "log"
        self.script = self.folder / "bin" / "nvcc"
        self.script.parent.mkdir(parents=True)
        self.behave()

    def behave(self, release: str = "13.0", fails: str = "") -> None:
        self.script.write_text(
            "#!/bin/sh\n"
            f'[ "$1" = --version ] && {{ echo "Cuda compilation tools, release {release}, V1"; exit; }}\n'
            f'echo "$*" >> {self.log}\n'
            + (f'echo "{fails}" >&2; exit 1\n' if fails else "")
            + 'while [ "$1" != -o ]; do shift; done; { echo cubin; cat "$3"; } > "$2"\n'
        )
        self.script.chmod(0o755)

    @property
    def runs(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_folder: Path) -> None:
    """A machine with an empty cache and no compiler."""
    monkeypatch.setattr(kernels, "find_nvcc", lambda: None)
    monkeypatch.setattr(nvrtc, "find", lambda: None)


@pytest.fixture
def toolchain(bare: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toolchain:
    made = Toolchain(tmp_path)
    monkeypatch.setattr(kernels, "find_nvcc", lambda: str(made.script))
    return made


class Board:
    """A device that takes a cubin, or does not."""

    compute_capability = ORIN

    def __init__(self, refuses: Exception | None = None, times: int = 1) -> None:
        self.refusals = [refuses] * times if refuses else []
        self.images: list[bytes] = []

    def module(self, image: bytes) -> Any:
        self.images.append(image)
        if self.refusals and (error := self.refusals.pop()):
            raise error
        return self


# The cache


def test_it_is_compiled_once_for_a_gpu(toolchain, cache_folder):
    first, second = kernels.compiled(ORIN), kernels.compiled(ORIN)
    assert first == second == b"cubin\n" + kernels.SOURCE.read_bytes()
    (run,) = toolchain.runs
    assert "-arch=sm_87" in run and "-cubin" in run
    kernels.compiled((8, 9))
    assert len(toolchain.runs) == 2 and len(list(cache_folder.iterdir())) == 2


def test_another_compiler_or_source_compiles_it_again(toolchain, monkeypatch, tmp_path):
    kernels.compiled(ORIN)
    toolchain.behave(release="13.1")
    kernels.compiled(ORIN)
    changed = tmp_path / "preprocess.cu"
    changed.write_text(kernels.SOURCE.read_text() + "// changed\n")
    monkeypatch.setattr(kernels, "SOURCE", changed)
    assert kernels.compiled(ORIN).endswith(b"// changed\n")
    assert len(toolchain.runs) == 3


@pytest.mark.parametrize(
    "damage", [lambda b: b"", lambda b: b[:50], lambda b: b[:-1] + b"?", lambda b: b + b"x"]
)
def test_a_damaged_entry_is_made_again(toolchain, cache_folder, damage):
    whole = kernels.compiled(ORIN)
    (entry,) = cache_folder.iterdir()
    content = entry.read_bytes()
    entry.write_bytes(damage(content))
    assert kernels.compiled(ORIN) == whole and len(toolchain.runs) == 2
    assert entry.read_bytes() == content


def test_without_a_place_to_keep_it_it_is_compiled_each_time(toolchain, tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "a file" / "cache"))
    assert kernels.compiled(ORIN) == kernels.compiled(ORIN)
    assert len(toolchain.runs) == 2


def test_without_a_compiler_what_was_compiled_before_serves(toolchain, monkeypatch):
    image = kernels.compiled(ORIN)
    monkeypatch.setattr(kernels, "find_nvcc", lambda: None)
    assert kernels.compiled(ORIN) == image
    assert kernels.available(ORIN) == ""
    assert "nvcc is not installed" in kernels.available((8, 9))


# What goes wrong


def test_without_compiler_and_cache_the_error_says_how_to_get_one(bare):
    with pytest.raises(MissingPackage) as caught:
        kernels.compiled(ORIN)
    assert "compute capability 8.7" in caught.value.what
    assert caught.value.why == "nvcc is not installed; NVRTC is not installed" == kernels.available()
    assert "pip install nvidia-cuda-nvrtc" in caught.value.fix


def test_a_compiler_that_fails_is_quoted(toolchain):
    toolchain.behave(fails="nvcc fatal: Unsupported gpu architecture 'compute_87'")
    with pytest.raises(RuntimeFault, match=r"nvcc-13\.0: nvcc fatal: Unsupported gpu architecture"):
        kernels.compiled(ORIN)


def test_a_compiler_that_cannot_be_started_is_passed_over(toolchain):
    toolchain.script.write_text("#!/nowhere/at/all\n")
    assert "cannot run" in kernels.available()
    with pytest.raises(MissingPackage):
        kernels.compiled(ORIN)


def test_a_library_that_is_no_nvrtc_is_passed_over(bare, monkeypatch, tmp_path):
    (tmp_path / "libnvrtc.so.13").write_bytes(b"not a library")
    monkeypatch.setattr(nvrtc, "find", lambda: tmp_path / "libnvrtc.so.13")
    assert "cannot load" in kernels.available()


def test_a_cubin_that_the_driver_refuses_gives_way_to_an_older_one(toolchain):
    toolchain.behave(release="12.8")
    kernels.compiled(ORIN)
    toolchain.behave(release="13.0")
    board = Board(RuntimeFault("cannot load a GPU kernel", "CUDA_ERROR_INVALID_IMAGE"))
    (older,) = [e for e in kernels.cache.folder().iterdir() if "12.8" in e.name]
    older.write_bytes(cache.sealed(b"made by 12.8"))

    kernels.load(board)  # type: ignore[arg-type]

    assert len(board.images) == 2 and board.images[1] == b"made by 12.8"


def test_a_driver_that_refuses_all_of_them_is_quoted(toolchain):
    board = Board(RuntimeFault("cannot load a GPU kernel", "CUDA_ERROR_INVALID_IMAGE"), times=9)
    with pytest.raises(RuntimeFault, match=r"compute capability 8\.7") as caught:
        kernels.load(board)  # type: ignore[arg-type]
    assert "CUDA_ERROR_INVALID_IMAGE" in caught.value.why and len(board.images) == 1


def test_a_lost_device_is_not_asked_again(toolchain):
    board = Board(DeviceLost("cannot load a GPU kernel", "CUDA_ERROR_LAUNCH_FAILED"))
    with pytest.raises(DeviceLost):
        kernels.load(board)  # type: ignore[arg-type]


# Ahead of time


def test_the_command_compiles_for_the_gpus_it_is_given(toolchain, capsys):
    assert kernels.main(["--arch", "8.7", "12.0"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("8.7") and "sm_87" in first and "sm_120" in second
    assert kernels.main(["--arch", "8.7"]) == 0 and len(toolchain.runs) == 2


@pytest.mark.parametrize("text", ["87", "sm_87", "8.7.1", "eight"])
def test_the_command_refuses_what_is_no_compute_capability(toolchain, capsys, text):
    assert kernels.main(["--arch", text]) == UsageError.exit_code
    assert f"'{text}' is no compute capability" in capsys.readouterr().err


def test_the_command_asks_for_one_where_there_is_no_gpu(toolchain, capsys, monkeypatch):
    monkeypatch.setattr("edge.machine.detect", lambda: type("Machine", (), {"gpus": ()}))
    assert kernels.main([]) == UsageError.exit_code
    assert "--arch 8.7" in capsys.readouterr().err


# The real compilers


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_nvcc_compiles_it_without_a_warning_and_without_spilling(arch, tmp_path):
    known = subprocess.run([str(NVCC), "--list-gpu-code"], capture_output=True, text=True).stdout.split()
    if arch not in known:
        pytest.skip(f"this nvcc has no {arch}")
    strict = ("-Werror", "all-warnings", "-Xptxas", "-Werror,-warn-spills")
    made = subprocess.run(
        [str(NVCC), "-cubin", f"-arch={arch}", *kernels.OPTIONS, *strict, "-o", "a.cubin", kernels.SOURCE],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "a.cubin").read_bytes().startswith(b"\x7fELF")


@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
def test_nvcc_makes_the_cubin_of_a_gpu(cache_folder, monkeypatch):
    monkeypatch.setattr(nvrtc, "find", lambda: None)
    assert all(name.encode() in kernels.compiled((8, 9)) for name in entry_points())


@pytest.mark.skipif(NVRTC is None, reason="libnvrtc is not installed")
def test_nvrtc_makes_the_cubin_of_a_gpu(cache_folder, monkeypatch):
    monkeypatch.setattr(kernels, "find_nvcc", lambda: None)
    assert all(name.encode() in kernels.compiled((8, 9)) for name in entry_points())


def entry_points() -> tuple[str, ...]:
    from kernel_on_host import ENTRIES

    return ENTRIES


LIBRARY = r"""
#include <string.h>
static char log_text[512], cubin[512], source[256];
int nvrtcVersion(int *major, int *minor) { *major = 12; *minor = 6; return 0; }
const char *nvrtcGetErrorString(int code) { return code == 6 ? "NVRTC_ERROR_COMPILATION" : "NVRTC_ERROR"; }
int nvrtcCreateProgram(void **p, const char *s, const char *n, int h, const char **hs, const char **ns) {
    if (h || hs || ns) return 3;
    *p = source; strncpy(source, s, sizeof source - 1); return 0;
}
int nvrtcCompileProgram(void *p, int count, const char **options) {
    if (p != source) return 4;
    if (strstr(source, "wrong")) { strcpy(log_text, "line 1: wrong\n"); return 6; }
    strcpy(cubin, source);
    for (int i = 0; i < count; ++i) strcat(strcat(cubin, " "), options[i]);
    return 0;
}
int nvrtcGetProgramLogSize(void *p, size_t *n) { *n = strlen(log_text) + 1; return p != source; }
int nvrtcGetProgramLog(void *p, char *to) { strcpy(to, log_text); return p != source; }
int nvrtcGetCUBINSize(void *p, size_t *n) { *n = strlen(cubin); return p != source; }
int nvrtcGetCUBIN(void *p, char *to) { memcpy(to, cubin, strlen(cubin)); return p != source; }
int nvrtcDestroyProgram(void **p) { if (*p != source) return 4; *p = 0; return 0; }
"""
"""NVRTC's functions by its documentation, in C: what the calls get is what they were given."""


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> nvrtc.Nvrtc:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    folder = tmp_path_factory.mktemp("nvrtc")
    (folder / "stub.c").write_text(LIBRARY)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", "libnvrtc.so.12", "stub.c"], cwd=folder, check=True)
    return nvrtc.Nvrtc(folder / "libnvrtc.so.12")


def test_nvrtc_is_called_as_its_documentation_says(stub):
    assert stub.version() == "12.6"
    assert stub.compile("text", "a.cu", ("--one", "--two")) == b"text --one --two"
    assert stub.compile("short", "a.cu", ()) == b"short"


def test_nvrtc_log_is_the_reason(stub):
    with pytest.raises(RuntimeFault) as caught:
        stub.compile("wrong", "a.cu", ())
    assert caught.value.why == "line 1: wrong"


def test_nvrtc_comes_after_nvcc_and_is_cached_too(stub, toolchain, cache_folder, monkeypatch):
    toolchain.behave(fails="no host compiler")
    monkeypatch.setattr(nvrtc, "find", lambda: stub.path)
    assert b"--gpu-architecture=sm_87" in kernels.compiled(ORIN)
    (entry,) = cache_folder.iterdir()
    assert entry.name.endswith("-sm_87-nvrtc-12.6.cubin")


def test_nvrtc_is_found_beside_the_installed_packages(tmp_path, monkeypatch):
    for name in (
        "cuda_nvrtc/lib/libnvrtc.so.12",
        "cu13/lib/libnvrtc.so.13",
        "cu13/lib/libnvrtc-builtins.so.13.9",
    ):
        path = tmp_path / "nvidia" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    monkeypatch.setattr("site.getsitepackages", lambda: [str(tmp_path)])
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    found = nvrtc.find()
    assert found == tmp_path / "nvidia/cu13/lib/libnvrtc.so.13"
