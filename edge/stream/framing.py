"""What a source has read becomes a frame of its feed, or is left out: region, health, rate."""

from __future__ import annotations

import logging
import time

from edge.backends import Lender
from edge.sources import Picture
from edge.stream.feed import Feed
from edge.stream.life import State
from edge.stream.limit import crop
from edge.stream.thumb import Glance
from edge.types import Frame

log = logging.getLogger("edge.stream")


def make_frame(
    feed: Feed, picture: Picture, times: tuple[float, float, float], lender: Lender | None
) -> Frame | None:
    """The feed's next frame; None where it is left out, which is counted. The feed's lock is held.

    Args:
        times: when it was captured, by `time.perf_counter()` and as UNIX seconds; how long reading it took.
        lender: whose memory the image is to be in.
    """
    captured, captured_at, read_seconds = times
    image = picture.image
    now = feed.last_arrived = time.perf_counter()
    feed.first_captured = captured if feed.first_captured is None else feed.first_captured
    grey = image if picture.luma is None else picture.luma
    if feed.settings.roi is not None:
        image, grey = crop(image, feed.settings.roi), crop(grey, feed.settings.roi)
    glance = Glance(grey, picture.narrow)
    flags = picture.flags
    if feed.health is not None:
        seen = feed.health.look(glance, now)
        _tell_health(feed, seen)
        if seen and feed.settings.health.withhold:
            _leave_out(feed, "unusable", picture)
            return None
        flags = (*flags, *seen)
    dense = feed.alarm is not None and feed.alarm.active(now)
    if feed.limit is not None and not feed.limit.allows(captured) and not dense:
        _leave_out(feed, "limited", picture)
        return None
    number, feed.reader_count = feed.reader_count, feed.reader_count + 1
    return Frame(
        feed.name,
        number,
        image if lender is None else lender.copy(image),
        picture.pts,
        captured,
        captured_at,
        read_seconds,
        picture.meta,
        picture.truth,
        flags,
        glance.thumb if feed.gate is not None else None,
        picture.volume,
    )


def _leave_out(feed: Feed, cause: str, picture: Picture) -> None:
    feed.discard(cause)
    feed.miss(picture.meta, cause)


def _tell_health(feed: Feed, flags: tuple[str, ...]) -> None:
    """The state that the pictures show."""
    assert feed.health is not None
    state: State = "frozen" if "frozen" in flags else "black" if "black" in flags else "live"
    if feed.life.state != state and feed.life.to(state, feed.health.reason if flags else ""):
        if state == "live":
            log.info("%s: live", feed.name)
        else:
            log.warning("%s: %s: %s", feed.name, state, feed.life.now.reason)
