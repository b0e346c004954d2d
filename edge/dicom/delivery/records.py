"""What the outbox knows of an object, and tells of an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class State(str, Enum):
    """How far an object is on its way to one archive."""

    WAITING = "waiting"
    SENT = "sent"
    """The archive has answered with success; the end, where it is not asked to commit."""
    COMMITTED = "committed"
    """The archive has said that it keeps it."""
    GIVEN_UP = "given up"
    REPLACED = "replaced"
    """The archive does not take it: another kind of answer is sent instead."""
    SPARE = "spare"
    """Sent only if another kind is not taken."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """An object on its way to an archive.

    Attributes:
        key: of the answer that it is part of.
        destination: name of the archive.
        attempts: to send it.
        due: UNIX seconds of the next one.
        reason: why it waits, or was given up; or a warning that it was stored with.
    """

    uid: str
    key: str
    kind: str
    destination: str
    state: State
    attempts: int
    due: float
    reason: str


@dataclass(frozen=True, slots=True)
class News:
    """What the application is to be told of an answer.

    Attributes:
        what: `delivered`, `confirmed` or `given up`.
        why: reasons of the latter.
        delivered: it was told so before.
        last: nothing more comes.
    """

    key: str
    what: str
    why: str
    delivered: bool
    last: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """An object whose file is durable, and where it goes."""

    uid: str
    kind: str
    sop_class: str
    syntax: str
    name: str
    to: Mapping[str, State]
    commits: frozenset[str]
