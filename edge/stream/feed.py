"""One feed: where its frames come from, and what is known about them."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from edge.address import without_password
from edge.errors import UsageError
from edge.sources import Outcomes, Source, describe, feed_names, open_source, require
from edge.stream.admission import Account, Lane
from edge.stream.alarm import Alarm
from edge.stream.burned_in import BurnedIn
from edge.stream.config import FeedConfig, FeedSettings
from edge.stream.health import Health
from edge.stream.life import Lag, Life
from edge.stream.limit import RateLimit
from edge.stream.metrics import Histogram, StageTimes
from edge.stream.motion import MotionGate
from edge.types import Payload

Opener = Callable[[], Source]


class Feed:
    """A source under a name that is unique in the run.

    Args:
        uri: its address, as it may be shown.
        source: opened; None for a feed that comes and goes.
        max_age: seconds; older frames of a live feed are dropped.
        settings: of the feed; `max_age` goes before theirs.
        opener: makes a new source whenever the feed has to be looked for.
        place: host and port that answer when it is there again.

    Attributes:
        ended: how it ended: `end`, `limit` (--frames), `shutdown`, `removed`, `truncated`, `lost` (a camera
            that nobody looks for again), `failed`, `fault`; None while it runs.
        reader_count: frames as the reader counted them, apart from the account, to prove it at the end.
        last, found_in: the newest finding, and the number of its frame.
        looked_at: the number of the newest frame that was to be run; None where it failed.
    """

    def __init__(
        self,
        name: str,
        uri: str,
        source: Source | None,
        max_age: float | None = None,
        settings: FeedSettings | None = None,
        opener: Opener | None = None,
        place: tuple[str, int] | None = None,
    ) -> None:
        if (source is None) is (opener is None):
            raise UsageError(f"feed {name}", "it needs a source or an opener, not both")
        self.name, self.uri, self.source = name, uri, source
        self.opener, self.place = opener, place
        self.settings = settings = settings or FeedSettings()
        if max_age is None and settings.max_age_ms is not None:
            max_age = settings.max_age_ms / 1e3
        self.live = source.live if source else True
        self.fps = source.fps if source else None
        self.truth_kind = source.truth_kind if source else None
        self.private = bool(getattr(source, "private", False))
        self.burned_in: BurnedIn | None = None
        """Looks for text in its pictures; set before the run."""
        self.outcomes: Outcomes | None = getattr(source, "outcomes", None)
        self.account = Account()
        self.lane = Lane(self.live, max_age, self.account)
        self.times = StageTimes()
        self.lateness = Histogram()
        self.flags: Counter[str] = Counter()
        self.life = Life()
        self.lag = Lag()
        self.health = Health(settings.health) if self.live else None
        self.limit = RateLimit(settings.fps, settings.stride) if settings.fps or settings.stride > 1 else None
        self.gate = MotionGate(settings.motion) if settings.motion else None
        self.alarm = Alarm(settings.alarm) if settings.alarm else None
        self.lock = threading.Lock()
        """Held while a frame is handed in, so that a reader that was given up hands in no more."""
        self.removed = threading.Event()
        self.reader_count = 0
        self.ended: str | None = None
        self.error: str | None = None
        self.begun: float | None = None
        """When it was first looked for, `time.perf_counter()` seconds."""
        self.first_captured: float | None = None
        self.last_arrived: float | None = None
        self.last_delivered: float | None = None
        self.last: Payload | None = None
        self.found_in: int | None = None
        self.looked_at: int | None = None
        self.given_up = 0
        """Reads that never came back; their threads were left behind."""

    def patience(self, now: float) -> float:
        """Seconds left until it is given up; infinity where it never is."""
        give_up = self.settings.reconnect.give_up_s
        since = self.last_arrived or self.begun or now
        return math.inf if give_up is None else since + give_up - now

    def discard(self, cause: str, frames: int = 1) -> None:
        """Frames that were read and go no further."""
        for _ in range(frames):
            self.reader_count += 1
            self.account.read()
            self.account.drop(cause)

    def lose(self) -> None:
        """A frame that could not be read."""
        self.reader_count += 1
        self.account.read()
        self.account.fail("capture")

    def give_volumes(self) -> None:
        """Before the run: its source is to give whole series instead of pictures.

        Raises:
            UsageError: it has none.
        """
        if self.source is not None:
            self.source = _as_volumes(self.source, self.name)
            self.fps = self.source.fps
        elif (opener := self.opener) is not None:
            self.opener = lambda: _as_volumes(opener(), self.name)

    def miss(self, meta: Mapping[str, Any], cause: str, error: Exception | None = None) -> None:
        """Tell a source that wants to know that a frame of it ends without a result."""
        if self.outcomes is not None:
            self.outcomes.missed(meta, cause, error)

    def close(self) -> None:
        """Give back what outlives the reader; before a run, the source too."""
        if self.begun is None and self.source is not None:
            self.source.close()
        if self.outcomes is not None:
            self.outcomes.close()


def _as_volumes(source: Source, name: str) -> Source:
    if not hasattr(source, "volumes"):
        raise UsageError(
            f"feed {name} gives pictures", "the model reads volumes", "give a folder of DICOM slices"
        )
    volumes: Source = source.volumes()
    return volumes


def open_feed(config: FeedConfig, taken: Sequence[str] = ()) -> Feed:
    """A feed as a config says. A file is opened at once; what may come and go is only checked.

    Args:
        taken: names of the run's other feeds; one that is made from the address differs from them.

    Raises:
        UsageError: the address is wrong.
        InputError: it cannot be opened.
        MissingPackage: reading it needs one that is not installed.
    """
    absent = describe(config.source)
    if absent is not None:
        require(config.source)
        name = feed_names([*taken, config.name or absent.label])[-1]
        opener = partial(open_source, config.source, config.realtime)
        return Feed(name, absent.shown, None, settings=config, opener=opener, place=absent.place)
    source = open_source(config.source, config.realtime)
    name = feed_names([*taken, config.name or source.label])[-1]
    feed = Feed(name, without_password(config.source), source, settings=config)
    if feed.outcomes is not None and config.roi is not None:
        feed.close()
        raise UsageError(f"feed {name}: roi", "what is answered is the whole picture", "leave roi out")
    return feed
