"""From the network to the spool: a C-STORE data set is written to disk as it comes, and never decoded."""

from __future__ import annotations

import logging
import queue
import sqlite3
from collections.abc import Callable
from io import BytesIO
from typing import Any

from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ, N_EVENT_REPORT_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA

from edge.dicom.receiving.encoding import file_meta, store_response
from edge.dicom.receiving.tally import Tally
from edge.spool import Arrival, Kept, Spool, SpoolFull

log = logging.getLogger(__name__)

SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
"""Statuses of C-STORE (PS3.4 B.2.3)."""

MAX_REPORT_BYTES = 1 << 20
"""A report of storage commitment is kept in memory; a longer one is cut off, and is no data set then."""

MAX_COMMAND_BYTES = 1 << 16
"""A command set is a few hundred bytes; what is longer is no command."""


SHORT_BYTES = 1024
"""An answer to a C-STORE is shorter."""

LAST_COMMAND = b"\3"
"""Message control header of the last fragment of a command (PS3.8 E.2)."""

LOOK_SECONDS = 0.02
"""So often a thread that waits for a request looks for the association's end."""


class Landing(BytesIO):
    """Stands where pynetdicom collects a data set in memory; what is written to it goes to the spool.

    Args:
        begin: opens the arrival when the first bytes come; None where they are no object, and stay in memory.
    """

    def __init__(self, begin: Callable[[], Arrival | None]) -> None:
        super().__init__()
        self._begin = begin
        self._in_memory = False
        self._arrival: Arrival | None = None
        self._status = CANNOT_UNDERSTAND  # until something came

    def write(self, data: Any) -> int:
        """Take the next fragment. What cannot be kept is read to its end and refused then, by `finish`."""
        if self._in_memory:
            return super().write(bytes(data)[: MAX_REPORT_BYTES - self.tell()])
        if self._arrival is None and self._status in (SUCCESS, OUT_OF_RESOURCES):
            return len(data)  # it was refused
        try:
            if self._arrival is None:
                self._arrival = self._begin()
                if self._arrival is None:
                    self._in_memory = True
                    return self.write(data)
                self._status = SUCCESS
            self._arrival.write(data)
        except (OSError, sqlite3.Error, SpoolFull) as e:
            self._refuse(e)
        except ValueError:
            self._status = CANNOT_UNDERSTAND
        return len(data)

    def finish(self) -> tuple[int, Kept | None]:
        """Make it durable; the status to answer with, and what became of it."""
        if self._arrival is None or self._status != SUCCESS:
            return self._status, None
        try:
            return SUCCESS, self._arrival.keep()
        except (OSError, sqlite3.Error) as e:
            self._refuse(e)
            return OUT_OF_RESOURCES, None

    def discard(self) -> None:
        """Leave nothing of it, unless it was kept."""
        if self._arrival is not None:
            self._arrival.discard()
            self._arrival = None

    def _refuse(self, error: Exception) -> None:
        log.warning("an object is refused: %s", error)
        self._status = OUT_OF_RESOURCES
        self.discard()

    def __del__(self) -> None:
        self.discard()  # of a request that pynetdicom has dropped


class StoreProvider(DIMSEServiceProvider):
    """The DIMSE service of one association, with landings for its data sets."""

    def __init__(self, assoc: Any, spool: Spool, counts: Tally) -> None:
        super().__init__(assoc)
        self._spool, self._counts = spool, counts
        self._landings: set[Landing] = set()

    def get_msg(self, block: bool = False) -> Any:
        """The next request; waits a little for it, where pynetdicom would look again and again."""
        try:
            return self.msg_queue.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            return None, None

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take the fragments of a P-DATA-TF PDU (PS3.8 9.3.5)."""
        if self.message is None:
            message = self.message = DIMSEMessage()
            message.data_set = Landing(lambda: self._begin(message))
            self._landings.add(message.data_set)
        message = self.message
        super().receive_primitive(primitive)
        if message.encoded_command_set.tell() > MAX_COMMAND_BYTES:
            self.dul.event_queue.put("Evt19")  # an invalid PDU: the association is aborted

    def send_msg(self, primitive: Any, context_id: int) -> None:
        """Send a message; the answer to a C-STORE takes the short way."""
        answers = isinstance(primitive, C_STORE) and primitive.MessageIDBeingRespondedTo is not None
        if not answers or 0 < self.maximum_pdu_size < SHORT_BYTES:
            super().send_msg(primitive, context_id)
            return
        names = (primitive.AffectedSOPClassUID or "", primitive.AffectedSOPInstanceUID or "")
        command = store_response(*names, primitive.MessageIDBeingRespondedTo, primitive.Status)
        data = P_DATA()
        pairs: Any = [[context_id, LAST_COMMAND + command]]
        data.presentation_data_value_list = pairs
        self.dul.send_pdu(data)

    def _begin(self, message: DIMSEMessage) -> Arrival | None:
        """Open the arrival of the object that the message's command set announces; None for a report.

        Raises:
            ValueError: it is no C-STORE request, or does not say what it stores.
        """
        if isinstance(message, N_EVENT_REPORT_RQ):
            return None
        command = message.command_set
        uid = str(command.get("AffectedSOPInstanceUID") or "")
        sop_class = str(command.get("AffectedSOPClassUID") or "")
        context = self.assoc._accepted_cx.get(message.context_id or 0)
        if not isinstance(message, C_STORE_RQ) or not uid or not sop_class or context is None:
            raise ValueError
        syntax = str(context.transfer_syntax[0])
        arrival = self._spool.arrival(uid, sop_class, syntax)
        try:
            arrival.head(file_meta(sop_class, uid, syntax, self.assoc.requestor.ae_title))
        except BaseException:
            arrival.discard()
            raise
        return arrival

    def store(self, landing: Landing) -> int:
        """Make a received object durable; the status to answer with."""
        status, kept = landing.finish()
        self._landings.discard(landing)
        self._counts.add(kept.value if kept else "refused")
        return status

    def discard(self) -> None:
        """The association is over: leave nothing of what was not acknowledged."""
        for landing in self._landings:
            landing.discard()
        self._landings.clear()
