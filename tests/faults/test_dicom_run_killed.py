"""`kill -9` of `edge run` at random moments while objects arrive, are inferred, answered and delivered.

More kills, by hand: python benchmarks/dicom_killed.py
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
pytest.importorskip("pynetdicom", reason="the extra 'pacs' is not installed")
pytest.importorskip("highdicom", reason="the extra 'pacs' is not installed")

from live import until
from streaming import heatmap_graph, publish
from test_spool_killed import Modality

from edge.config import ROOT
from edge.spool import Spool, State
from edge.spool.view import View
from tests.orthanc import AET, Orthanc, free_port, orthanc
from tests.pacs import association


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


def run_kills(folder: Path, kills: int, seed: int = 0, drain: float = 60.0) -> dict[str, int]:
    """Kill it so often; returns what was acknowledged, answered and delivered, and what was not, or twice.

    Args:
        drain: seconds that it may take, after the last kill, to answer and to deliver what is left.
    """
    chance = random.Random(seed)
    with orthanc(folder) as pacs:
        box = Box(folder, pacs)
        box.start()
        until(box.listens)
        modality = Modality(box, 1_000_000)  # type: ignore[arg-type]
        modality.start()
        try:
            for kill in range(kills):
                if kill % 4:  # under load; every fourth wherever it is, also while it starts
                    grown(modality, 3)
                time.sleep(chance.uniform(0.0, 0.5 if kill % 4 else 5.0))
                box.kill()
                box.start()
            grown(modality, 3)
        finally:
            modality.over.set()
            modality.join()
        try:
            soon(lambda: modality.acknowledged <= set(box.answered()), drain)
            soon(lambda: len(pacs.get("instances")) >= len(set(box.answered())), drain)
        finally:
            box.process.terminate()
            box.process.wait(60)
            box.log.close()
        answers, reports = Counter(box.answered()), Counter(reported(pacs))
    with Spool(box.spool) as spool:
        quarantined = spool.counts()[State.QUARANTINED]
    return {
        "kills": kills,
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
    until(lambda: len(modality.acknowledged) >= before + count, 120)


def soon(fact: Callable[[], bool], seconds: float) -> None:
    """Wait for something that is slow to look at; what does not become true shows in the figures."""
    end = time.monotonic() + seconds
    while not fact() and time.monotonic() < end:
        time.sleep(0.5)


def reported(pacs: Orthanc) -> list[str]:
    """UIDs of the objects that the archive's reports are about."""
    found = []
    for report in pacs.datasets():
        evidence = report.CurrentRequestedProcedureEvidenceSequence
        series = [item for study in evidence for item in study.ReferencedSeriesSequence]
        found += [str(sop.ReferencedSOPInstanceUID) for one in series for sop in one.ReferencedSOPSequence]
    return found


BAD = ("lost", "answered_twice", "not_delivered", "delivered_twice", "quarantined", "exit_code")
"""Figures that have to be 0."""


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_or_answered_twice_when_edge_run_is_killed(tmp_path: Path) -> None:
    figures = run_kills(tmp_path, kills=5)
    assert figures["acknowledged"] > 15 and not any(figures[name] for name in BAD), figures
