"""Carries what waits in the outbox to one archive; each has its own, so that none delays another."""

from __future__ import annotations

import logging
import random
import threading
import uuid
from collections.abc import Callable

from edge.dicom.delivery.carrier import Carrier, Fate, Parcel, Report, Unreachable
from edge.dicom.delivery.deliveries import Deliveries
from edge.dicom.delivery.destination import Destination, ScuDestination

log = logging.getLogger(__name__)

BATCH = 64
"""Objects sent in one go."""

REFERENCES = 256
"""Objects in one request to commit."""

FIRST_WAIT, LONGEST_WAIT = 2.0, 300.0
"""Seconds between attempts; each wait is twice as long as the one before, with a random part less."""

LOOK_SECONDS = 60.0
"""A thread that waits looks at the clock so often: it may have been set."""


class Courier:
    """
    Args:
        reported: takes what the archive says of a request to commit, on the association of the request.
        settled: called when something ended.
    """

    def __init__(
        self,
        to: Destination,
        way: Carrier,
        rows: Deliveries,
        clock: Callable[[], float],
        chance: random.Random,
        reported: Callable[[Report], bool],
        settled: Callable[[], None],
    ) -> None:
        self._to, self._way, self._rows, self._clock, self._chance = to, way, rows, clock, chance
        self._reported, self._settled = reported, settled
        self._failures, self._not_before = 0, 0.0
        self._wake, self._closed = threading.Event(), False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Work in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name=f"outbox {self._to.name}", daemon=True)
        self._thread.start()

    def wake(self, now: bool = False) -> None:
        """There may be something to do; `now`: also where the archive was unreachable lately."""
        if now:
            self._not_before = 0.0
        self._wake.set()

    def close(self) -> None:
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        self._way.close()

    def _run(self) -> None:
        while not self._closed:
            self._wake.clear()
            try:
                self.step()
                due = self._rows.next_due(self._to.name)
            except Exception as e:  # the disk is full, say: the thread must not end
                log.error("the outbox of %s stands still: %s", self._to.name, type(e).__name__)
                due = self._clock() + LOOK_SECONDS
            wait = LOOK_SECONDS if due is None else (max(due, self._not_before) - self._clock())
            self._wake.wait(min(max(wait, 0.0), LOOK_SECONDS))

    def step(self) -> None:
        """Do what is due now, until nothing is."""
        try:
            while not self._closed and self._clock() >= self._not_before:
                sent, asked = self._send(), self._ask()
                if not sent and not asked:
                    return
        finally:
            self._settled()

    def _send(self) -> bool:
        """Send a batch; whether there was one."""
        waiting = self._rows.waiting(self._to.name, BATCH)
        parcels = [parcel for parcel in waiting if parcel.path.is_file()]
        for parcel in waiting:
            if parcel not in parcels:
                self._refused(parcel, "its file is gone from the outbox")
        left = {parcel.uid for parcel in parcels}
        try:
            for parcel, outcome in self._way.send(parcels) if parcels else ():
                left.discard(parcel.uid)
                if outcome.fate is Fate.STORED:
                    self._failures = 0
                    self._rows.stored(self._to.name, parcel.uid, outcome.reason)
                elif outcome.fate is Fate.LATER:
                    self._later(parcel.uid, outcome.reason)
                else:
                    self._refused(parcel, outcome.reason)
                if self._closed:
                    break
        except Unreachable as e:
            self._unreachable(e)
            self._rows.later(self._to.name, sorted(left), None, str(e), self._to.attempts)
        return bool(waiting)

    def _refused(self, parcel: Parcel, reason: str) -> None:
        instead = self._rows.refused(self._to.name, parcel.uid, reason)
        log.warning("%s: not sent: %s%s", self._to.name, reason, instead and f"; {instead} instead")

    def _later(self, uid: str, reason: str) -> None:
        wait = self._wait(self._rows.attempts(self._to.name, uid))
        self._rows.later(self._to.name, [uid], self._clock() + wait, reason, self._to.attempts)

    def _ask(self) -> bool:
        """Ask the archive to commit to a batch; whether there was one."""
        if not self._to.commits or self._clock() < self._not_before:
            return False
        parcels = self._rows.uncommitted(self._to.name, REFERENCES)
        if not parcels:
            return False
        assert isinstance(self._to, ScuDestination)
        uids = [parcel.uid for parcel in parcels]
        transaction = f"2.25.{uuid.uuid4().int}"
        self._rows.asked(self._to.name, transaction, uids, self._clock() + self._to.report_wait)
        try:
            self._way.commit(transaction, parcels, self._reported, lambda: not self._rows.open(transaction))
        except Unreachable as e:
            log.warning("%s", e)
            wait = self._wait(self._rows.times_asked(self._to.name, uids))
            self._rows.ask_later(self._to.name, uids, self._clock() + wait, str(e))
        return True

    def _unreachable(self, error: Unreachable) -> None:
        self._failures += 1
        wait = self._wait(self._failures - 1)
        self._not_before = self._clock() + wait
        log.warning("%s; again in %.0f s", error, wait)

    def _wait(self, failures: int) -> float:
        """Seconds until the next attempt."""
        longest: float = min(FIRST_WAIT * 2 ** min(failures, 20), LONGEST_WAIT)
        return longest * self._chance.uniform(0.5, 1)
