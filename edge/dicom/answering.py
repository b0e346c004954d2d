"""From what was found to archives: answers are built, and left in an outbox beside the spool."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from edge.dicom import answers
from edge.dicom.answers.finding import Inference
from edge.dicom.delivery.carrier import Report
from edge.dicom.delivery.commitment import Listener, listen
from edge.dicom.delivery.destination import Destination
from edge.dicom.delivery.outbox import Outbox
from edge.dicom.delivery.records import State
from edge.dicom.desk import Desk
from edge.dicom.receiving.receiver import Receiver
from edge.errors import UsageError
from edge.sources.spooled import Spooled
from edge.stream.feed import Feed

log = logging.getLogger("edge.dicom")


class ToArchives:
    """Builds the kinds of answers that the outbox's destinations want."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def __call__(self, key: str, found: Sequence[Inference]) -> None:
        """
        Raises:
            InputError: a source cannot be read again.
            UsageError: an answer cannot be written.
            OSError, sqlite3.Error: the outbox cannot take it now.
        """
        kinds = self._outbox.kinds
        made: dict[str, list[Any]] = {kind: [] for kind in kinds}
        for inference in found:
            for kind, objects in answers.build_all(kinds, inference).items():
                made[kind] += objects
        self._outbox.put(key, made)


class Outboxes:
    """One beside each spool, and what they share: the places where archives report storage commitment."""

    def __init__(self) -> None:
        self._open: list[Outbox] = []
        self._listeners: list[Listener] = []

    def add(self, desk: Desk, archives: Sequence[Destination]) -> None:
        """Have this desk's units answered."""
        outbox = Outbox(desk.spool.root / "outbox", archives, on_confirmed=desk.confirmed, listens=False)
        self._open.append(outbox)
        desk.closing = lambda: self._close(outbox)
        desk.answering = ToArchives(outbox)

    def listen(self, archives: Sequence[Destination], receivers: Sequence[Receiver]) -> None:
        """Take reports: receivers do, and listeners where there is no receiver."""
        for receiver in receivers:
            receiver.take_reports(self.reported)
        self._listeners = listen(archives, self.reported, [receiver.port for receiver in receivers])

    def reported(self, report: Report) -> bool:
        """Whether it was one of them that asked for it."""
        return any(outbox.reported(report) for outbox in tuple(self._open))

    def _close(self, outbox: Outbox) -> None:
        if outbox in self._open:
            self._open.remove(outbox)
            _tell_waiting(outbox)
            outbox.close()
        if not self._open:
            for listener in self._listeners:
                listener.close()


def _tell_waiting(outbox: Outbox) -> None:
    for name, states in outbox.counts().items():
        if count := states.get(State.WAITING):
            log.warning("%d object(s) still wait for %s: they go out at the next start", count, name)


def connect(feeds: Sequence[Feed], archives: Sequence[Destination], precision: str) -> None:
    """Have all feeds that come from a spool answered to these archives; before the run.

    Args:
        precision: the engine's precision variant in words.

    Raises:
        UsageError: there is no such feed, or an archive is given twice.
        MissingPackage: what answers are built or sent with is not installed.
        StoreError, InputError: an outbox cannot be used, or a port not be listened on.
    """
    desks = [feed.outcomes for feed in feeds if isinstance(feed.outcomes, Desk)]
    if not desks:
        why = "archives are told of what comes by way of a spool, and no feed has one"
        fix = "e.g. --source 'dicom+scp://0.0.0.0:11112?spool=DIR'"
        raise UsageError(f"nothing to answer to {archives[0].name}", why, fix)
    answers.require()
    outboxes = Outboxes()
    for desk in desks:
        desk.precision = precision
        outboxes.add(desk, archives)
    supplies = [feed.source.supply for feed in feeds if isinstance(feed.source, Spooled)]
    outboxes.listen(archives, [supply for supply in supplies if isinstance(supply, Receiver)])
