"""Where frames come from: one file a kind, listed in `SOURCES`.

A source module offers

    open(address: Address, realtime: bool) -> Source

and, if paths without a scheme may be its own, `claims(path: Path) -> bool`. `contract/test_sources.py` runs
over the table. A source is used by one thread; it may block.

The module of a feed that may come and go (a camera, a stream of the network) also offers

    describe(address: Address) -> Absent

which checks the address without opening anything; its `open` may block until a timeout of its own, is called
again after every loss, and raises `Refused` where trying again soon is of no use. Where it needs a package
that may be missing, `require()` tells before the run.

A source whose address may hold a patient's name has an attribute `private = True`.

A source that has to know what became of its pictures, because it owes somebody an answer, has an attribute
`outcomes: Outcomes`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from edge.address import Address as Address
from edge.address import split, without_password
from edge.errors import InputError, UsageError, nearest
from edge.types import Array, Image, Result

if TYPE_CHECKING:
    from edge.dicom.volume import Volume

SOURCES = {
    "images": "edge.sources.images",
    "dicom": "edge.sources.dicom",
    "dicom+scp": "edge.sources.dicom_scp",
    "dicomweb+https": "edge.sources.dicomweb",
    "dicomweb+http": "edge.sources.dicomweb",
    "video": "edge.sources.video",
    "test": "edge.sources.pattern",
    "camera": "edge.sources.camera",
    "csi": "edge.sources.gstreamer",
    "gst": "edge.sources.gstreamer",
    "rtsp": "edge.sources.network",
    "rtsps": "edge.sources.network",
    "http": "edge.sources.network",
    "https": "edge.sources.network",
    "udp": "edge.sources.network",
}

PATH_KINDS = ("dicom", "images", "video")
"""Asked in this order whose a path without a scheme is."""

NOT_A_PATH = "check the path; a network camera is written rtsp://HOST/PATH, one of this machine camera:0"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)


Allocate = Callable[[tuple[int, ...]], Image]
"""Gives an uninitialised H × W × 3 uint8 array.

A source that can decode into given memory has an attribute `allocate: Allocate`, `numpy_memory` at first; an
engine on a GPU puts page-locked buffers there."""


def numpy_memory(shape: tuple[int, ...]) -> Image:
    return np.empty(shape, np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """What a source reads: see `edge.types.Frame` for the meaning of each field.

    Attributes:
        luma: H × W uint8, the picture's brightness where the source has it anyway: cheaper to look at.
        narrow: its black is 16 and its white 235.
        path: the DICOM file it is of; never told to anybody.
    """

    image: Image
    pts: float | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    truth: Array | None = None
    volume: Volume | None = None
    luma: Array | None = None
    narrow: bool = False
    path: Path | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Absent:
    """What is known of a source that is not open.

    Attributes:
        label: a short name that a feed can be called by; without user name and password.
        shown: the address as it may be shown: without a password.
        place: host and port that answer when it is there; None where there is no such thing.
    """

    label: str
    shown: str
    place: tuple[str, int] | None = None


class Refused(InputError):
    """It answers, but with no pictures for us: wrong credentials, no video, a codec that is not there."""


class Damaged(InputError):
    """A frame arrived incomplete. It is not shown; the source goes on with the next whole one."""


class Idle(InputError):
    """There is nothing to read just now; the next call waits again."""


class Outcomes(Protocol):
    """Is told the fate of every picture of a source, once; each method may be called by any thread."""

    def delivered(self, result: Result) -> None:
        """A picture has its result."""
        ...

    def missed(self, meta: Mapping[str, Any], cause: str, error: Exception | None = None) -> None:
        """A picture has none.

        Args:
            cause: the stage that failed, or why it was left out on purpose.
            error: what failed there.

        What a run that ends has not looked at any more is not told.
        """
        ...

    def close(self) -> None:
        """The run is over, after the source was closed; a second call does nothing."""
        ...


class Source(Protocol):
    """An opened source.

    Attributes:
        label: a short name that a feed can be called by.
        live: frames come whether they are taken or not, so the newest wins; otherwise the reader waits.
        paced: frames fall due at their `pts`; otherwise they come as fast as they are read.
        fps: the source's own frame rate, None where it has none.
        truth_kind: the kind of task whose right answers `Picture.truth` holds; None where it holds none.
        problem: after the end, why there were fewer frames than promised; None where all is well.

    A live source that is compressed may have two attributes more: `hurry`, which the reader sets while frames
    come later and later, to have only key frames decoded; and `skipped`, how many frames were left out so.
    One whose pictures are slices may have a method `volumes() -> Source`: the same as whole series.
    """

    label: str
    live: bool
    paced: bool
    fps: float | None
    truth_kind: str | None
    problem: str | None

    def read(self) -> Picture | None:
        """The next picture, None at the end.

        Raises:
            Idle: there is none yet; a source that has no end waits a moment for one.
            Damaged: this picture arrived incomplete.
            InputError: this picture cannot be read; the next call goes on with the one after it.
        """
        ...

    def close(self) -> None:
        """Give everything back; a second call does nothing."""
        ...


def open_source(uri: str, realtime: bool = False) -> Source:
    """The source at `uri`: `scheme:place?settings`, or a path, which may hold any character.

    Args:
        realtime: let frames fall due at the source's own rate instead of as fast as they can be read.

    Raises:
        UsageError: the scheme or a setting is unknown.
        InputError: there is nothing there that can be read.
    """
    kind, address = locate(uri)
    return cast(Source, importlib.import_module(SOURCES[kind]).open(address, realtime))


def describe(uri: str) -> Absent | None:
    """What is known of a source that may come and go, before it is opened; None for one that is there or not.

    Raises:
        UsageError: the scheme or a setting is unknown.
        InputError: there is no such file.
    """
    kind, address = locate(uri)
    module = importlib.import_module(SOURCES[kind])
    return cast(Absent, module.describe(address)) if hasattr(module, "describe") else None


def require(uri: str) -> None:
    """
    Raises:
        MissingPackage: reading the source needs one that is not installed.
    """
    module = importlib.import_module(SOURCES[locate(uri)[0]])
    if hasattr(module, "require"):
        module.require()


def locate(uri: str) -> tuple[str, Address]:
    """Which kind of source `uri` means, and its address. A path that exists is never taken for a scheme."""
    path = Path(uri).expanduser()
    if exists(path):
        return _kind_of(path), Address(uri, str(path))
    match = _SCHEME.fullmatch(uri)
    if match and match[1].lower() in SOURCES:
        scheme, rest = match[1].lower(), match[2]
        if scheme in PATH_KINDS and exists(Path(rest).expanduser()):
            return scheme, Address(uri, rest)
        return scheme, split(uri, rest)
    shown = without_password(uri)
    if match and "/" not in match[1] and "." not in match[1]:
        hint = nearest(match[1].lower(), SOURCES)
        raise UsageError(f"no source '{shown}'", f"no file is called that, and no scheme '{match[1]}'", hint)
    raise InputError(f"cannot read {shown}", "there is no such file or folder", NOT_A_PATH)


def exists(path: Path) -> bool:
    """Whether there is something at `path`; what cannot be a path, a name too long for one, is not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _kind_of(path: Path) -> str:
    for kind in PATH_KINDS:
        if importlib.import_module(SOURCES[kind]).claims(path):
            return kind
    raise InputError(
        f"cannot read {path}",
        "the folder holds neither pictures nor DICOM files" if path.is_dir() else "it is not a regular file",
        "give a video, a picture, a DICOM file, or a folder of pictures or DICOM files",
    )


def feed_names(labels: Sequence[str]) -> list[str]:
    """Names for feeds: letters, digits and dashes, each unique in the run."""
    names: list[str] = []
    for label in labels:
        base = re.sub(r"[^\w.-]+", "-", label).strip("-.") or "feed"
        name, number = base, 2
        while name in names:
            name, number = f"{base}-{number}", number + 1
        names.append(name)
    return names
