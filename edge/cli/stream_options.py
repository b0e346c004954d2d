"""What is to be streamed, from a stream's config and from the command line; the command line goes first."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from edge.errors import UsageError
from edge.sources import exists
from edge.stream.config import FeedConfig, SinkConfig, StreamConfig, load_stream

ENGINE = (
    "model", "target", "variant", "backend", "engines", "threads", "gpu", "slots", "batch", "batch_wait_ms",
    "latency_ms", "spin",
)  # fmt: skip
"""Options that are keys of [engine]."""

_NAMED = re.compile(r"([A-Za-z0-9][\w-]*)=(.+)", re.DOTALL)


def stream_config(args: argparse.Namespace) -> StreamConfig:
    """The config that the options mean.

    Raises:
        UsageError, ConfigError, InputError: it cannot be read, or there is nothing to stream.
    """
    config = load_stream(args.config) if args.config else StreamConfig()
    given = {name: getattr(args, name) for name in ENGINE if getattr(args, name) is not None}
    engine = config.engine.model_copy(update=given)
    feeds = [*config.feeds, *(_feed(text, config) for text in args.source)]
    if not feeds:
        raise UsageError("nothing to stream", "", "--source ADDRESS, or --config with [[feeds]]")
    settings: dict[str, Any] = {}
    if args.realtime:
        settings["realtime"] = True
    if args.max_age_ms is not None:
        settings["max_age_ms"] = args.max_age_ms
    feeds = [feed.model_copy(update=settings | _give_up(feed, args.give_up)) for feed in feeds]
    told = {
        name: getattr(args, name) for name in ("privacy", "privacy_key") if getattr(args, name) is not None
    }
    sinks = [*config.sinks, *(SinkConfig(to=uri) for uri in args.sink)]
    return config.model_copy(update={"engine": engine, "feeds": tuple(feeds), "sinks": tuple(sinks), **told})


def _give_up(feed: FeedConfig, seconds: float | None) -> dict[str, Any]:
    if seconds is None:
        return {}
    return {"reconnect": feed.reconnect.model_copy(update={"give_up_s": seconds})}


def _feed(text: str, config: StreamConfig) -> FeedConfig:
    """`NAME=ADDRESS` or an address; everything else as under [defaults]."""
    named = _NAMED.fullmatch(text)
    name, source = (named[1], named[2]) if named and not exists(Path(text)) else ("", text)
    defaults = {key: getattr(config.defaults, key) for key in config.defaults.model_fields_set}
    return FeedConfig(name=name, source=source, **defaults)
