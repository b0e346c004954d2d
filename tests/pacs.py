"""Clients for DICOM receivers under test: pynetdicom as a modality, sending bytes as they are."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian

CT = "1.2.840.10008.5.1.4.1.1.2"


def ct_slice(number: int, size: int = 16, series: str = "1.2.9", **values: Any) -> pydicom.Dataset:
    """A small CT slice with a patient's name in it."""
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = CT, f"1.2.3.{number}"
    data.StudyInstanceUID, data.SeriesInstanceUID = "1.2.8", series
    data.PatientName, data.PatientID, data.Modality = "Secret^Jane", "PID77", "CT"
    data.Rows = data.Columns = size
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 0
    pixels = np.random.default_rng(number).integers(0, 4096, (size, size), np.uint16)
    data.PixelData = pixels.tobytes()
    for keyword, value in values.items():
        setattr(data, keyword, value)
    return data


def encoded(data: pydicom.Dataset) -> bytes:
    """The data set as it goes over the network."""
    from pynetdicom.dsutils import encode

    return encode(data, is_implicit_vr=False, is_little_endian=True) or b""


def data_set_of(file: bytes) -> bytes:
    """What follows the file meta information."""
    buffer = io.BytesIO(file)
    pydicom.filereader.read_preamble(buffer, force=False)
    pydicom.filereader._read_file_meta_info(buffer)
    return file[buffer.tell() :]


def client(title: str) -> Any:
    """An application entity whose sockets are closed, also where the other side was first."""
    from pynetdicom import AE
    from pynetdicom.transport import AssociationSocket

    class Socket(AssociationSocket):
        def _shutdown_socket(self) -> None:
            connection = self.socket
            super()._shutdown_socket()
            if connection is not None:
                connection.close()

    class Client(AE):
        def _create_socket(self, assoc: Any, address: Any, tls_args: Any) -> Socket:
            made = Socket(assoc, address=address)
            made.tls_args = tls_args
            return made

    return Client(title)


@contextmanager
def association(port: int, called: str = "EDGE", calling: str = "SCU", **how: Any) -> Iterator[Any]:
    """An association for CT, verification and whatever is in `contexts`; it may not be established."""
    ae = client(calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = how.pop("wait", 20)
    for syntax in how.pop("syntaxes", [str(ExplicitVRLittleEndian)]):
        for abstract in how.pop("contexts", [CT, "1.2.840.10008.1.1"]):
            ae.add_requested_context(abstract, syntax)
    assoc = ae.associate("127.0.0.1", port, ae_title=called, **how)
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


def store(assoc: Any, data: pydicom.Dataset) -> int:
    """The status of one C-STORE; -1 where there was no answer."""
    return int(assoc.send_c_store(data).get("Status", -1))


def begin_to_store(assoc: Any, data: pydicom.Dataset, pieces: int) -> None:
    """Send the first fragments of a C-STORE request and no more."""
    from pynetdicom.dimse_messages import C_STORE_RQ
    from pynetdicom.dimse_primitives import C_STORE

    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    request.DataSet = io.BytesIO(encoded(data))
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    context = next(c.context_id for c in assoc.accepted_contexts if c.abstract_syntax == CT)
    for _, fragment in zip(range(pieces), message.encode_msg(context, 4096), strict=False):
        assoc.dul.send_pdu(fragment)


def tool(name: str) -> str:
    """A program of dcmtk, or the test is skipped."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is absent (apt install dcmtk)")
    return path


def authority(folder: Path) -> dict[str, Path]:
    """A throw-away CA and two certificates of it, `server` and `client`, made with openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is absent")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj"]
    openssl(*new, "/CN=test CA", "-x509", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    for name in ("server", "client"):
        openssl(*new, f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names"]
        openssl("x509", "-req", "-in", f"{name}.csr", *signing, "-out", f"{name}.pem")
    return {path.name: path for path in folder.iterdir()}
