"""`edge run`: stream feeds through an engine."""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.cli.patients import look_for_text, privacy_of
from edge.cli.status import following
from edge.cli.stopping import stopping
from edge.cli.stream_options import stream_config
from edge.errors import EdgeError, InputError, RuntimeFault, UsageError

if TYPE_CHECKING:
    from edge.dicom.delivery.destination import Destination
    from edge.sinks import FeedInfo, Sink
    from edge.stream.config import EngineConfig, StreamConfig
    from edge.stream.feed import Feed
    from edge.stream.network import Network

SWITCH_SECONDS = 0.5e-3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `edge run`."""
    _add_feed_options(parser.add_argument_group("model, feeds and results"))
    _add_engine_options(parser.add_argument_group("how the engine runs"))


def _add_feed_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--model", metavar="NAME", help="a model in the engine store")
    add(
        "--source",
        metavar="URI",
        action="append",
        default=[],
        help="a video, image folder, DICOM file or folder, dicom+scp://HOST:PORT?spool=DIR, camera:N, "
        "csi:N, rtsp://…, http://…, gst:PIPELINE "
        "or test:text?size=640x480&fps=30&frames=300&seed=1; NAME=URI names the feed; may be repeated",
    )
    add(
        "--config",
        type=Path,
        metavar="TOML",
        help="a config, or the name of one in configs/streams/",
    )
    add(
        "--sink",
        metavar="URI",
        action="append",
        default=[],
        help="jsonl:PATH, jsonl:- (standard output), video:PATH, triage:PATH, display: or null:; archives "
        "that received objects are answered to are dicom+scu://TITLE@HOST:PORT or stow+https://HOST/PATH; "
        "may be repeated",
    )
    add("--frames", type=_positive, metavar="N", help="read at most N frames of each feed")
    add("--realtime", action="store_true", help="let frames fall due at the feed's own rate")
    add(
        "--give-up",
        type=_positive_float,
        metavar="S",
        help="end a feed that is gone this long (default: never)",
    )
    add("--max-age-ms", type=_positive_float, metavar="MS", help="drop frames of live feeds older than this")
    add(
        "--privacy",
        choices=["pseudonym", "full", "none"],
        help="what DICOM objects are called in results: pseudonyms (full: under a key that nobody keeps), or "
        "their UIDs and file names (none)",
    )
    add("--privacy-key", type=Path, metavar="FILE", help="the key for pseudonyms; made where it is absent")
    add("--summary", type=Path, metavar="FILE", help="write the summary as JSON")
    add("--json", action="store_true", help="print the summary as JSON on standard output")


def _add_engine_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--target", help="whose engine to run (default: the best that this machine can run)")
    add("--variant", help="which engine of the target (default: fast; with onnxruntime_cuda: exact)")
    add("--engines", type=Path, metavar="DIR", help="the engine store (default: engines)")
    add(
        "--backend",
        choices=["null", "onnxruntime", "onnxruntime_cuda"],
        help="instead of the engine's own runtime: onnxruntime_cuda runs ONNX engines on a GPU without "
        "TensorRT; null runs without an engine, to measure the runner",
    )
    add("--gpu", type=_whole, metavar="N", help="which GPU (default: the first that the engine is for)")
    add("--threads", type=_positive, metavar="N", help="processor threads (default: all)")
    add(
        "--spin",
        action="store_true",
        default=None,
        help="keep them awake between the frames of live feeds: sooner results, a busy core",
    )
    add("--slots", type=_slots, metavar="N", help="batches in flight, 1 to 4 (default: 2 or 3)")
    add("--batch", type=_positive, metavar="N", help="most frames of one inference (default: 1)")
    add(
        "--batch-wait-ms",
        type=_positive_float,
        metavar="MS",
        help="how long a frame waits for others of its batch (default: 2)",
    )
    add(
        "--latency-ms",
        type=_positive_float,
        metavar="MS",
        help="target from frame to result: batches shrink while it is missed",
    )
    add("--serial", action="store_true", help="one frame after the other, to debug")


def run(args: argparse.Namespace) -> int:
    """Stream to the end of all feeds, or until SIGINT or SIGTERM.

    Raises:
        UsageError: arguments contradict each other or name what is not there.
        InputError: a source or sink cannot be opened, or nothing could be read.
        StoreError, RuntimeFault: the engine cannot be loaded.
    """
    stream, archives = _archives(stream_config(args))
    _check(args, stream)
    stop = threading.Event()
    with ExitStack() as opened, ExitStack() as unread, stopping(stop):
        privacy = privacy_of(stream)
        feeds = _open_feeds(stream, unread)
        look_for_text(stream, feeds, privacy, _read_paths(stream), opened)
        _check_outputs(args, stream, feeds)
        network = _open_network(stream.engine, any(feed.live for feed in feeds), args.serial)
        opened.callback(network.close)
        if network.reads_volumes:
            for feed in feeds:
                feed.give_volumes()
        if archives:
            from edge.dicom.answering import connect

            connect(feeds, archives, network.precision)
        network.warm_up()
        if network.engine.takes_pictures:
            # Driver calls let go of Python's lock; a reader in pure Python would hold on to it for 5 ms.
            sys.setswitchinterval(SWITCH_SECONDS)
        sinks = _open_sinks(stream, feeds)  # last: opening a file empties it
        from edge.stream.run import Run

        target = stream.engine.latency_ms
        latency = target / 1e3 if target else None
        running = Run(network, feeds, sinks, args.frames, args.serial, stop, latency, privacy=privacy)
        for feed in feeds:
            if told := getattr(feed.source, "told", ""):
                print(f"{feed.name}: {told}; Ctrl-C ends the run", file=sys.stderr)
        unread.pop_all()  # from here on the run closes its sources, except one that hangs in a read
        with following(running):
            summary = running.go()
    _report(args, summary.data)
    return summary.exit_code


def _archives(stream: StreamConfig) -> tuple[StreamConfig, list[Destination]]:
    """The config without those of its sinks that are archives, and these.

    Raises:
        UsageError: an address is wrong.
    """
    from edge.dicom.delivery.destination import OPENERS, destination

    apart = [sink.to.partition(":")[0] in OPENERS for sink in stream.sinks]
    archives = [destination(sink.to) for sink, is_one in zip(stream.sinks, apart, strict=True) if is_one]
    others = tuple(sink for sink, is_one in zip(stream.sinks, apart, strict=True) if not is_one)
    return stream.model_copy(update={"sinks": others}), archives


def _check(args: argparse.Namespace, stream: StreamConfig) -> None:
    if stream.engine.backend != "null" and not stream.engine.model:
        raise UsageError("edge run: no --model", "", "--model NAME, or --backend null")
    if args.json and any(sink.to.partition("?")[0] == "jsonl:-" for sink in stream.sinks):
        raise UsageError("--json and --sink jsonl:-", "both write to standard output", "use --summary FILE")
    if args.summary is not None:
        _check_writable(args.summary)


def _check_writable(path: Path) -> None:
    """Fail before the run instead of after it; leaves no file behind that was not there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        path.open("a").close()
        if new:
            path.unlink()
    except OSError as e:
        raise InputError(f"cannot write {path}", e.strerror or str(e), "check the path") from e


def _open_feeds(stream: StreamConfig, opened: ExitStack) -> list[Feed]:
    """Files are opened at once; what may come and go is only checked."""
    from edge.stream.feed import open_feed

    feeds: list[Feed] = []
    for config in stream.feeds:
        feeds.append(open_feed(config, [feed.name for feed in feeds]))
        opened.callback(feeds[-1].close)
    return feeds


def _infos(feeds: list[Feed]) -> list[FeedInfo]:
    from edge.sinks import FeedInfo

    return [FeedInfo(feed.name, feed.fps) for feed in feeds]


def _check_outputs(args: argparse.Namespace, stream: StreamConfig, feeds: list[Feed]) -> None:
    """Refuse an output that would replace what is read, or what another output writes."""
    read = _read_paths(stream)
    taken: dict[Path, str] = {}
    for name, path in _outputs(args, stream, feeds):
        if path.absolute().is_relative_to("/dev"):
            continue
        file = path.resolve()
        for source in read:
            if _same(file, source) or source in file.parents:
                where = "is a source" if _same(file, source) else f"lies inside the source {source}"
                raise UsageError(
                    f"cannot write {path}", f"it {where} of this run", f"give {name} another path"
                )
        other = next((taken[t] for t in taken if _same(file, t)), None)
        if other is not None:
            raise UsageError(f"cannot write {path} twice", f"{other} writes it too", "give each its own path")
        taken[file] = name


def _read_paths(stream: StreamConfig) -> list[Path]:
    """Files and folders that the feeds read."""
    from edge.sources import PATH_KINDS, locate

    located = [locate(feed.source) for feed in stream.feeds]
    return [address.path.resolve() for kind, address in located if kind in PATH_KINDS]


def _outputs(args: argparse.Namespace, stream: StreamConfig, feeds: list[Feed]) -> Iterator[tuple[str, Path]]:
    """What writes, and where to."""
    from edge.sinks import outputs

    for sink in stream.sinks:
        for path in outputs(sink.to, _infos(feeds)):
            yield f"--sink {sink.to}", path
    if args.summary is not None:
        yield "--summary", args.summary


def _same(one: Path, other: Path) -> bool:
    """Whether both name one file, be it by a hard link or in another case."""
    try:
        return one == other or one.samefile(other)
    except OSError:  # one of them does not exist yet
        return False


def _open_network(engine: EngineConfig, live: bool, serial: bool) -> Network:
    from edge.store import Store
    from edge.stream.network import engine_options, find_engine, null_network, open_network

    patience = engine.batch_wait_ms / 1e3
    if engine.backend == "null":
        return null_network(batch=engine.batch, patience=patience)
    assert engine.model is not None
    variant = engine.variant or ("exact" if engine.backend == "onnxruntime_cuda" else "fast")
    entry = find_engine(Store(engine.engines), engine.model, engine.target, variant, engine.backend)
    options = engine_options(engine.threads or 0, live, serial, engine.spin)
    options = replace(options, gpu=engine.gpu, batch=engine.batch)
    network = open_network(entry, options, engine.slots, patience, engine.backend)
    if network.batch < engine.batch:
        takes = network.batch
        network.close()
        raise UsageError(
            f"--batch {engine.batch}: {entry.manifest.address} takes {takes} at a time",
            "its graph was built for that",
            f"build it with `batch = [1, {engine.batch}, {engine.batch}]` under [profile]",
        )
    return network


def _open_sinks(stream: StreamConfig, feeds: list[Feed]) -> list[tuple[str, Sink]]:
    from edge.sinks import open_sink
    from edge.sinks.triage import TriageFile
    from edge.triage import Rules

    infos = _infos(feeds)
    sinks: list[tuple[str, Sink]] = []
    try:
        for sink in stream.sinks:
            opened = open_sink(sink.to, infos, sink.policy)
            if isinstance(opened, TriageFile):
                opened.use(Rules(stream.triage.urgent))
            sinks.append((sink.to, opened))
    except EdgeError:
        for _, before in sinks:
            before.close()
        raise
    return sinks


def _report(args: argparse.Namespace, data: dict[str, Any]) -> None:
    text = json.dumps(data, indent=1)
    if args.json:
        print(text)
    else:
        from edge.stream.show import show

        show(data)
    if args.summary is not None:
        try:
            args.summary.write_text(text + "\n", encoding="utf-8")
        except OSError as e:
            why = e.strerror or str(e)
            raise RuntimeFault(f"cannot write {args.summary}", why, "free some space") from e


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return value


def _whole(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below zero")
    return value


def _slots(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 4:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to 4")
    return value


def _positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return value
