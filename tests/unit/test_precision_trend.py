"""A metric that jumps, steadied by how far the outputs of all plans have moved."""

from __future__ import annotations

import random

import pytest

from edge.manifest import Accuracy
from edge.precision.trend import Trend

CARRIER = Accuracy(fp32=0.50, this=0.49, divergence=0.1)


def plan(beyond: float, loss: float) -> Accuracy:
    """Of a plan that moves outputs and loses so much more than the carrier does."""
    return Accuracy(fp32=0.50, this=0.49 - loss, divergence=0.1 + beyond)


def lost(accuracy: Accuracy) -> float:
    """Beyond the carrier."""
    assert accuracy.this is not None
    return 0.49 - accuracy.this


def test_the_first_plan_is_taken_at_its_word() -> None:
    assert lost(Trend(CARRIER).steadied(plan(1.0, 0.03))) == pytest.approx(0.03)


def test_a_plan_that_was_lucky_is_not_believed() -> None:
    trend = Trend(CARRIER)
    for beyond in (1.0, 0.8, 0.6):
        trend.steadied(plan(beyond, 0.1 * beyond))
    lucky = lost(trend.steadied(plan(0.5, 0.0)))
    assert 0.03 < lucky < 0.05


def test_of_many_jumping_plans_the_loss_is_found() -> None:
    numbers = random.Random(3)
    trend, errors, raw = Trend(CARRIER), [], []
    for _ in range(60):
        beyond = numbers.uniform(0.5, 1.0)
        jump = numbers.gauss(0, 0.02)
        steady = lost(trend.steadied(plan(beyond, 0.1 * beyond + jump)))
        errors.append(abs(steady - 0.1 * beyond))
        raw.append(abs(jump))
    assert sum(errors[10:]) < sum(raw[10:]) / 3


def test_plans_that_are_far_worse_say_nothing() -> None:
    """Where everything is lost already, more divergence costs no more."""
    trend = Trend(CARRIER)
    trend.steadied(plan(100.0, 0.4))
    assert lost(trend.steadied(plan(1.0, 0.1))) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "accuracy",
    [
        Accuracy(fp32=0.5, this=None, divergence=0.4),
        Accuracy(fp32=0.5, this=0.48, divergence=None),
        Accuracy(fp32=0.5, this=0.48, divergence=0.05),  # closer to fp32 than the carrier is
    ],
)
def test_what_there_is_no_trend_for_stays_as_it_is(accuracy: Accuracy) -> None:
    trend = Trend(CARRIER)
    trend.steadied(plan(1.0, 0.1))
    assert trend.steadied(accuracy) is accuracy
    assert len(trend.seen) == 1
