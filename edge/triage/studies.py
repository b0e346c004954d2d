"""One study of the worklist: what was found in it so far, and how far it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from edge.triage.findings import Rules

MOST_FINDINGS = 32
"""Classes that are remembered of a study, those with the highest scores."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the worklist.

    Attributes:
        study: its Study Instance UID or the pseudonym of it; the feed's name where there is no study.
        state: how far its objects are, the least advanced one (`edge.spool.State`).
        finding, score: what counts by the rules, with its best score; "" and None where nothing was found.
        objects: SOP instances.
        results: frames with a result.
        since: UNIX seconds, when its first object came.
        flags: what is to be said of its results: `nan`, `burned_in_text` and others.
    """

    study: str
    urgent: bool
    finding: str
    score: float | None
    state: str
    objects: int
    results: int
    since: float
    modality: str
    flags: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """What to say where there is no finding."""
        return "nothing found" if self.results else "not looked at"

    def to_json(self, now: float) -> dict[str, Any]:
        return {
            "study": self.study,
            "urgent": self.urgent,
            "finding": self.finding or None,
            "score": self.score,
            "state": self.state,
            "objects": self.objects,
            "results": self.results,
            "since": moment(self.since),
            "age_s": round(max(0.0, now - self.since), 1),
            "modality": self.modality or None,
            "flags": list(self.flags),
        }


@dataclass(slots=True)
class Study:
    """What is known of a study; see `Row` for the meaning of each field.

    Attributes:
        found: class → best score over all frames.
        instances: short hashes of SOP Instance UIDs, so that none is counted twice.
        uncounted: objects that are known by their number alone.
    """

    key: str
    since: float
    state: str = "inferred"
    modality: str = ""
    results: int = 0
    uncounted: int = 0
    found: dict[str, float] = field(default_factory=dict)
    instances: set[str] = field(default_factory=set)
    flags: set[str] = field(default_factory=set)

    def add(self, found: Mapping[str, float], rules: Rules) -> None:
        """One more result."""
        self.results += 1
        for name, score in found.items():
            self.found[name] = max(score, self.found.get(name, 0.0))
        if len(self.found) > MOST_FINDINGS:
            kept = sorted(self.found, key=lambda name: (name not in rules.urgent, -self.found[name], name))
            self.found = {name: self.found[name] for name in kept[:MOST_FINDINGS]}

    def saw(self, instance: str) -> None:
        """An object of it, by its SOP Instance UID or a pseudonym of that."""
        self.instances.add(hashlib.sha256(instance.encode()).hexdigest()[:12])

    def row(self, rules: Rules) -> Row:
        urgent, finding, score = rules.judge(self.found)
        return Row(
            self.key,
            urgent,
            finding,
            score if finding else None,
            self.state,
            max(len(self.instances), self.uncounted),
            self.results,
            self.since,
            self.modality,
            tuple(sorted(self.flags)),
        )

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs beside the fields of its row."""
        return {"findings": self.found, "instances": sorted(self.instances)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Study:
        """
        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        return cls(
            str(data["study"]),
            datetime.fromisoformat(str(data["since"]).replace("Z", "+00:00")).timestamp(),
            str(data["state"]),
            str(data["modality"] or ""),
            int(data["results"]),
            0,
            {str(name): float(score) for name, score in dict(data["findings"]).items()},
            set(map(str, data["instances"])),
            set(map(str, data["flags"])),
        )


def moment(seconds: float) -> str:
    """UNIX seconds as in result lines."""
    utc = datetime.fromtimestamp(seconds, timezone.utc)
    return utc.isoformat(timespec="milliseconds").replace("+00:00", "Z")
