"""What a DICOM receiver counts."""

from __future__ import annotations

import threading
from collections import Counter


class Tally(Counter[str]):
    """Counts that several threads add to."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()

    def add(self, what: str) -> None:
        """One more of it."""
        with self._lock:
            self[what] += 1
