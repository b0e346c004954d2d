"""Options of the commands that plan or build a model, and what they mean."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edge.errors import ConfigError, InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge.config import ModelConfig
    from edge.machine import Machine
    from edge.precision.plan import Variant
    from edge.targets import Target

STORE = Path("engines")


def add_source(parser: argparse._MutuallyExclusiveGroup) -> None:
    """Declare where the model comes from."""
    parser.add_argument(
        "--model", metavar="TOML", help="a model's config, or the name of one in configs/models/"
    )
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="a graph without a config; needs --calib")


def add_arguments(parser: argparse.ArgumentParser, variants: str) -> None:
    """Declare what is to be made of it.

    Args:
        variants: those that are made if none are given.
    """
    parser.add_argument("--calib", type=Path, metavar="FOLDER", help="pictures to calibrate with, for --onnx")
    parser.add_argument("--size", metavar="HxW", help="input size, for --onnx where the graph leaves it open")
    parser.add_argument("--name", help="name in the store, for --onnx; default: the file's")
    parser.add_argument("--targets", help="all, local (default), or names with commas: cpu,orin,ada")
    parser.add_argument(
        "--variants", help=f"fast, exact, w8a16, w4a16, with commas between (default: {variants})"
    )
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
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"the engine store (default: {STORE})")


def matrix(args: argparse.Namespace) -> Mapping[str, Target]:
    """The hardware matrix, with rows of the user's."""
    from edge import targets

    return targets.load_targets(args.matrix) if args.matrix else targets.TARGETS


def chosen_targets(args: argparse.Namespace, here: Machine) -> list[Target]:
    """The rows that `--targets` names."""
    from edge import targets

    return list(targets.select("local" if args.targets is None else args.targets, here, matrix(args)))


def search_seconds(args: argparse.Namespace) -> float | None:
    """The budget of a search.

    Raises:
        UsageError: it is not a time.
    """
    seconds: float | None = args.search_seconds
    if seconds is not None and not seconds > 0:
        raise UsageError(f"--search-seconds is {seconds:g}", "it is a time", "give some seconds")
    return seconds


def model_config(args: argparse.Namespace) -> ModelConfig:
    """The model's config, from its file or guessed from the graph, with the policy of the command line.

    Raises:
        UsageError: options contradict each other.
        InputError: what they name cannot be read.
        ConfigError: the policy is for a target that the matrix has not.
    """
    config = _config(args)
    if args.policy is not None:
        quantize = config.quantize.model_copy(update={"policy": Path(args.policy)})
        config = config.model_copy(update={"quantize": quantize})
    _refuse_unknown_targets(config.quantize.policy, matrix(args))
    return config


def _refuse_unknown_targets(path: Path | None, known: Mapping[str, Target]) -> None:
    """A rule for a target that is misspelt would be for none."""
    from edge.errors import nearest
    from edge.precision.policy import NOTHING, load_policy

    policy = load_policy(path) if path else NOTHING
    for index, rule in enumerate(policy.rules):
        for name in rule.targets:
            if name not in known:
                raise ConfigError(
                    f"the policy's rule '{policy.label(index)}' is for the target '{name}'",
                    "the hardware matrix has no such row",
                    nearest(name, known),
                )


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


def variants(text: str) -> list[Variant]:
    """The variants that a text names, in their usual order.

    Raises:
        UsageError: there is none of a name.
        ConfigError: it names none.
    """
    from edge.errors import nearest
    from edge.precision.plan import VARIANTS

    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in VARIANTS:
            raise UsageError(f"no variant '{name}'", nearest(name, VARIANTS), "give --variants fast,exact")
    if not names:
        raise ConfigError("no variant given", "", "give --variants fast,exact")
    return [name for name in VARIANTS if name in names]


def check_writable(where: str | None, option: str = "--json") -> None:
    """Before a long command: a typing error must not cost what it made.

    Raises:
        UsageError: the file's folder does not exist.
    """
    if where not in (None, "-") and not Path(where).parent.is_dir():
        raise UsageError(
            f"cannot write {where}", "there is no such folder", f"make it, or give another {option}"
        )
