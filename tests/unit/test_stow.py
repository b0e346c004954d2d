"""STOW-RS against a server that answers as a test says."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
pytest.importorskip("requests", reason="the extra 'pacs' is not installed")
from edge.dicom.delivery.carrier import Fate, Parcel, Unreachable, carrier
from edge.dicom.delivery.destination import destination
from tests.pacs import CT, authority, ct_slice


class Service(ThreadingHTTPServer):
    """Answers with `answers`, one after the other; None ends the connection without one."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, Any] | None] = []
        self.requests: list[tuple[dict[str, str], bytes]] = []


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((dict(self.headers), body))
        answer = self.server.answers.pop(0)
        if answer is None:
            self.close_connection = True
            return
        status, content = answer
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    server = Service()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def parcels(tmp_path) -> list[Parcel]:
    made = []
    for number in range(3):
        path: Path = tmp_path / f"{number}.dcm"
        ct_slice(number).save_as(path, enforce_file_format=True)
        made.append(Parcel(f"1.2.3.{number}", CT, "1.2.840.10008.1.2.1", path))
    return made


@pytest.fixture
def way(service):
    made = carrier(destination(f"stow+http://jane:s3cret@127.0.0.1:{service.server_address[1]}/web"))
    yield made
    made.close()


def item(uid: str, **reasons: int) -> dict[str, Any]:
    tags = {"reason": "00081197", "warning": "00081196"}
    values = {tags[name]: {"vr": "US", "Value": [value]} for name, value in reasons.items()}
    return {"00081155": {"vr": "UI", "Value": [uid]}, **values}


def answer(stored: list[Any], failed: list[Any] = ()) -> dict[str, Any]:  # type: ignore[assignment]
    return {"00081199": {"vr": "SQ", "Value": stored}, "00081198": {"vr": "SQ", "Value": list(failed)}}


def fates(way, parcels) -> list[str]:
    return [outcome.fate.value for _, outcome in way.send(parcels)]


def test_files_go_out_as_they_are_in_one_request(service, way, parcels):
    service.answers = [(200, answer([item(f"1.2.3.{n}") for n in range(3)]))]
    assert fates(way, parcels) == ["stored"] * 3
    [(headers, body)] = service.requests
    assert all(parcel.path.read_bytes() in body for parcel in parcels)
    assert headers["Content-Type"].startswith('multipart/related; type="application/dicom"; boundary=')
    assert headers["Authorization"] == "Basic amFuZTpzM2NyZXQ="


def test_each_object_has_its_own_outcome(service, way, parcels):
    failed = [item("1.2.3.1", reason=0x0122), item("1.2.3.2", reason=0xA700)]
    service.answers = [(202, answer([item("1.2.3.0", warning=0xB000)], failed))]
    found = dict(way.send(parcels))
    assert [outcome.fate for outcome in found.values()] == [Fate.STORED, Fate.REFUSED, Fate.LATER]
    assert "it does not take the SOP class (0x0122)" in found[parcels[1]].reason


def test_all_of_them_may_fail(service, way, parcels):
    service.answers = [(409, answer([], [item(f"1.2.3.{n}", reason=0xC000) for n in range(3)]))]
    assert fates(way, parcels) == ["refused"] * 3


def test_a_status_that_names_no_object_is_asked_of_each(service, way, parcels):
    stored = [(200, answer([item(f"1.2.3.{n}")])) for n in (0, 2)]
    service.answers = [(400, {}), stored[0], (400, {}), stored[1]]
    assert fates(way, parcels) == ["stored", "refused", "stored"]


@pytest.mark.parametrize("status", [401, 404, 429, 503])
def test_a_service_that_takes_nothing_now_is_tried_later(service, way, parcels, status):
    service.answers = [(status, {})]
    with pytest.raises(Unreachable, match=f"HTTP status {status}"):
        fates(way, parcels)


def test_an_object_that_ends_every_connection_is_found(service, way, parcels):
    service.answers = [None, None, (200, {}), (200, {})]
    with pytest.raises(Unreachable):
        fates(way, parcels)
    found = []
    with pytest.raises(Unreachable):
        found += [found.append(pair) for pair in way.send(parcels)]
    assert [(parcel.uid, outcome.fate) for parcel, outcome in found] == [("1.2.3.0", Fate.LATER)]
    assert fates(way, parcels[1:]) == ["stored"] * 2


def test_tls_with_certificates_of_both_sides(service, parcels, tmp_path):
    files = authority(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(files["server.pem"], files["server.key"])
    tls.load_verify_locations(files["ca.pem"])
    tls.verify_mode = ssl.CERT_REQUIRED
    service.socket = tls.wrap_socket(service.socket, server_side=True)
    service.handle_error = lambda *_: None
    own = f"&cert={files['client.pem']}&key={files['client.key']}"
    for host, settings, works in (
        ("127.0.0.1", own, True),
        ("127.0.0.1", "", False),
        ("localhost", own, False),  # the certificate is of 127.0.0.1
        ("localhost", f"{own}&verify_name=no", True),
    ):
        service.answers = [(200, {})]
        place = f"stow+https://{host}:{service.server_address[1]}/web"
        way = carrier(destination(f"{place}?ca={files['ca.pem']}{settings}"))
        if works:
            assert fates(way, parcels) == ["stored"] * 3
        else:
            with pytest.raises(Unreachable):
                fates(way, parcels)
        way.close()


def test_no_error_shows_the_password(service, way, parcels):
    service.answers = [None]
    with pytest.raises(Unreachable) as caught:
        fates(way, parcels)
    assert "s3cret" not in str(caught.value)


def test_a_token_is_read_for_every_request(service, parcels, tmp_path):
    token = tmp_path / "token"
    to = f"stow+http://127.0.0.1:{service.server_address[1]}/web?token_file={token}"
    way = carrier(destination(to))
    with pytest.raises(Unreachable, match="No such file"):
        fates(way, parcels[:1])
    for text in ("one", "two"):
        token.write_text(f"{text}\n")
        service.answers = [(200, {})]
        fates(way, parcels[:1])
    assert [headers["Authorization"] for headers, _ in service.requests] == ["Bearer one", "Bearer two"]
    way.close()
