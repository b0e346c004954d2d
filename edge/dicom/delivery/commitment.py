"""Storage commitment, push model (PS3.4 J): an archive says that it keeps what it was sent."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack, closing
from typing import Any

from edge.dicom.delivery.carrier import Report, Unreachable, words
from edge.dicom.delivery.destination import Destination, ScuDestination, listening
from edge.dicom.receiving.encoding import IMPLEMENTATION_CLASS, IMPLEMENTATION_VERSION
from edge.errors import InputError

log = logging.getLogger(__name__)

PUSH_MODEL, INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
"""SOP class, and the one instance that there is of it (PS3.4 J.3.5)."""

REQUEST = 1
"""Action type (PS3.4 J.3.2.1)."""

SUCCESS, PROCESSING_FAILURE, INVALID_ARGUMENT = 0x0000, 0x0110, 0x0115

LINGER = 2.0
"""Seconds that an association is held, in case the report comes on it."""

REPORT_ASSOCIATIONS, REPORT_IDLE = 16, 30.0
"""Of a listener for reports: associations at once, and seconds until a silent one is aborted."""

Reported = Callable[[Report], bool]
"""Takes a report; whether its transaction is known."""


def request(association: Any, transaction: str, references: Sequence[tuple[str, str]], archive: str) -> None:
    """Ask an archive to commit to objects (N-ACTION, PS3.4 J.3.2).

    Args:
        references: SOP Class and SOP Instance UID of each.

    Raises:
        Unreachable: it was not asked, or does not want to be.
    """
    from pydicom import Dataset

    information = Dataset()
    information.TransactionUID = transaction
    information.ReferencedSOPSequence = [Dataset() for _ in references]
    for item, (sop_class, uid) in zip(information.ReferencedSOPSequence, references, strict=True):
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
    try:
        status, _ = association.send_n_action(information, REQUEST, PUSH_MODEL, INSTANCE)
    except (ValueError, RuntimeError) as e:
        raise Unreachable(f"no commitment of {archive}", "it ended the association", "") from e
    if "Status" not in status:
        raise Unreachable(f"no commitment of {archive}", "it does not answer the request", "")
    if status.Status != SUCCESS:
        raise Unreachable(f"no commitment of {archive}", words(int(status.Status)), "")


def hear(event: Any, reported: Reported) -> tuple[int, None]:
    """Answer to a N-EVENT-REPORT request (PS3.4 J.3.3); the status says success when the report is kept."""
    try:
        information = event.event_information
        report = Report(
            str(information.TransactionUID),
            [str(item.ReferencedSOPInstanceUID) for item in information.get("ReferencedSOPSequence") or []],
            {
                str(item.ReferencedSOPInstanceUID): words(int(item.get("FailureReason") or 0x0110))
                for item in information.get("FailedSOPSequence") or []
            },
        )
    except Exception as e:  # what a peer sends may be anything
        log.warning("a report of storage commitment is refused: %s", type(e).__name__)
        return INVALID_ARGUMENT, None
    try:
        return (SUCCESS if reported(report) else INVALID_ARGUMENT), None
    except Exception as e:
        log.error("a report of storage commitment cannot be kept: %s", e)
        return PROCESSING_FAILURE, None


def support_reports(entity: Any) -> None:
    """Let archives open associations to report; they are the SCP there, too (PS3.4 J.3.3.1)."""
    entity.add_supported_context(PUSH_MODEL, scu_role=True, scp_role=True)


class Listener:
    """Takes reports on associations that archives open: a small SCP, with C-ECHO.

    Args:
        place: host and port to listen on; port 0 takes a free one.
        aet: own AE title.

    Raises:
        MissingPackage: pynetdicom is not installed.
        InputError: the port cannot be listened on.
    """

    def __init__(self, place: tuple[str, int], aet: str, reported: Reported) -> None:
        from edge.dicom.receiving.receiver import quiet_pynetdicom

        pynetdicom = quiet_pynetdicom()
        from pynetdicom import evt

        entity = pynetdicom.AE(aet)
        entity.implementation_class_uid = IMPLEMENTATION_CLASS
        entity.implementation_version_name = IMPLEMENTATION_VERSION
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = REPORT_IDLE
        entity.maximum_associations = REPORT_ASSOCIATIONS
        support_reports(entity)
        entity.add_supported_context("1.2.840.10008.1.1")
        handlers = [(evt.EVT_N_EVENT_REPORT, hear, [reported])]
        try:
            self._server = entity.start_server(place, block=False, evt_handlers=handlers)
        except OSError as e:
            what = f"cannot listen on {place[0]}:{place[1]}"
            raise InputError(what, e.strerror or str(e), "choose another port") from e
        self._entity = entity

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Take no more."""
        self._entity.shutdown()


def listen(
    destinations: Iterable[Destination], reported: Reported, taken: Collection[int] = ()
) -> list[Listener]:
    """A listener at every place where one of these archives is to report.

    Args:
        taken: ports at which a receiver takes reports already.

    Raises:
        MissingPackage: pynetdicom is not installed.
        InputError: a port cannot be listened on.
    """
    places: dict[tuple[str, int], str] = {}
    for to in destinations:
        if isinstance(to, ScuDestination) and to.commitment and to.reports:
            places.setdefault(listening(to.reports), to.aet)
    with ExitStack() as opened:
        made = [
            opened.enter_context(closing(Listener(place, aet, reported)))
            for place, aet in places.items()
            if place[1] not in taken
        ]
        opened.pop_all()
    return made


class Hearing:
    """Hears reports on the association of a request, for a while.

    Attributes:
        handlers: for pynetdicom's association.
    """

    def __init__(self, reported: Reported) -> None:
        from pynetdicom import evt

        self._reported, self._heard = reported, threading.Event()
        self.handlers = [(evt.EVT_N_EVENT_REPORT, hear, [self._take])]

    def _take(self, report: Report) -> bool:
        known = self._reported(report)
        self._heard.set()
        return known

    def wait(self, settled: Callable[[], bool]) -> None:
        """Until a report came, here or elsewhere, or nobody expects it any more."""
        for _ in range(int(LINGER / 0.05)):
            if self._heard.wait(0.05) or settled():
                return
