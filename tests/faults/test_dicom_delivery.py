"""Delivery to real archives: Orthanc and dcmtk's storescp, well and unwell."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
import pytest

pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
pytest.importorskip("pynetdicom", reason="the extra 'pacs' is not installed")
from edge.dicom.delivery.carrier import Report, Unreachable, carrier
from edge.dicom.delivery.destination import destination
from edge.dicom.delivery.outbox import Outbox
from edge.dicom.delivery.records import State
from edge.dicom.receiving.receiver import Receiver, ReceiverSettings
from edge.spool import Spool, Watermarks
from tests.orthanc import AET, free_port, orthanc
from tests.pacs import association, authority, client, ct_slice, store, tool

pytestmark = pytest.mark.usefixtures("no_sync")

SEG = "1.2.840.10008.5.1.4.1.1.66.4"


def until(holds: Callable[[], object], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.02)


@contextmanager
def outbox(folder: Path, *addresses: str, **how) -> Iterator[Outbox]:
    with Outbox(folder / "outbox", [destination(address) for address in addresses], **how) as box:
        yield box


def states(box: Outbox) -> list[str]:
    return [delivery.state.value for delivery in box.deliveries()]


@contextmanager
def storescp(folder: Path, *options: str, port: int = 0) -> Iterator[int]:
    """dcmtk's archive."""
    port = port or free_port()
    command = [tool("storescp"), "--output-directory", str(folder), *options, str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: _listens(port) or process.poll() is not None)
        yield port
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    """Whether somebody listens on a port; without a connection, which storescp would count."""
    sockets = Path("/proc/net/tcp").read_text().splitlines()
    return any(f":{port:04X} " in line for line in sockets if " 0A " in line)


def test_orthanc_gets_it_by_c_store_and_commits_to_it(tmp_path):
    reports, told = free_port(), []
    with orthanc(tmp_path, modalities={"edge": ("EDGE", reports)}) as pacs:
        to = f"dicom+scu://{AET}@127.0.0.1:{pacs.port}?kinds=sr&commitment=yes&reports=127.0.0.1:{reports}"
        with outbox(tmp_path, to, on_confirmed=told.append) as box:
            box.put("k", {"sr": [ct_slice(1), ct_slice(2)]})
            until(lambda: told)
            assert told == ["k"] and states(box) == ["committed"] * 2
        assert pacs.uids() == ["1.2.3.1", "1.2.3.2"]
        assert all(data.PatientName == "Secret^Jane" for data in pacs.datasets())


def test_orthanc_may_report_to_the_receiver(tmp_path):
    """An archive knows one port of an AE title: the one that it sends studies to."""
    told: list[str] = []
    port = free_port()
    with orthanc(tmp_path, modalities={"edge": ("EDGE", port)}) as pacs:
        to = f"dicom+scu://{AET}@127.0.0.1:{pacs.port}?kinds=sr&commitment=yes"
        with (
            outbox(tmp_path, to, on_confirmed=told.append) as box,
            Spool(tmp_path / "spool", marks=Watermarks(0, 0)) as spool,
            Receiver(spool, ReceiverSettings(port=port), box.reported) as receiver,
        ):
            box.put("k", {"sr": [ct_slice(1), ct_slice(2)]})
            until(lambda: told)
            pacs.post("modalities/edge/store", pacs.get("instances"))
            assert receiver.counts["stored"] == 2


def test_what_orthanc_has_lost_is_not_committed_and_sent_again(tmp_path):
    """Between the C-STORE and the request to commit, somebody deletes it."""
    reports, told = free_port(), []
    with orthanc(tmp_path, modalities={"edge": ("EDGE", reports)}) as pacs:
        to = f"dicom+scu://{AET}@127.0.0.1:{pacs.port}?kinds=sr&commitment=yes&reports=127.0.0.1:{reports}"

        def way(where):
            found = carrier(where)
            commit, asked = found.commit, []

            def forgetful(*args):
                if not asked:
                    for instance in pacs.get("instances"):
                        pacs.request(f"instances/{instance}", method="DELETE")
                asked.append(args)
                commit(*args)

            found.commit = forgetful
            return found

        with outbox(tmp_path, to, way=way, on_confirmed=told.append) as box:
            box.put("k", {"sr": [ct_slice(1)]})
            until(lambda: told)
            assert box.deliveries()[0].attempts == 2
        assert pacs.uids() == ["1.2.3.1"]


def test_orthanc_gets_it_by_stow(tmp_path):
    told = []
    with orthanc(tmp_path) as pacs:
        with outbox(tmp_path, f"stow+http://{pacs.dicomweb}?kinds=sr", on_delivered=told.append) as box:
            box.put("k", {"sr": [ct_slice(number) for number in range(5)]})
            until(lambda: told)
        assert pacs.uids() == [f"1.2.3.{number}" for number in range(5)]


def test_an_archive_that_comes_back_gets_what_waited(tmp_path):
    port = free_port()
    with outbox(tmp_path, f"dicom+scu://{AET}@127.0.0.1:{port}?kinds=sr") as box:
        box.put("k", {"sr": [ct_slice(1)]})
        until(lambda: box.deliveries()[0].reason)
        assert "Connection refused" in box.deliveries()[0].reason
        with storescp(tmp_path, port=port):
            until(lambda: states(box) == ["sent"])


def test_an_archive_that_takes_no_seg_gets_a_picture(tmp_path):
    profile = tmp_path / "storescp.cfg"
    profile.write_text(
        "[[TransferSyntaxes]]\n[Plain]\nTransferSyntax1 = LittleEndianExplicit\n"
        "[[PresentationContexts]]\n[Some]\n"
        "PresentationContext1 = SecondaryCaptureImageStorage\\Plain\n"
        "PresentationContext2 = CTImageStorage\\Plain\n"
        "PresentationContext3 = VerificationSOPClass\\Plain\n"
        "[[Profiles]]\n[Default]\nPresentationContexts = Some\n"
    )
    with (
        storescp(tmp_path, "--config-file", str(profile), "Default") as port,
        outbox(tmp_path, f"dicom+scu://ARCHIVE@127.0.0.1:{port}?kinds=seg&fallback=sc") as box,
    ):
        box.put("k", {"seg": [ct_slice(1, SOPClassUID=SEG)], "sc": [ct_slice(2)]})
        until(lambda: states(box) == ["replaced", "sent"])
        assert box.deliveries()[0].reason == "it does not take Segmentation Storage; SC instead"


@pytest.mark.parametrize(
    ("accepts", "prefers", "arrives"),
    [
        ("--prefer-little", "explicit", "1.2.840.10008.1.2.1"),
        ("--implicit", "explicit", "1.2.840.10008.1.2"),
        ("--accept-all", "implicit", "1.2.840.10008.1.2"),
        ("--accept-all", "deflated", "1.2.840.10008.1.2.1.99"),
    ],
)
def test_it_is_sent_in_a_syntax_that_the_archive_takes(tmp_path, accepts, prefers, arrives):
    with (
        storescp(tmp_path, accepts, "--bit-preserving") as port,
        outbox(tmp_path, f"dicom+scu://ARCHIVE@127.0.0.1:{port}?kinds=sr&syntax={prefers}") as box,
    ):
        box.put("k", {"sr": [ct_slice(1)]})
        until(lambda: states(box) == ["sent"])
    [put] = (tmp_path / "outbox" / "objects").iterdir()
    [file] = (path for path in tmp_path.iterdir() if path.is_file())
    data = pydicom.dcmread(file)
    assert data.file_meta.TransferSyntaxUID == arrives
    assert data.PixelData == ct_slice(1).PixelData
    assert data.to_json() == pydicom.dcmread(put).to_json()


@pytest.mark.parametrize("fault", ["--abort-during", "--abort-after", "--refuse"])
def test_an_archive_that_aborts_gets_all_of_it_when_it_is_well_again(tmp_path, fault):
    port, told = free_port(), []
    sent = [ct_slice(number, size=256) for number in range(4)]
    with outbox(tmp_path, f"dicom+scu://A@127.0.0.1:{port}?kinds=sr", on_delivered=told.append) as box:
        with storescp(tmp_path, fault, port=port):
            box.put("k", {"sr": sent})
            until(lambda: any(delivery.reason for delivery in box.deliveries()))
        assert not told and "waiting" in states(box)
        (well := tmp_path / "well").mkdir()
        with storescp(well, port=port):
            until(lambda: told)
        assert states(box) == ["sent"] * 4 and any(well.iterdir())


def test_an_archive_that_dies_in_mid_transfer_gets_all_of_it_later(tmp_path):
    told = []
    with orthanc(tmp_path) as pacs:
        to = f"dicom+scu://{AET}@127.0.0.1:{pacs.port}?kinds=sr"
        with outbox(tmp_path, to, on_delivered=told.append) as box:
            box.put("k", {"sr": [ct_slice(number, size=128) for number in range(200)]})
            until(lambda: "sent" in states(box))
            pacs.process.kill()
            until(lambda: any(delivery.reason for delivery in box.deliveries(State.WAITING)))
            assert not told
            with orthanc(tmp_path, DicomPort=pacs.port) as again:
                until(lambda: told, 30)
                assert len(again.uids()) == 200


def test_tls_with_certificates_of_both_sides(tmp_path):
    (folder := tmp_path / "certificates").mkdir()
    files = authority(folder)
    serving = ["+tls", str(files["server.key"]), str(files["server.pem"]), "+cf", str(files["ca.pem"])]
    with storescp(tmp_path, *serving, "--require-peer-cert") as port:
        place = f"dicom+scu://ARCHIVE@127.0.0.1:{port}?kinds=sr&tls=1&ca={files['ca.pem']}"
        own = f"&cert={files['client.pem']}&key={files['client.key']}"
        with outbox(tmp_path, place + own) as box:
            box.put("k", {"sr": [ct_slice(1)]})
            until(lambda: states(box) == ["sent"])
        for wrong in (place, place.replace("&tls=1", "").partition("&ca")[0]):
            with pytest.raises(Unreachable):
                carrier(destination(wrong + "&timeout=3")).echo()


def test_a_certificate_of_somebody_else_is_not_trusted(tmp_path):
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    ours, theirs = authority(tmp_path / "ours"), authority(tmp_path / "theirs")
    serving = ["+tls", str(theirs["server.key"]), str(theirs["server.pem"]), "--ignore-peer-cert"]
    with storescp(tmp_path, *serving) as port:
        there = f"dicom+scu://ARCHIVE@127.0.0.1:{port}?tls=1&timeout=3&ca={ours['ca.pem']}"
        with pytest.raises(Unreachable, match="certificate verify failed"):
            carrier(destination(there)).echo()


def test_a_report_on_the_association_of_the_request(tmp_path):
    """An archive that commits before it answers, which many do, and one that has no port of ours to call."""
    from pynetdicom import evt

    pushed = "1.2.840.10008.1.20.1"

    def store(event):
        return 0x0000

    def act(event):
        wanted = event.action_information
        event.assoc.send_n_event_report(wanted, 1, pushed, f"{pushed}.1")
        return 0x0000, None

    archive = client("ARCHIVE")
    archive.add_supported_context(SEG)
    archive.add_supported_context(pushed)
    archive.add_supported_context(ct_slice(1).SOPClassUID)
    archive.add_supported_context("1.2.840.10008.1.1")
    handlers = [(evt.EVT_C_STORE, store), (evt.EVT_N_ACTION, act)]
    server = archive.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    told = []
    try:
        to = f"dicom+scu://ARCHIVE@127.0.0.1:{server.server_address[1]}?kinds=sr&commitment=yes"
        with outbox(tmp_path, to, on_confirmed=told.append) as box:
            box.put("k", {"sr": [ct_slice(1)]})
            until(lambda: told)
    finally:
        archive.shutdown()


@pytest.mark.parametrize("items", [0, 30_000])
def test_a_report_that_nobody_asked_for_is_refused_and_harms_nobody(tmp_path, items):
    """Also one of several megabytes."""
    from pynetdicom import build_role

    pushed = "1.2.840.10008.1.20.1"
    heard: list[Report] = []
    report = pydicom.Dataset()
    report.TransactionUID = "2.25.7"
    report.ReferencedSOPSequence = [pydicom.Dataset() for _ in range(items)]
    for item in report.ReferencedSOPSequence:
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = SEG, "1.2.3"
    with (
        Spool(tmp_path / "spool", marks=Watermarks(0, 0)) as spool,
        Receiver(spool, ReceiverSettings(port=0), lambda one: bool(heard.append(one))) as receiver,
        association(
            receiver.port,
            contexts=[pushed, ct_slice(1).SOPClassUID],
            ext_neg=[build_role(pushed, scp_role=True)],
        ) as archive,
    ):
        status, _ = archive.send_n_event_report(report, 1, pushed, f"{pushed}.1")
        assert status.Status == 0x0115
        assert len(heard) == (0 if items else 1)
        assert store(archive, ct_slice(1)) == 0 and receiver.counts["stored"] == 1


CHILD = """
import sys
from pathlib import Path
from edge.dicom.delivery.destination import destination
from edge.dicom.delivery.outbox import Outbox
from tests.pacs import ct_slice

with Outbox(Path(sys.argv[1]), [destination(sys.argv[2])]) as box:
    for number in range(60):
        box.put(f"k{number}", {"sr": [ct_slice(number)]})
        print(number, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("after", [1, 20, 45])
def test_what_was_put_is_delivered_once_although_the_process_is_killed(tmp_path, after):
    told: list[str] = []
    with orthanc(tmp_path, OverwriteInstances=False) as pacs:
        to = f"dicom+scu://{AET}@127.0.0.1:{pacs.port}?kinds=sr"
        words = [sys.executable, "-c", CHILD, str(tmp_path / "outbox"), to]
        root = Path(__file__).parents[2]
        with subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
        ) as child:
            assert child.stdout is not None
            for line in child.stdout:
                if int(line) >= after:
                    break
            child.kill()
        with outbox(tmp_path, to, on_delivered=told.append) as box:
            until(lambda: set(states(box)) == {"sent"})
        found = pacs.uids()
        assert {f"1.2.3.{number}" for number in range(after + 1)} <= set(found)
        assert len(found) == len(set(found)) == len(told)
