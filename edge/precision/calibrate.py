"""Activation ranges: one streaming pass over the calibration samples, histograms in bounded memory.

Samples are run one at a time and counts do not depend on order, so the result depends on the set of samples
and on nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from edge.errors import InputError, ModelError
from edge.graph import Graph
from edge.precision import kept
from edge.precision.histogram import BINS, Histogram
from edge.precision.ranges import Range, choose
from edge.precision.watch import Watch
from edge.tasks.samples import content_sha256
from edge.types import Array

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Ranges by tensor name, and the hash of the graph and data they come from."""

    sha256: str
    samples: int
    ranges: Mapping[str, Range]
    histograms: Mapping[str, Histogram]

    def save(self, path: Path) -> None:
        names = np.array(list(self.histograms))
        seen = list(self.histograms.values())
        numbers = {
            "sha256": np.array(self.sha256),
            "samples": np.array(self.samples),
            "names": names,
            "exponents": np.array([h.exponent for h in seen], np.int64),
            "extremes": np.array([(h.low, h.high) for h in seen], np.float64).reshape(-1, 2),
            "counts": np.array([h.counts for h in seen], np.int64).reshape(-1, 2 * BINS),
        }
        kept.save(path, numbers)

    @classmethod
    def load(cls, path: Path, sha256: str) -> Calibration | None:
        """The cached result, or None where there is none for this graph and data."""
        try:
            with path.open("rb") as file, np.load(file) as stored:
                if str(stored["sha256"]) != sha256 or stored["counts"].shape[1] != 2 * BINS:
                    return None
                rows = zip(
                    stored["names"], stored["exponents"].tolist(), stored["extremes"].tolist(), strict=True
                )
                counts = stored["counts"]
                histograms = {
                    str(name): Histogram.of(exponent, counts[index], low, high)
                    for index, (name, exponent, (low, high)) in enumerate(rows)
                }
                return cls.of(sha256, int(stored["samples"]), histograms)
        except kept.DAMAGED:
            return None  # absent, of another version, or broken off

    @classmethod
    def of(cls, sha256: str, samples: int, histograms: Mapping[str, Histogram]) -> Calibration:
        return cls(sha256, samples, {name: choose(h) for name, h in histograms.items()}, histograms)


def fingerprint(graph_sha256: str, files: Sequence[Path], settings: str) -> str:
    """Hash of everything that determines the ranges: graph, samples (as a set), preprocessing."""
    digests = sorted(content_sha256(f) for f in files)
    return hashlib.sha256("\n".join((graph_sha256, settings, *digests)).encode()).hexdigest()


def calibrate(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    samples: Iterable[Mapping[str, Array]],
    total: int,
    sha256: str,
    progress: Progress = lambda done, total: None,
    names: Sequence[str] = (),
) -> Calibration:
    """Run the fp32 graph on every sample and choose a range for each of `tensors`.

    Args:
        names: of the samples, for errors; else they are numbered.

    Raises:
        InputError: there is no sample.
        ModelError: a sample makes a tensor NaN or infinite; it is named.
    """
    watch = Watch(Graph(model), {name: [name] for name in tensors})
    histograms = {name: Histogram() for name in tensors}
    done = 0
    for feeds in apart(samples):
        for name, values in watch(feeds):
            _count(histograms[name], name, values[name], names[done] if names else f"sample {done}")
        done += 1
        progress(done, total)
    if not done:
        raise InputError("no calibration sample", "the set is empty", "give a folder of typical pictures")
    return Calibration.of(sha256, done, histograms)


def apart(samples: Iterable[Mapping[str, Array]]) -> Iterator[Mapping[str, Array]]:
    """Batches as samples of their own, so that a batch size changes nothing."""
    for feeds in samples:
        count = len(next(iter(feeds.values())))
        for index in range(count):
            yield {name: value[index : index + 1] for name, value in feeds.items()}


def _count(histogram: Histogram, name: str, value: Array, sample: str) -> None:
    try:
        histogram.add(value)
    except FloatingPointError as e:
        raise ModelError(
            f"tensor '{name}' holds NaN or infinity for calibration {sample}",
            "the fp32 model itself gives it, so no range can be measured",
            "check the model and the preprocessing under [input] (scale, mean, std)",
        ) from e
