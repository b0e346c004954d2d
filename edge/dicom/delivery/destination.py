"""Where answers go: addresses of archives, taken apart.

dicom+scu://CALLED@host:port?aet=EDGE&kinds=sr,seg&fallback=sc&commitment=yes
stow+https://host/dicom-web?kinds=sr,seg
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from edge.address import Address, split, without_password
from edge.errors import InputError, UsageError, nearest

KINDS = ("sr", "seg", "sc", "gsps", "ko")
"""Of answers: structured report, segmentation, secondary capture, presentation state, key objects."""

SYNTAXES = {
    "explicit": "1.2.840.10008.1.2.1",
    "implicit": "1.2.840.10008.1.2",
    "deflated": "1.2.840.10008.1.2.1.99",
}
"""Transfer syntaxes that an answer can be sent in (PS3.5 A)."""

COMMON = {"kinds": "sr,seg,sc", "fallback": "", "syntax": "explicit", "attempts": 0, "timeout": 30.0}
TLS = {"ca": "", "cert": "", "key": "", "verify_name": True}
SCU = {"aet": "EDGE", "commitment": False, "reports": "", "report_wait": 3600.0, "tls": False}
STOW = {"token_file": ""}

DICOM_PORT = 104


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files of a TLS connection; empty where the system's, or none, are used.

    Attributes:
        ca: certificates of the authorities that the archive's is checked against.
        cert, key: of this side, for archives that ask for it.
        verify_name: whether the archive's certificate must be of its host; many of devices are not.
    """

    ca: str = ""
    cert: str = ""
    key: str = ""
    verify_name: bool = True

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or newer (BCP 195 profile, PS3.15 B.12).

        Raises:
            InputError: a file cannot be used.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca or None)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.check_hostname = self.verify_name
            if self.cert:
                context.load_cert_chain(self.cert, self.key or None)
        except OSError as e:  # ssl.SSLError is one
            fix = "check the files of ca, cert and key"
            raise InputError("cannot use the TLS certificates", e.strerror or str(e), fix) from e
        return context


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """An archive, and what it gets.

    Attributes:
        name: of the archive, without password; the outbox knows it by this one over restarts.
        kinds: answers that it gets.
        fallback: answers that it gets instead, when it takes one of `kinds` not.
        syntax: UID of the transfer syntax that is preferred.
        attempts: after so many an object is given up; 0: never.
        timeout: seconds that it may take to answer.
    """

    name: str
    kinds: tuple[str, ...]
    fallback: tuple[str, ...]
    syntax: str
    attempts: int
    timeout: float
    certificates: Certificates

    @property
    def commits(self) -> bool:
        """Whether it is asked to commit to what it was sent."""
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScuDestination(Destination):
    """An archive that answers are sent to by C-STORE.

    Attributes:
        called, aet: AE titles of the archive and of this side.
        commitment: ask it to commit to what it has stored (PS3.4 J).
        reports: where this side listens for what it commits to, `host:port`; empty: nowhere, the archive
            says it on the association of the request.
        report_wait: seconds after which it is asked anew.
        tls: whether the association is one of TLS.
    """

    called: str
    host: str
    port: int
    aet: str
    commitment: bool
    reports: str
    report_wait: float
    tls: bool

    @property
    def commits(self) -> bool:
        return self.commitment


@dataclass(frozen=True, slots=True, kw_only=True)
class StowDestination(Destination):
    """An archive that answers are sent to by STOW-RS (PS3.18 10.5).

    Attributes:
        url: of the DICOMweb service, without user.
        login: user and password.
        token_file: holds a bearer token; read for every request, so that it can be renewed.
    """

    url: str
    login: tuple[str, str] | None = field(repr=False)
    token_file: str


def destination(uri: str) -> Destination:
    """The destination at an address.

    Raises:
        UsageError: it cannot be; passwords are not shown.
    """
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme not in OPENERS:
        raise UsageError(
            f"no destination '{without_password(uri)}'",
            f"there is no scheme '{scheme}'" if colon else "it is written as scheme://place",
            nearest(scheme, OPENERS).rstrip("?") + ", e.g. dicom+scu://PACS@10.0.0.5:104",
        )
    address = split(without_password(uri), rest)
    try:
        place = urlsplit(f"{scheme}:{address.place}")
        place.port  # noqa: B018  # raises
    except ValueError as e:
        raise UsageError(f"{address.uri}: it is no address", str(e), _example(scheme)) from e
    if not place.hostname:
        raise UsageError(f"{address.uri}: it names no host", "", _example(scheme))
    return OPENERS[scheme](address, place)


def _example(scheme: str) -> str:
    place = "PACS@10.0.0.5:104" if scheme == "dicom+scu" else "pacs.example/dicom-web"
    return f"write {scheme}://{place}"


def _scu(address: Address, place: SplitResult) -> ScuDestination:
    values = address.settings({**COMMON, **SCU, **TLS})
    called = unquote(place.username or "")
    for title in (called, values["aet"]):
        if not title.strip() or len(title) > 16 or not title.isascii() or "\\" in title:
            why = "it is 1 to 16 ASCII characters, no backslash (PS3.5 6.2)"
            raise UsageError(f"{address.uri}: no AE title '{title}'", why, _example("dicom+scu"))
    if place.path.strip("/") or place.password:
        raise UsageError(f"{address.uri}: it is no address", "", _example("dicom+scu"))
    host, port = str(place.hostname), place.port or DICOM_PORT
    own = {name: values[name] for name in SCU}
    if own["reports"]:
        listening(own["reports"])
    return ScuDestination(
        name=f"{called}@{host}:{port}", called=called, host=host, port=port, **own, **_common(address, values)
    )


def _stow(address: Address, place: SplitResult) -> StowDestination:
    values = address.settings({**COMMON, **STOW, **TLS})
    web = place.scheme.removeprefix("stow+")
    if web == "http" and place.hostname not in ("localhost", "127.0.0.1", "::1"):
        why = "patients' data would pass in clear"
        raise UsageError(f"{address.uri}: plain HTTP is for this machine alone", why, "write stow+https://")
    user = place.username
    login = (unquote(user), unquote(place.password or "")) if user is not None else None
    url = f"{web}://{place.netloc.rpartition('@')[2]}{place.path.rstrip('/')}"
    return StowDestination(
        name=url, url=url, login=login, token_file=values["token_file"], **_common(address, values)
    )


OPENERS = {"dicom+scu": _scu, "stow+https": _stow, "stow+http": _stow}


def _common(address: Address, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that all destinations have.

    Raises:
        UsageError: one of them cannot be.
    """
    kinds, fallback = (_words(address, name, values[name]) for name in ("kinds", "fallback"))
    if not kinds:
        raise UsageError(f"{address.uri}: kinds is empty", "", f"choose of {', '.join(KINDS)}")
    if values["syntax"] not in SYNTAXES:
        what = f"{address.uri}: no transfer syntax '{values['syntax']}'"
        raise UsageError(what, "", nearest(values["syntax"], SYNTAXES))
    if values["attempts"] < 0 or values["timeout"] <= 0:
        raise UsageError(f"{address.uri}: attempts and timeout are not negative", "", "")
    for name in ("ca", "cert", "key"):
        if values[name] and not Path(values[name]).is_file():
            raise UsageError(f"{address.uri}: no file '{values[name]}'", f"it is named by {name}", "")
    return {
        "kinds": kinds,
        "fallback": tuple(kind for kind in fallback if kind not in kinds),
        "syntax": SYNTAXES[values["syntax"]],
        "attempts": values["attempts"],
        "timeout": values["timeout"],
        "certificates": Certificates(**{name: values[name] for name in TLS}),
    }


def _words(address: Address, name: str, text: str) -> tuple[str, ...]:
    words = tuple(word for word in text.split(",") if word)
    for word in words:
        if word not in KINDS:
            raise UsageError(f"{address.uri}: {name} has no '{word}'", "", nearest(word, KINDS))
    return words


def listening(place: str) -> tuple[str, int]:
    """`host:port` to listen on.

    Raises:
        UsageError: it is none.
    """
    host, colon, port = place.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"cannot listen on '{place}'", "it is no address", "write host:port")
    return host.strip("[]"), int(port)
