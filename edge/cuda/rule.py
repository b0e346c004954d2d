"""The rule of preprocessing, in NumPy: what `preprocess.cu` does to each pixel, in the same whole numbers.

It is the rule of `edge.preprocess`, which leaves the work to OpenCV. Written out here, it gives the kernel
its weights, and the tests a reference that does not depend on how OpenCV was built.

| step   | OpenCV's              | source (OpenCV 4, modules/imgproc/src)                        |
|--------|-----------------------|---------------------------------------------------------------|
| resize | INTER_LINEAR on uint8 | resize.cpp: HResizeLinear, VResizeLinear, weights of 11 bits   |
| colour | COLOR_YUV2BGR_NV12    | color_yuv.simd.hpp: BT.601, limited range, 20 bits             |
| grey   | COLOR_BGR2GRAY        | color_rgb.simd.hpp: BT.601 luma, 15 bits                       |

OpenCV resizes by exactly 1/2 with INTER_AREA. Its mean of four pixels, rounded half up, is what the weights
1024 and 1024 give, so that case needs no code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.config import InputConfig
from edge.errors import UsageError, nearest
from edge.preprocess import Fit
from edge.types import Array

Levels = NDArray[np.uint8]
Taps = NDArray[np.int32]
"""N × 4: first and second source pixel of an output column or row, and their weights in 1/2048."""

TAP = 4
"""Integers of a tap."""
_ONE = 2048


def column_taps(source: int, visible: slice, factor: float) -> Taps:
    """The taps of the `visible` columns of a resized picture. Outside the picture its outermost pixel counts.

    Args:
        source: width of the picture.
        factor: as given to the resize: not always the ratio of the two widths.
    """
    first, near, far = _weights(visible, factor)
    outside = (first < 0) | (first >= source - 1)
    near, far = np.where(outside, _ONE, near), np.where(outside, 0, far)
    first = np.clip(first, 0, source - 1)
    return _taps(first, np.where(outside, first, first + 1), near, far)


def row_taps(source: int, visible: slice, factor: float) -> Taps:
    """The taps of rows. Outside the picture both are its outermost row, with the weights they would have had:
    OpenCV keeps them, though two rounded weights need not sum to 1, and mends them for columns alone."""
    first, near, far = _weights(visible, factor)
    return _taps(np.clip(first, 0, source - 1), np.clip(first + 1, 0, source - 1), near, far)


def _weights(visible: slice, factor: float) -> tuple[NDArray[np.int64], Array, Array]:
    """The pixel at or before each output pixel's centre, its weight and that of the next one.

    Positions are computed in float64 and kept as float32, as OpenCV does.
    """
    centre = np.arange(visible.start, visible.stop) + 0.5
    position = (centre * (1.0 / factor) - 0.5).astype(np.float32)
    first = np.floor(position)
    part = position - first
    near, far = (np.rint(weight * np.float32(_ONE)) for weight in (np.float32(1) - part, part))
    return first.astype(np.int64), near, far


def _taps(*columns: Array) -> Taps:
    return np.stack(columns, axis=1).astype(np.int32)


def visible_taps(fit: Fit) -> tuple[Taps, Taps]:
    """Taps of the columns and of the rows that end up in the input."""
    place = fit.placement
    kept = (fit.width, fit.height) == (place.width, place.height)  # copied, though `crop` may name a factor
    factors = (1.0, 1.0) if kept else (place.scale_x, place.scale_y)
    columns = column_taps(place.width, fit.source[1], factors[0])
    return columns, row_taps(place.height, fit.source[0], factors[1])


def resize(picture: Levels, columns: Taps, rows: Taps) -> Levels:
    """H × W or H × W × C → len(rows) × len(columns) [× C]."""
    depth = [1] * (picture.ndim - 2)
    x0, x1, near, far = (side.reshape(-1, *depth) for side in columns.T)
    y0, y1, above, below = (side.reshape(-1, 1, *depth) for side in rows.T)

    def mixed(lines: Array) -> NDArray[np.int32]:
        wide = picture[lines.ravel()].astype(np.int32)
        return np.asarray((wide[:, x0.ravel()] * near + wide[:, x1.ravel()] * far) >> 4, np.int32)

    total = (mixed(y0) * above >> 16) + (mixed(y1) * below >> 16)
    return np.asarray((total + 2) >> 2, np.uint8)


def bgr_of_nv12(luma: Levels, chroma: Levels) -> Levels:
    """H × W luma and H/2 × W/2 × 2 chroma (U, V) → H × W × 3 BGR."""
    u, v = (chroma[:, :, i].repeat(2, 0).repeat(2, 1).astype(np.int32) - 128 for i in (0, 1))
    y = np.maximum(luma.astype(np.int32) - 16, 0) * 1220542 + (1 << 19)
    bgr = np.stack([y + 2116026 * u, y - 409993 * u - 852492 * v, y + 1673527 * v], axis=-1) >> 20
    return np.asarray(np.clip(bgr, 0, 255), np.uint8)


def grey_of_bgr(bgr: Levels) -> Levels:
    """H × W × 3 → H × W."""
    luma = bgr.astype(np.int32) @ np.array([3735, 19235, 9798]) + (1 << 14)
    return np.asarray(luma >> 15, np.uint8)


def preprocess(config: InputConfig, fit: Fit, picture: Levels, words: Array) -> Array:
    """The network's input: C × H × W in the type of `words`.

    Args:
        picture: H × W × 3 BGR or H × W grey.
        words: C × 256, see `words`.
    """
    visible = resize(picture, *visible_taps(fit))
    if visible.ndim == 3 and config.channels == 1:
        visible = grey_of_bgr(visible)
    if visible.ndim == 2:
        visible = np.repeat(visible[:, :, None], config.channels, axis=2)
    elif config.color == "rgb":
        visible = visible[:, :, ::-1]
    levels = np.full((config.channels, *config.size), config.pad, np.uint8)
    levels[:, fit.target[0], fit.target[1]] = visible.transpose(2, 0, 1)
    return np.stack([row[plane] for row, plane in zip(words, levels, strict=True)])


def words(table: NDArray[np.float32], dtype: str, scale: float = 1.0) -> Array:
    """C × 256 values of the network's input → the same in its own type, as unsigned integers of its size.

    Rounding is to nearest even. int8 and fp8 hold value / scale and saturate; float16 overflows to infinity,
    as a cast on the processor does.

    Args:
        dtype: float32, float16, bfloat16, int8 or float8_e4m3fn.
        scale: of a quantized input: the value of its step 1.

    Raises:
        UsageError: another type, or a scale that does not fit it.
    """
    from edge.precision import numerics  # the one definition of rounding; it brings onnx along

    precisions = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
    quantizers = {"int8": numerics.quantize_int8, "float8_e4m3fn": numerics.quantize_fp8}
    if dtype in quantizers:
        if not (np.isfinite(scale) and scale > 0):
            raise UsageError(f"an input scale of {scale}", "it must be a positive number", "check the engine")
        return _bits(quantizers[dtype](table, np.float32(scale)))
    if dtype not in precisions:
        raise UsageError(
            f"pictures cannot be preprocessed to {dtype} on the GPU",
            nearest(dtype, [*precisions, *quantizers]),
        )
    if scale != 1.0:
        raise UsageError(f"an input scale of {scale} for {dtype}", "only int8 and fp8 inputs have one")
    with np.errstate(over="ignore"):
        return _bits(table.astype(numerics.NUMPY[precisions[dtype]]))


def _bits(values: Any) -> Array:
    bits: Array = np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")
    return bits
