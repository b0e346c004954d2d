"""A spool on a disk that is really full: objects are refused before, none is lost, it recovers by itself."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
pytest.importorskip("pynetdicom", reason="the extra 'pacs' is not installed")

from live import going, until  # noqa: E402

from edge.dicom import desk  # noqa: E402
from edge.dicom.receiving.receiver import Receiver, ReceiverSettings  # noqa: E402
from edge.spool import Retention, Spool, State, Watermarks  # noqa: E402
from edge.stream.network import null_network  # noqa: E402
from edge.stream.run import Run  # noqa: E402
from tests.disks import small_disk  # noqa: E402
from tests.pacs import association, ct_slice, store  # noqa: E402
from tests.streaming import Collect  # noqa: E402
from tests.unit.test_source_spooled import Box, receiving  # noqa: E402

SUCCESS, OUT_OF_RESOURCES = 0x0000, 0xA700
MIB = 1 << 20
OBJECT = MIB // 2
"""Of a slice of 512 × 512 pixels, without its header."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 8 * MIB) as folder:
        yield folder


@contextmanager
def spooling(disk: Path, marks: Watermarks) -> Iterator[tuple[Spool, Any]]:
    """A spool there, and an association with its receiver."""
    with (
        Spool(disk / "spool", marks=marks) as spool,
        Receiver(spool, ReceiverSettings(port=0)) as receiver,
        association(receiver.port) as assoc,
    ):
        yield spool, assoc


def slice_(number: int) -> pydicom.Dataset:
    return ct_slice(number, size=512)


def sent_until_refused(assoc: Any, most: int = 40) -> tuple[list[str], int]:
    """UIDs of what was acknowledged, and the status that ended it."""
    taken = []
    for number in range(most):
        data = slice_(number)
        if (status := store(assoc, data)) != SUCCESS:
            return taken, status
        taken.append(str(data.SOPInstanceUID))
    raise AssertionError("nothing was refused")


def held(spool: Spool) -> set[str]:
    """UIDs of what is to be answered, from the files."""
    return {str(pydicom.dcmread(item.path).SOPInstanceUID) for item in spool.objects(State.RECEIVED)}


def test_objects_are_refused_before_the_disk_is_full_and_taken_again_when_there_is_room(disk: Path) -> None:
    with spooling(disk, Watermarks(2 * MIB, 3 * MIB)) as (spool, assoc):
        taken, status = sent_until_refused(assoc)
        assert status == OUT_OF_RESOURCES and len(taken) > 5
        assert 2 * MIB - 2 * OBJECT < shutil.disk_usage(disk).free < 2 * MIB
        assert held(spool) == set(taken)
        while (claim := spool.claim_object()) is not None:
            spool.answered(claim)
        spool.purge(Retention(answered=0))
        assert store(assoc, slice_(100)) == SUCCESS
        assert held(spool) == {"1.2.3.100"}


def test_without_a_watermark_a_disk_that_is_full_to_the_last_byte_costs_what_does_not_fit_alone(
    disk: Path,
) -> None:
    ballast = disk / "ballast"
    with spooling(disk, Watermarks(0, 0)) as (spool, assoc):
        ballast.write_bytes(bytes(3 * MIB))
        taken, status = sent_until_refused(assoc)
        assert status == OUT_OF_RESOURCES and len(taken) > 3
        assert held(spool) == set(taken)
        assert len(list((spool.root / "objects").rglob("*.dcm"))) == len(taken)  # nothing half is left
        ballast.unlink()
        assert store(assoc, slice_(100)) == SUCCESS
    with Spool(disk / "spool", marks=Watermarks(0, 0)) as spool:
        assert held(spool) == {*taken, "1.2.3.100"}


def test_a_run_answers_what_it_has_and_makes_room_for_more_by_itself(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its rules of retention; what was refused comes again, as modalities send it."""
    monkeypatch.setattr(desk, "PURGE_S", 0.05)
    one = receiving(disk, unit="object", free_gb=0.003, answered_h=0)
    with going(Run(null_network(), [one], [])) as run:
        box = Box(run, one, Collect())
        refused = 0
        for number in range(30):
            with association(box.port) as assoc:
                while (status := store(assoc, slice_(number))) != SUCCESS:
                    assert status == OUT_OF_RESOURCES
                    refused += 1
                    until(lambda: shutil.disk_usage(disk).free > 4 * MIB)
        lines = box.lines(30)
    uids = [frame["sop_instance_uid"] for line in lines for frame in line["frames"]]
    assert sorted(uids) == sorted(f"1.2.3.{number}" for number in range(30))
    assert shutil.disk_usage(disk).total < 20 * OBJECT


def test_answers_wait_for_a_disk_that_is_full(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "AGAIN_S", 0.05)
    one, ballast = receiving(disk, unit="object"), disk / "ballast"
    with going(Run(null_network(), [one], [])) as run:
        box = Box(run, one, Collect())
        box.send(slice_(1))
        box.lines(1)
        spool: Any = box.spool
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(4096))
        with association(box.port) as assoc:
            assert store(assoc, slice_(2)) == OUT_OF_RESOURCES
        ballast.unlink()
        box.send(slice_(2))
        box.lines(2)
        assert spool.counts() == {State.ANSWERED: 2}
