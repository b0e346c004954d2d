"""`edge dicom send`, `echo` and `receive`: small helpers of the DICOM network for integrators."""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.cli.stopping import stopping
from edge.errors import EXIT_DONE, InputError, RuntimeFault

if TYPE_CHECKING:
    from edge.dicom.delivery.carrier import Carrier, Parcel, Report
    from edge.dicom.delivery.destination import Destination
    from edge.dicom.receiving.receiver import Receiver, ReceiverSettings

ADDRESS = "dicom+scu://CALLED@host:port?aet=EDGE… or stow+https://host/path"


def add_actions(actions: Any) -> None:
    """The sub-commands, with their options."""
    _send_options(_action(actions, "send", "send files or folders to an archive", _send))
    echo = _action(actions, "echo", "look whether an archive answers", _echo)
    echo.add_argument("address", metavar="ADDRESS", help=ADDRESS)
    echo.add_argument("--json", action="store_true", help="print JSON")
    _receive_options(_action(actions, "receive", "receive objects into a spool until Ctrl-C", _receive))


def _action(actions: Any, name: str, purpose: str, act: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=purpose, description=f"{purpose.capitalize()}."
    )
    parser.set_defaults(act=act)
    return parser


# send


def _send_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("files", type=Path, nargs="+", metavar="FILE", help="DICOM files, or folders of them")
    add("--to", required=True, metavar="ADDRESS", help=ADDRESS)
    add("--json", action="store_true", help="print JSON")


def _send(args: argparse.Namespace) -> int:
    """
    Raises:
        UsageError: the address cannot be.
        InputError: there is no DICOM file.
        RuntimeFault: something was not stored.
    """
    from edge.dicom.delivery.carrier import carrier
    from edge.dicom.delivery.destination import destination

    to = destination(args.to)
    parcels, skipped = _parcels(args.files)
    if not parcels:
        raise InputError("nothing to send", "there is no DICOM file", "name files, or folders of them")
    start = time.monotonic()
    with closing(carrier(to)) as way:
        counts, reasons, stored = _carry(way, parcels)
        if to.commits and stored:
            counts["committed"] = _commit(to, way, stored, reasons)
    seconds = time.monotonic() - start
    facts = {"to": to.name, **counts, "skipped": skipped, "seconds": round(seconds, 3), "reasons": reasons}
    if args.json:
        print(json.dumps(facts, indent=1))
    else:
        _print_sent(facts)
    missing = len(parcels) - (counts["committed"] if to.commits else counts["stored"])
    if missing:
        why = "; ".join(reasons) or "the archive did not commit to it"
        raise RuntimeFault(
            f"{missing} of {len(parcels)} objects were not delivered", why, "see the archive's log"
        )
    return EXIT_DONE


def _parcels(paths: Sequence[Path]) -> tuple[list[Parcel], int]:
    """What can be sent, and how many files are none."""
    from edge.dicom.delivery.carrier import Parcel
    from edge.dicom.header import reading

    found, skipped = [], 0
    for path in _files(paths):
        try:
            with reading(path, "read"):
                from pydicom.filereader import read_file_meta_info

                meta = read_file_meta_info(path)
                uid, sop_class = str(meta.MediaStorageSOPInstanceUID), str(meta.MediaStorageSOPClassUID)
                found.append(Parcel(uid, sop_class, str(meta.TransferSyntaxUID), path))
        except InputError:
            skipped += 1
    return found, skipped


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    from edge.dicom.part10 import is_dicom

    for path in paths:
        if not path.exists():
            raise InputError(f"cannot read {path}", "there is no such file or folder", "check the path")
        if path.is_dir():
            yield from (file for file in sorted(path.rglob("*")) if is_dicom(file))
        else:
            yield path


def _carry(way: Carrier, parcels: Sequence[Parcel]) -> tuple[Counter[str], list[str], list[Parcel]]:
    """Counts of what became of the objects, the reasons there were, and what was stored."""
    from edge.dicom.delivery.carrier import Fate, Unreachable

    counts: Counter[str] = Counter(stored=0, refused=0, failed=0)
    names = {Fate.STORED: "stored", Fate.REFUSED: "refused", Fate.LATER: "failed"}
    reasons: dict[str, None] = {}
    stored = []
    try:
        for number, (parcel, outcome) in enumerate(way.send(parcels), 1):
            counts[names[outcome.fate]] += 1
            if outcome.fate is Fate.STORED:
                stored.append(parcel)
            if outcome.reason:
                reasons[outcome.reason] = None
            _progress(f"{number} of {len(parcels)}")
    except Unreachable as e:
        if not counts.total():
            raise
        reasons[str(e)] = None
    finally:
        _progress("")
    counts["failed"] = len(parcels) - counts["stored"] - counts["refused"]
    return counts, list(reasons), stored


def _commit(to: Destination, way: Carrier, stored: Sequence[Parcel], reasons: list[str]) -> int:
    """Ask for commitment; to how many objects the archive has committed."""
    from edge.dicom.delivery.commitment import Listener
    from edge.dicom.delivery.destination import ScuDestination, listening

    assert isinstance(to, ScuDestination)
    transaction, come, reports = f"2.25.{uuid.uuid4().int}", threading.Event(), []

    def reported(report: Report) -> bool:
        if report.transaction != transaction:
            return False
        reports.append(report)
        come.set()
        return True

    with ExitStack() as opened:
        if to.reports:
            opened.callback(Listener(listening(to.reports), to.aet, reported).close)
        way.commit(transaction, stored, reported, come.is_set)
        if to.reports:
            come.wait(to.timeout)
    reasons += sorted({reason for report in reports for reason in report.failed.values()})
    return sum(len(report.committed) for report in reports[:1])


def _progress(text: str) -> None:
    """One line that is written over, for people; an empty text removes it."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _print_sent(facts: dict[str, Any]) -> None:
    names = ("stored", "committed", "refused", "failed", "skipped")
    counts = ", ".join(f"{facts[name]} {name}" for name in names if name == "stored" or facts.get(name))
    print(f"{facts['to']}: {counts} in {facts['seconds']:.1f} s")
    for reason in facts["reasons"]:
        print(f"  {reason}")


# echo


def _echo(args: argparse.Namespace) -> int:
    """
    Raises:
        UsageError: the address cannot be.
        Unreachable: the archive does not answer.
    """
    from edge.dicom.delivery.carrier import carrier
    from edge.dicom.delivery.destination import destination

    to = destination(args.address)
    start = time.monotonic()
    with closing(carrier(to)) as way:
        peer = way.echo()
    milliseconds = (time.monotonic() - start) * 1000
    if args.json:
        print(json.dumps({"to": to.name, "software": peer, "milliseconds": round(milliseconds, 1)}))
    else:
        print(f"{to.name} answers{f' ({peer})' if peer else ''} in {milliseconds:.0f} ms")
    return EXIT_DONE


# receive


def _receive_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--spool",
        type=Path,
        required=True,
        metavar="DIR",
        help="where objects are kept; made where it is absent",
    )
    add("--host", default="127.0.0.1", help="address to listen on, 0.0.0.0 for all (default: 127.0.0.1)")
    add("--port", type=int, default=11112, help="port to listen on, 0 for a free one (default: 11112)")
    add("--aet", default="EDGE", help="own AE title (default: EDGE)")
    add("--any-called", action="store_true", help="take associations that call another AE title, too")
    add(
        "--calling",
        action="append",
        default=[],
        metavar="AET",
        help="an AE title that may call; default: any",
    )
    add(
        "--allow",
        action="append",
        default=[],
        metavar="NET",
        help="an address or network that may; default: any",
    )
    add("--any-class", action="store_true", help="take private and unknown storage classes, too")
    add(
        "--tls-cert",
        type=Path,
        metavar="FILE",
        help="certificate of this receiver, PEM; TLS alone from here on",
    )
    add("--tls-key", type=Path, metavar="FILE", help="its key, PEM")
    add("--tls-clients", type=Path, metavar="FILE", help="authorities whose clients alone may connect")
    add("--json", action="store_true", help="print JSON at the end")


def _receive(args: argparse.Namespace) -> int:
    """
    Raises:
        UsageError: a setting cannot be.
        InputError: the port cannot be listened on, a certificate not be used.
        StoreError: the spool is in use.
    """
    from edge.dicom.receiving.receiver import Receiver
    from edge.spool import Spool

    settings, stop = _settings(args), threading.Event()
    with stopping(stop), Spool(args.spool) as spool, Receiver(spool, settings) as receiver:
        print(f"{settings.aet} listens on {settings.host}:{receiver.port}; Ctrl-C ends it", file=sys.stderr)
        while not stop.wait(0.5):
            _progress(_counted(receiver))
        receiver.close()
        _progress("")
        if args.json:
            print(json.dumps(dict(sorted(receiver.counts.items())), indent=1))
        else:
            print(_counted(receiver))
    return EXIT_DONE


def _counted(receiver: Receiver) -> str:
    others = {name: count for name, count in sorted(receiver.counts.items()) if count and name != "stored"}
    return ", ".join(
        f"{n} {name.replace('_', ' ')}" for name, n in {"stored": receiver.counts["stored"], **others}.items()
    )


def _settings(args: argparse.Namespace) -> ReceiverSettings:
    from edge.dicom.receiving.receiver import ReceiverSettings, server_tls
    from edge.errors import UsageError

    if bool(args.tls_cert) != bool(args.tls_key) or (args.tls_clients and not args.tls_cert):
        raise UsageError("TLS is not complete", "", "--tls-cert and --tls-key are needed, both")
    tls = server_tls(args.tls_cert, args.tls_key, args.tls_clients) if args.tls_cert else None
    return ReceiverSettings(
        host=args.host,
        port=args.port,
        aet=args.aet,
        any_called=args.any_called,
        calling=tuple(args.calling),
        networks=tuple(args.allow),
        any_class=args.any_class,
        tls=tls,
    )
