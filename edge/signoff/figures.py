"""The figures, each drawn onto axes: the page shows them one by one, the picture puts them together.

Ink, lines and paper are written in the colours of light paper; `as_svg` makes them the page's own, and so
figures turn dark with the page.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edge.errors import missing_package
from edge.signoff.data import Engine, Group, TensorRange
from edge.signoff.glossary import Metric
from edge.signoff.html import Html
from edge.signoff.labels import ABOVE, Box, Label, place
from edge.signoff.words import counted, number, percent, shortened

INK, FAINT, LINE, PAPER = "#1f2430", "#667085", "#dfe3e9", "#ffffff"
FAILED = "#c2413b"
THEME = {INK: "var(--ink)", FAINT: "var(--faint)", LINE: "var(--line)", PAPER: "var(--paper)"}
"""What these colours are called on the page."""
COLOURS: Mapping[str, str] = {
    "int8": "#2f74c0",
    "fp8": "#139a7b",
    "w8a16": "#8b6fd0",
    "w4a16": "#c45fa0",
    "bf16": "#a9b1bd",
    "fp16": "#a9b1bd",
    "fp32": "#d99a3d",
}
"""By precision. What is not quantized is grey, but fp32 stands out where it is not the carrier."""
GREY = COLOURS["bf16"]
ON_GREY, ON_COLOUR = "#1f2431", "#fffffe"
"""Text on these colours, which stay what they are when the page turns dark."""
MARKERS = {"fast": "o", "exact": "s", "w8a16": "D", "w4a16": "^"}
NAMED = 24
"""So many groups have their names below the bars; of more only the noisiest are named."""
NOISIEST = 6
LEVELS = 132
"""Right of the trade-off figure, for what its lines mean, in pixels."""
BEYOND = 1.6
"""Where noise is infinite, its bar is so much higher than the highest."""
SMALL, NORMAL = 8.5, 9.5

Draw = Callable[[Any], None]


def new_figure(width: float, height: float) -> Any:
    """A figure of so many pixels, 100 of which are an inch.

    Raises:
        MissingPackage: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as e:
        raise missing_package("matplotlib", "report", "the report") from e
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def as_svg(
    draw: Draw, width: float, height: float, margins: tuple[float, float, float, float], title: str
) -> Html:
    """The figure as an element of a page.

    Args:
        margins: left, right, top and bottom of the axes, in pixels.
        title: what it shows, for those who cannot see it.
    """
    import matplotlib as mpl

    figure = new_figure(width, height)
    left, right, top, bottom = margins
    box = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    draw(figure.add_axes(box))
    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(file, format="svg", transparent=True)
    return _for_page(file.getvalue(), title)


def _for_page(svg: str, title: str) -> Html:
    from html import escape

    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for color, name in THEME.items():
        svg = svg.replace(color, name)
    return Html(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1).strip())


def color(precision: str, carrier: str) -> str:
    """Of a precision, in an engine with this carrier."""
    return GREY if precision == carrier else COLOURS.get(precision, GREY)


# ---------------------------------------------------------------------- accuracy against speed


def pareto(axes: Any, engines: Sequence[Engine], metric: Metric) -> None:
    """Accuracy against expected speed-up, with the original's accuracy and the least that the gate allows."""
    shown = drawable(engines)
    points = [_point(engine) for engine in shown]
    fp32 = next(e.accuracy.fp32 for e in shown if e.accuracy and e.accuracy.fp32 is not None)
    limit = next((c.limit for e in shown for c in e.checks if c.what == "drop" and c.limit is not None), None)
    least = None if limit is None else fp32 - limit
    _limits(axes, points, fp32, least)
    style(
        axes,
        "expected speed-up over the carrier on the same device, ×  (faster →)",
        f"{metric.name}  (better ↑)",
    )
    levels = [(fp32, f"original, fp32\n{number(fp32, metric.digits)}", FAINT)]
    if least is not None and axes.get_ylim()[0] < least:
        axes.axhspan(axes.get_ylim()[0], least, color=FAILED, alpha=0.07, linewidth=0)
        levels.append((least, f"the gate refuses\nbelow {number(least, metric.digits)}", FAILED))
    lines = _levels(axes, levels)
    if least is not None and len(levels) == 1:
        told = f"▼ farther down, the gate\nrefuses below {number(least, metric.digits)}"
        axes.annotate(
            told, (1, 0), (6, 0), xycoords="axes fraction", textcoords="offset points",
            fontsize=SMALL, color=FAILED, va="bottom", linespacing=1.15,
        )  # fmt: skip
    _frontier(axes, points)
    clusters = _clusters(axes, shown)
    for cluster in clusters:
        x, y = _point(cluster[0])
        first = cluster[0]
        fine = first.passes is not False
        face = color(first.types.split("+")[0], first.manifest.carrier)
        axes.plot(
            x, y, MARKERS.get(first.manifest.variant, "o"), markersize=8.5, zorder=3,
            markerfacecolor=face if fine else PAPER, markeredgecolor=PAPER if fine else FAILED,
            markeredgewidth=1.0 if fine else 2.0,
        )  # fmt: skip
    labels = [Label(_names(cluster), *_point(cluster[0])) for cluster in clusters]
    place(axes, labels, lines, fontsize=SMALL, color=INK)


def drawable(engines: Sequence[Engine]) -> list[Engine]:
    """Those whose accuracy and speed are known."""
    return [
        e
        for e in engines
        if e.speed_up is not None and e.accuracy and None not in (e.accuracy.this, e.accuracy.fp32)
    ]


def _point(engine: Engine) -> tuple[float, float]:
    assert engine.speed_up is not None and engine.accuracy and engine.accuracy.this is not None
    return engine.speed_up, engine.accuracy.this


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
    for y, text, color in levels:
        axes.axhline(y, color=color, linewidth=1.0, linestyle=(0, (5, 3)), zorder=1)
        pixel = float(axes.transData.transform((0, y))[1])
        at = min(pixel, above - 32)
        axes.annotate(
            text, (1, (at - frame.y0) / frame.height), (6, 0), xycoords="axes fraction",
            textcoords="offset points", fontsize=SMALL, color=color, va="center", linespacing=1.15,
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


def _clusters(axes: Any, engines: Sequence[Engine]) -> list[list[Engine]]:
    """Engines of one variant and kind that would cover each other."""
    found: list[list[Engine]] = []
    for engine in engines:
        here = axes.transData.transform(_point(engine))
        for cluster in found:
            first = cluster[0]
            same = (first.manifest.variant, first.types, first.passes) == (
                engine.manifest.variant,
                engine.types,
                engine.passes,
            )
            there = axes.transData.transform(_point(first))
            if same and math.dist(here, there) < 7:
                cluster.append(engine)
                break
        else:
            found.append([engine])
    return found


def _names(cluster: Sequence[Engine]) -> str:
    targets = [engine.manifest.target for engine in cluster]
    names = ", ".join(targets[:3]) + (f" +{len(targets) - 3}" if len(targets) > 3 else "")
    kind = cluster[0].types if cluster[0].is_quantized else cluster[0].manifest.variant
    return f"{names}: {kind}"


# ---------------------------------------------------------------------- sensitivity and precisions


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
                        rotation_mode="anchor", fontsize=SMALL)  # fmt: skip
        return
    axes.set_xlabel("group, numbered in graph order", fontsize=NORMAL, color=FAINT)
    bars = _bars(axes, drawn)
    labels = [Label(f"{i + 1} {shortened(groups[i].name, 26)}", i + 1, drawn[i]) for i in sorted(ranked)]
    place(axes, labels, bars, ABOVE, fontsize=SMALL, color=INK)


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
                    color=ON_GREY if color(group.precision, carrier) == GREY else ON_COLOUR,
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
            shown.append((x, tried.method.replace("percentile ", "p"), accent if chosen else INK, chosen))
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


# ---------------------------------------------------------------------- style


def style(axes: Any, x: str, y: str) -> None:
    """Quiet axes."""
    axes.set_facecolor("none")
    axes.set_xlabel(x, fontsize=NORMAL, color=FAINT)
    axes.set_ylabel(y, fontsize=NORMAL, color=FAINT)
    axes.tick_params(colors=FAINT, labelsize=SMALL, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.set_axisbelow(True)


def bare(axes: Any) -> None:
    """No ticks, no frame, no ground."""
    axes.set_facecolor("none")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
