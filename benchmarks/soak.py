"""Do live feeds survive what happens to cameras, for as long as it happens, without a frame unaccounted for?

    make soak MINUTES=30
    python benchmarks/soak.py [--minutes 30] [--seed 1] [--out out]

Six feeds of three real RTSP servers and two synthetic ones go through an engine that takes 4 ms a frame, into
lines that rotate. The servers are killed, restarted and frozen; their feeds pause, crawl, stand still, turn
black and arrive damaged: at random, but the same for the same seed, every kind in turn. Once a second age,
states, memory, threads and open files are noted. Violated is: a frame without a fate or without its line, a
fault that no state shows, a feed that is not live again, a synthetic feed that suffers, old results in calm
seconds, and memory, threads or files that grow.

Writes soak.json and soak.png. Exit status: 0 nothing was violated; 1 something was.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import arguments, report
from feeds.faults import SHOWS, Done, Weather, schedule
from feeds.soak_figure import draw
from feeds.stage import RtspServer, Size, Streaming, all_live, need_server, network_feed, rtsp, streaming
from feeds.watching import (
    Reaction,
    Watcher,
    calm_ages_ms,
    columns,
    growth,
    reactions,
    share_of,
    violations,
)

from edge.sinks import open_sink
from edge.sources import open_source
from edge.stream.config import FeedSettings, MotionConfig
from edge.stream.feed import Feed
from edge.stream.network import null_network

SERVERS, CODECS = 3, ("h264", "jpeg")
MOUNTS = len(CODECS)
SIZE, FPS = (320, 240), 10.0
ENGINE_MS = 4.0
SYNTHETIC = "test:text?size=320x240&fps=15&frames=0&seed={}"
SETTINGS = {
    "cam0": FeedSettings(motion=MotionConfig()),
    "cam1": FeedSettings(fps=5.0),
    "cam2": FeedSettings(stride=2),
    "cam3": FeedSettings(roi=(0.25, 0.25, 0.5, 0.5)),
    "cam4": FeedSettings(max_age_ms=200.0),
}
"""What feeds are set to, so that all of it is soaked; the others are as they are."""
CALM_S, LAST_S = 12.0, 20.0
"""Seconds without faults at the beginning and at the end."""


def servers(folder: Path, opened: ExitStack) -> tuple[list[RtspServer], list[str]]:
    """Running servers, and the paths of the mounts that each of them has."""
    pictures = rtsp.clip(folder / "clip", SIZE)
    paths = [f"/{number}" for number in range(MOUNTS)]
    mounts = [
        rtsp.mount(path, pictures, codec=codec, size=SIZE, fps=FPS, gop=10)
        for path, codec in zip(paths, CODECS, strict=True)
    ]
    running = []
    for number in range(SERVERS):
        place = folder / str(number)
        place.mkdir()
        running.append(opened.enter_context(RtspServer(place, mounts)))
    return running, paths


def make_feeds(running: list[RtspServer], paths: list[str]) -> tuple[list[list[str]], list[Feed], list[str]]:
    """Names by server and mount, all feeds, and the names of those that nothing is done to."""
    names = [[f"cam{MOUNTS * server + mount}" for mount in range(MOUNTS)] for server in range(SERVERS)]
    feeds = [
        network_feed(name, server.url(path), SETTINGS.get(name))
        for server, of_server in zip(running, names, strict=True)
        for name, path in zip(of_server, paths, strict=True)
    ]
    witnesses = ["test0", "test1"]
    for number, name in enumerate(witnesses):
        uri = SYNTHETIC.format(number + 1)
        feeds.append(Feed(name, uri, open_source(uri, realtime=True)))
    return names, feeds, witnesses


def watch(streaming: Streaming, weathers: list[Weather], names: list[list[str]], seconds: float) -> Watcher:
    """Note every second until the time is over."""
    watcher = Watcher(streaming.feeds, time.perf_counter())
    for weather in weathers:
        weather.begin(watcher.start)
    while (at := time.perf_counter() - watcher.start) < seconds:
        time.sleep(max(0.0, len(watcher.rows) + 1 - at))
        troubled = set[str]()
        for weather, of_server in zip(weathers, names, strict=True):
            if (fault := weather.under_way) is not None:
                troubled |= set(of_server) if fault.mount is None else {of_server[fault.mount]}
        watcher.look(troubled)
        if len(watcher.rows) % 60 == 0:
            print(_status(watcher), flush=True)
    for weather in weathers:
        weather.finish()
    return watcher


def _status(watcher: Watcher) -> str:
    row = watcher.rows[-1]
    states = ", ".join(f"{count} {state}" for state, count in Counter(row.states).items())
    size = row.size
    return (
        f"{row.at / 60:4.0f} min  {states}  {size.rss / 2**20:.1f} MiB, {size.threads} threads, "
        f"{size.descriptors} files"
    )


def lines_by_feed(folder: Path) -> Counter[str]:
    """How many result lines each feed has, in all files together."""
    lines = Counter[str]()
    for file in folder.glob("results*.jsonl"):
        with file.open(encoding="utf-8") as opened:
            lines.update(json.loads(line)["feed"] for line in opened)
    return lines


def soak(seconds: float, seed: int, results: Path) -> dict[str, Any]:
    """Run it; all that there is to say about it."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        running, paths = servers(Path(folder), opened)
        names, feeds, witnesses = make_feeds(running, paths)
        planned = schedule(seed, CALM_S, seconds - LAST_S, SERVERS, MOUNTS)
        weathers = [
            Weather(server, paths, [fault for fault in planned if fault.server == number])
            for number, server in enumerate(running)
        ]
        uri = f"jsonl:{results / 'results.jsonl'}?rotate_mb=2&fsync=rotate"
        before = Size.now()
        with streaming(feeds, null_network(f"delay_ms={ENGINE_MS:g}"), [(uri, open_sink(uri, []))]) as run:
            all_live(feeds)
            watcher = watch(run, weathers, names, seconds)
            summary = run.stop()
        time.sleep(1.0)  # threads that were left behind end with their reads
        after = Size.now()
    done = sorted((event for weather in weathers for event in weather.done), key=lambda event: event.began)
    found, grown = reactions(done, names, watcher), growth(watcher.rows)
    wrong = violations(watcher, found, grown, witnesses)
    lines = lines_by_feed(results)
    for feed in summary.data["feeds"]:
        if lines[feed["feed"]] != feed["delivered"]:
            wrong.append(f"{feed['feed']}: {feed['delivered']} results, {lines[feed['feed']]} lines")
    if summary.exit_code:
        wrong.append(f"the run ended with {summary.exit_code}: {summary.data['faults']} faults")
    if after.descriptors > before.descriptors or after.threads > before.threads:
        wrong.append(f"after the run {after} is left, before it was {before}")
    return {
        "figures": figures(seconds, summary.data, watcher, done, found, grown, wrong),
        "feeds": summary.data["feeds"],
        "sinks": summary.data["sinks"],
        "faults": [
            asdict(event.fault) | {"began": event.began, "ended": event.ended, "feeds": _struck(event, names)}
            for event in done
        ],
        "reactions": [asdict(reaction) for reaction in found],
        "changes": {name: [asdict(c) for c in changes] for name, changes in watcher.changes.items()},
        "started": time.time() - (time.perf_counter() - watcher.start),
        "every_second": columns(watcher),
    }


def _struck(event: Done, names: list[list[str]]) -> list[str]:
    of_server, mount = names[event.fault.server], event.fault.mount
    return of_server if mount is None else [of_server[mount]]


def figures(
    seconds: float,
    summary: dict[str, Any],
    watcher: Watcher,
    done: list[Done],
    found: list[Reaction],
    grown: dict[str, float],
    wrong: list[str],
) -> dict[str, Any]:
    """What a reader wants to know first."""
    ages = calm_ages_ms(watcher.rows)
    quarter = max(1, len(ages) // 4)
    return {
        "minutes": seconds / 60,
        "faults": dict(Counter(event.fault.kind for event in done)),
        "captured": sum(feed["captured"] for feed in summary["feeds"]),
        "delivered": sum(feed["delivered"] for feed in summary["feeds"]),
        "without_a_fate": sum(feed["in_flight"] for feed in summary["feeds"]),
        "noticed_s": _worst(found, "noticed"),
        "live_again_s": _worst(found, "back"),
        "calm_age_p99_ms": {
            "median": statistics.median(ages),
            "p99": share_of(ages, 0.99),
            "first_quarter": statistics.median(ages[:quarter]),
            "last_quarter": statistics.median(ages[-quarter:]),
        },
        **grown,
        "cpu_cores": summary["cpu_seconds"] / summary["seconds"],
        "violations": wrong,
    }


def _worst(found: list[Reaction], what: str) -> dict[str, dict[str, float]]:
    """Median and longest of each kind of fault."""
    result = {}
    for kind in SHOWS:
        values = [getattr(r, what) for r in found if r.kind == kind and getattr(r, what) is not None]
        if values:
            result[kind] = {"median": statistics.median(values), "longest": max(values)}
    return result


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="default: 30")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for soak.json and soak.png")
    args = parser.parse_args()
    need_server()
    results = args.out / "soak"
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    record = soak(60 * args.minutes, args.seed, results)
    (args.out / "soak.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    draw(args.out / "soak.png", record)
    report("soak", record["figures"], args.json)
    sys.exit(bool(record["figures"]["violations"]))


if __name__ == "__main__":
    main()
