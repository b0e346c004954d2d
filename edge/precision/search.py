"""The fastest plan that keeps its accuracy: which groups are quantized, to what.

The search stands on the path of plans (`path.py`), runs plans as a whole on held-out samples, and narrows
the path down by its noise until it has the fastest that will do. Where accuracy is cheap a plan has to use
little of what the gate allows; from there on it has to pass. The same inputs give the same plan; only a
budget of seconds that runs out can change it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edge.manifest import Accuracy
from edge.precision.path import Option, Path
from edge.precision.plan import Choice, Plan
from edge.precision.policy import Prefer

SHARE: Mapping[Prefer, float] = {"speed": 0.75, "balanced": 0.5, "accuracy": 0.25}
"""Part of the gate's `max_drop` that the search may use up: other samples will judge the engine."""
MOST_JUDGED = 8
"""Plans that are run as a whole."""
WORTH = 0.01
"""Part of the time that has to be there to be gained, for another plan to be run."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a plan is like as a whole, on the search's samples.

    Attributes:
        failures: what the gate objects to; empty if it passes.
        ample: whether it uses so little of what the gate allows that nothing finer need be looked at.
    """

    accuracy: Accuracy
    failures: tuple[str, ...]
    ample: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    """A plan that was run as a whole.

    Attributes:
        position: on the path, 0 for the fastest plan.
        noise: predicted by adding up.
        failures: what the gate objects to; empty if it passes.
    """

    position: int
    seconds: float
    noise: float
    accuracy: Accuracy
    failures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What the search came to.

    Attributes:
        options: every precision that was looked at, by group.
        path: seconds and noise of the plans from the fastest to the finest.
        judged: every plan that was run, in that order.
        passed: whether the chosen one passes the gate on the search's samples.
        note: what has to be said about it; usually nothing.
    """

    plan: Plan
    choices: Mapping[str, Choice]
    seconds: float
    carrier_seconds: float
    noise: float
    carrier_noise: float
    options: Mapping[str, Sequence[Option]]
    path: Sequence[tuple[float, float]]
    judged: tuple[Judged, ...]
    passed: bool
    note: str
    costs: str

    @property
    def speed_up(self) -> float:
        """Expected of the plan over everything in the carrier."""
        return self.carrier_seconds / self.seconds if self.seconds else 1.0


Judge = Callable[[Plan], Verdict]
"""Runs a plan as a whole on the search's samples."""


def search(path: Path, judge: Judge, seconds: float | None = None) -> Found:
    """The first plan on the path that will do; if none does, the best that was run.

    Args:
        seconds: after so many no further plan is judged.
    """
    walk = _Walk(path, judge, seconds)
    position = walk.first_that_will_do()
    if position is None:
        position = max(walk.judged, key=lambda p: _score(walk.judged[p]))
    passed = not walk.judged[position].failures
    choices = path.choices(position)
    _, cost, noise = path.points[position]
    others = path.costs.others
    return Found(
        plan=path.planner.plan(choices),
        choices=choices,
        seconds=cost + others,
        carrier_seconds=path.carrier_seconds + others,
        noise=noise,
        carrier_noise=path.carrier_noise,
        options=path.all_options,
        path=[(spent + others, left) for _, spent, left in path.points],
        judged=tuple(walk.judged.values()),
        passed=passed,
        note=f"the search stopped after {seconds:g} s" if walk.stopped else "",
        costs=path.costs.how,
    )


@dataclass
class _Walk:
    """One walk along a path, and every plan that was run on it."""

    path: Path
    judge: Judge
    seconds: float | None
    judged: dict[int, Judged] = field(default_factory=dict)
    begun: float = field(default_factory=time.perf_counter)
    stopped: bool = False
    """Whether time ran out with plans left to run."""

    def first_that_will_do(self) -> int | None:
        """The fastest plan that will do, taking it that what is finer than one of these does too.

        Of those where accuracy is cheap, an ample one will do; of the finer ones any that passes.
        """
        start, last = self.path.start(), len(self.path.points) - 1
        knee = max(self.path.knee(), start)
        low, high = start, last
        for position in dict.fromkeys((start, knee)):
            if self._will_do(position, knee):
                high = position
                break
            low = position
        while (middle := self._between(low, high)) is not None:
            if not self._may_run(1 if high in self.judged else 2):  # one is for the finest
                break
            if self._will_do(middle, knee):
                high = middle
            else:
                low = middle
        if high not in self.judged and self._may_run(1):
            self._run(high)
        return high if high in self.judged and not self.judged[high].failures else None

    def _between(self, low: int, high: int) -> int | None:
        """Where half of the noise is left, a quarter while no plan is known that will do; None if nothing
        between is worth a run."""
        points = self.path.points
        if high - low < 2 or points[high][0] - points[low][0] < WORTH * points[low][0]:
            return None
        left = 1 / 2 if high in self.judged else 1 / 4
        noise = points[high][2] + left * (points[low][2] - points[high][2])
        return min(range(low + 1, high), key=lambda p: (abs(points[p][2] - noise), p))

    def _will_do(self, position: int, knee: int) -> bool:
        verdict = self._run(position)
        return verdict.ample or (position >= knee and not verdict.failures)

    def _run(self, position: int) -> Verdict:
        verdict = self.judge(self.path.planner.plan(self.path.choices(position)))
        _, cost, noise = self.path.points[position]
        self.judged[position] = Judged(position, cost, noise, verdict.accuracy, verdict.failures)
        return verdict

    def _may_run(self, plans: int) -> bool:
        """Whether so many more plans may be run."""
        late = self.seconds is not None and time.perf_counter() - self.begun > self.seconds
        self.stopped = self.stopped or late
        return len(self.judged) + plans <= MOST_JUDGED and not late


def _score(judged: Judged) -> tuple[int, float, float]:
    """Best last: to how little the gate objects (metrics jump), the metric, then the noise."""
    this = judged.accuracy.this
    return (-len(judged.failures), this if this is not None else -math.inf, -judged.noise)
