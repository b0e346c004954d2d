"""Labels beside points of a figure that cover neither each other nor a point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

DISTANCES = (9, 18, 30, 44, 60, 78, 98, 120)
"""From the point to the label, in pixels; from the third on a line leads there."""
AROUND = (0, 180, 40, -40, 140, -140, 90, -90, 65, -65, 115, -115)
"""Angles at which a label may stand, right and left first."""
ABOVE = (90, 70, 110, 45, 135, 20, 160)
MARGIN = 2.0


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels."""

    x0: float
    y0: float
    x1: float
    y1: float

    def overlap(self, other: Box) -> float:
        """Area that both cover."""
        width = min(self.x1, other.x1) - max(self.x0, other.x0)
        height = min(self.y1, other.y1) - max(self.y0, other.y0)
        return width * height if width > 0 and height > 0 else 0.0

    @property
    def area(self) -> float:
        return (self.x1 - self.x0) * (self.y1 - self.y0)


@dataclass(frozen=True, slots=True)
class Label:
    """What to write beside a point, which is given in the axes' own units."""

    text: str
    x: float
    y: float


def place(
    axes: Any,
    labels: Sequence[Label],
    taken: Sequence[Box] = (),
    angles: Sequence[int] = AROUND,
    **style: Any,
) -> None:
    """Write the labels; the limits and the position of the axes have to be final.

    Args:
        taken: what else must not be covered, in pixels.
        angles: from the point to its label, in degrees, the best first.
        style: of the texts.
    """
    renderer, frame = axes.figure.canvas.get_renderer(), axes.get_window_extent()
    points = 72 / axes.figure.dpi  # a pixel; files are written in other resolutions
    inside = Box(frame.x0, frame.y0, frame.x1, frame.y1)
    pixels = [tuple(map(float, axes.transData.transform((label.x, label.y)))) for label in labels]
    full = [*taken, *(Box(x - 5, y - 5, x + 5, y + 5) for x, y in pixels)]
    for label, (x, y) in zip(labels, pixels, strict=True):
        text = axes.annotate(
            label.text,
            (label.x, label.y),
            (0, 0),
            textcoords="offset points",
            va="center",
            ha="center",
            parse_math=False,
            **style,
        )
        extent = text.get_window_extent(renderer)
        far, box = _best((x, y), (extent.width, extent.height), full, inside, angles)
        dx, dy = (box.x0 + box.x1) / 2 - x, (box.y0 + box.y1) / 2 - y
        text.set_position((dx * points, dy * points))
        full.append(box)
        if far:
            end = _edge((x, y), box)
            _lead(axes, (x, y), end, style.get("color", "black"))
            full += _along((x, y), end)


def _best(
    point: tuple[float, float],
    size: tuple[float, float],
    full: Sequence[Box],
    inside: Box,
    angles: Sequence[int],
) -> tuple[bool, Box]:
    """Where a label of this size covers least, the nearer the better, and whether that is far away."""
    found: list[tuple[float, int, Box]] = []
    for near, distance in enumerate(DISTANCES):
        for angle in angles:
            box = _beside(point, size, distance, math.radians(angle))
            outside = box.area - box.overlap(inside)
            cost = sum(box.overlap(other) for other in full) + 3 * outside
            if cost == 0:
                return near >= 2, box
            found.append((cost, near, box))
    _, near, box = min(found, key=lambda each: each[:2])
    return near >= 2, box


def _beside(point: tuple[float, float], size: tuple[float, float], distance: float, angle: float) -> Box:
    """The label's box so that its edge, not its centre, is that far away."""
    (x, y), (width, height) = point, (size[0] + 2 * MARGIN, size[1] + 2 * MARGIN)
    cos, sin = math.cos(angle), math.sin(angle)
    x += cos * distance + (0.0 if abs(cos) < 0.1 else math.copysign(width / 2, cos))
    y += sin * distance + (0.0 if abs(sin) < 0.1 else math.copysign(height / 2, sin))
    return Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _edge(point: tuple[float, float], box: Box) -> tuple[float, float]:
    """The nearest place of the box."""
    x, y = point
    return min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1)


def _lead(axes: Any, start: tuple[float, float], end: tuple[float, float], color: str) -> None:
    data = axes.transData.inverted()
    (x0, y0), (x1, y1) = data.transform(start), data.transform(end)
    axes.plot([x0, x1], [y0, y1], color=color, linewidth=0.6, zorder=1.5, scalex=False, scaley=False)


def _along(start: tuple[float, float], end: tuple[float, float], every: float = 6.0) -> list[Box]:
    """Small boxes on a line, so that no later label covers it."""
    (x0, y0), (x1, y1) = start, end
    steps = max(1, int(math.hypot(x1 - x0, y1 - y0) / every))
    places = ((x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps) for i in range(1, steps))
    return [Box(x - 1, y - 1, x + 1, y + 1) for x, y in places]
