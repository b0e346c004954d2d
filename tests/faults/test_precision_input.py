"""Graphs, pictures and policies that quantization is not made for: what the builder does, or says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import graphs
import numpy as np
import onnx
import pytest

from edge import machine
from edge.build import processor
from edge.cli import main
from edge.manifest import Manifest, read_manifest


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    """No sync, few timed runs, and GPU targets as bundles: what is chosen does not matter here."""
    here = machine.detect()
    packages = {name: version for name, version in here.packages.items() if name != "tensorrt-rtx"}
    bare = machine.Machine(here.cpu, here.arch, here.cpu_features, here.cores, packages=packages)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        patch.setattr(processor, "ROUNDS", 1)
        patch.setattr(processor, "RUNS", 1)
        patch.setattr(machine, "detect", lambda: bare)
        yield


class Builder:
    """A folder with a graph, 16 pictures and a store."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.pictures = graphs.pictures(folder / "pictures", 16)
        self.error = ""

    def build(
        self,
        model: onnx.ModelProto,
        *words: str,
        targets: str = "orin",
        variants: str = "fast",
        more: str = "",
    ) -> int:
        """The exit code; `more` is added to the config."""
        graphs.saved(model, self.folder / "net.onnx")
        (self.folder / "net.toml").write_text(
            'name = "net"\nonnx = "net.onnx"\n[input]\nsize = [32, 32]\n[task]\nkind = "segment"\n'
            f'[calibration]\nimages = "pictures"\n{more}\n'
        )
        options = ["--targets", targets, "--variants", variants, "--json", str(self.folder / "rows.json")]
        store = ["--out", str(self.folder / "engines")]
        code = main(["build", "--model", str(self.folder / "net.toml"), *options, *store, *words])
        self.error = self.capsys.readouterr().err
        assert "Traceback" not in self.error and "RuntimeWarning" not in self.error
        return code

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads((self.folder / "rows.json").read_text())
        return rows

    def manifest(self, target: str = "orin", variant: str = "fast") -> Manifest:
        (row,) = (r for r in self.rows if (r["target"], r["variant"]) == (target, variant))
        return read_manifest(Path(row["path"]))

    def plan(self, target: str = "orin", variant: str = "fast") -> dict[str, tuple[str, str]]:
        """Precision and reason by node."""
        return {e.node: (e.precision, e.reason) for e in self.manifest(target, variant).plan}

    def said(self, *texts: str) -> None:
        for text in texts:
            assert text in self.error


@pytest.fixture
def builder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Builder:
    return Builder(tmp_path, capsys)


class TestPictures:
    """The build goes on, and says what is missing: to the user, in the row and in the manifest."""

    def warned(self, builder: Builder, text: str) -> None:
        assert builder.build(graphs.residual(), variants="fast,exact") == 0
        fast, exact = builder.rows
        assert f"warning: {text}" in builder.error
        assert [text in warning for warning in fast["warnings"]].count(True) == 1
        assert tuple(fast["warnings"]) == builder.manifest().warnings
        assert exact["warnings"] == []  # what is not quantized needs no ranges

    def test_there_are_too_few(self, builder: Builder) -> None:
        for file in sorted(builder.pictures.iterdir())[4:]:
            file.unlink()
        self.warned(
            builder, "calibration has 3 pictures (every 4th is held out to verify with); ranges of 16"
        )

    def test_enough_of_them_are_nothing_to_warn_of(self, builder: Builder) -> None:
        assert builder.build(graphs.residual()) == 0
        assert builder.rows[0]["warnings"] == [] and "warning" not in builder.error

    def test_they_are_all_the_same(self, builder: Builder) -> None:
        first, *others = sorted(builder.pictures.iterdir())
        for file in others:
            file.write_bytes(first.read_bytes())
        self.warned(builder, "calibration has 12 pictures, but only 1 different one")

    def test_one_is_of_one_colour(self, builder: Builder) -> None:
        cv2.imwrite(str(builder.pictures / "0005.jpg"), np.full((32, 32, 3), 77, np.uint8))
        self.warned(builder, "1 of 12 calibration pictures is of one colour throughout (0005.jpg)")

    def test_all_are_black(self, builder: Builder) -> None:
        for file in builder.pictures.iterdir():
            cv2.imwrite(str(file), np.zeros((32, 32, 3), np.uint8))
        self.warned(builder, "12 of 12 calibration pictures are of one colour throughout")
        precision, reason = builder.plan()["stem"]
        assert precision == "bf16" and "its input was zero for every calibration sample" in reason

    def test_a_warning_is_there_when_nothing_had_to_be_built(self, builder: Builder) -> None:
        for file in sorted(builder.pictures.iterdir())[4:]:
            file.unlink()
        for cached in (False, True):
            assert builder.build(graphs.residual()) == 0
            assert builder.rows[0]["cached"] is cached
            builder.said("warning: calibration has 3 pictures")

    def test_a_failed_engine_has_them_too(self, builder: Builder) -> None:
        for file in sorted(builder.pictures.iterdir())[4:]:
            file.unlink()
        assert builder.build(graphs.residual(), more="[gate]\nmin_sqnr_db = 300") == 3
        assert len(builder.rows[0]["warnings"]) == 1
        builder.said("warning: calibration has 3 pictures")
