"""The summary figure: what was built, what the feeds showed, where the time went. One page, one PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.errors import missing_package
from edge.targets import TARGETS
from edge.types import Image

INK, FAINT, LINE = "#1f2430", "#6b7280", "#e2e5ea"
STATES = {"verified": "#2a9d62", "simulated": "#3b82c4", "bundle": "#c98a1b"}
FAILED = "#c2413b"
STAGES = {"waiting": "#c9ced6", "preprocess": "#7fb7be", "infer": "#2f6690", "postprocess": "#e0a458"}
STATE_HELP = {
    "verified": "ran here",
    "simulated": "compiled, checked on the processor",
    "bundle": "to compile on the device",
}


@dataclass(frozen=True, slots=True)
class FeedPicture:
    """One annotated frame of a feed, and what to call it."""

    title: str
    image: Image


def draw_summary(
    path: Path,
    title: str,
    subtitle: str,
    pictures: Sequence[FeedPicture],
    rows: Sequence[Mapping[str, Any]],
    feeds: Sequence[Mapping[str, Any]],
) -> None:
    """Write the figure.

    Args:
        path: the PNG.
        title, subtitle: what was done, and on which machine.
        pictures: annotated frames, one or two.
        rows: the builder's rows (`edge build --json`).
        feeds: the runner's feeds (`edge run --summary`).

    Raises:
        MissingPackage: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as e:
        raise missing_package("matplotlib", "report", "the summary figure") from e

    figure = Figure(figsize=(13, 9.6), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(0.04, 0.962, title, fontsize=17, fontweight="bold", color=INK)
    figure.text(0.04, 0.936, subtitle, fontsize=10.5, color=FAINT)
    _draw_pictures(figure, pictures, feeds)
    _draw_matrix(figure.add_axes((0.04, 0.025, 0.54, 0.385)), rows)
    _draw_stages(figure.add_axes((0.68, 0.125, 0.28, 0.285)), feeds)
    figure.savefig(path, metadata={"Software": "edge"})


def _draw_pictures(figure: Any, pictures: Sequence[FeedPicture], feeds: Sequence[Mapping[str, Any]]) -> None:
    width = 0.92 / max(len(pictures), 1)
    for index, (picture, feed) in enumerate(zip(pictures, feeds, strict=True)):
        axes = figure.add_axes((0.04 + index * width, 0.452, width - 0.02, 0.425))
        axes.imshow(picture.image[..., ::-1])  # BGR → RGB
        axes.set_anchor("W")
        _bare(axes)
        axes.set_title(picture.title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=22)
        axes.text(0, 1.02, _feed_line(feed), transform=axes.transAxes, fontsize=10, color=FAINT)


def _feed_line(feed: Mapping[str, Any]) -> str:
    """What a feed came to, in one line."""
    dropped = sum(feed["dropped"].values())
    parts = [f"{feed['delivered']} of {feed['captured']} frames", f"{dropped} dropped", _pace(feed)]
    parts += [f"{name.upper()} {value:.2f}" for name, value in (feed.get("score") or {}).items()]
    return "  ·  ".join(parts)


def _pace(feed: Mapping[str, Any]) -> str:
    """Latency of a live feed; of a file, whose frames queue up, how many went through."""
    if feed["live"]:
        return f"{feed['latency_ms']['p50']:.0f} ms from frame to result"
    return f"{feed['fps']:.0f} frames/s"


def _draw_matrix(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Targets × variants; a cell's colour is the engine's state."""
    targets = list(dict.fromkeys(row["target"] for row in rows))
    variants = sorted({row["variant"] for row in rows}, key=lambda v: (v != "fast", v))
    left, cell = 0.17, 0.83 / max(len(variants), 1)
    axes.set(xlim=(0, 1), ylim=(len(targets) + 1.15, -0.75))
    _bare(axes)
    axes.set_title("Engines built from the one graph", loc="left", fontsize=12, fontweight="bold", color=INK)
    for column, variant in enumerate(variants):
        axes.text(left + column * cell, -0.2, variant, fontsize=10, color=FAINT, va="center")
    for line, target in enumerate(targets):
        axes.text(0, line + 0.5, target, fontsize=10.5, color=INK, va="center")
    for row in rows:
        place = (left + variants.index(row["variant"]) * cell, targets.index(row["target"]))
        _draw_engine(axes, place, cell, row)
    _draw_legend(axes, len(targets) + 0.55, {row["state"] for row in rows})


def _draw_engine(axes: Any, place: tuple[float, float], width: float, row: Mapping[str, Any]) -> None:
    from matplotlib.patches import Rectangle

    x, y = place
    colour = STATES.get(row["state"], FAILED)
    axes.add_patch(Rectangle((x, y + 0.09), width - 0.025, 0.82, facecolor=colour + "20", edgecolor="none"))
    axes.plot([x, x], [y + 0.09, y + 0.91], color=colour, linewidth=3, solid_capstyle="butt")
    axes.text(x + 0.018, y + 0.5, _engine_line(row), fontsize=9.5, color=INK, va="center")
    size = f"{row['size_bytes'] / 1e6:.1f} MB" if row.get("size_bytes") else ""
    axes.text(x + width - 0.035, y + 0.5, size, fontsize=9, color=FAINT, va="center", ha="right")


def _engine_line(row: Mapping[str, Any]) -> str:
    """Precision and accuracy of an engine: "int8 97%  F1 0.926 −0.005"."""
    share = row.get("quantized_mac_share") or 0.0
    target = TARGETS.get(row["target"])
    if share:
        parts = [f"{target.fast_precision if target else 'quantized'} {share:.0%}"]
    else:
        parts = [target.carrier if target else "not quantized"]
    accuracy = row.get("accuracy") or {}
    if accuracy.get("this") is not None:
        parts.append(f"{accuracy['metric'].upper()} {accuracy['this']:.3f}{_difference(accuracy)}")
    return "  ".join(parts)


def _difference(accuracy: Mapping[str, Any]) -> str:
    """How far from fp32, where three digits show it: " −0.005"."""
    difference = 0.0 if accuracy.get("fp32") is None else accuracy["this"] - accuracy["fp32"]
    return f" {difference:+.3f}".replace("-", "−") if abs(difference) >= 0.0005 else ""


def _draw_legend(axes: Any, y: float, states: set[str]) -> None:
    x = 0.0
    for state in (*STATES, *sorted(states - set(STATES))):
        if state not in states:
            continue
        text = f"{state}: {STATE_HELP.get(state, 'not published')}"
        axes.plot([x, x], [y - 0.2, y + 0.2], color=STATES.get(state, FAILED), linewidth=3)
        axes.text(x + 0.015, y, text, fontsize=8.5, color=FAINT, va="center")
        x += 0.025 + 0.0097 * len(text)


def _draw_stages(axes: Any, feeds: Sequence[Mapping[str, Any]]) -> None:
    """Mean time of each stage, stacked; percentiles of the whole beside it."""
    axes.set_title("Where the time goes, ms a frame", loc="left", fontsize=12, fontweight="bold", color=INK)
    for line, feed in enumerate(feeds):
        start = 0.0
        for stage, colour in STAGES.items():
            span = _span(feed, stage)
            axes.barh(line, span, left=start, height=0.42, color=colour, label=stage if line == 0 else None)
            start += span
        latency = feed["latency_ms"]
        text = "  ".join(f"{name} {latency[name]:.0f}" for name in ("p50", "p95", "p99", "max"))
        text = f"frame to result: {text}" if feed["live"] else f"a file, read ahead: {_pace(feed)}"
        axes.text(0, line + 0.37, text, fontsize=9, color=FAINT, va="center")
    axes.set_yticks(range(len(feeds)), [feed["feed"] for feed in feeds], fontsize=10.5, color=INK)
    axes.set_ylim(len(feeds) - 0.35, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", colors=FAINT, labelsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    axes.xaxis.grid(True, color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(
        loc="upper left", bbox_to_anchor=(-0.02, -0.13), ncols=len(STAGES), frameon=False, fontsize=9.5,
        labelcolor=FAINT, handlelength=0.9, handletextpad=0.5, columnspacing=1.4,
    )  # fmt: skip


def _span(feed: Mapping[str, Any], stage: str) -> float:
    """Mean of a stage, ms; waiting is what the others leave of the total, and means nothing for a file."""
    stages = feed["stages_ms"]
    if stage != "waiting":
        return float(stages.get(stage, 0.0))
    worked = sum(stages.get(name, 0.0) for name in STAGES if name != "waiting")
    return max(0.0, stages.get("total", 0.0) - worked) if feed["live"] else 0.0


def _bare(axes: Any) -> None:
    """No ticks, no frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
