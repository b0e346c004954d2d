"""The preprocessing kernel: compiled for a GPU at first use, kept in the cache, loaded from there.

    python -m edge.cuda.kernels --arch 8.7 8.9      compile ahead of time, for a machine without a compiler

nvcc compiles it where there is one, else NVRTC, which needs neither a driver nor a C++ compiler.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edge.cuda import cache, nvrtc
from edge.errors import DeviceLost, EdgeError, MissingPackage, OutOfDeviceMemory, RuntimeFault, UsageError

if TYPE_CHECKING:
    from edge.cuda.device import Device

log = logging.getLogger(__name__)

ComputeCapability = tuple[int, int]

SOURCE = Path(__file__).with_name("preprocess.cu")
OPTIONS = ("--std=c++17",)
ARGUMENTS = "P" * 7 + "i" * 12
"""The members of `Job` in preprocess.cu, as `struct` names their types."""

_SECONDS = 120.0
_INSTALL = (
    "pip install nvidia-cuda-nvrtc (nvidia-cuda-nvrtc-cu12 for drivers of CUDA 12), or the CUDA toolkit"
)


class Compiler(Protocol):
    """Something that makes a cubin of CUDA C++."""

    @property
    def name(self) -> str:
        """With its version, fit for a file name: nvcc-13.0."""
        ...

    def compile(self, source: str, arch: str) -> bytes:
        """The cubin for an architecture (sm_87).

        Raises:
            RuntimeFault: the compiler fails; `why` is what it said.
        """
        ...


class _Nvcc:
    def __init__(self, path: str) -> None:
        said = _run([path, "--version"])
        release = re.search(r"release (\d+\.\d+)", said)
        self.path, self.name = path, f"nvcc-{release[1] if release else 'unknown'}"

    def compile(self, source: str, arch: str) -> bytes:
        with tempfile.TemporaryDirectory(prefix="edge-nvcc-") as folder:
            text, cubin = Path(folder, SOURCE.name), Path(folder, "preprocess.cubin")
            text.write_text(source, encoding="utf-8")
            _run([self.path, "-cubin", f"-arch={arch}", *OPTIONS, "-o", str(cubin), str(text)])
            return cubin.read_bytes()


class _Nvrtc:
    def __init__(self, library: Path) -> None:
        self._nvrtc = nvrtc.Nvrtc(library)
        self.name = f"nvrtc-{self._nvrtc.version()}"

    def compile(self, source: str, arch: str) -> bytes:
        return self._nvrtc.compile(source, SOURCE.name, (f"--gpu-architecture={arch}", *OPTIONS))


def _run(command: Sequence[str]) -> str:
    """What a compiler printed.

    Raises:
        RuntimeFault: it cannot be started or fails.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise RuntimeFault(f"cannot run {command[0]}", str(e)) from e
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise RuntimeFault(f"{command[0]} failed", said[-2000:] or f"exit status {done.returncode}")
    return done.stdout


def find_nvcc() -> str | None:
    """On the PATH, or where the CUDA toolkit and JetPack put it."""
    folders = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    places = [str(Path(folder, "bin")) for folder in folders if folder]
    return shutil.which("nvcc") or shutil.which("nvcc", path=os.pathsep.join(places))


def compilers(problems: list[str]) -> Iterator[Compiler]:
    """The compilers of this machine in order of preference; why others cannot be used goes to `problems`."""
    candidates: tuple[tuple[str, Callable[[], Any], Callable[[Any], Compiler]], ...] = (
        ("nvcc", find_nvcc, _Nvcc),
        ("NVRTC", nvrtc.find, _Nvrtc),
    )
    for name, find, make in candidates:
        place = find()
        if place is None:
            problems.append(f"{name} is not installed")
            continue
        try:
            compiler = make(place)
        except RuntimeFault as e:
            problems.append(str(e))
        else:
            yield compiler


def available(capability: ComputeCapability | None = None) -> str:
    """Why the kernel cannot be had on this machine, "" if it can.

    Args:
        capability: a GPU for which a compiled kernel in the cache will do.
    """
    if capability is not None and _cached(capability):
        return ""
    problems: list[str] = []
    return "" if any(True for _ in compilers(problems)) else "; ".join(problems)


def compiled(capability: ComputeCapability) -> bytes:
    """The cubin for a GPU: from the cache if it is whole, else compiled now and kept.

    Raises:
        MissingPackage: there is no compiler, and nothing in the cache.
        RuntimeFault: no compiler can compile it.
    """
    return next(_images(capability, []))


def load(device: Device) -> PreprocessKernel:
    """The kernel on `device`, compiled first if the cache does not hold it.

    Raises:
        MissingPackage: there is no compiler, and nothing in the cache.
        RuntimeFault: no compiler can compile it, or the driver takes none of what they made.
        DeviceLost, OutOfDeviceMemory: as they say.
    """
    problems: list[str] = []
    images = _images(device.compute_capability, problems)
    while True:
        image = next(images)  # after the last one this is the error that tells all problems
        try:
            return PreprocessKernel(device.module(image))
        except (DeviceLost, OutOfDeviceMemory):
            raise
        except RuntimeFault as e:  # of a newer CUDA than the driver's, for example
            problems.append(str(e))


def _images(capability: ComputeCapability, problems: list[str]) -> Iterator[bytes]:
    """Cubins for a GPU, each made when it is asked for; an error once there is no further one.

    Args:
        problems: what went wrong on the way; a caller that has no use for an image adds why.
    """
    tried: set[bytes] = set()
    found = False
    for compiler in compilers(problems):
        found = True
        try:
            image = _made_by(compiler, capability)
        except RuntimeFault as e:
            problems.append(f"{compiler.name}: {e.why or e.what}")
            continue
        tried.add(image)
        yield image
    yield from (old for old in _cached(capability) if old not in tried)  # or one that was copied here
    raise (RuntimeFault if found else MissingPackage)(
        f"there is no preprocessing kernel for compute capability {_text(capability)}",
        "; ".join(problems),
        _INSTALL,
    )


def _made_by(compiler: Compiler, capability: ComputeCapability) -> bytes:
    source = SOURCE.read_text(encoding="utf-8")
    name = f"{_prefix(source, capability)}{compiler.name}.cubin"
    if (content := cache.read_sealed(name)) is not None:
        return content
    content = compiler.compile(source, _arch(capability))
    if not cache.write_sealed(name, content):
        log.info("the compiled kernel cannot be kept in %s", cache.folder())
    return content


def _prefix(source: str, capability: ComputeCapability) -> str:
    """Of the names of all cache entries for this source, these options and this GPU."""
    digest = hashlib.sha256("\0".join((source, *OPTIONS)).encode()).hexdigest()
    return f"preprocess-{digest[:16]}-{_arch(capability)}-"


def _cached(capability: ComputeCapability) -> list[bytes]:
    """What any compiler has made for this GPU."""
    prefix = _prefix(SOURCE.read_text(encoding="utf-8"), capability)
    names = sorted(path.name for path in cache.folder().glob(f"{prefix}*.cubin"))
    entries = [cache.read_sealed(name) for name in names]
    return [content for content in entries if content is not None]


def _arch(capability: ComputeCapability) -> str:
    return f"sm_{capability[0]}{capability[1]}"


def _text(capability: ComputeCapability) -> str:
    return f"{capability[0]}.{capability[1]}"


class PreprocessKernel:
    """The kernel, loaded on one device: an entry point for each picture format and type of input."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._entries: dict[str, Callable[..., None]] = {}

    def entry(self, format: str, channels: int, value_bytes: int) -> Callable[..., None]:
        """PyCUDA's `prepared_async_call` of one entry point: (grid, block, stream, *ARGUMENTS)."""
        name = f"preprocess_{format}_{channels}x{8 * value_bytes}"
        if name not in self._entries:
            function = self._module.get_function(name)
            function.prepare(tuple(ARGUMENTS))
            self._entries[name] = function.prepared_async_call
        return self._entries[name]


def capability(text: str) -> ComputeCapability:
    """ "8.7" → (8, 7).

    Raises:
        UsageError: it is no compute capability.
    """
    match = re.fullmatch(r"(\d+)\.(\d)", text)
    if match is None:
        raise UsageError(f"'{text}' is no compute capability", "it is two numbers, as in 8.7", "see --help")
    return int(match[1]), int(match[2])


def main(argv: Sequence[str] | None = None) -> int:
    """Compile ahead of time and print what is in the cache; the exit code is that of `edge`."""
    parser = argparse.ArgumentParser(
        prog="python -m edge.cuda.kernels", description="Compile the GPU preprocessing kernel into the cache."
    )
    parser.add_argument(
        "--arch", nargs="+", metavar="X.Y", help="compute capabilities; default: of the GPUs of this machine"
    )
    wanted = parser.parse_args(argv).arch
    try:
        for chosen in [capability(text) for text in wanted] if wanted else _local():
            content = compiled(chosen)
            print(f"{_text(chosen):5} {_arch(chosen):7} {len(content):,} bytes in {cache.folder()}")
    except EdgeError as error:
        from edge.cli import explain

        print(explain(error), file=sys.stderr)
        return error.exit_code
    return 0


def _local() -> list[ComputeCapability]:
    from edge.machine import detect

    gpus = sorted({gpu.compute_capability for gpu in detect().gpus if gpu.compute_capability})
    if not gpus:
        raise UsageError("no GPU was found", "so it is not known what to compile for", "name it: --arch 8.7")
    return gpus


if __name__ == "__main__":
    sys.exit(main())
