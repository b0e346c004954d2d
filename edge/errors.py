"""Every error a user can cause or meet: what failed, why, what to do now, and the exit code it ends in.

| exit code | meaning                | class                                  |
|-----------|------------------------|----------------------------------------|
| 0         | done                   |                                        |
| 2         | usage or configuration | UsageError, ConfigError, MissingPackage|
| 3         | accuracy gate failed   | GateError                              |
| 4         | input unreadable       | InputError, ModelError                 |
| 5         | runtime fault          | RuntimeFault, StoreError               |
| 130       | interrupted            | KeyboardInterrupt                      |
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge.manifest import Accuracy

EXIT_DONE = 0
EXIT_INTERRUPTED = 130


class EdgeError(Exception):
    """The base of them all.

    Args:
        what: what failed, with the value that failed.
        why: the cause, as far as it is known.
        fix: what the reader can do now.

    Attributes:
        names: parts of the text that may identify a patient: paths of DICOM files.
    """

    exit_code = 5
    names: tuple[str, ...] = ()

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.fix = what, why, fix

    def __str__(self) -> str:
        """One sentence, for logs; the command line prints the three parts on lines of their own."""
        text = f"{self.what}: {self.why}" if self.why else self.what
        return f"{text} ({self.fix})" if self.fix else text

    def __reduce__(self) -> tuple[type[EdgeError], tuple[str, str, str]]:
        return type(self), (self.what, self.why, self.fix)


class UsageError(EdgeError, ValueError):
    """The command line or an argument is wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file is wrong."""


class MissingPackage(EdgeError, ImportError):
    """An optional package is needed and absent; `fix` holds the command that installs it."""

    exit_code = 2


class GateError(EdgeError):
    """An engine does not reach the accuracy its model's gate asks for. Nothing was published.

    Attributes:
        accuracy: what was measured.
    """

    exit_code = 3

    def __init__(self, what: str, why: str = "", fix: str = "", accuracy: Accuracy | None = None) -> None:
        super().__init__(what, why, fix)
        self.accuracy = accuracy


class InputError(EdgeError, OSError):
    """A file, folder or feed cannot be read."""

    exit_code = 4

    def __str__(self) -> str:  # OSError formats its arguments in its own way
        return EdgeError.__str__(self)


class ModelError(InputError):
    """An ONNX graph is not valid, or holds something that cannot be built."""


class RuntimeFault(EdgeError, RuntimeError):
    """A runtime, device or sink failed while working."""


class OutOfDeviceMemory(RuntimeFault, MemoryError):
    """A GPU has not enough free memory. What was running before goes on."""


class DeviceLost(RuntimeFault):
    """A GPU's context is dead: every further call fails until engine and context are made anew."""


class StoreError(RuntimeFault):
    """The engine store holds something that must not be loaded, or cannot be written."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: «did you mean 'letterbox'?», or the list of what there is."""
    known = sorted(known)
    if not known:
        return "there is none"
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"


def missing_package(package: str, extra: str, purpose: str) -> MissingPackage:
    """The error for an optional package that is not installed."""
    return MissingPackage(
        f"{purpose} needs the package '{package}'",
        "it is not installed",
        f"pip install {package}   or   pip install '.[{extra}]'",
    )
