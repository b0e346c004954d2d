"""Where results go: one file a kind, listed in `SINKS`.

A sink module offers

    open(rest: str, feeds: Sequence[FeedInfo]) -> Sink
    outputs(rest: str, feeds: Sequence[FeedInfo]) -> list[Path]

with `rest` what follows the scheme; `outputs` names the files that `open` would replace, and touches none.
`contract/test_sinks.py` runs over the table. A sink is used by one thread of its own and may be slow; the
loop waits for it only when its queue is full.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from edge.errors import UsageError, nearest
from edge.types import Result

SINKS = {
    "jsonl": "edge.sinks.jsonl",
    "video": "edge.sinks.video",
    "null": "edge.sinks.null",
}


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
            OSError, EdgeError: it cannot; the sink is closed and gets no more.
        """
        ...

    def flush(self) -> None:
        """Called when no result is waiting: what was written becomes visible to readers."""
        ...

    def close(self) -> None:
        """Finish the output.

        Raises:
            OSError, EdgeError: it is not complete.
        """
        ...


def open_sink(uri: str, feeds: Sequence[FeedInfo]) -> Sink:
    """The sink at `uri`, ready to write.

    Raises:
        UsageError: the scheme is unknown, or what follows it is wrong.
        InputError: it cannot be opened for writing.
    """
    module, rest = _locate(uri)
    return cast(Sink, module.open(rest, feeds))


def outputs(uri: str, feeds: Sequence[FeedInfo]) -> list[Path]:
    """The files that opening the sink at `uri` would replace.

    Raises:
        UsageError: the scheme is unknown, or what follows it is wrong.
    """
    module, rest = _locate(uri)
    return cast(list[Path], module.outputs(rest, feeds))


def _locate(uri: str) -> tuple[Any, str]:
    """The module of a sink's kind, and what follows the scheme."""
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme not in SINKS:
        raise UsageError(
            f"no sink '{uri}'",
            "a sink is written as scheme:place" if not colon else f"there is no scheme '{scheme}'",
            nearest(scheme, SINKS) + ", e.g. jsonl:results.jsonl",
        )
    return importlib.import_module(SINKS[scheme]), rest
