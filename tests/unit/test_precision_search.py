"""The walk along a path of plans: which of them are run, and which is taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.manifest import Accuracy
from edge.precision.plan import Choice
from edge.precision.search import MOST_JUDGED, SHARE, Found, Verdict, search


@dataclass
class Line:
    """A path of `count` plans; plan n takes 1 + n seconds, has noise 1 / (1 + n) and is called n."""

    count: int
    knees: int = 0
    free: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    all_options: Mapping[str, Any] = field(default_factory=dict)
    carrier_noise: float = 0.01
    carrier_seconds: float = 1000.0

    @property
    def points(self) -> list[tuple[float, float, float]]:
        return [(1.0 + n, 1.0 + n, 1 / (1 + n)) for n in range(self.count)]

    @property
    def costs(self) -> Any:
        return SimpleNamespace(others=5.0, how="made up")

    @property
    def planner(self) -> Any:
        return SimpleNamespace(plan=lambda choices: int(choices["all"].precision))

    def start(self) -> int:
        return self.free

    def knee(self) -> int:
        return self.knees

    def choices(self, position: int) -> dict[str, Choice]:
        return {"all": Choice(str(position), "so")}


def found_by(
    line: Line,
    passes: Callable[[int], bool],
    ample: Callable[[int], bool] = lambda n: False,
    seconds: float | None = None,
    metric: Callable[[int], float | None] = float,
) -> tuple[Found, list[int]]:
    """What the search comes to, and the plans that it ran."""
    run: list[int] = []

    def judge(plan: Any) -> Verdict:
        run.append(plan)
        failures = () if passes(plan) else (f"plan {plan} is too coarse",)
        return Verdict(Accuracy(this=metric(plan)), failures, ample(plan))

    return search(line, judge, seconds), run  # type: ignore[arg-type]


class TestWhichPlan:
    def test_the_fastest_is_taken_if_it_is_ample(self) -> None:
        found, run = found_by(Line(40, knees=9), lambda n: True, ample=lambda n: True)
        assert found.plan == 0 and found.passed  # type: ignore[comparison-overlap]
        assert run == [0]

    def test_what_is_next_to_free_is_taken_unasked(self) -> None:
        found, run = found_by(Line(40, knees=9, free=2), lambda n: True, ample=lambda n: True)
        assert found.plan == 2  # type: ignore[comparison-overlap]
        assert run == [2]

    def test_where_accuracy_is_cheap_a_plan_has_to_be_ample(self) -> None:
        found, run = found_by(Line(40, knees=9), lambda n: True)
        assert found.plan == 9 and found.passed  # type: ignore[comparison-overlap]
        assert run[:2] == [0, 9]

    def test_the_fastest_of_the_ample_ones_is_found(self) -> None:
        found, run = found_by(Line(40, knees=9), lambda n: True, ample=lambda n: n >= 3)
        assert found.plan == 3  # type: ignore[comparison-overlap]
        assert len(run) <= MOST_JUDGED

    def test_noise_is_quartered_until_a_plan_will_do_and_then_halved(self) -> None:
        """It is 1 / (1 + n): a quarter of what plan 0 has more than plan 39 is left at 3, and so on."""
        _, run = found_by(Line(40), lambda n: n >= 9)
        assert run == [0, 3, 11, 5, 7, 9, 8]

    def test_no_run_is_spent_where_there_is_nothing_to_gain(self) -> None:
        """From plan 100 on neighbours differ by less than a hundredth."""
        found, run = found_by(Line(400, free=300, knees=302), lambda n: n >= 302)
        assert found.plan == 302 and run == [300, 302]  # type: ignore[comparison-overlap]

    def test_a_plan_at_the_knee_is_run_once_where_that_is_the_fastest(self) -> None:
        _, run = found_by(Line(40), lambda n: True)
        assert run == [0]

    @given(st.integers(1, 2000), st.data())
    def test_it_is_the_first_that_will_do_or_near_it(self, count: int, data: st.DataObject) -> None:
        knee = data.draw(st.integers(0, count - 1))
        ample = data.draw(st.integers(0, count - 1))
        first = data.draw(st.integers(0, ample))
        will_do = min(ample, max(knee, first))
        found, run = found_by(Line(count, knee), lambda n: n >= first, lambda n: n >= ample)
        assert found.passed and found.plan >= will_do  # type: ignore[operator]
        assert len(run) == len(set(run)) <= MOST_JUDGED
        others = [n for n in run if n < found.plan]  # type: ignore[operator]
        if len(run) < MOST_JUDGED:  # else the last ones of a bisection are not run
            assert all(n < will_do for n in others)
            nearest = max(others, default=0)
            assert found.plan - nearest < 2 or 1 + found.plan < 1.01 * (1 + nearest)  # type: ignore[operator]

    @given(st.integers(1, 2000), st.data())
    def test_the_finest_is_looked_at_before_it_gives_up(self, count: int, data: st.DataObject) -> None:
        knee = data.draw(st.integers(0, count - 1))
        found, run = found_by(Line(count, knee), lambda n: False, metric=lambda n: n)
        assert not found.passed and not found.note
        assert count - 1 in run and len(run) <= MOST_JUDGED
        assert found.plan == max(run)  # type: ignore[comparison-overlap]  # the best metric

    def test_of_equal_metrics_that_with_the_least_noise_is_the_best(self) -> None:
        found, _ = found_by(Line(30), lambda n: False, metric=lambda n: 0.5)
        assert found.plan == 29  # type: ignore[comparison-overlap]

    def test_a_plan_without_a_metric_is_never_the_best(self) -> None:
        found, run = found_by(Line(30), lambda n: False, metric=lambda n: None if n else 0.1)
        assert found.plan == 0 and len(run) > 1  # type: ignore[comparison-overlap]

    def test_one_that_passed_is_taken_where_finer_ones_do_not(self) -> None:
        """Metrics jump: the fastest plan passes, though not amply, and nothing from the knee on does."""
        found, run = found_by(Line(30, knees=4), lambda n: n == 0, metric=lambda n: 0.9 if n else 0.8)
        assert len(run) > 2
        assert found.plan == 0 and found.passed  # type: ignore[comparison-overlap]


def slow_clock(monkeypatch: pytest.MonkeyPatch, tick: float = 1.0) -> None:
    """Time passes whenever somebody looks at it."""
    begun, looks = time.perf_counter(), iter(range(1, 10**6))
    monkeypatch.setattr(time, "perf_counter", lambda: begun + tick * next(looks))


class TestBudget:
    def test_when_time_is_up_no_further_plan_is_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        slow_clock(monkeypatch)
        found, run = found_by(Line(200), lambda n: n >= 100, seconds=2.5)
        assert len(run) < 5
        assert found.note == "the search stopped after 2.5 s"

    def test_without_a_budget_nothing_is_said(self) -> None:
        found, _ = found_by(Line(200), lambda n: n >= 100)
        assert found.note == ""

    def test_one_that_ended_by_itself_was_not_stopped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """However long it took: there was nothing more to do."""
        slow_clock(monkeypatch, tick=100)
        found, run = found_by(Line(200, knees=1), lambda n: True, seconds=1.0)
        assert run == [0, 1] and found.passed
        assert found.note == ""

    def test_the_best_so_far_is_kept_when_time_is_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        slow_clock(monkeypatch)
        for seconds in (1.5, 2.5, 3.5, 4.5):
            found, run = found_by(Line(1000), lambda n: n >= 300, seconds=seconds)
            passing = [n for n in run if n >= 300]
            assert found.plan == (min(passing) if passing else max(run))  # type: ignore[comparison-overlap]
            assert found.passed is bool(passing) and found.note


class TestWhatIsTold:
    def test_times_are_of_the_whole_network(self) -> None:
        found, _ = found_by(Line(40, knees=9), lambda n: True)
        assert found.seconds == 10 + 5 and found.carrier_seconds == 1005
        assert found.speed_up == 67
        assert found.path[0] == (6, 1.0) and len(found.path) == 40
        assert found.noise == 1 / 10

    def test_every_plan_that_was_run_is_there_with_what_the_gate_said(self) -> None:
        found, run = found_by(Line(40, knees=9), lambda n: n >= 12)
        assert [j.position for j in found.judged] == run
        assert [bool(j.failures) for j in found.judged] == [n < 12 for n in run]
        assert found.choices["all"].precision == "12"

    def test_it_is_the_same_every_time(self) -> None:
        runs = [found_by(Line(300, knees=7), lambda n: n >= 123) for _ in range(2)]
        assert runs[0] == runs[1]

    def test_a_preference_for_accuracy_leaves_more_of_the_gate_unused(self) -> None:
        assert SHARE["speed"] > SHARE["balanced"] > SHARE["accuracy"] > 0
