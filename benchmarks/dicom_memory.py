"""How much memory does a multi-frame file of 2 GiB take in `edge run`?

    python benchmarks/dicom_memory.py [--mib 2048] [--json FILE]

The file is generated, once uncompressed (zeros that take no room on the disk) and once as JPEG baseline
(really written, then removed), and run from the first to the last frame with the null backend. Given is the
most that the process and its decoders held in memory at once, looked at every 20 ms, above what the same run
takes with two uncompressed frames, which need no decoder. Of shared pages each process counts its part.
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from common import arguments, report
from dicom_decode import picture, write
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

REACH_MB = 300
ROWS, COLUMNS = 1024, 1024
ROOT = Path(__file__).resolve().parent.parent


def uncompressed(path: Path, frames: int) -> Path:
    """16 bits, all zero, sparse."""
    write(path, np.zeros((1, ROWS, COLUMNS), np.uint16), 16, ExplicitVRLittleEndian)
    data, size = path.read_bytes(), 2 * ROWS * COLUMNS
    header = _claiming(data[: -size - 4], frames)
    with path.open("wb") as file:
        file.write(header + struct.pack("<L", frames * size))
        file.truncate(file.tell() + frames * size)
    return path


def compressed(path: Path, frames: int) -> Path:
    """JPEG baseline, the same frame again and again."""
    encoded = jpeg()
    write(path, np.zeros((1, ROWS, COLUMNS), np.uint8), 8, JPEGBaseline8Bit, [encoded])
    data = path.read_bytes()
    item = struct.pack("<HHL", 0xFFFE, 0xE000, len(encoded)) + encoded
    with path.open("wb") as file:
        file.write(_claiming(data[: data.index(item)], frames))
        for _ in range(frames):
            file.write(item)
        file.write(struct.pack("<HHL", 0xFFFE, 0xE0DD, 0))
    return path


def jpeg() -> bytes:
    """A frame that is as large as its kind gets."""
    data = cv2.imencode(".jpg", picture(ROWS, COLUMNS, 8), [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    return data + b"\0" * (len(data) % 2)


KINDS = {"uncompressed": uncompressed, "jpeg_baseline": compressed}


def _claiming(header: bytes, frames: int) -> bytes:
    """The header with another Number of Frames (0028,0008)."""
    text = str(frames).encode()
    text += b" " * (len(text) % 2)
    old = b"\x28\0\x08\0IS\x02\x001 "
    assert header.count(old) == 1
    return header.replace(old, old[:6] + struct.pack("<H", len(text)) + text)


def run(path: Path) -> dict[str, Any]:
    """Memory in MB and seconds of `edge run`."""
    with tempfile.TemporaryDirectory() as folder:
        summary = Path(folder) / "summary.json"
        words = ["run", "--backend", "null", "--source", str(path), "--summary", str(summary)]
        start, peak = time.perf_counter(), 0
        with subprocess.Popen(
            [sys.executable, "-m", "edge", *words], cwd=ROOT, stdout=subprocess.DEVNULL
        ) as process:
            while process.poll() is None:
                peak = max(peak, sum(map(proportional, tree(process.pid))))
                time.sleep(0.02)
        assert process.returncode == 0, "the run failed"
        feed = json.loads(summary.read_text())["feeds"][0]
    return {"mb": peak / 1e6, "seconds": time.perf_counter() - start, "delivered": feed["delivered"]}


def tree(pid: int) -> list[int]:
    """A process and those it started, and those they did (Linux)."""
    found = [pid]
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += tree(int(child))
    except OSError:  # it has ended meanwhile
        pass
    return found


def proportional(pid: int) -> int:
    """Bytes of a process in memory, of shared pages its part."""
    try:
        found = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
    except OSError:  # it has ended meanwhile
        found = None
    return 1024 * int(found[1]) if found else 0


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--mib", type=int, default=2048)
    args = parser.parse_args()
    figures: dict[str, Any] = {"mib": args.mib, "reach_mb": REACH_MB}
    sizes = {"uncompressed": 2 * ROWS * COLUMNS, "jpeg_baseline": len(jpeg())}
    with tempfile.TemporaryDirectory() as folder:
        idle = run(uncompressed(Path(folder) / "two.dcm", 2))
        for name, make in KINDS.items():
            frames = -(-args.mib * 2**20 // sizes[name])
            path = make(Path(folder) / "big.dcm", frames)
            size = path.stat().st_size
            found = run(path)
            path.unlink()
            assert found["delivered"] == frames
            figures[name] = {
                "file_mb": size / 1e6,
                "frames": frames,
                "idle_mb": idle["mb"],
                "peak_mb": found["mb"],
                "above_idle_mb": found["mb"] - idle["mb"],
                "seconds": found["seconds"],
            }
    report("dicom_memory", figures, args.json)


if __name__ == "__main__":
    main()
