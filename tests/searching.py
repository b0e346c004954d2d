"""A real search on a tiny graph: what a build prepares, without publishing anything."""

from __future__ import annotations

from pathlib import Path

from edge import machine
from edge.build.build import Job, open_workshop
from edge.build.choose import Chosen
from edge.build.gpu import emulation
from edge.build.inputs import gather
from edge.build.workshop import Workshop
from edge.config import ModelConfig
from edge.precision.plan import Variant
from edge.store import Store
from edge.targets import TARGETS


class Silent:
    """A reporter that keeps what it hears."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def step(self, text: str, done: int, total: int) -> None:
        self.steps.append(text)

    def row(self, row: object) -> None:
        raise AssertionError("nothing is published here")


def workshop(config: ModelConfig, folder: Path, heard: Silent | None = None) -> Workshop:
    """Calibrated, with a chooser; `folder` keeps the cache."""
    job = Job(TARGETS["orin"], "fast", "", "", "tensorrt", None)
    work = folder / f"work{sum(1 for _ in folder.glob('work*'))}"
    work.mkdir(parents=True)
    store = Store(folder / "engines")
    return open_workshop(gather(config), [job], store, machine.detect(), heard or Silent(), work, None)


def chosen(shop: Workshop, target: str = "orin", variant: Variant = "fast") -> Chosen:
    """The plan that the search finds for a GPU."""
    row = TARGETS[target]
    return shop.chosen(row, variant, emulation(shop, row, target), target)
