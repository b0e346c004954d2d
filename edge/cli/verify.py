"""`edge verify`: judge a published engine again, and say what changed since."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from edge.errors import EXIT_DONE, GateError

if TYPE_CHECKING:
    from edge.build.drift import Drift


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("engine", metavar="MODEL/TARGET/VARIANT", help="an engine by name, or its folder")
    add("--engines", type=Path, default=Path("engines"), metavar="DIR", help="the engine store")
    add("--evaluation", type=Path, metavar="DIR", help="judge by these pictures, not by those of the build")
    add("--labels", type=Path, metavar="PATH", help="their labels, as the task reads them")
    add("--calib", type=Path, metavar="DIR", help="look for values that the scales clip, on these pictures")
    add("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """0 if the engine still passes its gate, 3 if not.

    Raises:
        UsageError, InputError, StoreError: there is nothing to judge, or nothing to judge it by.
    """
    from edge import machine
    from edge.build.drift import verify
    from edge.build.report import LiveReporter
    from edge.cli.inspect import one_engine
    from edge.config import SamplesConfig
    from edge.errors import UsageError

    if args.labels is not None and args.evaluation is None:
        raise UsageError("--labels needs --evaluation", "they belong to those pictures", "give both")
    entry = one_engine(args.engine, args.engines)
    samples = SamplesConfig(images=args.evaluation, labels=args.labels) if args.evaluation else None
    with LiveReporter() as reporter:
        drift = verify(entry, machine.detect(), reporter.step, samples, args.calib)
    if args.json:
        print(json.dumps(drift.to_json(), indent=1))
    else:
        _print(drift, looked_for_clipping=args.calib is not None)
    return GateError.exit_code if drift.failures else EXIT_DONE


def _print(drift: Drift, looked_for_clipping: bool) -> None:
    from rich.markup import escape

    from edge.cli.tables import console as new_console
    from edge.cli.tables import plain_table
    from edge.manifest import OutputAccuracy

    console = new_console()
    verdict = "[bold red]fails its gate now[/]" if drift.failures else "[green]passes its gate[/]"
    console.print(f"[bold]{drift.manifest.address}[/]  {verdict}, {drift.now.how}")
    table = plain_table("", "when it was built", "now")
    then, now = drift.then, drift.now
    alike = then.metric == now.metric
    table.add_row("judged", f"{then.how}, {then.samples} samples", f"{now.how}, {now.samples} samples")
    table.add_row("fp32", _figure(then.fp32 if alike else None), _figure(now.fp32))
    table.add_row(now.metric, _figure(then.this if alike else None), _figure(now.this))
    before = {o.name: o for o in then.outputs}
    for output in now.outputs:
        old, name = before.get(output.name, OutputAccuracy(name=output.name)), escape(output.name)
        table.add_row(f"cosine of {name}", _figure(old.cosine), _figure(output.cosine))
        table.add_row(f"SQNR of {name}", _figure(old.sqnr_db), _figure(output.sqnr_db))
    console.print(table)
    for text in (*drift.failures, *drift.changes):
        console.print(f"• {text}", markup=False)
    if looked_for_clipping:
        _print_clipped(drift, console)


def _print_clipped(drift: Drift, console: object) -> None:
    from rich.console import Console
    from rich.markup import escape

    from edge.cli.tables import plain_table

    assert isinstance(console, Console)
    if not drift.clipped:
        console.print("\nno tensor of this engine is quantized: it has no scales that could clip")
        return
    unusual = [c for c in drift.clipped if c.unusual]
    console.print(f"\nscales of {len(drift.clipped)} tensors, {len(unusual)} to look at on these pictures")
    if unusual:
        table = plain_table("tensor", "type", "holds", "largest", "")
        for c in sorted(unusual, key=lambda c: -c.share):
            table.add_row(escape(c.tensor), c.kind, f"{c.threshold:.4g}", f"{c.peak:.4g}", c.unusual)
        console.print(table)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.5g}"
