"""A unit of work of the spool while its frames are looked at: what became of each of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from edge.sinks.jsonl import json_line
from edge.spool import Claim, Stored
from edge.types import EngineId, Payload

SCHEMA = 1
"""Version of the line that a unit is answered with; raised when a reader of the old one would be misled."""

ON_PURPOSE = ("limited", "gated", "unusable")
"""Why frames are left out though nothing is wrong with them."""

CAPTURE = "capture"
"""The stage at which a frame is read: what fails there fails again."""

Key = tuple[str, int]
"""A frame: the name of its file in the spool without folders, and its number from 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Fate:
    """What became of a frame: a finding, or why there is none.

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
        fates: frames in the order they were handed out; None for one that is on its way.
        unreadable: name of an object → why no frame of it could be read.
        handed_out: all frames were.
        over: it left the desk: nobody waits for its frames any more.
        due: when it is tried again to answer it, `time.monotonic()` seconds.
    """

    claim: Claim
    fates: dict[Key, Fate | None] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    handed_out: bool = False
    over: bool = False
    due: float = 0.0

    @property
    def complete(self) -> bool:
        """Every frame has a fate."""
        return self.handed_out and None not in self.fates.values()

    @property
    def engine(self) -> EngineId | None:
        """Which engine looked at it; None where nothing was found out."""
        return next((fate.engine for fate in self.fates.values() if fate and fate.engine), None)

    @property
    def failed_in_the_engine(self) -> bool:
        """Whether a frame was lost to something that may not happen again."""
        causes = {fate.cause for fate in self.fates.values() if fate and fate.cause}
        return bool(causes - {CAPTURE, *ON_PURPOSE})

    def findings(self) -> Iterator[tuple[Stored, int, Payload]]:
        """Object, number of the frame from 1, and what was found in it."""
        objects = {item.path.name: item for item in self.claim.objects}
        for (file, number), fate in self.fates.items():
            if fate is not None and fate.payload is not None:
                yield objects[file], number, fate.payload

    def spoilt(self) -> dict[str, str]:
        """Objects of which nothing could be read, by name, and why."""
        found = dict(self.unreadable)
        for item in self.claim.objects:
            fates = [fate for (file, _), fate in self.fates.items() if file == item.path.name and fate]
            if fates and all(fate.cause == CAPTURE for fate in fates):
                found[item.name] = fates[0].reason
        return found

    def failure(self) -> str | None:
        """Why nothing at all was found out about it; None where something was, or was not to be."""
        fates = [fate for fate in self.fates.values() if fate is not None]
        if any(not fate.cause or fate.cause in ON_PURPOSE for fate in fates):
            return None
        reasons = [*self.unreadable.values(), *(fate.reason or f"it failed: {fate.cause}" for fate in fates)]
        return reasons[0] if reasons else "there is nothing in it"

    def line(self, moment: datetime) -> str:
        """The answer as one line of JSON."""
        claim, engine = self.claim, self.engine
        names = {item.path.name: item.uid for item in claim.objects}
        frames: list[dict[str, Any]] = []
        failed: list[dict[str, Any]] = []
        for (file, number), fate in self.fates.items():
            where = {"sop_instance_uid": names[file], "frame_number": number}
            if fate is not None and fate.payload is not None:
                frames.append(where | fate.payload.to_json() | {"flags": list(fate.flags)})
            elif fate is not None:
                failed.append(
                    where | {"cause": fate.cause} | ({"reason": fate.reason} if fate.reason else {})
                )
        uids = {item.name: item.uid for item in claim.objects}
        failed += [
            {"sop_instance_uid": uids[name], "cause": CAPTURE, "reason": reason}
            for name, reason in self.unreadable.items()
        ]
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
