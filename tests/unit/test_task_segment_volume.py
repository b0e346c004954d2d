"""Scores of voxels → labels, volumes in ml, a labelled slice, and Dice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge import tasks
from edge.config import SamplesConfig
from edge.dicom.volume import open_volume
from edge.errors import InputError, ModelError
from edge.preprocess import preparation
from edge.tasks import Sample
from edge.tasks.samples import content_sha256
from edge.tasks.segment_volume import Segmentation, SegmentVolume, create

pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")

from tests.volumes import ball, volume_config, write_enhanced, write_series

TRUTH = (ball() > 0).astype(np.uint8) + (ball() > 500)


@pytest.fixture
def task() -> SegmentVolume:
    return create({"labels": ["background", "grey", "white"]}, "here")


@pytest.fixture
def placement(tmp_path: Path) -> Any:
    """A series on a grid of 16³ voxels of 1 mm."""
    paths = write_series(tmp_path / "head", ball())
    config = volume_config(tmp_path / "none.onnx", tmp_path / "head")
    _, (place,) = preparation(config.input).batch([open_volume(paths)])
    return place


def scores_of(labels: np.ndarray, sure: float = 4.0) -> dict[str, np.ndarray]:
    """A network's output whose largest score is each voxel's label."""
    scores = np.zeros((1, 3, *labels.shape), np.float32)
    np.put_along_axis(scores[0], labels[None].astype(int), sure, 0)
    return {"logits": scores}


def on_grid(placement: Any) -> np.ndarray:
    """The truth on the network's grid; in LIA the first axis is the columns, the second goes down."""
    return np.ascontiguousarray(TRUTH.transpose(2, 0, 1)[:, ::-1, ::-1])


def found(task: SegmentVolume, placement: Any) -> Segmentation:
    """What is found where the grid's labels are `on_grid`, moved by what their centres' convention makes."""
    return task.postprocess(scores_of(np.roll(on_grid(placement), (1, 1), (1, 2))), 0, placement)


def test_labels_return_to_the_slices_in_their_order(task: SegmentVolume, placement: Any) -> None:
    segmentation = found(task, placement)
    volume = segmentation.on_slices()
    assert np.array_equal(np.stack(volume.labels), TRUTH)
    assert tuple(volume.paths) == placement.volume.paths
    assert volume.names == {1: "grey", 2: "white"}
    assert [int(path.stem.split("-")[1]) for path in volume.paths] == list(range(16))


def test_frames_of_one_file_are_labelled_in_their_own_order(tmp_path: Path, task: SegmentVolume) -> None:
    order = [int(index) for index in np.random.default_rng(0).permutation(16)]
    path = write_enhanced(tmp_path / "enhanced.dcm", ball(), (1.0, 1.0, 1.0), order)
    config = volume_config(tmp_path / "none.onnx", tmp_path)
    _, (place,) = preparation(config.input).batch([open_volume([path])])
    labels = found(task, place).on_slices()
    assert labels.paths == [path] * 16
    assert [labels.frame(index) for index in range(16)] == list(range(16))
    assert np.array_equal(np.stack(labels.labels), TRUTH[order])


def test_volumes_are_in_ml_and_the_background_is_none(task: SegmentVolume, placement: Any) -> None:
    fields = found(task, placement).to_json()
    counts = np.bincount(TRUTH.ravel())
    assert [each["name"] for each in fields["volumes"]] == ["grey", "white"]
    assert [each["ml"] for each in fields["volumes"]] == [counts[1] / 1000, counts[2] / 1000]
    share = np.exp(4) / (np.exp(4) + 2)
    assert [each["score"] for each in fields["volumes"]] == [round(share, 4)] * 2
    json.dumps(fields, allow_nan=False)


def test_a_class_that_is_nowhere_is_not_found(task: SegmentVolume, placement: Any) -> None:
    only = task.postprocess(scores_of(np.ones((16, 16, 16), np.uint8)), 0, placement)
    assert set(only.found()) == {"grey"}
    assert only.to_json()["volumes"][1] == {"class": 2, "name": "white", "ml": 0.0, "score": 0.0}


def test_a_finding_outlives_the_buffers_it_was_read_from(task: SegmentVolume, placement: Any) -> None:
    outputs = scores_of(on_grid(placement))
    segmentation = task.postprocess(outputs, 0, placement)
    before = segmentation.to_json(), segmentation.labels.copy()
    outputs["logits"].fill(0.5)
    assert segmentation.to_json() == before[0] and np.array_equal(segmentation.labels, before[1])


def test_each_class_tints_the_middle_slice_in_its_own_colour(task: SegmentVolume, placement: Any) -> None:
    image = np.full((320, 320, 3), 100, np.uint8)
    drawn = found(task, placement).draw(image)
    assert (image == 100).all() and drawn.shape == image.shape
    middle = np.kron(TRUTH[8], np.ones((20, 20), np.uint8))
    below = np.arange(320)[:, None] >= 100  # of what the colours mean
    kinds = [np.unique(drawn[(middle == label) & below], axis=0) for label in range(3)]
    assert [len(kind) for kind in kinds] == [1, 1, 1]
    assert kinds[0].tolist() == [[100, 100, 100]]
    assert kinds[1].tolist() != kinds[2].tolist() != kinds[0].tolist()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_no_numbers_do_not_stop_a_feed(task, placement, value) -> None:
    broken = {"logits": np.full((1, 3, 16, 16, 16), value, np.float32)}
    json.dumps(task.postprocess(broken, 0, placement).to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("output", "why"),
    [
        (np.zeros((1, 3, 16, 16), np.float32), "shape"),
        (np.zeros((1, 4, 16, 16, 16), np.float32), r"\[task\] labels names 3"),
        (np.zeros((1, 3, 8, 16, 16), np.float32), "has to keep the size"),
    ],
)
def test_an_output_of_another_shape_is_refused(task, placement, output, why) -> None:
    with pytest.raises(ModelError, match=why):
        task.postprocess({"logits": output}, 0, placement)


def test_dice_is_the_mean_over_the_classes(task: SegmentVolume, placement: Any) -> None:
    segmentation = found(task, placement)
    scorer = task.scorer()
    assert np.isnan(scorer.value())
    scorer.add(Sample(Path("a"), TRUTH), segmentation)
    assert scorer.value() == 1.0
    half = TRUTH.copy()
    half[7:][half[7:] == 2] = 0
    kept, whole = np.count_nonzero(half == 2), np.count_nonzero(TRUTH == 2)
    scorer = task.scorer()
    scorer.add(Sample(Path("a"), half), segmentation)
    assert scorer.value() == pytest.approx((1 + 2 * kept / (kept + whole)) / 2)


def test_labels_of_another_size_are_refused(task: SegmentVolume, placement: Any) -> None:
    with pytest.raises(InputError, match="15×16×16"):
        task.scorer().add(Sample(Path("a"), TRUTH[1:]), found(task, placement))


def test_equal_outputs_do_not_diverge_and_others_do(task: SegmentVolume, placement: Any) -> None:
    one, other = scores_of(on_grid(placement)), scores_of(on_grid(placement), 3.0)
    assert task.divergence(one, one, placement) == 0
    assert task.divergence(one, other, placement) > 0


def test_believed_labels_are_drawn_by_their_probabilities(task: SegmentVolume, placement: Any) -> None:
    even = {"logits": np.zeros((1, 3, 16, 16, 16), np.float32)}
    (sample,) = task.believed(Sample(Path("a")), even, placement, np.random.default_rng(0))
    shares = np.bincount(sample.label[:, 1:, 1:].ravel(), minlength=3) / sample.label[:, 1:, 1:].size
    assert np.allclose(shares, 1 / 3, atol=0.05)


def test_every_folder_with_slices_is_a_sample_with_its_labels(tmp_path: Path, task: SegmentVolume) -> None:
    for name in ("b/two", "a"):
        write_series(tmp_path / "series" / name, ball())
    (tmp_path / "labels").mkdir()
    np.save(tmp_path / "labels" / "a.npy", TRUTH)
    samples = task.samples(SamplesConfig(images=tmp_path / "series", labels=tmp_path / "labels"))
    assert [sample.path.relative_to(tmp_path / "series").as_posix() for sample in samples] == ["a", "b/two"]
    assert [sample.label for sample in samples] == [tmp_path / "labels" / "a.npy", None]
    assert task.network_image(samples[0]).shape == (16, 16, 16)
    alone = task.samples(SamplesConfig(images=tmp_path / "series" / "a", labels=tmp_path / "labels"))
    assert [sample.label for sample in alone] == [tmp_path / "labels" / "a.npy"]


@pytest.mark.parametrize("missing", ["absent", "empty"])
def test_a_folder_without_series_is_an_input_error(tmp_path: Path, task: SegmentVolume, missing: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=missing):
        task.samples(SamplesConfig(images=tmp_path / missing))


def test_damaged_labels_are_named(tmp_path: Path, task: SegmentVolume, placement: Any) -> None:
    (tmp_path / "a.npy").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"a\.npy"):
        task.scorer().add(Sample(Path("a"), tmp_path / "a.npy"), found(task, placement))


def test_a_series_is_known_by_the_content_of_its_files(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "a", ball())
    known = content_sha256(tmp_path / "a")
    paths[0].rename(tmp_path / "a" / "renamed.dcm")
    assert content_sha256(tmp_path / "a") == known
    paths[1].write_bytes(paths[1].read_bytes()[:-2] + b"xy")
    assert content_sha256(tmp_path / "a") != known


def test_the_task_is_in_the_table(tmp_path: Path) -> None:
    assert isinstance(tasks.create(volume_config(tmp_path / "a.onnx", tmp_path)), SegmentVolume)
