"""`edge worklist`: the studies that were looked at, urgent ones first."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edge.errors import RuntimeFault, UsageError

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from edge.stream.config import StreamConfig
    from edge.triage import Row, Rules, Worklist
    from edge.triage.sources import ResultsFile, SpoolStudies

    Results = ResultsFile | SpoolStudies

WATCH_S = 2.0
STYLES = {"confirmed": "green", "quarantined": "red"}
COLUMNS: tuple[tuple[str, Literal["left", "right"]], ...] = (
    ("", "left"),
    ("finding", "left"),
    ("score", "right"),
    ("age", "right"),
    ("state", "left"),
    ("objects", "right"),
    ("study", "left"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "results",
        type=Path,
        metavar="SPOOL|RESULTS",
        help="the folder of a receiver's spool, or a file of result lines",
    )
    add(
        "--urgent",
        action="append",
        default=[],
        metavar="CLASS:SCORE",
        help="this finding is urgent from this score; may be repeated",
    )
    add("--config", type=Path, metavar="TOML", help="a stream's config: its [triage] and privacy")
    add("--top", type=int, metavar="N", help="the first N studies only")
    add("--json", action="store_true", help="print JSON")
    add("--html", type=Path, metavar="FILE", help="write a page instead of a table")
    add("--watch", action="store_true", help="go on until Ctrl-C")
    add(
        "--privacy",
        choices=["pseudonym", "full", "none"],
        help="UIDs of a spool: pseudonyms, or as they are (none)",
    )
    add("--privacy-key", type=Path, metavar="FILE", help="the key for pseudonyms; made where it is absent")


def run(args: argparse.Namespace) -> int:
    """
    Raises:
        UsageError: arguments contradict each other.
        InputError, StoreError: there is nothing to read.
        RuntimeFault: the page cannot be written.
    """
    from edge.privacy import Privacy
    from edge.stream.config import StreamConfig, load_stream
    from edge.triage import Worklist
    from edge.triage.sources import open_results

    if args.json and (args.html or args.watch):
        raise UsageError("edge worklist --json", "it prints the list once", "leave --html and --watch out")
    if args.watch and not args.html and not sys.stdout.isatty():
        raise UsageError("edge worklist --watch", "this is no terminal", "add --html FILE")
    if args.top is not None and args.top < 1:
        raise UsageError(f"--top {args.top}", "it is not above zero")
    config = load_stream(args.config) if args.config else StreamConfig()
    worklist = Worklist(_rules(args, config))
    privacy = Privacy(args.privacy or config.privacy, args.privacy_key or config.privacy_key)
    with closing(open_results(args.results, privacy)) as source:
        source.read(worklist)
        if args.json:
            _print_json(worklist, args.top)
        elif args.html:
            _keep_page(args, worklist, source)
        else:
            _keep_table(args, worklist, source)
    return 0


def _keep_page(args: argparse.Namespace, worklist: Worklist, source: Results) -> None:
    from edge.sinks.triage import replace
    from edge.triage.page import page

    def write() -> None:
        try:
            replace(args.html, page(worklist, time.time(), WATCH_S if args.watch else None))
        except OSError as e:
            why = e.strerror or str(e)
            raise RuntimeFault(f"cannot write {args.html}", why, "check the path and the disk") from e

    write()
    if args.watch:
        for _ in _again(worklist, source):
            write()


def _keep_table(args: argparse.Namespace, worklist: Worklist, source: Results) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    if not args.watch:
        console.print(_table(worklist, args.top))
        return
    with Live(_table(worklist, args.top), console=console, auto_refresh=False, screen=True) as live:
        for _ in _again(worklist, source):
            live.update(_table(worklist, args.top), refresh=True)


def _again(worklist: Worklist, source: Results) -> Iterator[None]:
    """After every look, until Ctrl-C."""
    with suppress(KeyboardInterrupt):
        while True:
            time.sleep(WATCH_S)
            source.read(worklist)
            yield


def _rules(args: argparse.Namespace, config: StreamConfig) -> Rules:
    from edge.sinks.triage import urgent_rule
    from edge.triage import Rules

    return Rules({**config.triage.urgent, **dict(map(urgent_rule, args.urgent))})


def _print_json(worklist: Worklist, top: int | None) -> None:
    from edge.triage.studies import moment
    from edge.triage.worklist import SCHEMA

    now = time.time()
    data = {
        "schema": SCHEMA,
        "updated": moment(now),
        "urgent": dict(worklist.rules.urgent),
        "studies": [row.to_json(now) for row in worklist.rows()[:top]],
    }
    print(json.dumps(data, ensure_ascii=False, indent=1))


def _table(worklist: Worklist, top: int | None) -> Table:
    """The list for people; columns that nobody needs in a narrow window are left to JSON and the page."""
    from rich.table import Table

    rows, now = worklist.rows(), time.time()
    urgent = sum(row.urgent for row in rows)
    more = f", the first {top} shown" if top is not None and top < len(rows) else ""
    studies = f"{len(rows)} {'study' if len(rows) == 1 else 'studies'}"
    title = f"{studies}, {urgent} urgent{more}"
    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    for name, justify in COLUMNS:
        table.add_column(name, justify=justify, no_wrap=name != "finding")
    for row in rows[:top]:
        table.add_row(*_cells(row, now), style="bold red" if row.urgent else None)
    return table


def _cells(row: Row, now: float) -> Iterator[str | Text]:
    """Text and no markup: a class or a study may be called anything."""
    from rich.text import Text

    from edge.triage.page import age, short

    flags = f" ({', '.join(row.flags)})" if row.flags else ""
    yield "urgent" if row.urgent else ""
    yield Text((row.finding or row.verdict) + flags)
    yield "" if row.score is None else f"{row.score:.4f}"
    yield age(now - row.since)
    yield Text(row.state, style=STYLES.get(row.state, ""))
    yield str(row.objects or "")
    yield Text(short(row.study))
