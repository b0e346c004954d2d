"""`dicomweb+https://HOST/dicom-web?ModalitiesInStudy=CT&spool=DIR`: what is new at a DICOMweb service."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from edge.address import Address, without_password
from edge.dicom.delivery.destination import TLS, Certificates
from edge.dicom.receiving.webpoll import WebPoll
from edge.dicom.service import Service
from edge.errors import UsageError
from edge.sources.spooled import SETTINGS, Spooled, open_spooled

OWN: Mapping[str, Any] = {"poll": 30.0, "days": 0, "timeout": 30.0, "token_file": "", **TLS}


def open(address: Address, realtime: bool) -> Spooled:
    """Asks from now on; what was fetched by a run before is not fetched again.

    Every setting with a capital letter, or a tag's eight digits, is a key of the search.

    Raises:
        UsageError: a setting is unknown or wrong, or there is nothing that limits the search.
        MissingPackage: requests or pydicom is not installed.
        StoreError: another process uses the spool.
    """
    shown = without_password(address.uri)
    query = {name: text for name, text in address.query.items() if name[:1].isupper() or name.isdigit()}
    own = {name: text for name, text in address.query.items() if name not in query}
    values = Address(shown, address.place, own).settings({**SETTINGS, **OWN})
    if not query and not values["days"]:
        why, fix = "the whole archive would be fetched", "add days=1, or a key such as ModalitiesInStudy=CT"
        raise UsageError(f"{shown}: nothing limits the search", why, fix)
    for name in ("poll", "timeout"):
        if not 0 < values[name] < float("inf"):
            raise UsageError(f"{shown}: {name}={values[name]} is not a number of seconds above 0")
    if values["days"] < 0:
        raise UsageError(f"{shown}: days={values['days']} is below 0")
    service = _service(shown, address, values)
    return open_spooled(
        Address(shown, address.place, own),
        values,
        lambda spool: WebPoll(spool, service, query, values["poll"], values["days"]),
    )


def _service(shown: str, address: Address, values: Mapping[str, Any]) -> Service:
    scheme = address.uri.partition(":")[0].lower().removeprefix("dicomweb+")
    try:
        place = urlsplit(f"{scheme}:{address.place}")
        host, user = place.hostname, place.username
        place.port  # noqa: B018  # raises
    except ValueError:
        host, user = None, None
    if not host:
        raise UsageError(
            f"{shown} is no address of a service", "", "e.g. dicomweb+https://pacs/dicom-web?days=1"
        )
    if scheme == "http" and host not in ("localhost", "127.0.0.1", "::1"):
        why = "patients' data would pass in clear"
        raise UsageError(f"{shown}: plain HTTP is for this machine alone", why, "write dicomweb+https://")
    for name in ("ca", "cert", "key"):
        if values[name] and not Path(values[name]).is_file():
            raise UsageError(f"{shown}: no file '{values[name]}'", f"it is named by {name}", "check the path")
    login = (unquote(user), unquote(place.password or "")) if user is not None else None
    url = f"{scheme}://{place.netloc.rpartition('@')[2]}{place.path.rstrip('/')}"
    certificates = Certificates(**{name: values[name] for name in TLS})
    return Service(url, values["timeout"], certificates, login, values["token_file"])
