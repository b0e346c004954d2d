"""What a product reads, summed up: mean and second moment of the vectors its weights are multiplied with.

They tell how much an error in one weight costs, and how another weight can make up for it. The vectors of a
convolution are its patches; of large pictures an even selection of places is taken. Memory is one matrix a
product; products are taken in portions that stay within a budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edge.graph import Graph, attribute
from edge.precision.watch import Watch
from edge.types import Array

LONGEST = 4608
"""Longest dot product that is looked at (512 channels × 3 × 3): the matrix grows with its square."""
BUDGET = 192 << 20
"""Bytes that the matrices of one portion may take."""
VECTORS_PER_WEIGHT, FEWEST, MOST = 8, 4096, 65536
"""Vectors looked at for each weight of a dot product, and their bounds."""

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Of the vectors that one product's weights meet, for each of its groups.

    Attributes:
        count: vectors seen.
        mean: groups × K.
        second: groups × K × K, mean of x·xᵀ, not centred.
    """

    count: int
    mean: Doubles
    second: Doubles

    @property
    def finite(self) -> bool:
        """Whether the squares stayed within float32's range."""
        return bool(np.isfinite(self.second).all())

    @property
    def centred(self) -> Doubles:
        """Covariance: what is left to care for where a bias restores the mean."""
        return self.second - self.mean[:, :, None] * self.mean[:, None, :]


def depth(graph: Graph, node: onnx.NodeProto) -> tuple[int, int]:
    """Groups, and length of the dot products of a product with constant weights."""
    shape = graph.shape(node.input[1]) or ()
    if node.op_type == "Conv":
        return int(attribute(node, "group", 1)), prod(shape[1:])
    transposed = node.op_type == "Gemm" and attribute(node, "transB", 0)
    return 1, shape[-1] if transposed or len(shape) < 2 else shape[-2]


def portions(graph: Graph, bundles: Sequence[Sequence[onnx.NodeProto]]) -> list[list[list[onnx.NodeProto]]]:
    """Bundles of products (those that share weights) in portions that fit the budget; dot products that are
    too long are left out."""
    found: list[list[list[onnx.NodeProto]]] = []
    used = BUDGET + 1
    for bundle in bundles:
        groups, length = depth(graph, bundle[0])
        if length > LONGEST:
            continue
        size = 8 * groups * length * length * len(bundle)
        if used + size > BUDGET:
            found.append([])
            used = 0
        found[-1].append(list(bundle))
        used += size
    return found


def merged(parts: Sequence[Moments]) -> Moments:
    """Of several products with the same weights together."""
    count = sum(p.count for p in parts) or 1
    share = [p.count / count for p in parts]
    mean = sum((s * p.mean for s, p in zip(share, parts, strict=True)), np.zeros(()))
    second = sum((s * p.second for s, p in zip(share, parts, strict=True)), np.zeros(()))
    return Moments(count, np.asarray(mean), np.asarray(second))


def measure(
    graph: Graph,
    nodes: Sequence[onnx.NodeProto],
    samples: Iterable[Mapping[str, Array]],
    total: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Moments]:
    """Moments of each product over the samples, by node.

    Args:
        samples: one at a time, in an order that does not depend on anything but their content: sums of
            floats depend on it.
        total: how many there are.
    """
    watch = Watch(graph, {node.name: [node.input[0]] for node in nodes})
    sums = {node.name: _Sum(graph, node, total) for node in nodes}
    for index, feeds in enumerate(samples):
        for name, values in watch(feeds):
            (value,) = values.values()
            sums[name].add(value, index)
        progress(index + 1, total)
    return {name: s.moments() for name, s in sums.items()}


class _Sum:
    """Running sums for one product."""

    def __init__(self, graph: Graph, node: onnx.NodeProto, samples: int) -> None:
        self.node, self.shape = node, graph.shape(node.input[1]) or ()
        self.groups, self.depth = depth(graph, node)
        wanted = min(max(VECTORS_PER_WEIGHT * self.depth, FEWEST), MOST)
        self.each = ceil(wanted / max(samples, 1))
        self.count = 0
        self.total = np.zeros((self.groups, self.depth))
        self.squares = np.zeros((self.groups, self.depth, self.depth))

    def add(self, x: Array, index: int) -> None:
        for vectors in self._vectors(x, index):
            self.count += vectors.shape[2]
            self.total += vectors.sum(2, dtype=np.float64)
            with np.errstate(over="ignore"):  # then the moments are not finite
                self.squares += vectors @ vectors.transpose(0, 2, 1)

    def _vectors(self, x: Array, index: int) -> Iterator[NDArray[np.float32]]:
        """Groups × K × N, some of the sample's vectors."""
        if self.node.op_type == "Conv":
            for picture in x:
                found = patches(picture, self.node, self.shape, self.each, index)
                yield found.reshape(self.groups, self.depth, -1)
            return
        if self.node.op_type == "Gemm" and attribute(self.node, "transA", 0):
            x = x.T
        rows = x.reshape(-1, x.shape[-1])
        yield np.ascontiguousarray(rows[places(len(rows), self.each, index)].T)[None]

    def moments(self) -> Moments:
        count = max(self.count, 1)
        return Moments(self.count, self.total / count, self.squares / count)


def places(count: int, wanted: int, index: int) -> NDArray[np.intp]:
    """About `wanted` of `count` places, evenly spread and shifted a little from sample to sample."""
    if count <= wanted:
        return np.arange(count)
    shift = (index * 0.618034) % 1.0
    return np.asarray(((np.arange(wanted) + shift) * count / wanted).astype(np.intp))


def patches(
    picture: Array, node: onnx.NodeProto, weight_shape: Sequence[int], wanted: int, index: int
) -> NDArray[np.float32]:
    """Patches that a convolution multiplies: C × kernel × N, for about `wanted` of its output places.

    Args:
        picture: C × spatial sizes.
    """
    kernel, sizes = weight_shape[2:], picture.shape[1:]
    rank = len(kernel)
    strides = attribute(node, "strides", [1] * rank)
    dilations = attribute(node, "dilations", [1] * rank)
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    low, high = _pads(node, sizes, extent, strides)
    out = [(n + a + b - e) // s + 1 for n, a, b, e, s in zip(sizes, low, high, extent, strides, strict=True)]
    chosen = np.unravel_index(places(prod(out), wanted, index), out)
    taken: list[Any] = [slice(None)]
    inside = np.ones(1, np.bool_)
    for axis in range(rank):
        at = chosen[axis][:, None] * strides[axis] - low[axis] + np.arange(kernel[axis]) * dilations[axis]
        shape = [len(at), *[1] * rank]
        shape[axis + 1] = kernel[axis]
        inside = inside & ((at >= 0) & (at < sizes[axis])).reshape(shape)
        taken.append(at.clip(0, sizes[axis] - 1).reshape(shape))
    found = picture[tuple(taken)] * inside  # C × N × kernel, zeros where the patch lies in the padding
    return np.ascontiguousarray(np.moveaxis(found, 1, -1), np.float32)


def _pads(
    node: onnx.NodeProto, sizes: Sequence[int], extent: Sequence[int], strides: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Padding before and behind each spatial axis."""
    automatic = attribute(node, "auto_pad", b"NOTSET").decode()
    if not automatic.startswith("SAME"):
        pads = (
            attribute(node, "pads", [0] * 2 * len(sizes)) if automatic == "NOTSET" else [0] * 2 * len(sizes)
        )
        return list(pads[: len(sizes)]), list(pads[len(sizes) :])
    whole = [max((ceil(n / s) - 1) * s + e - n, 0) for n, s, e in zip(sizes, strides, extent, strict=True)]
    small, large = [w // 2 for w in whole], [w - w // 2 for w in whole]
    return (small, large) if automatic == "SAME_UPPER" else (large, small)
