"""A config guessed from a graph: what is read from it, what is said, and that it can be saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import onnx
import pytest

from edge import tasks
from edge.build.guess import Guess, guess
from edge.config import load_model
from edge.errors import ConfigError, ModelError, UsageError


def guessed(
    model: onnx.ModelProto, folder: Path, size: tuple[int, int] | None = None, file: str = "net.onnx"
) -> Guess:
    path = graphs.saved(model, folder / file)
    return guess(model, path, graphs.pictures(folder / "pictures"), None, size)


def writing(*shape: int, size: int = 32, channels: int = 3) -> onnx.ModelProto:
    """A graph from a picture to a tensor of this shape."""
    net = graphs.Net(shape=(1, channels, size, size))
    mean = net.op("ReduceMean", "image", name="mean", keepdims=0)
    target = net.constant("shape", shape, "int64")
    return net.model(net.op("Expand", mean, target, name="expand"))


@pytest.mark.parametrize(
    ("shape", "kind", "fit", "settings"),
    [
        ((1, 1000), "classify", "stretch", {}),
        ((1, 10, 1, 1), "classify", "stretch", {}),
        ((1, 1, 8, 8), "segment", "letterbox", {}),
        ((1, 3, 64, 64), "image", "letterbox", {"scale": 2}),
        ((1, 3, 32, 32), "image", "letterbox", {"scale": 1}),
        ((1, 21, 85), "detect", "letterbox", {"decode": "yolox"}),  # 4² + 2² + 1² cells
    ],
)
def test_the_task_follows_from_the_outputs_shape(
    shape: tuple[int, ...], kind: str, fit: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    found = guessed(writing(*shape), tmp_path)
    assert (found.config.task.kind, found.config.task.settings) == (kind, settings)
    assert found.config.input.fit == fit
    assert any(note.startswith(f"task = {kind}: output {'×'.join(map(str, shape))}") for note in found.notes)
    tasks.create(found.config)


@pytest.mark.parametrize("shape", [(7,), (1, 5, 8, 8), (1, 20, 85), (1, 21, 5), (1, 2, 3, 4, 5)])
def test_an_output_that_fits_no_task_is_an_error(shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"no task fits an output of {'×'.join(map(str, shape))}"):
        guessed(writing(*shape), tmp_path)


class TestInput:
    def test_the_size_is_read_from_the_graph(self, tmp_path: Path) -> None:
        found = guessed(graphs.residual(), tmp_path)
        assert found.config.input.size == (32, 32)
        assert found.notes[0] == "input 'image': N×C×H×W, read from the graph"

    def test_channels_last_are_recognised(self, tmp_path: Path) -> None:
        found = guessed(graphs.channels_last(), tmp_path)
        assert found.config.input.size == (32, 32)
        assert found.notes[0] == "input 'image': N×H×W×C, read from the graph"

    def test_grey_pictures_are_recognised(self, tmp_path: Path) -> None:
        assert guessed(writing(1, 1, 8, 8, channels=1), tmp_path).config.input.channels == 1

    def test_an_open_size_has_to_be_given(self, tmp_path: Path) -> None:
        model = graphs.residual(shape=("n", 3, "h", "w"))
        with pytest.raises(ConfigError, match="leaves height and width open") as caught:
            guessed(model, tmp_path)
        assert caught.value.fix == "give --size HxW"
        assert guessed(model, tmp_path, (32, 64)).config.input.size == (32, 64)

    def test_a_size_against_the_graphs_own_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="input 'image' has height 32, the config says 64"):
            guessed(graphs.residual(), tmp_path, (64, 64))

    @pytest.mark.parametrize(
        ("model", "error", "said"),
        [
            (lambda: writing(1, 10, channels=4), ConfigError, "'image' has 4 channels"),
            (graphs.half_input, ModelError, "input 'image' is not float32"),
            (graphs.two_inputs, ConfigError, "the graph has 2 inputs: 'image', 'other'"),
            (lambda: graphs.Net(shape=(1, 3, 32)).model("image"), ConfigError, "has 3 dimensions"),
        ],
    )
    def test_what_takes_no_picture_is_refused(
        self, model: Any, error: type[Exception], said: str, tmp_path: Path
    ) -> None:
        with pytest.raises(error, match=said):
            guessed(model(), tmp_path)


class TestToml:
    @pytest.mark.parametrize("shape", [(1, 1000), (1, 1, 8, 8), (1, 3, 64, 64), (1, 21, 85)])
    @pytest.mark.parametrize("folder", ["plain", "with spaces and ümlaut", 'quote" and \\ backslash'])
    def test_it_loads_as_the_same_config(self, shape: tuple[int, ...], folder: str, tmp_path: Path) -> None:
        found = guessed(writing(*shape), tmp_path / folder)
        path = tmp_path / "saved.toml"
        path.write_text(found.to_toml(), encoding="utf-8")
        assert load_model(path) == found.config

    def test_grey_stays_grey(self, tmp_path: Path) -> None:
        found = guessed(writing(1, 1, 8, 8, channels=1), tmp_path)
        path = tmp_path / "saved.toml"
        path.write_text(found.to_toml(), encoding="utf-8")
        assert load_model(path).input.channels == 1


@pytest.mark.parametrize(
    ("file", "name"),
    [("net.onnx", "net"), ("my net (1).onnx", "my_net__1_"), (".hidden.onnx", "hidden"), ("-.onnx", "model")],
)
def test_the_name_is_the_files_as_far_as_a_folder_may_have_it(file: str, name: str, tmp_path: Path) -> None:
    assert guessed(graphs.residual(), tmp_path, file=file).config.name == name


def test_a_name_that_no_folder_can_have_is_refused_with_one_that_can(tmp_path: Path) -> None:
    path = graphs.saved(graphs.residual(), tmp_path / "net.onnx")
    with pytest.raises(UsageError, match="Röntgen netz") as caught:
        guess(graphs.residual(), path, graphs.pictures(tmp_path / "pictures"), "Röntgen netz", None)
    assert caught.value.fix == "give --name R_ntgen_netz"


def test_a_files_name_becomes_one_that_a_folder_can_have(tmp_path: Path) -> None:
    assert guessed(graphs.residual(), tmp_path, file="ü netz.onnx").config.name == "netz"
