"""`test:text`: moving text over a moving background, like a camera's picture, with its right answer.

Every picture follows from the settings and its number alone, so a run can be repeated and can score itself:
`truth` is a mask (H × W uint8, 0 or 1) of the words' boxes, as tight as their ink.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import UsageError, nearest
from edge.sources import Address, Picture
from edge.types import Image

PATTERNS = ("text",)
DEFAULTS = {"size": "640x480", "fps": 30.0, "frames": 300, "seed": 1}
_LIMITS = {"fps": (0.1, 1000.0), "frames": (0, 10**9), "seed": (0, 2**31)}
_FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX)
_INKS = ((255, 255, 255), (235, 245, 250), (120, 240, 255), (255, 235, 150), (170, 255, 190))
_LINES = (
    "DOE^JANE  F 1984-02-29",
    "ID 4711-0815",
    "St. Elsewhere Hospital",
    "THYROID LEFT",
    "12 MHz  MI 0.9  TIs 0.3",
    "2031/07/14  09:26:53",
    "Dr. A. Example",
    "DEPTH 4.5 cm  GAIN 62",
)
_LANE = 58
"""Height in pixels that a line of text moves in, in a picture of 640 × 480; no two lines share one."""


def open(address: Address, realtime: bool) -> TextPattern:
    """`test:text?size=640x480&fps=30&frames=300&seed=1`; `frames=0` never ends.

    Raises:
        UsageError: no such pattern or setting, or a value out of its range.
    """
    name = address.place or "text"
    if name not in PATTERNS:
        raise UsageError(f"no test pattern '{name}'", "", nearest(name, PATTERNS))
    values = address.settings(DEFAULTS)
    for key, (low, high) in _LIMITS.items():
        if not low <= values[key] <= high:
            raise UsageError(f"{address.uri}: {key}={values[key]:g} is not within {low:g} … {high:g}")
    width, height = parse_size(values["size"], address.uri)
    return TextPattern(width, height, values["fps"], values["frames"], values["seed"], realtime)


def parse_size(text: str, uri: str) -> tuple[int, int]:
    """`640x480` → (640, 480).

    Raises:
        UsageError: it is not two numbers from 16 to 8192.
    """
    parts = text.lower().split("x")
    if len(parts) == 2 and all(p.isdigit() and 16 <= int(p) <= 8192 for p in parts):
        return int(parts[0]), int(parts[1])
    raise UsageError(f"{uri}: size={text!r}", "a size is width x height, 16 to 8192", "e.g. size=1280x720")


@dataclass(frozen=True, eq=False)
class Stamp:
    """A line of text, rendered once.

    Attributes:
        keep: h × w × 3 uint8, how much stays of what is below, 255 all: little under letters and their rim.
        ink: h × w × 3 uint8, what is added: the letters in their colour.
        words: boxes of the words in the stamp, x y width height.
    """

    keep: Image
    ink: Image
    words: list[tuple[int, int, int, int]]


@dataclass(frozen=True, slots=True)
class Path:
    """Where a stamp is at each moment: a slow swing around a point.

    Attributes:
        x, y: the middle of the swing in pixels; swing_x, swing_y: how far it goes to either side.
        rate: swings a second; phase: where it starts, in radians.
    """

    x: float
    y: float
    swing_x: float
    swing_y: float
    rate: float
    phase: float

    def at(self, seconds: float) -> tuple[int, int]:
        angle = 2 * math.pi * self.rate * seconds + self.phase
        return round(self.x + self.swing_x * math.sin(angle)), round(
            self.y + self.swing_y * math.sin(1.7 * angle)
        )


class TextPattern:
    """Pictures 0, 1, 2 … of the pattern; live when paced, as the camera it stands for."""

    label = "test-text"
    truth_kind: str | None = "segment"
    problem: str | None = None

    def __init__(
        self,
        width: int,
        height: int,
        fps: float = 30.0,
        frames: int = 300,
        seed: int = 1,
        paced: bool = False,
    ) -> None:
        self.width, self.height, self.frames = width, height, frames
        self.fps: float | None = fps
        self._period = 1 / fps
        self.live = self.paced = paced
        self._next = 0
        random = np.random.default_rng(seed)
        self._scene = scene(width, height, random)
        self._stamps = _layout(width, height, random)

    def read(self) -> Picture | None:
        if self.frames and self._next >= self.frames:
            return None
        number, self._next = self._next, self._next + 1
        return self.picture(number)

    def picture(self, number: int) -> Picture:
        """Picture `number`, whatever was read before."""
        seconds = number * self._period
        image = self._background(seconds)
        truth = np.zeros((self.height, self.width), np.uint8)
        for stamp, path in self._stamps:
            _press(stamp, path.at(seconds), image, truth)
        counter = render(f"{number:06d}", cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1, (255, 255, 255))
        height, width = counter.ink.shape[:2]
        _press(counter, (self.width - width - 4, self.height - height - 4), image, truth)
        return Picture(image, seconds, {"pattern": "text"}, truth)

    def close(self) -> None:
        pass

    def _background(self, seconds: float) -> Image:
        """A window that wanders over the scene."""
        room_y, room_x = self._scene.shape[0] - self.height, self._scene.shape[1] - self.width
        x = round(room_x * (0.5 + 0.5 * math.sin(0.31 * seconds)))
        y = round(room_y * (0.5 + 0.5 * math.cos(0.23 * seconds)))
        window: Image = self._scene[y : y + self.height, x : x + self.width].copy()
        return window


def scene(width: int, height: int, random: np.random.Generator) -> Image:
    """A backdrop: soft colours, lights out of focus, grain; larger than the picture by a quarter."""
    w, h = width + width // 4, height + height // 4
    base = np.full((h, w, 3), (104.0, 84.0, 66.0), np.float32)
    for cells, strength in ((3, 64.0), (7, 34.0), (24, 12.0)):
        grey = random.uniform(-1, 1, (cells, cells, 1))
        noise = (0.65 * grey + 0.35 * random.uniform(-1, 1, (cells, cells, 3))).astype(np.float32)
        base += strength * cv2.resize(noise, (w, h), interpolation=cv2.INTER_CUBIC)
    image: Image = np.clip(base, 12, 200).astype(np.uint8)
    for _ in range(14):  # lights out of focus
        centre = (int(random.integers(w)), int(random.integers(h)))
        radius = int(random.integers(max(4, h // 30), max(6, h // 8)))
        disc = image.copy()
        cv2.circle(disc, centre, radius, random.integers(60, 230, 3).tolist(), -1, cv2.LINE_AA)
        cv2.addWeighted(disc, 0.28, image, 0.72, 0, image)
    cv2.GaussianBlur(image, (0, 0), 1.6, dst=image)
    grain = random.normal(0, 7, (h, w, 1)) + random.normal(0, 2, (h, w, 3))
    return np.asarray(np.clip(image + grain, 0, 255), np.uint8)


def _layout(width: int, height: int, random: np.random.Generator) -> list[tuple[Stamp, Path]]:
    """Lines of text with a path each, one to a lane, so that they never cover one another."""
    placed = []
    zoom = max(1.0, min(width / 640, height / 480))
    high = round(_LANE * zoom)
    lanes = max(1, (height - 24) // high)
    order = random.permutation(len(_LINES))
    for lane in range(lanes):
        stamp = _stamp_that_fits(_LINES[order[lane % len(_LINES)]], (width, high), zoom, random)
        if stamp is None:
            continue
        h, w = stamp.ink.shape[:2]
        room = max(0, width - w)
        swing = room * float(random.uniform(0.15, 0.5))
        middle = float(random.uniform(swing, max(swing, room - swing)))
        top = lane * high + max(0, (high - h) / 2)
        path = Path(
            middle,
            top,
            swing,
            max(0.0, (high - h) / 2 - 1),
            random.uniform(0.03, 0.09),
            random.uniform(0, 6.28),
        )
        placed.append((stamp, path))
    return placed


def _stamp_that_fits(
    text: str, room: tuple[int, int], zoom: float, random: np.random.Generator
) -> Stamp | None:
    """The line in a random hand, words left off at the end until it fits; None if not one word does."""
    font = _FONTS[int(random.integers(len(_FONTS)))]
    scale, color = float(random.uniform(0.5, 1.0)), _INKS[int(random.integers(len(_INKS)))]
    words = text.split()
    while words:
        thickness = max(1, round(zoom * (2 if scale > 0.75 else 1)))
        stamp = render(" ".join(words), font, zoom * scale, thickness, color)
        if stamp.ink.shape[1] <= 0.95 * room[0] and stamp.ink.shape[0] <= room[1]:
            return stamp
        words.pop()
    return None


def render(text: str, font: int, scale: float, thickness: int, color: tuple[int, int, int]) -> Stamp:
    """The text as ink and rim, with the boxes of its words."""
    (width, height), below = cv2.getTextSize(text, font, scale, thickness)
    margin = thickness + 3
    shape = (height + below + 2 * margin, width + 2 * margin)
    origin = (margin, margin + height)
    ink, words, position = np.zeros(shape, np.uint8), [], 0
    for word in text.split():  # drawn apart, so that each box is exactly its word's
        position = text.index(word, position)
        before = cv2.getTextSize(text[:position], font, scale, thickness)[0][0] if position else 0
        alone = np.zeros(shape, np.uint8)
        cv2.putText(alone, word, (origin[0] + before, origin[1]), font, scale, 255, thickness, cv2.LINE_AA)
        x, y, w, h = cv2.boundingRect(alone)
        words.append((x, y, w, h))
        cv2.max(ink, alone, dst=ink)
        position += len(word)
    halo = cv2.GaussianBlur(cv2.dilate(ink, np.ones((3, 3), np.uint8)), (0, 0), 1.2)
    share = ink[:, :, None] / 255
    keep = (1 - share) * (1 - 0.75 / 255 * np.asarray(halo, np.float32)[:, :, None])
    keep = np.repeat(np.rint(255 * keep).astype(np.uint8), 3, axis=2)
    return Stamp(keep, np.rint(share * np.array(color)).astype(np.uint8), words)


def _press(stamp: Stamp, corner: tuple[int, int], image: Image, truth: NDArray[np.uint8]) -> None:
    """Print a stamp into the picture and its words' boxes into the truth; what lies outside is cut off."""
    (left, top), (height, width) = corner, stamp.ink.shape[:2]
    x, y = max(0, left), max(0, top)
    right, bottom = min(image.shape[1], left + width), min(image.shape[0], top + height)
    if x >= right or y >= bottom:
        return
    part = (slice(y - top, bottom - top), slice(x - left, right - left))
    below = image[y:bottom, x:right]
    below[...] = cv2.add(cv2.multiply(below, stamp.keep[part], scale=1 / 255), stamp.ink[part])
    for word_x, word_y, word_width, word_height in stamp.words:
        x1, y1 = max(0, left + word_x), max(0, top + word_y)
        truth[y1 : max(0, top + word_y + word_height), x1 : max(0, left + word_x + word_width)] = 1
