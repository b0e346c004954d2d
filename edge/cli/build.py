"""`edge build`: one ONNX graph → a checked engine for every target; a bundle → an engine on its device."""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edge.errors import EXIT_DONE, ConfigError, InputError, UsageError

if TYPE_CHECKING:
    from edge.build.rows import Row
    from edge.config import ModelConfig
    from edge.precision.plan import Variant

log = logging.getLogger(__name__)

STORE = Path("engines")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    graph = parser.add_mutually_exclusive_group(required=True)
    graph.add_argument(
        "--model", metavar="TOML", help="a model's config, or the name of one in configs/models/"
    )
    graph.add_argument("--onnx", type=Path, metavar="FILE", help="a graph without a config; needs --calib")
    graph.add_argument(
        "--bundle",
        type=Path,
        nargs="+",
        action="extend",
        metavar="PATH",
        help="bundles (.tar or folder) to compile, check and publish on this device",
    )
    parser.add_argument("--calib", type=Path, metavar="FOLDER", help="pictures to calibrate with, for --onnx")
    parser.add_argument("--size", metavar="HxW", help="input size, for --onnx where the graph leaves it open")
    parser.add_argument("--name", help="name in the store, for --onnx; default: the file's")
    parser.add_argument("--targets", help="all, local (default), or names with commas: cpu,orin,ada")
    parser.add_argument("--variants", help="names with commas: fast,exact (default), w8a16, w4a16")
    parser.add_argument(
        "--policy",
        metavar="JSON",
        help="rules for precisions: a file, or the name of one in configs/policies/",
    )
    parser.add_argument(
        "--search-seconds",
        type=float,
        metavar="N",
        help="stop looking for a better plan after so long, for each engine",
    )
    parser.add_argument("--matrix", type=Path, metavar="TOML", help="rows to add to the hardware matrix")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the engine store (default: engines)")
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
    from edge import machine, targets
    from edge.build.build import build
    from edge.build.report import LiveReporter
    from edge.store import Store

    here = machine.detect()
    matrix = targets.load_targets(args.matrix) if args.matrix else targets.TARGETS
    chosen = targets.select("local" if args.targets is None else args.targets, here, matrix)
    variants = _variants("fast,exact" if args.variants is None else args.variants)
    _check_json(args.json)
    config, store = with_policy(_config(args), args.policy), Store(args.out or STORE)
    if args.search_seconds is not None and not args.search_seconds > 0:
        raise UsageError(f"--search-seconds is {args.search_seconds:g}", "it is a time", "give some seconds")
    with LiveReporter() as reporter:
        return build(config, chosen, variants, store, here, reporter, args.search_seconds)


def with_policy(config: ModelConfig, policy: str | None) -> ModelConfig:
    """The config with a policy from the command line in place of its own."""
    if policy is None:
        return config
    return config.model_copy(update={"quantize": config.quantize.model_copy(update={"policy": Path(policy)})})


def _pack(rows: list[Row], args: argparse.Namespace) -> None:
    from edge.build.carried import pack

    for path in pack(rows, args.out or STORE, args.bundles):
        print(f"carry to its device: {path}", file=sys.stderr)


def _report(rows: list[Row], args: argparse.Namespace) -> None:
    """A report for each model, or nothing kept for one. What goes wrong costs the report and nothing else."""
    from edge.build import evidence
    from edge.errors import EdgeError, MissingPackage
    from edge.signoff.data import Refused
    from edge.signoff.report import write

    roots = {row.model: row.path.parents[3] for row in rows if row.path is not None}
    for model in dict.fromkeys(row.model for row in rows if row.target):
        root = roots.get(model, args.out or (STORE if args.bundle is None else None))
        if root is None:  # a bundle that came to nothing, in a store that is not named
            continue
        if args.no_report:
            evidence.forget(model, root)
            continue
        refused = [Refused(r.label, r.reason) for r in rows if r.model == model and r.error is not None]
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
    from edge import machine, targets
    from edge.build.carried import finish_bundles
    from edge.build.report import LiveReporter
    from edge.store import Store

    for option in ("calib", "size", "name", "targets", "variants", "bundles", "policy", "search_seconds"):
        if getattr(args, option) is not None:
            option = option.replace("_", "-")
            raise UsageError(f"--{option} is not for --bundle", "a bundle says it already", "leave it out")
    matrix = targets.load_targets(args.matrix) if args.matrix else targets.TARGETS
    _check_json(args.json)
    store = None if args.out is None else Store(args.out)
    with LiveReporter() as reporter:
        return finish_bundles(args.bundle, store, machine.detect(), reporter, matrix)


def exit_code(rows: list[Row]) -> int:
    """0, or that of the first engine that failed."""
    return next((row.error.exit_code for row in rows if row.error is not None), EXIT_DONE)


def _config(args: argparse.Namespace) -> ModelConfig:
    from edge.config import load_model

    if args.model is not None:
        for option in ("calib", "size", "name"):
            if getattr(args, option) is not None:
                raise UsageError(
                    f"--{option} is for --onnx", "a model's config says it already", "leave it out"
                )
        return load_model(Path(args.model))
    if args.calib is None:
        raise UsageError(
            "--onnx needs --calib", "ranges are measured on pictures", "give a folder of typical ones"
        )
    return _guessed(args)


def _guessed(args: argparse.Namespace) -> ModelConfig:
    from edge import graph
    from edge.build.guess import guess

    if not args.calib.is_dir():
        raise InputError(f"cannot read the folder {args.calib}", "it is not a folder", "check --calib")
    found = guess(graph.read(args.onnx), args.onnx, args.calib, args.name, _size(args.size))
    print("no config given; guessed:", file=sys.stderr)
    for note in found.notes:
        print(f"  {note}", file=sys.stderr)
    print("as a config, to save and mend:\n\n" + found.to_toml(), file=sys.stderr)
    return found.config


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)[x×](\d+)", text)
    if match is None or not (int(match[1]) and int(match[2])):
        raise UsageError(f"--size {text!r} is not a size", "it is height × width", "write it like 480x640")
    return int(match[1]), int(match[2])


def _variants(text: str) -> list[Variant]:
    from edge.errors import nearest
    from edge.precision.plan import VARIANTS

    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in VARIANTS:
            raise UsageError(f"no variant '{name}'", nearest(name, VARIANTS), "give --variants fast,exact")
    if not names:
        raise ConfigError("no variant given", "", "give --variants fast,exact")
    return [name for name in VARIANTS if name in names]


def _check_json(where: str | None) -> None:
    """Before the build: a typing error must not cost its rows."""
    if where not in (None, "-") and not Path(where).parent.is_dir():
        raise UsageError(
            f"cannot write {where}", "there is no such folder", "make it, or give another --json"
        )


def _print(rows: list[Row], where: str | None) -> None:
    from rich.console import Console

    from edge.build.report import table

    text = json.dumps([row.to_json() for row in rows], indent=1)
    if where == "-":
        print(text)
    else:
        Console(width=None if sys.stdout.isatty() else 160).print(table(rows))
    for warning in dict.fromkeys(text for row in rows for text in row.warnings):
        print(f"warning: {warning}", file=sys.stderr)
    for row in rows:
        if row.error is not None:
            print(f"{row.label} failed: {row.error}", file=sys.stderr)
    if where not in (None, "-"):
        Path(where).write_text(text + "\n", encoding="utf-8")
