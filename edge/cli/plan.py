"""`edge plan`: which precision every part of a model would get on a target, and why; nothing is published."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.cli import model_options
from edge.cli.model_options import STORE
from edge.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from edge.build.planning import Planned
    from edge.precision.sensitivity import GroupNoise


def add_arguments(parser: argparse.ArgumentParser) -> None:
    model_options.add_source(parser.add_mutually_exclusive_group(required=True))
    model_options.add_arguments(parser, "fast")
    parser.add_argument("--nodes", action="store_true", help="a line for every node, not for every group")
    parser.add_argument(
        "--export",
        type=Path,
        metavar="JSON",
        help="write modules and scales for fine-tuning; one target and variant",
    )
    parser.add_argument("--json", metavar="FILE", help="write the plans as JSON; - for standard output")


def run(args: argparse.Namespace) -> int:
    from edge import machine
    from edge.build.planning import plans
    from edge.build.report import LiveReporter
    from edge.store import Store

    here = machine.detect()
    targets = model_options.chosen_targets(args, here)
    variants = model_options.variants(args.variants or "fast")
    model_options.check_writable(args.json)
    if args.export is not None:
        if len(targets) * len(variants) > 1:
            asked = ", ".join(f"{t.name}/{v}" for t in targets for v in variants)
            raise UsageError("--export is for one plan", f"asked for: {asked}", "name one with --targets")
        model_options.check_writable(str(args.export), "--export")
    seconds = model_options.search_seconds(args)
    config, store = model_options.model_config(args), Store(args.out or STORE)
    with LiveReporter() as reporter:
        found = plans(config, targets, variants, store, here, reporter, seconds)
    if args.export is not None:
        _export(found[0], args.export)
    _show(found, args)
    return 0


def _export(planned: Planned, path: Path) -> None:
    from edge.build.torch_names import torch_names, unnamed

    path.write_text(json.dumps(torch_names(planned), indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}", file=sys.stderr)
    missing = unnamed(planned.chosen.graph)
    if missing:
        print(
            f"{len(missing)} products have no module: the graph keeps no PyTorch names for them "
            f"({', '.join(missing[:3])}); they are listed by node",
            file=sys.stderr,
        )


def _show(found: list[Planned], args: argparse.Namespace) -> None:
    text = json.dumps([_to_json(planned) for planned in found], indent=1)
    if args.json == "-":
        print(text)
        return
    if args.json is not None:
        Path(args.json).write_text(text + "\n", encoding="utf-8")
    from edge.cli import tables

    console = tables.console()
    for planned in found:
        _print(planned, console, args.nodes)


def _print(planned: Planned, console: Console, nodes: bool) -> None:
    from edge.build.choose import told

    plan = planned.chosen.plan
    console.print(f"\n[bold]{planned.model}/{planned.target.name}/{planned.variant}[/]  {plan.label}")
    shares = ", ".join(f"{share:.1%} {precision}" for precision, share in plan.mac_shares.items())
    console.print(f"work: {shares}; carrier {plan.carrier}")
    for line in told(planned.chosen.found):
        console.print(line)
    console.print()
    console.print(_nodes(planned) if nodes else _groups(planned))


def _nodes(planned: Planned) -> Any:
    from rich.markup import escape

    from edge.cli.tables import plain_table

    table = plain_table("node", "operator", "precision", "reason")
    for step in planned.chosen.plan.steps:
        table.add_row(escape(step.node), step.op, step.precision, escape(step.reason))
    return table


def _groups(planned: Planned) -> Any:
    from rich.markup import escape

    from edge.cli.tables import plain_table

    kinds = list(dict.fromkeys(kind for noises in planned.noises.values() for kind in noises))
    table = plain_table("group", "kind", "work", "precision", *(f"{k} alone" for k in kinds), "reason")
    for row in _rows(planned):
        noises = planned.noises.get(row["name"], {})
        told = [_noise(noises.get(kind)) for kind in kinds]
        cells = (f"{row['mac_share']:.1%}", row["precision"], *told, escape(row["reason"]))
        table.add_row(escape(row["name"]), row["kind"], *cells)
    return table


def _noise(noise: GroupNoise | None) -> str:
    if noise is None:
        return "–"
    sqnr = "" if noise.sqnr_db is None else f" ({noise.sqnr_db:.0f} dB)"
    return f"{noise.noise:.3g}{sqnr}"


def _rows(planned: Planned) -> list[dict[str, Any]]:
    """The groups in graph order."""
    from edge.precision.groups import groups

    chosen = planned.chosen
    steps = {step.node: step for step in chosen.plan.steps}
    total = max(sum(step.macs for step in chosen.plan.steps), 1)
    rows = []
    for group in groups(chosen.graph):
        step = steps[group.products[0]]
        macs = sum(steps[name].macs for name in group.products)
        rows.append(
            {
                "name": group.name,
                "kind": group.kind,
                "products": list(group.products),
                "macs": macs,
                "mac_share": macs / total,
                "precision": step.precision,
                "reason": step.reason,
            }
        )
    return rows


def _to_json(planned: Planned) -> dict[str, Any]:
    plan, found = planned.chosen.plan, planned.chosen.found
    rows = _rows(planned)
    for row in rows:
        noises = planned.noises.get(row["name"], {})
        row["alone"] = {
            kind: {"noise": n.noise, "sqnr_db": n.sqnr_db, "local_db": n.local_db, "drop": n.drop}
            for kind, n in noises.items()
        }
    return {
        "model": planned.model,
        "target": planned.target.name,
        "variant": planned.variant,
        "carrier": plan.carrier,
        "types": plan.label,
        "mac_shares": plan.mac_shares,
        "quantized_mac_share": plan.quantized_mac_share,
        "speed_up": planned.chosen.speed_up,
        "costs": None if found is None else found.costs,
        "passed": None if found is None else found.passed,
        "equalized": planned.equalized,
        "groups": rows,
        "nodes": [
            {"node": s.node, "op": s.op, "precision": s.precision, "reason": s.reason, "group": s.group}
            for s in plan.steps
        ],
    }
