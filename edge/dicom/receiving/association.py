"""pynetdicom's server with limits: bounded PDUs and waiting, handshakes that hold up nobody, known peers."""

from __future__ import annotations

import logging
import queue
import select
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, cast

from pynetdicom.association import Association
from pynetdicom.fsm import StateMachine
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from edge.dicom.receiving.landing import StoreProvider
from edge.dicom.receiving.tally import Tally
from edge.spool import Spool

log = logging.getLogger(__name__)

Network = IPv4Network | IPv6Network

NEGOTIATION_BYTES = 1 << 20
"""Most that a PDU may hold, unless more was agreed; a request for all classes takes 0.2 of it."""


LOOK_MS = 20
"""So often a thread that waits for a peer looks at its timers."""


class WakingQueue(queue.Queue[Any]):
    """A queue that makes a socket readable: who waits for the network and for it waits once."""

    def __init__(self) -> None:
        super().__init__()
        self.readable, self._written = socket.socketpair()
        self.readable.setblocking(False)
        self._written.setblocking(False)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        with suppress(OSError):  # full: it is readable already
            self._written.send(b"!")

    def hush(self) -> None:
        """Make it unreadable until the next `put`."""
        with suppress(OSError):
            self.readable.recv(4096)

    def close(self) -> None:
        self.readable.close()
        self._written.close()


class BoundedSocket(AssociationSocket):
    """Reads a PDU whole, or in time, or not at all.

    pynetdicom looks for data and for answers a thousand times a second; here its thread waits for either.

    Args:
        limit: bytes of a PDU.
        wait: seconds for all of it.
        answers: what is to be sent.
    """

    def __init__(
        self, assoc: Association, connection: socket.socket, limit: int, wait: float, answers: WakingQueue
    ) -> None:
        super().__init__(assoc, client_socket=connection)
        self._limit, self._wait, self._answers = limit, wait, answers
        connection.settimeout(wait)
        self._poll = select.poll()
        for one in (connection, answers.readable):
            self._poll.register(one, select.POLLIN)

    @property
    def ready(self) -> bool:
        """Whether there is something to read; waits a little for it, or for something to be sent."""
        if self.socket is None or not self._is_connected:
            return False
        if isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
            return True
        events = self._poll.poll(LOOK_MS if self.event_queue.empty() else 0)
        woken = [fd for fd, _ in events]
        if self._answers.readable.fileno() in woken:
            self._answers.hush()
            woken.remove(self._answers.readable.fileno())
        return bool(woken)

    def recv(self, nr_bytes: int) -> bytearray:
        """So many bytes, fewer where the connection ends.

        Raises:
            OSError: they are too many, or do not come in time.
        """
        if nr_bytes > self._limit:
            raise OSError(f"a PDU of {nr_bytes} bytes is over the limit of {self._limit}")
        connection, buffer = cast(socket.socket, self.socket), bytearray(nr_bytes)
        view, filled, deadline = memoryview(buffer), 0, time.monotonic() + self._wait
        while filled < nr_bytes:
            if time.monotonic() > deadline:
                raise TimeoutError(f"a PDU did not arrive within {self._wait} s")
            count = connection.recv_into(view[filled:])
            if not count:
                break
            filled += count
        view.release()
        del buffer[filled:]
        return buffer


class QuietMachine(StateMachine):
    """A state machine whose surprises end one association: a peer that is gone while it is answered."""

    def do_action(self, event: str) -> None:
        asked = self.current_state != "Sta2"  # awaiting A-ASSOCIATE-RQ (PS3.8 9.2)
        try:
            super().do_action(event)
        except Exception as e:  # pynetdicom's own would end the thread with a traceback
            log.warning("an association ends: %s", type(e).__name__)
            self.dul.kill_dul()
        if not asked and self.current_state == "Sta1":
            self.dul.to_user_queue.put(cast(Any, None))  # the peer is gone: nobody need wait for its request


class Handler(RequestHandler):
    """One connection, from its handshake to its end, in a thread of its own."""

    server: Server

    def handle(self) -> None:
        server = self.server
        if server.tls is not None:
            self.request.settimeout(server.wait)
            self.request = server.tls.wrap_socket(self.request, server_side=True)
        assoc = self._create_association()
        provider = cast(StoreProvider, assoc.dimse)
        try:
            assoc.start()
            assoc.join()
            assoc.dul.join()
        finally:
            provider.discard()
            cast(WakingQueue, assoc.dul.to_provider_queue).close()
            self.server.shutdown_request(self.request)

    def _create_association(self) -> Association:
        assoc = super()._create_association()
        limit = max(self.ae.maximum_pdu_size, NEGOTIATION_BYTES)
        answers = assoc.dul.to_provider_queue = WakingQueue()
        assoc.dul._run_loop_delay = 1e-4  # BoundedSocket.ready waits
        assoc.dul.event_queue.get_nowait()  # Evt5 of the socket that is replaced
        assoc.dul.socket = BoundedSocket(assoc, self.request, limit, self.server.wait, answers)
        assoc.dul.state_machine = QuietMachine(assoc.dul)
        assoc.dimse = StoreProvider(assoc, self.server.spool, self.server.counts)
        return assoc


class Server(ThreadedAssociationServer):
    """Accepts connections from known addresses, so many at a time.

    Args:
        connections: open at once, whatever their state; more are closed at once.
        wait: seconds that a peer may keep a thread waiting.
    """

    request_queue_size = 128
    daemon_threads = True

    def __init__(
        self,
        *args: Any,
        spool: Spool,
        counts: Tally,
        tls: ssl.SSLContext | None,
        networks: Sequence[Network],
        connections: int,
        wait: float,
        **kwargs: Any,
    ) -> None:
        self.spool, self.counts, self.tls, self.networks, self.wait = spool, counts, tls, networks, wait
        self._connections, self._open, self._count = connections, 0, threading.Lock()
        super().__init__(*args, **{**kwargs, "request_handler": Handler})

    @property
    def busy(self) -> int:
        """Connections that are open."""
        return self._open

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether the peer's address is on the list; an empty list takes all."""
        address = ip_address(client_address[0].partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        known = not self.networks or any(address in network for network in self.networks)
        if not known:
            self.counts.add("unknown_address")
            log.warning("a connection from %s is closed: its address is not on the list", address)
        return known

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._open >= self._connections:
            self.counts.add("too_many")
            log.warning("a connection is closed: too many are open")
            self.shutdown_request(request)
            return
        self._counted(1)
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._counted(-1)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._counted(-1)

    def _counted(self, change: int) -> None:
        with self._count:
            self._open += change

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A handshake failed, as a rule: a plain client on the TLS port, or one without a certificate."""
        import sys

        self.counts.add("failed_handshake")
        error = sys.exc_info()[1]
        why = type(error).__name__
        if isinstance(error, ssl.SSLError) and error.reason:
            why = f"TLS: {error.reason.replace('_', ' ').lower()}"
        log.warning("a connection from %s ends: %s", client_address[0], why)
