"""UIDs that are the same whenever an answer is made again."""

from __future__ import annotations

import uuid

NAMESPACE = uuid.UUID("6f0f4f0c-5a4e-5d0b-9a3c-0d8a7e1b6c52")


def derived(*parts: str | int) -> str:
    """A UID made from a name-based UUID of `parts` (PS3.5 B.2, RFC 9562 5.5)."""
    return f"2.25.{uuid.uuid5(NAMESPACE, '/'.join(map(str, parts))).int}"


def series_uid(key: str, kind: str) -> str:
    """Each kind of answer to a unit of work is a series of its own."""
    return derived(key, kind)


def instance_uid(key: str, kind: str, number: int) -> str:
    """The SOP Instance UID of one answer.

    Args:
        number: from 1, within its series.
    """
    return derived(key, kind, number)


def tracking_uid(key: str, instance: str, frame: int, number: int) -> str:
    """One region that was found, by the same UID in every kind of answer.

    Args:
        instance: SOP Instance UID of the source.
        frame: counted from 0.
        number: of the region in the frame, from 1.
    """
    return derived(key, "region", instance, frame, number)
