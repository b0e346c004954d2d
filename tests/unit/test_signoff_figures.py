"""The figures: drawn for few groups and for many, labels that do not cover each other, one picture of all."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge.signoff import canvas, figures, pareto
from edge.signoff.data import Refused
from edge.signoff.labels import Box, Label, place
from edge.signoff.page import interesting
from edge.signoff.poster import WIDTH, draw_poster
from edge.signoff.words import metric_of
from tests.dossiers import Shelf, accuracy, full

pytest.importorskip("matplotlib", reason="matplotlib draws the figures")


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


@pytest.fixture
def axes() -> Any:
    return canvas.new_figure(900, 400).add_axes((0.1, 0.15, 0.75, 0.8))


def texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def extents(axes: Any) -> list[Box]:
    renderer = axes.figure.canvas.get_renderer()
    found = [text.get_window_extent(renderer) for text in axes.texts]
    return [Box(e.x0, e.y0, e.x1, e.y1) for e in found]


def test_labels_cover_neither_each_other_nor_points(axes: Any) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1))
    random = np.random.default_rng(0)
    spots = [(0.5, 0.5), (0.505, 0.5), (0.5, 0.51), *map(tuple, random.uniform(0.1, 0.9, (22, 2)))]
    place(axes, [Label(f"engine number {i}", x, y) for i, (x, y) in enumerate(spots)], fontsize=8)
    boxes = extents(axes)
    assert all(a.overlap(b) == 0 for a, b in combinations(boxes, 2))
    for spot in spots:
        x, y = axes.transData.transform(spot)
        assert all(box.overlap(Box(x - 3, y - 3, x + 3, y + 3)) == 0 for box in boxes)


class TestPareto:
    def draw(self, axes: Any, shelf: Shelf) -> list[str]:
        engines = shelf.dossier().engines
        pareto.pareto(axes, engines, metric_of(engines))
        return texts(axes)

    def test_every_engine_is_named(self, axes: Any, shelf: Shelf) -> None:
        for target, speed in (("ada", 1.9), ("orin", 1.4), ("t4", 1.5)):
            shelf.add(target, speed_up=speed)
            shelf.add(target, "exact", accuracy=accuracy(0.93))
        found = self.draw(axes, shelf)
        assert {"ada: int8", "orin: int8", "t4: int8", "t4, orin, ada: exact"} <= {*found}
        assert any("original" in text for text in found) and any("0.8800" in text for text in found)

    def test_a_limit_far_away_is_told_in_words(self, axes: Any, shelf: Shelf) -> None:
        shelf.add(accuracy=accuracy(0.9299), config={"gate": {"max_drop": 0.5}})
        assert any("farther down" in text for text in self.draw(axes, shelf))
        assert axes.get_ylim()[0] > 0.9

    def test_an_engine_of_unknown_speed_stands_aside(self, axes: Any, shelf: Shelf) -> None:
        shelf.add("ada")
        shelf.add("cpu", speed_up=None, accuracy=accuracy(0.90))
        assert "cpu: int8" in self.draw(axes, shelf)
        assert "not estimated" in [tick.get_text() for tick in axes.get_xticklabels()]

    def test_an_engine_without_accuracy_is_left_out(self, axes: Any, shelf: Shelf) -> None:
        shelf.add("ada")
        shelf.add("cpu", accuracy=None)
        assert [engine.label for engine in pareto.drawable(shelf.dossier().engines)] == ["ada/fast"]


class TestGroups:
    @pytest.mark.parametrize("count", [1, 20, 200])
    def test_the_map_has_every_group(self, count: int, shelf: Shelf, axes: Any) -> None:
        shelf.keep(shelf.add(), groups=count)
        (engine,) = shelf.dossier().engines
        rows = figures.map_rows(engine)
        assert [index for row in rows for index, _, _ in row] == list(range(1, count + 1))
        assert len(rows) <= 5
        figures.precision_map(axes, engine)
        assert len(axes.patches) == count
        assert min(patch.get_width() for patch in axes.patches) > 0

    def test_names_stay_in_their_cell(self, shelf: Shelf, axes: Any) -> None:
        shelf.keep(shelf.add(), groups=60)
        figures.precision_map(axes, shelf.dossier().engines[0])
        named = [text for text in axes.texts if not text.get_text().startswith("group")]
        renderer = axes.figure.canvas.get_renderer()
        cells = [patch.get_window_extent(renderer) for patch in axes.patches]
        assert len(named) > 10
        for text in named:
            box = text.get_window_extent(renderer)
            assert any(
                cell.x0 <= box.x0 and box.x1 <= cell.x1 for cell in cells if cell.y0 <= box.y0 + 3 <= cell.y1
            )

    @pytest.mark.parametrize("count", [3, 200])
    def test_a_bar_for_every_group_in_the_colour_of_its_precision(
        self, count: int, shelf: Shelf, axes: Any
    ) -> None:
        from matplotlib.colors import to_hex

        shelf.keep(shelf.add(), groups=count)
        figures.sensitivity(axes, shelf.dossier().engines[0])
        bars = axes.containers[0].patches
        colours = [
            "int8" if to_hex(bar.get_facecolor()) == canvas.COLOURS["int8"] else "bf16" for bar in bars
        ]
        assert colours == ["bf16" if i % 4 == 3 else "int8" for i in range(count)]
        assert axes.get_yscale() == "log"

    def test_names_with_dollars_and_other_scripts(self, shelf: Shelf) -> None:
        made = shelf.add()
        shelf.keep(made, groups=2)
        path = next(shelf.root.glob("net/.report/ada/fast.json"))
        path.write_text(path.read_text().replace("conv0", "$a_$b 層").replace("conv1", "$"))
        engine = shelf.dossier().engines[0]
        svg = canvas.as_svg(lambda a: figures.sensitivity(a, engine), 900, 300, (60, 9, 9, 90), "t")
        assert "$a_$b 層" in svg

    def test_a_histogram_marks_what_was_chosen(self, tmp_path: Path, axes: Any) -> None:
        engine = full(tmp_path).dossier().engines[0]
        assert engine.evidence is not None
        figures.histogram(axes, engine.evidence.tensors[0], "#112233")
        chosen = [text for text in axes.texts if text.get_fontweight() == "bold"]
        assert [text.get_text() for text in chosen] == ["p99.9"] and "max" in texts(axes)


def test_figures_take_the_colours_of_the_page(tmp_path: Path) -> None:
    engine = full(tmp_path).dossier().engines[0]
    svg = canvas.as_svg(lambda a: figures.sensitivity(a, engine), 900, 300, (60, 9, 9, 90), 'a "title"')
    assert "var(--faint)" in svg and not [color for color in canvas.THEME if color in svg]
    assert 'aria-label="a &quot;title&quot;"' in svg


def test_the_most_telling_engine(shelf: Shelf) -> None:
    shelf.add("cpu", accuracy=accuracy(0.89))
    shelf.keep(shelf.add("ada"))
    shelf.add("ada", "exact")
    found = interesting(shelf.dossier().engines)
    assert found is not None and found.label == "ada/fast"


class TestPoster:
    def draw(self, shelf: Shelf, path: Path, *refused: Refused) -> Any:
        draw_poster(shelf.dossier(*refused), path)
        image = cv2.imread(str(path))
        assert image is not None
        return image

    def test_it_is_a_picture_of_all(self, tmp_path: Path) -> None:
        image = self.draw(full(tmp_path), tmp_path / "report.png")
        assert image.shape[1] == WIDTH and image.shape[0] > 1000
        assert len(np.unique(image.reshape(-1, 3), axis=0)) > 50
        for shade in (60, 110, 150):  # of the samples
            assert (abs(image.astype(int) - shade) <= 2).all(axis=2).sum() > 3000

    def test_refused_engines_make_it_red(self, tmp_path: Path) -> None:
        image = self.draw(full(tmp_path), tmp_path / "report.png", Refused("t4/fast", "f1 falls " * 60))
        assert (image == (0x3B, 0x41, 0xC2)).all(axis=2).sum() > 200

    @pytest.mark.parametrize("accuracy", [None, accuracy()])
    def test_little_is_known(self, accuracy: Any, shelf: Shelf, tmp_path: Path) -> None:
        shelf.add(accuracy=accuracy, plan=[])
        assert self.draw(shelf, tmp_path / "report.png").shape[1] == WIDTH

    def test_nothing_was_published(self, shelf: Shelf, tmp_path: Path) -> None:
        image = self.draw(shelf, tmp_path / "report.png", Refused("t4/fast", "f1 falls"))
        assert image.shape[0] < 400
