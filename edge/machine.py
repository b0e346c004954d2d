"""What this machine is: processor, memory, GPUs, Jetson board, optional packages.

`detect` reads files below `root` and runs `nvidia-smi`; it imports no runtime and touches no device, so it
is safe and quick (milliseconds, plus nvidia-smi) everywhere. Whatever cannot be read ends up in `problems`.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ComputeCapability = tuple[int, int]
Runner = Callable[[Sequence[str]], str]

NVIDIA_SMI = (
    "nvidia-smi",
    "--query-gpu=name,compute_cap,driver_version,memory.total",
    "--format=csv,noheader,nounits",
)
NVIDIA_SMI_SECONDS = 5.0
"""A healthy driver answers in under a second; one that needs longer is about to hang."""

X86_FEATURES = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "avx512_bf16", "avx512_fp16",
)  # fmt: skip
ARM_FEATURES = ("asimd", "asimddp", "i8mm", "bf16", "asimdhp", "sve", "sve2")

INT8_DOT = "int8_dot"
"""Derived feature: 8-bit products are summed in 32 bits (AVX-VNNI, AVX512-VNNI, NEON dot product).

Without it ONNX Runtime sums pairs of u8 × s8 products in 16 bits on x86 and saturates (`vpmaddubsw`).
"""

_JETSON_CAPABILITIES = {"thor": (11, 0), "orin": (8, 7), "xavier": (7, 2), "tx2": (6, 2), "nano": (5, 3)}


@dataclass(frozen=True, slots=True)
class Package:
    """An optional distribution.

    Attributes:
        name: what to show and to install.
        distributions: names under which the same thing may be installed.
        extra: the extra of this project that brings it: pip install '.[extra]'.
        purpose: what it is for, as an end of "needed to …".
    """

    name: str
    distributions: tuple[str, ...]
    extra: str
    purpose: str


PACKAGES = (
    Package("tensorrt-rtx", ("tensorrt-rtx",), "rtx", "compile for other machines' GPUs"),
    Package(
        "tensorrt",
        ("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-cu11"),
        "trt",
        "compile and run engines on their device",
    ),
    Package("pycuda", ("pycuda",), "gpu", "run engines on an NVIDIA GPU"),
    Package("pydicom", ("pydicom",), "dicom", "read DICOM files"),
    Package("pylibjpeg", ("pylibjpeg",), "dicom", "decode JPEG, JPEG 2000 and RLE in DICOM"),
    Package("pyjpegls", ("pyjpegls",), "dicom", "decode JPEG-LS in DICOM"),
    Package("av", ("av",), "feeds", "read streams of the network"),
    Package("matplotlib", ("matplotlib",), "report", "draw the summary figure"),
    Package("pycocotools", ("pycocotools",), "eval", "measure a detector's average precision"),
)

REQUIRED = ("numpy", "onnx", "onnxruntime", "opencv-python", "pydantic", "rich", "ml-dtypes")
_SAME_AS = {
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime-openvino"),
    "opencv-python": ("opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
}


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU as its driver describes it."""

    name: str
    compute_capability: ComputeCapability
    driver: str = ""
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What was found.

    Attributes:
        cpu: name of the processor.
        arch: "x86_64" or "aarch64", as `uname -m` says it.
        cpu_features: those of X86_FEATURES or ARM_FEATURES that the processor has, and INT8_DOT.
        cores: processors this process may use.
        memory_bytes: physical memory, 0 if unknown.
        gpus: NVIDIA GPUs, in the driver's order.
        jetson: the board's name, None on anything else.
        l4t: the Jetson's Linux release ("36.4.3"), None where it is not known.
        packages: installed version of each package of PACKAGES and REQUIRED that is there.
        python: version of the interpreter.
        problems: what could not be detected, and why; for people.
    """

    cpu: str
    arch: str
    cpu_features: frozenset[str] = frozenset()
    cores: int = 1
    memory_bytes: int = 0
    gpus: tuple[Gpu, ...] = ()
    jetson: str | None = None
    l4t: str | None = None
    packages: Mapping[str, str] = field(default_factory=dict)
    python: str = platform.python_version()
    problems: tuple[str, ...] = ()

    @property
    def is_x86(self) -> bool:
        return self.arch in ("x86_64", "AMD64")

    @property
    def label(self) -> str:
        """One line for manifests and reports: processor, cores, GPUs or board."""
        parts = [f"{self.cpu}, {self.cores} core{'s' if self.cores != 1 else ''}"]
        parts += [self.jetson] if self.jetson else [gpu.name for gpu in self.gpus]
        return " + ".join(parts)

    def missing_features(self, required: Iterable[str]) -> list[str]:
        """Those of `required` (features, or an architecture) that this machine has not, sorted."""
        return sorted(set(required) - self.cpu_features - {self.arch})


def usable_cores() -> int:
    """Cores this process may run on (a container or `taskset` may allow fewer than there are)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def detect(root: Path = Path("/"), run: Runner | None = None, arch: str | None = None) -> Machine:
    """Look at this machine.

    Args:
        root: where /proc and /etc are; tests give a folder of recorded files.
        run: runs a command and returns its output; raises OSError or subprocess.SubprocessError.
        arch: instead of this interpreter's.
    """
    arch = arch or platform.machine()
    problems: list[str] = []
    cpuinfo = _read(root / "proc/cpuinfo")
    board = _read(root / "proc/device-tree/model").strip("\0 \n")
    jetson = board if re.search(r"jetson|orin|thor|xavier", board, re.IGNORECASE) else None
    gpus = _gpus(run or _run, jetson, problems)
    problems += _runtimes_in_each_others_way()
    return Machine(
        cpu=_cpu_name(cpuinfo, arch, board),
        arch=arch,
        cpu_features=_cpu_features(cpuinfo),
        cores=_cores(root, cpuinfo),
        memory_bytes=_memory(_read(root / "proc/meminfo")),
        gpus=gpus,
        jetson=jetson,
        l4t=_l4t(_read(root / "etc/nv_tegra_release")),
        packages=installed_packages(),
        problems=tuple(problems),
    )


def installed_packages() -> dict[str, str]:
    """Version of every package of PACKAGES and REQUIRED that is installed; imports none of them."""
    names = {package.name: package.distributions for package in PACKAGES}
    names |= {name: (name, *_SAME_AS.get(name, ())) for name in REQUIRED}
    found = {name: _version(distributions) for name, distributions in names.items()}
    return {name: version for name, version in found.items() if version}


def _runtimes_in_each_others_way() -> list[str]:
    """ONNX Runtime's distributions install the same files: the last wins, none can be removed alone."""
    there = [name for name in ("onnxruntime", *_SAME_AS["onnxruntime"]) if _version((name,))]
    if len(there) < 2:
        return []
    wanted = "'onnxruntime-gpu[cuda,cudnn]'" if "onnxruntime-gpu" in there else there[-1]
    return [
        f"{' and '.join(there)} are both installed and overwrite each other's files; keep one: "
        f"pip uninstall -y {' '.join(there)} && pip install {wanted}"
    ]


def _version(distributions: Iterable[str]) -> str | None:
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _run(command: Sequence[str]) -> str:
    """The command's output.

    Raises:
        OSError: it cannot be started.
        subprocess.SubprocessError: it failed or took too long.
    """
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=NVIDIA_SMI_SECONDS, check=True
    )
    return done.stdout


def _gpus(run: Runner, jetson: str | None, problems: list[str]) -> tuple[Gpu, ...]:
    gpus = _ask_nvidia_smi(run, jetson, problems)
    if gpus or jetson is None:
        return gpus
    capability = _jetson_capability(jetson)  # JetPack 5 has no nvidia-smi, 6 answers [N/A]
    if capability is None:
        problems.append(f"unknown Jetson board '{jetson}': its GPU is left out")
        return ()
    return (Gpu(f"{jetson} (integrated)", capability),)


def _ask_nvidia_smi(run: Runner, jetson: str | None, problems: list[str]) -> tuple[Gpu, ...]:
    try:
        answer = run(NVIDIA_SMI)
    except FileNotFoundError:
        return ()  # no driver: the usual case, and no problem
    except subprocess.TimeoutExpired:
        problems.append(f"nvidia-smi did not answer within {NVIDIA_SMI_SECONDS:g} s: GPUs are left out")
        return ()
    except subprocess.CalledProcessError as e:
        problems.append(f"nvidia-smi failed: {_reason(e)}")
        return ()
    except (OSError, subprocess.SubprocessError) as e:
        problems.append(f"nvidia-smi cannot be run: {e}")
        return ()
    gpus = [_parse_gpu(line) for line in answer.splitlines() if line.count(",") >= 3]
    if None in gpus and jetson is None:
        problems.append("nvidia-smi does not say a GPU's compute capability: it is left out")
    return tuple(gpu for gpu in gpus if gpu is not None)


def _reason(error: subprocess.CalledProcessError) -> str:
    """What a failed nvidia-smi said, in one line."""
    said = " ".join(f"{error.stdout or ''} {error.stderr or ''}".split())
    if "compute_cap" in said:
        return "the driver is too old to tell the compute capability, update it to 510 or newer"
    return said[:200] or f"exit code {error.returncode}"


def _parse_gpu(line: str) -> Gpu | None:
    """One line of nvidia-smi's CSV; None where it names no compute capability ("[N/A]")."""
    name, capability, driver, memory = (part.strip() for part in line.rsplit(",", 3))
    match = re.fullmatch(r"(\d+)\.(\d+)", capability)
    if match is None:
        return None
    mebibytes = int(memory) if memory.isdigit() else None
    return Gpu(
        name,
        (int(match[1]), int(match[2])),
        "" if driver.startswith("[") else driver,
        None if mebibytes is None else mebibytes << 20,
    )


def _jetson_capability(board: str) -> ComputeCapability | None:
    name = board.lower()
    return next((capability for key, capability in _JETSON_CAPABILITIES.items() if key in name), None)


def _l4t(release: str) -> str | None:
    """'# R36 (release), REVISION: 4.3, GCID: …' → '36.4.3'."""
    match = re.search(r"R(\d+).*?REVISION:\s*([\d.]+)", release)
    return f"{match[1]}.{match[2]}" if match else None


def _field(text: str, key: str) -> str:
    match = re.search(rf"^{key}\s*:[ \t]*(.*)$", text, re.MULTILINE)
    return match[1].strip() if match else ""


def _cpu_name(cpuinfo: str, arch: str, board: str) -> str:
    """The processor's name; aarch64 kernels give a part number only, so the board's name has to do."""
    return _field(cpuinfo, "model name") or _field(cpuinfo, "Model") or board or f"{arch} processor"


def _cpu_features(cpuinfo: str) -> frozenset[str]:
    flags = set(_field(cpuinfo, "flags").split()) or set(_field(cpuinfo, "Features").split())
    features = flags.intersection((*X86_FEATURES, *ARM_FEATURES))
    if features & {"avx512_vnni", "avx_vnni", "asimddp"}:
        features.add(INT8_DOT)
    return frozenset(features)


def _cores(root: Path, cpuinfo: str) -> int:
    """Processors this process is allowed on ("0-3,6"), which a container may limit; at least 1."""
    allowed = _field(_read(root / "proc/self/status"), "Cpus_allowed_list")
    ranges = re.findall(r"(\d+)(?:-(\d+))?", allowed)
    count = sum(int(last or first) - int(first) + 1 for first, last in ranges)
    return count or len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE)) or 1


def _memory(meminfo: str) -> int:
    kibibytes = _field(meminfo, "MemTotal").removesuffix("kB").strip()
    return int(kibibytes) << 10 if kibibytes.isdigit() else 0
