"""Where results go: one file a kind, listed in `SINKS`.

A sink module offers

    open(address: Address, feeds: Sequence[FeedInfo]) -> Sink
    outputs(address: Address, feeds: Sequence[FeedInfo]) -> list[Path]

and, if results may be left out when it cannot keep up, `POLICY: Policy = "drop-oldest"`. `outputs` names the
files that `open` would write, and touches none. `contract/test_sinks.py` runs over the table. A sink is used
by one thread of its own and may be slow. It gets results of feeds that were added later, too.

A sink that failed and was closed is opened again by its method `reopen()`, if it has one: it goes on beside
or behind what is there already, and may fail again. One with an attribute `idle_s: float` is flushed at least
that often. One with `instant = True` takes no time and never fails: it has no thread between it and the loop.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args

from edge.address import Address as Address
from edge.address import split
from edge.errors import RuntimeFault, UsageError, nearest
from edge.types import Result

SINKS = {
    "jsonl": "edge.sinks.jsonl",
    "video": "edge.sinks.video",
    "display": "edge.sinks.display",
    "triage": "edge.sinks.triage",
    "null": "edge.sinks.null",
}

Policy = Literal["block", "drop-oldest"]
"""What happens when a sink cannot keep up: the loop waits, or the oldest result that waits is left out."""


class Gone(RuntimeFault):
    """Nobody reads what is written any more; opening the sink again is of no use."""


@dataclass(frozen=True, slots=True)
class FeedInfo:
    """What a sink may need to know before the first result.

    Attributes:
        name: unique in the run.
        fps: the feed's own frame rate; None where it has none.
    """

    name: str
    fps: float | None = None


class Sink(Protocol):
    """Takes results one by one, in the order they leave the loop."""

    def write(self, result: Result) -> None:
        """Take one result.

        Raises:
            OSError, EdgeError: it cannot; the sink is closed, and opened again later.
            Gone: nor will it ever.
        """
        ...

    def flush(self) -> None:
        """Called when no result is waiting: what was written becomes visible to readers.

        Raises:
            OSError, EdgeError: nothing that was written since the last call is there.
        """
        ...

    def close(self) -> None:
        """Finish the output.

        Raises:
            OSError, EdgeError: it is not complete.
        """
        ...


def open_sink(uri: str, feeds: Sequence[FeedInfo], policy: Policy | None = None) -> Sink:
    """The sink at `uri`, ready to write; its attribute `policy` says what happens when it cannot keep up.

    Args:
        policy: where the address has none; default: what its kind does.

    Raises:
        UsageError: the scheme or a setting is unknown, or what follows the scheme is wrong.
        InputError: it cannot be opened for writing.
    """
    module, address, own = _locate(uri)
    sink = module.open(address, feeds)
    sink.policy = own or policy or getattr(module, "POLICY", "block")
    return cast(Sink, sink)


def outputs(uri: str, feeds: Sequence[FeedInfo]) -> list[Path]:
    """The files that opening the sink at `uri` would write.

    Raises:
        UsageError: as `open_sink`.
    """
    module, address, _ = _locate(uri)
    return cast(list[Path], module.outputs(address, feeds))


def _locate(uri: str) -> tuple[Any, Address, Policy | None]:
    """The module of a sink's kind, the address without the setting that all kinds have, and that."""
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme not in SINKS:
        raise UsageError(
            f"no sink '{uri}'",
            "a sink is written as scheme:place" if not colon else f"there is no scheme '{scheme}'",
            nearest(scheme, SINKS).rstrip("?") + ", e.g. jsonl:results.jsonl",
        )
    address = split(uri, rest)
    if "?" in rest and Path(rest).exists():
        raise UsageError(
            f"{uri}: a file is called so", "what follows a '?' are settings", "give a path without '?'"
        )
    query = dict(address.query)
    policy = query.pop("policy", None)
    if policy is not None and policy not in get_args(Policy):
        raise UsageError(f"{uri}: no policy '{policy}'", "", nearest(policy, get_args(Policy)))
    module = importlib.import_module(SINKS[scheme])
    return module, Address(uri, address.place, query), cast("Policy | None", policy)
