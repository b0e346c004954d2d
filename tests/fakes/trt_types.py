"""TensorRT's small types and enumerations, with the names and numbers of its Python API, and engine files.

Source: the bindings of TensorRT-RTX 1.7 (tensorrt_rtx), whose names TensorRT 10 and 11 share.
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

MAGIC = b"FAKEPLAN"

DataType = enum.Enum("DataType", "FLOAT HALF INT8 INT32 BOOL UINT8 FP8 BF16 INT64 INT4", start=0)
TensorIOMode = enum.Enum("TensorIOMode", {"NONE": 0, "INPUT": 1, "OUTPUT": 2})
MemoryPoolType = enum.Enum("MemoryPoolType", {"WORKSPACE": 0})
ProfilingVerbosity = enum.Enum("ProfilingVerbosity", {"LAYER_NAMES_ONLY": 0, "NONE": 1, "DETAILED": 2})
LayerInformationFormat = enum.Enum("LayerInformationFormat", {"ONELINE": 0, "JSON": 1})
EngineValidity = enum.Enum("EngineValidity", {"VALID": 0, "SUBOPTIMAL": 1, "INVALID": 2})
CudaGraphStrategy = enum.Enum("CudaGraphStrategy", {"DISABLED": 0, "WHOLE_GRAPH_CAPTURE": 1})
DynamicShapesKernelSpecializationStrategy = enum.Enum(
    "DynamicShapesKernelSpecializationStrategy", {"LAZY": 0, "EAGER": 1, "NONE": 2}
)
ErrorCode = enum.Enum("ErrorCode", {"SUCCESS": 0, "INVALID_NODE": 6, "UNSUPPORTED_NODE": 8})
ComputeCapability = enum.Enum(
    "ComputeCapability",
    {"NONE": 0, "CURRENT": 1, "SM75": 75, "SM80": 80, "SM86": 86, "SM89": 89, "SM120": 120, "SM121": 121},
)


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


_Severity = Severity


class ILogger:
    """To be subclassed with a `log`."""

    Severity = Severity
    INTERNAL_ERROR, ERROR, WARNING = Severity.INTERNAL_ERROR, Severity.ERROR, Severity.WARNING
    INFO, VERBOSE = Severity.INFO, Severity.VERBOSE

    def log(self, severity: _Severity, msg: str) -> None:
        raise NotImplementedError


class Logger(ILogger):
    """Keeps what it is told; the real one writes it to stderr."""

    def __init__(self, min_severity: Severity = Severity.WARNING) -> None:
        self.min_severity = min_severity
        self.messages: list[tuple[Severity, str]] = []

    def log(self, severity: _Severity, msg: str) -> None:
        if severity.value <= self.min_severity.value:
            self.messages.append((severity, msg))


class IProgressMonitor:
    """To be subclassed; TensorRT calls these."""

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


class IProfiler:
    """To be subclassed; an execution context with one calls it for every layer of every execution."""

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise NotImplementedError


class Dims(Sequence[int]):
    """A shape. It equals tuples and lists, and is neither."""

    def __init__(self, sizes: Sequence[int] = ()) -> None:
        self._sizes = tuple(int(size) for size in sizes)

    def __getitem__(self, index: Any) -> Any:
        return self._sizes[index]

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[int]:
        return iter(self._sizes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, tuple | list | Dims) and self._sizes == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._sizes)


class IHostMemory(bytes):
    """Bytes of the library; a buffer."""

    @property
    def nbytes(self) -> int:
        return len(self)


ONNX_TYPES: dict[int, DataType] = {
    TensorProto.FLOAT: DataType.FLOAT,
    TensorProto.FLOAT16: DataType.HALF,
    TensorProto.BFLOAT16: DataType.BF16,
    TensorProto.FLOAT8E4M3FN: DataType.FP8,
    TensorProto.INT8: DataType.INT8,
    TensorProto.UINT8: DataType.UINT8,
    TensorProto.INT32: DataType.INT32,
    TensorProto.INT64: DataType.INT64,
    TensorProto.BOOL: DataType.BOOL,
}
WIDTHS = {
    DataType.FLOAT: 4,
    DataType.INT32: 4,
    DataType.INT64: 8,
    DataType.HALF: 2,
    DataType.BF16: 2,
}
"""Bytes of an element; 1 for all others."""

_NUMPY = {
    DataType.FLOAT: np.float32,
    DataType.HALF: np.float16,
    DataType.INT8: np.int8,
    DataType.INT32: np.int32,
    DataType.INT64: np.int64,
    DataType.BOOL: np.bool_,
    DataType.UINT8: np.uint8,
}


def nptype(dtype: DataType) -> Any:
    """The NumPy type of a TensorRT type.

    Raises:
        TypeError: NumPy has none (bf16, fp8).
    """
    if dtype not in _NUMPY:
        raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
    return _NUMPY[dtype]


Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""The smallest, the one to be fastest at, the largest."""


@dataclass(frozen=True)
class Plan:
    """What an engine file holds.

    Attributes:
        product: "tensorrt" or "tensorrt_rtx".
        capabilities: compute capabilities it was compiled for.
        profile: shapes of each input, also of those with fixed sizes.
        detailed: built with ProfilingVerbosity.DETAILED.
    """

    onnx: bytes
    product: str
    version: str
    capabilities: tuple[tuple[int, int], ...]
    profile: Mapping[str, Shapes]
    detailed: bool = True

    def serialize(self) -> bytes:
        header = {k: v for k, v in asdict(self).items() if k != "onnx"}
        header["sha256"] = hashlib.sha256(self.onnx).hexdigest()
        text = json.dumps(header).encode()
        return MAGIC + len(text).to_bytes(4, "little") + text + self.onnx


def read_plan(engine: bytes) -> Plan | None:
    """The plan in an engine file; None if it is damaged."""
    if not engine.startswith(MAGIC):
        return None
    start = len(MAGIC) + 4
    end = start + int.from_bytes(engine[len(MAGIC) : start], "little")
    try:
        header = json.loads(engine[start:end])
        digest = header.pop("sha256")
        header["capabilities"] = tuple(tuple(pair) for pair in header["capabilities"])
        header["profile"] = {
            name: tuple(tuple(shape) for shape in shapes) for name, shapes in header["profile"].items()
        }
    except (ValueError, KeyError, AttributeError):
        return None
    if hashlib.sha256(engine[end:]).hexdigest() != digest:
        return None
    return Plan(engine[end:], **header)
