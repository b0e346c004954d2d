"""A DICOM receiver: C-STORE and C-ECHO as a service class provider (SCP), into a durable spool.

It also takes what archives report of storage commitment, which they send to where they know the AE title.

    spool = Spool(folder)
    with Receiver(spool, ReceiverSettings(port=11112, aet="EDGE")) as receiver:
        while running:
            claim = spool.claim_series(quiet=30)
            ...

C-STORE is answered with success only after the object is in the spool for good (`edge.spool`).
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from edge.dicom.delivery.carrier import Report
from edge.dicom.delivery.commitment import hear, support_reports
from edge.dicom.receiving.encoding import IMPLEMENTATION_CLASS, IMPLEMENTATION_VERSION
from edge.dicom.receiving.tally import Tally
from edge.errors import InputError, UsageError, missing_package
from edge.spool import Spool

log = logging.getLogger(__name__)

STORAGE_ROOT = "1.2.840.10008.5.1.4.1.1."
"""Of the UIDs of storage classes (PS3.6 A)."""


@dataclass(frozen=True, slots=True)
class ReceiverSettings:
    """Who may send, and how much.

    Attributes:
        host: address to listen on; `0.0.0.0` and `::` are all.
        port: 0 takes a free one, see `Receiver.port`.
        aet: own AE title; who calls another one is rejected, unless `any_called`.
        calling: AE titles that may call; empty: any.
        networks: addresses or networks that may connect, as `192.168.1.7` or `10.0.0.0/8`; empty: any.
        associations: at once; more are rejected as a transient (local limit exceeded).
        pdu: bytes of a PDU that peers are told to send at most.
        idle: seconds after which a silent association is aborted.
        any_class: take private and unknown storage classes too; this is a switch of the whole process.
        tls: as `server_tls` makes it; None: no TLS.
    """

    host: str = "127.0.0.1"
    port: int = 11112
    aet: str = "EDGE"
    any_called: bool = False
    calling: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    associations: int = 32
    pdu: int = 1 << 17
    idle: float = 60.0
    any_class: bool = False
    tls: ssl.SSLContext | None = None


def server_tls(certificate: Path, key: Path, clients: Path | None = None) -> ssl.SSLContext:
    """TLS 1.2 or newer (BCP 195 profile, PS3.15 B.12).

    Args:
        certificate, key: of this receiver, PEM.
        clients: certificates of the authorities whose clients may connect; None: clients need no certificate.

    Raises:
        InputError: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
        if clients is not None:
            context.load_verify_locations(clients)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as e:  # ssl.SSLError is one
        why = e.strerror or str(e)
        raise InputError("cannot use the TLS certificates", why, "check the certificate and key files") from e
    return context


class Receiver:
    """Listens from the start until `close`.

    Args:
        reported: takes reports of storage commitment, as `Outbox.reported`; None: they are refused.

    Attributes:
        counts: objects `stored`, `known` (here already), `apart` (quarantined) and `refused`; associations
            `accepted`, `rejected`, `aborted`; connections from an `unknown_address`, `too_many`, and with a
            `failed_handshake`.

    Raises:
        MissingPackage: pynetdicom is not installed.
        UsageError: a setting cannot be.
        InputError: the port cannot be listened on.
    """

    def __init__(
        self, spool: Spool, settings: ReceiverSettings, reported: Callable[[Report], bool] | None = None
    ) -> None:
        self._entity = _entity(settings)
        self.counts = Tally()
        self._server = self._listen(spool, settings)
        if reported is not None:
            self.take_reports(reported)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="dicom-receiver", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    def _listen(self, spool: Spool, settings: ReceiverSettings) -> Any:
        from pynetdicom import evt

        from edge.dicom.receiving.association import Server

        handlers = [
            (evt.EVT_C_STORE, lambda event: event.assoc.dimse.store(event.request.DataSet)),
            (evt.EVT_ACCEPTED, self._tell, ["accepted"]),
            (evt.EVT_REJECTED, self._tell_rejected),
            (evt.EVT_ABORTED, self._tell, ["aborted"]),
        ]
        try:
            networks = [ip_network(network, strict=False) for network in settings.networks]
        except ValueError as e:
            raise UsageError("a DICOM receiver's networks", str(e), "write 192.168.1.7 or 10.0.0.0/8") from e
        try:
            server = self._entity.make_server(
                (settings.host, settings.port),
                evt_handlers=handlers,
                server_class=Server,
                spool=spool,
                counts=self.counts,
                tls=settings.tls,
                networks=networks,
                connections=connections(settings.associations),
                wait=settings.idle,
            )
        except OSError as e:
            place = f"{settings.host}:{settings.port}"
            raise InputError(f"cannot listen on {place}", e.strerror or str(e), "choose another port") from e
        self._entity._servers.append(server)
        return server

    def take_reports(self, reported: Callable[[Report], bool]) -> None:
        """From the next association on, take what archives report of storage commitment.

        Args:
            reported: as `Outbox.reported`.
        """
        from pynetdicom import evt

        support_reports(self._entity)
        self._server.contexts = self._entity.supported_contexts
        self._server.bind(evt.EVT_N_EVENT_REPORT, hear, [reported])

    def _tell(self, event: Any, what: str) -> None:
        """Count what became of an association."""
        self.counts.add(what)
        peer = event.assoc.requestor
        log.info("association %s: %a at %s", what, peer.ae_title, peer.address)

    def _tell_rejected(self, event: Any) -> None:
        """Count it, and say why: as a rule somebody has mistyped an AE title."""
        self.counts.add("rejected")
        peer, answer = event.assoc.requestor, event.assoc.acceptor.primitive
        asked, why = peer.primitive, answer.reason_str.lower()
        titles = f"{asked.calling_ae_title!a} at {peer.address} calls {asked.called_ae_title!a}"
        log.warning("an association is rejected: %s; %s", why, titles)

    def close(self, grace: float = 5.0) -> None:
        """Take no more connections, let open associations end for `grace` seconds, then abort them.

        A second call does nothing.
        """
        if not self._thread.is_alive():
            return
        self._server.shutdown()
        self._thread.join()
        deadline = time.monotonic() + grace
        while self._server.active_associations and time.monotonic() < deadline:
            time.sleep(0.02)
        for association in self._server.active_associations:
            association.abort()
        while self._server.busy and time.monotonic() < deadline + 5:
            time.sleep(0.02)

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _entity(settings: ReceiverSettings) -> Any:
    """The application entity: what it takes, and from whom."""
    pynetdicom = quiet_pynetdicom()
    from pydicom.uid import ExplicitVRLittleEndian
    from pynetdicom import ALL_TRANSFER_SYNTAXES, _config
    from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

    try:
        ae = pynetdicom.AE(settings.aet)
    except ValueError as e:
        raise UsageError(f"AE title {settings.aet!r}", str(e), "1 to 16 characters, no backslash") from e
    if settings.any_class:
        _config.UNRESTRICTED_STORAGE_SERVICE = True
    others = [syntax for syntax in ALL_TRANSFER_SYNTAXES if syntax != ExplicitVRLittleEndian]
    for uid in storage_classes():
        ae.add_supported_context(uid, [ExplicitVRLittleEndian, *others])  # explicit says most
    ae.add_supported_context(Verification)
    ae.maximum_associations = settings.associations
    ae.maximum_pdu_size = settings.pdu
    ae.network_timeout = ae.dimse_timeout = settings.idle
    ae.acse_timeout = acse_timeout(settings.idle)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS
    ae.implementation_version_name = IMPLEMENTATION_VERSION
    ae.require_called_aet = not settings.any_called
    ae.require_calling_aet = list(settings.calling)
    return ae


def connections(associations: int) -> int:
    """Open at once: some are still in their handshake, or on their way out."""
    return 2 * associations + 8


def acse_timeout(idle: float) -> float:
    """Seconds that a peer may take to ask for an association, or to release it."""
    return min(30.0, idle)


def storage_classes() -> list[str]:
    """All of the standard; also retired ones, which pynetdicom leaves out and old devices send."""
    from pydicom.uid import UID_dictionary  # type: ignore[attr-defined]
    from pynetdicom import AllStoragePresentationContexts
    from pynetdicom.service_class import ServiceClass, StorageServiceClass
    from pynetdicom.sop_class import register_uid, uid_to_service_class

    known = [str(context.abstract_syntax) for context in AllStoragePresentationContexts]
    for uid, (*_, keyword) in UID_dictionary.items():
        if uid.startswith(STORAGE_ROOT) and "Storage" in keyword:
            if uid_to_service_class(uid) is ServiceClass:
                register_uid(uid, keyword, StorageServiceClass)
            if uid not in known and uid_to_service_class(uid) is StorageServiceClass:
                known.append(uid)
    return known


def quiet_pynetdicom() -> Any:
    """pynetdicom without log lines, which hold identifiers of patients.

    Raises:
        MissingPackage: it is not installed.
    """
    try:
        import pynetdicom
    except ImportError as e:
        raise missing_package("pynetdicom", "pacs", "the DICOM network") from e
    from pynetdicom import _config

    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    return pynetdicom
