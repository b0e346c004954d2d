"""`jsonl:<path>` and `jsonl:-`: one JSON object a result, as docs/result.schema.json describes it."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edge.errors import InputError, RuntimeFault, UsageError
from edge.sinks import Address, FeedInfo, Gone
from edge.sinks.rotating import Keeping, LinesFile
from edge.types import Result

SCHEMA = 1
"""Version of the result line; raised when a reader of the old one would be misled."""


def result_line(result: Result) -> str:
    """The result as one line of JSON, without a newline."""
    return json_line(result_fields(result))


def json_line(fields: Mapping[str, Any]) -> str:
    """Fields as one line of JSON, without a newline. NaN and infinity, which JSON lacks, become null."""
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
    """Writes lines to a file, where they are whenever the run has a moment to spare."""

    def __init__(self, file: LinesFile) -> None:
        self.file = file
        self.idle_s = file.keeping.sync_s or None

    def write(self, result: Result) -> None:
        line = result_line(result) + "\n"
        with _told(self.file.path):
            self.file.add(line.encode("utf-8", "backslashreplace"))

    def flush(self) -> None:
        with _told(self.file.path):
            self.file.flush()

    def close(self) -> None:
        with _told(self.file.path):
            self.file.close()

    def reopen(self) -> None:
        with _told(self.file.path):
            self.file.reopen()


class StandardOutput:
    """Writes lines to standard output."""

    def write(self, result: Result) -> None:
        with _told("standard output"):
            sys.stdout.write(result_line(result) + "\n")

    def flush(self) -> None:
        with _told("standard output"):
            sys.stdout.flush()

    def close(self) -> None:
        try:
            self.flush()
        except Gone:  # or Python complains once more when it exits
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise

    def reopen(self) -> None:
        pass


@contextmanager
def _told(place: Path | str) -> Iterator[None]:
    """Failures to write as errors that say what to do."""
    try:
        yield
    except BrokenPipeError as e:
        raise Gone(f"cannot write {place}", "its reader is gone") from e
    except OSError as e:
        raise RuntimeFault(f"cannot write {place}", e.strerror or str(e), _advice(e)) from e


def _advice(error: OSError) -> str:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return "free some space" if full else "check the path and its rights"


def open(address: Address, feeds: Sequence[FeedInfo]) -> JsonLines | StandardOutput:
    """A file is replaced, or with `append` gone on with; its folder is made.

    Raises:
        UsageError: no path is given, or a setting is wrong.
        InputError: the file cannot be written.
    """
    files, keeping = outputs(address, feeds), _keeping(address)
    if not files:
        return StandardOutput()
    path = files[0]
    try:
        file = LinesFile(path, keeping)
    except OSError as e:
        raise InputError(f"cannot write {path}", e.strerror or str(e), _advice(e)) from e
    if keeping.rotates and not file.file.regular:
        file.close()
        raise UsageError(f"{address.uri}: {path} cannot be rotated", "it is a pipe or a device")
    return JsonLines(file)


def outputs(address: Address, feeds: Sequence[FeedInfo]) -> list[Path]:
    """The file; none for standard output.

    Raises:
        UsageError: as `open`.
    """
    if not address.place:
        raise UsageError("jsonl: without a path", "", "jsonl:results.jsonl, or jsonl:- for standard output")
    if address.place == "-":
        if address.query:
            raise UsageError(address.uri, "standard output has no settings", "write jsonl:-")
        return []
    _keeping(address)
    return [address.path]


def _keeping(address: Address) -> Keeping:
    values = address.settings(
        {"append": False, "rotate_mb": 0.0, "rotate_s": 0.0, "keep": 0, "fsync": "never"}
    )
    for name in ("rotate_mb", "rotate_s", "keep"):
        if not 0 <= values[name] < math.inf:
            raise UsageError(f"{address.uri}: {name}={values[name]} is not a number from 0")
    rotates = values["rotate_mb"] > 0 or values["rotate_s"] > 0
    if values["keep"] and not rotates:
        raise UsageError(f"{address.uri}: keep without rotation", "", "add rotate_mb=100 or rotate_s=3600")
    return Keeping(
        append=values["append"] if "append" in address.query else rotates,
        rotate_bytes=round(1e6 * values["rotate_mb"]),
        rotate_s=values["rotate_s"],
        keep=values["keep"],
        sync_s=_sync_seconds(address, values["fsync"]),
        sync_aside=values["fsync"] == "rotate",
    )


def _sync_seconds(address: Address, text: str) -> float | None:
    if text in ("never", "rotate"):
        return None
    with suppress(ValueError):
        seconds = 0.0 if text == "always" else float(text)
        if 0 <= seconds < math.inf:
            return seconds
    raise UsageError(f"{address.uri}: fsync={text}", "", "never, rotate, always, or a number of seconds")
