"""Peak memory of a piece of work, and running it in a process of its own."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from edge.errors import EdgeError, RuntimeFault

T = TypeVar("T")
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_rss() -> int:
    """Largest resident set of this process so far, or since `reset_peak`, in bytes; 0 where unknown."""
    return _status("VmHWM")


def current_rss() -> int:
    """Resident set of this process now, in bytes; 0 where unknown."""
    return _status("VmRSS")


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


def in_child(work: Callable[..., T], *args: Any) -> tuple[T, int]:
    """Run `work(*args)` in a fresh process: a compiler that crashes or leaks takes nothing along.

    Args:
        work: a module-level function; arguments and result must be picklable.

    Returns:
        The result, and the child's peak resident set in bytes.

    Raises:
        EdgeError: as `work` raised it.
        RuntimeFault: the child died.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(sender, work, args), daemon=True)
    child.start()
    sender.close()
    try:
        result, error, peak = receiver.recv()
    except EOFError:
        child.join()
        raise RuntimeFault(
            f"{work.__name__} died",
            f"its process ended with status {child.exitcode}",
            "see its last words above",
        ) from None
    finally:
        if child.is_alive():
            child.terminate()
        child.join()
        receiver.close()
    if error is not None:
        raise error
    return result, peak


def _child(sender: Connection, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C too, and ends us
    answer: tuple[Any, EdgeError | None, int]
    try:
        answer = (work(*args), None, peak_rss())
    except EdgeError as e:
        answer = (None, e, peak_rss())
    sender.send(answer)
    sender.close()
