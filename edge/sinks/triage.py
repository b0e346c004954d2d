"""`triage:<list.html>` and `triage:<list.json>`: the worklist, kept up to date while a run goes on."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edge.errors import InputError, RuntimeFault, UsageError
from edge.sinks import Address, FeedInfo
from edge.sinks.files import check_writable
from edge.sinks.jsonl import result_fields
from edge.triage import Rules, Worklist
from edge.triage.page import page, restore
from edge.triage.worklist import MOST_STUDIES
from edge.types import Result

SUFFIXES = (".html", ".htm", ".json")
AGES_S = 30.0
"""Seconds after which a list is written again though nothing came: the ages in it have grown."""
SHARE = 20.0
"""A list that takes long to write is written so seldom that it costs this part of the time."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """How a list is kept.

    Attributes:
        append: go on with a list that is there.
        every_s: least seconds between two writings.
        keep: most studies.
        rules: what is urgent.
    """

    append: bool
    every_s: float
    keep: int
    rules: Rules


class TriageFile:
    """The list in one file, replaced as a whole: whoever reads it finds a complete one at any moment."""

    def __init__(self, path: Path, keeping: Keeping, clock: Callable[[], float] = time.time) -> None:
        self.path, self.keeping, self._clock = path, keeping, clock
        self.idle_s = max(keeping.every_s, 0.1)
        self.worklist = Worklist(keeping.rules, keeping.keep)
        self._dirty, self._next, self._old = True, 0.0, math.inf
        if keeping.append and path.exists():
            self._restore()

    def use(self, rules: Rules) -> None:
        """Rules of the stream's config; those of the address go before them."""
        self.worklist.rules = Rules({**rules.urgent, **self.keeping.rules.urgent})

    def write(self, result: Result) -> None:
        self.worklist.add(result_fields(result))
        self._dirty = True

    def flush(self) -> None:
        now = time.monotonic()
        if (self._dirty and now >= self._next) or now >= self._old:
            self._write()

    def close(self) -> None:
        if self._dirty:
            self._write()

    def reopen(self) -> None:
        """What was given before the fault is still known."""
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def _restore(self) -> None:
        try:
            written = self.path.read_text(encoding="utf-8")
            if self.path.suffix == ".json":
                self.worklist.restore(written)
            else:
                restore(self.worklist, written)
        except (OSError, ValueError) as e:
            fix = "give another path, or append=0 to replace it"
            raise InputError(f"cannot go on with {self.path}", _why(e), fix) from e

    def _write(self) -> None:
        started = time.monotonic()
        try:
            replace(self.path, self._text())
        except OSError as e:
            raise RuntimeFault(f"cannot write {self.path}", _why(e), "check the path and the disk") from e
        done = time.monotonic()
        self._dirty = False
        self._next = done + max(self.keeping.every_s, SHARE * (done - started))
        self._old = done + max(AGES_S, SHARE * (done - started))

    def _text(self) -> str:
        now = self._clock()
        if self.path.suffix == ".json":
            return (
                json.dumps(self.worklist.to_json(now), ensure_ascii=False, allow_nan=False, indent=1) + "\n"
            )
        return page(self.worklist, now, refresh=max(2.0, self.keeping.every_s))


def replace(path: Path, text: str) -> None:
    """Put a text in the place of a file, at once and whole.

    Raises:
        OSError: it cannot be written; the file is as before.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        with suppress(OSError):
            beside.unlink()


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def open(address: Address, feeds: Sequence[FeedInfo]) -> TriageFile:
    """A list that is there is gone on with, unless `append=0`; its folder is made.

    Raises:
        UsageError: no path is given, or a setting is wrong.
        InputError: the file cannot be written, or is no list.
    """
    (path,) = outputs(address, feeds)
    keeping = _keeping(address)
    check_writable(path)
    return TriageFile(path, keeping)


def outputs(address: Address, feeds: Sequence[FeedInfo]) -> list[Path]:
    """The file.

    Raises:
        UsageError: as `open`.
    """
    _keeping(address)
    if not address.place or address.path.suffix not in SUFFIXES:
        raise UsageError(
            f"{address.uri}: no .html or .json file", "", "triage:list.html, or triage:list.json"
        )
    return [address.path]


def _keeping(address: Address) -> Keeping:
    values = address.settings({"append": True, "every_s": 1.0, "keep": MOST_STUDIES, "urgent": ""})
    if not 0 <= values["every_s"] < math.inf:
        raise UsageError(f"{address.uri}: every_s={values['every_s']} is not a number from 0")
    if values["keep"] < 1:
        raise UsageError(f"{address.uri}: keep={values['keep']} is not above zero")
    parts = [part for part in values["urgent"].split(",") if part]
    rules = Rules(dict(urgent_rule(part) for part in parts))
    return Keeping(values["append"], values["every_s"], values["keep"], rules)


def urgent_rule(text: str) -> tuple[str, float]:
    """`CLASS:SCORE`.

    Raises:
        UsageError: it is none.
    """
    name, _, score = text.rpartition(":")
    with suppress(ValueError):
        if name and 0 <= float(score) <= 1:
            return name, float(score)
    raise UsageError(f"urgent: '{text}'", "", "write CLASS:SCORE, for example pneumothorax:0.5")
