"""Does a long run grow? Resident memory before and after 50,000 frames with an engine that costs nothing.

    python benchmarks/stream_memory.py [--frames 50000] [--json FILE]

The first fifth of the frames warms up allocators and caches and is not counted. Growth is compared with what
keeping only one number a frame in a list would have cost, measured in the same process.
"""

from __future__ import annotations

import gc
from pathlib import Path

from common import MemorySource, arguments, report

from edge.sinks import open_sink
from edge.stream.feed import Feed
from edge.stream.network import null_network
from edge.stream.run import Run

MIB = 2**20


def resident() -> int:
    """Bytes of this process in memory (Linux)."""
    import os

    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Watched(MemorySource):
    """Notes the memory when the first fifth has been read, and at the end."""

    def __init__(self, frames: int) -> None:
        super().__init__(frames)
        self.mark = frames - frames // 5
        self.warm = self.end = 0

    def read(self):  # type: ignore[no-untyped-def]
        if self.left == self.mark:
            self.warm = resident()
        picture = super().read()
        if picture is None:
            self.end = resident()
        return picture


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--frames", type=int, default=50_000)
    args = parser.parse_args()
    source = Watched(args.frames)
    feed = Feed("memory", "memory:", source, None)
    sinks = [(uri, open_sink(uri, [])) for uri in ("null:", "jsonl:/dev/null")]
    summary = Run(null_network(), [feed], sinks).go().data
    assert summary["feeds"][0]["delivered"] == args.frames
    before = resident()
    kept = [float(number) for number in range(args.frames)]
    list_bytes = resident() - before
    growth = source.end - source.warm
    report(
        "stream_memory",
        {
            "growth_mib": growth / MIB,
            "reach_mib": 5,
            "one_number_a_frame_mib": list_bytes / MIB,
            "ratio": growth / list_bytes,
            "resident_mib": source.end / MIB,
            "frames": len(kept),
            "seconds": summary["seconds"],
        },
        args.json,
    )


if __name__ == "__main__":
    main()
