"""The conformance statement says what the code does, where its tables are not written from constants."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
pytest.importorskip("pynetdicom", reason="the extra 'pacs' is not installed")
pytest.importorskip("highdicom", reason="the extra 'pacs' is not installed")

from edge.config import ROOT  # noqa: E402
from edge.dicom import conformance  # noqa: E402
from edge.dicom.answers import KINDS, Found, build_all  # noqa: E402
from edge.dicom.receiving.receiver import Receiver, ReceiverSettings, storage_classes  # noqa: E402
from edge.docs import block  # noqa: E402
from edge.spool import Spool  # noqa: E402
from tests.answers import boxes, inference, mask, source  # noqa: E402
from tests.pacs import CT, association  # noqa: E402

PAGE = (ROOT / "docs/dicom.md").read_text(encoding="utf-8")
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    settings = ReceiverSettings(port=0, calling=("SCU",), associations=1)
    with Spool(tmp_path / "spool") as spool, Receiver(spool, settings) as receiver:
        yield receiver


def row(table: str, start: str) -> list[str]:
    """Cells of the row that begins so."""
    (line,) = (line for line in block(PAGE, table).splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_listed_transfer_syntax_is_accepted(receiver: Receiver) -> None:
    listed = re.findall(r"`([\d.]+)`", block(PAGE, "conformance-syntaxes"))
    syntaxes = [conformance.ROOT + uid for uid in listed]
    with association(receiver.port, contexts=[CT], syntaxes=syntaxes) as assoc:
        accepted = {str(context.transfer_syntax[0]) for context in assoc.accepted_contexts}
    assert accepted == set(syntaxes) and len(accepted) > 40


def test_of_several_syntaxes_explicit_little_endian_is_taken(receiver: Receiver) -> None:
    from tests.pacs import client

    ae = client("SCU")
    ae.add_requested_context(CT, ["1.2.840.10008.1.2.4.70", IMPLICIT, EXPLICIT])
    assoc = ae.associate("127.0.0.1", receiver.port, ae_title="EDGE")
    assert [context.transfer_syntax for context in assoc.accepted_contexts] == [[EXPLICIT]]
    assoc.release()


def test_storage_classes_are_accepted(receiver: Receiver) -> None:
    classes = storage_classes()
    assert f"all {len(classes)} storage classes" in row("conformance-services", "SCP | Storage")[2]
    for start in range(0, len(classes), 100):
        with association(receiver.port, contexts=classes[start : start + 100]) as assoc:
            assert len(assoc.accepted_contexts) == len(classes[start : start + 100])


def test_the_pdu_size_and_the_implementation_are_told(receiver: Receiver) -> None:
    with association(receiver.port) as assoc:
        peer = assoc.acceptor
        assert row("conformance-associations", "PDU size, largest received")[1] == str(peer.maximum_length)
        told = row("conformance-associations", "implementation class")[1]
        assert told == f"`{peer.implementation_class_uid}`, `{peer.implementation_version_name}`"


def test_who_is_rejected_is_told_how(receiver: Receiver) -> None:
    def rejected(**how: str) -> tuple[int, int, int]:
        with association(receiver.port, **how) as assoc:
            answer = assoc.acceptor.primitive
            return answer.result, answer.result_source, answer.diagnostic

    told = {
        (1, 1, 7): "another called AE title (permanent, service user, 7)",
        (1, 1, 3): "`calling` (permanent, service user, 3)",
        (2, 3, 2): "one association too many (transient, presentation, 2)",
    }
    with association(receiver.port):
        assert rejected() == (2, 3, 2)
    assert rejected(called="OTHER") == (1, 1, 7)
    assert rejected(calling="OTHER") == (1, 1, 3)
    words = " ".join(PAGE.split())
    assert all(text in words for text in told.values())


def test_answers_are_of_the_classes_that_are_told(tmp_path: Path) -> None:
    one = source(tmp_path / "one.dcm", np.zeros((48, 64), np.uint16))
    cine = source(tmp_path / "cine.dcm", np.zeros((2, 48, 64), np.uint8))
    made = set()
    for path in (one, cine):
        for payload in (boxes, mask):
            found = [Found(path, 0, payload(64, 48))] + [Found(path, 1, payload(64, 48))] * (path == cine)
            for kind, objects in build_all(KINDS, inference(found)).items():
                made |= {(kind, str(data.SOPClassUID)) for data in objects}
    assert made == {(kind, uid) for kind, uids in conformance.ANSWERS.items() for uid in uids}
