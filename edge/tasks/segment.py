"""Which pixels belong to the thing looked for: a heat map at any stride → mask and boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt

from edge.config import SamplesConfig, Section, validate
from edge.errors import InputError, ModelError
from edge.preprocess import Placement
from edge.tasks import Sample, Tail, drawing, likeness
from edge.tasks.outputs import HEAT, one_picture
from edge.tasks.samples import find_samples, read_picture
from edge.types import Array, Image

if TYPE_CHECKING:
    from edge.build.tails import TailWriter


class SegmentSettings(Section):
    """The keys of `[task]` with `kind = "segment"`."""

    output: str | None = Field(None, description="the graph's output; default: its first")
    scores: Literal["logits", "probabilities"] = Field(
        "probabilities", description="what the output holds; logits go through a sigmoid"
    )
    channel: NonNegativeInt = Field(0, description="which plane of the output is the heat map")
    threshold: float = Field(0.5, gt=0, lt=1, description="lowest probability that belongs to the mask")
    min_area: NonNegativeInt = Field(0, description="smallest region that gets a box, in source pixels")
    label: str = Field("", description="what the mask shows, in a word")


class Counts(NamedTuple):
    """Cells that are right, found in vain, and missed."""

    tp: int
    fp: int
    fn: int

    def __add__(self, other: object) -> Counts:
        if not isinstance(other, Counts):
            return NotImplemented
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def f1(self) -> float:
        """2·tp / (2·tp + fp + fn); 1 where there was nothing to find and nothing was found."""
        errors = self.fp + self.fn
        return 2 * self.tp / (2 * self.tp + errors) if self.tp or errors else 1.0


NOTHING = Counts(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Window:
    """The cells of the heat map whose centres lie in the picture; the rest saw letterbox padding.

    Attributes:
        rows, columns: of the whole heat map.
        step_x, step_y: network pixels a cell.
    """

    rows: slice
    columns: slice
    step_x: float
    step_y: float

    @classmethod
    def of(cls, grid: tuple[int, int], place: Placement) -> Window:
        step_y, step_x = place.network_height / grid[0], place.network_width / grid[1]
        bottom, right = place.top + place.height * place.scale_y, place.left + place.width * place.scale_x
        rows = _cells(place.top / step_y, bottom / step_y, grid[0])
        return cls(rows, _cells(place.left / step_x, right / step_x, grid[1]), step_x, step_y)


def _cells(low: float, high: float, count: int) -> slice:
    """The cells whose centres lie between two positions measured in cells; at least one."""
    start, stop = max(0, int(np.ceil(low - 0.5))), min(count, int(np.ceil(high - 0.5)))
    if start < stop:
        return slice(start, stop)
    nearest = min(max(0, int((low + high) / 2)), count - 1)
    return slice(nearest, nearest + 1)


@dataclass(frozen=True, eq=False)
class Mask:
    """What was found in one picture.

    Attributes:
        heat: probability of each cell of the picture, h × w float32, letterbox padding cut off.
        window: where `heat` was cut from the network's output.
        grid: height and width of the network's output.
    """

    heat: NDArray[np.float32]
    window: Window
    grid: tuple[int, int]
    placement: Placement
    threshold: float
    min_area: float
    label: str

    @cached_property
    def cells(self) -> NDArray[np.bool_]:
        """h × w, true where the probability reaches the threshold."""
        return self.heat >= self.threshold

    @cached_property
    def boxes(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Connected regions, left to right and top to bottom as they are met: boxes (N × 4, x1 y1 x2 y2 in
        source pixels) and mean probabilities (N)."""
        count, regions, stats, _ = cv2.connectedComponentsWithStats(
            self.cells.astype(np.uint8), connectivity=8
        )
        area = stats[:, cv2.CC_STAT_AREA]
        heat = np.bincount(regions.ravel(), self.heat.ravel(), minlength=count) / np.maximum(area, 1)
        large = np.flatnonzero(area * np.prod(self._step) >= self.min_area)
        large = large[large > 0]  # 0 is the background
        corner = stats[large][:, [cv2.CC_STAT_LEFT, cv2.CC_STAT_TOP]]
        size = stats[large][:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]]
        boxes = np.concatenate([self._to_image(corner), self._to_image(corner + size)], 1)
        return boxes.astype(np.float32), heat[large].astype(np.float32)

    def cell_of(self, pixels: NDArray[np.intp], vertical: bool) -> NDArray[np.intp]:
        """Row (or column) of `heat` in which the middle of each source pixel lies."""
        place, window = self.placement, self.window
        part, scale, offset, step = (
            (window.rows, place.scale_y, place.top, window.step_y)
            if vertical
            else (window.columns, place.scale_x, place.left, window.step_x)
        )
        cells = np.floor(((pixels + 0.5) * scale + offset) / step).astype(np.intp) - part.start
        return np.asarray(np.clip(cells, 0, part.stop - part.start - 1))

    @property
    def share(self) -> float:
        """Part of the picture that the mask covers, 0–1."""
        return float(self.cells.mean()) if self.cells.size else 0.0

    def to_json(self) -> dict[str, Any]:
        found = [
            {"box": [round(float(v), 1) for v in box], "score": round(float(score), 4)}
            for box, score in zip(*self.boxes, strict=True)
        ]
        label = {"label": self.label} if self.label else {}
        return {"mask": {**label, "share": round(self.share, 6), "boxes": found}}

    def found(self) -> dict[str, float]:
        """The mask's label (`mask` where it has none) with its highest probability; {} where it is empty."""
        inside = self.heat[self.cells]
        return {self.label or "mask": float(inside.max())} if inside.size else {}

    def draw(self, image: Image) -> Image:
        """A translucent tint over the mask, its regions outlined."""
        plain, color = drawing.canvas(image), drawing.PALETTE[1]
        out = np.array(plain)
        boxes, _ = self.boxes
        for box in boxes:
            rows, columns = self._surroundings(box)
            strength = self._strength(rows, columns)
            out[rows, columns] = drawing.tint(plain[rows, columns], strength, color)
        margin = drawing.style(out).gap / 2
        for x1, y1, x2, y2 in boxes.tolist():
            drawing.outline(out, (x1 - margin, y1 - margin, x2 + margin, y2 + margin), color)
        return out

    def _surroundings(self, box: NDArray[np.float32]) -> tuple[slice, slice]:
        """Pixels in and around a box, one cell more on every side: rows, columns."""
        step_x, step_y = self._step
        place = self.placement
        top, bottom = max(0, int(box[1] - step_y)), min(place.height, int(box[3] + step_y) + 1)
        left, right = max(0, int(box[0] - step_x)), min(place.width, int(box[2] + step_x) + 1)
        return slice(top, bottom), slice(left, right)

    def _strength(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """How strongly each pixel there is tinted: 0 outside the mask, soft at its edge."""
        step_x, step_y = self._step
        x, y = self._to_image(np.array([[0.5, 0.5]]))[0] - (columns.start + 0.5, rows.start + 0.5)
        heat = cv2.warpAffine(
            self.heat,
            np.array([[step_x, 0, x], [0, step_y, y]]),
            (columns.stop - columns.start, rows.stop - rows.start),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        soft = np.clip((heat - 0.75 * self.threshold) / (0.5 * self.threshold), 0, 1)
        return np.asarray(0.45 * soft, np.float32)

    @property
    def _step(self) -> tuple[float, float]:
        """Source pixels a cell, in x and y."""
        place, window = self.placement, self.window
        return window.step_x / place.scale_x, window.step_y / place.scale_y

    def _to_image(self, points: Array) -> NDArray[np.float64]:
        """(x, y) in cells of `heat` → source pixels, cut at the picture's edges."""
        place, window = self.placement, self.window
        cells = points + np.array([window.columns.start, window.rows.start])
        pixels = cells * (window.step_x, window.step_y) - (place.left, place.top)
        pixels /= (place.scale_x, place.scale_y)
        return np.asarray(np.clip(pixels, 0, (place.width, place.height)), np.float64)


@dataclass
class PixelF1:
    """F1 over the cells of all pictures together, 0–1."""

    task: Segment
    counts: Counts = NOTHING
    pictures: int = 0

    def add(self, sample: Sample, payload: Mask) -> None:
        if sample.label is not None:
            truth = sample.label if isinstance(sample.label, np.ndarray) else read_mask(sample.label)
            self.counts += self.task.score_truth(truth, payload)
            self.pictures += 1

    def value(self) -> float:
        return self.counts.f1 if self.pictures else float("nan")


class Segment:
    """A heat map: N × channels × h × w, with any stride."""

    kind = "segment"
    metric = "f1"

    def __init__(self, settings: SegmentSettings) -> None:
        self.settings = settings

    def samples(self, config: SamplesConfig) -> Sequence[Sample]:
        """`config.labels` is the folder of the masks (may be the images' own): `0001.jpg` → `0001.png`."""
        return find_samples(config, _mask_finder(config) if config.labels else None)

    def network_image(self, sample: Sample) -> Image:
        return read_picture(sample.path)

    def tail(self) -> Tail:
        """The one plane that is used, as probabilities."""
        return Tail(self.settings.output, self._write_tail)

    def postprocess(self, outputs: Mapping[str, Array], index: int, placement: Placement) -> Mask:
        """From the network's output, or from what the tail made of it where it is among `outputs`."""
        if HEAT in outputs:
            return self._mask(outputs[HEAT][index, 0], placement, logits=False)
        return self.score_payload(outputs, index, placement)

    def score_payload(self, outputs: Mapping[str, Array], index: int, placement: Placement) -> Mask:
        settings = self.settings
        planes = one_picture(outputs, settings.output, index, 3, "batch × channels × height × width")
        self._check_channel(len(planes))
        return self._mask(planes[settings.channel], placement, settings.scores == "logits")

    def _mask(self, plane: Array, placement: Placement, logits: bool) -> Mask:
        settings, grid = self.settings, (plane.shape[0], plane.shape[1])
        window = Window.of(grid, placement)
        heat = plane[window.rows, window.columns].astype(np.float32)  # a copy: the buffer belongs to its slot
        if logits:
            with np.errstate(over="ignore"):  # far below zero: the probability is 0
                heat = np.asarray(1 / (1 + np.exp(-heat)), np.float32)
        return Mask(heat, window, grid, placement, settings.threshold, settings.min_area, settings.label)

    def _check_channel(self, count: int) -> None:
        if self.settings.channel >= count:
            raise ModelError(
                f"no channel {self.settings.channel} in the heat map",
                f"it has {count}",
                "mend [task] channel",
            )

    def _write_tail(self, w: TailWriter) -> None:
        """Nothing for one plane of probabilities: that is what the host wants already."""
        if len(w.shape) != 4:
            return  # not a heat map; `postprocess` says so
        _, channels, height, width = w.shape
        self._check_channel(channels)
        logits, channel = self.settings.scores == "logits", self.settings.channel
        if channels == 1 and not logits:
            return
        heat = w.slice(w.raw, 1, channel, channel + 1)
        w.publish(w.node("Sigmoid", heat) if logits else heat, HEAT, (1, height, width))
        w.publish_sum()

    def scorer(self) -> PixelF1:
        return PixelF1(self)

    def divergence(
        self, reference: Mapping[str, Array], this: Mapping[str, Array], placement: Placement
    ) -> float:
        """Of the probabilities, averaged over the picture's cells."""
        a, b = (self.score_payload(outputs, 0, placement).heat for outputs in (reference, this))
        return float(likeness.bernoulli(a, b).mean())

    def believed(
        self, sample: Sample, outputs: Mapping[str, Array], placement: Placement, random: Generator
    ) -> Sequence[Sample]:
        """A mask whose cells were drawn by their probabilities."""
        found = self.score_payload(outputs, 0, placement)
        drawn = random.random(found.heat.shape) < found.heat
        rows = found.cell_of(np.arange(placement.height), vertical=True)
        columns = found.cell_of(np.arange(placement.width), vertical=False)
        return [Sample(sample.path, drawn[np.ix_(rows, columns)].astype(np.uint8))]

    def score_truth(self, truth: NDArray[np.uint8], payload: Mask) -> Counts:
        """Compare a finding with the true mask of its picture.

        Args:
            truth: H × W in the size of the source picture, nonzero where the thing is. It is brought to
                the heat map's cells: a cell is true where at least half its area is.
        """
        place = payload.placement
        if truth.shape[:2] != (place.height, place.width):
            raise InputError(
                f"a mask of {truth.shape[1]}×{truth.shape[0]} pixels",
                f"its picture has {place.width}×{place.height}",
                "masks are drawn at the size of the picture",
            )
        true = truth_cells(truth, payload)
        both = int(np.count_nonzero(true & payload.cells))
        return Counts(both, int(np.count_nonzero(payload.cells)) - both, int(np.count_nonzero(true)) - both)


def truth_cells(truth: NDArray[np.uint8], payload: Mask) -> NDArray[np.bool_]:
    """h × w, true where at least half of the cell's area in the picture is true."""
    place, window = payload.placement, payload.window
    rows = np.arange(window.rows.start, window.rows.stop + 1) * window.step_y
    columns = np.arange(window.columns.start, window.columns.stop + 1) * window.step_x
    y = np.clip((rows - place.top) / place.scale_y, 0, place.height)
    x = np.clip((columns - place.left) / place.scale_x, 0, place.width)
    covered = cv2.integral((truth > 0).astype(np.uint8))
    covered = np.diff(np.diff(_between(_between(covered, y).T, x).T, axis=0), axis=1)
    cells: NDArray[np.bool_] = covered >= 0.5 * np.diff(y)[:, None] * np.diff(x)
    return cells


def _between(table: Array, positions: NDArray[np.float64]) -> Array:
    """Rows of `table` at fractional positions, linearly interpolated."""
    low = np.minimum(positions.astype(np.intp), len(table) - 2)
    part = (positions - low)[:, None]
    rows: Array = table[low] * (1 - part) + table[low + 1] * part
    return rows


def _mask_finder(config: SamplesConfig) -> Callable[[Path], Path | None]:
    """Picture path → path of its mask, None where there is none.

    Raises:
        InputError: the folder of masks does not exist.
    """
    folder = config.labels
    assert folder is not None
    if not folder.is_dir():
        raise InputError(
            f"cannot read the folder of masks {folder}", "there is no such folder", "check `labels`"
        )

    def find(path: Path) -> Path | None:
        mask = folder / path.relative_to(config.images).with_suffix(".png")
        return mask if mask != path and mask.is_file() else None

    return find


def read_mask(path: Path) -> NDArray[np.uint8]:
    """A PNG mask, H × W; any nonzero pixel belongs to it."""
    return np.asarray(read_picture(path).max(2), np.uint8)


def create(settings: dict[str, Any], where: str) -> Segment:
    return Segment(validate(SegmentSettings, settings, where))
