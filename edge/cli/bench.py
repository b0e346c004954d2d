"""`edge bench`: how long an engine takes on this machine, without a stream around it.

On a GPU batches are kept in flight as `edge run` does it, so that one is copied while another executes; what
a second brings is counted by the clock, copies and preprocessing included. On a processor one inference
follows the other.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.errors import InputError, UsageError, nearest

if TYPE_CHECKING:
    from edge.backends import Slot
    from edge.manifest import Entry
    from edge.stream.network import Network

REFERENCE = "exact"
"""The variant that the others are compared with, if it was built."""

WARM_UP = 10
ROUND_SECONDS = 0.3
"""An engine's turn before the next one's: short, so that a machine whose speed drifts treats all alike."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `edge bench`."""
    add = parser.add_argument
    add("--model", metavar="NAME", required=True, help="a model in the engine store")
    add("--target", help="whose engines (default: the best that this machine can run)")
    add("--variant", default="all", help="one variant, or all (default: %(default)s)")
    add("--seconds", type=float, default=5.0, help="time for each engine (default: %(default)g)")
    add("--threads", type=int, default=0, metavar="N", help="processor threads (default: all)")
    add("--gpu", type=int, metavar="N", help="which GPU (default: the first that the engine is for)")
    add("--engines", type=Path, metavar="DIR", default=Path("engines"), help="the engine store")
    add("--json", metavar="FILE", help="write the rows as JSON; - for standard output")


def run(args: argparse.Namespace) -> int:
    """Measure the engines in turns and print a table.

    Raises:
        UsageError: an argument is wrong, or there is no such engine.
        StoreError, RuntimeFault: an engine cannot be loaded.
    """
    if args.seconds <= 0 or min(args.threads, args.gpu or 0) < 0:
        given = f"--seconds {args.seconds:g} --threads {args.threads}"
        given += f" --gpu {args.gpu}" if args.gpu is not None else ""
        raise UsageError(given, "below the least possible")
    lanes: list[Lane] = []
    with ExitStack() as opened:
        for entry in _engines(args):
            network = _open(entry, args.threads, args.gpu)
            opened.callback(network.close)
            lanes.append(Lane(entry, network))
        measure(lanes, args.seconds)
    rows = [row(lane, lanes) for lane in lanes]
    if args.json:
        _write(rows, args.json)
    if args.json != "-":
        _show(rows)
    return 0


@dataclass
class Lane:
    """One engine under test.

    Attributes:
        seconds: how long each of its batches executed.
        spent: seconds of all its turns together.
    """

    entry: Entry
    network: Network
    slots: list[Slot] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    spent: float = 0.0

    @property
    def rate(self) -> float:
        """Samples a second: by the clock where several batches are in flight, else by their execution."""
        spent = self.spent if len(self.slots) > 1 else sum(self.seconds)
        return len(self.seconds) * self.network.batch / spent


def _engines(args: argparse.Namespace) -> list[Entry]:
    from edge.store import Store
    from edge.stream.network import find_engine

    store = Store(args.engines)
    if args.variant != "all":
        return [find_engine(store, args.model, args.target, args.variant)]
    variants = sorted({entry.manifest.variant for entry in store.entries(args.model)})
    if not variants:
        models = {entry.manifest.model for entry in store.entries()}
        why = f"nothing was built for it; {nearest(args.model, models)}" if models else "the store is empty"
        fix = f"edge build --model {args.model} --targets local"
        raise UsageError(f"no engine of '{args.model}' in {args.engines}", why, fix)
    target = args.target or find_engine(store, args.model, None, variants[0]).manifest.target
    here = [v for v in variants if store.current(args.model, target, v) is not None] or variants[:1]
    return [find_engine(store, args.model, target, variant) for variant in here]


def _open(entry: Entry, threads: int, gpu: int | None) -> Network:
    from edge.backends import EngineOptions
    from edge.machine import usable_cores
    from edge.stream.network import open_network

    return open_network(entry, EngineOptions(threads=threads or usable_cores(), gpu=gpu))


def measure(lanes: list[Lane], seconds: float) -> None:
    """Run every engine for `seconds`, in short turns, on the same noise picture."""
    for lane in lanes:
        lane.slots = _prepared(lane.network)
        for slot in lane.slots:
            for _ in range(WARM_UP):
                slot.submit()
                slot.wait()
    spent = 0.0
    while spent < seconds:
        turn = min(ROUND_SECONDS, seconds)
        for lane in lanes:
            _take_turn(lane, turn)
        spent += turn


def _take_turn(lane: Lane, seconds: float) -> None:
    """Keep all slots of an engine in flight for so long."""
    start = time.perf_counter()
    for slot in lane.slots:
        slot.submit()
    in_flight = deque(lane.slots)
    while in_flight:
        slot = in_flight.popleft()
        slot.wait()
        lane.seconds.append(slot.infer_seconds)
        if time.perf_counter() - start < seconds:
            slot.submit()
            in_flight.append(slot)
    lane.spent += time.perf_counter() - start


def _prepared(network: Network) -> list[Slot]:
    """Slots whose inputs hold noise: zeros would make sparse activations that no camera gives."""
    import numpy as np

    from edge.types import Frame

    slots = network.slots() if network.engine.takes_pictures else [network.slot()]
    random = np.random.default_rng(0)
    if network.reads_volumes:
        for slot in slots:
            random.random(dtype=np.float32, out=slot.inputs[network.input_name])
        return slots
    image = random.integers(0, 256, (480, 640, 3), np.uint8)
    for slot in slots:
        network.prepare(Frame("bench", 0, image, None, 0.0, 0.0), slot)
    return slots


def row(lane: Lane, lanes: list[Lane]) -> dict[str, Any]:
    """The figures of one engine: milliseconds that a batch executes, their median as a part of the exact
    engine's, and samples a second (`Lane.rate`)."""
    import numpy as np

    manifest = lane.entry.manifest
    p50, p95, p99 = (1e3 * float(np.percentile(lane.seconds, q)) for q in (50, 95, 99))
    exact = next((other for other in lanes if other.entry.manifest.variant == REFERENCE), None)
    return {
        "model": manifest.model,
        "target": manifest.target,
        "variant": manifest.variant,
        "key": manifest.key,
        "p50_ms": round(p50, 3),
        "p95_ms": round(p95, 3),
        "p99_ms": round(p99, 3),
        "per_second": round(lane.rate, 2),
        "in_flight": len(lane.slots),
        "ratio_to_exact": round(p50 / (1e3 * float(np.median(exact.seconds))), 3) if exact else None,
        "batches": len(lane.seconds),
    }


def _write(rows: list[dict[str, Any]], place: str) -> None:
    text = json.dumps(rows, indent=1) + "\n"
    if place == "-":
        sys.stdout.write(text)
        return
    try:
        Path(place).write_text(text, encoding="utf-8")
    except OSError as e:
        raise InputError(f"cannot write {place}", e.strerror or str(e), "check the path") from e


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("engine", no_wrap=True)
    for name in ("p50 ms", "p95 ms", "p99 ms", "per second", "to exact"):
        table.add_column(name, justify="right")
    for figures in rows:
        ratio = figures["ratio_to_exact"]
        table.add_row(
            "/".join(figures[key] for key in ("model", "target", "variant")),
            *(f"{figures[key]:.2f}" for key in ("p50_ms", "p95_ms", "p99_ms")),
            f"{figures['per_second']:.1f}",
            f"×{ratio:.2f}" if ratio is not None else "",
        )
    Console(highlight=False).print(table)
