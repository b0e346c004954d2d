"""A process to be killed: receives into a spool, infers and answers what comes, and tells its port."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from edge.dicom.receiving.receiver import Receiver, ReceiverSettings
from edge.spool import LeaseLost, Spool, Watermarks


def work(spool: Spool) -> None:
    """Answer one object after the other, with its UID."""
    while True:
        claim = spool.claim_object()
        if claim is None:
            threading.Event().wait(0.005)
            continue
        try:
            if claim.result is None:
                spool.inferred(claim, claim.objects[0].uid.encode())
            spool.answered(claim, claim.result or claim.objects[0].uid.encode())
        except LeaseLost:
            continue


def main() -> None:
    spool = Spool(Path(sys.argv[1]), marks=Watermarks(0, 0), attempts=10**6)
    receiver = Receiver(spool, ReceiverSettings(port=int(sys.argv[2])))
    threading.Thread(target=work, args=(spool,), daemon=True).start()
    print(receiver.port, flush=True)
    sys.stdin.read()  # until it is killed, or its parent is gone
    os._exit(0)


if __name__ == "__main__":
    main()
