"""Engines of a tiny network, really built and published: for a processor, and as a bundle for a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import onnx
from clocks import int8_is_faster

from edge import machine
from edge.build.build import build
from edge.build.rows import Row
from edge.config import ModelConfig
from edge.manifest import Entry
from edge.precision.plan import Variant
from edge.store import Store
from edge.targets import TARGETS


class Rows:
    """A reporter that keeps the rows."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def step(self, text: str, done: int, total: int) -> None: ...

    def row(self, row: Row) -> None:
        self.rows.append(row)


def config(folder: Path, model: onnx.ModelProto | None = None, **more: Any) -> ModelConfig:
    """A labelled evaluation set, ten pictures to calibrate with."""
    given = {"calibration": {"images": graphs.pictures(folder / "many", 10)}}
    return graphs.config(folder, model or graphs.residual(), labelled=True, **(given | more))


def publish(made: ModelConfig, folder: Path, *engines: str) -> dict[str, Entry]:
    """Engines "target/variant" by that name, in the store `folder`/engines."""
    store, found = Store(folder / "engines"), {}
    for name in engines:
        target, variant = name.split("/")
        wanted: Variant = variant  # type: ignore[assignment]
        with int8_is_faster():
            (row,) = build(made, [TARGETS[target]], [wanted], store, machine.detect(), Rows())
        assert row.error is None, row.error
        found[name] = store.find(made.name, target, variant)
    return found
