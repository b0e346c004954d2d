"""The command line: `edge COMMAND`, with the commands of `COMMANDS`.

Each command is a module of this package with `add_arguments(parser)` and `run(args) -> exit code`. Only the
module of the command that was typed is imported, so that `edge --help` starts at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Protocol, cast

from edge import __version__
from edge.errors import EXIT_DONE, EXIT_INTERRUPTED, EdgeError, RuntimeFault, UsageError, nearest

COMMANDS = {
    "build": "build, check and publish the engines of a model",
    "run": "stream feeds through an engine",
    "plan": "show which precision every part of a model would get, and why",
    "inspect": "show what an engine, the store or an ONNX graph holds",
    "report": "write what a model's engines are like, as a page to sign and a picture",
    "verify": "judge a published engine again, and say what changed since",
    "diff": "show what differs between two engines",
    "doctor": "show what can be compiled and run on this machine",
    "bench": "measure an engine on this machine",
    "worklist": "show which study to look at first",
    "dicom": "show, send and receive DICOM files",
    "demo": "build the demo model, stream two feeds, draw a summary",
}


class Command(Protocol):
    """What a command's module offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options; imports nothing heavy."""
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Do it and return the exit code.

        Raises:
            EdgeError: it failed for a reason that a user can understand.
        """
        ...


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line as a UsageError, in the form of all other errors."""

    def error(self, message: str) -> None:  # type: ignore[override]  # argparse's never returns either
        raise UsageError(f"{self.prog}: {message}", "", f"{self.prog} --help")


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of `edge`; only `command` gets its options, the others are names with a line of help."""
    top = Parser(
        prog="edge",
        description="One ONNX graph → a checked engine for every NVIDIA device → streamed feeds.",
        epilog="exit codes: 0 done, 2 usage or configuration, 3 accuracy gate failed, 4 input unreadable, "
        "5 runtime fault, 130 interrupted",
    )
    top.add_argument("--version", action="version", version=f"edge {__version__}")
    subparsers = top.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name, purpose in COMMANDS.items():
        child = subparsers.add_parser(name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")
        if name == command:
            _module(name).add_arguments(child)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; errors are printed on stderr, never raised."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except EdgeError as error:
        print(explain(error), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("edge: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, as in `edge inspect … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except OSError as error:  # a folder without permission, a full disk: the system's words say enough
        what = f"edge: {error.strerror or error}"
        fix = "check the path, its permissions and the disk"
        print(explain(RuntimeFault(what, _place(error), fix)), file=sys.stderr)
        return RuntimeFault.exit_code


def _run(words: list[str]) -> int:
    command = next((word for word in words if not word.startswith("-")), None)
    if command is not None and command not in COMMANDS:
        raise UsageError(f"edge: no command '{command}'", "", nearest(command, COMMANDS))
    try:
        args, unknown = parser(command).parse_known_args(words)
    except SystemExit as e:  # --help and --version have printed what was asked for
        return int(e.code or 0)
    if unknown:
        what = f"edge {args.command}: unrecognized arguments: {' '.join(unknown)}"
        raise UsageError(what, "", f"edge {args.command} --help")
    code = _module(args.command).run(args)
    sys.stdout.flush()  # here, where a closed pipe is still ours to handle
    return code


def _module(command: str) -> Command:
    return cast(Command, importlib.import_module(f"edge.cli.{command}"))


def _place(error: OSError) -> str:
    return f"it happened at {error.filename}" if error.filename else ""


def explain(error: EdgeError) -> str:
    """The error for people, up to three lines: what failed, why, what to do now."""
    lines = [f"error: {error.what}"]
    lines += [f"  why: {error.why}"] if error.why else []
    lines += [f"   do: {error.fix}"] if error.fix else []
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
