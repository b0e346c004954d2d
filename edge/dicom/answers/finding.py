"""What is answered: the frames of one unit of work, what was found in them, and which engine found it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.types import EngineId, Payload


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What was found in one frame.

    Attributes:
        path: Part 10 file of the source object.
        frame: which of its frames, counted from 0.
    """

    path: Path
    frame: int
    payload: Payload


@dataclass(frozen=True, slots=True, eq=False)
class LabelVolume:
    """A label for every pixel of every slice; 0 is the background.

    Attributes:
        labels: H × W a source slice, in the order of `paths`.
        paths: the slices' files; all the same where the slices are frames of one object.
        names: label value → what it is.
    """

    labels: Sequence[NDArray[np.uint8]]
    paths: Sequence[Path]
    names: Mapping[int, str]

    @property
    def values(self) -> list[int]:
        """The labels that mean something, in order."""
        return sorted(value for value in self.names if value)

    def frame(self, index: int) -> int:
        """Which frame of its file a slice is: they are counted where one file has several."""
        return self.paths[:index].count(self.paths[index])


@dataclass(frozen=True, slots=True, eq=False)
class Inference:
    """One unit of work, inferred.

    Attributes:
        key: the same after a crash; all UIDs of the answers are derived from it.
        precision: the engine's precision variant in words.
        volume: of a 3-D network.
        moment: when it was inferred, with a time zone. Kept with the result, so that an answer that is made
            again says the same; without it the answers bear the time of the source images.
        window: which VOI LUT or window the frames were shown with: its number or its explanation.
    """

    key: str
    engine: EngineId
    precision: str
    found: Sequence[Found]
    volume: LabelVolume | None = None
    moment: datetime | None = None
    window: int | str = 0

    def frames(self) -> list[tuple[Path, int]]:
        """Every source frame that was looked at, each once, in order."""
        slices = self.volume
        planes = [(path, slices.frame(i)) for i, path in enumerate(slices.paths)] if slices else []
        return list(dict.fromkeys([*((found.path, found.frame) for found in self.found), *planes]))
