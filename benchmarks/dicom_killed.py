"""Is anything lost or answered twice when `edge run` is killed at random moments under load?

    python benchmarks/dicom_killed.py [--kills 20] [--seed 0] [--json FILE]

A modality sends slices without a pause; `edge run` receives them into its spool, runs each through a small
network, and sends a report of each to Orthanc, all on loopback. It gets SIGKILL so often and is started
again: three kills of four while objects arrive, the fourth at any moment, also while it starts. Every
acknowledged object must then have one answer in the spool and one report in Orthanc.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
from pathlib import Path

from common import arguments, report

from edge.config import ROOT

sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "faults")]
crash = importlib.import_module("test_dicom_run_killed")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        figures = crash.run_kills(Path(folder), args.kills, args.seed, drain=60 + args.kills)
    report("dicom_killed", {**figures, "minutes": (time.perf_counter() - begun) / 60}, args.json)
    if any(figures[name] for name in crash.BAD):
        raise SystemExit("something was lost, or answered twice")


if __name__ == "__main__":
    main()
