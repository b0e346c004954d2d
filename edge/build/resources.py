"""Peak memory of a piece of work, and running it in a process of its own."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, TypeVar

from edge.errors import EdgeError, RuntimeFault

T = TypeVar("T")
_ARENA_MAX = -8
"""M_ARENA_MAX of glibc's mallopt(3)."""
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_rss() -> int:
    """Largest resident set of this process so far, or since `reset_peak`, in bytes; 0 where unknown."""
    return _status("VmHWM")


def current_rss() -> int:
    """Resident set of this process now, in bytes; 0 where unknown."""
    return _status("VmRSS")


def give_back() -> None:
    """Return what was freed to the system: the C library keeps it, and a compiler is about to need it."""
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def few_heaps(count: int) -> None:
    """Have all threads share so many heaps. The C library keeps up to eight a core, and in each of them holes
    that the others do not use: a process with many threads grows for days."""
    if "MALLOC_ARENA_MAX" not in os.environ:
        with suppress(OSError, AttributeError):  # no C library that knows of it
            ctypes.CDLL(None).mallopt(_ARENA_MAX, count)


def reset_peak() -> None:
    """Start a new measurement for `peak_rss`; without permission it goes on with the old one."""
    with suppress(OSError):  # without it the peak covers more than this work: on the safe side
        _CLEAR.write_text("5")


def _status(key: str) -> int:
    with suppress(OSError):  # not Linux
        for line in _STATUS.read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) << 10
    return 0


STOP_SECONDS = 10.0
"""How long work that tells its progress may take to notice that nobody listens any more."""


class Abandoned(Exception):
    """Raised in the child, by the progress function: nobody waits for the work any more."""


@dataclass(frozen=True, slots=True)
class _Step:
    """A call of the progress function, on its way to the parent."""

    arguments: tuple[Any, ...]


def in_child(
    work: Callable[..., T], *args: Any, progress: Callable[..., None] | None = None
) -> tuple[T, int]:
    """Run `work(*args)` in a fresh process: a compiler that crashes or leaks takes nothing along.

    Args:
        work: a module-level function; arguments and result must be picklable.
        progress: if given, `work` gets a keyword argument `progress`; what it calls that with arrives here.
            When this process is interrupted or killed, the call raises `Abandoned` in the child, so that the
            work can stop cleanly; it is ended if it has not after `STOP_SECONDS`.

    Returns:
        The result, and the child's peak resident set in bytes.

    Raises:
        EdgeError: as `work` raised it.
        RuntimeFault: the child died.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    arguments = (sender, work, args, progress is not None)
    child = context.Process(target=_child, args=arguments, daemon=True)
    child.start()
    sender.close()
    try:
        while isinstance(answer := receiver.recv(), _Step):
            if progress is not None:
                progress(*answer.arguments)
        result, error, peak = answer
    except EOFError:
        child.join()
        raise RuntimeFault(
            f"{work.__name__} died",
            f"its process ended with status {child.exitcode}",
            "see its last words above",
        ) from None
    finally:
        receiver.close()
        _end(child, STOP_SECONDS if progress else 0.0)
    if error is not None:
        raise error
    return result, peak


def _end(child: SpawnProcess, patience: float) -> None:
    """Wait until the child is gone; after `patience` seconds it is ended."""
    try:
        child.join(patience)
    finally:
        if child.is_alive():
            child.terminate()
        child.join()


def _child(sender: Connection, work: Callable[..., Any], args: tuple[Any, ...], tells: bool) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C too, and stops listening

    def report(*arguments: Any) -> None:
        try:
            sender.send(_Step(arguments))
        except OSError as e:
            raise Abandoned from e

    answer: tuple[Any, EdgeError | None, int]
    try:
        answer = (work(*args, **({"progress": report} if tells else {})), None, peak_rss())
    except EdgeError as e:
        answer = (None, e, peak_rss())
    except Abandoned:
        return
    with suppress(BrokenPipeError):  # nobody waits for it any more
        sender.send(answer)
    sender.close()
