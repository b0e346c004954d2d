"""Where `edge worklist` reads from: a file of result lines, or the spool of a receiver that may run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from edge.errors import InputError
from edge.privacy import Privacy
from edge.spool.view import View
from edge.triage.findings import found_in
from edge.triage.worklist import Worklist


class ResultsFile:
    """Lines of a `jsonl:` sink; each is read once.

    Raises:
        InputError: there is no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as e:
            raise InputError(
                f"cannot read {path}", e.strerror or str(e), "give results.jsonl or a spool"
            ) from e
        self._rest, self._number = b"", 0

    def read(self, worklist: Worklist) -> None:
        """Add what came since the last call; a line that is still being written waits.

        Raises:
            InputError: a line is no result.
        """
        data = self._rest + self._file.read()
        *lines, self._rest = data.split(b"\n")
        for line in lines:
            self._number += 1
            if line.strip():
                worklist.add(self._fields(line))

    def _fields(self, line: bytes) -> dict[str, Any]:
        try:
            fields = json.loads(line)
            if not isinstance(fields, dict) or "source_meta" not in fields:
                raise ValueError("it is no result line")
        except ValueError as e:
            fix = "give a file that a jsonl: sink has written"
            raise InputError(f"{self.path}: line {self._number} cannot be read", _why(e), fix) from e
        return fields

    def close(self) -> None:
        self._file.close()


class SpoolStudies:
    """Studies and answers of a spool; UIDs by the rule of `privacy`.

    Raises:
        InputError, StoreError: there is no spool, or it cannot be read.
    """

    def __init__(self, root: Path, privacy: Privacy) -> None:
        self._view, self._privacy, self._after = View(root), privacy, 0

    def read(self, worklist: Worklist) -> None:
        """Add the answers that were given since the last call, and tell how far every study is."""
        for answer in self._view.answers(self._after):
            self._after = answer.number
            study = worklist.study(self._privacy.uid(answer.study), time.time())
            for frame in _frames(answer.body):
                study.add(found_in(frame), worklist.rules)
                study.flags.update(map(str, frame.get("flags") or ()))
        for known in self._view.studies():
            study = worklist.study(self._privacy.uid(known.study), known.since)
            study.state, study.uncounted = known.state.value, known.objects

    def close(self) -> None:
        self._view.close()


def open_results(path: Path, privacy: Privacy) -> ResultsFile | SpoolStudies:
    """What `path` names: a folder is a spool."""
    return SpoolStudies(path, privacy) if path.is_dir() else ResultsFile(path)


def _frames(body: bytes) -> Iterator[dict[str, Any]]:
    """The frames in an answer; one of another form has none."""
    try:
        fields = json.loads(body or b"{}")
    except ValueError:
        return
    frames = fields.get("frames") if isinstance(fields, dict) else None
    yield from (frame for frame in frames or () if isinstance(frame, dict))


def _why(error: ValueError) -> str:
    """Without what the line holds."""
    return "it is no JSON" if isinstance(error, json.JSONDecodeError | UnicodeDecodeError) else str(error)
