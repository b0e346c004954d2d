"""What every question of `live_feeds.py` is given and answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Options:
    """From the command line.

    Attributes:
        minutes: of the questions that take as long as they are let.
        repeat: of those that are asked several times.
        peers, peers_python: `stream_peers.py` and a Python that has its packages; None: our own loop alone.
    """

    minutes: float = 2.0
    repeat: int = 3
    peers: Path | None = None
    peers_python: Path | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What was measured.

    Attributes:
        told: in one line.
        reach: what it should be.
        met: whether it is.
        figures: for the record and the picture.
    """

    told: str
    reach: str
    met: bool
    figures: dict[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        return {"told": self.told, "reach": self.reach, "met": self.met, **self.figures}
