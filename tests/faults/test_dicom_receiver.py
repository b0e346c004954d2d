"""The DICOM receiver with good and bad clients: what is acknowledged is kept, the rest leaves nothing."""

from __future__ import annotations

import builtins
import gc
import logging
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
pytest.importorskip("pynetdicom", reason="the extra 'pacs' is not installed")

from edge.config import assets  # noqa: E402
from edge.dicom.receiving.receiver import Receiver, ReceiverSettings, server_tls  # noqa: E402
from edge.errors import InputError, MissingPackage, UsageError  # noqa: E402
from edge.spool import Disk, Spool, State, Watermarks  # noqa: E402
from tests.pacs import (  # noqa: E402
    CT,
    association,
    authority,
    begin_to_store,
    ct_slice,
    data_set_of,
    encoded,
    store,
    tool,
)

SUCCESS, OUT_OF_RESOURCES = 0x0000, 0xA700


class Room(Disk):
    """A disk whose free space a test sets."""

    space = 1 << 40

    def free(self, path: Path) -> int:
        return self.space


@pytest.fixture
def disk() -> Room:
    return Room()


@pytest.fixture
def spool(tmp_path, disk):
    with Spool(tmp_path / "spool", disk=disk, marks=Watermarks(1000, 2000)) as spool:
        yield spool


@pytest.fixture
def receive(spool):
    """Starts receivers, and closes them."""
    opened: list[Receiver] = []

    def start(**settings: Any) -> Receiver:
        opened.append(Receiver(spool, ReceiverSettings(port=0, **settings)))
        return opened[-1]

    yield start
    for receiver in opened:
        receiver.close(grace=0.2)
    gc.collect()  # what was left open is told here


def files(spool: Spool) -> list[Path]:
    return sorted(path for path in (spool.root / "objects").rglob("*") if path.is_file())


def soon(what: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.01)
    return what()


def test_an_object_is_kept_as_it_was_sent_and_echoes_are_answered(receive, spool):
    data = ct_slice(1)
    with association(receive().port) as assoc:
        assert assoc.send_c_echo().Status == SUCCESS
        assert store(assoc, data) == SUCCESS
        (file,) = files(spool)  # already: not after the association
        assert data_set_of(file.read_bytes()) == encoded(data)
    read = pydicom.dcmread(file)
    assert read.file_meta.MediaStorageSOPInstanceUID == read.SOPInstanceUID == "1.2.3.1"
    assert read.file_meta.MediaStorageSOPClassUID == CT
    assert read.file_meta.SourceApplicationEntityTitle == "SCU"
    claim = spool.claim_series(quiet=0)
    assert (claim.study, claim.series, claim.objects[0].path) == ("1.2.8", "1.2.9", file)


def test_real_files_of_every_syntax_are_kept_byte_by_byte(receive, spool, monkeypatch):
    from pynetdicom import _config

    paths = [path for path in sorted((assets() / "dicom" / "files").glob("*.dcm")) if sendable(path)]
    if not paths:
        pytest.skip("the DICOM files of the assets are absent")
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)
    receiver, sent = receive(), {}
    for path in paths:
        meta = pydicom.filereader.read_file_meta_info(path)
        how = {"contexts": [meta.MediaStorageSOPClassUID], "syntaxes": [meta.TransferSyntaxUID]}
        with association(receiver.port, **how) as assoc:
            assert assoc.accepted_contexts, path.name
            assert assoc.send_c_store(path).Status == SUCCESS
        sent.setdefault(meta.MediaStorageSOPInstanceUID, set()).add(data_set_of(path.read_bytes()))
    for item in spool.objects():
        assert data_set_of(item.path.read_bytes()) in sent[item.uid]
    assert len(spool.objects()) == sum(map(len, sent.values())) > 40
    assert len({item.syntax for item in spool.objects()}) > 10


def sendable(path: Path) -> bool:
    """Whether pynetdicom's client can send the file as it is."""
    from pynetdicom import ALL_TRANSFER_SYNTAXES

    with path.open("rb") as file:
        if file.read(132)[128:] != b"DICM":
            return False
    meta = pydicom.filereader.read_file_meta_info(path)
    named = all(meta.get(k) for k in ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID"))
    return named and meta.get("TransferSyntaxUID") in ALL_TRANSFER_SYNTAXES and path.stat().st_size < 4 << 20


def test_the_same_object_again_is_success_and_not_doubled(receive, spool):
    receiver = receive()
    with association(receiver.port) as assoc:
        assert [store(assoc, ct_slice(1)) for _ in range(3)] == [SUCCESS] * 3
    assert len(files(spool)) == 1
    assert receiver.counts["stored"] == 1 and receiver.counts["known"] == 2


def test_another_object_with_the_same_uid_is_kept_apart(receive, spool):
    with association(receive().port) as assoc:
        assert store(assoc, ct_slice(1)) == SUCCESS
        assert store(assoc, ct_slice(1, PatientID="PID78")) == SUCCESS
    assert len(files(spool)) == 2
    (apart,) = spool.objects(State.QUARANTINED)
    assert b"PID78" in apart.path.read_bytes()


def test_nothing_of_the_patient_is_logged(receive, spool, caplog):
    caplog.set_level(logging.DEBUG)
    with association(receive().port) as assoc:
        store(assoc, ct_slice(1))
        store(assoc, ct_slice(1, PatientID="PID78"))
        store(assoc, ct_slice(2, StudyInstanceUID=""))
    spool.index()
    assert "association accepted" in caplog.text and "quarantined" in caplog.text
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("edge"))
    for secret in ("Secret", "PID7", "1.2.3.1", "1.2.8"):
        assert secret not in ours
    assert not [record for record in caplog.records if record.name.startswith("pynetdicom")]


def test_a_full_disk_refuses_with_a700_and_recovers_on_the_same_association(receive, spool, disk):
    receiver = receive()
    with association(receiver.port) as assoc:
        disk.space = 500
        assert store(assoc, ct_slice(1)) == OUT_OF_RESOURCES
        assert files(spool) == []
        disk.space = 3000
        assert store(assoc, ct_slice(1)) == SUCCESS
    assert receiver.counts["refused"] == 1


@pytest.mark.parametrize("step", ["write", "sync", "sync_folder", "commit"])
def test_a_disk_that_fails_is_no_success(receive, spool, disk, step):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with association(receive().port) as assoc:
        setattr(disk, step, fail)
        assert store(assoc, ct_slice(1)) == OUT_OF_RESOURCES
        delattr(disk, step)
        assert files(spool) == []
        assert store(assoc, ct_slice(1)) == SUCCESS


@pytest.mark.parametrize("how", ["abort", "cut"])
def test_a_transfer_that_ends_in_the_middle_leaves_nothing(receive, spool, how):
    receiver = receive()
    with association(receiver.port) as assoc:
        begin_to_store(assoc, ct_slice(1, size=128), pieces=6)
        assert soon(lambda: len(files(spool)) == 1)
        if how == "abort":
            assoc.abort()
        else:
            assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)
        assert soon(lambda: files(spool) == [])
    assert spool.objects() == []
    with association(receiver.port) as assoc:
        assert store(assoc, ct_slice(1)) == SUCCESS


def test_storescu_that_is_killed_in_mid_transfer_leaves_nothing(receive, spool, tmp_path):
    port, path = receive().port, tmp_path / "large.dcm"
    large = ct_slice(1, size=4096)
    large.PixelData = bytes(2 * 8192**2)
    large.Rows = large.Columns = 8192
    pydicom.dcmwrite(path, large, enforce_file_format=True)
    send = [tool("storescu"), "-aec", "EDGE", "127.0.0.1", str(port), str(path)]
    process = subprocess.Popen(send)
    assert soon(lambda: sum(file.stat().st_size for file in files(spool)) > 1 << 16)
    process.kill()
    assert process.wait() < 0
    assert soon(lambda: files(spool) == [])
    assert spool.objects() == []
    subprocess.run(send, check=True, timeout=60)
    assert len(spool.objects()) == 1


@pytest.mark.parametrize(
    "settings, how",
    [
        ({}, {"called": "OTHER"}),
        ({"calling": ("CT1", "CT2")}, {"calling": "CT3"}),
    ],
)
def test_ae_titles_that_are_not_on_the_list_are_rejected_and_the_log_says_which(
    receive, settings, how, caplog
):
    receiver = receive(**settings)
    with association(receiver.port, **how) as assoc:
        assert assoc.is_rejected
    assert soon(lambda: receiver.counts["rejected"] == 1)
    (said,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert f"{next(iter(how))} ae title not recognised" in said.getMessage()
    assert repr(next(iter(how.values()))) in said.getMessage()


def test_ae_titles_on_the_list_are_accepted(receive):
    port = receive(calling=("CT1", "CT2"), any_called=True).port
    with association(port, calling="CT2", called="OTHER") as assoc:
        assert assoc.is_established


@pytest.mark.parametrize("networks, expected", [(("10.0.0.0/8",), False), (("127.0.0.0/8",), True)])
def test_addresses_are_taken_by_the_list(receive, networks, expected):
    receiver = receive(networks=networks)
    with association(receiver.port) as assoc:
        assert assoc.is_established is expected
    assert receiver.counts["unknown_address"] == (0 if expected else 1)


def test_private_classes_are_taken_only_on_request(receive, spool, monkeypatch):
    from pynetdicom import _config

    monkeypatch.setattr(_config, "UNRESTRICTED_STORAGE_SERVICE", False)
    private = "1.3.6.1.4.1.99999.1"
    with association(receive().port, contexts=[private]) as assoc:
        assert not assoc.accepted_contexts
    with association(receive(any_class=True).port, contexts=[private, CT]) as assoc:
        assert store(assoc, ct_slice(1, SOPClassUID=private)) == SUCCESS
    assert spool.objects()[0].sop_class == private


def test_an_association_too_many_is_rejected(receive):
    port = receive(associations=1).port
    with association(port) as first, association(port) as second:
        assert first.is_established and second.is_rejected


def test_connections_without_a_word_are_bounded_too(receive):
    receiver = receive(associations=1)  # 10 connections
    held = [socket.create_connection(("127.0.0.1", receiver.port)) for _ in range(12)]
    assert soon(lambda: receiver.counts["too_many"] == 2)
    for connection in held:
        connection.close()
    assert soon(lambda: not receiver._server.busy)
    with association(receiver.port) as assoc:
        assert assoc.is_established


@pytest.mark.parametrize("said", [b"", b"\x01\x00\x00\x00\x01\x00half a request"])
def test_a_client_that_connects_and_sleeps_is_dropped(receive, said):
    receiver = receive(idle=0.5)
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as connection:
        connection.sendall(said)
        assert connection.recv(100) == b""  # closed
    assert soon(lambda: not receiver._server.busy)


@pytest.mark.parametrize("pieces", [0, 4], ids=["at once", "in the middle of an object"])
def test_a_client_that_opens_an_association_and_sleeps_is_dropped(receive, spool, pieces):
    receiver = receive(idle=0.5)
    with association(receiver.port) as assoc:
        begin_to_store(assoc, ct_slice(1, size=128), pieces)
        assert soon(lambda: assoc.is_aborted)
    assert soon(lambda: not receiver._server.busy) and files(spool) == []
    assert receiver.counts["aborted"] == 1


def test_a_pdu_that_claims_gigabytes_is_not_waited_for(receive):
    receiver = receive()
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as connection:
        connection.sendall(struct.pack(">BBL", 1, 0, 0xFFFFFFF0) + bytes(1000))
        with _closed():
            assert connection.recv(100) == b""
    with association(receiver.port) as assoc:
        assert assoc.is_established


class _closed:
    """A reset is a closed connection too."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, *_: object) -> bool:
        return kind is not None and issubclass(kind, ConnectionResetError)


def test_what_is_no_dicom_at_all_harms_nobody(receive):
    receiver = receive(idle=1)
    for said in (b"GET / HTTP/1.1\r\n\r\n", b"\x04\x00\x00\x00\x00\x06abcdef", bytes(5000)):
        with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as connection:
            connection.sendall(said)
            with _closed():
                while connection.recv(100):
                    pass
    assert soon(lambda: not receiver._server.busy)
    with association(receiver.port) as assoc:
        assert assoc.send_c_echo().Status == SUCCESS


def test_tls_takes_clients_with_a_certificate_and_is_held_up_by_nobody(receive, spool, tmp_path, caplog):
    (tmp_path / "ca").mkdir()
    made = authority(tmp_path / "ca")
    context = server_tls(made["server.pem"], made["server.key"], clients=made["ca.pem"])
    receiver = receive(tls=context, idle=5)
    client = ssl.create_default_context(cafile=str(made["ca.pem"]))
    with socket.create_connection(("127.0.0.1", receiver.port)):  # says nothing, in the middle of a handshake
        with association(receiver.port, tls_args=(client, "127.0.0.1")) as assoc:
            assert not assoc.is_established  # no certificate
        client.load_cert_chain(made["client.pem"], made["client.key"])
        with association(receiver.port, tls_args=(client, "127.0.0.1")) as assoc:
            assert store(assoc, ct_slice(1)) == SUCCESS
        with association(receiver.port) as plain:
            assert not plain.is_established
    assert len(files(spool)) == 1
    assert soon(lambda: receiver.counts["failed_handshake"] == 3)
    assert "peer did not return a certificate" in caplog.text


def test_certificates_that_cannot_be_used_are_a_plain_error(tmp_path):
    (tmp_path / "a.pem").write_text("no certificate")
    for path in (tmp_path / "a.pem", tmp_path / "absent.pem"):
        with pytest.raises(InputError, match="TLS"):
            server_tls(path, path)


def test_a_port_in_use_and_settings_that_cannot_be_are_plain_errors(receive, spool):
    port = receive().port
    with pytest.raises(InputError, match=str(port)):
        Receiver(spool, ReceiverSettings(port=port))
    with pytest.raises(UsageError, match="network"):
        receive(networks=("10.0.0.0/99",))
    with pytest.raises(UsageError, match="AE title"):
        receive(aet="A TITLE THAT IS TOO LONG")


def test_without_pynetdicom_the_error_names_the_extra(spool, monkeypatch):
    real = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name.startswith("pynetdicom"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingPackage, match=r"\[pacs\]"):
        Receiver(spool, ReceiverSettings(port=0))


@pytest.mark.slow
def test_25_associations_at_once_store_everything_once(receive, spool):
    receiver, statuses = receive(), []

    def send(first: int) -> None:
        with association(receiver.port) as assoc:
            statuses.extend(store(assoc, ct_slice(number)) for number in range(first, first + 12))

    threads = [threading.Thread(target=send, args=(8 * index,)) for index in range(25)]  # 4 of 12 overlap
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [SUCCESS] * 300
    assert len(files(spool)) == len(spool.objects()) == 8 * 24 + 12
    assert not spool.counts()[State.QUARANTINED]


@pytest.mark.parametrize("sender", ["storescu", "dcmsend"])
def test_dcmtk_sends_and_echoes(receive, spool, tmp_path, sender):
    receiver, paths = receive(), [tmp_path / f"{n}.dcm" for n in range(5)]
    for number, path in enumerate(paths):
        pydicom.dcmwrite(path, ct_slice(number), enforce_file_format=True)
    where = ["-aec", "EDGE", "127.0.0.1", str(receiver.port)]
    subprocess.run([tool("echoscu"), *where], check=True, timeout=60)
    subprocess.run([tool(sender), *where, *map(str, paths)], check=True, timeout=60)
    kept = {item.uid: data_set_of(item.path.read_bytes()) for item in spool.objects()}
    assert kept == {f"1.2.3.{n}": encoded(ct_slice(n)) for n in range(5)}
    wrong = subprocess.run([tool("echoscu"), "-aec", "OTHER", *where[2:]], capture_output=True, timeout=60)
    assert wrong.returncode != 0
