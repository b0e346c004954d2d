"""`dicom:FOLDER?watch=1&spool=DIR`: the DICOM files of a folder, and all that are put there later."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge.dicom.receiving.watch import FolderWatch
from edge.errors import InputError, UsageError
from edge.sources import Address
from edge.sources.spooled import SETTINGS, Spooled, open_spooled

WATCH: Mapping[str, Any] = {**SETTINGS, "watch": False, "settle": 2.0}


def open_watched(address: Address) -> Spooled:
    """Watches from now on; what was taken by a run before is not taken again.

    Raises:
        UsageError: a setting is unknown or wrong, or the spool lies in the folder.
        InputError: there is no such folder.
        StoreError: another process uses the spool.
    """
    values, folder = address.settings(WATCH), address.path
    if not folder.is_dir():
        raise InputError(f"cannot watch {folder}", "there is no such folder", "make it, or check the path")
    if not 0 < values["settle"] < float("inf"):
        raise UsageError(f"{address.uri}: settle={values['settle']} is not a number of seconds above 0")
    spool = Path(values["spool"]).expanduser().resolve()
    if values["spool"] and (folder.resolve() == spool or folder.resolve() in spool.parents):
        raise UsageError(f"{address.uri}: the spool lies in the watched folder", "", "give it another place")
    return open_spooled(address, values, lambda spool: FolderWatch(spool, folder, values["settle"]))
