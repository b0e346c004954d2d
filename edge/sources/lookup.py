"""Host names with a time limit: FFmpeg's own lookup cannot be interrupted."""

from __future__ import annotations

import socket
import threading
import time

from edge.errors import InputError

_pending: dict[str, _Lookup] = {}
_lock = threading.Lock()


def look_up(host: str, seconds: float, shown: str) -> None:
    """Find out that the host has an address; FFmpeg's own lookup, right after, then has it from the resolver.

    Args:
        host: a name or an address; "" is none.
        shown: the address that is to be opened, as it may be shown.

    Raises:
        InputError: it has none, or nobody answered in time.
    """
    if not host or _is_numeric(host):
        return
    deadline = time.monotonic() + seconds
    with _lock:  # a lookup that hangs is joined by the next attempt: there is one thread a host at most
        lookup = _pending.get(host)
        if lookup is None:
            lookup = _pending[host] = _Lookup(host)
            lookup.start()
    lookup.join(max(0.0, deadline - time.monotonic()))
    if lookup.is_alive():
        raise InputError(
            f"cannot open {shown}",
            f"looking up '{host}' takes longer than {seconds:g} s",
            "check the name server",
        )
    if lookup.problem:
        raise InputError(f"cannot open {shown}", f"host '{host}': {lookup.problem}", "check the host's name")


class _Lookup(threading.Thread):
    def __init__(self, host: str) -> None:
        super().__init__(name=f"lookup-{host}", daemon=True)
        self.host, self.problem = host, ""

    def run(self) -> None:
        try:
            resolve(self.host)
        except (OSError, UnicodeError) as e:
            self.problem = getattr(e, "strerror", None) or "not a name"
        finally:
            with _lock:
                del _pending[self.host]


def resolve(host: str) -> None:
    """Ask the system; a test puts a slow one here."""
    socket.getaddrinfo(host, None)


def _is_numeric(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return False
    return True
