"""How long does a command take to start? Reach: `edge --help` 0.5 s, `edge doctor` 2 s.

    python benchmarks/startup.py [--json FILE]

Medians, and each as a ratio to starting the bare interpreter in the same run.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import arguments, report

ROOT = Path(__file__).resolve().parent.parent
REPEATS = 7
LIMITS = {"--help": 0.5, "build --help": 0.5, "run --help": 0.5, "doctor": 2.0}


def seconds(words: list[str]) -> float:
    """Median wall time of the interpreter with `words`; a first run only warms the file cache."""
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> int:
    args = arguments(__doc__).parse_args()
    bare = seconds(["-c", ""])
    measured = {command: seconds(["-m", "edge", *command.split()]) for command in LIMITS}
    figures: dict[str, float] = {"bare interpreter, s": bare}
    for command, took in measured.items():
        figures |= {f"edge {command}, s": took, f"edge {command} / bare": took / bare}
    report("startup", figures, args.json)
    slow = [command for command, limit in LIMITS.items() if measured[command] > limit]
    print(f"too slow: {', '.join(slow)}" if slow else "within the limits")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
