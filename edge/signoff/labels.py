"""Labels beside points of a figure that cover neither each other nor a point."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

DISTANCES = (9, 18, 30, 44, 60, 78, 98, 120, 145)
"""From the point to the label, in pixels; from the third on a line leads there."""
LEAD = 2
AROUND = (0, 180, 40, -40, 140, -140, 90, -90, 65, -65, 115, -115, 20, -20, 160, -160, 78, -78, 102, -102)
"""Angles at which a label may stand, right and left first."""
ABOVE = (90, 70, 110, 45, 135, 20, 160)
MARGIN = 2.0
FREE = 1e-6
"""What costs less covers nothing."""
HIDDEN = 200.0
"""What it costs to cover a thing at all, beside the area in pixels."""
SHUFFLES = 16

Point = tuple[float, float]


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
    walls: Sequence[Box] = (),
    angles: Sequence[int] = AROUND,
    optional: bool = False,
    **style: Any,
) -> None:
    """Write the labels; the limits and the position of the axes have to be final.

    Args:
        taken: what else must not be covered, in pixels; a line to a label may cross it.
        walls: what a line may not cross either.
        angles: from the point to its label, in degrees, the best first.
        optional: leave out a label that there is no room for.
        style: of the texts.
    """
    renderer, frame = axes.figure.canvas.get_renderer(), axes.get_window_extent()
    inside = Box(frame.x0, frame.y0, frame.x1, frame.y1)
    points = [_pixel(axes, label) for label in labels]
    texts = [
        axes.annotate(
            label.text, (label.x, label.y), (0, 0), textcoords="offset points", va="center", ha="center",
            parse_math=False, **style,
        )
        for label in labels
    ]  # fmt: skip
    sizes = [(extent.width, extent.height) for extent in (t.get_window_extent(renderer) for t in texts)]
    pixel = 72 / axes.figure.dpi  # in points; files are written in other resolutions
    for text, (x, y), spot in zip(
        texts, points, _arranged(points, sizes, _Room(inside, taken, walls, angles)), strict=True
    ):
        if optional and spot.cost >= FREE:
            text.remove()
            continue
        dx, dy = (spot.box.x0 + spot.box.x1) / 2 - x, (spot.box.y0 + spot.box.y1) / 2 - y
        text.set_position((dx * pixel, dy * pixel))
        if spot.far:
            _lead(axes, (x, y), _edge((x, y), spot.box), style.get("color", "black"))


@dataclass(frozen=True, slots=True)
class _Spot:
    """A label's place, what it costs, and whether a line has to lead there."""

    box: Box
    far: bool
    cost: float


def _arranged(points: Sequence[Point], sizes: Sequence[Point], empty: _Room) -> Sequence[_Spot]:
    """A place for every label: one after the other, in the order of a few that leaves least covered."""
    best: dict[int, _Spot] = {}
    least = math.inf
    for order, angles in _orders(points, empty.angles):
        marks = [*empty.marks, *(Box(x - 5, y - 5, x + 5, y + 5) for x, y in points)]
        room = replace(empty, marks=marks, angles=angles)
        spots: dict[int, _Spot] = {}
        for index in order:
            point, spot = points[index], room.best(points[index], sizes[index])
            spots[index] = spot
            marks.append(spot.box)
            marks += _along(point, _edge(point, spot.box)) if spot.far else []
        total = sum(spot.cost for spot in spots.values())
        if total < least:
            best, least = spots, total
        if least < FREE:
            break
    return [best[index] for index in range(len(points))]


def _orders(points: Sequence[Point], angles: Sequence[int]) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """Of labels and angles: as given, from both sides, and some others; always the same."""
    by_x = sorted(range(len(points)), key=lambda i: points[i])
    yield range(len(points)), angles
    yield by_x, angles
    yield by_x[::-1], angles
    random = Random(0)
    for _ in range(SHUFFLES):
        yield random.sample(by_x, len(by_x)), random.sample(angles, len(angles))


def _pixel(axes: Any, label: Label) -> Point:
    x, y = axes.transData.transform((label.x, label.y))
    return float(x), float(y)


@dataclass(frozen=True, slots=True)
class _Room:
    """Where there is room for a label.

    Attributes:
        taken: what no label may cover, but a line to one may cross.
        marks: what neither may: walls, points, labels and lines so far.
    """

    inside: Box
    taken: Sequence[Box]
    marks: Sequence[Box]
    angles: Sequence[int]

    def best(self, point: Point, size: Point) -> _Spot:
        """Where a label of this size covers least, the nearer the better."""
        found = None
        for near, distance in enumerate(DISTANCES):
            far = near >= LEAD
            for angle in self.angles:
                box = _beside(point, size, distance, math.radians(angle))
                cost = self._cost(point, box, far)
                if found is None or cost < found.cost:
                    found = _Spot(box, far, cost)
                if cost < FREE:
                    return found
        assert found is not None
        return found

    def _cost(self, point: Point, box: Box, far: bool) -> float:
        cost = 3 * (box.area - box.overlap(self.inside))
        hidden = [area for other in (*self.taken, *self.marks) if (area := box.overlap(other)) > 0]
        if far:
            line = _along(point, _edge(point, box))[1:]
            hidden += [area for step in line for mark in self.marks if (area := step.overlap(mark)) > 0]
        return cost + sum(hidden) + HIDDEN * len(hidden)


def _beside(point: Point, size: Point, distance: float, angle: float) -> Box:
    """The label's box so that its edge, not its centre, is that far away."""
    (x, y), (width, height) = point, (size[0] + 2 * MARGIN, size[1] + 2 * MARGIN)
    cos, sin = math.cos(angle), math.sin(angle)
    x += cos * distance + (0.0 if abs(cos) < 0.1 else math.copysign(width / 2, cos))
    y += sin * distance + (0.0 if abs(sin) < 0.1 else math.copysign(height / 2, sin))
    return Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _edge(point: Point, box: Box) -> Point:
    """The nearest place of the box."""
    x, y = point
    return min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1)


def _lead(axes: Any, start: Point, end: Point, color: str) -> None:
    data = axes.transData.inverted()
    (x0, y0), (x1, y1) = data.transform(start), data.transform(end)
    axes.plot([x0, x1], [y0, y1], color=color, linewidth=0.6, zorder=1.5, scalex=False, scaley=False)


def _along(start: Point, end: Point, every: float = 5.0) -> list[Box]:
    """Small boxes on a line, so that no later label covers it."""
    (x0, y0), (x1, y1) = start, end
    steps = max(1, int(math.hypot(x1 - x0, y1 - y0) / every))
    places = ((x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps) for i in range(1, steps))
    return [Box(x - 2, y - 2, x + 2, y + 2) for x, y in places]
