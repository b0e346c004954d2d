"""The figure of accuracy against speed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from edge.signoff.canvas import FAILED, FAINT, INK, LINE, PAPER, SMALL, color, style
from edge.signoff.data import COSINE, Engine
from edge.signoff.glossary import Metric
from edge.signoff.labels import Box, Label, place
from edge.signoff.words import number

MARKERS = {"fast": "o", "exact": "s", "w8a16": "D", "w4a16": "^"}
NEAR = 12
"""Marks so near, in pixels, become one."""
LEVELS = 132
"""Right of the trade-off figure, for what its lines mean, in pixels."""


def pareto(axes: Any, engines: Sequence[Engine], metric: Metric) -> None:
    """Accuracy against expected speed-up, with the original's accuracy and the least that the gate allows.

    Args:
        engines: some of which are `drawable`.
    """
    shown = drawable(engines)
    known = [engine.speed_up for engine in shown if engine.speed_up is not None]
    aside = _aside(known) if len(known) < len(shown) else None
    points = [_point(engine, aside) for engine in shown]
    fp32, least = _bounds(shown)
    _limits(axes, points, fp32, least)
    x = "expected speed-up over the carrier on the same device, ×  (faster →)"
    style(axes, x, f"{metric.name}  (better ↑)")
    lines = _levels(axes, _meanings(axes, fp32, least, metric))
    if aside is not None:
        _fence(axes, aside, min([1.0, *known]))
    able = [engine.speed_up is not None and engine.passes is not False for engine in shown]
    _frontier(axes, [point for point, fine in zip(points, able, strict=True) if fine])
    clusters = _clusters(axes, shown, points)
    for engines_here, point in clusters:
        _mark(axes, engines_here[0], point)
    labels = [Label(_names(engines_here), *point) for engines_here, point in clusters]
    place(axes, labels, lines, fontsize=SMALL, color=INK)


def drawable(engines: Sequence[Engine]) -> list[Engine]:
    """Those of one metric whose accuracy is known."""
    able = [e for e in engines if e.accuracy is not None and e.drop is not None]
    return [
        e for e in able if e.accuracy and able[0].accuracy and e.accuracy.metric == able[0].accuracy.metric
    ]


def _bounds(shown: Sequence[Engine]) -> tuple[float, float | None]:
    """The original's accuracy, and the least that the gate lets pass."""
    accuracy = shown[0].accuracy
    assert accuracy is not None and accuracy.fp32 is not None
    what = "cosine" if accuracy.metric == COSINE else "drop"
    limit = next((c.limit for c in shown[0].checks if c.what == what), None)
    if limit is None or what == "cosine":
        return accuracy.fp32, limit
    return accuracy.fp32, accuracy.fp32 - limit


def _meanings(axes: Any, fp32: float, least: float | None, metric: Metric) -> list[tuple[float, str, str]]:
    """Accuracies to draw a line at, what they mean, and their colours; shades what the gate refuses."""
    levels = [(fp32, f"original, fp32\n{number(fp32, metric.digits)}", FAINT)]
    if least is None:
        return levels
    low = axes.get_ylim()[0]
    if low < least:
        axes.axhspan(low, least, color=FAILED, alpha=0.07, linewidth=0)
        return [*levels, (least, f"the gate refuses\nbelow {number(least, metric.digits)}", FAILED)]
    axes.annotate(
        f"▼ farther down: the\ngate, at {number(least, metric.digits)}", (1, 0), (6, 0),
        xycoords="axes fraction", textcoords="offset points", fontsize=SMALL, color=FAILED, va="bottom",
        linespacing=1.15,
    )  # fmt: skip
    return levels


def _mark(axes: Any, engine: Engine, point: tuple[float, float]) -> None:
    """Shaped after its variant, coloured after what it mostly computes in; hollow and red if it fails."""
    fine = engine.passes is not False
    axes.plot(
        *point, MARKERS.get(engine.manifest.variant, "o"), markersize=8.5, zorder=3,
        markerfacecolor=color(engine.types.split("+")[0], engine.manifest.carrier) if fine else PAPER,
        markeredgecolor=PAPER if fine else FAILED, markeredgewidth=1.0 if fine else 2.0,
    )  # fmt: skip


def _point(engine: Engine, aside: float | None) -> tuple[float, float]:
    """Where an engine lies; `aside` is for those of unknown speed."""
    assert engine.accuracy is not None and engine.accuracy.this is not None
    x = engine.speed_up if engine.speed_up is not None else aside
    assert x is not None
    return x, engine.accuracy.this


def _aside(known: Sequence[float]) -> float:
    """Left of all speeds there are."""
    left, right = min([1.0, *known]), max([1.0, *known])
    return left - 0.3 * ((right - left) or 0.3)


def _fence(axes: Any, aside: float, left: float) -> None:
    """Apart from the others, and without numbers below."""
    fence = (aside + left) / 2
    axes.axvline(fence, color=LINE, linewidth=1.0)
    ticks = [tick for tick in axes.get_xticks() if fence < tick < axes.get_xlim()[1]]
    axes.set_xticks([aside, *ticks], ["not estimated", *(f"{round(tick, 4):g}" for tick in ticks)])


def _limits(axes: Any, points: Sequence[tuple[float, float]], fp32: float, least: float | None) -> None:
    """Room for the labels, and for the gate's limit unless the points would then lie on one line."""
    xs, ys = [x for x, _ in points], [*(y for _, y in points), fp32]
    spread = max(ys) - min(ys)
    if least is not None and (spread == 0 or fp32 - least <= 12 * spread):
        ys.append(least)
    low, high = min(ys), max(ys)
    room = 0.18 * (high - low) or 0.02 * abs(high) or 0.01
    left, right = min([*xs, 1.0]), max([*xs, 1.0])
    wide = 0.16 * (right - left) or 0.2
    axes.set_xlim(left - wide, right + wide)
    axes.set_ylim(low - room, high + room)


def _levels(axes: Any, levels: Sequence[tuple[float, str, str]]) -> list[Box]:
    """Lines at these accuracies, highest first, with their meaning at the right; returns where they are."""
    frame, above, found = axes.get_window_extent(), math.inf, []
    for y, text, ink in levels:
        axes.axhline(y, color=ink, linewidth=1.0, linestyle=(0, (5, 3)), zorder=1)
        pixel = float(axes.transData.transform((0, y))[1])
        at = min(pixel, above - 32)
        axes.annotate(
            text, (1, (at - frame.y0) / frame.height), (6, 0), xycoords="axes fraction",
            textcoords="offset points", fontsize=SMALL, color=ink, va="center", linespacing=1.15,
        )  # fmt: skip
        above = at
        found.append(Box(frame.x0, pixel - 1, frame.x1, pixel + 1))
    return found


def _frontier(axes: Any, points: Sequence[tuple[float, float]]) -> None:
    """The points that no other beats in both accuracy and speed."""
    best = [p for p in set(points) if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)]
    if len(best) > 1:
        xs, ys = zip(*sorted(best), strict=True)
        axes.plot(
            xs, ys, color=LINE, linewidth=5, zorder=1.2, solid_capstyle="round", solid_joinstyle="round"
        )


def _clusters(
    axes: Any, engines: Sequence[Engine], points: Sequence[tuple[float, float]]
) -> list[tuple[list[Engine], tuple[float, float]]]:
    """Engines of one variant and kind that would cover each other, and where the first of them lies."""
    found: list[tuple[list[Engine], tuple[float, float]]] = []
    for engine, point in zip(engines, points, strict=True):
        here = axes.transData.transform(point)
        for cluster, there in found:
            near = math.dist(here, axes.transData.transform(there)) < NEAR
            if near and _kind(cluster[0]) == _kind(engine):
                cluster.append(engine)
                break
        else:
            found.append(([engine], point))
    return found


def _kind(engine: Engine) -> tuple[str, str, bool | None]:
    return engine.manifest.variant, engine.types if engine.is_quantized else "", engine.passes


def _names(cluster: Sequence[Engine]) -> str:
    targets = [engine.manifest.target for engine in cluster]
    names = ", ".join(targets[:3]) + (f" +{len(targets) - 3}" if len(targets) > 3 else "")
    kind = cluster[0].types if cluster[0].is_quantized else cluster[0].manifest.variant
    return f"{names}: {kind}"
