"""Addresses of sources and sinks: `scheme:place?settings`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from edge.errors import UsageError, nearest

_PASSWORD = re.compile(r"(\w[\w+.-]*://[^\s/?#@:]*:)(?!\d*(?:[/?#\s]|$))\S*@")
"""Up to the last @, because it may have characters that should have been percent-encoded; not where a port
follows the colon."""
_SECRET = re.compile(r"([\w-]*(?:pass|pwd?\b|token|secret|key|auth|sign)[\w-]*=)[^&/;?#\s]+", re.IGNORECASE)
_WORDS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True, slots=True)
class Address:
    """An address, taken apart.

    Attributes:
        uri: as the user wrote it.
        place: what stands between scheme and query.
        query: the settings after `?`.
    """

    uri: str
    place: str
    query: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return Path(self.place).expanduser()

    def settings(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """`known` defaults with the query's values in their place, each in the type of its default.

        Raises:
            UsageError: a setting is unknown, or its value has another type.
        """
        values = dict(known)
        for name, text in self.query.items():
            if name not in known:
                raise UsageError(f"{self.uri}: no setting '{name}'", "", nearest(name, known))
            kind = type(known[name])
            try:
                values[name] = _truth(text) if kind is bool else kind(text)
            except (ValueError, ArithmeticError) as e:
                raise UsageError(f"{self.uri}: {name}={text!r} is not a value of this setting", str(e)) from e
        return values


def split(uri: str, rest: str) -> Address:
    """The address `uri` with what follows its scheme, `rest`, parted at the first `?`."""
    place, _, query = rest.partition("?")
    return Address(uri, place, dict(parse_qsl(query, keep_blank_values=True)))


def _truth(text: str) -> bool:
    if text.lower() not in _WORDS:
        raise ValueError("it is 1 or 0")
    return _WORDS[text.lower()]


def without_password(text: str) -> str:
    """A text with URLs in it as it may be shown; rather too much is hidden than a password shown.

    >>> without_password("rtsp://guard:s3cret@10.0.0.7/live?token=abc&channel=2")
    'rtsp://guard:***@10.0.0.7/live?token=***&channel=2'
    """
    return _SECRET.sub(r"\1***", _PASSWORD.sub(r"\1***@", text)) if "://" in text else text
