"""The summary of a run for people."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

FATES = ("dropped", "failures")
QUIET = ("connecting", "live", "ended", "failed")
"""States that are no trouble, or told otherwise."""
MANY = 4
"""With more feeds than this their causes are added up."""


def show(data: dict[str, Any]) -> None:
    """Print the summary as a table on standard error, where it stays out of piped results."""
    from rich.console import Console

    width = None if sys.stderr.isatty() else 160
    console = Console(file=sys.stderr, highlight=False, width=width)
    live = any(feed["live"] for feed in data["feeds"])
    console.print(_table(data["feeds"], LIVE if live else FILES))
    engine = data["feeds"][0]["engine"]
    cores = data["cpu_seconds"] / data["seconds"] if data["seconds"] else 0.0
    console.print(
        f"{engine['model']}/{engine['target']}/{engine['variant']} by {engine['runtime']}, {data['loop']}: "
        f"{data['seconds']:.1f} s, {cores:.1f} cores, {data['peak_rss_bytes'] / 2**20:.0f} MiB"
    )
    if device := data["device"]:
        console.print(_device_line(device))
    for line in (*_fates(data["feeds"]), *_lives(data["feeds"])):
        console.print(line)
    for line in _troubles(data):
        console.print(line, style="yellow")


FILES = ("captured", "delivered", "dropped", "failed", "fps", "p50/p95/p99 ms", "score")
LIVE = ("ended", "delivered", "dropped", "failed", "fps", "age p50/p99", "away", "score")
"""Columns behind the feed's name: with a name of twelve letters they are 80 wide. A live feed's age is in
milliseconds; `away` is how often it was gone."""


def _table(feeds: Sequence[dict[str, Any]], columns: Sequence[str]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    table.add_column("feed", overflow="fold")
    scored = any(feed["score"] for feed in feeds)
    columns = [column for column in columns if column != "score" or scored or columns is FILES]
    for column in columns:
        table.add_column(column, justify="left" if column == "ended" else "right", no_wrap=True)
    for feed in feeds:
        table.add_row(feed["feed"], *(_cell(feed, column) for column in columns))
    return table


def _cell(feed: dict[str, Any], column: str) -> str:
    latency = feed["latency_ms"]
    if column == "p50/p95/p99 ms":
        return "/".join(f"{latency[q]:.1f}" for q in ("p50", "p95", "p99"))
    if column == "age p50/p99":
        return f"{latency['p50']:.0f}/{latency['p99']:.0f} ms"
    if column == "away":
        return str(feed["states"].get("reconnecting", 0))
    if column == "score":
        return " ".join(f"{name} {value:.3f}" for name, value in (feed["score"] or {}).items())
    if column == "fps":
        return f"{feed['fps']:.1f}"
    value = feed[column]
    return str(sum(value.values()) if isinstance(value, dict) else value)


def _device_line(device: dict[str, Any]) -> str:
    stages = ", ".join(f"{name.replace('_', ' ')} {ms:.2f}" for name, ms in device["stages_ms"].items())
    ratio = device["overlap_ratio"]
    hidden = "" if ratio is None else f"; {ratio:.0%} of copying and preprocessing beside execution"
    return f"GPU, ms a batch: {stages}{hidden}"


def _fates(feeds: Sequence[dict[str, Any]]) -> list[str]:
    """Why frames have no result: of each feed, or of all where there are many."""
    if len(feeds) > MANY:
        total = {fate: sum((Counter(feed[fate]) for feed in feeds), Counter()) for fate in FATES}
        feeds = [{"feed": "all feeds", **total}]
    return [
        f"{feed['feed']}: {fate}: {_counted(feed[fate])}" for feed in feeds for fate in FATES if feed[fate]
    ]


def _lives(feeds: Sequence[dict[str, Any]]) -> list[str]:
    """What befell live feeds, and what was wrong with them at the end."""
    befell = ((feed, {s: n for s, n in feed["states"].items() if s not in QUIET}) for feed in feeds)
    lines = [f"{feed['feed']}: was {_counted(states)}" for feed, states in befell if states]
    return lines + [f"{f['feed']}: {f['reason']}" for f in feeds if " while " in (f["reason"] or "")]


def _counted(causes: dict[str, int]) -> str:
    return ", ".join(f"{cause} {count}" for cause, count in sorted(causes.items()))


def _troubles(data: dict[str, Any]) -> list[str]:
    """What did not go as it should, a line each."""
    lines = [f"stopped: {data['stopped']}"] if data["stopped"] else []
    lines += [f"the engine was loaded again {data['rebuilds']} times"] if data["rebuilds"] else []
    lines += [f"{feed['feed']}: {feed['error']}" for feed in data["feeds"] if feed["error"]]
    lines += [
        f"{feed['feed']}: {count} results flagged {flag}"
        for feed in data["feeds"]
        for flag, count in feed["flags"].items()
        if flag not in ("gated", "alarm")
    ]
    lines += [line for sink in data["sinks"] if (line := _sink_line(sink))]
    return lines


def _sink_line(sink: dict[str, Any]) -> str:
    """What a sink left out, and why; empty where it has everything."""
    parts = [sink["error"]] if sink["error"] else []
    parts += [f"{sink[fate]} results {fate}" for fate in ("lost", "dropped") if sink[fate]]
    parts += [f"opened again {sink['retries']} times"] if sink["retries"] else []
    return f"{sink['sink']}: {'; '.join(parts)}" if parts else ""
