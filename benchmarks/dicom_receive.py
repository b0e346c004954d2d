"""How many CT slices a second does the receiver take, each on disk for good before it is acknowledged?

    python benchmarks/dicom_receive.py [--objects 400] [--associations 4] [--rounds 3] [--crowd 25 2000]

512 × 512 slices of 16 bits over loopback. The sender is one process for both: raw sockets that send requests
and wait for each answer, so that it costs next to nothing. The yardstick is pynetdicom's own `storescp` app,
which writes files without syncing them, with its own settings and with the PDUs that we ask for. Rounds
alternate; given are medians. Reading a header, which happens after the answer, is measured for itself.
Then 25 associations send 2,000 objects at once: all must be stored, none doubled.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import arguments, report
from pydicom import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom.dsutils import encode
from pynetdicom.pdu import A_ASSOCIATE_RQ, A_RELEASE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import build_context

REACH, REACH_RATIO = 200.0, 1.5
SIZE = 512


def slice_of(uid: str) -> bytes:
    """A CT slice's data set, encoded."""
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, uid
    data.StudyInstanceUID, data.SeriesInstanceUID = "1.2.8", "1.2.9"
    data.PatientName, data.PatientID, data.Modality = "A^B", "1", "CT"
    data.Rows = data.Columns = SIZE
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 0
    data.PixelData = np.random.default_rng(0).integers(0, 4096, (SIZE, SIZE), np.uint16).tobytes()
    return encode(data, False, True) or b""


def command(uid: str) -> bytes:
    """C-STORE-RQ, implicit VR little endian (PS3.7 9.3.1)."""

    def element(number: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HHL", 0, number, len(value)) + value

    short = struct.Struct("<H").pack
    body = element(0x0002, CTImageStorage.encode()) + element(0x0100, short(1)) + element(0x0110, short(1))
    body += element(0x0700, short(0)) + element(0x0800, short(1)) + element(0x1000, uid.encode())
    return element(0x0000, struct.pack("<L", len(body))) + body


def pdu(control: int, data: bytes | memoryview) -> bytes:
    """P-DATA-TF with one fragment (PS3.8 9.3.5), of presentation context 1."""
    return struct.pack(">BBLLBB", 4, 0, len(data) + 6, len(data) + 2, 1, control) + data


class Sender:
    """One association."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = A_ASSOCIATE()
        request.application_context_name = "1.2.840.10008.3.1.1.1"
        request.calling_ae_title, request.called_ae_title = "BENCH", "EDGE"
        context = build_context(CTImageStorage, ExplicitVRLittleEndian)
        context.context_id = 1
        request.presentation_context_definition_list = [context]
        length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
        length.maximum_length_received, implementation.implementation_class_uid = 16384, "1.2.3"
        request.user_information = [length, implementation]
        asked = A_ASSOCIATE_RQ()
        asked.from_primitive(request)
        self.socket.sendall(asked.encode())
        kind, answer = self.read()
        assert kind == 2, "the association was not accepted"
        at = answer.index(b"\x51\x00\x00\x04") + 4  # maximum length sub-item (PS3.8 D.1)
        self.largest = min(struct.unpack(">L", answer[at : at + 4])[0] or 1 << 17, 1 << 17)

    def read(self) -> tuple[int, bytes]:
        head = self.socket.recv(6, socket.MSG_WAITALL)
        kind, _, length = struct.unpack(">BBL", head)
        return kind, self.socket.recv(length, socket.MSG_WAITALL)

    def send(self, uid: str, data: bytes) -> None:
        """One C-STORE, answered with success."""
        whole, step = memoryview(data), self.largest - 6
        pieces = [pdu(3, command(uid))]
        for start in range(0, len(data), step):
            pieces.append(pdu(2 if start + step >= len(data) else 0, whole[start : start + step]))
        self.socket.sendall(b"".join(pieces))
        kind, answer = self.read()
        status = answer.index(b"\x00\x00\x00\x09\x02\x00\x00\x00") + 8
        assert kind == 4 and answer[status : status + 2] == b"\0\0", "not acknowledged"

    def close(self) -> None:
        release = A_RELEASE_RQ()
        self.socket.sendall(release.encode())
        self.read()
        self.socket.close()


def rate(port: int, objects: int, associations: int, first: int) -> float:
    """Objects a second, from the first to the last answer."""
    template, mark = slice_of("1.2.3.9000000000"), b"1.2.3.9000000000"
    at = template.index(mark)

    def work(sender: Sender, mine: range) -> None:
        for number in mine:
            uid = f"1.2.3.{1_000_000_000 + number}"
            sender.send(uid, template[:at] + uid.encode() + template[at + len(mark) :])

    senders = [Sender(port) for _ in range(associations)]
    threads = [
        threading.Thread(target=work, args=(sender, range(first + index, first + objects, associations)))
        for index, sender in enumerate(senders)
    ]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    for sender in senders:
        sender.close()
    return objects / seconds


OURS = """
import sys, threading
from pathlib import Path
from edge.dicom.receiving.receiver import Receiver, ReceiverSettings
from edge.spool import Spool
with Spool(Path(sys.argv[1])) as spool, Receiver(spool, ReceiverSettings(port=0)) as receiver:
    print(receiver.port, flush=True)
    sys.stdin.readline()
"""


class Ours:
    """The receiver in a process of its own, into a new spool."""

    def __init__(self, folder: Path) -> None:
        words = [sys.executable, "-c", OURS, str(folder)]
        where = Path(__file__).resolve().parent.parent
        self.process = subprocess.Popen(
            words, cwd=where, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate("\n", timeout=60)


class Storescp:
    """pynetdicom's app in a process of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        words = [sys.executable, "-m", "pynetdicom", "storescp", str(self.port), "-q", "-od", str(folder)]
        self.process = subprocess.Popen([*words, *options], stderr=subprocess.DEVNULL)
        for _ in range(200):
            time.sleep(0.05)
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
        raise TimeoutError("storescp did not start")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def crowd(folder: Path, associations: int, objects: int) -> dict[str, Any]:
    """Many associations at once: what of the objects they had acknowledged is in the spool, and how often."""
    from edge.spool import Spool, State

    server = Ours(folder)
    try:
        per_s = rate(server.port, objects, associations, 0)
    finally:
        server.close()
    with Spool(folder) as spool:
        stored = Counter(item.uid for item in spool.objects() if item.path.is_file())
        apart = spool.counts()[State.QUARANTINED]
    files = sum(path.is_file() for path in (folder / "objects").rglob("*"))
    sent = {f"1.2.3.{1_000_000_000 + number}" for number in range(objects)}
    return {
        "associations": associations,
        "objects": objects,
        "stored": len(sent & stored.keys()),
        "doubled": sum(count > 1 for count in stored.values()) + files - len(stored),
        "quarantined": apart,
        "objects_per_s": per_s,
    }


def header_ms(folder: Path) -> float:
    """Milliseconds for an object to become queued: its header read, its row changed."""
    from edge.spool import Spool

    with Spool(folder) as spool:
        start = time.perf_counter()
        count = spool.index()
        return 1e3 * (time.perf_counter() - start) / max(1, count)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--objects", type=int, default=400)
    parser.add_argument("--associations", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--crowd", type=int, nargs=2, default=(25, 2000), metavar=("ASSOCIATIONS", "OBJECTS"))
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: the system's")
    args = parser.parse_args()
    rates: dict[str, list[float]] = {"edge": [], "storescp": [], "storescp_large_pdu": []}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for turn in range(args.rounds):
            contenders: dict[str, Any] = {
                "edge": lambda at: Ours(at),
                "storescp": lambda at: Storescp(at),
                "storescp_large_pdu": lambda at: Storescp(at, "--max-pdu", str(1 << 17)),
            }
            for name, start in contenders.items():
                server = start(Path(folder) / f"{name}{turn}")
                try:
                    rate(server.port, 20, args.associations, 10_000_000)  # warms up
                    rates[name].append(rate(server.port, args.objects, args.associations, 0))
                finally:
                    server.close()
        milliseconds = header_ms(Path(folder) / "edge0")
        at_once = crowd(Path(folder) / "crowd", *args.crowd)
    medians = {name: median(values) for name, values in rates.items()}
    figures: dict[str, Any] = {
        "objects": args.objects,
        "associations": args.associations,
        "object_kib": len(slice_of("1.2.3.9000000000")) // 1024,
        "objects_per_s": medians,
        "rounds": rates,
        "ratio_to_storescp": medians["edge"] / medians["storescp"],
        "ratio_to_storescp_large_pdu": medians["edge"] / medians["storescp_large_pdu"],
        "header_ms": milliseconds,
        "at_once": at_once,
        "reach": [REACH, REACH_RATIO],
    }
    report("dicom_receive", figures, args.json)


if __name__ == "__main__":
    main()
