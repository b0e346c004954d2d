"""`edge diff`: what differs between two engines."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge.build.difference import Difference

SHOWN = 40
"""Rows of a table; --json has all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("a", metavar="A", help="MODEL/TARGET/VARIANT, or the folder of an engine")
    add("b", metavar="B", help="another one")
    add("--engines", type=Path, default=Path("engines"), metavar="DIR", help="the engine store")
    add("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """
    Raises:
        UsageError, StoreError: there is no such engine, or it is damaged.
    """
    from edge.build.difference import compare
    from edge.cli.inspect import one_engine

    found = compare(one_engine(args.a, args.engines), one_engine(args.b, args.engines))
    if args.json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        _print(found)
    return 0


def _print(found: Difference) -> None:
    from rich.markup import escape

    from edge.cli.tables import console as new_console
    from edge.cli.tables import plain_table

    console = new_console()
    console.print(f"[bold]{found.a.address}[/] {found.a.key}  →  [bold]{found.b.address}[/] {found.b.key}")
    if found.same:
        console.print("no difference")
        return
    table = plain_table("", "A", "B")
    for name, a, b in found.facts:
        table.add_row(escape(name), escape(a), escape(b))
    console.print(table)
    plan = [change for change in found.plan if not change.carried]
    if found.plan:
        carried = len(found.plan) - len(plan)
        rest = f", and {carried} in the other carrier" if carried else ""
        console.print(f"\n[bold]{len(plan)} nodes in another precision{rest}[/]")
    if plan:
        table = plain_table("node", "operator", "A", "B", "why so in B")
        for c in plan[:SHOWN]:
            table.add_row(escape(c.node), c.op, c.before or "–", c.after or "–", escape(c.reason))
        console.print(table)
        _more(console, len(plan))
    _print_scales(found, console)


def _print_scales(found: Difference, console: object) -> None:
    from rich.console import Console
    from rich.markup import escape

    from edge.cli.tables import plain_table

    assert isinstance(console, Console)
    if found.scales is None:
        console.print("\nscales: an engine holds no graph to read them from")
        return
    counts = (len(found.scales), len(found.only_a), len(found.only_b))
    console.print("\n[bold]scales[/]: {} changed, {} only in A, {} only in B".format(*counts))
    if found.scales:
        table = plain_table("scale", "values", "largest change", "type")
        for c in sorted(found.scales, key=lambda c: (c.before != c.after, -c.size))[:SHOWN]:
            change = "more or fewer" if c.ratio is None else f"×{c.ratio:.4g}"
            kind = c.after if c.before == c.after else f"{c.before} → {c.after}: other steps"
            table.add_row(escape(c.name), str(c.count), change, kind)
        console.print(table)
        _more(console, len(found.scales))


def _more(console: object, count: int) -> None:
    from rich.console import Console

    assert isinstance(console, Console)
    if count > SHOWN:
        console.print(f"… and {count - SHOWN} more: --json has all", style="dim")
