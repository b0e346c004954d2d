"""The answers of `live_feeds.py` as one picture: a panel a question, the reach as a dashed line."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge.signoff.canvas import FAINT, INK, LINE, NORMAL, SMALL, new_figure, style

OURS, OTHERS, MET, MISSED = "#2f74c0", "#a9b1bd", "#2a9d62", "#c2413b"
SOFT, GREEN, VIOLET = "#9fc0e6", "#139a7b", "#8b6fd0"
WIDTH, HEIGHT = 1800, 930
COLUMNS = 3
LEFT, BETWEEN, WIDE = 0.095, 0.118, 0.205

Values = Mapping[str, Sequence[float]]


def draw(path: Path, answers: Mapping[str, Mapping[str, Any]], machine: str) -> None:
    """Write the figure.

    Raises:
        MissingPackage: matplotlib is not installed.
    """
    figure = new_figure(WIDTH, HEIGHT)
    met = sum(bool(answer["met"]) for answer in answers.values())
    title = f"Live feeds: {met} of {len(answers)} aims reached"
    figure.text(0.025, 0.957, title, fontsize=18, fontweight="bold", color=INK)
    figure.text(0.025, 0.928, f"{machine}. Dashed lines are the aims.", fontsize=10.5, color=FAINT)
    if "peers" in answers:
        answers = {**answers, "peers": answers["peers"]["file"], "live": answers["peers"]["live"]}
    shown = [(name, panel) for name, panel in PANELS.items() if name in answers]
    for index, (name, (heading, panel)) in enumerate(shown):
        row, column = divmod(index, COLUMNS)
        left, bottom = LEFT + column * (WIDE + BETWEEN), 0.665 - row * 0.295
        axes = figure.add_axes((left, bottom, WIDE, 0.14))
        panel(axes, answers[name])
        _head(figure, left - 0.07, bottom + 0.187, heading, answers[name])
    figure.savefig(path, metadata={"Software": "edge"})


def _head(figure: Any, left: float, top: float, heading: str, answer: Mapping[str, Any]) -> None:
    reached, color = ("reached", MET) if answer["met"] else ("missed", MISSED)
    figure.text(left, top, heading, fontsize=12, fontweight="bold", color=INK)
    figure.text(left, top - 0.025, f"{reached}: {answer['reach']}", fontsize=NORMAL, color=color)


def _overload(axes: Any, answer: Mapping[str, Any]) -> None:
    minutes = [(index + 0.5) * answer["step_s"] / 60 for index in range(len(answer["p99_ms"]))]
    reach = 2 * answer["infer_ms"]
    for key, name, color in (
        ("p99_ms", "p99", OURS),
        ("p50_ms", "p50", SOFT),
        ("bare_p99_each_ms", "p99 of a bare loop", OTHERS),
    ):
        axes.plot(minutes, answer[key], color=color, linewidth=1.4, label=name)
    axes.axhline(reach, color=FAINT, linestyle=(0, (4, 3)), linewidth=1)
    axes.set(xlim=(0, answer["minutes"]), ylim=(0, 1.6 * max(reach, statistics.median(answer["p99_ms"]))))
    _legend(axes)
    _grid(axes, "y", "minutes", "age, ms")


def _legend(axes: Any) -> None:
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 0.98),
        ncols=3,
        frameon=False,
        fontsize=SMALL,
        labelcolor=INK,
        handlelength=1.2,
        borderaxespad=0,
    )


def _killing(axes: Any, answer: Mapping[str, Any]) -> None:
    minutes = [index * answer["every_s"] / 60 for index in range(len(answer["threads"]))]
    for key, name, color in (
        ("rss_mib", "memory, MiB", VIOLET),
        ("threads", "threads", GREEN),
        ("descriptors", "open files", OURS),
    ):
        axes.plot(minutes, answer[key], color=color, linewidth=1.6, label=name)
    axes.set(xlim=(0, minutes[-1]), ylim=(0, 1.2 * max(answer["rss_mib"])))
    _legend(axes)
    _grid(axes, "y", "minutes", "")


def _rows(
    axes: Any, rows: Values, reach: float | None, unit: str, first: int = 1, digits: str = ".2f"
) -> None:
    """A bar as long as the median of each row, dots for single values; the first rows are ours."""
    most = max([*(value for values in rows.values() for value in values), reach or 0.0])
    for line, values in enumerate(rows.values()):
        middle = statistics.median(values)
        ours = line < first
        axes.barh(line, middle, height=0.56, color=SOFT if ours else "#dfe3e9", linewidth=0)
        if len(values) > 1:
            axes.plot(
                values, [line] * len(values), "o", color=OURS if ours else OTHERS, markersize=4.5, alpha=0.8
            )
        axes.text(
            1.015,
            line,
            format(middle, digits),
            fontsize=NORMAL,
            color=INK,
            va="center",
            transform=_beside(axes),
        )
    if reach is not None:
        axes.axvline(reach, color=FAINT, linestyle=(0, (4, 3)), linewidth=1)
    axes.set(xlim=(0, 1.06 * most), ylim=(len(rows) - 0.5, -0.5))
    axes.set_yticks(range(len(rows)), list(rows))
    _grid(axes, "x", unit, "")
    axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=NORMAL)


NAMES = {"ours": "edge", "loop": "plain loop", "threads": "thread, queue", "roboflow": "Roboflow"}


def _beside(axes: Any) -> Any:
    return axes.get_yaxis_transform()


def _grid(axes: Any, along: str, x: str, y: str) -> None:
    axes.grid(axis=along, color=LINE, linewidth=0.8)
    style(axes, x, y)


def _restart(axes: Any, answer: Mapping[str, Any]) -> None:
    rows = {"feeds": answer["back_s"], "a bare client": answer["bare_client_s"]}
    _rows(axes, rows, answer["reach_s"], "seconds from accepting again to the first result")


def _states(axes: Any, answer: Mapping[str, Any]) -> None:
    _rows(axes, answer["after_s"], answer["reach_s"], "seconds until the state says so", first=4)


def _sixteen(axes: Any, answer: Mapping[str, Any]) -> None:
    cpu = answer["cpu_ms_per_frame"]
    bare = statistics.median(cpu["decoders"])
    rows = {"16 feeds": cpu["ours"], "16 bare decoders": cpu["decoders"]}
    _rows(axes, rows, 1.1 * bare, "CPU milliseconds a frame")


def _overhead(axes: Any, answer: Mapping[str, Any]) -> None:
    base = answer["us_per_frame"]["bare"]
    rows = {
        name: [mine - its for mine, its in zip(values, base, strict=True)]
        for name, values in answer["us_per_frame"].items()
        if name != "bare"
    }
    _rows(
        axes, rows, answer["reach_us"], "CPU microseconds a frame beyond a bare loop", first=2, digits=".0f"
    )


def _gate(axes: Any, answer: Mapping[str, Any]) -> None:
    rows = {
        "a still scene": [100 * answer["share_run"]],
        f"{answer['changes']} changes": [100 * answer["share_of_clip_run"]],
    }
    _rows(axes, rows, 100 * answer["reach_share"], "per cent of the frames that reach the engine", 2, ".1f")


def _peers(axes: Any, answer: Mapping[str, Any]) -> None:
    rows = {NAMES[name]: [row["efficiency"]] for name, row in answer["rows"].items() if name in NAMES}
    _rows(
        axes,
        rows,
        answer["reach_efficiency"],
        "frames a second, as a share of the engine's own ceiling",
    )


def _live(axes: Any, answer: Mapping[str, Any]) -> None:
    """Latencies on a scale that shows 10 ms and a second: p50 to p99 of each."""
    names = {"ours, --spin": "edge --spin", **NAMES}
    rows = {names[name]: row for name, row in answer["rows"].items() if name in names}
    for line, (name, row) in enumerate(rows.items()):
        ends = row["latency_p50_ms"], row["latency_p99_ms"]
        color = OURS if name.startswith("edge") else OTHERS
        axes.plot(ends, [line] * 2, color=color, linewidth=5, alpha=0.4, solid_capstyle="butt")
        axes.plot(ends, [line] * 2, "o", color=color, markersize=5)
        cpu = f"{row['cpu_ms_per_frame']:.1f}"
        axes.text(1.015, line, cpu, fontsize=NORMAL, color=INK, va="center", transform=_beside(axes))
    axes.text(1.015, -0.75, "CPU ms", fontsize=SMALL, color=FAINT, va="center", transform=_beside(axes))
    axes.set(xscale="log", xlim=(5, 3000), ylim=(len(rows) - 0.5, -0.5))
    axes.set_xticks([10, 100, 1000], ["10 ms", "100 ms", "1 s"])
    axes.minorticks_off()
    axes.set_yticks(range(len(rows)), list(rows))
    _grid(axes, "x", "latency at a live 30 a second, p50 and p99", "")
    axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=NORMAL)


Panel = Callable[[Any, Mapping[str, Any]], None]
PANELS: Mapping[str, tuple[str, Panel]] = {
    "overload": ("Five times too fast: age of the results", _overload),
    "killing": ("16 feeds, one killed every ten seconds", _killing),
    "rtsp_restart": ("A server comes back", _restart),
    "stall_and_freeze": ("A feed that is not what it was", _states),
    "sixteen": ("16 RTSP feeds, 640×360 at 10 fps", _sixteen),
    "overhead": ("What the runner costs, four live feeds", _overhead),
    "gate": ("The motion gate", _gate),
    "peers": ("YOLOX-Nano, a video file", _peers),
    "live": ("YOLOX-Nano, the same as a camera", _live),
}
