"""`edge dicom send`, `echo` and `receive`, against receivers of this package and of dcmtk."""

import json
import signal
import subprocess
import sys

import pytest

pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
pytest.importorskip("pynetdicom", reason="the extra 'pacs' is not installed")
from edge.cli import main
from edge.dicom.receiving.receiver import Receiver, ReceiverSettings
from edge.spool import Spool, Watermarks
from tests.orthanc import AET, free_port, orthanc
from tests.pacs import association, ct_slice, store

pytestmark = pytest.mark.usefixtures("no_sync")


@pytest.fixture
def study(tmp_path):
    """A folder of three files, and one that is none."""
    folder = tmp_path / "study"
    (folder / "deeper").mkdir(parents=True)
    for number in range(3):
        place = folder / "deeper" if number else folder
        ct_slice(number).save_as(place / f"{number}.dcm", enforce_file_format=True)
    (folder / "notes.txt").write_text("not DICOM")
    return folder


@pytest.fixture
def receiver(tmp_path):
    with (
        Spool(tmp_path / "spool", marks=Watermarks(0, 0)) as spool,
        Receiver(spool, ReceiverSettings(port=0)) as opened,
    ):
        yield opened


def test_a_folder_is_sent(study, receiver, capsys):
    assert main(["dicom", "send", str(study), "--to", f"dicom+scu://EDGE@127.0.0.1:{receiver.port}"]) == 0
    assert capsys.readouterr().out.startswith(f"EDGE@127.0.0.1:{receiver.port}: 3 stored in ")
    assert receiver.counts["stored"] == 3


def test_sending_tells_machines_the_same(study, receiver, capsys):
    to = f"dicom+scu://EDGE@127.0.0.1:{receiver.port}"
    (study / "bad.dcm").write_bytes(b"\0" * 200)
    assert main(["dicom", "send", str(study), "--to", to, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["stored"], facts["refused"], facts["failed"], facts["skipped"]) == (3, 0, 0, 1)


def test_a_file_that_the_archive_does_not_take_is_an_error(study, receiver, capsys):
    ct_slice(9, SOPClassUID="1.2.3.4").save_as(study / "odd.dcm", enforce_file_format=True)
    assert main(["dicom", "send", str(study), "--to", f"dicom+scu://EDGE@127.0.0.1:{receiver.port}"]) == 5
    told = capsys.readouterr()
    assert "3 stored, 1 refused" in told.out and "it does not take 1.2.3.4" in told.out
    assert "1 of 4 objects were not delivered" in told.err


def test_nothing_to_send_is_an_error(tmp_path, capsys):
    for path, says in ((tmp_path, "nothing to send"), (tmp_path / "missing", "cannot read")):
        assert main(["dicom", "send", str(path), "--to", "dicom+scu://A@127.0.0.1:1"]) == 4
        assert says in capsys.readouterr().err


def test_an_archive_that_is_not_there_is_an_error(study, capsys):
    port = free_port()
    for words in (["send", str(study), "--to"], ["echo"]):
        assert main(["dicom", *words, f"dicom+scu://A@127.0.0.1:{port}"]) == 5
        assert "Connection refused" in capsys.readouterr().err


def test_an_archive_that_rejects_the_title_says_so(receiver, capsys):
    assert main(["dicom", "echo", f"dicom+scu://OTHER@127.0.0.1:{receiver.port}"]) == 5
    assert "called ae title not recognised" in capsys.readouterr().err.lower()


def test_an_archive_answers(receiver, capsys):
    assert main(["dicom", "echo", f"dicom+scu://EDGE@127.0.0.1:{receiver.port}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["to"] == f"EDGE@127.0.0.1:{receiver.port}"


def test_sending_with_commitment_waits_for_it(study, tmp_path, capsys):
    reports = free_port()
    with orthanc(tmp_path, modalities={"edge": ("EDGE", reports)}) as pacs:
        to = f"dicom+scu://{AET}@127.0.0.1:{pacs.port}?commitment=yes&reports=127.0.0.1:{reports}"
        assert main(["dicom", "send", str(study), "--to", to]) == 0
        assert "3 stored, 3 committed" in capsys.readouterr().out
        assert len(pacs.uids()) == 3
        assert main(["dicom", "send", str(study), "--to", f"stow+http://{pacs.dicomweb}"]) == 0
        assert main(["dicom", "echo", f"stow+http://{pacs.dicomweb}"]) == 0


def test_receiving_ends_with_counts_when_it_is_told_to(tmp_path):
    words = [sys.executable, "-m", "edge", "dicom", "receive", "--spool", str(tmp_path / "spool")]
    words += ["--port", "0", "--aet", "BOX", "--calling", "SCU", "--allow", "127.0.0.0/8", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert line.startswith("BOX listens on 127.0.0.1:")
            port = int(line.partition(";")[0].rpartition(":")[2])
            with association(port, called="BOX") as sent:
                assert store(sent, ct_slice(1)) == 0
            with association(port, called="BOX", calling="STRANGER") as other:
                assert other.is_rejected
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0
    counts = json.loads(out)
    assert counts["stored"] == 1 and counts["rejected"] == 1
    with Spool(tmp_path / "spool", marks=Watermarks(0, 0)) as spool:
        assert [item.uid for item in spool.objects()] == ["1.2.3.1"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--tls-cert", "a.pem"], "TLS is not complete"),
        (["--aet", "MUCH TOO LONG A TITLE"], "AE title"),
        (["--allow", "nonsense"], "networks"),
    ],
)
def test_settings_that_cannot_be_are_errors(tmp_path, capsys, words, says):
    assert main(["dicom", "receive", "--spool", str(tmp_path / "spool"), "--port", "0", *words]) == 2
    assert says in capsys.readouterr().err
