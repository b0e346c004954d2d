"""Addresses of the network: our settings apart from the stream's own, and nothing that shows a password."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from edge.address import Address, without_password
from edge.errors import UsageError
from edge.sources import Absent

PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Url:
    """A stream of the network.

    Attributes:
        scheme: `rtsp`, `http` …
        host: "" where there is none (`udp://:5000`).
        full: what FFmpeg is asked for, with user name and password. Never shown.
        absent: what may be shown of it.
        has_user: whether it names a user.
        settings: ours, taken out of the query.
    """

    scheme: str
    host: str
    full: str
    absent: Absent
    has_user: bool
    settings: Mapping[str, Any]


def parse(address: Address, known: Mapping[str, Any]) -> Url:
    """Take a URL apart. Settings in `known` are ours; every other part of its query belongs to the stream.

    Raises:
        UsageError: it names no host, or a setting's value is wrong.
    """
    shown = without_password(address.uri)
    place, _, query = address.uri.partition("?")
    parts = [part for part in query.split("&") if part]
    ours = [part for part in parts if part.partition("=")[0] in known]
    theirs = [part for part in parts if part not in ours]
    settings = Address(shown, "", dict(parse_qsl("&".join(ours), keep_blank_values=True))).settings(known)
    try:
        split = urlsplit(place)
        scheme, host, port = split.scheme.lower(), split.hostname or "", split.port
    except ValueError:
        scheme, host, port = "", "", None
    if scheme == "udp" and host and port is None:
        raise UsageError(f"{shown} has no port", "a stream over UDP comes to one", "e.g. udp://:5000")
    clean = place.isprintable() and " " not in place
    if not clean or not (host or (scheme == "udp" and port)):
        raise UsageError(
            f"{shown if clean else place.partition(':')[0] + '://…'} is not an address of the network",
            "",
            "e.g. rtsp://USER:PASSWORD@10.0.0.7/live, special characters percent-encoded: @ is %40, / is %2F",
        )
    path = urlsplit(without_password(place)).path.partition("=***")[0]
    label = "-".join([host or "udp", *([str(port)] if scheme == "udp" else []), *path.strip("/").split("/")])
    place = scheme + place[len(scheme) :]  # FFmpeg knows them in small letters only
    full = place + ("?" + "&".join(theirs) if theirs else "")
    port = port or PORTS.get(scheme)
    absent = Absent(label.rstrip("-"), shown, (host, port) if host and port else None)
    return Url(scheme, host, full, absent, split.username is not None, settings)
