"""A metric and the chance in it."""

import dataclasses

import numpy as np
import pytest

from edge.build.scoring import FEWEST, FOLDS, Score, Scores, standard_error


class Mean:
    """Scores a sample by its payload."""

    def __init__(self):
        self.values = []

    def add(self, sample, payload):
        self.values.append(payload)

    def value(self):
        return float(np.mean(self.values)) if self.values else float("nan")


@dataclasses.dataclass
class Task:
    def scorer(self):
        return Mean()


def score(values, folds=True):
    scores = Scores(Task(), len(values), folds)
    for index, value in enumerate(values):
        scores.add(index, ["sample"], value)
    return scores.score()


def test_each_part_is_left_out_once():
    values = np.arange(2 * FOLDS, dtype=float)
    found = score(values)
    assert found.value == values.mean()
    assert found.without == tuple(np.delete(values, [f, f + FOLDS]).mean() for f in range(FOLDS))


def test_the_error_is_that_of_a_mean():
    """For a mean the jackknife's expectation is the textbook's standard error."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(200):
        fp32 = random.normal(0, 5, 160)
        this = fp32 - random.normal(0.3, 2.0, 160)
        found.append(standard_error(score(fp32), score(this)))
    assert np.sqrt(np.mean(np.square(found))) == pytest.approx(2.0 / np.sqrt(160), rel=0.1)


def test_engines_that_agree_have_no_error_however_much_samples_differ():
    values = np.random.default_rng(1).normal(0, 100, 64)
    assert standard_error(score(values), score(values - 0.5)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("count", [1, FEWEST - 1])
def test_too_few_samples_tell_nothing(count):
    values = np.ones(count)
    assert score(values).without == ()
    assert standard_error(score(values), score(values)) is None


def test_nothing_is_left_out_where_nobody_asks():
    assert score(np.ones(64), folds=False).without == ()


def test_a_metric_that_cannot_be_told_for_a_part_gives_no_error():
    broken = Score(0.5, (0.5,) * (FOLDS - 1) + (float("nan"),))
    assert standard_error(broken, Score(0.4, (0.4,) * FOLDS)) is None


def test_samples_with_several_labels_count_for_each():
    scores = Scores(Task(), FEWEST, True)
    for index in range(FEWEST):
        scores.add(index, ["a", "b", "c"], float(index))
    assert len(scores._whole.values) == 3 * FEWEST
    assert all(len(s.values) == 3 * (FEWEST - FEWEST // FOLDS) for s in scores._without)
