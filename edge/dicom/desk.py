"""The desk: a unit of work is taken from the spool, what became of its parts is collected, it is answered.

    claim ─► parts handed out ─► a fate for each ─► answers left in the outbox ─► inferred ─► answered

The outbox comes first: it knows the answer's UIDs, which follow from the unit's key, and a process that dies
before the spool knows of the answer makes the same one again, which changes nothing there. What was not
answered at the end is given back.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from edge.dicom.case import INPUT, Case, Fate, Part
from edge.errors import EdgeError, InputError, RuntimeFault
from edge.spool import Claim, LeaseLost, Retention, Spool
from edge.types import Result

if TYPE_CHECKING:
    from edge.dicom.answers.finding import Inference, LabelVolume

log = logging.getLogger("edge.dicom")

AHEAD = 3
"""Units on the desk at once: the next one's frames are read while the last one is answered."""
LOOK_S = 0.05
"""So often the spool is asked for work."""
RENEW_S = 60.0
"""So often the leases of what is on the desk are renewed; well below how long they are."""
PURGE_S = 600.0
"""So often the spool is tidied."""
AGAIN_S = 5.0
"""Pause before a unit that could not be answered is tried again."""
TRIES = 2
"""So often a unit is inferred while frames of it fail in the engine; then it is answered as it is."""
LONGEST_CLOSE = 20.0

Claiming = Callable[[Spool], Claim | None]
"""Takes the next unit of work: `Spool.claim_object`, or `claim_series` with a quiet time."""

Answering = Callable[[str, Sequence["Inference"]], None]
"""Makes the answers to the unit of this key and leaves them where they outlive a power cut; for one that it
knows it does nothing. OSError, sqlite3.Error and RuntimeFault mean that it may be possible later."""


@runtime_checkable
class Volumetric(Protocol):
    """A finding with a label for every pixel of a stack of slices."""

    def on_slices(self) -> LabelVolume: ...


LATER = (sqlite3.Error, RuntimeFault, OSError)


class Desk:
    """Between the spool and the run; the `Outcomes` of a feed whose frames come from the spool.

    Args:
        spool: closed here.
        claiming: what is a unit of work.

    Attributes:
        answering: makes answers for archives; None: the lines in the spool are all there is.
        precision: the engine's precision variant in words, for answers.
        closing: called at the end, after the last answer: what was opened for `answering`.
    """

    def __init__(self, spool: Spool, claiming: Claiming, keep: Retention = Retention()) -> None:  # noqa: B008
        self.spool, self._claiming, self._keep = spool, claiming, keep
        self.answering: Answering | None = None
        self.precision = ""
        self.closing: Callable[[], None] = lambda: None
        self._cases: dict[str, Case] = {}
        self._changed = threading.Condition()
        self._answer_lock = threading.Lock()
        self._ending = threading.Event()
        self._renewed = time.monotonic()
        self._purged: float | None = None
        self._told = ""
        self._thread = threading.Thread(target=self._work, name="dicom-desk", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------ for the source

    def take(self, wait: float) -> Case | None:
        """The next unit whose parts are to be handed out; None where there is none within `wait` seconds."""
        deadline = time.monotonic() + wait
        while not self._ending.is_set():
            with self._changed:
                if not self._changed.wait_for(self._has_room, max(0.0, deadline - time.monotonic())):
                    return None
            case = self._begin()
            if case is not None and case.claim.result is None:
                return case
            if case is None and self._ending.wait(min(LOOK_S, max(0.0, deadline - time.monotonic()))):
                break
            if time.monotonic() >= deadline:
                break
        return None

    def hand_out(self, case: Case, part: Part) -> dict[str, Any]:
        """A part goes on its way; what its picture has to carry to be known again."""
        with self._changed:
            case.parts.append(part)
            case.fates.append(None)
            unit = {"unit": case.claim.key, "revision": case.claim.revision}
            return {**unit, "part": len(case.parts) - 1}

    def lose(self, case: Case, part: Part, error: InputError) -> None:
        """A part could not be read, or the file of it not opened."""
        self.missed(self.hand_out(case, part), INPUT, error)

    def handed_out(self, case: Case) -> None:
        """All parts of the unit are on their way."""
        with self._changed:
            case.handed_out = True
            self._changed.notify_all()

    def _has_room(self) -> bool:
        """What killed a worker once is looked at alone: only it is to blame if that happens again."""
        cases = self._cases.values()
        return len(cases) < AHEAD and not any(case.claim.attempt > 1 for case in cases)

    def _begin(self) -> Case | None:
        try:
            claim = self._claiming(self.spool)
        except LATER as e:
            self._tell(f"no work can be taken from the spool: {e}")
            return None
        if claim is None:
            return None
        case = Case(claim, handed_out=claim.result is not None)
        with self._changed:
            self._cases[claim.key] = case
            self._changed.notify_all()
        return case

    # ------------------------------------------------------------------ for the run

    def delivered(self, result: Result) -> None:
        self._settle(result.frame.meta, Fate(result.payload, result.engine, result.flags))

    def missed(self, meta: Mapping[str, Any], cause: str, error: Exception | None = None) -> None:
        if isinstance(error, InputError):  # whatever the stage: a volume's pixels are read late
            self._settle(meta, Fate(cause=INPUT, reason=error.why or error.what))
        else:
            self._settle(meta, Fate(cause=cause))

    def _settle(self, meta: Mapping[str, Any], fate: Fate) -> None:
        with self._changed:
            case = self._cases.get(meta["unit"])
            if case is not None:
                case.fates[meta["part"]] = fate
                if case.complete:
                    self._changed.notify_all()

    def confirmed(self, key: str) -> None:
        """An archive has committed to the answer to a unit, which may be recorded in this very moment."""
        with self._answer_lock:
            self.spool.confirmed(key)

    def close(self) -> None:
        """Answer what is complete, give back what is not, and leave the spool."""
        if self._ending.is_set():
            return
        self._ending.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(LONGEST_CLOSE)
        if self._thread.is_alive():
            log.warning("an answer takes too long: it is made anew at the next start")
            return
        self.closing()
        self.spool.close()

    # ------------------------------------------------------------------ the desk's own thread

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ending.is_set() or self._due(), timeout=1.0)
                due, ending = self._due(), self._ending.is_set()
            try:
                for case in due:
                    self._try(case)
                self._tidy()
            except Exception as e:  # whatever it is, the units that come after it are answered
                self._tell(f"the desk stumbles: {type(e).__name__}")
                self._ending.wait(AGAIN_S)
            if ending:
                break
        with self._changed:
            left = list(self._cases.values())
        for case in left:
            self._attempt(case, lambda case: self.spool.release(case.claim))

    def _due(self) -> list[Case]:
        now = time.monotonic()
        return [
            case
            for case in self._cases.values()
            if case.complete and (case.due <= now or self._ending.is_set())
        ]

    def _try(self, case: Case) -> None:
        """Answer a unit; what may be possible later is tried later, and what never will be is quarantined."""
        try:
            self._attempt(case, self._answer)
        except Exception as e:
            why = (
                (e.why or e.what) if isinstance(e, EdgeError) else type(e).__name__
            )  # may hold a patient's name
            log.error("unit %s cannot be answered: %s", case.claim.key, why)
            self._attempt(
                case, lambda case: self.spool.quarantine(case.claim, f"it cannot be answered: {why}")
            )

    def _attempt(self, case: Case, act: Callable[[Case], None]) -> None:
        """Do something that ends a case, unless it has to wait."""
        try:
            with self._answer_lock:
                act(case)
        except LeaseLost as e:
            log.warning("%s", e)
        except LATER as e:
            if isinstance(e, EdgeError) and not isinstance(e, RuntimeFault):
                raise
            case.due = time.monotonic() + AGAIN_S
            self._tell(f"unit {case.claim.key} has to wait for its answer: {e}")
            return
        with self._changed:
            case.over = True
            self._cases.pop(case.claim.key, None)
            self._changed.notify_all()

    def _answer(self, case: Case) -> None:
        claim = case.claim
        if claim.result is not None:
            self.spool.answered(claim, claim.result)
            return
        if case.failed_in_the_engine and claim.attempt < TRIES:
            self.spool.release(claim, failed=True)
            return
        for name, reason in case.spoilt().items():
            log.warning("%s quarantined: %s", name, reason)
            self.spool.set_aside(claim, name, reason)
        if (failure := case.failure()) is not None:
            self.spool.quarantine(claim, failure)
            return
        moment = datetime.now(timezone.utc)
        body = case.line(moment).encode()
        if self.answering is not None and (found := inferences(case, self.precision, moment)):
            self.answering(claim.key, found)
        self.spool.inferred(claim, body)
        self.spool.answered(claim, body)
        log.info("unit %s answered: %d part(s)", claim.key, len(case.parts))

    def _tidy(self) -> None:
        now = time.monotonic()
        with self._changed:
            cases = list(self._cases.values())
        if now - self._renewed >= RENEW_S:
            self._renewed = now
            for case in cases:
                try:
                    self.spool.renew(case.claim)
                except LeaseLost:
                    self._forget(case)
                except LATER as e:
                    self._tell(f"a lease cannot be renewed: {e}")
        if self._purged is None or now - self._purged >= PURGE_S:
            self._purged = now
            try:
                self.spool.purge(self._keep)
            except LATER as e:
                self._tell(f"the spool cannot be tidied: {e}")

    def _forget(self, case: Case) -> None:
        with self._changed:
            case.over = True
            self._cases.pop(case.claim.key, None)
            self._changed.notify_all()

    def _tell(self, what: str) -> None:
        """Once for each cause in a row."""
        if what != self._told:
            self._told = what
            log.warning("%s", what)


def inferences(case: Case, precision: str, moment: datetime) -> list[Inference]:
    """What was found, for those who make answers of it: all frames together, each volume by itself."""
    from edge.dicom.answers.finding import Found, Inference

    engine, key = case.engine, case.claim.key
    if engine is None:
        return []
    frames: list[Found] = []
    made: list[Inference] = []
    for part, fate in case.ended():
        if isinstance(fate.payload, Volumetric):
            own = uuid.uuid5(uuid.UUID(key), str(len(made))).hex if made else key
            made.append(Inference(own, engine, precision, [], fate.payload.on_slices(), moment))
        elif fate.payload is not None:
            frames.append(Found(part.paths[0], part.number - 1, fate.payload))
    return [*made, *([Inference(key, engine, precision, frames, moment=moment)] if frames else [])]
