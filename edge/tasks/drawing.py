"""Overlays that stay readable from 320 × 240 to 4K: every size follows the picture's shorter side."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.types import Image

Color = tuple[int, int, int]
"""BGR."""

FONT = cv2.FONT_HERSHEY_SIMPLEX
FONT_HEIGHT = 21  # pixels of a capital letter at scale 1
DARK: Color = (24, 20, 16)
LIGHT: Color = (255, 255, 255)

# Distinguishable on skin, tissue, street and screen, also with red-green blindness (after Okabe and Ito).
PALETTE: tuple[Color, ...] = (
    (233, 180, 86),
    (0, 159, 230),
    (115, 190, 0),
    (66, 228, 240),
    (167, 121, 204),
    (0, 94, 213),
    (178, 114, 0),
    (190, 200, 60),
)


@dataclass(frozen=True, slots=True)
class Style:
    """Sizes in pixels for one picture."""

    line: int
    text: int
    gap: int

    @property
    def scale(self) -> float:
        return self.text / FONT_HEIGHT

    @property
    def weight(self) -> int:
        return max(1, round(self.text / 11))


def style(image: Image) -> Style:
    """Sizes for `image`: text about 1/36 of the shorter side, but never below 9 pixels."""
    shorter = min(image.shape[:2])
    text = round(min(max(shorter / 36, 9), 48))
    return Style(line=max(1, round(shorter / 540)), text=text, gap=max(3, round(text * 0.45)))


def canvas(image: Image) -> Image:
    """A copy to draw on, in colour."""
    if image.ndim == 2 or image.shape[2] == 1:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), np.uint8)
    return np.array(image, order="C")  # OpenCV draws on no view


def color_of(index: int) -> Color:
    return PALETTE[index % len(PALETTE)]


def outline(image: Image, box: tuple[float, float, float, float], color: Color) -> None:
    """A thin box with a dark edge on either side, so that it shows on white as well as on black."""
    x1, y1, x2, y2 = (round(v) for v in box)
    line = style(image).line
    cv2.rectangle(image, (x1, y1), (x2, y2), DARK, line + 2, cv2.LINE_AA)
    cv2.rectangle(image, (x1, y1), (x2, y2), color, line, cv2.LINE_AA)


def tag(image: Image, text: str, x: float, y: float, color: Color) -> None:
    """`text` on a filled label that sits on (x, y), moved as far as needed to lie inside the picture."""
    sizes = style(image)
    width = text_width(image, text)
    w, h = width + 2 * sizes.gap, sizes.text + 2 * sizes.gap
    left = int(min(max(x, 0), max(image.shape[1] - w, 0)))
    top = int(min(max(y - h, 0), max(image.shape[0] - h, 0)))
    cv2.rectangle(image, (left, top), (left + w - 1, top + h - 1), color, cv2.FILLED)
    ink = DARK if np.dot(color, (0.114, 0.587, 0.299)) > 110 else LIGHT
    write(image, text, left + sizes.gap, top + sizes.gap + sizes.text, ink)


def write(image: Image, text: str, x: int, y: int, color: Color) -> None:
    """Anti-aliased text whose baseline starts at (x, y)."""
    sizes = style(image)
    cv2.putText(image, text, (x, y), FONT, sizes.scale, color, sizes.weight, cv2.LINE_AA)


def text_width(image: Image, text: str) -> int:
    sizes = style(image)
    width: int = cv2.getTextSize(text, FONT, sizes.scale, sizes.weight)[0][0]
    return width


def shade(image: Image, left: int, top: int, right: int, bottom: int, strength: float = 0.6) -> None:
    """Darken a rectangle, for text that lies on it."""
    part = image[max(top, 0) : bottom, max(left, 0) : right]
    if part.size:
        cv2.addWeighted(part, 1 - strength, np.full_like(part, DARK), strength, 0, dst=part)


def tint(part: Image, strength: NDArray[np.float32], color: Color) -> Image:
    """`part` of a picture with `color` blended in, by H × W weights from 0 to 1."""
    if not part.size:
        return part
    full = np.full_like(part, color)
    return np.asarray(cv2.blendLinear(part, full, 1 - strength, strength), np.uint8)
