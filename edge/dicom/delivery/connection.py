"""pynetdicom's client with sockets that say why they failed, wait for nobody for ever, and are closed."""

from __future__ import annotations

import socket
from typing import Any, cast

from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.transport import AddressInformation, AssociationSocket

from edge.dicom.receiving.encoding import IMPLEMENTATION_CLASS, IMPLEMENTATION_VERSION

QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)
"""Linux has it; it holds for a while, and is set anew each time."""


class ClientSocket(AssociationSocket):
    """The connection of an association that this side asks for."""

    def connect(self, primitive: Any) -> None:
        """Connect, TLS handshake included; the error is kept as the association's `failure`."""
        association: Any = self.assoc
        connection = cast(socket.socket, self.socket)
        try:
            connection.settimeout(association.connection_timeout)
            # command and data set go out one after the other: the second would wait for a delayed ACK
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls_args:
                context, name = self.tls_args
                connection = self.socket = context.wrap_socket(connection, server_hostname=name)
            connection.connect(primitive.address_info.as_tuple)
            connection.settimeout(association.network_timeout)
            association.requestor.address_info = AddressInformation.from_tuple(connection.getsockname())
            self._is_connected = True
            primitive.result = "Evt2"  # transport connection confirmation (PS3.8 9.2)
        except OSError as e:
            association.failure = e
            connection.close()
            self.socket = None
            primitive.result = "Evt17"  # transport connection closed
        finally:
            self.provider_queue.put(primitive)
            self._ready.set()

    def recv(self, nr_bytes: int) -> bytearray:
        """So many bytes; acknowledged at once, since a peer may wait for that before it sends the rest."""
        if self.socket is not None and QUICK_ACK is not None:
            self.socket.setsockopt(socket.IPPROTO_TCP, QUICK_ACK, 1)
        return super().recv(nr_bytes)

    def _shutdown_socket(self) -> None:
        connection = self.socket
        super()._shutdown_socket()
        if connection is not None:
            connection.close()  # also where the peer was first


class Client(AE):
    """An application entity that opens associations.

    Args:
        title: its AE title.
        timeout: seconds that a peer may take to connect, to read, and to answer.
    """

    def __init__(self, title: str, timeout: float) -> None:
        super().__init__(title)
        self.implementation_class_uid = UID(IMPLEMENTATION_CLASS)
        self.implementation_version_name = IMPLEMENTATION_VERSION
        self.acse_timeout = self.dimse_timeout = self.network_timeout = self.connection_timeout = timeout

    def _create_socket(self, assoc: Any, address: Any, tls_args: Any) -> ClientSocket:
        made = ClientSocket(assoc, address=address)
        made.tls_args = tls_args
        return made
