"""A unit of work of the spool while it is looked at: its parts, and what became of each of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edge.sinks.jsonl import json_line
from edge.spool import Claim
from edge.types import EngineId, Payload

SCHEMA = 1
"""Version of the line that a unit is answered with; raised when a reader of the old one would be misled."""

ON_PURPOSE = ("limited", "gated", "unusable")
"""Why parts are left out though nothing is wrong with them."""

INPUT = "capture"
"""The stage at which a file is read: what fails there fails again."""


@dataclass(frozen=True, slots=True)
class Part:
    """What is looked at as one: a frame of an object, or a stack of slices.

    Attributes:
        paths: its files.
        number: of the frame in its file, from 1; 0 for a stack, and for a file that cannot be opened.
        stack: whether it is one. What makes no volume today may do so with a slice that comes late, so it is
            answered with the reason, and not quarantined.
    """

    paths: tuple[Path, ...]
    number: int = 0
    stack: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Fate:
    """What became of a part: a finding, or why there is none.

    Attributes:
        cause: the stage at which it failed, or why it was left out.
        reason: more of it, for people; without values of the header.
    """

    payload: Payload | None = None
    engine: EngineId | None = None
    flags: tuple[str, ...] = ()
    cause: str = ""
    reason: str = ""


@dataclass(slots=True, eq=False)
class Case:
    """A unit of work on the desk.

    Attributes:
        parts, fates: in the order they were handed out; None for one that is on its way.
        handed_out: all parts were.
        over: it left the desk: nobody waits for its parts any more.
        due: when it is tried again to answer it, `time.monotonic()` seconds.
    """

    claim: Claim
    parts: list[Part] = field(default_factory=list)
    fates: list[Fate | None] = field(default_factory=list)
    handed_out: bool = False
    over: bool = False
    due: float = 0.0

    @property
    def complete(self) -> bool:
        """Every part has a fate."""
        return self.handed_out and None not in self.fates

    @property
    def engine(self) -> EngineId | None:
        """Which engine looked at it; None where nothing was found out."""
        return next((fate.engine for _, fate in self.ended() if fate.engine), None)

    @property
    def failed_in_the_engine(self) -> bool:
        """Whether a part was lost to something that may not happen again."""
        return bool({fate.cause for _, fate in self.ended()} - {"", INPUT, *ON_PURPOSE})

    def ended(self) -> Iterator[tuple[Part, Fate]]:
        """Parts that have a fate, and theirs."""
        yield from ((part, fate) for part, fate in zip(self.parts, self.fates, strict=True) if fate)

    def spoilt(self) -> dict[str, str]:
        """Objects of which nothing could be read, by name, and why."""
        fates: dict[Path, list[Fate]] = defaultdict(list)
        for part, fate in self.ended():
            if not part.stack:
                fates[part.paths[0]].append(fate)
        return {
            item.name: fates[item.path][0].reason
            for item in self.claim.objects
            if item.path in fates and all(fate.cause == INPUT for fate in fates[item.path])
        }

    def failure(self) -> str | None:
        """Why nothing at all was found out about it; None where something was, or was not to be."""
        for part, fate in self.ended():
            if not fate.cause or fate.cause in ON_PURPOSE or (part.stack and fate.cause == INPUT):
                return None
        reasons = (fate.reason or f"it failed: {fate.cause}" for _, fate in self.ended())
        return next(reasons, "there is nothing in it")

    def line(self, moment: datetime) -> str:
        """The answer as one line of JSON.

        Args:
            moment: when it was inferred.
        """
        claim, engine = self.claim, self.engine
        uids = {item.path: item.uid for item in claim.objects}
        frames: list[dict[str, Any]] = []
        failed: list[dict[str, Any]] = []
        for part, fate in self.ended():
            where = _where(part, uids)
            if fate.payload is not None:
                frames.append(where | fate.payload.to_json() | {"flags": list(fate.flags)})
            else:
                failed.append(
                    where | {"cause": fate.cause} | ({"reason": fate.reason} if fate.reason else {})
                )
        fields = {
            "schema": SCHEMA,
            "unit": claim.key,
            "revision": claim.revision,
            "study_instance_uid": claim.study,
            "series_instance_uid": claim.series,
            "inferred_at": moment.astimezone(timezone.utc).isoformat(timespec="milliseconds"),
            "model": engine.model if engine else None,
            "target": engine.target if engine else None,
            "variant": engine.variant if engine else None,
            "key": engine.key if engine else None,
            "frames": frames,
            "failed": failed,
        }
        return json_line(fields)


def _where(part: Part, uids: Mapping[Path, str]) -> dict[str, Any]:
    """What a part is called in the answer."""
    if part.stack:
        return {"slices": len(part.paths)}
    return {"sop_instance_uid": uids[part.paths[0]]} | ({"frame_number": part.number} if part.number else {})
