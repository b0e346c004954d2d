"""What the streaming benchmarks share."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the repository, installed or not

from edge.machine import detect
from edge.sources import Picture


class MemorySource:
    """The same 640×480 picture again and again: reading costs nothing."""

    label, live, paced, fps, truth_kind, problem = "memory", False, False, None, None, None

    def __init__(self, frames: int) -> None:
        self.left = frames
        self.image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)

    def read(self) -> Picture | None:
        self.left -= 1
        return Picture(self.image) if self.left >= 0 else None

    def close(self) -> None:
        pass


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the benchmark's own description; `--json` is everyone's."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="write the figures with date and machine")
    return parser


def report(name: str, figures: dict[str, Any], file: str | None) -> None:
    """Print the figures, and write them with date and machine to `file`."""
    for key, value in figures.items():
        print(f"{key:32} {_short(value)}")
    if file is None:
        return
    record = {
        "benchmark": name,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "machine": detect().label,
        "load_average": [round(load, 1) for load in os.getloadavg()],  # what else the machine was doing
        "python": platform.python_version(),
        "packages": {package: version(package) for package in ("numpy", "onnxruntime", "opencv-python")},
        **_rounded(figures),
    }
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _short(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(_rounded(value))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return value
