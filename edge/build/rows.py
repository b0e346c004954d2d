"""What came of each engine of a build, and who hears of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from edge.build.resources import peak_rss
from edge.errors import EdgeError, GateError, RuntimeFault
from edge.manifest import Accuracy, Entry, Latency

log = logging.getLogger(__name__)


class Identity(NamedTuple):
    """Which engine is made."""

    model: str
    target: str
    variant: str
    key: str


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one engine.

    Attributes:
        state: the engine's, or "failed".
        cached: nothing had changed, the published engine was kept.
        path: the engine's folder; None if it failed.
        latency: measured on its device; None where it did not run on one.
        warnings: what is wrong with the data it was made from.
    """

    model: str
    target: str
    variant: str
    state: str
    key: str
    size_bytes: int
    quantized_mac_share: float
    accuracy: Accuracy | None
    build_seconds: float
    peak_rss_bytes: int
    path: Path | None
    reason: str
    cached: bool = False
    error: EdgeError | None = None
    latency: Latency | None = None
    warnings: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Target and variant; of a bundle that cannot be read, its path."""
        return f"{self.target}/{self.variant}" if self.target else self.model

    def to_json(self) -> dict[str, Any]:
        accuracy = self.accuracy and self.accuracy.model_dump(
            include={"metric", "fp32", "this", "drop_error", "samples"}
        )
        return {
            "model": self.model,
            "target": self.target,
            "variant": self.variant,
            "state": self.state,
            "key": self.key,
            "size_bytes": self.size_bytes,
            "quantized_mac_share": round(self.quantized_mac_share, 4),
            "accuracy": accuracy,
            "latency": self.latency and self.latency.model_dump(),
            "build_seconds": round(self.build_seconds, 3),
            "peak_rss_bytes": self.peak_rss_bytes,
            "path": None if self.path is None else str(self.path),
            "reason": self.reason,
            "cached": self.cached,
            "warnings": list(self.warnings),
        }


class Reporter(Protocol):
    """Hears how the build gets on."""

    def step(self, text: str, done: int, total: int) -> None:
        """A step's progress; total 0 means that it is not known."""
        ...

    def row(self, row: Row) -> None:
        """An engine is finished."""
        ...


def row_of(entry: Entry, cached: bool = False) -> Row:
    """The row of a published engine."""
    m = entry.manifest
    return Row(
        model=m.model,
        target=m.target,
        variant=m.variant,
        state=m.state,
        key=m.key,
        size_bytes=m.size_bytes,
        quantized_mac_share=m.quantized_mac_share,
        accuracy=m.accuracy,
        build_seconds=m.build_seconds,
        peak_rss_bytes=m.peak_rss_bytes,
        path=entry.path,
        reason=m.reason,
        cached=cached,
        latency=m.latency,
        warnings=m.warnings,
    )


def attempted(identity: Identity, make: Callable[[], Entry]) -> Row:
    """Make and publish one engine; what goes wrong costs this one and becomes its row."""
    start = time.perf_counter()
    try:
        return row_of(make())
    except EdgeError as e:
        error = e
    except OSError as e:
        what = f"cannot build {identity.target}/{identity.variant}"
        error = RuntimeFault(what, e.strerror or str(e), "check the disk, and build again")
    except Exception as e:  # a fault of ours
        log.exception("building %s/%s", identity.target, identity.variant)
        what = f"cannot build {identity.target}/{identity.variant}"
        error = RuntimeFault(what, f"{type(e).__name__}: {e}", "please report it")
    return failed_row(identity, error, time.perf_counter() - start)


def failed_row(identity: Identity, error: EdgeError, seconds: float = 0.0) -> Row:
    """The row of an engine that was not published."""
    return Row(
        *identity[:3],
        state="failed",
        key=identity.key,
        size_bytes=0,
        quantized_mac_share=0.0,
        accuracy=error.accuracy if isinstance(error, GateError) else None,
        build_seconds=seconds,
        peak_rss_bytes=peak_rss(),
        path=None,
        reason=f"{error.what}: {error.why}" if error.why else error.what,
        error=error,
    )
