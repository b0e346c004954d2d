"""The summary of a run for people."""

from __future__ import annotations

import sys
from typing import Any


def show(data: dict[str, Any]) -> None:
    """Print the summary as a table on standard error, where it stays out of piped results."""
    from rich.console import Console
    from rich.table import Table

    width = None if sys.stderr.isatty() else 160
    console = Console(file=sys.stderr, highlight=False, width=width)
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    table.add_column("feed", overflow="fold")
    for name in ("captured", "delivered", "dropped", "failed", "fps", "p50/p95/p99 ms", "score"):
        table.add_column(name, justify="right", no_wrap=True)  # 80 columns wide with a feed of 12 letters
    for feed in data["feeds"]:
        latency = feed["latency_ms"]
        row = [feed["feed"], *(str(feed[name]) for name in ("captured", "delivered"))]
        row += [str(sum(feed["dropped"].values())), str(feed["failed"]), f"{feed['fps']:.1f}"]
        row.append("/".join(f"{latency[q]:.1f}" for q in ("p50", "p95", "p99")))
        row.append(" ".join(f"{name} {value:.3f}" for name, value in (feed["score"] or {}).items()))
        table.add_row(*row)
    console.print(table)
    engine = data["feeds"][0]["engine"]
    cores = data["cpu_seconds"] / data["seconds"] if data["seconds"] else 0.0
    console.print(
        f"{engine['model']}/{engine['target']}/{engine['variant']} by {engine['runtime']}, {data['loop']}: "
        f"{data['seconds']:.1f} s, {cores:.1f} cores, {data['peak_rss_bytes'] / 2**20:.0f} MiB"
    )
    if device := data["device"]:
        console.print(_device_line(device))
    for feed in data["feeds"]:
        for fate in ("dropped", "failures"):
            if causes := _causes(feed[fate]):
                console.print(f"{feed['feed']}: {fate}: {causes}")
    for line in _troubles(data):
        console.print(line, style="yellow")


def _device_line(device: dict[str, Any]) -> str:
    stages = ", ".join(f"{name.replace('_', ' ')} {ms:.2f}" for name, ms in device["stages_ms"].items())
    ratio = device["overlap_ratio"]
    hidden = "" if ratio is None else f"; {ratio:.0%} of copying and preprocessing beside execution"
    return f"GPU, ms a batch: {stages}{hidden}"


def _causes(causes: dict[str, int]) -> str:
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
    ]
    lines += [
        f"{sink['sink']}: {sink['error']}; {sink['lost']} results lost"
        for sink in data["sinks"]
        if sink["error"]
    ]
    return lines
