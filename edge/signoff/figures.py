"""Figures about one engine, each drawn onto axes: the page shows them one by one, the picture joins them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from edge.signoff.canvas import (
    FAINT,
    GREY,
    INK,
    LINE,
    NORMAL,
    ON_COLOUR,
    ON_GREY,
    SMALL,
    bare,
    color,
    style,
)
from edge.signoff.data import Engine
from edge.signoff.kept import Group, TensorRange
from edge.signoff.labels import ABOVE, Box, Label, place
from edge.signoff.words import counted, method, percent, shortened

NAMED = 24
"""So many groups have their names below the bars; of more only the noisiest are named."""
NOISIEST = 6
BEYOND = 1.6
"""Where noise is infinite, its bar is so much higher than the highest."""


def sensitivity(axes: Any, engine: Engine) -> None:
    """What quantizing each group alone does, in graph order; the bar's colour is what was chosen for it."""
    groups, carrier = engine.groups, engine.manifest.carrier
    heights = [noise_of(group, engine) for group in groups]
    finite = [h for h in heights if 0 < h < math.inf]
    top, low = (max(finite), min(finite)) if finite else (1.0, 0.1)
    low = max(low, top * 1e-7) / 2
    drawn = [min(max(h, low * 1.15), top * BEYOND) for h in heights]
    places = range(1, len(groups) + 1)
    axes.bar(places, [h - low for h in drawn], 0.82 if len(groups) < 120 else 1.0, low,
             color=[color(g.precision, carrier) for g in groups], linewidth=0)  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylim(low, top * 10 ** (0.28 * max(math.log10(top / low), 1)))
    axes.set_xlim(0.3, len(groups) + 0.7)
    style(axes, "", "noise if quantized alone  (worse ↑)")
    axes.yaxis.grid(True, color=LINE, linewidth=0.8)
    ranked = sorted(range(len(groups)), key=lambda i: -drawn[i])[:NOISIEST]
    if len(groups) <= NAMED:
        axes.set_xticks(places, [shortened(g.name, 22) for g in groups], rotation=38, ha="right",
                        rotation_mode="anchor", fontsize=SMALL, parse_math=False)  # fmt: skip
        return
    axes.set_xlabel("group, numbered in graph order", fontsize=NORMAL, color=FAINT)
    lowest = min(drawn[i] for i in ranked)  # labels stand above their bars: lower ones are in nobody's way
    bars = [bar for bar, height in zip(_bars(axes, drawn), drawn, strict=True) if height >= lowest]
    labels = [Label(f"{i + 1} {shortened(groups[i].name, 26)}", i + 1, drawn[i]) for i in sorted(ranked)]
    place(axes, labels, walls=bars, angles=ABOVE, optional=True, fontsize=SMALL, color=INK)


def _bars(axes: Any, heights: Sequence[float]) -> list[Box]:
    found = []
    bottom = axes.get_ylim()[0]
    for index, height in enumerate(heights):
        x0, y0 = axes.transData.transform((index + 0.5, bottom))
        x1, y1 = axes.transData.transform((index + 1.5, height))
        found.append(Box(float(x0), float(y0), float(x1), float(y1)))
    return found


def noise_of(group: Group, engine: Engine) -> float:
    """In the precision it has; of one that stayed in the carrier, in the type the engine mostly uses."""
    for kind in (group.precision, *engine.types.split("+")):
        if kind in group.types:
            return group.types[kind].noise
    return group.worst


def precision_map(axes: Any, engine: Engine) -> None:
    """Every group in graph order, as wide as its share of the work, in rows; names where they fit."""
    from matplotlib.patches import Rectangle

    rows = map_rows(engine)
    longest = max(sum(width for _, _, width in row) for row in rows)
    axes.set(xlim=(0, longest), ylim=(len(rows), 0))
    bare(axes)
    pixels = axes.get_window_extent().width / longest
    carrier = engine.manifest.carrier
    for line, row in enumerate(rows):
        x = 0.0
        for index, group, width in row:
            gap = min(1.0 / pixels, 0.15 * width)
            axes.add_patch(
                Rectangle(
                    (x, line + 0.08),
                    width - gap,
                    0.62,
                    linewidth=0,
                    facecolor=color(group.precision, carrier),
                )
            )
            name = group.name if 7 * len(group.name) < width * pixels - 8 else str(index)
            if 7 * len(name) < width * pixels - 3:
                axes.text(
                    x + (width - gap) / 2, line + 0.39, name, fontsize=SMALL - 0.5, ha="center", va="center",
                    color=ON_GREY if color(group.precision, carrier) == GREY else ON_COLOUR, parse_math=False,
                )  # fmt: skip
            x += width
        first, last = row[0][0], row[-1][0]
        span = f"groups {first}–{last}" if first != last else f"group {first}"
        axes.text(0, line + 0.86, span, fontsize=SMALL - 1, color=FAINT, va="center")


def map_rows(engine: Engine) -> list[list[tuple[int, Group, float]]]:
    """Number, group and width; as many rows of about the same work as the groups need."""
    groups = engine.groups
    total = sum(group.macs for group in groups)
    least = 0.35 / len(groups)  # so that a group with next to no work is seen
    widths = [max(g.macs / total, least) if total else 1 / len(groups) for g in groups]
    count = 1 if len(groups) <= 12 else min(5, 2 + len(groups) // 60)
    rows: list[list[tuple[int, Group, float]]] = [[] for _ in range(count)]
    so_far, everything = 0.0, sum(widths)
    for index, (group, width) in enumerate(zip(groups, widths, strict=True)):
        line = min(int((so_far + width / 2) / everything * count), count - 1)
        rows[line].append((index + 1, group, width))
        so_far += width
    return [row for row in rows if row]


def precisions(engine: Engine) -> list[tuple[str, str, str]]:
    """Legend of the colours: precision, colour, and how much there is of it."""
    used: dict[str, list[Group]] = {}
    for group in engine.groups:
        used.setdefault(group.precision, []).append(group)
    total = sum(group.macs for group in engine.groups)
    found = []
    for name, groups in sorted(used.items(), key=lambda item: -sum(g.macs for g in item[1])):
        share = f"{percent(sum(g.macs for g in groups) / total)} of the work, " if total else ""
        found.append((name, color(name, engine.manifest.carrier), f"{share}{counted(len(groups), 'group')}"))
    return found


# ---------------------------------------------------------------------- ranges


def histogram(axes: Any, tensor: TensorRange, accent: str) -> None:
    """How often a tensor has which value, and the thresholds beyond which values are clipped."""
    first, last = tensor.edges
    width = (last - first) / max(len(tensor.counts), 1)
    centers = [first + (i + 0.5) * width for i in range(len(tensor.counts))]
    axes.bar(centers, [max(c, 0.0) for c in tensor.counts], width, color=FAINT, alpha=0.55, linewidth=0)
    axes.set_yscale("log")
    axes.set_ylim(0.7, max(max(tensor.counts, default=1), 1) * 1.6)
    reach = max(
        [abs(t.threshold) for t in tensor.tried if t.threshold <= 1.5 * max(-first, last)], default=0.0
    )
    right = max(last, reach if last > 0 else last)
    left = first if first < 0 else 0.0
    axes.set_xlim(left - 0.02 * (right - left), right + 0.02 * (right - left))
    style(axes, "value", "count")
    shown = []
    for index, tried in enumerate(tensor.tried):
        chosen = index == 0
        look = {"color": accent if chosen else INK, "linewidth": 2.2 if chosen else 0.9}
        look |= {"linestyle": "-" if chosen else (0, (3, 2)), "zorder": 4 if chosen else 3}
        for x in (tried.threshold, -tried.threshold):
            if axes.get_xlim()[0] <= x <= axes.get_xlim()[1]:
                axes.axvline(x, **look)
        x = tried.threshold if tried.threshold <= axes.get_xlim()[1] else -tried.threshold
        if axes.get_xlim()[0] <= x <= axes.get_xlim()[1]:
            shown.append((x, method(tried.method), accent if chosen else INK, chosen))
    _flags(axes, sorted(shown))


def _flags(axes: Any, lines: Sequence[tuple[float, str, str, bool]]) -> None:
    """Slanted names above lines, moved apart where these are close."""
    frame = axes.get_window_extent()
    at = [float(axes.transData.transform((x, 1))[0]) for x, *_ in lines]
    need = 14.0
    moved = list(at)
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + need)
    over = max(0.0, moved[-1] - frame.x1) if moved else 0.0
    for i in range(len(moved) - 1, -1, -1):
        most = frame.x1 if i == len(moved) - 1 else moved[i + 1] - need
        moved[i] = min(moved[i], most) if over else moved[i]
    for (_, name, ink, chosen), x, label in zip(lines, at, moved, strict=True):
        place_x, label_x = (x - frame.x0) / frame.width, (label - frame.x0) / frame.width
        axes.annotate(
            name, (place_x, 1.0), (label_x, 1.0 + 9 / frame.height), xycoords="axes fraction",
            textcoords="axes fraction", rotation=52, ha="left", va="bottom", rotation_mode="anchor",
            fontsize=SMALL - 0.5, color=ink, fontweight="bold" if chosen else "normal", annotation_clip=False,
        )  # fmt: skip
        axes.plot([place_x, label_x], [1.0, 1.0 + 8 / frame.height], transform=axes.transAxes, color=ink,
                  linewidth=0.7, clip_on=False)  # fmt: skip
