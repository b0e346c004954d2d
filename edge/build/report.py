"""The build as people see it: a line of progress while it runs, a table when it is done."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from edge.build.rows import Row
from edge.manifest import Accuracy
from edge.precision.policy import WEIGHT_ONLY

STATE_STYLE = {"verified": "green", "simulated": "cyan", "bundle": "yellow", "failed": "bold red"}


class LiveReporter:
    """Progress on stderr: a bar on a terminal, else a line for each step and engine."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._start = time.perf_counter()
        self._last = ""
        self._bar: Progress | None = None
        if self._console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._bar = Progress(*columns, TimeElapsedColumn(), console=self._console, transient=True)
            self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> LiveReporter:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def step(self, text: str, done: int, total: int) -> None:
        if self._bar:
            self._bar.update(self._task, description=text, completed=done, total=total or None)
        elif text != self._last:
            self._say(text)
        self._last = text

    def row(self, row: Row) -> None:
        cached = " (unchanged)" if row.cached else f" in {row.build_seconds:.1f} s"
        if not self._bar:
            self._say(f"{row.label}: {row.state}{cached}")

    def _say(self, text: str) -> None:
        print(f"[{time.perf_counter() - self._start:6.1f} s] {text}", file=sys.stderr, flush=True)


def table(rows: list[Row]) -> Table:
    """The rows as a table, with a line under those that need a word."""
    metric = next((r.accuracy.metric for r in rows if r.accuracy), "accuracy")
    out = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("target", "variant", "state"):
        out.add_column(name, no_wrap=True)
    timed = any(row.latency for row in rows)
    for name in ("quantized", "size", metric, "fp32", *(["p50"] if timed else []), "seconds"):
        out.add_column(name, justify="right", no_wrap=True)
    out.add_column("why", overflow="fold")
    for row in rows:
        style = STATE_STYLE.get(row.state, "")
        out.add_row(
            row.target or escape(row.model),
            row.variant,
            f"[{style}]{row.state}[/]",
            quantized_text(row.variant, row.quantized_mac_share),
            f"{row.size_bytes / 1e6:.1f} MB" if row.size_bytes else "–",
            *_figures(row.accuracy),
            *([f"{row.latency.p50_ms:.2f} ms" if row.latency else "–"] if timed else []),
            "cached" if row.cached else f"{row.build_seconds:.1f}",
            escape(row.reason),
        )
    return out


def quantized_text(variant: str, share: float) -> str:
    """Share of the multiply–accumulates that run quantized; "weights" where they alone are."""
    return "weights" if variant in WEIGHT_ONLY else f"{share:.0%}"


def _figures(accuracy: Accuracy | None) -> tuple[str, str]:
    if accuracy is None or accuracy.this is None or accuracy.fp32 is None:
        return "–", "–"
    digits = 4 if abs(accuracy.fp32) <= 1 else 2
    return f"{accuracy.this:.{digits}f}", f"{accuracy.fp32:.{digits}f}"
