"""STOW-RS as a client (PS3.18 10.5): files go out as they are, several in a request."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.dicom.delivery.carrier import Fate, Outcome, Parcel, Report, Unreachable, outcome_of
from edge.dicom.delivery.destination import StowDestination
from edge.dicom.delivery.recode import PLAIN, encoded
from edge.dicom.service import FIX, Service
from edge.errors import EdgeError

REQUEST_BYTES = 32 << 20
"""Objects of so many bytes share a request; a larger one has its own."""

PIECE_BYTES = 1 << 20

FAILED, STORED, UID, REASON, WARNING = "00081198", "00081199", "00081155", "00081197", "00081196"
"""Tags of a response in DICOM JSON: sequences, SOP Instance UID, failure and warning reason (PS3.18 I.2)."""

ANSWERED = frozenset({200, 202, 409})
"""HTTP statuses whose body says what became of each object (PS3.18 10.5.3.1)."""

NOT_NOW = frozenset({401, 403, 404, 408, 425, 429, 502, 503, 504})
"""HTTP statuses that say nothing of the objects: a person or time changes them."""


class StowCarrier:
    """The way to a DICOMweb service.

    Raises:
        MissingPackage: requests is not installed.
    """

    def __init__(self, destination: StowDestination) -> None:
        self._to, self._alone = destination, False
        self._service = Service(
            destination.url,
            destination.timeout,
            destination.certificates,
            destination.login,
            destination.token_file,
        )

    def send(self, parcels: Sequence[Parcel]) -> Iterator[tuple[Parcel, Outcome]]:
        for group in _groups(parcels, alone=self._alone):
            try:
                found = self._post(group)
                if found is None:  # which of them it is about is not said
                    for parcel in group:
                        yield parcel, (self._post([parcel]) or {})[parcel.uid]
                    continue
                self._alone = False
            except Unreachable as e:
                if self._alone:
                    yield group[0], Outcome(Fate.LATER, str(e))  # it may be the one that ends the service
                self._alone = True
                raise
            for parcel in group:
                yield parcel, found[parcel.uid]

    def commit(
        self,
        transaction: str,
        parcels: Sequence[Parcel],
        reported: Callable[[Report], bool],
        settled: Callable[[], bool],
    ) -> None:
        raise Unreachable(f"no commitment of {self._to.name}", "STOW-RS has none")

    def echo(self) -> str:
        response = self._service.request("GET", "studies", params={"limit": "1"})
        if response.status_code not in (200, 204):
            raise Unreachable(self._to.name, f"it answers with HTTP status {response.status_code}", FIX)
        return str(response.headers.get("Server", ""))

    def close(self) -> None:
        self._service.close()

    def _post(self, group: Sequence[Parcel]) -> Mapping[str, Outcome] | None:
        """What became of each; None where that is not known of several.

        Raises:
            Unreachable: nothing was stored, as far as is known.
        """
        boundary, parts, broken = uuid.uuid4().hex, [], {}
        for parcel in group:
            try:
                parts.append(self._part(parcel))
            except EdgeError as e:
                broken[parcel.uid] = Outcome(Fate.REFUSED, str(e))
        if not parts:
            return broken
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        body = Body(boundary, parts)
        response = self._service.request("POST", "studies", data=body, headers={"Content-Type": kind})
        status = response.status_code
        if status in NOT_NOW:
            raise Unreachable(f"{self._to.name} takes nothing", f"HTTP status {status}", FIX)
        answer = _answer(response) if status in ANSWERED else {}
        if status in ANSWERED and (answer or status != 409):
            stored = Outcome(
                Fate.STORED if status == 200 else Fate.LATER, "" if status == 200 else "no word of it"
            )
            return {**{parcel.uid: answer.get(parcel.uid, stored) for parcel in group}, **broken}
        if len(group) > 1:
            return None
        fate = Fate.REFUSED if 400 <= status < 500 else Fate.LATER
        return {group[0].uid: Outcome(fate, f"HTTP status {status}")}

    def _part(self, parcel: Parcel) -> Path | bytes:
        """A file to be sent as it is, or in the transfer syntax that is preferred."""
        if parcel.syntax in PLAIN and parcel.syntax != self._to.syntax:
            return encoded(parcel.path, self._to.syntax)
        return parcel.path


@dataclass(frozen=True)
class Body:
    """A multipart body of files and bytes (RFC 2387), which is read as it is sent."""

    boundary: str
    parts: Sequence[Path | bytes]

    def __len__(self) -> int:
        sizes = [len(part) if isinstance(part, bytes) else part.stat().st_size for part in self.parts]
        return sum(sizes) + len(self.parts) * len(self._head) + len(self._end)

    def __iter__(self) -> Iterator[bytes]:
        for part in self.parts:
            yield self._head
            if isinstance(part, bytes):
                yield part
                continue
            with part.open("rb") as file:
                while piece := file.read(PIECE_BYTES):
                    yield piece
        yield self._end

    @property
    def _head(self) -> bytes:
        return f"\r\n--{self.boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()

    @property
    def _end(self) -> bytes:
        return f"\r\n--{self.boundary}--\r\n".encode()


def _groups(parcels: Sequence[Parcel], alone: bool) -> Iterator[list[Parcel]]:
    """Parcels that share a request."""
    group: list[Parcel] = []
    size = 0
    for parcel in parcels:
        more = parcel.path.stat().st_size
        if group and (alone or size + more > REQUEST_BYTES):
            yield group
            group, size = [], 0
        group.append(parcel)
        size += more
    yield group


def _answer(response: Any) -> dict[str, Outcome]:
    """What a response says of each object; empty where it says nothing."""
    try:
        body = response.json()
        body = body[0] if isinstance(body, list) else body
        found = {}
        for item in _items(body, STORED):
            found[str(_value(item, UID))] = outcome_of(int(_value(item, WARNING) or 0))
        for item in _items(body, FAILED):
            found[str(_value(item, UID))] = outcome_of(int(_value(item, REASON) or 0x0110))
        return found
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return {}


def _items(body: Any, tag: str) -> list[Any]:
    return list(body.get(tag, {}).get("Value") or [])


def _value(item: Any, tag: str) -> Any:
    return (item.get(tag, {}).get("Value") or [None])[0]
