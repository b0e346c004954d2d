"""What all sections are told, and how they speak of what is missing."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpu.report import Section

if TYPE_CHECKING:
    from edge.config import ModelConfig
    from edge.machine import Machine
    from edge.store import Store


SAMPLES = 24
"""Held-out pictures at most: enough to find what is wrong with an engine, few enough for a small board."""


class OutOfTime(BaseException):
    """A section's time is up. Not an Exception: what reports faults must not take it for one."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How a section is to be run.

    Attributes:
        folder: for engines and temporary files; shared by the sections of one check.
        model: config of the model that is built and run.
        frame: height and width of the frames that are streamed.
        gpu: number of the GPU.
        seconds: how long the section may take.
        pace: 1: measure as long as is good; less: shorter, for a first look.
    """

    folder: str
    model: str = "burned_in_text"
    frame: tuple[int, int] = (1080, 1920)
    gpu: int = 0
    seconds: float = 60.0
    pace: float = 1.0

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Setting:
        values = json.loads(text)
        return cls(**{**values, "frame": tuple(values["frame"])})

    @property
    def store(self) -> Store:
        from edge.store import Store

        return Store(Path(self.folder, "engines"))

    def config(self) -> ModelConfig:
        """The model's, with no more than SAMPLES held-out pictures."""
        from edge.config import load_model

        config = load_model(Path(self.model))
        if config.evaluation is None:
            return config
        fewer = min(config.evaluation.limit or SAMPLES, SAMPLES)
        return config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"limit": fewer})})

    def machine(self) -> Machine:
        """This machine; the GPU is CUDA's where nvidia-smi is absent, as in some containers.

        Raises:
            EdgeError: CUDA cannot be asked either.
        """
        from edge.cuda.device import open_device
        from edge.machine import Gpu, detect

        machine = detect()
        if machine.gpus:
            return machine
        device = open_device(self.gpu)
        try:
            return dataclasses.replace(machine, gpus=(Gpu(device.name, device.compute_capability),))
        finally:
            device.close()


class Deadline:
    """The end of a section's time, counted from when it is made."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self._end - time.monotonic()

    def check(self) -> None:
        """Raise OutOfTime when there is none left."""
        if self.left <= 0:
            raise OutOfTime


@contextmanager
def or_say_why(found: Section, what: str) -> Iterator[None]:
    """What a missing package, driver feature or engine makes impossible is left out, with the reason."""
    from edge.errors import MissingPackage, OutOfDeviceMemory, UsageError

    try:
        yield
    except (MissingPackage, UsageError, OutOfDeviceMemory) as e:
        found.skip(what, str(e))
    except ImportError as e:
        found.skip(what, absent(e))


def absent(error: ImportError) -> str:
    """Which package is missing.

    Raises:
        ImportError: the same, if it is no other's package but a part of this project.
    """
    package = (error.name or "").partition(".")[0]
    if package in ("edge", "gpu"):
        raise error
    return f"the package '{package}' is not installed ({error})" if package else str(error)
