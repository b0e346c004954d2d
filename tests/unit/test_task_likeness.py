"""How far results lie apart as each task sees it, and labels drawn from what a network believes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.preprocess import Placement
from edge.tasks import Sample, Task, classify, detect, image, likeness, segment

PLACE = Placement(64, 48, 1.0, 1.0, 0, 8, 64, 64)
"""A 64 × 48 picture in the middle of a 64 × 64 input."""
SAMPLE = Sample(Path("picture.jpg"))

seeds = st.integers(0, 10**6)


def random(seed: int) -> Any:
    return np.random.default_rng(seed)


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class TestMeasures:
    @given(seeds)
    def test_what_is_equal_is_not_apart(self, seed: int) -> None:
        p = softmax(random(seed).normal(0, 3, 10))
        assert likeness.categorical(p, p) == 0
        assert likeness.bernoulli(p, p).sum() == 0
        assert likeness.relative({"a": p}, {"a": p}) == 0

    @given(seeds)
    def test_what_differs_is_apart(self, seed: int) -> None:
        p, q = softmax(random(seed).normal(0, 2, (2, 10)))
        assert likeness.categorical(p, q) > 0
        assert (likeness.bernoulli(p, q) > 0).all()

    @given(seeds)
    def test_it_is_the_divergence_of_kullback_and_leibler(self, seed: int) -> None:
        p, q = softmax(random(seed).normal(0, 2, (2, 10)))
        assert likeness.categorical(p, q) == pytest.approx(float((p * np.log(p / q)).sum()), abs=1e-9)
        expected = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
        np.testing.assert_allclose(likeness.bernoulli(p, q), expected, atol=1e-12)

    @given(seeds, st.floats(1e-4, 3e-3))
    def test_small_errors_count_by_their_square(self, seed: int, size: float) -> None:
        """So that those of independent layers add up."""
        x, step = random(seed).normal(0, 1, (2, 10))
        once, twice = (likeness.categorical(softmax(x), softmax(x + k * size * step)) for k in (1, 2))
        assert twice / once == pytest.approx(4, rel=0.05)
        logistic = [
            likeness.bernoulli(1 / (1 + np.exp(-x)), 1 / (1 + np.exp(-x - k * size * step))).sum()
            for k in (1, 2)
        ]
        assert logistic[1] / logistic[0] == pytest.approx(4, rel=0.05)

    def test_independent_errors_add_up(self) -> None:
        draws = random(0)
        x = draws.normal(0, 1, (400, 10))
        a, b = draws.normal(0, 0.01, (2, 400, 10))
        alone = [likeness.categorical(softmax(x), softmax(x + e)) for e in (a, b)]
        assert likeness.categorical(softmax(x), softmax(x + a + b)) == pytest.approx(sum(alone), rel=0.1)
        parts = [likeness.relative({"x": x}, {"x": x + e}) for e in (a, b)]
        assert likeness.relative({"x": x}, {"x": x + a + b}) == pytest.approx(sum(parts), rel=0.1)

    def test_certainty_that_is_lost_is_finite(self) -> None:
        assert np.isfinite(likeness.categorical(np.array([1.0, 0.0]), np.array([0.0, 1.0])))
        assert np.isfinite(likeness.bernoulli(np.array([1.0, 0.0]), np.array([0.0, 1.0]))).all()

    def test_of_values_it_is_error_over_signal_for_each_output(self) -> None:
        a, b = np.float32([3, 4]), np.float32([0.5, 0])
        this = {"a": a + np.float32([1, 0]), "b": b}
        assert likeness.relative({"a": a, "b": b}, this) == pytest.approx(1 / 25)
        silent = {"z": np.zeros(2, np.float32)}
        assert likeness.relative(silent, {"z": np.float32([0.5, 0])}) == 0.25


def scores(seed: int = 0) -> dict[str, Any]:
    return {"out": random(seed).normal(0, 2, (1, 12)).astype(np.float32)}


def yolox(seed: int = 0, objects: int = 6) -> dict[str, Any]:
    """84 places of 64 × 64 pixels; a few of them see something of one of three classes."""
    draws = random(seed)
    raw = np.zeros((1, 84, 8), np.float32)
    raw[0, :, :4] = draws.normal(0, 0.2, (84, 4))
    raw[0, :, 2:4] += 1
    raw[0, :, 4] = 0.001
    seen = draws.choice(84, objects, replace=False)
    raw[0, seen, 4] = draws.uniform(0.5, 0.99, objects)
    raw[0, :, 5:] = draws.uniform(0.01, 0.99, (84, 3))
    return {"out": raw}


def heat(seed: int = 0) -> dict[str, Any]:
    return {"out": random(seed).uniform(0, 1, (1, 1, 16, 16)).astype(np.float32)}


def picture(seed: int = 0) -> dict[str, Any]:
    return {"out": random(seed).uniform(0, 1, (1, 3, 64, 64)).astype(np.float32)}


TASKS: dict[str, tuple[Task, Any]] = {
    "classify": (classify.create({}, "here"), scores),
    "detect": (detect.create({"decode": "yolox"}, "here"), yolox),
    "segment": (segment.create({}, "here"), heat),
    "image": (image.create({}, "here"), picture),
}


@pytest.mark.parametrize("kind", TASKS)
class TestDivergence:
    def test_of_equal_results_is_0(self, kind: str) -> None:
        task, results = TASKS[kind]
        assert task.divergence(results(), results(), PLACE) == 0

    def test_grows_with_the_square_of_small_errors(self, kind: str) -> None:
        task, results = TASKS[kind]
        before = results()
        step = random(1).normal(0, 1, before["out"].shape).astype(np.float32)
        if kind == "detect":
            step[..., 4:] *= before["out"][..., 4:] * 0.1  # scores stay probabilities
        found = [
            task.divergence(before, {"out": before["out"] + np.float32(k * 1e-3) * step}, PLACE)
            for k in (1, 2, 4)
        ]
        assert 0 < found[0] < found[1] < found[2]
        assert found[1] / found[0] == pytest.approx(4, rel=0.2) and found[2] / found[1] == pytest.approx(
            4, rel=0.2
        )

    def test_of_a_result_that_is_no_number_is_no_exception(self, kind: str) -> None:
        """A search leaves out what broke the network."""
        task, results = TASKS[kind]
        broken = {"out": np.full_like(results()["out"], np.nan)}
        with np.errstate(all="ignore"):
            value = task.divergence(results(), broken, PLACE)
        assert not value < 0


class TestDetections:
    task = TASKS["detect"][0]

    def apart(self, change: Any) -> float:
        before, after = yolox(), yolox()
        change(after["out"][0], int(before["out"][0, :, 4].argmax()))
        return self.task.divergence(before, after, PLACE)

    def test_what_is_seen_nowhere_does_not_count(self) -> None:
        def move_what_is_faint(raw: Any, best: int) -> None:
            raw[raw[:, 4] < 0.01, :4] += 5

        assert self.apart(move_what_is_faint) == 0

    def test_boxes_and_scores_count(self) -> None:
        def move(raw: Any, best: int) -> None:
            raw[best, 0] += 0.05

        def grow(raw: Any, best: int) -> None:
            raw[best, 2] += 0.05

        def doubt(raw: Any, best: int) -> None:
            raw[best, 4] *= 0.9

        assert all(self.apart(change) > 1e-5 for change in (move, grow, doubt))

    def test_an_object_that_is_lost_counts_more_than_one_that_moved(self) -> None:
        def lose(raw: Any, best: int) -> None:
            raw[best, 4] = 1e-3

        def move(raw: Any, best: int) -> None:
            raw[best, 0] += 0.05

        assert self.apart(lose) > 10 * self.apart(move)

    def test_one_that_appears_counts_as_well(self) -> None:
        def appear(raw: Any, best: int) -> None:
            raw[int(raw[:, 4].argmin()), 4] = 0.9

        assert self.apart(appear) > 0.5

    def test_a_box_without_measure_counts_as_lost_and_no_more(self) -> None:
        def explode(raw: Any, best: int) -> None:
            raw[best, 2:4] = 500  # exp overflows

        value = self.apart(explode)
        assert np.isfinite(value) and value <= 1.0

    def test_a_graph_that_ends_in_boxes_is_compared_value_by_value(self) -> None:
        task = detect.create({"decode": "boxes"}, "here")
        rows = {"out": random(0).uniform(0, 60, (1, 5, 6)).astype(np.float32)}
        other = {"out": rows["out"] * np.float32(1.01)}
        assert task.divergence(rows, other, PLACE) == pytest.approx(likeness.relative(rows, other))


class TestOthers:
    def test_padding_does_not_count(self) -> None:
        task = TASKS["image"][0]
        before, after = picture(), picture()
        after["out"][:, :, :8] += 1  # above the picture
        assert task.divergence(before, after, PLACE) == 0
        after["out"][:, :, 9] += 1
        assert task.divergence(before, after, PLACE) > 0

    def test_an_images_divergence_is_its_psnr(self) -> None:
        before, after = picture(), picture()
        after["out"] += np.float32(0.1)
        assert TASKS["image"][0].divergence(before, after, PLACE) == pytest.approx(0.01, rel=1e-4)

    def test_classes_are_compared_as_probabilities(self) -> None:
        """A number added to all scores changes nothing."""
        task = TASKS["classify"][0]
        moved = {"out": scores()["out"] + np.float32(3)}
        assert task.divergence(scores(), moved, PLACE) == pytest.approx(0, abs=1e-9)

    def test_masks_are_averaged_over_the_picture(self) -> None:
        """Twice as many cells do not make it twice as far apart."""
        task = TASKS["segment"][0]
        fine = [{"out": h["out"].repeat(2, 2).repeat(2, 3)} for h in (heat(0), heat(1))]
        coarse = task.divergence(heat(0), heat(1), PLACE)
        assert task.divergence(*fine, PLACE) == pytest.approx(coarse, rel=1e-5)


class TestBelieved:
    @pytest.mark.parametrize("kind", TASKS)
    def test_the_same_draw_gives_the_same_labels(self, kind: str) -> None:
        task, results = TASKS[kind]
        first, second = (task.believed(SAMPLE, results(), PLACE, random(7)) for _ in range(2))
        assert len(first) == len(second) >= 1
        for a, b in zip(first, second, strict=True):
            assert a.path == SAMPLE.path
            assert np.array_equal(a.label, b.label) if isinstance(a.label, np.ndarray) else a.label == b.label

    def test_classes_come_as_often_as_the_network_believes(self) -> None:
        task = classify.create({"scores": "probabilities"}, "here")
        share = np.float32([[0.6, 0.3, 0.1, 0.0]])
        drawn = [
            s.label for seed in range(60) for s in task.believed(SAMPLE, {"out": share}, PLACE, random(seed))
        ]
        found = np.bincount(drawn, minlength=4) / len(drawn)
        np.testing.assert_allclose(found, share[0], atol=0.03)

    def test_the_score_against_them_is_what_the_network_expects_of_itself(self) -> None:
        task = classify.create({"scores": "probabilities"}, "here")
        outputs = {"out": np.float32([[0.7, 0.2, 0.1]])}
        scorer = task.scorer()
        payload = task.score_payload(outputs, 0, PLACE)
        for seed in range(60):
            for sample in task.believed(SAMPLE, outputs, PLACE, random(seed)):
                scorer.add(sample, payload)
        assert scorer.value() == pytest.approx(70, abs=3)

    def test_objects_come_as_often_as_their_scores_say(self) -> None:
        task = TASKS["detect"][0]
        found = task.score_payload(yolox(), 0, PLACE)
        expected = float(found.scores.sum())  # type: ignore[attr-defined]
        drawn = [s.label for seed in range(40) for s in task.believed(SAMPLE, yolox(), PLACE, random(seed))]
        counts = [len(label.boxes) for label in drawn]
        assert np.mean(counts) == pytest.approx(expected, rel=0.1)
        names = [label.image["file_name"] for label in task_labels(task)]
        assert len(set(names)) == len(names)  # each is a picture of its own for COCO

    def test_they_can_be_scored(self) -> None:
        task = TASKS["detect"][0]
        pytest.importorskip("pycocotools")
        scorer = task.scorer()
        payload = task.score_payload(yolox(), 0, PLACE)
        for sample in task.believed(SAMPLE, yolox(), PLACE, random(0)):
            scorer.add(sample, payload)
        assert 0 < scorer.value() <= 100

    def test_masks_are_drawn_cell_by_cell(self) -> None:
        task = TASKS["segment"][0]
        outputs = heat()
        masks = [s.label for seed in range(200) for s in task.believed(SAMPLE, outputs, PLACE, random(seed))]
        assert masks[0].shape == (48, 64) and masks[0].dtype == np.uint8
        share = np.mean(masks, 0)
        inside = outputs["out"][0, 0, 2:14].repeat(4, 0).repeat(4, 1)  # 8 rows of padding above and below
        assert np.abs(share - inside).max() < 0.2 and abs(float((share - inside).mean())) < 0.01

    def test_a_restored_picture_is_its_own_label(self) -> None:
        assert TASKS["image"][0].believed(SAMPLE, picture(), PLACE, random(0)) == [SAMPLE]


def task_labels(task: Task) -> list[Any]:
    return [s.label for s in task.believed(SAMPLE, yolox(), PLACE, random(0))]


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_labels_are_plain_data(seed: int) -> None:
    """They are hashed and kept in files."""
    for label in task_labels(TASKS["detect"][0]):
        json.dumps([label.image, label.boxes, label.categories])
