"""Raw detector outputs → boxes, against plain loops and against COCO's own evaluation."""

import json
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.config import SamplesConfig
from edge.errors import InputError, MissingPackage, ModelError
from edge.preprocess import Placement
from edge.tasks.decode import grid
from edge.tasks.detect import create
from edge.tasks.nms import suppress

PLACE = Placement(640, 480, 0.1, 0.1, 0, 8, 64, 64)
"""A 640 × 480 picture in the middle of a 64 × 64 input."""


def task(**options):
    return create({"decode": "yolox", **options}, "here")


def greedy(boxes, scores, classes, overlap, limit):
    """The textbook loop, in exact fractions of what it is given."""
    boxes = boxes.astype(np.float64)
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if not np.isnan(scores[i]) and all(
            classes[i] != classes[j] or iou(boxes[i], boxes[j]) <= overlap for j in kept
        ):
            kept.append(i)
    return kept[:limit]


def iou(a, b):
    """Intersection over union; a box without area has nothing in common with any."""
    width, height = max(0, min(a[2], b[2]) - max(a[0], b[0])), max(0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    return shared / (area(a) + area(b) - shared) if shared else 0


def area(box):
    return max(0, box[2] - box[0]) * max(0, box[3] - box[1])


def candidates(count, kinds, seed, spread=40, broken=False):
    """Boxes on whole pixels, scores with ties; some of them without area, inside out or without a score."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, spread, (count, 2))
    boxes = np.concatenate([corner, corner + rng.integers(1, 30, (count, 2))], 1).astype(np.float32)
    scores = rng.integers(0, 50, count).astype(np.float32) / 50
    if broken:
        flat, turned, unscored = rng.random((3, count)) < 0.1
        boxes[flat, 2] = boxes[flat, 0]
        boxes[turned] = boxes[turned][:, [2, 1, 0, 3]]
        scores[unscored] = np.nan
    return boxes, scores, rng.integers(0, kinds, count)


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(0, 300),
    kinds=st.integers(1, 4),
    overlap=st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]),
    limit=st.sampled_from([1, 20, 300]),
    broken=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_suppression_in_rounds_is_the_greedy_loop(count, kinds, overlap, limit, broken, seed):
    found = candidates(count, kinds, seed, broken=broken)
    assert suppress(*found, overlap, limit).tolist() == greedy(*found, overlap, limit)


@settings(deadline=None, max_examples=15)
@given(
    objects=st.sampled_from([1, 5, 30]),
    kinds=st.integers(1, 2),
    same_score=st.booleans(),
    broken=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_crowds_are_suppressed_as_the_greedy_loop_does_it(objects, kinds, same_score, broken, seed):
    """More candidates than are looked at in the first round, many on each of a few things."""
    rng = np.random.default_rng(seed)
    _, scores, classes = candidates(1500, kinds, seed, broken=broken)
    boxes = candidates(objects, 1, seed, spread=600)[0][rng.integers(0, objects, 1500)]
    boxes = boxes * 4 + rng.integers(-4, 5, boxes.shape)
    scores[:] = 0.5 if same_score else scores
    boxes = boxes.astype(np.float32)
    assert suppress(boxes, scores, classes, 0.45, 100).tolist() == greedy(boxes, scores, classes, 0.45, 100)


@pytest.mark.parametrize("value", [3e38, -3e38])
def test_boxes_that_reach_beyond_all_measure_are_compared_without_complaint(value):
    boxes, scores, classes = candidates(600, 1, seed=1)
    boxes[::7, 2:] = value
    kept = suppress(boxes, scores, classes, 0.45, 600)
    assert len(set(kept.tolist())) == len(kept) and (np.diff(scores[kept]) <= 0).all()


def test_a_chain_of_overlaps_longer_than_a_block_is_resolved_exactly():
    """Each box removes only its neighbour, so every second one stays: the slowest case."""
    left = np.arange(400, dtype=np.float32)
    boxes = np.stack([left, left * 0, left + 1.9, left * 0 + 1], 1)
    kept = suppress(boxes, -left, np.zeros(400, np.intp), 0.1, 400)
    assert kept.tolist() == list(range(0, 400, 2))


def yolox_by_hand(raw, size, strides):
    """YOLOX's demo_postprocess as a loop over cells."""
    cells = [(x, y, s) for s in strides for y in range(size // s) for x in range(size // s)]
    for (x, y, s), row in zip(cells, raw, strict=True):
        cx, cy, w, h = (row[0] + x) * s, (row[1] + y) * s, np.exp(row[2]) * s, np.exp(row[3]) * s
        yield (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), row[4] * row[5:]


def test_yolox_grids_are_decoded_cell_by_cell():
    rng = np.random.default_rng(0)
    raw = rng.normal(0, 0.3, (64 + 16 + 4, 8)).astype(np.float32)
    raw[:, 4:] = rng.random((84, 4))
    found = task(overlap=1.0, confidence=0.4).postprocess({"out": raw[None]}, 0, PLACE)
    want = sorted(
        ((score.max(), int(score.argmax()), box) for box, score in yolox_by_hand(raw, 64, (8, 16, 32))),
        reverse=True,
    )
    want = [entry for entry in want if entry[0] > 0.4]
    assert len(want) > 5
    np.testing.assert_allclose(found.scores, [score for score, _, _ in want], rtol=1e-6)
    assert found.classes.tolist() == [index for _, index, _ in want]
    boxes = np.array([box for _, _, box in want])
    boxes = np.clip((boxes - [0, 8, 0, 8]) / 0.1, 0, [640, 480, 640, 480])
    np.testing.assert_allclose(found.boxes, boxes, rtol=1e-4, atol=1e-2)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), likely=st.sampled_from([0, 3, 84]), confidence=st.sampled_from([0.0, 0.4]))
def test_both_layouts_give_each_candidate_its_best_class(seed, likely, confidence):
    """Against a loop over candidates; of equal classes the first counts."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (84, 3)).astype(np.float32) / 10
    scores[rng.permutation(84)[:likely]] += 0.5
    centre, size = rng.integers(8, 56, (84, 2)), rng.integers(1, 16, (84, 2))
    want = []
    for i in range(84):
        if scores[i].max() > confidence:
            corners = [*(centre[i] - size[i] / 2), *(centre[i] + size[i] / 2)]
            want.append((-float(scores[i].max()), i, int(scores[i].argmax()), corners))
    want.sort()
    cells, strides = grid((64, 64), (8, 16, 32))
    grown = [centre / strides - cells, np.log(size / strides), np.ones((84, 1)), scores]
    layouts = {
        "yolox": np.concatenate(grown, 1)[None].astype(np.float32),
        "yolov8": np.concatenate([centre, size, scores], 1).T[None].astype(np.float32),
    }
    plain = Placement(64, 64, 1, 1, 0, 0, 64, 64)
    for decode, raw in layouts.items():
        this = task(decode=decode, overlap=1.0, confidence=confidence, max_detections=84)
        found = this.postprocess({"out": raw}, 0, plain)
        assert found.classes.tolist() == [index for _, _, index, _ in want]
        assert found.scores.tolist() == [-score for score, _, _, _ in want]
        if want:
            boxes = np.clip([corners for *_, corners in want], 0, 64)
            np.testing.assert_allclose(found.boxes, boxes, atol=1e-3)


@pytest.mark.parametrize("decode", ["yolox", "yolov8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_candidate_that_is_no_number_is_left_out_and_the_others_stay(decode, value):
    raw = np.zeros((84, 7), np.float32)
    raw[:, 0] = np.arange(84)  # yolov8: apart from each other, inside the picture
    raw[:, 1:4] = 30, 1, 1
    raw[[3, 40], 4:6] = 0.9
    if decode == "yolov8":
        raw = np.delete(raw, 4, 1).T.copy()
    else:
        raw[:, :4] = 0
    sound = task(decode=decode).postprocess({"out": raw[None]}, 0, PLACE)
    assert len(sound.boxes) == 2
    for row in range(6 if decode == "yolox" else 5):  # its box and best score
        broken = raw.copy()
        broken[(40, row) if decode == "yolox" else (row, 40)] = value
        found = task(decode=decode).postprocess({"out": broken[None]}, 0, PLACE)
        without_size = decode == "yolox" and value == -np.inf and row in (2, 3)  # exp(−∞) = 0
        assert len(found.boxes) == (2 if without_size else 1)
        assert np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()


def test_yolov8_outputs_are_decoded():
    raw = np.zeros((1, 4 + 2, 5), np.float32)
    raw[0, :, 3] = (20, 28, 10, 4, 0.1, 0.7)
    found = task(decode="yolov8").postprocess({"out": raw}, 0, PLACE)
    np.testing.assert_allclose(found.boxes, [[150, 180, 250, 220]], rtol=1e-5)
    assert found.classes.tolist() == [1]


def test_decoded_boxes_are_taken_as_they_are():
    """The graph did its own suppression: overlapping boxes stay."""
    raw = np.float32([[[10, 18, 20, 28, 0.9, 2], [10, 18, 21, 28, 0.8, 2], [0, 0, 5, 5, 0.1, 0]]])
    found = task(decode="boxes").postprocess({"out": raw}, 0, PLACE)
    assert found.scores.tolist() == pytest.approx([0.9, 0.8])
    np.testing.assert_allclose(found.boxes[0], [100, 100, 200, 200], rtol=1e-5)


def test_boxes_end_at_the_edge_of_the_picture():
    raw = np.float32([[[-30, -30, 90, 90, 0.9, 0]]])
    found = task(decode="boxes").postprocess({"out": raw}, 0, PLACE)
    assert found.boxes.tolist() == [[0, 0, 640, 480]]


def test_a_result_line_names_class_score_and_box():
    raw = np.float32([[[10, 18, 20, 28, 0.9, 1]]])
    found = task(decode="boxes", labels=["cat", "dog"]).postprocess({"out": raw}, 0, PLACE)
    entry = {"box": [100.0, 100.0, 200.0, 200.0], "score": 0.9, "class": 1, "name": "dog"}
    assert found.to_json() == {"detections": [entry]}


def test_what_was_found_is_told_by_name_with_the_best_score_of_each_class():
    raw = np.float32([[[10, 18, 20, 28, 0.9, 1], [30, 18, 40, 28, 0.8, 1], [0, 8, 5, 15, 0.5, 2]]])
    found = task(decode="boxes", labels=["cat", "dog"]).postprocess({"out": raw}, 0, PLACE)
    assert found.found() == pytest.approx({"dog": 0.9, "2": 0.5})


def test_nothing_found_is_an_empty_list():
    found = task().postprocess({"out": np.zeros((1, 84, 7), np.float32)}, 0, PLACE)
    assert found.to_json() == {"detections": []}
    assert found.found() == {}
    image = np.full((480, 640, 3), 9, np.uint8)
    assert np.array_equal(found.draw(image), image)


@pytest.mark.parametrize(
    ("decode", "shape", "why"),
    [("yolox", (1, 85, 7), "84×"), ("yolov8", (1, 4, 9), "4 rows"), ("boxes", (1, 9, 5), "5 columns")],
)
def test_an_output_that_does_not_fit_the_decoder_is_explained(decode, shape, why):
    with pytest.raises(ModelError, match=why):
        task(decode=decode).postprocess({"out": np.zeros(shape, np.float32)}, 0, PLACE)


@pytest.fixture
def evaluation(tmp_path):
    """Two labelled pictures and one without labels; category ids with a gap, as COCO's own."""
    for name in ("a.png", "b.png", "c.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((48, 64, 3), np.uint8))
    boxes = [(1, 3, [10, 10, 30, 20]), (2, 3, [0, 0, 64, 48]), (2, 7, [5, 5, 20, 20])]
    annotations = [
        {
            "id": i + 1,
            "image_id": image,
            "category_id": kind,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for i, (image, kind, box) in enumerate(boxes)
    ]
    content = {
        "images": [
            {"id": i + 1, "file_name": n, "width": 64, "height": 48} for i, n in enumerate(("a.png", "b.png"))
        ],
        "annotations": annotations,
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content))
    return SamplesConfig(images=tmp_path, labels=path)


def score(evaluation, change=lambda row: row):
    """AP of a detector that answers with the labels, changed."""
    this = task(decode="boxes")
    scorer, place = this.scorer(), Placement(64, 48, 1, 1, 0, 0, 64, 64)
    for sample in this.samples(evaluation):
        rows = []
        for label in sample.label.boxes if sample.label else ():
            x, y, w, h = label["bbox"]
            rows.append(change([x, y, x + w, y + h, 0.9, {3: 0, 7: 1}[label["category_id"]]]))
        output = np.array(rows or np.zeros((0, 6)), np.float32)[None]
        scorer.add(sample, this.score_payload({"out": output}, 0, place))
    return scorer.value()


def test_the_labels_themselves_score_100(evaluation, capfd):
    assert score(evaluation) == pytest.approx(100)
    assert capfd.readouterr().out == ""


def test_wrong_classes_and_empty_answers_score_0(evaluation):
    assert score(evaluation, lambda row: [*row[:5], 1 - row[5]]) == 0
    assert score(evaluation, lambda row: [*row[:4], 0.0, row[5]]) == 0


def test_scoring_counts_boxes_that_are_not_worth_showing(evaluation):
    assert score(evaluation, lambda row: [*row[:4], 0.05, row[5]]) == pytest.approx(100)


def test_a_missing_scorer_package_is_named(evaluation, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(MissingPackage, match="pycocotools"):
        score(evaluation)


@pytest.mark.parametrize(
    "content", ["{}", "[]", "{", '{"images": [{"id": 1}], "annotations": [], "categories": []}']
)
def test_labels_that_are_not_coco_are_named(evaluation, content):
    evaluation.labels.write_text(content)
    with pytest.raises(InputError, match=r"labels\.json"):
        task().samples(evaluation)
