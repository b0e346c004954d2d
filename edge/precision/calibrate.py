"""Activation ranges: one streaming pass over the calibration samples, histograms in bounded memory.

A histogram's edge is a power of two that doubles when a larger value arrives, and doubling merges bins
pairwise. Short of underflow, scaling by powers of two is exact in binary floating point, so the counts are
the same as if the final edge had been known from the start: the result depends on the set of samples and not
on their order. Samples are run one at a time, so that it does not depend on a batch size either.
"""

from __future__ import annotations

import hashlib
import math
import uuid
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edge.errors import InputError, ModelError
from edge.precision import numerics
from edge.precision.numerics import QuantType
from edge.types import Array

BINS = 2048
"""Bins on each side of zero."""
SMALLEST_EDGE = -100
"""Exponent of the first edge: at −126 the bins' scale would leave float32."""
CHUNK = 1 << 15
"""Values counted at a time."""
CANDIDATES = 96
"""Clipping thresholds tried for each tensor."""

Progress = Callable[[int, int], None]


class Histogram:
    """Counts of one tensor's values in 2 · BINS equal bins over ±2^exponent, and their exact extremes."""

    def __init__(self) -> None:
        self.exponent = SMALLEST_EDGE
        self.counts = np.zeros(2 * BINS, np.int64)
        self.low = np.inf
        self.high = -np.inf

    def add(self, values: Array) -> None:
        """Count every value, in chunks that stay in the processor's cache.

        Raises:
            FloatingPointError: a value is NaN or infinite.
        """
        flat = values.ravel()
        scaled, index = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.intp)
        for start in range(0, flat.size, CHUNK):
            chunk = flat[start : start + CHUNK]
            self._widen(float(chunk.min()), float(chunk.max()))
            part, where = scaled[: chunk.size], index[: chunk.size]
            np.floor(np.multiply(chunk, np.float32(BINS / 2.0**self.exponent), out=part), out=part)
            where[:] = part
            where += BINS
            self.counts += np.bincount(where, minlength=2 * BINS)

    def _widen(self, low: float, high: float) -> None:
        if not (math.isfinite(low) and math.isfinite(high)):  # minimum and maximum pass NaN on
            raise FloatingPointError("NaN or infinity")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._reach(max(-low, high))

    def _reach(self, peak: float) -> None:
        """Double the edge until `peak` lies strictly inside it."""
        needed = int(np.frexp(peak)[1]) if peak > 0 else SMALLEST_EDGE
        while self.exponent < needed:
            shift = min(needed - self.exponent, BINS.bit_length())
            self.counts = _merge(self.counts, shift)
            self.exponent += shift

    @property
    def centers(self) -> NDArray[np.float32]:
        width = 2.0**self.exponent / BINS
        return ((np.arange(-BINS, BINS) + 0.5) * width).astype(np.float32)


def _merge(counts: NDArray[np.int64], shift: int) -> NDArray[np.int64]:
    """The same counts with an edge 2^shift times as far out."""
    index = np.arange(-BINS, BINS) >> shift
    merged = np.zeros_like(counts)
    np.add.at(merged, index + BINS, counts)
    return merged


@dataclass(frozen=True, slots=True)
class Range:
    """What was seen of one tensor, and the clipping thresholds with the least squared error.

    Attributes:
        low, high: exact extremes over all samples.
        int8, fp8: magnitude that maps to the type's largest value (symmetric).
        u8: (low, high) of the asymmetric uint8 range; contains zero.
    """

    low: float
    high: float
    int8: float
    fp8: float
    u8: tuple[float, float]

    @property
    def dead(self) -> bool:
        """Whether the tensor was zero throughout, so that no scale can be given."""
        return self.low == 0 == self.high


@dataclass(frozen=True, slots=True)
class Calibration:
    """Ranges by tensor name, and the hash of the graph and data they come from."""

    sha256: str
    samples: int
    ranges: Mapping[str, Range]

    def save(self, path: Path) -> None:
        names = np.array(list(self.ranges))
        table = np.array([(r.low, r.high, r.int8, r.fp8, *r.u8) for r in self.ranges.values()], np.float64)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex}.npz")
        np.savez(temporary, sha256=self.sha256, samples=self.samples, names=names, table=table)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path, sha256: str) -> Calibration | None:
        """The cached result, or None where there is none for this graph and data."""
        try:
            with path.open("rb") as file, np.load(file) as stored:
                if str(stored["sha256"]) != sha256:
                    return None
                rows = zip(stored["names"], stored["table"].tolist(), strict=True)
                ranges = {str(name): Range(a, b, c, d, (e, f)) for name, (a, b, c, d, e, f) in rows}
                return cls(sha256, int(stored["samples"]), ranges)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None  # absent, of another version, or broken off


def fingerprint(graph_sha256: str, files: Sequence[Path], settings: str) -> str:
    """Hash of everything that determines the ranges: graph, sample files (as a set), preprocessing."""
    digests = sorted(hashlib.sha256(f.read_bytes()).hexdigest() for f in files)
    return hashlib.sha256("\n".join((graph_sha256, settings, *digests)).encode()).hexdigest()


def calibrate(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    samples: Iterable[Mapping[str, Array]],
    total: int,
    sha256: str,
    progress: Progress = lambda done, total: None,
) -> Calibration:
    """Run the fp32 graph on every sample and choose a range for each of `tensors`.

    Raises:
        InputError: there is no sample.
        ModelError: a sample makes a tensor NaN or infinite; it is named.
    """
    run = observer(model, tensors)
    histograms = {name: Histogram() for name in tensors}
    done = 0
    for feeds in samples:
        for name, value in run(feeds).items():
            _count(histograms[name], name, value, done)
        done += 1
        progress(done, total)
    if not done:
        raise InputError("no calibration sample", "the set is empty", "give a folder of typical pictures")
    return Calibration(sha256, done, {name: choose(h) for name, h in histograms.items()})


def observer(
    model: onnx.ModelProto, tensors: Sequence[str]
) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """A function that runs the graph and gives the value of each of `tensors`."""
    import onnxruntime as ort

    watched = onnx.ModelProto.FromString(model.SerializeToString())
    fed = {i.name for i in watched.graph.input} & set(tensors)
    outputs = {o.name for o in watched.graph.output}
    inner = [name for name in tensors if name not in fed]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner if name not in outputs)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        values = dict(zip(inner, session.run(inner, dict(feeds)), strict=True)) if inner else {}
        return {name: feeds[name] if name in fed else values[name] for name in tensors}

    return run


def _count(histogram: Histogram, name: str, value: Array, sample: int) -> None:
    try:
        histogram.add(value)
    except FloatingPointError as e:
        raise ModelError(
            f"tensor '{name}' holds NaN or infinity for calibration sample {sample}",
            "the fp32 model itself gives it, so no range can be measured",
            "check the model and the preprocessing under [input] (scale, mean, std)",
        ) from e


def choose(h: Histogram) -> Range:
    """The thresholds with the least squared error over the histogram, for each type."""
    if h.low == 0 == h.high:
        return Range(0.0, 0.0, 0.0, 0.0, (0.0, 0.0))
    seen = np.flatnonzero(h.counts)
    x, weight = h.centers[seen], h.counts[seen].astype(np.float64)
    x = np.clip(x, np.float32(h.low), np.float32(h.high))  # a bin's centre may lie beyond the extremes
    return Range(
        h.low,
        h.high,
        _symmetric(x, weight, h, "int8"),
        _symmetric(x, weight, h, "fp8"),
        _asymmetric(x, weight, h),
    )


def _symmetric(x: Array, weight: Array, h: Histogram, kind: QuantType) -> float:
    peak = max(-h.low, h.high)
    thresholds = peak * np.geomspace(1.0, 1 / 16, CANDIDATES)

    def error(threshold: float) -> float:
        scale = np.float32(threshold / numerics.QMAX[kind])
        return float(weight @ np.square(numerics.fake_quantize(x, scale, kind) - x, dtype=np.float64))

    return float(min(thresholds, key=error))


def _asymmetric(x: Array, weight: Array, h: Histogram) -> tuple[float, float]:
    """Clip at ±threshold whatever reaches beyond it: a short negative tail (SiLU) is kept whole."""
    low, high = min(h.low, 0.0), max(h.high, 0.0)
    thresholds = max(-low, high) * np.geomspace(1.0, 1 / 16, CANDIDATES)

    def clipped(threshold: float) -> tuple[float, float]:
        return max(low, -threshold), min(high, threshold)

    def error(threshold: float) -> float:
        scale, zero_point = affine(*clipped(threshold))
        q = numerics.quantize_u8(x, scale, zero_point).astype(np.float32) - zero_point
        return float(weight @ np.square(q * scale - x, dtype=np.float64))

    return clipped(float(min(thresholds, key=error)))


def affine(low: float, high: float) -> tuple[np.float32, int]:
    """Scale and zero point of uint8 over `low`…`high`; real zero is a level of its own."""
    scale = np.float32((high - low) / 255) or np.float32(1)
    return scale, int(np.clip(np.rint(-low / scale), 0, 255))
