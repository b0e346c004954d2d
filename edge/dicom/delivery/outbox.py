"""A durable outbox: answers that were put into it reach every archive, whatever dies in between.

    OUTBOX/outbox.db   a row an object and archive (sqlite3, write-ahead log)
    OUTBOX/objects/    the objects, as DICOM files under random names
    OUTBOX/lock        held by the one process that uses the outbox

    waiting ─► sent ─► committed          given up, or replaced by another kind, with a reason

An object's file is synced, then its folder, and only then are its rows committed; when `put` returns, a power
cut loses nothing. An archive may get an object twice, when this process dies between its answer and the row:
it is the same object under the same SOP Instance UID.

    pacs = destination("dicom+scu://PACS@10.0.0.5:104?kinds=sr,seg&commitment=yes")
    with Outbox(folder, [pacs], on_confirmed=spool.confirmed) as box:
        box.put(claim.key, {"sr": [report], "seg": [segmentation]})
"""

from __future__ import annotations

import io
import logging
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge.dicom.delivery.carrier import Carrier, Report, carrier
from edge.dicom.delivery.commitment import Listener, listen
from edge.dicom.delivery.courier import Courier
from edge.dicom.delivery.deliveries import Deliveries
from edge.dicom.delivery.destination import Destination
from edge.dicom.delivery.records import Delivery, Entry, News, State
from edge.errors import UsageError
from edge.spool.disk import Disk, lock

log = logging.getLogger(__name__)

Told = Callable[[str], Any]

DONE, LOST, REMEMBERED = 3600.0, 30 * 86400.0, 365 * 86400.0
"""Seconds that files of delivered and of given up answers are kept, and the rows that know them again."""

TIDY_SECONDS = 600.0
"""So often the outbox is tidied."""


class Outbox:
    """The outbox in one folder. One process uses it at a time; its methods may be called from any thread.

    Args:
        folder: made where it is absent, readable by its owner alone.
        destinations: archives; what waits for one that is no longer among them waits until it is again.
        clock: UNIX seconds.
        on_delivered: told the key of an answer when all archives have all of it.
        on_confirmed: told the key when those that are asked to have committed to it.
        on_given_up: told the key when something of it was given up, and why. All three may be told again
            after a crash, and come from a thread of the outbox.
        start: with threads, one an archive; without, `step` does their work.
        listens: where archives are to report; otherwise somebody else does, and tells `reported`.
        way: makes the way to an archive.

    Raises:
        UsageError: two destinations are the same archive.
        StoreError: another process uses the folder, or it is damaged beyond use.
        InputError: a port cannot be listened on, a certificate not used.
        MissingPackage: a way needs one that is not installed.
    """

    def __init__(
        self,
        folder: Path,
        destinations: Sequence[Destination],
        *,
        clock: Callable[[], float] = time.time,
        on_delivered: Told | None = None,
        on_confirmed: Told | None = None,
        on_given_up: Callable[[str, str], Any] | None = None,
        start: bool = True,
        listens: bool = True,
        disk: Disk | None = None,
        way: Callable[[Destination], Carrier] = carrier,
        chance: random.Random | None = None,
    ) -> None:
        names = [to.name for to in destinations]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"{name} is a destination twice", "", "write all its kinds in one address")
        self._destinations, self._clock, self._disk = tuple(destinations), clock, disk or Disk()
        self._on_delivered, self._on_confirmed, self._on_given_up = on_delivered, on_confirmed, on_given_up
        self._objects, self._telling, self._tidied = folder / "objects", threading.Lock(), clock()
        self._listeners: list[Listener] = []
        self._couriers: list[Courier] = []
        self._disk.make_folder(self._objects)
        self._fd = lock(folder)
        try:
            self._rows = Deliveries(folder / "outbox.db", self._objects, self._disk, clock)
            self._recover(names)
            for to in destinations:
                found = Courier(
                    to, way(to), self._rows, clock, chance or random.Random(), self.reported, self._tell
                )
                self._couriers.append(found)
            if listens:
                self._listeners = listen(destinations, self.reported)
            if start:
                for one in self._couriers:
                    one.start()
        except BaseException:
            self.close()
            raise

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of answers that a destination wants, or may want instead of another one."""
        return tuple(dict.fromkeys(kind for to in self._destinations for kind in (*to.kinds, *to.fallback)))

    @property
    def ports(self) -> list[int]:
        """On which reports of storage commitment come in."""
        return [listener.port for listener in self._listeners]

    def put(self, key: str, answers: Mapping[str, Sequence[Any]]) -> None:
        """Keep an answer until it is delivered. A second call with the same objects adds nothing.

        Args:
            key: of the answer, for the callbacks.
            answers: data sets with file meta information, by kind.

        Raises:
            UsageError: an object cannot be written, or has no UIDs.
            OSError, sqlite3.Error: it could not be made durable.
        """
        entries = []
        for kind, objects in answers.items():
            to = self._receivers(kind)
            if to:
                entries += [entry for one in objects if (entry := self._write(kind, one, to)) is not None]
        if entries:
            self._disk.sync_folder(self._objects)
        self._rows.put(key, entries)
        if not self._couriers:
            self._tell()
        for one in self._couriers:
            one.wake()

    def _receivers(self, kind: str) -> dict[str, State]:
        found = {to.name: State.SPARE for to in self._destinations if kind in to.fallback}
        return {**found, **{to.name: State.WAITING for to in self._destinations if kind in to.kinds}}

    def _write(self, kind: str, data: Any, to: Mapping[str, State]) -> Entry | None:
        """An object's durable file; None where the outbox has it already."""
        import pydicom

        uid, sop_class = str(data.get("SOPInstanceUID") or ""), str(data.get("SOPClassUID") or "")
        if not uid or not sop_class:
            raise UsageError(
                f"an answer of kind {kind} cannot be sent", "it has no SOP Instance or Class UID"
            )
        if self._rows.known(uid):
            return None
        buffer = io.BytesIO()
        try:
            pydicom.dcmwrite(buffer, data, enforce_file_format=True)
        except (ValueError, TypeError, AttributeError, KeyError) as e:  # with values of the header
            raise UsageError(f"an answer of kind {kind} cannot be written", type(e).__name__) from None
        name = f"{uuid.uuid4().hex}.dcm"
        fd = self._disk.create(self._objects / name)
        try:
            self._disk.write(fd, buffer.getbuffer())
            self._disk.sync(fd, self._objects / name)
        finally:
            os.close(fd)
        commits = frozenset(one.name for one in self._destinations if one.commits)
        syntax = str(data.file_meta.TransferSyntaxUID)
        return Entry(uid, kind, sop_class, syntax, name, to, commits)

    # What happens

    def step(self) -> None:
        """Do what is due, here and now; for an outbox without threads."""
        for one in self._couriers:
            one.step()

    def reported(self, report: Report) -> bool:
        """Take what an archive says of a request to commit; whether there was such a request."""
        known = self._rows.reported(report, again=1)
        if known:
            self._tell()
            for one in self._couriers:
                one.wake()
        return known

    def _tell(self) -> None:
        """Tell the application what is new, each thing until it has taken it."""
        with self._telling:
            for news in self._rows.untold():
                try:
                    self._call(news)
                except Exception as e:
                    log.error("the end of an answer could not be told: %s", type(e).__name__)
                    continue
                self._rows.told(news)
            if self._clock() - self._tidied > TIDY_SECONDS:
                self._tidied = self._clock()
                self.purge()

    def _call(self, news: News) -> None:
        if news.what == "given up":
            log.error("an answer was not delivered: %s", news.why)
            if self._on_given_up is not None:
                self._on_given_up(news.key, news.why)
            return
        if not news.delivered and self._on_delivered is not None:
            self._on_delivered(news.key)
        if news.what == "confirmed" and self._on_confirmed is not None:
            self._on_confirmed(news.key)

    # Looking and tidying

    def counts(self) -> dict[str, dict[State, int]]:
        """Objects of each archive by state."""
        return self._rows.counts()

    def deliveries(self, state: State | None = None) -> list[Delivery]:
        """Every object on its way to an archive, those of one state or all."""
        return self._rows.all(state)

    def wait(self, seconds: float) -> bool:
        """Until nothing is on its way any more, not longer than so many seconds; whether that is so."""
        deadline = time.monotonic() + seconds
        names = [to.name for to in self._destinations]
        while any(self._rows.next_due(name) is not None for name in names):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def retry(self) -> int:
        """Everything that was given up waits again; how many objects that is."""
        count = self._rows.retry()
        for one in self._couriers:
            one.wake(now=True)
        return count

    def purge(self, done: float = DONE, lost: float = LOST, remembered: float = REMEMBERED) -> int:
        """Remove files of answers that ended so many seconds ago; how many there were."""
        names = self._rows.purge(done, lost, remembered)
        for name in names:
            self._disk.remove(self._objects / name)
        return len(names)

    def close(self) -> None:
        """Let go; what waits goes on at the next start. A second call does nothing."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for one in self._couriers:
            one.close()
        if hasattr(self, "_rows"):
            self._rows.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Outbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _recover(self, names: Sequence[str]) -> None:
        """After whatever ended the process before: no files without a row; what waits for nobody is told."""
        kept = self._rows.kept_names()
        for path in self._objects.iterdir():
            if path.name not in kept:
                self._disk.remove(path)
        for name, states in self._rows.counts().items():
            if name not in names and (waiting := states.get(State.WAITING)):
                log.warning("%d object(s) wait for %s, which is no destination now", waiting, name)
