"""Should compressed DICOM frames be decoded in the reader's thread, in several threads, or in processes?

    python benchmarks/dicom_decode.py [--frames 8] [--rounds 3] [--json FILE]

Radiographs of 2500 × 2000 pixels and a cine of 480 × 640 in colour, each syntax for itself, from file to
display picture. Given are milliseconds a frame (median of alternating rounds), and the longest time for which
another thread of the same process, that wants to run every millisecond, could not: with a decoder that holds
Python's lock that is a whole frame, and every other feed stands still. `hand_over_ms` is what a frame's way
to the process and back takes when decoding costs nothing.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import pydicom
from common import arguments, report
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from edge.config import assets
from edge.dicom.ahead import PROGRAM, Decoders
from edge.dicom.decoder import Job
from edge.dicom.series import Frames

ROWS, COLUMNS = 2500, 2000
CINE = (480, 640)
CINE_FRAMES = 8
HTJ2K = "dicom/files/HTJ2KLossless_08_RGB.dcm"
"""No package here writes it, so a published file stands for it."""

EMPTY = """
import numpy, edge.dicom.decoder as decoder
decoder.decode = lambda job: numpy.empty(job.options["shape"], job.options["dtype"])
"""


def picture(rows: int, columns: int, bits: int, seed: int = 0) -> NDArray[Any]:
    """Soft shapes with the noise of a detector: 1/400 of the range."""
    rng, most = np.random.default_rng(seed), 2**bits - 1
    coarse = rng.random((rows // 64 + 2, columns // 64 + 2)).astype(np.float32)
    soft = cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC) * 0.8 * most
    values = np.clip(soft + rng.normal(0, most / 400, (rows, columns)), 0, most)
    return values.astype(np.uint16 if bits > 8 else np.uint8)


def write(path: Path, stored: NDArray[Any], bits: int, syntax: str, jpegs: Sequence[bytes] = ()) -> Path:
    """A file of frames × rows × columns (× 3)."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.NumberOfFrames, ds.Rows, ds.Columns = stored.shape[:3]
    ds.SamplesPerPixel = 3 if stored.ndim == 4 else 1
    ds.PhotometricInterpretation = "YBR_FULL_422" if stored.ndim == 4 else "MONOCHROME2"
    if stored.ndim == 4:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = stored.itemsize * 8, bits, bits - 1
    ds.PixelRepresentation = 0
    ds.WindowCenter, ds.WindowWidth = 2 ** (bits - 1), 2**bits
    ds.PixelData = stored.tobytes()
    ds["PixelData"].VR = "OW" if bits > 8 else "OB"
    if jpegs:
        ds.PixelData = encapsulate(list(jpegs), has_bot=False)
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        ds.file_meta.TransferSyntaxUID = syntax
    elif syntax != ExplicitVRLittleEndian:
        ds.compress(syntax, generate_instance_uid=False)
    ds.save_as(path, enforce_file_format=True)
    return path


def cases(folder: Path) -> dict[str, Path]:
    """One file a syntax."""
    deep, flat = picture(ROWS, COLUMNS, 12)[None], picture(ROWS, COLUMNS, 8)[None]
    colored = np.stack([np.stack([picture(*CINE, 8, k)] * 3, -1) for k in range(CINE_FRAMES)])
    jpegs = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in colored]
    found = {
        "uncompressed": write(folder / "raw.dcm", deep, 12, ExplicitVRLittleEndian),
        "rle": write(folder / "rle.dcm", deep, 12, RLELossless),
        "jpeg_baseline": write(
            folder / "jpeg.dcm", flat, 8, JPEGBaseline8Bit, [cv2.imencode(".jpg", flat[0])[1].tobytes()]
        ),
        "jpeg_ls": write(folder / "jpegls.dcm", deep, 12, JPEGLSLossless),
        "jpeg_2000": write(folder / "j2k.dcm", deep, 12, JPEG2000Lossless),
        "cine_jpeg_baseline": write(folder / "cine.dcm", colored, 8, JPEGBaseline8Bit, jpegs),
    }
    if (assets() / HTJ2K).exists():
        found["htj2k_published"] = assets() / HTJ2K
    return found


class Beat(threading.Thread):
    """Wants to run every millisecond, and notes how long it could not."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.longest, self.on = 0.0, True

    def run(self) -> None:
        last = time.perf_counter()
        while self.on:
            time.sleep(1e-3)
            now = time.perf_counter()
            self.longest, last = max(self.longest, now - last), now


def read_all(paths: Sequence[Path], decoders: Decoders | None = None) -> int:
    """The number of frames, every one made a picture."""
    frames, count = Frames(paths, decoders=decoders), 0
    while frames.open():
        frames.read()
        count += 1
    return count


def in_threads(paths: Sequence[Path], threads: int) -> int:
    """Each thread has every second file."""
    counts: list[int] = []
    running = [
        threading.Thread(target=lambda part: counts.append(read_all(part)), args=(paths[k::threads],))
        for k in range(threads)
    ]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(counts)


def measured(read: Callable[[], int]) -> tuple[float, float]:
    """Milliseconds a frame, and the longest pause of another thread in milliseconds."""
    beat = Beat()
    beat.start()
    start = time.perf_counter()
    frames = read()
    seconds = time.perf_counter() - start
    beat.on = False
    beat.join()
    return 1e3 * seconds / frames, 1e3 * beat.longest


def compare(paths: Sequence[Path], rounds: int) -> dict[str, Any]:
    """The ways, turn by turn."""
    one, two = Decoders(1), Decoders(2)
    ways: dict[str, Callable[[], int]] = {
        "reader_thread": lambda: read_all(paths),
        "two_threads": lambda: in_threads(paths, 2),
        "one_process": lambda: read_all(paths, one),
        "two_processes": lambda: read_all(paths, two),
    }
    for read in ways.values():
        read()  # starts processes, imports decoders
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, read in ways.items():
            found[way].append(measured(read))
    one.close()
    two.close()
    return {
        way: {"ms_a_frame": median(ms for ms, _ in values), "longest_pause_ms": median(p for _, p in values)}
        for way, values in found.items()
    }


def hand_over_ms(path: Path) -> float:
    """There and back, without decoding."""
    ds = pydicom.dcmread(path)
    if not ds.file_meta.TransferSyntaxUID.is_encapsulated:
        return 0.0
    stored = ds.pixel_array
    stored = stored[0] if int(ds.get("NumberOfFrames") or 1) > 1 else stored
    encoded = bytes(len(ds.PixelData) // int(ds.get("NumberOfFrames") or 1))
    job = Job("", {"shape": stored.shape, "dtype": stored.dtype.str}, encoded)
    decoders, times = Decoders(1, program=EMPTY + PROGRAM), []
    for _ in range(12):
        start = time.perf_counter()
        decoders.begin(job).result()
        times.append(time.perf_counter() - start)
    decoders.close()
    return 1e3 * median(times[2:])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--frames", type=int, default=8, help="of each radiograph")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    figures: dict[str, Any] = {"frames": args.frames, "rounds": args.rounds}
    with tempfile.TemporaryDirectory() as folder:
        for name, path in cases(Path(folder)).items():
            copies = [Path(folder) / f"{name}-{number}.dcm" for number in range(args.frames)]
            for copy in copies:
                shutil.copy(path, copy)
            result = compare(copies, args.rounds)
            alone = result["reader_thread"]["ms_a_frame"]
            figures[name] = {
                **result,
                "file_kib": path.stat().st_size // 1024,
                "hand_over_ms": hand_over_ms(path),
                "ratio_two_threads": alone / result["two_threads"]["ms_a_frame"],
                "ratio_two_processes": alone / result["two_processes"]["ms_a_frame"],
            }
            for copy in copies:
                copy.unlink()
    report("dicom_decode", figures, args.json)


if __name__ == "__main__":
    main()
