"""What every task in `TASKS` does. A new task adds one case here and is held to all of it."""

import importlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import pytest

from edge.config import InputConfig, SamplesConfig
from edge.errors import ConfigError, InputError, ModelError
from edge.preprocess import Preprocess
from edge.tasks import TASKS

SIZE = (32, 64)


@dataclass(frozen=True)
class Case:
    """Settings, and what a network would put out for a batch of two pictures of 64 × 32."""

    output: np.ndarray
    settings: Mapping[str, Any] = field(default_factory=dict)


def heat_map() -> np.ndarray:
    heat = np.zeros((2, 1, 8, 16), np.float32)
    heat[:, :, 3:6, 4:9] = 0.9
    return heat


def yolox_grid() -> np.ndarray:
    raw = np.zeros((2, 32 + 8 + 2, 7), np.float32)
    raw[:, 10] = (0.5, 0.5, 0.7, 0.7, 0.9, 0.1, 0.8)
    raw[:, 34] = (0.2, 0.2, 0.3, 0.1, 0.8, 0.7, 0.1)
    return raw


CASES = {
    "classify": Case(np.tile(np.linspace(-2, 3, 10, dtype=np.float32), (2, 1))),
    "detect": Case(yolox_grid(), {"decode": "yolox", "labels": ["cat", "dog"]}),
    "segment": Case(heat_map(), {"label": "text"}),
    "image": Case(np.random.default_rng(0).random((2, 3, 64, 128), np.float32), {"scale": 2, "crop": 16}),
}


VOLUMES = ("segment_volume",)
"""They read series, and their tests are their own."""


@pytest.fixture(params=[kind for kind in TASKS if kind not in VOLUMES])
def case(request):
    assert request.param in CASES, f"give the task '{request.param}' a case in {__file__}"
    return request.param, CASES[request.param]


@pytest.fixture
def task(case):
    kind, this = case
    return importlib.import_module(TASKS[kind]).create(dict(this.settings), "here")


def placement(height: int, width: int):
    _, places = Preprocess(InputConfig(size=SIZE)).batch([np.zeros((height, width, 3), np.uint8)])
    return places[0]


def outputs(case) -> dict[str, np.ndarray]:
    return {"out": case[1].output.copy()}


@pytest.fixture
def pictures(tmp_path):
    for name in ("0001.png", "0000.jpg", "0002.bmp"):
        cv2.imwrite(str(tmp_path / name), np.full((24, 40, 3), 90, np.uint8))
    (tmp_path / "notes.txt").write_text("not a picture")
    return tmp_path


def test_a_task_names_itself_and_its_metric(case, task):
    assert task.kind == case[0]
    assert task.metric in ("top1", "ap", "f1", "psnr_y")


def test_a_finding_becomes_json_that_any_parser_reads(case, task):
    payload = task.postprocess(outputs(case), 1, placement(48, 60))
    text = json.dumps(payload.to_json(), allow_nan=False)
    assert len(json.loads(text)) == 1


def test_a_finding_outlives_the_buffers_it_was_read_from(case, task):
    """A slot's output buffers are overwritten by the next frame."""
    place, image = placement(48, 60), np.full((48, 60, 3), 128, np.uint8)
    expected = task.postprocess(outputs(case), 0, place)
    buffers = outputs(case)
    payload = task.postprocess(buffers, 0, place)
    buffers["out"].fill(0.123)
    assert payload.to_json() == expected.to_json()
    assert np.array_equal(payload.draw(image), expected.draw(image))


@pytest.mark.parametrize("shape", [(240, 320, 3), (1080, 1920, 3), (16, 16, 3), (240, 320)])
def test_drawing_gives_a_colour_picture_of_the_same_size_and_leaves_the_source_alone(case, task, shape):
    image = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    untouched = image.copy()
    drawn = task.postprocess(outputs(case), 0, placement(*shape[:2])).draw(image)
    assert drawn.shape == (*shape[:2], 3) and drawn.dtype == np.uint8
    assert np.array_equal(image, untouched)
    plain = image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    assert not np.array_equal(drawn, plain)


def test_a_batch_gives_each_picture_its_own_finding(case, task):
    this = outputs(case)
    this["out"][1] = this["out"][1][..., ::-1].copy()
    place = placement(32, 64)
    alone = {"out": this["out"][1:]}
    image = np.zeros((32, 64, 3), np.uint8)
    second, first = task.postprocess(this, 1, place), task.postprocess(alone, 0, place)
    assert second.to_json() == first.to_json()
    assert np.array_equal(second.draw(image), first.draw(image))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_no_numbers_do_not_stop_a_feed(case, task, value):
    broken = {"out": np.full_like(case[1].output, value)}
    payload = task.postprocess(broken, 0, placement(48, 60))
    assert payload.to_json()
    assert payload.draw(np.zeros((48, 60, 3), np.uint8)).shape == (48, 60, 3)


def test_an_unknown_setting_is_an_error_with_a_suggestion(case):
    kind, this = case
    with pytest.raises(ConfigError, match="did you mean 'output'"):
        importlib.import_module(TASKS[kind]).create({**this.settings, "outputt": "x"}, "here")


def test_an_output_that_the_graph_lacks_is_named(case):
    kind, this = case
    task = importlib.import_module(TASKS[kind]).create({**this.settings, "output": "scores"}, "here")
    with pytest.raises(ModelError, match="'scores'"):
        task.postprocess({"out": this.output}, 0, placement(32, 64))


def test_an_output_of_another_shape_is_refused(case, task):
    wrong = case[1].output[None, None, None]
    with pytest.raises(ModelError, match="shape"):
        task.postprocess({"out": wrong}, 0, placement(32, 64))


def test_samples_come_in_name_order_and_within_the_limit(task, pictures):
    samples = task.samples(SamplesConfig(images=pictures))
    assert [s.path.name for s in samples] == ["0000.jpg", "0001.png", "0002.bmp"]
    assert len(task.samples(SamplesConfig(images=pictures, limit=2))) == 2


def test_a_sample_is_a_picture_as_a_camera_delivers_it(task, pictures):
    image = task.network_image(task.samples(SamplesConfig(images=pictures))[0])
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3


@pytest.mark.parametrize("missing", ["absent", "empty", "notes.txt"])
def test_a_folder_without_pictures_is_an_input_error(task, pictures, missing):
    (pictures / "empty").mkdir()
    with pytest.raises(InputError, match=missing) as caught:
        task.samples(SamplesConfig(images=pictures / missing))
    assert caught.value.exit_code == 4 and caught.value.fix


def test_a_damaged_picture_is_named(case, task, pictures):
    (pictures / "0000.jpg").write_bytes(b"\xff\xd8 no picture")
    with pytest.raises(InputError, match=r"0000\.jpg"):
        task.network_image(task.samples(SamplesConfig(images=pictures))[0])


def test_a_scorer_without_samples_has_no_value(task):
    assert math.isnan(task.scorer().value())
