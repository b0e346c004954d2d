"""How long from the last slice of a series to its Segmentation in a PACS, and is it what is found offline?

    python benchmarks/dicom_volume.py [--rounds 3] [--quiet 2] [--json FILE]

dcmtk's `storescu` sends the 384 slices of a T1 series to `edge run`, which segments them on 256³ voxels with
MeshNet and sends the answer to Orthanc; all on loopback and one machine. Stages are told by the run itself,
except for the ends: when storescu had its last acknowledgement, and when Orthanc has the object. The wait
until a series counts as complete (`quiet`) is a setting. Given are medians; labels are compared on every
pixel with `edge.stream.volumes.segment_series`, run afterwards with the same engine.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pydicom
from common import arguments, report

from edge.config import ROOT, assets
from edge.dicom.answers import LabelVolume
from edge.store import Store
from edge.stream.network import engine_options, find_engine, open_network
from edge.stream.volumes import segment_series

sys.path.insert(0, str(ROOT / "tests"))

from orthanc import AET, Orthanc, free_port, missing, orthanc

MODEL = "meshnet_t1_tissue"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
LONGEST_S = 300.0
EDGE = [sys.executable, "-m", "edge"]


def until(what: Any, seconds: float = LONGEST_S) -> Any:
    """What a function gives, once it is something."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > deadline:
            raise SystemExit("it took too long")
        time.sleep(0.02)
    return found


def listens(port: int) -> bool:
    echo = ["echoscu", "-aec", "EDGE", "127.0.0.1", str(port)]
    return subprocess.run(echo, capture_output=True).returncode == 0


def one_round(pacs: Orthanc, engines: Path, series: Path, folder: Path, quiet: float) -> dict[str, float]:
    """Seconds of each stage."""
    port, lines = free_port(), folder / "results.jsonl"
    source = f"dicom+scp://127.0.0.1:{port}?aet=EDGE&spool={folder / 'spool'}&quiet={quiet:g}&free_gb=0.1"
    sink = f"dicom+scu://{AET}@127.0.0.1:{pacs.port}?aet=EDGE&kinds=seg"
    command = [*EDGE, "run", "--model", MODEL, "--engines", str(engines), "--source", source]
    command += ["--sink", sink, "--sink", f"jsonl:{lines}"]
    with (folder / "log").open("w") as log:
        run = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
    try:
        until(lambda: listens(port), 60)
        begun = time.time()
        send = ["storescu", "-aec", "EDGE", "+sd", "127.0.0.1", str(port), str(series)]
        subprocess.run(send, check=True, capture_output=True)
        sent = time.time()
        until(lambda: pacs.get("instances"))
        there = time.time()
    finally:
        run.send_signal(signal.SIGINT)
        run.wait(60)
    (line,) = map(json.loads, lines.read_text().splitlines())
    took = {stage: ms / 1e3 for stage, ms in line["latency_ms"].items()}
    captured = datetime.fromisoformat(line["captured_at"].replace("Z", "+00:00")).timestamp()
    return {
        "send": sent - begun,
        "quiet_and_geometry": captured - sent,
        "preprocess": took["preprocess"],
        "infer": took["infer"],
        "postprocess": took["postprocess"],
        "answer_and_delivery": there - captured - took["total"],
        "last_slice_to_pacs": there - sent,
    }


def differing_pixels(answer: pydicom.Dataset, labels: LabelVolume) -> int:
    """Of a Segmentation, against labels of its source slices."""
    from highdicom.seg import Segmentation

    uids = [pydicom.dcmread(p, specific_tags=["SOPInstanceUID"]).SOPInstanceUID for p in labels.paths]
    pixels = Segmentation.from_dataset(answer).get_pixels_by_source_instance(
        uids, combine_segments=True, ignore_spatial_locations=True, assert_missing_frames_are_empty=True
    )
    return int(np.count_nonzero(pixels != np.stack(labels.labels)))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quiet", type=float, default=2.0, help="seconds without a slice that end a series")
    args = parser.parse_args()
    series = assets() / "dicom" / "t1_series"
    why = missing() or ("" if shutil.which("storescu") else "dcmtk is absent")
    if why or not series.is_dir():
        raise SystemExit(why or f"no measuring data: {series} is absent")
    with tempfile.TemporaryDirectory() as name:
        engines = Path(name) / "engines"
        build = [*EDGE, "build", "--model", MODEL, "--targets", "cpu", "--variants", "fast", "--no-report"]
        subprocess.run([*build, "--out", str(engines)], check=True, cwd=ROOT, capture_output=True)
        rounds, answers = [], []
        for number in range(args.rounds):
            folder = Path(name) / str(number)
            folder.mkdir()
            with orthanc(folder) as pacs:
                rounds.append(one_round(pacs, engines, series, folder, args.quiet))
                answers += pacs.datasets()
        network = open_network(
            find_engine(Store(engines), MODEL, "cpu", "fast"), engine_options(0, False, False)
        )
        labels = segment_series(list(series.glob("*.dcm")), network)
        network.close()
    figures: dict[str, Any] = {f"{k}_s": median(r[k] for r in rounds) for k in rounds[0]}
    figures |= {"quiet_s": args.quiet, "rounds": args.rounds, "slices": len(labels.paths)}
    figures["differing_pixels"] = [differing_pixels(answer, labels) for answer in answers]
    report("dicom_volume", figures, args.json)
    if len(answers) != args.rounds or any(figures["differing_pixels"]):
        raise SystemExit("what the PACS has is not what is found offline")


if __name__ == "__main__":
    main()
