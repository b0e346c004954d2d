"""What all feeds share whose objects go through a durable spool: frames of one unit of work after another.

Such a feed has no end and never drops a frame: the reader waits. While there is nothing to read it is idle.
Whatever brings objects into the spool (a receiver, a watched folder, a DICOMweb client) runs beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from edge.dicom.ahead import Decoders
from edge.dicom.case import Case, Part
from edge.dicom.desk import Claiming, Desk
from edge.dicom.series import Frames
from edge.dicom.voi import window_of
from edge.errors import InputError, UsageError, nearest
from edge.sources import Address, Idle, Picture
from edge.spool import Retention, Spool, Watermarks

SETTINGS: Mapping[str, Any] = {
    "spool": "",
    "unit": "series",
    "quiet": 5.0,
    "window": "0",
    "free_gb": 1.0,
    "confirmed_h": 24.0,
    "answered_h": 168.0,
    "quarantined_h": 720.0,
}
"""Of every such feed, with what they are when left out."""

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""Classes whose pixels are masks and labels (PS3.6 A)."""

LABEL = "dicom"
"""What such a feed is called, as every DICOM feed is."""

UNITS = ("object", "series")

WAIT_S = 0.25
"""Longest that one read waits: a run that ends is seen this late at worst."""


class Supply(Protocol):
    """Brings objects into the spool until it is closed."""

    def close(self) -> None: ...


class Spooled:
    """Frames of what is in a spool.

    Args:
        supply: closed here; the desk outlives the source, until the run has told it of all frames.
        objects: whether units of work are single objects.
        window: which VOI LUT or window is used.
        private: whether the address may hold a patient's name.

    Attributes:
        told: to whoever starts the run: what it waits for.
    """

    told = ""
    live, paced = False, False
    fps: float | None = None
    truth_kind: str | None = None
    problem: str | None = None

    def __init__(
        self,
        label: str,
        desk: Desk,
        supply: Supply,
        objects: bool = False,
        window: int | str = 0,
        private: bool = True,
    ) -> None:
        self.label, self.outcomes, self.supply, self.private = label, desk, supply, private
        self._objects, self._window = objects, window
        self._stacks: list[list[Path]] | None = None  # frames are given, one by one
        self._case: Case | None = None
        self._decoders = Decoders()
        self._frames = Frames([])
        self._coming: tuple[Case, Frames] | None = None  # the unit after this one, its first frames begun

    def read(self) -> Picture | None:
        """The next frame, or the next stack of slices.

        Raises:
            Idle: there is none just now.
            InputError: this one cannot be decoded; an object of which nothing can be is quarantined.
        """
        while True:
            case = self._case if self._case and not self._case.over else self._begin()
            picture = self._frame(case) if self._stacks is None else self._volume(case, self._stacks)
            if picture is not None:
                return picture
            self._case = None
            self.outcomes.handed_out(case)

    def volumes(self) -> Spooled:
        """The same source, giving series as volumes, those of a unit before included.

        Raises:
            UsageError: its units are single objects.
        """
        if self._objects:
            why = "a volume is made of a series"
            raise UsageError(f"feed {self.label}: unit=object", why, "write unit=series")
        self._stacks = []
        return self

    def close(self) -> None:
        self.supply.close()
        self._frames.close()
        self._decoders.close()

    def _begin(self) -> Case:
        coming, self._coming = self._coming, None
        taken = coming if coming and not coming[0].over else self._take(WAIT_S)
        if taken is None:
            self._case = None
            raise Idle("nothing has to be inferred just now")
        self._case, self._frames = taken
        if self._stacks is not None:
            from edge.sources.volumes import stacks

            claim = self._case.claim
            self._stacks = stacks([item.path for item in (*claim.earlier, *claim.objects)])[::-1]
        return self._case

    def _take(self, wait: float) -> tuple[Case, Frames] | None:
        case = self.outcomes.take(wait)
        if case is None:
            return None
        paths = [item.path for item in case.claim.objects] if self._stacks is None else []
        return case, Frames(paths, self._window, self._decoders)

    def _look_ahead(self) -> None:
        """While a unit's last frame is decompressed, the next unit's first ones are too."""
        if self._frames.last and self._coming is None:
            self._coming = self._take(0.0)
            if self._coming is not None:
                self._coming[1].begin(self._decoders.count)

    def _frame(self, case: Case) -> Picture | None:
        """The next frame of a unit; None where it has no more."""
        try:
            if not self._frames.open():
                return None
        except InputError as e:
            assert self._frames.path is not None
            self.outcomes.lose(case, Part((self._frames.path,)), e)
            raise
        current = self._frames.image
        assert current is not None
        if self._frames.number == 1 and (why := _no_image(current.dataset)):
            self._frames.skip()
            error = InputError(f"{current.path} is not looked at", why, "send images alone")
            self.outcomes.lose(case, Part((current.path,)), error)
            raise error
        if current.compressed:
            self._look_ahead()
        part = Part((current.path,), self._frames.number)
        try:
            index, image, transforms = self._frames.read()
            known = current.meta(index)
        except InputError as e:
            self.outcomes.lose(case, part, e)
            raise
        meta = {"file": current.path.name, **known, "transforms": list(transforms)}
        meta |= self.outcomes.hand_out(case, part)
        return Picture(image, None, meta, path=current.path)

    def _volume(self, case: Case, left: list[list[Path]]) -> Picture | None:
        """The next stack of a unit; None where it has no more."""
        from edge.sources.volumes import volume_picture

        if not left:
            return None
        part = Part(tuple(left.pop()), stack=True)
        try:
            picture = volume_picture(part.paths)
        except InputError as e:
            self.outcomes.lose(case, part, e)
            raise
        return replace(picture, meta={**picture.meta, **self.outcomes.hand_out(case, part)})


def _no_image(dataset: Any) -> str:
    """Why an object with pixels is not looked at; empty where it is."""
    from edge.dicom.answers.dress import is_answer

    if is_answer(dataset):
        return "it is an answer of this program"
    return "it is a segmentation" if str(dataset.get("SOPClassUID")) in SEGMENTATIONS else ""


def open_spooled(
    address: Address,
    values: Mapping[str, Any],
    supply: Callable[[Spool], Supply],
    private: bool = True,
) -> Spooled:
    """A feed of what `supply` brings into the spool that the address names.

    Args:
        values: its settings, those of `SETTINGS` among them.
        supply: starts what brings objects.
        private: whether the address may hold a patient's name.

    Raises:
        UsageError: a setting is wrong.
        StoreError: another process uses the spool, or it is damaged.
        InputError: the supply cannot start.
    """
    if not values["spool"]:
        fix = "add spool=DIR, a folder of its own on a disk that is there to stay"
        raise UsageError(f"{address.uri}: no spool", "objects are kept there until they are answered", fix)
    claiming, keep, marks = (
        _claiming(address, values),
        _retention(address, values),
        _watermarks(address, values),
    )
    with ExitStack() as opened:
        spool = opened.enter_context(Spool(Path(values["spool"]).expanduser(), marks=marks))
        started = supply(spool)
        opened.pop_all()
    desk, objects = Desk(spool, claiming, keep), values["unit"] == "object"
    return Spooled(LABEL, desk, started, objects, window_of(values["window"]), private)


def _claiming(address: Address, values: Mapping[str, Any]) -> Claiming:
    unit, quiet = values["unit"], values["quiet"]
    if unit not in UNITS:
        raise UsageError(f"{address.uri}: unit={unit}", "", nearest(unit, UNITS))
    if not 0 <= quiet < float("inf"):
        raise UsageError(f"{address.uri}: quiet={quiet} is not a number of seconds from 0")
    return Spool.claim_object if unit == "object" else partial(Spool.claim_series, quiet=quiet)


def _retention(address: Address, values: Mapping[str, Any]) -> Retention:
    hours = {name: values[f"{name}_h"] for name in ("confirmed", "answered", "quarantined")}
    for name, value in hours.items():
        if not value >= 0:
            raise UsageError(f"{address.uri}: {name}_h={value} is not a number of hours from 0")
    return Retention(**{name: 3600 * value for name, value in hours.items()})


def _watermarks(address: Address, values: Mapping[str, Any]) -> Watermarks:
    free = values["free_gb"]
    if not 0 <= free < float("inf"):
        raise UsageError(f"{address.uri}: free_gb={free} is not a number from 0")
    return Watermarks(round(1e9 * free), round(1.25e9 * free))
