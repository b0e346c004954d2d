"""`dicom+scp://0.0.0.0:11112?aet=EDGE&spool=DIR`: a DICOM receiver, whose objects wait in a spool."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from edge.dicom.receiving.receiver import Receiver, ReceiverSettings, server_tls
from edge.errors import UsageError
from edge.sources import Address
from edge.sources.spooled import SETTINGS, Spooled, open_spooled

PORT = 11112
"""Registered for DICOM; the older one, 104, is for the system's administrator alone."""

OWN: Mapping[str, Any] = {
    "aet": "EDGE",
    "any_called": False,
    "calling": "",
    "networks": "",
    "associations": 32,
    "idle": 60.0,
    "any_class": False,
    "tls_cert": "",
    "tls_key": "",
    "tls_clients": "",
}


def open(address: Address, realtime: bool) -> Spooled:
    """Listens from now on.

    Raises:
        UsageError: a setting is unknown or wrong.
        MissingPackage: pynetdicom or pydicom is not installed.
        InputError: the port cannot be listened on, or a certificate cannot be used.
        StoreError: another process uses the spool.
    """
    values = address.settings({**SETTINGS, **OWN})
    settings = _settings(address, values)

    source = open_spooled(address, values, lambda spool: Receiver(spool, settings), private=False)
    port = cast(Receiver, source.supply).port
    source.told = f"{settings.aet} listens on {settings.host}:{port}"
    return source


def _settings(address: Address, values: Mapping[str, Any]) -> ReceiverSettings:
    host, port = _place(address)
    return ReceiverSettings(
        host=host,
        port=port,
        aet=values["aet"],
        any_called=values["any_called"],
        calling=_words(values["calling"]),
        networks=_words(values["networks"]),
        associations=values["associations"],
        idle=values["idle"],
        any_class=values["any_class"],
        tls=_tls(address, values),
    )


def _place(address: Address) -> tuple[str, int]:
    try:
        parts = urlsplit(address.place)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host or urlsplit(address.place).path.strip("/"):
        raise UsageError(
            f"{address.uri} is no place to listen on", "", "e.g. dicom+scp://0.0.0.0:11112?spool=DIR"
        )
    return host, PORT if port is None else port


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _tls(address: Address, values: Mapping[str, Any]) -> ssl.SSLContext | None:
    certificate, key, clients = (values[f"tls_{name}"] for name in ("cert", "key", "clients"))
    if not (certificate or key or clients):
        return None
    if not (certificate and key):
        why = "TLS takes the receiver's certificate and its key"
        raise UsageError(f"{address.uri}: tls_cert and tls_key", why, "give both, PEM files")
    return server_tls(Path(certificate), Path(key), Path(clients) if clients else None)
