"""The list itself: results go in, studies come out in the order in which they should be looked at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from edge.triage.findings import Rules, found_in
from edge.triage.studies import Row, Study, moment

SCHEMA = 1
"""Version of the JSON form; raised when a reader of the old one would be misled."""

MOST_STUDIES = 1000


class Worklist:
    """Studies by key, in a form that can be written down and taken up again.

    Args:
        keep: studies that are remembered; the oldest ones go first.
    """

    def __init__(self, rules: Rules | None = None, keep: int = MOST_STUDIES) -> None:
        self.rules, self.keep = rules or Rules(), keep
        self._studies: dict[str, Study] = {}

    def add(self, fields: Mapping[str, Any]) -> None:
        """One result, as the fields of its line (docs/result.schema.json)."""
        meta = fields.get("source_meta") or {}
        key = str(meta.get("study_instance_uid") or fields.get("feed") or "")
        study = self.study(key, _seconds(fields.get("captured_at")))
        study.add(found_in(fields), self.rules)
        study.flags.update(map(str, fields.get("flags") or ()))
        if instance := meta.get("sop_instance_uid"):
            study.saw(str(instance))
        study.modality = study.modality or str(meta.get("modality") or "")

    def study(self, key: str, since: float) -> Study:
        """The study of this key, which something of was there at `since`, UNIX seconds."""
        study = self._studies.get(key)
        if study is None:
            study = self._studies[key] = Study(key, since)
            if len(self._studies) > self.keep:
                del self._studies[min(self._studies.values(), key=lambda s: (s.since, s.key)).key]
        study.since = min(study.since, since)
        return study

    def rows(self) -> list[Row]:
        """Urgent ones first, then by score; of equal ones the oldest first. Studies without a finding come
        last."""
        rows = [study.row(self.rules) for study in self._studies.values()]
        return sorted(rows, key=lambda r: (not r.urgent, -(r.score or 0.0), r.since, r.study))

    def to_json(self, now: float) -> dict[str, Any]:
        """What `restore` takes; also for other programs."""
        return {
            "schema": SCHEMA,
            "updated": moment(now),
            "urgent": dict(self.rules.urgent),
            "studies": [{**row.to_json(now), **self._studies[row.study].to_json()} for row in self.rows()],
        }

    def restore(self, text: str) -> None:
        """Take up a list that was written before; one of another kind is left out.

        Raises:
            ValueError: it is no worklist.
        """
        try:
            data = json.loads(text)
            if data["schema"] != SCHEMA:
                raise ValueError(f"its schema is {data['schema']}, this program knows {SCHEMA}")
            studies = [Study.from_json(entry) for entry in data["studies"]]
        except (KeyError, TypeError, AttributeError) as e:
            raise ValueError(f"it is no worklist ({type(e).__name__})") from e
        self._studies = {study.key: study for study in studies}


def _seconds(text: Any) -> float:
    """UNIX seconds of a time in a result line; 0 where it holds none."""
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return 0.0
