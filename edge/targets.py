"""The hardware matrix: one row for each kind of device an engine can be built for.

A row says what a device can do; code asks the row (`target.carrier`, `target.depthwise_swish_int8`) and
never compares names, so a new board is one row here or in a TOML file (`load_targets`), nothing else.

Marks in `sources`: [measured] on the TensorRT-RTX 1.7.1 compiler, [documented] by NVIDIA, [believed] not
checked on the device yet.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge.errors import ConfigError, UsageError, nearest

if TYPE_CHECKING:
    from edge.machine import Machine

Carrier = Literal["bf16", "fp16", "fp32"]
Quantized = Literal["fp8", "int8"]
Activation = Literal["s8", "u8"]
State = Literal["verified", "simulated", "bundle"]
Builder = Literal["onnxruntime", "tensorrt_rtx", "tensorrt"]

ComputeCapability = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One row of the hardware matrix.

    Attributes:
        name: how it is called on the command line and in the engine store.
        compute_capability: CUDA compute capability (major, minor), in TOML also "8.9"; None for processors.
        devices: examples, most common first.
        carrier: float type of every tensor that is not quantized.
        quantized: types a quantized engine may use, preferred first.
        scale_type: type that Q/DQ scales have in the graph. TensorRT wants a 16-bit scale to have the
            carrier's type (NvInfer.h, IQuantizeLayer).
        bf16_exact_scales: scales hold only values that bf16 represents, whatever type carries them.
        int8_activations: zero-point schemes to try for int8 activations, s8 symmetric or u8 asymmetric;
            where there are several the builder measures and keeps the faster.
        depthwise_swish_int8: has an int8 kernel for depthwise convolution followed by Swish/SiLU.
        depthwise_fp8: has an optimized fp8 kernel for depthwise and grouped convolution.
        quantized_attention: takes quantized products of two activations.
        int4_weights: takes int4 weights with block scales (weight-only, matrix products).
        rtx_aot: TensorRT-RTX compiles for it ahead of time, on any x86-64 machine, without a GPU.
        integrated: processor and GPU share one memory, so host ↔ device copies are unnecessary.
        min_tensorrt: first TensorRT (major, minor) with strongly typed networks that supports the device.
        memory_bandwidth_gb_s: peak of the first example device, for roofline estimates.
        int8_tops: dense peak of the first example device, for roofline estimates.
        fp8_tflops: the same in fp8, accumulated in fp32.
        carrier_tflops: the same in the carrier, accumulated in fp32.
        aliases: other names a user may type.
        sources: where the facts of this row come from.
    """

    name: str
    devices: tuple[str, ...]
    carrier: Carrier
    quantized: tuple[Quantized, ...]
    compute_capability: ComputeCapability | None = None
    scale_type: Carrier = "bf16"
    bf16_exact_scales: bool = True
    int8_activations: tuple[Activation, ...] = ("s8",)
    depthwise_swish_int8: bool = True
    depthwise_fp8: bool = False
    quantized_attention: bool = True
    int4_weights: bool = True
    rtx_aot: bool = False
    integrated: bool = False
    min_tensorrt: tuple[int, int] | None = None
    memory_bandwidth_gb_s: float | None = None
    int8_tops: float | None = None
    fp8_tflops: float | None = None
    carrier_tflops: float | None = None
    aliases: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def is_gpu(self) -> bool:
        return self.compute_capability is not None

    @property
    def capability_text(self) -> str:
        """Compute capability as NVIDIA writes it: "8.9"; "" for processors."""
        return format_capability(self.compute_capability) or ""

    def peak(self, precision: str) -> float:
        """Dense 10¹² multiply–accumulate operations a second, times two, in one precision; an estimate where
        the row does not say: quantized types at twice the carrier's rate."""
        carrier = self.carrier_tflops or (self.int8_tops or self.fp8_tflops or 2.0) / 2
        if precision == "int8":
            return self.int8_tops or 2 * carrier
        if precision == "fp8":
            return self.fp8_tflops or 2 * carrier
        return carrier / 2 if precision == "fp32" != self.carrier else carrier

    @property
    def fast_precision(self) -> Quantized:
        """What the `fast` variant is quantized to."""
        return self.quantized[0]

    @property
    def builders(self) -> tuple[Builder, ...]:
        """What can compile for this target, the one that works furthest from the device first."""
        if not self.is_gpu:
            return ("onnxruntime",)
        return ("tensorrt_rtx", "tensorrt") if self.rtx_aot else ("tensorrt",)

    def compiles_ahead(self, machine: Machine) -> bool:
        """Whether TensorRT-RTX is installed here and can compile for this device."""
        return self.rtx_aot and machine.is_x86 and "tensorrt-rtx" in machine.packages

    @property
    def remote_state(self) -> State:
        """State of an engine that was built on some x86-64 machine without this device."""
        if not self.is_gpu:
            return "verified"
        return "simulated" if self.rtx_aot else "bundle"


def format_capability(capability: ComputeCapability | None) -> str | None:
    """(8, 9) → "8.9"; None stays None, as manifests write it."""
    return None if capability is None else f"{capability[0]}.{capability[1]}"


def parse_capability(text: str, where: str = "compute capability") -> ComputeCapability:
    """Compute capability as NVIDIA writes it, "8.9", → (8, 9).

    Raises:
        ConfigError: it is not two numbers with a point between.
    """
    major, point, minor = text.strip().partition(".")
    if not (point and major.isascii() and major.isdigit() and minor.isascii() and minor.isdigit()):
        raise ConfigError(
            f"{where}: '{text}' is not a compute capability", "it has two numbers", 'write it like "8.9"'
        )
    return int(major), int(minor)


_INT4_MEASURED = "int4 weights, blocks of 16 to 128: accepted by the TensorRT-RTX 1.7.1 compiler [measured]"
_RTX_MEASURED = "int8, bf16 and fp8 acceptance: TensorRT-RTX 1.7.1 compiler [measured]"
_MATRIX = "precisions: TensorRT support matrix [documented]"

_ROWS = (
    Target(
        name="cpu",
        devices=("any x86-64 or aarch64 processor",),
        carrier="fp32",
        quantized=("int8",),
        scale_type="fp32",
        bf16_exact_scales=False,
        int8_activations=("u8", "s8"),
        quantized_attention=False,
        integrated=True,
        sources=(
            "ONNX Runtime has no bf16 convolution on processors [measured]",
            "u8 activations ran 4.6 times as fast as s8: SqueezeNet, AVX512-VNNI [measured]",
        ),
    ),
    Target(
        name="t4",
        compute_capability=(7, 5),
        devices=("Tesla T4", "RTX 2080 Ti", "Quadro RTX 6000"),
        carrier="fp16",
        quantized=("int8",),
        scale_type="fp16",
        depthwise_swish_int8=False,
        rtx_aot=True,
        min_tensorrt=(10, 3),
        memory_bandwidth_gb_s=320,
        int8_tops=130,
        carrier_tflops=65,
        int4_weights=False,
        aliases=("turing", "rtx20"),
        sources=(
            "bf16, fp8 and fp32 GEMM are refused by the TensorRT-RTX 1.7.1 compiler [measured]",
            "no int8 depthwise → Swish kernel [documented]",
            "int4 weights are refused by the TensorRT-RTX 1.7.1 compiler [measured]",
            "130 int8 TOPS, 65 fp16 TFLOPS: T4 datasheet [documented]",
        ),
    ),
    Target(
        name="a100",
        compute_capability=(8, 0),
        devices=("A100", "A30"),
        carrier="bf16",
        quantized=("int8",),
        rtx_aot=True,
        min_tensorrt=(10, 3),
        memory_bandwidth_gb_s=1555,
        int8_tops=624,
        carrier_tflops=312,
        sources=(_RTX_MEASURED, _INT4_MEASURED, "8.0 is an ahead-of-time target of the compiler [measured]"),
    ),
    Target(
        name="a10",
        compute_capability=(8, 6),
        devices=("A10", "A40", "RTX 3090", "RTX A6000"),
        carrier="bf16",
        quantized=("int8",),
        rtx_aot=True,
        min_tensorrt=(10, 3),
        memory_bandwidth_gb_s=600,
        int8_tops=250,
        carrier_tflops=125,
        aliases=("rtx30",),
        sources=(_RTX_MEASURED, _INT4_MEASURED),
    ),
    Target(
        name="orin",
        compute_capability=(8, 7),
        devices=("Jetson AGX Orin", "Jetson Orin NX", "Jetson Orin Nano"),
        carrier="bf16",
        quantized=("int8",),
        depthwise_swish_int8=False,
        integrated=True,
        min_tensorrt=(10, 3),
        memory_bandwidth_gb_s=204.8,
        int8_tops=85,
        carrier_tflops=42.5,
        sources=(
            _MATRIX,
            "no int8 depthwise → Swish kernel [documented]",
            "how TensorRT 10.3 (JetPack 6) takes bf16 convolutions [believed]",
            "GPU only, without DLA and sparsity: 85 dense int8 TOPS [documented]",
        ),
    ),
    Target(
        name="ada",
        compute_capability=(8, 9),
        devices=("L4", "L40S", "RTX 4090", "RTX 6000 Ada"),
        carrier="bf16",
        quantized=("fp8", "int8"),
        rtx_aot=True,
        min_tensorrt=(10, 3),
        memory_bandwidth_gb_s=300,
        int8_tops=242,
        fp8_tflops=242,
        carrier_tflops=121,
        aliases=("l4", "rtx40"),
        sources=(_RTX_MEASURED, _INT4_MEASURED),
    ),
    Target(
        name="hopper",
        compute_capability=(9, 0),
        devices=("H100", "H200", "GH200"),
        carrier="bf16",
        quantized=("fp8", "int8"),
        min_tensorrt=(10, 3),
        memory_bandwidth_gb_s=3350,
        int8_tops=1979,
        fp8_tflops=1979,
        carrier_tflops=989,
        aliases=("h100", "h200"),
        sources=(_MATRIX, "not a target of TensorRT-RTX [measured]"),
    ),
    Target(
        name="thor",
        compute_capability=(11, 0),
        devices=("Jetson AGX Thor", "Jetson T5000"),
        carrier="bf16",
        quantized=("fp8", "int8"),
        integrated=True,
        min_tensorrt=(10, 13),
        memory_bandwidth_gb_s=273,
        int8_tops=517,
        fp8_tflops=517,
        carrier_tflops=258,
        sources=(
            "11.0 since CUDA 13.0, called 10.1 before it: CUDA release notes, PTX ISA 9.0 [documented]",
            "10.1 has bf16, fp8 and int8: TensorRT for DRIVE OS 7.0.3 release properties [documented]",
            "first TensorRT: the one of JetPack 7.0 [believed]",
            "peaks: a quarter and an eighth of the 2070 sparse fp4 TFLOPS of T5000 [believed]",
        ),
    ),
    Target(
        name="blackwell",
        compute_capability=(12, 0),
        devices=("RTX 5090", "RTX PRO 6000 Blackwell"),
        carrier="bf16",
        quantized=("fp8", "int8"),
        rtx_aot=True,
        min_tensorrt=(10, 8),
        memory_bandwidth_gb_s=1792,
        int8_tops=838,
        fp8_tflops=419,
        carrier_tflops=209.5,
        aliases=("rtx50",),
        sources=(
            _RTX_MEASURED,
            _INT4_MEASURED,
            "first TensorRT: 10.8 release notes [documented]",
            "peaks of RTX 5090, fp8 and bf16 accumulated in fp32: half the rate of int8 [believed]",
        ),
    ),
    Target(
        name="spark",
        compute_capability=(12, 1),
        devices=("DGX Spark (GB10)",),
        carrier="bf16",
        quantized=("fp8", "int8"),
        rtx_aot=True,
        integrated=True,
        min_tensorrt=(10, 13),
        memory_bandwidth_gb_s=273,
        int8_tops=250,
        fp8_tflops=125,
        carrier_tflops=62.5,
        aliases=("gb10",),
        sources=(
            _RTX_MEASURED,
            _INT4_MEASURED,
            "precisions: TensorRT-RTX 1.5 support matrix [documented]",
            "first TensorRT: the one for CUDA 13 [believed]",
            "peaks: like blackwell, scaled to 1000 sparse fp4 TFLOPS [believed]",
        ),
    ),
)

TARGETS: dict[str, Target] = {row.name: row for row in _ROWS}
"""The built-in rows by name, in the order they are printed."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

_OLD_NAMES = {(10, 1): (11, 0)}
"""Compute capabilities that a newer CUDA renamed: an old driver still reports the key."""


def for_gpu(capability: ComputeCapability, targets: Mapping[str, Target] = TARGETS) -> Target:
    """The row of a GPU with this compute capability; a user's row goes before a built-in one.

    Raises:
        UsageError: no row has it. Engines do not run on another compute capability, so there is no
            nearest match to fall back on.
    """
    wanted = _OLD_NAMES.get(capability, capability)
    rows = [target for target in targets.values() if target.compute_capability == wanted]
    if rows:
        return next((row for row in rows if row.name not in TARGETS), rows[0])
    raise UsageError(
        f"no target has compute capability {format_capability(capability)}",
        "the hardware matrix has no row for this GPU",
        "add one, see docs/extending.md, section 'A board'",
    )


def local(machine: Machine, targets: Mapping[str, Target] = TARGETS) -> list[Target]:
    """Rows of this machine: its processor and every GPU the matrix knows, in matrix order."""
    found = {"cpu"}
    for gpu in machine.gpus:
        try:
            found.add(for_gpu(gpu.compute_capability, targets).name)
        except UsageError:
            continue  # `edge doctor` names it; the processor still works
    return [target for target in targets.values() if target.name in found]


def select(
    text: str, machine: Machine | None = None, targets: Mapping[str, Target] = TARGETS
) -> list[Target]:
    """Rows for a `--targets` argument: "all", "local" or names with commas, in matrix order.

    Args:
        text: what the user typed; names may be aliases such as "rtx30".
        machine: needed for "local" only; detected when it is None.
        targets: the matrix to choose from.

    Raises:
        UsageError: a name is unknown, or there is none.
    """
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    if names == ["all"]:
        return list(targets.values())
    if not names:
        raise UsageError("no target given", f"--targets is {text!r}", "all, local, or names such as cpu,ada")
    chosen: set[str] = set()
    for name in names:
        chosen.update(_named(name, machine, targets))
    return [target for target in targets.values() if target.name in chosen]


def _named(name: str, machine: Machine | None, targets: Mapping[str, Target]) -> list[str]:
    if name == "local":
        if machine is None:
            from edge.machine import detect

            machine = detect()
        return [target.name for target in local(machine, targets)]
    for target in targets.values():
        if name == target.name or name in target.aliases:
            return [target.name]
    aliases = [alias for target in targets.values() for alias in target.aliases]
    hint = nearest(name, [*targets, *aliases])
    if hint.startswith("known"):
        hint = f"known: all, local, {', '.join(targets)}"
    raise UsageError(f"no target '{name}'", "the hardware matrix has no such row", hint)


def load_targets(path: Path) -> dict[str, Target]:
    """The built-in matrix with the rows of a TOML file added, or put in place of rows of the same name.

        [targets.orin_nano]
        like = "orin"                     # start from an existing row; without it a row has to be complete
        devices = ["Jetson Orin Nano 8GB"]
        memory_bandwidth_gb_s = 102

    Raises:
        InputError: the file cannot be read.
        ConfigError: it is not TOML, or a row has an unknown key or a wrong value.
    """
    from edge.config import read_toml

    content = read_toml(path)
    unknown = sorted(set(content) - {"targets"})
    if unknown:
        raise ConfigError(
            f"{path}: unknown table '{unknown[0]}'", "rows are tables", "write [targets.NAME] above each row"
        )
    rows = content.get("targets", {})
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        raise ConfigError(f"{path}: rows have to be tables", "", "write [targets.NAME] above each row")
    matrix = dict(TARGETS)
    for name, row in rows.items():
        matrix[name] = _row(name, row, matrix, f"{path}, [targets.{name}]")
    return matrix


def _row(name: str, row: dict[str, Any], matrix: Mapping[str, Target], where: str) -> Target:
    keys = [field.name for field in dataclasses.fields(Target) if field.name != "name"]
    for key in row:
        if key not in (*keys, "like"):
            raise ConfigError(f"{where}: unknown key '{key}'", "a row has no such key", nearest(key, keys))
    values: dict[str, Any] = {"sources": (f"{where} [user]",)}
    like = row.get("like")
    if like is not None:
        if like not in matrix:
            raise ConfigError(f"{where}: like = {like!r}", "there is no such row", nearest(str(like), matrix))
        values |= {key: getattr(matrix[like], key) for key in keys} | {
            "aliases": (),
            "sources": (f"like {like}",),
        }
    values |= {key: value for key, value in row.items() if key != "like"}
    if isinstance(values.get("compute_capability"), str):
        values["compute_capability"] = parse_capability(values["compute_capability"], where)
    return _validated(name, values, where)


def _validated(name: str, values: dict[str, Any], where: str) -> Target:
    from pydantic import TypeAdapter, ValidationError

    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: '{name}' is not a name", "it becomes a folder", "letters, digits, _ . -")
    try:
        target = TypeAdapter(Target).validate_python({"name": name, **values})
    except ValidationError as e:
        problems = [f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in e.errors()]
        raise ConfigError(f"{where} is not valid", "; ".join(problems), "see docs/hardware.md") from e
    _consistent(target, where)
    return target


def _consistent(target: Target, where: str) -> None:
    """Rules that hold between keys.

    Raises:
        ConfigError: one is broken.
    """
    if not target.quantized:
        raise ConfigError(f"{where}: quantized is empty", "a fast engine needs a type", 'e.g. ["int8"]')
    if target.scale_type not in ("fp32", target.carrier):
        raise ConfigError(
            f"{where}: scale_type is {target.scale_type}, carrier {target.carrier}",
            "TensorRT wants a 16-bit scale to have the carrier's type",
            f'scale_type = "{target.carrier}"',
        )
    if target.is_gpu and "u8" in target.int8_activations:
        raise ConfigError(
            f"{where}: int8_activations holds u8",
            "TensorRT's quantization is symmetric, zero point 0",
            'int8_activations = ["s8"]',
        )
