"""`jsonl:<path>` and `jsonl:-`: one JSON object a result, as docs/result.schema.json describes it."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO

from edge.errors import InputError, RuntimeFault, UsageError
from edge.sinks import FeedInfo
from edge.types import Result

SCHEMA = 1
"""Version of the result line; raised when a reader of the old one would be misled."""


def result_line(result: Result) -> str:
    """The result as one line of JSON, without a newline. NaN and infinity, which JSON lacks, become null."""
    fields = result_fields(result)
    try:
        return json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return json.dumps(_finite(fields), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def result_fields(result: Result) -> dict[str, Any]:
    """The fields of a result line, in the order they are written."""
    frame, engine = result.frame, result.engine
    moment = datetime.fromtimestamp(frame.captured_at, timezone.utc)
    return {
        "schema": SCHEMA,
        "feed": frame.feed,
        "seq": frame.seq,
        "pts_s": None if frame.pts is None else round(frame.pts, 6),
        "captured_at": moment.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "model": engine.model,
        "target": engine.target,
        "variant": engine.variant,
        "key": engine.key,
        "latency_ms": {stage: round(1e3 * seconds, 3) for stage, seconds in result.stages.items()},
        **result.payload.to_json(),
        "source_meta": dict(frame.meta),
        "flags": list(result.flags),
    }


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


class JsonLines:
    """Writes lines to a file or to standard output; visible whenever the run has a moment to spare."""

    def __init__(self, file: TextIO, place: str) -> None:
        self.file, self.place = file, place

    def write(self, result: Result) -> None:
        try:
            self.file.write(result_line(result) + "\n")
        except OSError as e:
            raise self._fault(e) from e

    def flush(self) -> None:
        try:
            self.file.flush()
        except OSError as e:
            raise self._fault(e) from e

    def close(self) -> None:
        try:
            self.file.flush() if self.file is sys.stdout else self.file.close()
        except OSError as e:
            if isinstance(e, BrokenPipeError):  # or Python complains once more when it exits
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise self._fault(e) from e

    def _fault(self, error: OSError) -> RuntimeFault:
        return RuntimeFault(f"cannot write {self.place}", error.strerror or str(error), "free some space")


def open(rest: str, feeds: Sequence[FeedInfo]) -> JsonLines:
    """A file is replaced; its folder is made.

    Raises:
        UsageError: no path is given.
        InputError: the file cannot be written.
    """
    files = outputs(rest, feeds)
    if not files:
        return JsonLines(sys.stdout, "standard output")
    path = files[0]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return JsonLines(path.open("w", encoding="utf-8"), str(path))
    except OSError as e:
        raise InputError(f"cannot write {path}", e.strerror or str(e), "check the path and its rights") from e


def outputs(rest: str, feeds: Sequence[FeedInfo]) -> list[Path]:
    """The file; none for standard output.

    Raises:
        UsageError: no path is given.
    """
    if not rest:
        raise UsageError("jsonl: without a path", "", "jsonl:results.jsonl, or jsonl:- for standard output")
    return [] if rest == "-" else [Path(rest)]
