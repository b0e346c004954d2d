"""What `edge.build.evidence` kept of an engine, read back."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A part of an engine's evidence. Keys of a later version are ignored."""

    model_config = ConfigDict(frozen=True)


class Noise(Part):
    """What quantizing one group alone to one type does (`edge.precision.sensitivity.GroupNoise`)."""

    noise: float


class Group(Part):
    """A fusible group: its share of the work, its precision and why, and what it costs in each type."""

    name: str
    kind: str = ""
    macs: int = 0
    precision: str
    reason: str = ""
    types: dict[str, Noise] = {}

    @property
    def worst(self) -> float:
        """Noise in the type that suits it least."""
        return max((n.noise for n in self.types.values() if math.isfinite(n.noise)), default=0.0)


class Judged(Part):
    """A plan that was run as a whole while searching."""

    position: int
    seconds: float
    noise: float
    metric: str = ""
    fp32: float | None = None
    this: float | None = None
    divergence: float | None = None
    failures: tuple[str, ...] = ()


class Trail(Part):
    """How a plan was searched (`edge.precision.search.Found`)."""

    noise: float
    costs: str = ""
    passed: bool = True
    note: str = ""
    judged: tuple[Judged, ...] = ()

    @cached_property
    def chosen(self) -> Judged | None:
        """The judged plan that became the engine: the one whose predicted noise is the plan's."""
        able = [j for j in self.judged if bool(j.failures) is not self.passed]
        return min(able, key=lambda j: abs(j.noise - self.noise), default=None)


class Tried(Part):
    """A clipping threshold that was tried, and the error it leaves."""

    method: str
    threshold: float
    error: float


class TensorRange(Part):
    """The histogram of a tensor and the thresholds tried for one type, the chosen one first."""

    name: str
    kind: str
    read_by: tuple[str, ...] = ()
    noise: float = 0.0
    tried: tuple[Tried, ...] = ()
    counts: tuple[int, ...] = ()
    edges: tuple[float, float]

    def clipped(self, threshold: float) -> float:
        """Share of the values beyond ±threshold, as finely as the bars tell."""
        width = (self.edges[1] - self.edges[0]) / max(len(self.counts), 1)
        centers = (self.edges[0] + (i + 0.5) * width for i in range(len(self.counts)))
        beyond = sum(n for c, n in zip(centers, self.counts, strict=True) if abs(c) > threshold)
        return beyond / max(sum(self.counts), 1)


class Shown(Part):
    """A sample the engine does badly on, and the files of its two pictures."""

    name: str
    divergence: float
    fp32: str = ""
    engine: str = ""


class Evidence(Part):
    """What `edge.build.evidence` kept of an engine."""

    key: str = ""
    groups: tuple[Group, ...] = ()
    search: Trail | None = None
    tensors: tuple[TensorRange, ...] = ()
    equalized: dict[str, float] = {}
    policy: dict[str, Any] = {}
    samples_used: dict[str, int] = {}
    divergences: tuple[tuple[str, float], ...] = ()
    samples: tuple[Shown, ...] = ()
