"""`kill -9` at random moments while objects arrive and are answered: none lost, none answered twice.

By hand, with more kills: python tests/faults/test_spool_killed.py 200
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))  # run by hand

pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
pytest.importorskip("pynetdicom", reason="the extra 'pacs' is not installed")

from edge.spool import Spool, State  # noqa: E402
from tests.pacs import association, ct_slice, store  # noqa: E402


class Machine:
    """The receiver in a process of its own, started again after each kill."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, 0

    def start(self) -> None:
        words = [sys.executable, "-m", "tests.spool_child", str(self.folder), str(self.port)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(words, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


class Modality(threading.Thread):
    """Sends numbered slices, some of them again, and remembers what was acknowledged."""

    def __init__(self, machine: Machine, first: int) -> None:
        super().__init__()
        self.machine, self.next, self.random = machine, first, random.Random(first)
        self.acknowledged: set[str] = set()
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            with association(self.machine.port, wait=1) as assoc:  # pynetdicom may miss that its peer died
                while assoc.is_established and not self.over.is_set():
                    self.send(assoc)
            time.sleep(0.02)

    def send(self, assoc: object) -> None:
        data = ct_slice(max(0, self.next - self.random.choice([0, 0, 0, 1])), size=64)
        try:
            status = store(assoc, data)
        except (RuntimeError, ValueError):  # the association is gone
            return
        if status == 0:
            self.acknowledged.add(str(data.SOPInstanceUID))
            self.next += 1


def run_kills(folder: Path, kills: int, seed: int = 0) -> dict[str, int]:
    """Kill the receiver so often; returns what was acknowledged, answered, lost, and answered twice."""
    machine, chance = Machine(folder), random.Random(seed)
    machine.start()
    modalities = [Modality(machine, 1_000_000 * (index + 1)) for index in range(3)]
    for modality in modalities:
        modality.start()
    for kill in range(kills):
        if kill % 4:  # under load; every fourth wherever it is, also while it starts
            before, end = sum(len(m.acknowledged) for m in modalities), time.monotonic() + 10
            while sum(len(m.acknowledged) for m in modalities) <= before and time.monotonic() < end:
                time.sleep(0.005)
        time.sleep(chance.uniform(0.0, 0.4))
        machine.kill()
        machine.start()
    for modality in modalities:
        modality.over.set()
    for modality in modalities:
        modality.join()
    machine.kill()
    acknowledged = set().union(*(modality.acknowledged for modality in modalities))
    with Spool(folder) as spool:
        while claim := spool.claim_object():
            spool.answered(claim, claim.objects[0].uid.encode())
        answers = Counter(answer.body.decode() for answer in spool.answers())
        held = {item.path for item in spool.objects()}
        files = {path for path in (folder / "objects").rglob("*") if path.is_file()}
        return {
            "acknowledged": len(acknowledged),
            "answered": len(answers),
            "lost": len(acknowledged - set(answers)),
            "answered_twice": sum(count > 1 for count in answers.values()),
            "quarantined": spool.counts()[State.QUARANTINED],
            "files_without_a_row": len(files - held),
        }


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_or_answered_twice_when_the_process_is_killed(tmp_path):
    figures = run_kills(tmp_path / "spool", kills=8)
    assert figures["acknowledged"] > 20
    for bad in ("lost", "answered_twice", "quarantined", "files_without_a_row"):
        assert figures[bad] == 0, figures


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        print(run_kills(Path(name) / "spool", int(sys.argv[1]), seed=int(time.time())))
