"""A DICOMweb service is asked again and again for what is new in a list of studies, and that is fetched.

Studies come from a search (QIDO-RS, PS3.18 10.6), their objects from a retrieve transaction each (WADO-RS,
PS3.18 10.4), in the transfer syntax that they are stored in, straight to the spool.
"""

from __future__ import annotations

import logging
import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from email.message import Message
from typing import Any

from edge.dicom.delivery.carrier import Unreachable
from edge.dicom.receiving.intake import PIECE, take_in
from edge.dicom.receiving.multipart import FirstPart
from edge.dicom.receiving.taken import Taken
from edge.dicom.service import FIX, Service, cause_of
from edge.errors import InputError, RuntimeFault
from edge.spool import Spool

log = logging.getLogger("edge.dicom")

STUDY, SERIES, INSTANCE, SOP_CLASS, COUNT = "0020000D", "0020000E", "00080018", "00080016", "00201208"
"""Tags of search results, COUNT: Number of Study Related Instances (PS3.18 10.6.3.3)."""

PAGE = 200
"""Results of one search; there may be more searches."""

UID = re.compile(r"[0-9.]{1,64}")
"""What may stand in a path (PS3.5 9.1)."""

NO_IMAGES = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.(88|11|66)\..*")
"""Reports and key objects, presentation states, segmentations: not fetched (PS3.6 A)."""

LATER = (sqlite3.Error, RuntimeFault, OSError)


class WebPoll:
    """Asks from the start until `close`.

    Args:
        query: which studies; keys and values of the search.
        every: seconds between two rounds.
        days: only studies of so many days, today among them; 0: of any day.

    Raises:
        StoreError: the record of what was fetched is damaged.
    """

    def __init__(
        self, spool: Spool, service: Service, query: Mapping[str, str], every: float = 30.0, days: int = 0
    ) -> None:
        self._spool, self._service, self._query = spool, service, dict(query)
        self._every, self._days = every, days
        self._taken = Taken(spool.root / "web.db")
        self._ending = threading.Event()
        self._told = ""
        self._thread = threading.Thread(target=self._work, name="dicom-web", daemon=True)
        self._thread.start()

    def close(self, grace: float = 10.0) -> None:
        """Fetch nothing more; a second call does nothing."""
        self._ending.set()
        self._thread.join(grace)

    def _work(self) -> None:
        try:
            while not self._ending.is_set():
                try:
                    self._round()
                    self._tell("")
                except LATER as e:
                    self._tell(f"{self._service.url}: {e}")
                self._ending.wait(self._every)
        finally:
            self._taken.close()
            self._service.close()

    def _round(self) -> None:
        """Fetch what is new; forget what is in the list no more."""
        there: set[str] = set()
        for found in self._search("studies", {**self._query, **self._recent(), "includefield": COUNT}):
            study, count = _value(found, STUDY), str(_value(found, COUNT))
            if self._ending.is_set() or not UID.fullmatch(str(study)):
                continue
            there.add(str(study))
            known = count.isdigit() and self._taken.mark(f"{study}/") == count
            if not known and self._fetch_study(str(study)):
                self._taken.add(f"{study}/", count)
        if not self._ending.is_set():
            self._taken.keep([name for name in self._taken if name.partition("/")[0] in there])

    def _recent(self) -> dict[str, str]:
        if not self._days:
            return {}
        first = date.today() - timedelta(days=self._days - 1)
        return {"StudyDate": f"{first:%Y%m%d}-"}

    def _fetch_study(self, study: str) -> bool:
        """Fetch the objects of a study that were not yet; whether that is all of them."""
        whole = True
        for found in self._search(f"studies/{study}/instances", {}):
            series, uid = str(_value(found, SERIES)), str(_value(found, INSTANCE))
            name = f"{study}/{uid}"
            if self._ending.is_set():
                return False
            if not UID.fullmatch(series) or not UID.fullmatch(uid) or self._taken.mark(name) is not None:
                continue
            if NO_IMAGES.fullmatch(str(_value(found, SOP_CLASS))):
                self._taken.add(name, "no image")
                continue
            try:
                self._fetch(f"studies/{study}/series/{series}/instances/{uid}")
            except InputError as e:  # this one; the others may be better
                whole = False
                self._tell(f"{self._service.url}: an object cannot be fetched: {e.why or e.what}")
                continue
            self._taken.add(name, "fetched")
        return whole

    def _fetch(self, path: str) -> None:
        """Bring one object into the spool.

        Raises:
            InputError: the service does not give it, or not as a DICOM file.
            Unreachable, SpoolFull, OSError, sqlite3.Error: nothing can be, now.
        """
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        answer = self._service.request("GET", path, headers={"Accept": accept}, stream=True)
        try:
            if answer.status_code != 200:
                raise InputError("no object", f"HTTP status {answer.status_code}", FIX)
            kind = Message()
            kind["Content-Type"] = answer.headers.get("Content-Type", "")
            part = FirstPart(answer.iter_content(PIECE), str(kind.get_param("boundary", "")))
            if take_in(self._spool, part, lambda: part.complete) is None:
                raise InputError("no object", "the answer ends too early", FIX)
        except self._service.error as e:
            raise InputError("no object", cause_of(e), FIX) from None
        finally:
            answer.close()

    def _search(self, path: str, query: Mapping[str, str]) -> Iterator[Any]:
        """Results of a search, page by page.

        Raises:
            Unreachable: there are none to be had.
        """
        offset = 0
        while True:
            asked = {**query, "limit": str(PAGE), "offset": str(offset)}
            answer = self._service.request("GET", path, params=asked)
            if answer.status_code not in (200, 204):
                why = f"HTTP status {answer.status_code}"
                raise Unreachable(f"no search at {self._service.url}", why, FIX)
            found = _results(answer, self._service.url) if answer.status_code == 200 else []
            yield from found
            offset += len(found)
            if len(found) < PAGE:
                return

    def _tell(self, what: str) -> None:
        """Once for each cause in a row."""
        if what != self._told:
            self._told = what
            if what:
                log.warning("%s", what)


def _results(answer: Any, url: str) -> list[Any]:
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, list):
        raise Unreachable(f"no search at {url}", "its answer is no list of results", FIX)
    return found


def _value(result: Any, tag: str) -> Any:
    """The first value of an element of DICOM JSON; None where there is none (PS3.18 F.2)."""
    try:
        return result[tag]["Value"][0]
    except (KeyError, IndexError, TypeError):
        return None
