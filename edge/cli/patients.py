"""What `edge run` does for patients: the rule of privacy, and a look for text in the pictures of feeds."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from edge.errors import UsageError
from edge.privacy import Privacy

if TYPE_CHECKING:
    from edge.stream.config import StreamConfig
    from edge.stream.feed import Feed


def privacy_of(stream: StreamConfig) -> Privacy:
    """The rule; where there are DICOM feeds its key is there, too.

    Raises:
        InputError: the key cannot be read or made.
    """
    from edge.sources import locate

    privacy = Privacy(stream.privacy, stream.privacy_key)
    if stream.privacy != "none" and any(locate(f.source)[0].startswith("dicom") for f in stream.feeds):
        _ = privacy.pseudonyms
    return privacy


def look_for_text(
    stream: StreamConfig, feeds: Sequence[Feed], privacy: Privacy, read: Sequence[Path], opened: ExitStack
) -> None:
    """Give the feeds that want it a look at their pictures; the model is loaded once.

    Args:
        read: files and folders that the feeds read.
        opened: closes the model.

    Raises:
        UsageError: there would be nothing to mask, or the copies would be read again.
        MissingPackage: what de-identifies headers is not installed.
    """
    wanted = [(config, feed) for config, feed in zip(stream.feeds, feeds, strict=True) if config.burned_in]
    if not wanted:
        return
    from edge.dicom.deidentify import require
    from edge.dicom.text import TextFinder
    from edge.sources import locate
    from edge.stream.burned_in import BurnedIn

    finder = TextFinder()
    opened.callback(finder.close)
    for config, feed in wanted:
        if config.masked is None:
            feed.burned_in = BurnedIn(finder)
            continue
        if not locate(config.source)[0].startswith("dicom"):
            why = "masked copies are of DICOM objects"
            raise UsageError(f'feed {feed.name}: burned_in = "mask"', why, 'use burned_in = "flag"')
        inside = _source_around(config.masked, read)
        if inside is not None:
            why = f"it lies inside the source {inside}, whose files the copies would be"
            raise UsageError(f"feed {feed.name}: masked = {config.masked}", why, "give it another folder")
        require()
        feed.burned_in = BurnedIn(finder, privacy.pseudonyms, config.masked)


def _source_around(folder: Path, read: Sequence[Path]) -> Path | None:
    """The source that a folder is, or is inside of."""
    place = folder.resolve()
    return next((source for source in read if source in (place, *place.parents)), None)
