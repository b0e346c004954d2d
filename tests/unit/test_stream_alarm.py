"""What raises a feed's alarm, and how long it lasts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from edge.stream.alarm import Alarm
from edge.stream.config import AlarmConfig
from edge.stream.network import Nothing
from edge.types import Image


@dataclass
class Found:
    """A finding with these classes."""

    scores: dict[str, float] = field(default_factory=dict)

    def found(self) -> dict[str, float]:
        return self.scores

    def to_json(self) -> dict[str, Any]:
        return {}

    def draw(self, image: Image) -> Image:
        return image


def test_a_class_that_is_found_raises_it_for_some_seconds() -> None:
    alarm = Alarm(AlarmConfig(classes=("person", "3"), seconds=10))
    assert not alarm.active(0.0)
    alarm.seen(Found({"3": 0.9}), 1.0)
    assert alarm.active(1.0) and alarm.active(10.9)
    assert not alarm.active(11.0)


@pytest.mark.parametrize("found", [{}, {"dog": 0.9}, {"person": 0.49}])
def test_other_classes_and_low_scores_do_not(found: dict[str, float]) -> None:
    alarm = Alarm(AlarmConfig(classes=("person",), score=0.5))
    alarm.seen(Found(found), 1.0)
    assert not alarm.active(1.0)


def test_even_a_score_of_zero_has_to_be_found() -> None:
    alarm = Alarm(AlarmConfig(classes=("person",), score=0.0))
    alarm.seen(Nothing(), 1.0)
    assert not alarm.active(1.0)
    alarm.seen(Found({"person": 0.0}), 1.0)
    assert alarm.active(1.0)


def test_the_last_trigger_counts() -> None:
    alarm = Alarm(AlarmConfig(classes=("person",), motion=0.1, seconds=10))
    alarm.seen(Found({"person": 0.9}), 0.0)
    alarm.moved(0.2, 8.0)
    alarm.seen(Found({"person": 0.9}), 5.0)  # a result that comes late
    assert alarm.active(17.9)
    assert not alarm.active(18.0)


def test_motion_raises_it_from_its_share_on() -> None:
    alarm = Alarm(AlarmConfig(motion=0.1))
    alarm.moved(0.09, 0.0)
    assert not alarm.active(0.0)
    alarm.moved(0.1, 0.0)
    assert alarm.active(0.0)


def test_motion_is_no_trigger_where_only_classes_are() -> None:
    alarm = Alarm(AlarmConfig(classes=("person",)))
    alarm.moved(1.0, 0.0)
    assert not alarm.active(0.0)


def test_a_network_that_looks_at_nothing_finds_nothing() -> None:
    assert Nothing().found() == {}
    assert np.array_equal(Nothing().draw(image := np.ones((2, 2, 3), np.uint8)), image)
