"""What does a build of the whole hardware matrix cost, and a rebuild with nothing changed?

    python benchmarks/build_matrix.py [--model yolox_nano] [--targets all] [--json FILE]

`edge build` runs as a process of its own, twice into the same empty store. Peak memory is the builder's own
and a compiler process's together, as the rows say, and once more as the operating system saw the largest
process.

Reach for yolox_nano, 128 calibration pictures, 2 cores: build ≤ 150 s, peak ≤ 1.5 GB, rebuild ≤ 3 s.
The rows of the table say what was chosen as the processor's `fast` engine and why.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import arguments, report

ROOT = Path(__file__).resolve().parent.parent


MEASURED = ("exit_code", "seconds", "cpu_seconds", "largest_process_bytes", "peak_rss_bytes")


def build(model: str, targets: str, store: Path, out: Path) -> dict[str, Any]:
    """One `edge build`: wall and CPU seconds, peak memory of its largest process, and its rows."""
    command = [sys.executable, str(ROOT / "build_engines.py"), "--model", model, "--targets", targets]
    start = time.perf_counter()
    child = subprocess.Popen([*command, "--out", str(store), "--json", str(out)], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    rows = json.loads(out.read_text())
    return {
        "exit_code": os.waitstatus_to_exitcode(status),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "largest_process_bytes": used.ru_maxrss << 10,
        "peak_rss_bytes": max(row["peak_rss_bytes"] for row in rows),
        "rows": rows,
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", default="yolox_nano")
    parser.add_argument("--targets", default="all")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store, out = Path(folder) / "engines", Path(folder) / "rows.json"
        first = build(args.model, args.targets, store, out)
        again = build(args.model, args.targets, store, out)
    figures: dict[str, Any] = {"model": args.model, "targets": args.targets, "engines": len(first["rows"])}
    figures |= {f"build_{key}": first[key] for key in MEASURED}
    figures |= {f"rebuild_{key}": again[key] for key in MEASURED}
    figures["rebuild_cached"] = sum(row["cached"] for row in again["rows"])
    for row in first["rows"]:
        accuracy = row["accuracy"] or {}
        what = f"{row['target']}/{row['variant']}"
        figures[what] = (
            f"{row['state']}, {row['quantized_mac_share']:.1%} quantized, {row['size_bytes'] / 1e6:.1f} MB, "
            f"{accuracy.get('metric')} {accuracy.get('this')} (fp32 {accuracy.get('fp32')}), "
            f"{row['build_seconds']:.1f} s: {row['reason']}"
        )
    report("build_matrix", figures, args.json)


if __name__ == "__main__":
    main()
