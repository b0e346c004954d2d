"""Looks for text burned into the pictures of a feed, beside the engine and before it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge.errors import InputError
from edge.privacy import Pseudonyms
from edge.sources import Picture

if TYPE_CHECKING:
    from edge.dicom.text import TextFinder

FOUND = "burned_in_text"
"""Flag of a frame in which text was found."""
UNCHECKED = "burned_in_unchecked"
"""Flag of a frame that could not be looked at."""


class BurnedIn:
    """Flags a feed's pictures, and writes a masked copy of every object where there is a folder for them.

    Used by the feed's reader; the finder may be shared.
    """

    def __init__(
        self, finder: TextFinder, pseudonyms: Pseudonyms | None = None, folder: Path | None = None
    ) -> None:
        self._finder, self._pseudonyms, self._folder = finder, pseudonyms, folder
        self._path: Path | None = None
        self._text: tuple[bool, ...] = ()

    def look(self, picture: Picture) -> Picture:
        """The picture with its flag.

        Raises:
            EdgeError, OSError: it cannot be looked at, or its copy cannot be written.
        """
        found = self._masked(picture) if self._folder else len(self._finder.find(picture.image)) > 0
        return replace(picture, flags=(*picture.flags, FOUND)) if found else picture

    def _masked(self, picture: Picture) -> bool:
        """Mask the picture's object with its first frame; the others are known then."""
        from edge.dicom.masking import mask

        assert self._folder is not None and self._pseudonyms is not None
        if picture.path is None:
            raise InputError("no masked copy", "the picture is of no single DICOM file")
        if picture.path != self._path:
            self._path, self._text = None, ()
            try:
                self._text = mask(picture.path, self._folder, self._finder, self._pseudonyms).text
            except InputError as e:
                e.names = (*e.names, str(picture.path))
                raise
            self._path = picture.path
        number: int = picture.meta["frame_number"]
        return self._text[number - 1]
