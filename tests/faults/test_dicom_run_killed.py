"""`kill -9` of `edge run` at random moments while objects arrive, are inferred, answered and delivered.

By hand, with more kills: python tests/faults/test_dicom_run_killed.py 50
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/faults")]  # run by hand

pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
pytest.importorskip("pynetdicom", reason="the extra 'pacs' is not installed")
pytest.importorskip("highdicom", reason="the extra 'pacs' is not installed")

from live import until  # noqa: E402
from streaming import heatmap_graph, publish  # noqa: E402
from test_spool_killed import Modality  # noqa: E402

from edge.spool import Spool, State  # noqa: E402
from edge.spool.view import View  # noqa: E402
from tests.orthanc import AET, Orthanc, free_port, orthanc  # noqa: E402
from tests.pacs import association  # noqa: E402


class Box:
    """`edge run` in a process of its own, with a receiver and an archive; started again after each kill."""

    def __init__(self, folder: Path, pacs: Orthanc) -> None:
        self.port, self.spool = free_port(), folder / "spool"
        source = f"dicom+scp://127.0.0.1:{self.port}?spool={self.spool}&unit=object&free_gb=0"
        sink = f"dicom+scu://{AET}@127.0.0.1:{pacs.port}?kinds=sr"
        publish(folder / "engines", heatmap_graph(folder / "tiny.onnx"))
        self.words = [
            sys.executable,
            "-m",
            "edge",
            "run",
            "--engines",
            str(folder / "engines"),
            "--model",
            "tiny",
        ]
        self.words += ["--source", source, "--sink", sink, "--summary", str(folder / "summary.json")]
        self.log = (folder / "log").open("wb")

    def start(self) -> None:
        self.process = subprocess.Popen(self.words, cwd=ROOT, stderr=self.log, stdout=self.log)

    def listens(self) -> bool:
        with association(self.port, wait=1) as assoc:
            return bool(assoc.is_established)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def answered(self) -> list[str]:
        """UIDs in the answers, as anybody may read them beside the process."""
        view = View(self.spool)
        try:
            lines = (json.loads(answer.body) for answer in view.answers(0))
            return [frame["sop_instance_uid"] for line in lines for frame in line["frames"]]
        finally:
            view.close()


def run_kills(folder: Path, kills: int, seed: int = 0) -> dict[str, int]:
    """Kill it so often; returns what was acknowledged, answered and delivered, and what was not, or twice."""
    chance = random.Random(seed)
    with orthanc(folder) as pacs:
        box = Box(folder, pacs)
        box.start()
        until(box.listens)
        modality = Modality(box, 1_000_000)  # type: ignore[arg-type]
        modality.start()
        for _ in range(kills):
            grown(modality, 3)
            time.sleep(chance.uniform(0.0, 0.5))
            box.kill()
            box.start()
        grown(modality, 3)
        modality.over.set()
        modality.join()
        try:
            until(lambda: modality.acknowledged <= set(box.answered()), 60)
            until(lambda: len(reported(pacs)) >= len(box.answered()), 60)
        finally:
            box.process.terminate()
            box.process.wait(60)
            box.log.close()
        answers, reports = Counter(box.answered()), Counter(reported(pacs))
    with Spool(box.spool) as spool:
        quarantined = spool.counts()[State.QUARANTINED]
    return {
        "acknowledged": len(modality.acknowledged),
        "lost": len(modality.acknowledged - set(answers)),
        "answered_twice": sum(count > 1 for count in answers.values()),
        "not_delivered": len(set(answers) - set(reports)),
        "delivered_twice": sum(count > 1 for count in reports.values()),
        "quarantined": quarantined,
        "exit_code": box.process.returncode,
    }


def grown(modality: Modality, count: int) -> None:
    """Wait until so many more objects were acknowledged."""
    before = len(modality.acknowledged)
    until(lambda: len(modality.acknowledged) >= before + count)


def reported(pacs: Orthanc) -> list[str]:
    """UIDs of the objects that the archive's reports are about."""
    found = []
    for report in pacs.datasets():
        evidence = report.CurrentRequestedProcedureEvidenceSequence
        series = [item for study in evidence for item in study.ReferencedSeriesSequence]
        found += [str(sop.ReferencedSOPInstanceUID) for one in series for sop in one.ReferencedSOPSequence]
    return found


def check(figures: dict[str, int], at_least: Callable[[int], bool]) -> None:
    assert at_least(figures["acknowledged"]), figures
    bad = ("lost", "answered_twice", "not_delivered", "delivered_twice", "quarantined", "exit_code")
    assert not any(figures[name] for name in bad), figures


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_or_answered_twice_when_edge_run_is_killed(tmp_path: Path) -> None:
    check(run_kills(tmp_path, kills=5), lambda count: count > 15)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        print(run_kills(Path(name), int(sys.argv[1]), seed=int(time.time())))
