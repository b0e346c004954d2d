"""What does the runner itself cost? Its CPU time a frame with an engine that costs nothing, over a bare loop.

    python benchmarks/runner_overhead.py [--frames 5000] [--repeat 5] [--json FILE]

Both go over the same 640×480 pictures in memory. The bare loop reads each and stamps it; the runner does all
it does in earnest: a reader thread, admission, two slots, stage times, the account, a `null:` sink on its
thread. Runs alternate, medians are compared.
"""

from __future__ import annotations

import statistics
import time

from common import MemorySource, arguments, report

from edge.sinks import open_sink
from edge.stream.feed import Feed
from edge.stream.network import null_network
from edge.stream.run import Run


def bare(frames: int) -> float:
    """CPU seconds of the loop alone."""
    source, stamps = MemorySource(frames), 0.0
    start = time.process_time()
    while source.read() is not None:
        stamps += time.perf_counter()
    return time.process_time() - start


def runner(frames: int, serial: bool) -> float:
    """CPU seconds of the runner over the same frames, all threads together."""
    network = null_network()
    run = Run(
        network,
        [Feed("memory", "memory:", MemorySource(frames))],
        [("null:", open_sink("null:", []))],
        serial=serial,
    )
    start = time.process_time()
    summary = run.go()
    seconds = time.process_time() - start
    assert summary.data["feeds"][0]["delivered"] == frames, summary.data
    return seconds


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--frames", type=int, default=5000)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    runs: dict[str, list[float]] = {"bare": [], "overlapped": [], "serial": []}
    for _ in range(args.repeat):
        runs["bare"].append(bare(args.frames))
        runs["overlapped"].append(runner(args.frames, serial=False))
        runs["serial"].append(runner(args.frames, serial=True))
    micro = {name: 1e6 * statistics.median(values) / args.frames for name, values in runs.items()}
    report(
        "runner_overhead",
        {
            "bare_us_per_frame": micro["bare"],
            "overlapped_us_per_frame": micro["overlapped"],
            "serial_us_per_frame": micro["serial"],
            "overhead_us_per_frame": micro["overlapped"] - micro["bare"],
            "reach_us_per_frame": 60,
            "range_us": [1e6 * f(runs["overlapped"]) / args.frames for f in (min, max)],
            "frames": args.frames,
            "repeat": args.repeat,
        },
        args.json,
    )


if __name__ == "__main__":
    main()
