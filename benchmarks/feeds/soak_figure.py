"""A soak as a picture: states of every feed and what was done to it, age, memory, threads and files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge.signoff.canvas import FAINT, INK, LINE, NORMAL, new_figure, style

STATES = {
    "live": "#9fd3b6",
    "connecting": "#d6dae1",
    "stalled": "#e9b44c",
    "reconnecting": "#d9663f",
    "frozen": "#5b9bd5",
    "black": "#3b4252",
    "failed": "#c2413b",
}
FAULTS = {
    "kill": "X",
    "restart": "P",
    "freeze": "s",
    "pause": "o",
    "slow": "v",
    "static": "D",
    "black": "h",
    "damage": "*",
}
"""Markers."""
AGE, MEMORY, THREADS, FILES = "#2f6690", "#8b6fd0", "#2a9d62", "#c98a1b"
WIDTH, HEIGHT = 1500, 1120
LEFT, WIDE = 0.062, 0.918


def draw(path: Path, record: Mapping[str, Any]) -> None:
    """Write the figure of a soak's record (soak.json).

    Raises:
        MissingPackage: matplotlib is not installed.
    """
    figure = new_figure(WIDTH, HEIGHT)
    figures = record["figures"]
    wrong = figures["violations"]
    count = sum(figures["faults"].values())
    verdict = f"violated: {wrong[0]}" if wrong else "nothing was violated"
    figure.text(
        LEFT,
        0.962,
        f"{figures['minutes']:g} min, {len(record['feeds'])} live feeds, {count} faults: {verdict}",
        fontsize=17,
        fontweight="bold",
        color=INK,
    )
    figure.text(LEFT, 0.937, _subtitle(figures), fontsize=10.5, color=FAINT)
    _draw_states(figure.add_axes((LEFT, 0.505, WIDE, 0.36)), figure, record)
    _draw_ages(figure.add_axes((LEFT, 0.30, WIDE, 0.155)), record)
    _draw_size(figure.add_axes((LEFT, 0.07, 0.43, 0.165)), record)
    _draw_handles(figure.add_axes((LEFT + 0.488, 0.07, 0.43, 0.165)), record)
    figure.savefig(path, metadata={"Software": "edge"})


def _subtitle(figures: Mapping[str, Any]) -> str:
    back = max((kind["longest"] for kind in figures["live_again_s"].values()), default=0.0)
    noticed = max((kind["longest"] for kind in figures["noticed_s"].values()), default=0.0)
    return (
        f"{figures['captured']:,} frames, {figures['without_a_fate']} without a fate  ·  "
        f"a fault shows after at most {noticed:.1f} s, the feed is live at most {back:.1f} s after it  ·  "
        f"{figures['cpu_cores']:.2f} cores"
    )


def _draw_states(axes: Any, figure: Any, record: Mapping[str, Any]) -> None:
    """A band for every feed, coloured by its state; marks where a fault began."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    names = [feed["feed"] for feed in record["feeds"]]
    start, end = record["started"], record["every_second"]["at_s"][-1]
    shown: dict[str, None] = {}
    for line, name in enumerate(names):
        changes = [(max(0.0, c["at"] - start), c["state"]) for c in record["changes"][name]]
        stops = [*(at for at, _ in changes[1:]), end]
        for (at, state), stop in zip(changes, stops, strict=True):
            if state in STATES and stop > at:
                shown[state] = None
                bar = [(at / 60, (min(stop, end) - at) / 60)]
                axes.broken_barh(bar, (line + 0.34, 0.56), facecolors=STATES[state], linewidth=0)
    for fault in record["faults"]:
        at = (fault["began"] - start) / 60
        for name in fault["feeds"]:
            line = names.index(name)
            until = (fault["ended"] - start) / 60
            axes.plot([at, until], [line + 0.2] * 2, color=FAINT, linewidth=1.3, solid_capstyle="butt")
            axes.plot(at, line + 0.2, FAULTS[fault["kind"]], color=INK, markersize=5.2, markeredgewidth=0)
    axes.set(xlim=(0, end / 60), ylim=(len(names), 0))
    axes.set_yticks([line + 0.6 for line in range(len(names))], names)
    style(axes, "", "")
    axes.tick_params(axis="y", length=0, labelsize=NORMAL + 0.5, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    states = [Patch(color=STATES[state], label=state) for state in STATES if state in shown]
    marks = [
        Line2D([], [], marker=marker, color=INK, linestyle="", markersize=6, markeredgewidth=0, label=kind)
        for kind, marker in FAULTS.items()
    ]
    common: dict[str, Any] = {
        "frameon": False,
        "fontsize": NORMAL,
        "labelcolor": INK,
        "borderaxespad": 0,
        "columnspacing": 1.0,
    }
    figure.text(LEFT, 0.893, "States of the feeds", fontsize=12, fontweight="bold", color=INK)
    place = (LEFT + 0.13, 0.888)
    figure.legend(handles=states, loc="lower left", bbox_to_anchor=place, ncols=7, handlelength=0.9, **common)
    place = (LEFT + WIDE, 0.888)
    figure.legend(
        handles=marks, loc="lower right", bbox_to_anchor=place, ncols=8, handletextpad=0.1, **common
    )


def _draw_ages(axes: Any, record: Mapping[str, Any]) -> None:
    """On a scale that shows both milliseconds and seconds: all feeds, and the one in the middle."""
    seconds = record["every_second"]
    minutes = [at / 60 for at in seconds["at_s"]]
    by_second = [
        sorted(age for age in ages if age is not None)
        for ages in zip(*seconds["age_p99_ms"].values(), strict=True)
    ]
    middle, oldest = ([ages[int(q * (len(ages) - 1))] if ages else 0 for ages in by_second] for q in (0.5, 1))
    axes.fill_between(minutes, middle, oldest, color=AGE, alpha=0.3, linewidth=0, label="the oldest feed")
    axes.plot(minutes, middle, color=AGE, linewidth=1.2, label="the feed in the middle")
    axes.set(xlim=(0, minutes[-1]), yscale="log", ylim=(3, max(1500.0, 1.5 * max(oldest))))
    axes.set_yticks([10, 100, 1000], ["10 ms", "100 ms", "1 s"])
    axes.minorticks_off()
    _title(axes, "Age of results, 99th percentile of every second")
    _legend(axes)
    style(axes, "", "")


def _draw_size(axes: Any, record: Mapping[str, Any]) -> None:
    seconds = record["every_second"]
    minutes = [at / 60 for at in seconds["at_s"]]
    axes.plot(minutes, seconds["rss_mib"], color=MEMORY, linewidth=1.4)
    axes.set(xlim=(0, minutes[-1]), ylim=(0, 1.25 * max(seconds["rss_mib"])))
    slope = record["figures"]["rss_slope_mib_h"]
    told = f", {slope:+.0f} an hour in the second half" if minutes[-1] >= 10 else ""
    _title(axes, f"Memory, MiB{told}")
    style(axes, "minutes", "")


def _draw_handles(axes: Any, record: Mapping[str, Any]) -> None:
    seconds = record["every_second"]
    minutes = [at / 60 for at in seconds["at_s"]]
    axes.plot(minutes, seconds["descriptors"], color=FILES, linewidth=1.4, label="open files")
    axes.plot(minutes, seconds["threads"], color=THREADS, linewidth=1.4, label="threads")
    axes.set(xlim=(0, minutes[-1]), ylim=(0, 1.25 * max(*seconds["threads"], *seconds["descriptors"])))
    _title(axes, "Threads and open files")
    _legend(axes)
    style(axes, "minutes", "")


def _legend(axes: Any) -> None:
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1, 1.0),
        ncols=2,
        frameon=False,
        fontsize=NORMAL,
        labelcolor=INK,
        handlelength=1.2,
        borderaxespad=0.2,
    )


def _title(axes: Any, text: str) -> None:
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.set_title(text, loc="left", fontsize=12, fontweight="bold", color=INK, pad=9)
