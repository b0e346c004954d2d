"""What TensorRT says, kept for error messages and manifests."""

from __future__ import annotations

import logging
from collections import deque
from types import ModuleType
from typing import Any

log = logging.getLogger(__name__)

_KEPT = 500


def recorder(trt: ModuleType) -> Any:
    """A logger for `trt.Builder` and `trt.Runtime` that remembers the last warnings and errors.

    It has `said(*severities) -> tuple[str, ...]` and `reason(otherwise) -> str`.
    """

    class Recorder(trt.ILogger):  # type: ignore[misc,name-defined]  # the class exists at run time only
        def __init__(self) -> None:
            super().__init__()
            self.messages: deque[tuple[str, str]] = deque(maxlen=_KEPT)

        def log(self, severity: Any, msg: str) -> None:
            if severity.name in ("INTERNAL_ERROR", "ERROR", "WARNING"):
                self.messages.append((severity.name, msg))
            log.debug("%s: %s", severity.name, msg)

        def said(self, *severities: str) -> tuple[str, ...]:
            """Distinct messages, in order."""
            return tuple(dict.fromkeys(text for severity, text in self.messages if severity in severities))

        def reason(self, otherwise: str) -> str:
            """The last errors in one line."""
            return "; ".join(self.said("INTERNAL_ERROR", "ERROR")[-3:]) or otherwise

    return Recorder()
