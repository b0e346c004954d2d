"""A config for a graph that has none: shapes are read from the graph, the rest is guessed and said.

Every guess is printed with what it rests on, and the whole config as TOML, to be saved and mended.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import onnx

from edge.config import GateConfig, InputConfig, ModelConfig, SamplesConfig, TaskConfig
from edge.errors import ConfigError, UsageError
from edge.graph import Graph, input_dims, picture_input, prepare

YOLO_STRIDES = (8, 16, 32)


@dataclass(frozen=True, slots=True)
class Guess:
    """A config, and how each guessed value came about."""

    config: ModelConfig
    notes: tuple[str, ...]

    def to_toml(self) -> str:
        """The config as a file for `configs/models/`."""
        c = self.config
        lines = [f'name = "{c.name}"', f"onnx = {_toml(str(c.onnx))}", "", "[input]"]
        lines += [f"size = {list(c.input.size)}"]
        lines += [f"channels = {c.input.channels}"] if c.input.channels != 3 else []
        lines += [f'fit = "{c.input.fit}"', f'color = "{c.input.color}"', f"scale = {c.input.scale!r}"]
        lines += ["", "[task]", f'kind = "{c.task.kind}"']
        lines += [f"{key} = {_toml(value)}" for key, value in c.task.settings.items()]
        lines += ["", "[calibration]", f"images = {_toml(str(c.calibration.images))}"]
        lines += ["", "[gate]", f"min_cosine = {c.gate.min_cosine}"]
        return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)  # strings, numbers and booleans are written alike


def _plain(name: str) -> str:
    """The name as a folder of the store may be called."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip("._-") or "model"


def guess(
    model: onnx.ModelProto, path: Path, calibration: Path, name: str | None, size: tuple[int, int] | None
) -> Guess:
    """Work out a config for `model`.

    Args:
        calibration: folder of typical pictures; a part is held out for verification.
        name: of the model in the store; default: the file's.
        size: height and width, needed where the graph leaves them open.

    Raises:
        ConfigError: the graph leaves the size open and none is given, or is no picture network.
        UsageError: a model cannot have this name.
    """
    value = picture_input(model)
    (_, channels, height, width), channels_last = input_dims(value)
    notes = [f"input '{value.name}': {'N×H×W×C' if channels_last else 'N×C×H×W'}, read from the graph"]
    if name is not None and _plain(name) != name:
        raise UsageError(
            f"--name {name!r} cannot be a model's name",
            "it becomes a folder: letters a–z, digits, '_', '.' and '-', the first a letter or digit",
            f"give --name {_plain(name)}",
        )
    if channels not in (0, 1, 3):
        raise ConfigError(f"input '{value.name}' has {channels} channels", "a picture has 1 or 3", "")
    if size is None and not (height and width):
        raise ConfigError(
            f"input '{value.name}' leaves height and width open", "they cannot be guessed", "give --size HxW"
        )
    size = size or (height, width)
    channels = channels or 3
    kind, settings, why = _task(model, channels, size)
    notes += [
        f"task = {kind}: {why}",
        "color = rgb, scale = 1/255, mean 0, std 1: the most common; check them against the training code",
        "fit = stretch for classifiers, letterbox for others",
        "gate: cosine with fp32 only; give labels and max_drop for the task's own metric",
    ]
    config = ModelConfig(
        name=name or _plain(path.stem),
        onnx=path.resolve(),
        input=InputConfig(
            size=size,
            channels=1 if channels == 1 else 3,
            fit="stretch" if kind == "classify" else "letterbox",
        ),
        task=TaskConfig.model_validate({"kind": kind, **settings}),
        calibration=SamplesConfig(images=calibration.resolve()),
        gate=GateConfig(min_cosine=0.95),
    )
    return Guess(config, tuple(notes))


def _task(model: onnx.ModelProto, channels: int, size: tuple[int, int]) -> tuple[str, dict[str, object], str]:
    """Kind, settings and grounds, from the output's shape."""
    graph = Graph(prepare(model, None, (channels, *size)))
    shape = graph.shape(graph.outputs[0])
    cells = sum((size[0] // s) * (size[1] // s) for s in YOLO_STRIDES)
    if shape is None:
        raise ConfigError(
            "the output's shape cannot be worked out", "so the task is unknown", "write a config"
        )
    text = "×".join(map(str, shape))
    if len(shape) == 3 and shape[1] == cells and shape[2] > 5:
        return "detect", {"decode": "yolox"}, f"output {text} is a YOLOX grid of strides 8, 16, 32"
    if len(shape) == 3 and shape[2] == cells and shape[1] > 4:
        return (
            "detect",
            {"decode": "yolov8"},
            f"output {text} is boxes and scores a cell, as YOLOv8 writes them",
        )
    if len(shape) == 4 and shape[1] == 3 and min(shape[2:]) >= min(size):
        return "image", {"scale": shape[2] // size[0]}, f"output {text} is a picture"
    if len(shape) == 4 and shape[1] == 1:
        return "segment", {}, f"output {text} is a map"
    if len(shape) == 2 or (len(shape) == 4 and shape[2:] == (1, 1)):
        return "classify", {}, f"output {text} is one score a class"
    raise ConfigError(
        f"no task fits an output of {text}",
        "known are classes, YOLOX grids, maps and pictures",
        "write a config",
    )
