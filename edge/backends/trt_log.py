"""What TensorRT says, kept for error messages and manifests.

TensorRT keeps one logger for all that lives in a process and ignores others ("the existing logger will be
used"), and its plugin library points to the one it was given until the process ends. So there is one, for
as long.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from edge.errors import RuntimeFault

log = logging.getLogger(__name__)

_KEPT = 500
_loggers: WeakKeyDictionary[ModuleType, Any] = WeakKeyDictionary()


class Notes:
    """The last warnings and errors of TensorRT since this was made.

    Attributes:
        logger: for `trt.Builder`, `trt.Runtime` and the others that want one.
    """

    def __init__(self, trt: ModuleType) -> None:
        if trt not in _loggers:
            _loggers[trt] = _recorder(trt)
        self.logger = _loggers[trt]
        self._since = next(self.logger.numbers)

    def started(self, kind: Callable[[Any], Any], what: str) -> Any:
        """A `trt.Builder` or `trt.Runtime`.

        Raises:
            RuntimeFault: there is none: CUDA does not start, for example because the driver is too old. The
                bindings say only "factory function returned nullptr", and the library says why as a warning.
        """
        try:
            return kind(self.logger)
        except TypeError as e:
            said = self.said("INTERNAL_ERROR", "ERROR", "WARNING")[-3:]
            raise RuntimeFault(
                f"{what} does not start",
                "; ".join(said) or str(e),
                "check nvidia-smi; update the driver, or install the runtime for an older CUDA; "
                "`edge doctor` shows versions",
            ) from e

    def said(self, *severities: str) -> tuple[str, ...]:
        """Distinct messages, in order."""
        messages = tuple(self.logger.messages)  # at once: the compiler's threads may add to them
        wanted = [text for n, kind, text in messages if n > self._since and kind in severities]
        return tuple(dict.fromkeys(wanted))

    def reason(self, otherwise: str) -> str:
        """The last errors in one line."""
        return "; ".join(self.said("INTERNAL_ERROR", "ERROR")[-3:]) or otherwise


def _recorder(trt: ModuleType) -> Any:
    class Recorder(trt.ILogger):  # type: ignore[misc,name-defined]  # the class exists at run time only
        """Numbers what it keeps, so that each of its readers knows where to begin."""

        def __init__(self) -> None:
            super().__init__()
            self.numbers = itertools.count()
            self.messages: deque[tuple[int, str, str]] = deque(maxlen=_KEPT)

        def log(self, severity: Any, msg: str) -> None:
            if severity.name in ("INTERNAL_ERROR", "ERROR", "WARNING"):
                self.messages.append((next(self.numbers), severity.name, msg))
            log.debug("%s: %s", severity.name, msg)

    return Recorder()
