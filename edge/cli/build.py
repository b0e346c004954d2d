"""`edge build`: one ONNX graph → a checked engine for every target; a bundle → an engine on its device."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edge.cli import model_options
from edge.cli.model_options import STORE
from edge.errors import EXIT_DONE, UsageError

if TYPE_CHECKING:
    from edge.build.rows import Row
    from edge.errors import EdgeError

log = logging.getLogger(__name__)

VARIANTS = "fast,exact"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    model_options.add_source(source)
    source.add_argument(
        "--bundle",
        type=Path,
        nargs="+",
        action="extend",
        metavar="PATH",
        help="bundles (.tar or folder) to compile, check and publish on this device",
    )
    model_options.add_arguments(parser, VARIANTS)
    parser.add_argument(
        "--bundles",
        type=Path,
        metavar="DIR",
        help="also write each engine that only its device can verify as a .tar to carry there",
    )
    parser.add_argument("--json", metavar="FILE", help="write the rows as JSON; - for standard output")
    parser.add_argument(
        "--no-report", action="store_true", help="write no report, and keep no pictures for one"
    )


def run(args: argparse.Namespace) -> int:
    rows = _build(args) if args.bundle is None else _finish(args)
    _print(rows, args.json)
    _report(rows, args)
    if args.bundles is not None:
        _pack(rows, args)
    return exit_code(rows)


def _build(args: argparse.Namespace) -> list[Row]:
    """Build a model for all chosen targets."""
    from edge import machine
    from edge.build.build import build
    from edge.build.report import LiveReporter
    from edge.store import Store

    here = machine.detect()
    targets = model_options.chosen_targets(args, here)
    variants = model_options.variants(VARIANTS if args.variants is None else args.variants)
    model_options.check_writable(args.json)
    seconds = model_options.search_seconds(args)
    config, store = model_options.model_config(args), Store(args.out or STORE)
    with LiveReporter() as reporter:
        return build(config, targets, variants, store, here, reporter, seconds)


def _pack(rows: list[Row], args: argparse.Namespace) -> None:
    from edge.build.carried import pack

    for path in pack(rows, args.out or STORE, args.bundles):
        print(f"carry to its device: {path}", file=sys.stderr)


def _report(rows: list[Row], args: argparse.Namespace) -> None:
    """A report for each model, or nothing kept for one. What goes wrong costs the report and nothing else."""
    from edge.build import evidence
    from edge.errors import EdgeError, MissingPackage
    from edge.signoff.data import Refused
    from edge.signoff.report import HTML, write

    roots = {row.model: row.path.parents[3] for row in rows if row.path is not None}
    for model in dict.fromkeys(row.model for row in rows if row.target):
        root = roots.get(model, None if args.bundle else args.out or STORE)
        if root is None:  # a bundle that came to nothing leaves nothing behind
            continue
        if args.no_report:
            evidence.forget(model, root)
            continue
        about = [row for row in rows if row.model == model]
        if all(row.cached for row in about) and (root / model / HTML).exists():
            continue  # it says so already
        refused = [Refused(row.label, row.reason) for row in about if row.error is not None]
        try:
            print(f"report: {write(root, model, refused=refused).html}", file=sys.stderr)
        except MissingPackage as e:
            print(f"no report: {e.what} ({e.fix})", file=sys.stderr)
        except EdgeError as e:
            print(f"warning: no report: {e}", file=sys.stderr)
        except Exception as e:  # a fault of ours must not cost the engines that were built
            log.exception("the report on %s", model)
            print(f"warning: no report: {type(e).__name__}: {e}; please report it", file=sys.stderr)


def _finish(args: argparse.Namespace) -> list[Row]:
    """Finish bundles on this device."""
    from edge import machine
    from edge.build.carried import finish_bundles
    from edge.build.report import LiveReporter
    from edge.store import Store

    for option in ("calib", "size", "name", "targets", "variants", "bundles", "policy", "search_seconds"):
        if getattr(args, option) is not None:
            option = option.replace("_", "-")
            raise UsageError(f"--{option} is not for --bundle", "a bundle says it already", "leave it out")
    matrix = model_options.matrix(args)
    model_options.check_writable(args.json)
    store = None if args.out is None else Store(args.out)
    with LiveReporter() as reporter:
        return finish_bundles(args.bundle, store, machine.detect(), reporter, matrix)


def exit_code(rows: list[Row]) -> int:
    """0, or that of the first engine that failed."""
    return next((row.error.exit_code for row in rows if row.error is not None), EXIT_DONE)


def _told(label: str, error: EdgeError) -> str:
    """What became of one engine, in the form of all errors."""
    from edge.cli import explain

    what = error.what if error.what.startswith(f"{label} fails") else f"{label} failed: {error.what}"
    return explain(type(error)(what, error.why, error.fix))


def _print(rows: list[Row], where: str | None) -> None:
    from edge.build.report import table
    from edge.cli.tables import console

    text = json.dumps([row.to_json() for row in rows], indent=1)
    if where == "-":
        print(text)
    else:
        console().print(table(rows))
    for warning in dict.fromkeys(text for row in rows for text in row.warnings):
        print(f"warning: {warning}", file=sys.stderr)
    for row in rows:
        if row.error is not None:
            print(_told(row.label, row.error), file=sys.stderr)
    if where not in (None, "-"):
        Path(where).write_text(text + "\n", encoding="utf-8")
