"""Waiting for a host that does not answer, and no longer than until it does."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

KNOCK_S = 0.3
"""Seconds between two looks whether a host answers again, and that one look may take."""


def wait(
    seconds: float, place: tuple[str, int] | None, stop: threading.Event, over: Callable[[], object]
) -> None:
    """Until the time is up, a host that did not answer does, or it is over.

    Args:
        place: host and port; None: only the time counts.
    """
    until, silent = time.perf_counter() + seconds, False
    while (left := until - time.perf_counter()) > 0 and not over():
        if place is not None and left > KNOCK_S:  # at once, too: it may be back before the second look
            if not answers(place):
                silent = True
            elif silent:
                return
        stop.wait(min(left, KNOCK_S))


def answers(place: tuple[str, int]) -> bool:
    """Whether somebody accepts connections there."""
    try:
        socket.create_connection(place, KNOCK_S).close()
    except (OSError, UnicodeError):
        return False
    return True
