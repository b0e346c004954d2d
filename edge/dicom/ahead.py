"""Frames are decompressed in processes of their own, beside the engine and ahead of their turn.

Processes and not threads, since most decoders hold Python's lock until a frame is done: a radiograph in
JPEG 2000 would stop every other feed for as long. And a decoder that crashes or hangs on a hostile frame
costs that frame, and not the run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from collections import deque
from contextlib import suppress
from signal import SIGALRM

from edge.config import ROOT
from edge.dicom.decoder import Job, decode, read_answer, read_greeting, send_job
from edge.machine import usable_cores
from edge.types import Array

MOST = 4
"""Processes of a feed, however many cores there are."""

SECONDS = 120
"""A frame that takes longer is given up."""

TRIES = 2
"""A frame whose decoder crashed is tried once more: it may have been ended from outside."""

PROGRAM = "from edge.dicom.decoder import serve; serve()"


class DecoderDied(RuntimeError):
    """The process was gone before its answer.

    Attributes:
        late: because the frame took too long.
    """

    def __init__(self, late: bool, seconds: int) -> None:
        super().__init__(f"its decoder was not done within {seconds} s" if late else "its decoder crashed")
        self.late = late


class Decoding:
    """A frame that is being decompressed."""

    def __init__(self, job: Job, decoders: Decoders) -> None:
        self.job = job
        self.process: _Process | None = None
        self.outcome: Array | RuntimeError | None = None
        self._decoders = decoders

    def result(self) -> Array:
        """The stored values. Raises whatever the decoder did, or RuntimeError with its text."""
        self._decoders.finish(self)
        if self.outcome is None:  # there was no process to be had
            return decode(self.job)
        if isinstance(self.outcome, RuntimeError):
            raise self.outcome
        return self.outcome


class Decoders:
    """The decoding processes of one feed, each started when it is first needed. For one thread.

    Args:
        count: at most so many; left out, one a core.
        seconds: that a frame may take.
        program: what a process runs.

    Attributes:
        processes: those that were started and have not ended.
    """

    def __init__(self, count: int | None = None, seconds: int = SECONDS, program: str = PROGRAM) -> None:
        self.count = count or min(MOST, usable_cores())
        self.processes: list[_Process] = []
        self._seconds, self._program = seconds, program
        self._idle: list[_Process] = []
        self._busy: deque[Decoding] = deque()
        weakref.finalize(self, _end, self.processes)

    def begin(self, job: Job) -> Decoding:
        """Have a frame decompressed. Where all processes are at work, the oldest answer is waited for."""
        decoding = Decoding(job, self)
        if self._send(decoding):
            self._busy.append(decoding)
        return decoding

    def finish(self, decoding: Decoding) -> None:
        """Wait for a frame."""
        if decoding in self._busy:
            self._busy.remove(decoding)
            self._collect(decoding)

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        _end(self.processes)
        self._idle.clear()
        self._busy.clear()

    def _send(self, decoding: Decoding, new: bool = False) -> bool:
        """Give a frame to a process that has nothing to do; False where there is none to be had.

        Args:
            new: one has just ended, so another is started: those that are idle may be about to end too.
        """
        for _ in range(TRIES):
            while not self._idle and len(self.processes) >= self.count:
                self._collect(self._busy.popleft())
            try:
                process = self._idle.pop() if self._idle and not new else self._start()
            except OSError:
                break
            try:
                process.send(decoding.job)
            except OSError:  # it was ended while it was idle
                self._drop(process)
                new = True
                continue
            decoding.process = process
            return True
        decoding.process = None
        return False

    def _collect(self, decoding: Decoding) -> None:
        """Take the answer, so that the process is free."""
        for attempt in range(TRIES):
            if attempt and not self._send(decoding, new=True):
                return
            process = decoding.process
            assert process is not None
            try:
                decoding.outcome = process.answer()
                self._idle.append(process)
                return
            except OSError:  # it did not even start
                self._drop(process)
                return
            except DecoderDied as e:
                self._drop(process)
                decoding.outcome = e
                if e.late:
                    return

    def _start(self) -> _Process:
        process = _Process(self._program, self._seconds)
        self.processes.append(process)
        return process

    def _drop(self, process: _Process) -> None:
        process.end()
        self.processes.remove(process)


class _Process:
    """One decoding process. It ends when its input does."""

    def __init__(self, program: str, seconds: int) -> None:
        paths = [os.path.abspath(path) for path in (str(ROOT), *filter(None, sys.path))]
        self._seconds, self._greeted = seconds, False
        self._popen = subprocess.Popen(
            [sys.executable, "-c", program, str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # decoders quote values of the header there
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C is for the run, which ends it
        )
        self.pid = self._popen.pid

    def send(self, job: Job) -> None:
        """
        Raises:
            OSError: it has ended.
        """
        assert self._popen.stdin is not None
        send_job(self._popen.stdin, job)

    def answer(self) -> Array | RuntimeError:
        """The frame, or what its decoder raised.

        Raises:
            OSError: the process did not start.
            DecoderDied: it ended without an answer.
        """
        assert self._popen.stdout is not None
        if not self._greeted and not read_greeting(self._popen.stdout):
            raise OSError("the decoder did not start")
        self._greeted = True
        answer = read_answer(self._popen.stdout)
        if answer is None:
            self._popen.kill()
            raise DecoderDied(self._popen.wait() == -SIGALRM, self._seconds)
        return answer

    def end(self) -> None:
        self._popen.kill()
        self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout):
            assert pipe is not None
            with suppress(OSError):  # what was not sent has nowhere to go
                pipe.close()


def _end(processes: list[_Process]) -> None:
    while processes:
        processes.pop().end()
