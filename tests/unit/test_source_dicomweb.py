"""A DICOMweb service as a source: what is new in a list of studies is fetched once, as it is stored there."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
pytest.importorskip("requests", reason="the extra 'pacs' is not installed")

from live import going, until  # noqa: E402
from streaming import Collect  # noqa: E402
from test_source_spooled import Box  # noqa: E402

from edge.dicom.delivery.destination import Certificates  # noqa: E402
from edge.dicom.receiving.multipart import FirstPart  # noqa: E402
from edge.dicom.receiving.webpoll import WebPoll  # noqa: E402
from edge.dicom.service import Service  # noqa: E402
from edge.errors import InputError, UsageError  # noqa: E402
from edge.sources import open_source  # noqa: E402
from edge.spool import Spool, State, Watermarks  # noqa: E402
from edge.stream.config import FeedConfig  # noqa: E402
from edge.stream.feed import open_feed  # noqa: E402
from edge.stream.network import null_network  # noqa: E402
from edge.stream.run import Run  # noqa: E402
from tests.orthanc import Orthanc, orthanc  # noqa: E402
from tests.pacs import ct_slice, data_set_of  # noqa: E402


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("pacs")) as pacs:
        yield pacs


@pytest.fixture(autouse=True)
def _empty(request: pytest.FixtureRequest) -> None:
    if "pacs" in request.fixturenames:
        pacs = request.getfixturevalue("pacs")
        for study in pacs.get("studies"):
            pacs.request(f"studies/{study}", method="DELETE")


@pytest.fixture
def spool(tmp_path: Path, no_sync: None) -> Iterator[Spool]:
    with Spool(tmp_path / "spool", marks=Watermarks(0, 0)) as spool:
        yield spool


def file_of(tmp_path: Path, number: int, study: str = "1.2.8", **values: Any) -> bytes:
    data = ct_slice(number, StudyInstanceUID=study, series=f"{study}.9", **values)
    pydicom.dcmwrite(tmp_path / "x.dcm", data, enforce_file_format=True)
    return (tmp_path / "x.dcm").read_bytes()


def service(url: str) -> Service:
    return Service(url, 5, Certificates())


def uids(spool: Spool) -> list[str]:
    return sorted(item.uid for item in spool.objects())


def test_what_is_new_is_fetched_as_it_is_stored_and_answered(pacs: Orthanc, tmp_path: Path) -> None:
    sent = file_of(tmp_path, 1)
    pacs.add(sent)
    address = f"dicomweb+http://{pacs.dicomweb}?ModalitiesInStudy=CT&poll=0.1&quiet=1&free_gb=0"
    one = open_feed(FeedConfig(source=f"{address}&spool={tmp_path / 'spool'}"))
    with going(Run(null_network(), [one], [])) as run:
        box = Box(run, one, Collect())
        box.lines(1)
        pacs.add(file_of(tmp_path, 2))
        pacs.add(file_of(tmp_path, 3, "1.2.7"))
        pacs.add(file_of(tmp_path, 4, "1.2.6", Modality="MR"))
        lines = box.lines(3)
        (first, *_) = box.spool.objects()
        assert data_set_of(first.path.read_bytes()) == data_set_of(sent)
    frames = [frame["sop_instance_uid"] for line in lines for frame in line["frames"]]
    assert sorted(frames) == ["1.2.3.1", "1.2.3.2", "1.2.3.3"]


def test_a_compressed_object_comes_in_its_own_syntax(pacs: Orthanc, spool: Spool) -> None:
    path = Path(pydicom.data.get_testdata_file("JPEG2000.dcm"))
    pacs.add(path)
    poll = WebPoll(spool, service(f"http://{pacs.dicomweb}"), {}, 0.1)
    until(lambda: spool.objects())
    poll.close()
    (item,) = spool.objects()
    assert item.syntax == pydicom.filereader.read_file_meta_info(path).TransferSyntaxUID


def test_a_restart_does_not_fetch_again(
    pacs: Orthanc, spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    request = Service.request

    def counted(self: Service, method: str, path: str, **how: Any) -> Any:
        asked.append(path.split("/")[-2] if "instances/" in path else path.split("/")[-1])
        return request(self, method, path, **how)

    monkeypatch.setattr(Service, "request", counted)
    for number in range(3):
        pacs.add(file_of(tmp_path, number))
    poll = WebPoll(spool, service(f"http://{pacs.dicomweb}"), {}, 0.05)
    until(lambda: len(spool.objects()) == 3)
    until(lambda: asked[-1] == "studies")
    poll.close()
    asked.clear()
    poll = WebPoll(spool, service(f"http://{pacs.dicomweb}"), {}, 0.05)
    until(lambda: len(asked) > 3)
    poll.close()
    assert set(asked) == {"studies"}


def test_reports_and_masks_are_not_fetched_and_our_own_answers_not_looked_at(
    pacs: Orthanc, tmp_path: Path
) -> None:
    report = ct_slice(2, series="1.2.8.2", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33", Modality="SR")
    del report.PixelData
    pydicom.dcmwrite(tmp_path / "sr.dcm", report, enforce_file_format=True)
    ours = {"Manufacturer": "edge", "SoftwareVersions": ["edge 0.1.0", "cpu/fast"]}
    for data in (tmp_path / "sr.dcm", file_of(tmp_path, 1), file_of(tmp_path, 3, **ours)):
        pacs.add(data)
    address = f"dicomweb+http://{pacs.dicomweb}?ModalitiesInStudy=CT&poll=0.1&unit=object&free_gb=0"
    one = open_feed(FeedConfig(source=f"{address}&spool={tmp_path / 's'}"))
    with going(Run(null_network(), [one], [])) as run:
        box = Box(run, one, Collect())
        until(lambda: box.spool.counts() == {State.ANSWERED: 1, State.QUARANTINED: 1})
        assert box.spool.objects(State.QUARANTINED)[0].reason == "it is an answer of this program"
        assert uids(box.spool) == ["1.2.3.1", "1.2.3.3"]


# ---- services that do not behave


Answer = Callable[[str], "tuple[int, str, bytes]"]


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], str]]:
    """A service of one function, path → status, content type and body; its address."""
    servers: list[ThreadingHTTPServer] = []

    def start(answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, kind, body = answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def results(*items: dict[str, Any]) -> bytes:
    return json.dumps([{tag: {"Value": [value]} for tag, value in item.items()} for item in items]).encode()


def part(data: bytes, boundary: str = "b") -> bytes:
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n"
    return head.encode() + data + f"\r\n--{boundary}--".encode()


def test_an_object_that_is_not_given_whole_holds_up_nobody_and_is_asked_for_again(
    serve: Any, spool: Spool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = {str(number): file_of(tmp_path, number) for number in (1, 2, 3)}
    asked: list[str] = []

    def answer(path: str) -> tuple[int, str, bytes]:
        place = path.partition("?")[0]
        if place == "/studies":
            return 200, "application/dicom+json", results({"0020000D": "1.2.8", "00201208": 3})
        if place == "/studies/1.2.8/instances":
            found = ({"00080018": f"1.2.3.{n}", "0020000E": "1.2.8.9", "00080016": "1.2"} for n in files)
            return 200, "application/dicom+json", results(*found)
        number = place.rpartition(".")[2]
        asked.append(number)
        if number == "1" and asked.count("1") == 1:
            return 404, "text/plain", b"PatientName Secret^Jane"
        body = part(files[number])
        if number == "2" and asked.count("2") == 1:
            body = body[:-300]
        return 200, 'multipart/related; type="application/dicom"; boundary="b"', body

    poll = WebPoll(spool, service(serve(answer)), {}, 0.1)
    until(lambda: len(spool.objects()) == 3)
    poll.close()
    assert sorted(asked) == ["1", "1", "2", "2", "3"]
    assert spool.objects()[0].uid == "1.2.3.3"
    assert "404" in caplog.text and "too early" in caplog.text and "Secret" not in caplog.text


@pytest.mark.parametrize(
    "status, body", [(500, b""), (401, b""), (200, b"<html>"), (200, b"{}"), (302, b""), (200, b"[1, {}]")]
)
def test_a_service_that_answers_nonsense_is_asked_again(
    serve: Any, spool: Spool, tmp_path: Path, status: int, body: bytes
) -> None:
    rounds: list[str] = []

    def answer(path: str) -> tuple[int, str, bytes]:
        rounds.append(path)
        return (status, "text/plain", body) if len(rounds) < 3 else (204, "text/plain", b"")

    poll = WebPoll(spool, service(serve(answer)), {}, 0.02)
    until(lambda: len(rounds) > 4)
    poll.close()
    assert spool.objects() == []


def test_uids_of_a_service_are_never_taken_for_paths(serve: Any, spool: Spool) -> None:
    asked: list[str] = []

    def answer(path: str) -> tuple[int, str, bytes]:
        asked.append(path)
        return 200, "application/dicom+json", results({"0020000D": "1.2/../../secret", "00201208": 1})

    poll = WebPoll(spool, service(serve(answer)), {}, 0.02)
    until(lambda: len(asked) > 2)
    poll.close()
    assert not [path for path in asked if "secret" in path]


def test_many_results_come_page_by_page(serve: Any, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.dicom.receiving.webpoll.PAGE", 2)
    found = [{"0020000D": f"1.{number}", "00201208": 0} for number in range(5)]
    studies: list[str] = []

    def answer(path: str) -> tuple[int, str, bytes]:
        place, _, query = path.partition("?")
        if place == "/studies":
            offset = int(dict(word.split("=") for word in query.split("&"))["offset"])
            return 200, "application/dicom+json", results(*found[offset : offset + 2])
        studies.append(place.split("/")[2])
        return 204, "", b""

    poll = WebPoll(spool, service(serve(answer)), {}, 60)
    until(lambda: len(studies) == 5)
    poll.close()
    assert studies == [f"1.{number}" for number in range(5)]


# ---- a body as it comes


@pytest.mark.parametrize("size", [1, 2, 7, 4096])
@pytest.mark.parametrize("data", [b"", b"\r\n--", b"\r\n--b-no", bytes(range(256)) * 40], ids=range(4))
def test_a_part_is_read_whole_however_the_body_is_cut(data: bytes, size: int) -> None:
    body = b"preamble\r\n" + part(data, "bound") + b"\r\nepilogue"
    pieces = iter([body[place : place + size] for place in range(0, len(body), size)])
    one = FirstPart(pieces, "bound")
    assert b"".join(iter(lambda: one.read(100), b"")) == data
    assert one.complete


def test_a_body_that_ends_early_is_not_complete_and_one_without_a_part_is_refused() -> None:
    one = FirstPart(iter([part(b"0123456789")[:-9]]), "b")
    while one.read(4):
        pass
    assert not one.complete
    for body in (b"", b"hello", b"--b", b"--b\r\nContent-Type: x"):
        with pytest.raises(InputError, match="no multipart body"):
            FirstPart(iter([body]), "b")


@pytest.mark.parametrize(
    "address, what",
    [
        ("dicomweb+https://pacs/dicom-web?spool=s", "nothing limits the search"),
        ("dicomweb+https://pacs/dicom-web?days=1", "no spool"),
        ("dicomweb+https:///dicom-web?days=1&spool=s", "no address"),
        ("dicomweb+https://pacs:port/?days=1&spool=s", "no address"),
        ("dicomweb+http://pacs/dicom-web?days=1&spool=s", "plain HTTP"),
        ("dicomweb+https://pacs/?days=-1&spool=s", "days"),
        ("dicomweb+https://pacs/?days=1&poll=0&spool=s", "poll"),
        ("dicomweb+https://pacs/?days=1&colour=red&spool=s", "no setting 'colour'"),
        ("dicomweb+https://pacs/?days=1&ca=absent.pem&spool=s", "absent.pem"),
    ],
)
def test_wrong_addresses_are_named(address: str, what: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=what):
        open_source(address)


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        open_source(f"dicomweb+https://me:secret-word@pacs/?days=1&colour=red&spool={tmp_path}")
    assert "secret-word" not in str(caught.value)
