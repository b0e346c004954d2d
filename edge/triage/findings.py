"""What a result says was found, and when that is urgent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DIGITS = 4
"""Scores are compared as result lines show them: a batch, which rounds otherwise, changes no order."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Which findings count.

    Attributes:
        urgent: class → score from which its finding is urgent. Where it is empty every class counts, and none
            is urgent.
    """

    urgent: Mapping[str, float] = field(default_factory=dict)

    def judge(self, found: Mapping[str, float]) -> tuple[bool, str, float]:
        """Of a study's classes and their best scores: is it urgent, and the finding that counts, with its
        score; without one "" and 0."""
        counts = {name: score for name, score in found.items() if not self.urgent or name in self.urgent}
        best = max(
            counts, key=lambda name: (self._is_urgent(name, counts[name]), counts[name], name), default=""
        )
        score = counts.get(best, 0.0)
        return self._is_urgent(best, score), best, score

    def _is_urgent(self, name: str, score: float) -> bool:
        return score >= self.urgent.get(name, math.inf)


def found_in(fields: Mapping[str, Any]) -> dict[str, float]:
    """Classes found → best score of each, from the fields of a result line (docs/result.schema.json)."""
    found: dict[str, float] = {}
    for item in (item for key in ("classes", "detections", "volumes") for item in _items(fields, key)):
        _add(found, item.get("name") or item.get("class"), item.get("score"))
    mask = fields.get("mask")
    if isinstance(mask, Mapping):
        for box in _items(mask, "boxes"):
            _add(found, mask.get("label") or "mask", box.get("score"))
    return found


def _items(fields: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    items = fields.get(key)
    return [item for item in items if isinstance(item, Mapping)] if isinstance(items, list | tuple) else []


def _add(found: dict[str, float], name: Any, score: Any) -> None:
    if name is None or not isinstance(score, int | float) or not math.isfinite(score):
        return
    found[str(name)] = max(round(float(score), DIGITS), found.get(str(name), 0.0))
