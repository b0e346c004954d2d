"""Finds text that is burned into pictures, with this project's model for it, on the processor."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge.errors import UsageError
from edge.types import Array, Image

if TYPE_CHECKING:
    from edge.tasks.segment import Mask

MODEL = Path("burned_in_text")

MARGIN = 0.25
"""A region grows by this part of its height on every side, and at least by a cell of the heat map."""

OVERLAP = 0.25
"""Part of a tile that its neighbour sees too: no word is cut in both."""

ENLARGE = 1.5
"""A picture so many times as large as the network's input is looked at in tiles, too."""


class TextFinder:
    """Any thread may ask; one is answered at a time.

    Args:
        model: a model of the kind `segment`: the path of its config, or the bare name.

    Raises:
        UsageError: there is no such model, or it does something else.
        ModelError: its graph cannot be loaded.
    """

    def __init__(self, model: Path = MODEL, threads: int = 1) -> None:
        from edge import tasks
        from edge.backends import EngineOptions, backend
        from edge.config import load_model
        from edge.preprocess import Preprocess

        config = load_model(model)
        if config.task.kind != "segment":
            what = f"model '{config.name}' finds no text"
            raise UsageError(what, f"its task is {config.task.kind}", f"take {MODEL}, or one that segments")
        options = EngineOptions(threads=threads, size=config.input.size, spin=False)
        self._engine = backend("onnxruntime").load(config.onnx, options)
        self._slot = self._engine.slot()
        self._input = self._slot.inputs[config.input.name or self._engine.inputs[0].name]
        self._size, self._preprocess = config.input.size, Preprocess(config.input)
        self._task, self._lock = tasks.create(config), threading.Lock()

    def find(self, picture: Image) -> NDArray[np.intp]:
        """Where there is text: N × 4, x1 y1 x2 y2 in pixels, with a margin, cut at the picture's edges."""
        height, width = picture.shape[:2]
        found = [np.empty((0, 4), np.float32)]
        with self._lock:
            for x, y, tile in _tiles(picture, self._size):
                found.append(_grown(self._look(tile)) + np.array([x, y, x, y], np.float32))
        boxes = np.concatenate(found)
        outward = np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])], 1)
        return np.asarray(np.clip(outward, 0, [width, height, width, height]), np.intp)

    def _look(self, tile: Image) -> Mask:
        placement = self._preprocess.into(np.ascontiguousarray(tile), self._input[0])
        self._slot.submit(1)
        mask: Mask = self._task.postprocess(self._slot.wait(), 0, placement)  # type: ignore[assignment]
        return mask

    def close(self) -> None:
        self._engine.close()


def _grown(mask: Mask) -> Array:
    """The regions with their margin."""
    boxes = mask.boxes[0]
    place, window = mask.placement, mask.window
    cell = max(window.step_x / place.scale_x, window.step_y / place.scale_y)
    margin = np.maximum(MARGIN * (boxes[:, 3:] - boxes[:, 1:2]), cell)
    return np.asarray(boxes + margin * np.array([-1, -1, 1, 1], np.float32))


def _tiles(picture: Image, size: tuple[int, int]) -> Iterator[tuple[int, int, Image]]:
    """The whole picture, and tiles of it in ever larger scale, down to its own pixels: letters of any height
    come out in one of them as the network was trained for."""
    yield 0, 0, picture
    height, width = picture.shape[:2]
    scale = max(height / size[0], width / size[1])
    while scale > ENLARGE:
        scale = max(1.0, scale / 2)
        tall, wide = round(size[0] * scale), round(size[1] * scale)
        for y in _starts(height, tall):
            for x in _starts(width, wide):
                yield x, y, picture[y : y + tall, x : x + wide]
        if scale == 1.0:
            return


def _starts(length: int, tile: int) -> list[int]:
    """Where tiles begin that cover a length evenly and overlap."""
    if tile >= length:
        return [0]
    count = 1 + int(np.ceil((length - tile) / (tile * (1 - OVERLAP))))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]
