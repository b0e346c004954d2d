"""NVRTC, NVIDIA's run-time compiler, through ctypes: it needs neither a driver nor a C++ compiler.

It is a library of the CUDA toolkit, of JetPack, and of the pip packages nvidia-cuda-nvrtc (CUDA 13) and
nvidia-cuda-nvrtc-cu12. Source: NVRTC documentation, "Basic usage"; nvrtcGetCUBIN exists since CUDA 11.1.
"""

from __future__ import annotations

import ctypes
import os
import re
import site
import sysconfig
from collections.abc import Iterator, Sequence
from ctypes.util import find_library
from pathlib import Path

from edge.errors import RuntimeFault

_SUCCESS = 0
_BESIDE_PACKAGES = ("nvidia/cu*/lib/libnvrtc.so.*", "nvidia/cuda_nvrtc/lib/libnvrtc.so.*")
_IN_TOOLKITS = ("lib64/libnvrtc.so*", "targets/*/lib/libnvrtc.so*")


def find() -> Path | None:
    """libnvrtc beside the installed packages, in a CUDA toolkit, or where the system's loader looks."""
    for path in _candidates():
        return path
    name = find_library("nvrtc")
    return Path(name) if name else None


def _candidates() -> Iterator[Path]:
    """The newest of each place first."""
    packages = dict.fromkeys(
        [sysconfig.get_path("purelib"), *site.getsitepackages(), site.getusersitepackages()]
    )
    toolkits = [folder for folder in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if folder]
    for folders, patterns in ((packages, _BESIDE_PACKAGES), (toolkits, _IN_TOOLKITS)):
        for folder in folders:
            found = (path for pattern in patterns for path in Path(folder).glob(pattern))
            yield from sorted(found, key=_version_number, reverse=True)


def _version_number(path: Path) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", path.name))


class Nvrtc:
    """A loaded libnvrtc.

    Raises:
        RuntimeFault: the library cannot be loaded.
    """

    def __init__(self, library: Path) -> None:
        try:
            self._library = ctypes.CDLL(str(library))
            self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        except (OSError, AttributeError) as e:
            raise RuntimeFault(f"cannot load {library}", str(e), "install nvidia-cuda-nvrtc anew") from e
        self.path = library

    def version(self) -> str:
        """As "13.0"."""
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        return f"{major.value}.{minor.value}"

    def compile(self, source: str, name: str, options: Sequence[str]) -> bytes:
        """The cubin of `source`.

        Args:
            name: what messages call the source.
            options: must name a real architecture: --gpu-architecture=sm_87.

        Raises:
            RuntimeFault: it refuses the source or an option; `why` holds its log.
        """
        program = ctypes.c_void_p()
        self._call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), name.encode(), 0, None, None)
        try:
            texts = [option.encode() for option in options]
            pointers = (ctypes.c_char_p * len(texts))(*texts)
            code = self._library.nvrtcCompileProgram(program, len(texts), pointers)
            if code != _SUCCESS:
                log = (
                    self._fetch("nvrtcGetProgramLog", program).rstrip(b"\0").decode(errors="replace").strip()
                )
                raise RuntimeFault(f"NVRTC cannot compile {name}", log or self._words(code))
            return self._fetch("nvrtcGetCUBIN", program)
        finally:
            self._call("nvrtcDestroyProgram", ctypes.byref(program))

    def _fetch(self, function: str, program: ctypes.c_void_p) -> bytes:
        """What `function` gives, of the size that `<function>Size` tells."""
        size = ctypes.c_size_t()
        self._call(f"{function}Size", program, ctypes.byref(size))
        content = ctypes.create_string_buffer(size.value)
        self._call(function, program, content)
        return content.raw

    def _call(self, function: str, *arguments: object) -> None:
        code = getattr(self._library, function)(*arguments)
        if code != _SUCCESS:
            raise RuntimeFault(f"{function} of {self.path} failed", self._words(code))

    def _words(self, code: int) -> str:
        return (self._library.nvrtcGetErrorString(code) or b"").decode() or f"error {code}"
