"""How long does a command take to start? `edge --help` within 0.5 s, `edge doctor` within 2 s.

Prints each as a ratio to starting the bare interpreter in the same run, and JSON on the last line.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPEATS = 7
LIMITS = {"--help": 0.5, "build --help": 0.5, "run --help": 0.5, "doctor": 2.0}


def seconds(arguments: list[str]) -> float:
    """Median wall time of the interpreter with `arguments`; a first run only warms the file cache."""
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> int:
    bare = seconds(["-c", ""])
    print(f"{'bare interpreter':20} {bare:6.3f} s")
    measured = {}
    for command, limit in LIMITS.items():
        measured[command] = took = seconds(["-m", "edge", *command.split()])
        verdict = "ok" if took <= limit else "TOO SLOW"
        print(
            f"{'edge ' + command:20} {took:6.3f} s   {took / bare:4.1f} × bare   limit {limit} s   {verdict}"
        )
    print(json.dumps({"bare_s": round(bare, 4), **{k: round(v, 4) for k, v in measured.items()}}))
    return int(any(measured[command] > limit for command, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
