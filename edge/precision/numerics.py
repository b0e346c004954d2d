"""The arithmetic of quantization, defined once.

All quantizers here are symmetric (zero point 0) but for `quantize_u8`. Rounding is half to even, as ONNX
QuantizeLinear and TensorRT define it; values out of range saturate.

| type | values              | source                                                    |
|------|---------------------|-----------------------------------------------------------|
| int8 | −128…127, weights −127…127 | ONNX QuantizeLinear; symmetric weights keep ±127   |
| int4 | −8…7, weights only  | ONNX QuantizeLinear 21                                    |
| uint8| 0…255 with zero point | ONNX QuantizeLinear                                     |
| fp8  | E4M3FN, ±448, no infinity | OFP8 "E4M3"; ONNX Cast with saturate=1              |
| bf16 | 8 exponent, 7 mantissa bits | round to nearest even of the float32              |
"""

from __future__ import annotations

from typing import Literal

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray

from edge.targets import Carrier
from edge.types import Array

Floats = NDArray[np.float32]
Scale = Array | np.float32
QuantType = Literal["int8", "fp8"]
WeightType = Literal["int8", "fp8", "int4"]

FP8_MAX = 448.0
TINIEST = 2.0**-126
"""Smallest normal float32 and bf16: a scale below it could be flushed to zero."""
QMAX: dict[str, float] = {"int8": 127.0, "fp8": FP8_MAX, "int4": 7.0}
STORED_AS: dict[str, WeightType] = {"int8": "int8", "fp8": "fp8", "w8a16": "int8", "w4a16": "int4"}
"""Type in which a precision keeps weights."""

NUMPY: dict[str, np.dtype] = {
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
    "int4": np.dtype(ml_dtypes.int4),
    "fp8": np.dtype(ml_dtypes.float8_e4m3fn),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "fp16": np.dtype(np.float16),
    "fp32": np.dtype(np.float32),
}
ONNX: dict[str, int] = {
    "int8": onnx.TensorProto.INT8,
    "uint8": onnx.TensorProto.UINT8,
    "int4": onnx.TensorProto.INT4,
    "fp8": onnx.TensorProto.FLOAT8E4M3FN,
    "bf16": onnx.TensorProto.BFLOAT16,
    "fp16": onnx.TensorProto.FLOAT16,
    "fp32": onnx.TensorProto.FLOAT,
}
LARGEST = {"bf16": (2 - 2.0**-7) * 2.0**127, "fp16": 65504.0}
"""Largest finite value."""
PRECISION = {code: name for name, code in ONNX.items()}


def round_bf16(x: Scale) -> Floats:
    """Each value rounded to the nearest bfloat16, as float32."""
    return np.asarray(x, np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)


def round_fp16(x: Scale) -> Floats:
    """Each value rounded to the nearest float16, as float32; beyond ±65504 it becomes infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(x, np.float32).astype(np.float16).astype(np.float32)


def narrow(x: Array, precision: str) -> Array:
    """A constant in a storage type. What a 16-bit float cannot reach becomes its largest value: a mask of
    −3·10³⁸ stays finite. Infinities stay what they are."""
    kind = NUMPY[precision]
    with np.errstate(over="ignore"):
        typed = np.asarray(x).astype(kind, order="C")
    if precision in ("bf16", "fp16"):
        beyond = np.isinf(typed) & np.isfinite(x)
        typed = np.where(beyond, np.copysign(LARGEST[precision], x).astype(kind), typed)
    return np.asarray(typed)


def quantize_int8(x: Array, scale: Scale, low: int = -128) -> NDArray[np.int8]:
    """round-half-even(x / scale), saturated to `low`…127. `scale` broadcasts against `x`."""
    return np.clip(np.rint(np.asarray(x, np.float32) / scale), low, 127).astype(np.int8)


def quantize_u8(x: Array, scale: Scale, zero_point: int) -> NDArray[np.uint8]:
    """round-half-even(x / scale) + zero_point, saturated to 0…255."""
    levels = np.rint(np.asarray(x, np.float32) / scale) + np.float32(zero_point)
    return np.asarray(np.clip(levels, 0, 255).astype(np.uint8))


def quantize_fp8(x: Array, scale: Scale) -> Array:
    """x / scale rounded to the nearest E4M3 value, saturated to ±448; NaN stays NaN."""
    return np.clip(np.asarray(x, np.float32) / scale, -FP8_MAX, FP8_MAX).astype(ml_dtypes.float8_e4m3fn)


def quantize(x: Array, scale: Scale, kind: QuantType) -> Array:
    """An activation in storage form, one byte a value."""
    return quantize_int8(x, scale) if kind == "int8" else quantize_fp8(x, scale)


def fake_quantize(x: Array, scale: Scale, kind: QuantType) -> Floats:
    """Quantize and dequantize, in float32."""
    return quantize(x, scale, kind).astype(np.float32) * np.asarray(scale, np.float32)


def quantize_int4(x: Array, scale: Scale) -> Array:
    """round-half-even(x / scale), saturated to −8…7. `scale` broadcasts against `x`."""
    return np.clip(np.rint(np.asarray(x, np.float32) / scale), -8, 7).astype(ml_dtypes.int4)


def quantize_weight(w: Array, scale: Scale, kind: WeightType) -> Array:
    """Weights in storage form; int8 weights stay within ±127, so that negation is exact."""
    if kind == "int4":
        return quantize_int4(w, scale)
    return quantize_int8(w, scale, low=-127) if kind == "int8" else quantize_fp8(w, scale)


def weight_scales(w: Array, axis: int, kind: WeightType) -> Floats:
    """One scale per output channel: the channel's largest magnitude lands on the type's largest value.

    A channel of zeros gets scale 1, since a scale has to be positive.
    """
    others = tuple(i for i in range(w.ndim) if i != axis)
    peak = np.abs(w).max(axis=others).astype(np.float32)
    scale = np.where(peak > 0, peak / np.float32(QMAX[kind]), np.float32(1))
    return np.asarray(scale, np.float32)


def block_scales(w: Array, axis: int, block: int, kind: WeightType) -> Floats:
    """One scale for every `block` weights along `axis`: of the shape of `w` with that axis divided.

    A block of zeros gets scale 1.
    """
    shape = (*w.shape[:axis], w.shape[axis] // block, block, *w.shape[axis + 1 :])
    peak = np.abs(w.reshape(shape)).max(axis=axis + 1).astype(np.float32)
    return np.asarray(np.where(peak > 0, peak / np.float32(QMAX[kind]), np.float32(1)), np.float32)


def storable_scale(scale: Scale, stored_as: Carrier) -> Floats:
    """`scale` as a value that `stored_as` holds exactly, as float32; `TINIEST` or more.

    bf16 targets carry scales as bf16. T4 has none: its scales are bf16-exact values too, so that one table of
    scales serves both, carried as fp16 or, where fp16 would lose them, as fp32 (see `fits_fp16`).
    """
    exact = np.asarray(scale, np.float32) if stored_as == "fp32" else round_bf16(scale)
    return np.asarray(np.maximum(exact, np.float32(TINIEST)), np.float32)


def fits_fp16(scale: Scale) -> bool:
    """Whether float16 holds every one of these float32 values exactly, and as a positive number."""
    narrowed = round_fp16(scale)
    return bool(np.array_equal(narrowed, np.asarray(scale, np.float32)) and (narrowed > 0).all())
