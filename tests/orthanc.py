"""Orthanc as the PACS of a test: DICOM, storage commitment and DICOMweb, on free ports of loopback."""

from __future__ import annotations

import io
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest

PROGRAMS = ("/usr/sbin/Orthanc", "/usr/bin/Orthanc", "/usr/local/sbin/Orthanc")
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
AET = "ORTHANC"


@dataclass(frozen=True)
class Orthanc:
    """A PACS that runs.

    Attributes:
        port: of DICOM; its AE title is `AET`.
        http: of its REST interface and of DICOMweb.
        process: to be killed by a test that wants it dead.
        log: what it says.
    """

    port: int
    http: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def dicomweb(self) -> str:
        """Host, port and path of its DICOMweb service: `http://` belongs before it."""
        return f"127.0.0.1:{self.http}/dicom-web"

    def request(self, path: str, body: bytes | None = None, method: str | None = None) -> bytes:
        """What its REST interface answers; raises `urllib.error.HTTPError`."""
        url = f"http://127.0.0.1:{self.http}/{path.lstrip('/')}"
        with urllib.request.urlopen(urllib.request.Request(url, body, method=method), timeout=20) as answer:
            return bytes(answer.read())

    def get(self, path: str) -> Any:
        """A JSON resource, as `instances?expand`."""
        return json.loads(self.request(path))

    def post(self, path: str, body: Any = None) -> Any:
        """Post JSON, get JSON."""
        return json.loads(self.request(path, json.dumps(body).encode()))

    def add(self, file: Path | bytes) -> None:
        """Upload a DICOM file."""
        self.request("instances", file if isinstance(file, bytes) else file.read_bytes())

    def datasets(self) -> list[pydicom.Dataset]:
        """Everything that is stored, as it is stored."""
        files = (self.request(f"instances/{instance}/file") for instance in self.get("instances"))
        return [pydicom.dcmread(io.BytesIO(file)) for file in files]

    def uids(self) -> list[str]:
        """SOP Instance UIDs of everything that is stored, sorted."""
        tags = (instance["MainDicomTags"] for instance in self.get("instances?expand"))
        return sorted(tag["SOPInstanceUID"] for tag in tags)


def missing() -> str:
    """Why there is no Orthanc; empty where there is one."""
    if _program() is None:
        return "Orthanc is absent (apt install orthanc)"
    return "" if DICOMWEB.exists() else "Orthanc's DICOMweb plug-in is absent (apt install orthanc-dicomweb)"


@contextmanager
def orthanc(
    folder: Path, modalities: dict[str, tuple[str, int]] | None = None, **settings: Any
) -> Iterator[Orthanc]:
    """Run Orthanc until the end of the block; what it stored in `folder` is there at the next start.

    Args:
        folder: for its files, in a folder of their own.
        modalities: names of peers that it sends to (reports of storage commitment, too), each with its AE
            title and its port on loopback.
        settings: of Orthanc's configuration file, over those below: `DicomPort=4242`, say.
    """
    if why := missing():
        pytest.skip(why)
    home = folder / "orthanc"
    home.mkdir(exist_ok=True)
    config = {**_config(home), **settings}
    peers = {name: [aet, "127.0.0.1", port] for name, (aet, port) in (modalities or {}).items()}
    config["DicomModalities"] = peers
    (home / "orthanc.json").write_text(json.dumps(config, indent=1))
    log = home / "log"
    with log.open("ab") as out:
        command = [str(_program()), "--verbose", str(home / "orthanc.json")]
        process = subprocess.Popen(command, stdout=out, stderr=out)
    pacs = Orthanc(config["DicomPort"], config["HttpPort"], process, log)
    try:
        _wait(pacs)
        yield pacs
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _program() -> str | None:
    return shutil.which("Orthanc") or next((path for path in PROGRAMS if Path(path).exists()), None)


def _config(home: Path) -> dict[str, Any]:
    """Everything is open, to loopback: the ports are nobody else's."""
    return {
        "StorageDirectory": str(home / "storage"),
        "IndexDirectory": str(home / "storage"),
        "Plugins": [str(DICOMWEB)],
        "DicomAet": AET,
        "DicomPort": free_port(),
        "HttpPort": free_port(),
        "HttpBindAddresses": ["127.0.0.1"],
        "RemoteAccessAllowed": True,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowEcho": True,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowMove": True,
        "DicomScpTimeout": 10,
        "StableAge": 1,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "StudiesMetadata": "Full"},
    }


def _wait(pacs: Orthanc, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            pacs.get("system")
            return
        except (urllib.error.URLError, ConnectionError):
            if pacs.process.poll() is not None or time.monotonic() > deadline:
                tail: Sequence[str] = pacs.log.read_text(errors="replace").splitlines()[-20:]
                raise RuntimeError("Orthanc does not answer:\n" + "\n".join(tail)) from None
            time.sleep(0.05)
