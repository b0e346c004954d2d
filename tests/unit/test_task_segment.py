"""Heat maps → masks and boxes in source pixels, and how they are scored."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.config import InputConfig, SamplesConfig
from edge.errors import InputError, ModelError
from edge.preprocess import Preprocess
from edge.tasks.segment import Counts, create

STRIDE = 4


def place(height, width, size=(64, 64), **options):
    _, places = Preprocess(InputConfig(size=size, **options)).batch([np.zeros((height, width, 3), np.uint8)])
    return places[0]


def find(heat, placement, **options):
    return create(options, "here").postprocess({"out": np.float32(heat)[None, None]}, 0, placement)


def test_boxes_are_in_pixels_of_the_source_picture():
    heat = np.zeros((16, 16))
    heat[4:6, 2:10] = 0.75
    found = find(heat, place(128, 128))
    boxes, scores = found.boxes
    assert boxes.tolist() == [[16, 32, 80, 48]]
    assert scores.tolist() == [0.75]
    assert found.to_json() == {
        "mask": {"share": 16 / 256, "boxes": [{"box": [16.0, 32.0, 80.0, 48.0], "score": 0.75}]}
    }


def test_what_was_found_is_told_by_the_masks_label():
    heat = np.zeros((16, 16))
    assert find(heat, place(64, 64), label="text").found() == {}
    heat[2, 3:5] = (0.75, 0.5)
    assert find(heat, place(64, 64), label="text").found() == {"text": 0.75}
    assert find(heat, place(64, 64)).found() == {"mask": 0.75}


def test_letterbox_padding_counts_for_nothing():
    """A heat map that is hot everywhere finds the whole picture and no more."""
    found = find(np.ones((16, 16)), place(32, 64))
    assert found.heat.shape == (8, 16)
    assert found.share == 1.0
    assert found.boxes[0].tolist() == [[0, 0, 64, 32]]


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    fit=st.sampled_from(["letterbox", "stretch", "crop"]),
    anchor=st.sampled_from(["top-left", "center"]),
)
def test_boxes_never_leave_the_picture(height, width, fit, anchor):
    boxes, _ = find(np.ones((16, 16)), place(height, width, fit=fit, anchor=anchor)).boxes
    assert len(boxes) == 1
    x1, y1, x2, y2 = boxes[0]
    assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height


def test_touching_corners_are_one_region_and_apart_are_two():
    heat = np.zeros((16, 16))
    heat[0, 0] = heat[1, 1] = heat[5, 5] = 1
    assert len(find(heat, place(64, 64)).boxes[0]) == 2


def test_small_regions_get_no_box_but_stay_in_the_mask():
    heat = np.zeros((16, 16))
    heat[2:6, 2:6] = heat[10, 10] = 1  # 16 cells and 1, of 16 source pixels each
    found = find(heat, place(64, 64), min_area=17)
    assert len(found.boxes[0]) == 1
    assert found.share == 17 / 256


def test_logits_go_through_a_sigmoid():
    heat = np.full((16, 16), -2.0)
    heat[0, 0] = 2.0
    found = find(heat, place(64, 64), scores="logits", threshold=0.8)
    assert found.cells.sum() == 1
    assert found.heat[0, 0] == pytest.approx(1 / (1 + np.exp(-2)))


def test_logits_far_below_zero_are_a_probability_of_zero():
    found = find(np.full((16, 16), -1e4), place(64, 64), scores="logits")
    assert (found.heat == 0).all() and found.share == 0


def test_a_channel_that_is_not_there_is_refused():
    with pytest.raises(ModelError, match="no channel 3"):
        find(np.zeros((16, 16)), place(64, 64), channel=3)


def test_only_the_surroundings_of_a_region_are_drawn_on():
    heat = np.zeros((16, 16))
    heat[2:4, 2:4] = 1
    image = np.full((256, 256, 3), 100, np.uint8)
    drawn = find(heat, place(256, 256)).draw(image)
    assert not np.array_equal(drawn[40:56, 40:56], image[40:56, 40:56])
    assert np.array_equal(drawn[90:], image[90:])


def test_a_right_answer_scores_1():
    truth = np.zeros((128, 192), np.uint8)
    truth[32:64, 48:96] = 255
    placement = place(128, 192)  # letterboxed by a third: 64 × 42.67 + offset 10
    canvas = np.zeros((64, 64), np.float32)
    h, w = 42, 64
    canvas[placement.top : placement.top + h] = cv2.resize(
        (truth > 0).astype(np.float32), (w, h), interpolation=cv2.INTER_AREA
    )
    heat = cv2.resize(canvas, (16, 16), interpolation=cv2.INTER_AREA)
    counts = create({}, "here").score_truth(truth, find(heat, placement))
    assert counts.f1 >= 0.95


def test_a_cell_is_true_from_half_its_area_on():
    truth = np.zeros((64, 64), np.uint8)
    truth[0:4, 0:2] = 1  # half of the first cell
    truth[8:12, 8:9] = 1  # a quarter of another
    task = create({}, "here")
    nothing = find(np.zeros((16, 16)), place(64, 64))
    assert task.score_truth(truth, nothing) == Counts(0, 0, 1)


def test_counts_add_up_over_pictures():
    truth = np.zeros((64, 64), np.uint8)
    truth[:4, :8] = 255
    heat = np.zeros((16, 16))
    heat[0, 1:4] = 1
    task = create({}, "here")
    counts = task.score_truth(truth, find(heat, place(64, 64)))
    assert counts == Counts(tp=1, fp=2, fn=1)
    assert (counts + Counts(1, 0, 0)).f1 == 4 / 7
    assert Counts(0, 0, 0).f1 == 1.0
    assert Counts(0, 3, 0).f1 == 0.0


def test_truth_outside_a_crop_is_not_held_against_the_network():
    truth = np.zeros((64, 128), np.uint8)
    truth[:, :16] = 255  # cut away by the centre crop
    found = find(np.zeros((16, 16)), place(64, 128, fit="crop"))
    assert create({}, "here").score_truth(truth, found) == Counts(0, 0, 0)


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(InputError, match="10×10"):
        create({}, "here").score_truth(np.zeros((10, 10), np.uint8), find(np.ones((16, 16)), place(64, 64)))


@pytest.mark.parametrize("masks", [".", "masks", "../masks"])
def test_masks_lie_beside_the_pictures_or_in_a_folder_of_their_own(tmp_path, masks):
    folder = tmp_path / "pictures"
    folder.mkdir()
    target = (folder / masks).resolve()
    target.mkdir(exist_ok=True)
    truth = np.zeros((64, 64), np.uint8)
    truth[16:32] = 255
    for name in ("0000", "0001"):
        cv2.imwrite(str(folder / f"{name}.jpg"), np.zeros((64, 64, 3), np.uint8))
    cv2.imwrite(str(target / "0000.png"), truth)

    task = create({}, "here")
    samples = task.samples(SamplesConfig(images=folder, labels=target))
    assert [s.label is not None for s in samples] == [True, False]

    scorer, heat = task.scorer(), np.zeros((16, 16))
    heat[4:8] = 1
    for sample in samples:
        scorer.add(sample, find(heat, place(64, 64)))
    assert scorer.value() == 1.0


def test_a_missing_folder_of_masks_is_named(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match="absent"):
        create({}, "here").samples(SamplesConfig(images=tmp_path, labels=tmp_path / "absent"))
