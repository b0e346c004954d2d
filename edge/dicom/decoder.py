"""Decompresses frames: as a function, and as a process that does nothing else, and what is said to it.

Jobs are pickled. Answers are not, since a hostile frame may have got the better of a decoder: a line of JSON
says the shape and type of the values that follow, or what went wrong.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from edge.dicom import external
from edge.types import Array

READY = b"ready\n"

LONGEST_LINE = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A frame to decompress.

    Attributes:
        options: what pydicom's decoder has to know of the image pixel module; nothing of the patient.
        encoded: the frame's codestream.
    """

    syntax: str
    options: Mapping[str, Any]
    encoded: bytes


def decode(job: Job) -> Array:
    """Stored values: rows × columns, × 3 in colour, which is RGB. Raises whatever the decoder does."""
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder

    if job.syntax == external.JPEG_EXTENDED:
        external.register()
    source = encapsulate([job.encoded], has_bot=False)
    stored: Array = get_decoder(job.syntax).as_array(source, index=0, **job.options)[0]
    return stored


def send_job(jobs: IO[bytes], job: Job) -> None:
    """
    Raises:
        OSError: the process has ended.
    """
    pickle.dump(job, jobs, pickle.HIGHEST_PROTOCOL)
    jobs.flush()


def read_greeting(answers: IO[bytes]) -> bool:
    """Whether the process has started."""
    return answers.readline(LONGEST_LINE) == READY


def read_answer(answers: IO[bytes]) -> Array | RuntimeError | None:
    """A frame, or what its decoder raised; None where there is no proper answer."""
    try:
        words = json.loads(answers.readline(LONGEST_LINE))
        if "error" in words:
            return RuntimeError(words["error"])
        dtype = np.dtype(words["dtype"])
        if dtype.kind not in "biuf":
            return None
        stored: Array = np.empty(words["shape"], dtype)
        whole = answers.readinto(stored.data.cast("B")) == stored.nbytes  # type: ignore[attr-defined]
    except (ValueError, TypeError, KeyError, AttributeError, MemoryError):
        return None
    return stored if whole else None


def serve() -> None:
    """The process: answers jobs until there are no more. One that takes longer than the command line says
    ends it."""
    seconds, jobs = int(sys.argv[1]), sys.stdin.buffer
    warnings.simplefilter("ignore")
    logging.disable()
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # some decoders print
        answers.write(READY)
        while True:
            answers.flush()
            try:
                job = pickle.load(jobs)
            except EOFError:
                return
            signal.alarm(seconds)  # ends the process also in the middle of native code
            words, values = _answer(job)
            signal.alarm(0)
            answers.write(json.dumps(words).encode() + b"\n")
            answers.write(values)


def _answer(job: Job) -> tuple[dict[str, Any], memoryview]:
    try:
        stored = np.ascontiguousarray(decode(job))
    except BaseException as e:  # decoders in Rust raise what is no Exception
        text = " ".join(str(e).split())[:300]
        return {"error": text or f"its decoder failed ({type(e).__name__})"}, memoryview(b"")
    return {"shape": stored.shape, "dtype": stored.dtype.str}, stored.data.cast("B")
