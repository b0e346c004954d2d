"""Figures with their reach and verdict, gathered section by section; the table and the JSON of all."""

from __future__ import annotations

import dataclasses
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["pass", "miss", ""]
Status = Literal["passed", "missed", "noted", "failed", "not done"]
Outcome = Literal["passed", "missed", "not checked"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One number (or fact) that was found.

    Attributes:
        reach: what it should be, in words; "" where it is only noted.
        verdict: whether it is; "" where there is no reach.
    """

    name: str
    value: Any
    unit: str = ""
    reach: str = ""
    verdict: Verdict = ""


@dataclass
class Section:
    """What one section found. Its methods are how sections speak; figures keep their order.

    Attributes:
        error: what ended it early.
        not_done: what could not be checked here, and why.
        details: tables and texts for the JSON only.
    """

    name: str
    figures: list[Figure] = field(default_factory=list)
    not_done: list[dict[str, str]] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    seconds: float = 0.0

    def at_least(self, name: str, value: float, limit: float, unit: str = "") -> None:
        self._judge(name, value, f"≥ {limit:g}", value >= limit, unit)

    def at_most(self, name: str, value: float, limit: float, unit: str = "") -> None:
        self._judge(name, value, f"≤ {limit:g}", value <= limit, unit)

    def expect(self, name: str, value: Any, wanted: Any, unit: str = "") -> None:
        self._judge(name, value, f"= {_short(wanted)}", value == wanted, unit)

    def note(self, name: str, value: Any, unit: str = "") -> None:
        """A figure without a reach."""
        self.figures.append(Figure(name, value, unit))

    def skip(self, what: str, why: str) -> None:
        """Say plainly what could not be checked."""
        self.not_done.append({"section": self.name, "what": what, "why": " ".join(why.split())})

    def _judge(self, name: str, value: Any, reach: str, holds: bool, unit: str) -> None:
        self.figures.append(Figure(name, value, unit, reach, "pass" if holds else "miss"))

    @property
    def status(self) -> Status:
        if self.error:
            return "failed"
        if any(figure.verdict == "miss" for figure in self.figures):
            return "missed"
        if self.figures:
            return "passed" if self.judged else "noted"
        return "not done"

    @property
    def judged(self) -> bool:
        """Whether anything in it has a verdict."""
        return any(figure.verdict for figure in self.figures)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "status": self.status,
            "seconds": round(self.seconds, 1),
            "error": self.error,
            "figures": [_without_blanks(dataclasses.asdict(figure)) for figure in self.figures],
            "details": _rounded(self.details),
            "not_done": self.not_done,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Section:
        figures = [Figure(**figure) for figure in data["figures"]]
        return cls(data["name"], figures, data["not_done"], data["details"], data["error"], data["seconds"])


def outcome(sections: Sequence[Section]) -> Outcome:
    """ "not checked" unless something was judged: a GPU that nobody looked at has not passed."""
    if any(section.status in ("failed", "missed") for section in sections):
        return "missed"
    return "passed" if any(section.judged for section in sections) else "not checked"


def document(sections: Sequence[Section], facts: dict[str, Any], quick: bool) -> dict[str, Any]:
    """The JSON file."""
    return {
        "schema": 1,
        "benchmark": "gpu_check",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "outcome": outcome(sections),
        "quick": quick,
        **facts,
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "seconds": round(sum(section.seconds for section in sections), 1),
        "sections": {section.name: section.to_json() for section in sections},
        "not_done": [item for section in sections for item in section.not_done],
    }


def file_name(device: str, date: str, kind: str = "") -> str:
    """NVIDIA H200 → nvidia-h200-2026-11-22.json; a `kind` keeps a lesser report from replacing a full one."""
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return "-".join(filter(None, (slug or "gpu", date, kind))) + ".json"


_MARKS = {"pass": "pass", "miss": "MISS", "": ""}


def table(section: Section) -> str:
    """A section as text: a line for each figure, then what went wrong or was left out."""
    lines = [f"{section.name}  [{section.status}, {section.seconds:.1f} s]"]
    width = max([40, *(len(figure.name) for figure in section.figures)])
    for figure in section.figures:
        value = f"{_short(figure.value)} {figure.unit}".rstrip()
        lines.append(
            f"  {figure.name:{width}} {value:>20}   {figure.reach:8} {_MARKS[figure.verdict]}".rstrip()
        )
    if section.error:
        lines.append(f"  FAILED: {section.error}")
    lines += [f"  not done: {item['what']}: {item['why']}" for item in section.not_done]
    return "\n".join(lines)


def _short(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _without_blanks(figure: dict[str, Any]) -> dict[str, Any]:
    figure["value"] = _rounded(figure["value"])
    return {key: item for key, item in figure.items() if key in ("name", "value") or item != ""}


def _rounded(value: Any) -> Any:
    """Floats to six digits, however deep."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
