"""Weights in storage form: rounded one by one, or so that their errors cancel in what the layer writes.

The second way goes through the weights of each dot product in order of importance, rounds one, and shifts the
ones that are still to come by what makes up best for the error, given how the inputs vary together (OBQ,
Frantar & Alistarh 2022; GPTQ, Frantar et al. 2022). Here the inputs count as they will be read: with the
rounding noise of the activations on top, so that no weight relies on differences that noise will cover, and
centred where a bias restores the mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from edge.graph import attribute
from edge.precision import numerics
from edge.precision.compensation import StoredWeight, output_axis
from edge.precision.moments import Doubles, Moments
from edge.precision.numerics import Floats, WeightType
from edge.precision.plan import block_size, depth_axis
from edge.targets import Carrier, Target
from edge.types import Array

DAMPING = 0.01
"""Added to every input's variance, as a part of the mean one: what is not seen is not relied upon."""
FACTORS = {
    "int8": np.linspace(1.0, 0.6, 17),
    "int4": np.linspace(1.0, 0.5, 21),
    "fp8": 2.0 ** (np.arange(16) / 16),
}
"""Scales that are tried, as parts of the one that keeps the largest weight. Integers gain from clipping; the
steps of fp8 double at powers of two, and it gains from where these lie."""
RIDGES = (0.0, 1e-6, 1e-4, 1e-2, 1.0)
"""Added to the diagonal where a matrix has no root otherwise, as parts of its largest value."""
PANEL = 128
"""Weights of a dot product that are finished before the rest is brought up to date."""


def round_weight(node: onnx.NodeProto, value: Array, precision: str, target: Target) -> StoredWeight:
    """Weights rounded one by one; the largest of each channel or block lands on the type's largest value."""
    kind = numerics.STORED_AS[precision]
    exact: Carrier = "bf16" if target.bf16_exact_scales else "fp32"
    if precision == "w4a16":
        axis, block = depth_axis(node, value.ndim), block_size(node, value.shape)
        scales = numerics.block_scales(value, axis, block, kind)
        return stored_weight(value, numerics.storable_scale(scales, exact), axis, precision, block)
    axis = output_axis(node, value.ndim)
    scales = numerics.storable_scale(numerics.weight_scales(value, axis, kind), exact)
    return stored_weight(value, scales, axis, precision)


def stored_weight(value: Array, scales: Floats, axis: int, precision: str, block: int = 0) -> StoredWeight:
    """`value` rounded one by one to multiples of these scales."""
    if block:
        spread = np.repeat(scales, block, axis)
    else:
        shape = [1] * value.ndim
        shape[axis] = -1
        spread = scales.reshape(shape)
    stored = numerics.quantize_weight(value, spread, numerics.STORED_AS[precision])
    return StoredWeight(stored, scales, axis, block)


def coarser(weight: StoredWeight, value: Array, least: Floats, precision: str) -> StoredWeight:
    """Channels whose scale is below `least` rounded one by one to that; the others stay as they are."""
    scales = np.maximum(weight.scales, least)
    rounded = stored_weight(value, scales, weight.axis, precision).values
    raised = np.expand_dims(scales > weight.scales, [a for a in range(value.ndim) if a != weight.axis])
    return StoredWeight(np.where(raised, rounded, weight.values), scales, weight.axis)


@dataclass(frozen=True, slots=True)
class InputNoise:
    """Rounding noise of what a product reads, mean squared.

    Attributes:
        absolute: the same for every value (int8).
        relative: as a part of each value's own square (fp8).
    """

    absolute: float = 0.0
    relative: float = 0.0


QUIET = InputNoise()


def compensate(
    node: onnx.NodeProto,
    value: Array,
    precision: str,
    moments: Moments,
    noise: InputNoise = QUIET,
    has_bias: bool = True,
) -> StoredWeight:
    """Weights whose rounding errors cancel.

    Args:
        value: the weights, float32, of a convolution or of a single matrix.
        has_bias: whether the mean of the output can be restored (`mean_shift`); without that the errors have
            to cancel in it, too.
    """
    kind = numerics.STORED_AS[precision]
    rows = to_rows(node, value)  # groups × outputs × K
    importance = moments.centred if has_bias else moments.second
    importance = _damped(importance, moments, noise, rows.shape[2])
    block = block_size(node, value.shape) if precision == "w4a16" else 0
    scales = search_scales(rows, np.diagonal(importance, axis1=1, axis2=2), kind, block)
    spread = np.repeat(scales, block, 2) if block else np.broadcast_to(scales, rows.shape)
    values = from_rows(node, feed_back(rows, spread, importance, kind), value.shape)
    if block:
        axis = depth_axis(node, value.ndim)
        blocks = np.ascontiguousarray(scales[0] if axis == 1 else scales[0].T)
        return StoredWeight(values, blocks, axis, block)
    return StoredWeight(values, scales.reshape(-1), output_axis(node, value.ndim))


def mean_shift(node: onnx.NodeProto, value: Array, weight: StoredWeight, moments: Moments) -> Floats:
    """What has to be added to each output channel to keep its mean in spite of rounded weights."""
    error = to_rows(node, value - weight.dequantized())
    shift = np.einsum("gok,gk->go", error.astype(np.float64), moments.mean)
    return np.asarray(shift.reshape(-1), np.float32)


def _damped(importance: Doubles, moments: Moments, noise: InputNoise, length: int) -> Doubles:
    """With noise and damping on the diagonal; an input that never varied keeps a little importance."""
    out: Doubles = importance.copy()
    diagonal = np.einsum("gkk->gk", out)
    mean = diagonal.mean(1, keepdims=True)
    few = max(1.0, 4 * length / max(moments.count, 1))  # fewer vectors than weights: rely on less
    diagonal += noise.relative * np.einsum("gkk->gk", moments.second) + noise.absolute
    diagonal += DAMPING * few * np.where(mean > 0, mean, 1.0)
    return out


def to_rows(node: onnx.NodeProto, value: Array) -> Floats:
    """Weights as groups × outputs × K."""
    if node.op_type == "Conv":
        groups = int(attribute(node, "group", 1))
        return np.ascontiguousarray(value.reshape(groups, value.shape[0] // groups, -1), np.float32)
    if output_axis(node, value.ndim) == 0 and value.ndim > 1:
        return np.ascontiguousarray(value[None], np.float32)
    return np.ascontiguousarray(value.reshape(value.shape[0], -1).T[None], np.float32)


def from_rows(node: onnx.NodeProto, rows: Array, shape: tuple[int, ...]) -> Array:
    """The reverse of `to_rows`."""
    if node.op_type == "Conv":
        return np.ascontiguousarray(rows.reshape(shape))
    upright = output_axis(node, len(shape)) == 0 and len(shape) > 1
    return np.ascontiguousarray((rows[0] if upright else rows[0].T).reshape(shape))


def search_scales(rows: Floats, importance: Doubles, kind: WeightType, block: int = 0) -> Floats:
    """The scale with the least weighted squared error, of `FACTORS`; exact in bf16.

    Args:
        importance: groups × K, of each input.

    Returns:
        Groups × outputs × 1, or × blocks.
    """
    parts = rows.reshape(*rows.shape[:2], -1, block or rows.shape[2])
    weight = importance.reshape(importance.shape[0], 1, -1, parts.shape[3])
    peak = np.abs(parts).max(3, keepdims=True)
    peak = np.where(peak > 0, peak, np.float32(numerics.QMAX[kind]))
    best, least = np.ones_like(peak), np.full(peak.shape, np.inf)
    for factor in FACTORS[kind]:
        scale = numerics.round_bf16(peak * np.float32(factor / numerics.QMAX[kind]))
        scale = np.maximum(scale, np.float32(numerics.TINIEST))
        error = numerics.quantize_weight(parts, scale, kind).astype(np.float32) * scale - parts
        found = (np.square(error, dtype=np.float64) * weight).sum(3, keepdims=True)
        best, least = np.where(found < least, scale, best), np.minimum(found, least)
    return np.asarray(best[..., 0], np.float32)


def feed_back(rows: Floats, scales: Floats, importance: Doubles, kind: WeightType) -> Array:
    """Rounded weights whose errors cancel.

    Args:
        rows, scales: groups × outputs × K.
        importance: groups × K × K, positive definite.
    """
    order = np.argsort(-np.einsum("gkk->gk", importance), axis=1, kind="stable")
    index = np.arange(len(rows))[:, None, None]
    upper = _inverse_root(importance[index, order[:, :, None], order[:, None, :]])
    left = np.take_along_axis(rows.astype(np.float64), order[:, None, :], 2)
    steps = np.take_along_axis(scales, np.broadcast_to(order[:, None, :], rows.shape), 2)
    out = np.empty(rows.shape, numerics.NUMPY[kind])
    length = rows.shape[2]
    for start in range(0, length, PANEL):
        end = min(start + PANEL, length)
        errors = np.empty((*rows.shape[:2], end - start))
        for k in range(start, end):
            step = steps[:, :, k]
            out[:, :, k] = numerics.quantize_weight(left[:, :, k], step, kind)
            error = (left[:, :, k] - out[:, :, k].astype(np.float32) * step) / upper[:, k, k, None]
            errors[:, :, k - start] = error
            left[:, :, k + 1 : end] -= error[:, :, None] * upper[:, None, k, k + 1 : end]
        left[:, :, end:] -= errors @ upper[:, start:end, end:]
    back = np.argsort(order, axis=1, kind="stable")
    return np.take_along_axis(out, np.broadcast_to(back[:, None, :], rows.shape), 2)


def _inverse_root(matrix: Doubles) -> Doubles:
    """Upper triangular U with UᵀU = matrix⁻¹: row k tells how the weights behind k make up for its error.

    Inputs that hardly vary around a large mean leave a matrix of rounding errors: more is then added to its
    diagonal, until it has a root.
    """
    largest = np.abs(matrix).max(axis=(1, 2), keepdims=True)
    for share in RIDGES:
        try:
            steady = matrix + share * largest * np.eye(matrix.shape[1])
            root: Doubles = np.linalg.cholesky(np.linalg.inv(steady)).transpose(0, 2, 1)
        except np.linalg.LinAlgError:
            continue
        if np.isfinite(root).all():
            return root
    return np.broadcast_to(np.eye(matrix.shape[1]), matrix.shape)
