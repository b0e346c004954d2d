"""The report as one picture: verdict, engines, the trade-off, one engine's plan, and what it does worst."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge.signoff import figures, pareto, words
from edge.signoff.canvas import FAILED, FAINT, INK, LINE, any_script, bare, new_figure
from edge.signoff.data import Dossier, Engine, Pair
from edge.signoff.page import interesting, standing
from edge.signoff.samples import worst_pairs

WIDTH, EDGE = 1600, 48
"""Of the picture and of its margin, in pixels."""
ROWS = 24
"""Engines in the table; of more it says how many there are."""
LINE_HEIGHT = 31
STANDING = {"good": "#1b7a4b", "bad": FAILED, "open": "#8a6410"}
COLUMNS = (("Engine", 0), ("Precisions, share of the work", 190), ("fp32 → engine", 600), ("Loss", 800),
           ("Speed-up", 1060), ("State", 1270), ("Gate", 1400))  # fmt: skip


class Sheet:
    """A picture that is filled from the top; everything in pixels."""

    def __init__(self) -> None:
        self.y = float(EDGE)
        self._drawn: list[Callable[[Any, float], None]] = []

    def text(self, x: float, y: float, text: str, size: float, color: str = INK, **more: Any) -> None:
        """Baseline-free: y is the text's top, counted from the picture's."""

        def draw(figure: Any, height: float) -> None:
            figure.text(
                x / WIDTH,
                1 - y / height,
                text,
                fontsize=size,
                color=color,
                va="top",
                parse_math=False,
                **more,
            )

        self._drawn.append(draw)

    def axes(self, x: float, y: float, width: float, high: float, draw_on: Callable[[Any], None]) -> None:
        def draw(figure: Any, height: float) -> None:
            box = (x / WIDTH, 1 - (y + high) / height, width / WIDTH, high / height)
            draw_on(figure.add_axes(box))

        self._drawn.append(draw)

    def title(self, text: str, x: float = EDGE) -> None:
        self.text(x, self.y, text, 14, fontweight="bold")

    def save(self, path: Path) -> None:
        height = self.y + EDGE
        figure = new_figure(WIDTH, height)
        with any_script():
            for draw in self._drawn:
                draw(figure, height)
            figure.savefig(path, format="png", dpi=100, metadata={"Software": "edge"})


def draw_poster(dossier: Dossier, path: Path) -> None:
    """Write the picture.

    Raises:
        MissingPackage: matplotlib is not installed.
        OSError: it cannot be written.
    """
    sheet, engine = Sheet(), interesting(dossier.engines)
    _head(sheet, dossier)
    _table(sheet, dossier.engines)
    _trade_off(sheet, dossier, engine)
    if engine is not None:
        _map(sheet, engine)
        _worst(sheet, engine)
    else:
        _worst(sheet, next((e for e in dossier.engines if worst_pairs(e)), None))
    sheet.save(path)


def _head(sheet: Sheet, dossier: Dossier) -> None:
    sheet.text(EDGE, sheet.y, f"{dossier.model}: engines and their accuracy", 22, fontweight="bold")
    sheet.y += 52
    lines = textwrap.wrap(words.overall(dossier), 108)
    high = 30 * len(lines) + 6
    color = STANDING[standing(dossier)]
    sheet.axes(EDGE, sheet.y, 7, high, lambda axes: _fill(axes, color))
    for line in lines:
        sheet.text(EDGE + 24, sheet.y + 5, line, 15, fontweight="bold")
        sheet.y += 30
    sheet.y += 22
    if dossier.pictures:
        told = "Holds pictures of the evaluation set, which may show patients or other people."
        sheet.text(EDGE, sheet.y, told, 11, STANDING["open"])
        sheet.y += 34
    for refused in dossier.refused[:4]:
        for line in textwrap.wrap(f"Refused: {refused.label}: {refused.reason}", 150)[:2]:
            sheet.text(EDGE, sheet.y, line, 11, FAILED)
            sheet.y += 24
    sheet.y += 18 if dossier.refused else 8


def _fill(axes: Any, color: str) -> None:
    bare(axes)
    axes.set_facecolor(color)


def _table(sheet: Sheet, engines: Sequence[Engine]) -> None:
    if not engines:
        return
    metric = words.metric_of(engines)
    for name, x in COLUMNS:
        told = f"{metric.name} {name}" if name == "fp32 → engine" else name
        sheet.text(EDGE + x, sheet.y, told, 11, FAINT, fontweight="bold")
    sheet.y += 28
    for engine in engines[:ROWS]:
        sheet.axes(EDGE, sheet.y - 5, WIDTH - 2 * EDGE, 1, lambda axes: _fill(axes, LINE))
        for (_, x), (value, color) in zip(COLUMNS, _cells(engine), strict=True):
            sheet.text(EDGE + x, sheet.y, value, 12, color)
        sheet.y += LINE_HEIGHT
    if len(engines) > ROWS:
        sheet.text(EDGE, sheet.y, f"and {len(engines) - ROWS} more", 12, FAINT)
        sheet.y += LINE_HEIGHT
    sheet.y += 26


def _cells(engine: Engine) -> list[tuple[str, str]]:
    gate = {
        True: ("✓ passes", STANDING["good"]),
        False: ("✗ fails", FAILED),
        None: ("not judged", STANDING["open"]),
    }
    plain = (
        words.shortened(engine.label, 22), words.shares(engine), words.change(engine), words.lost(engine),
        words.speed(engine), engine.manifest.state,
    )  # fmt: skip
    return [*((value, INK) for value in plain), gate[engine.passes]]


def _trade_off(sheet: Sheet, dossier: Dossier, engine: Engine | None) -> None:
    """The Pareto figure, and beside it how sensitive the parts of one engine are."""
    drawn = pareto.drawable(dossier.engines)
    sensitive = engine is not None and any(group.types for group in engine.groups)
    if not (drawn or sensitive):
        return
    half = (WIDTH - 2 * EDGE - 60) / 2
    if drawn:
        sheet.title("Accuracy against speed")
        metric = words.metric_of(dossier.engines)
        sheet.axes(EDGE + 74, sheet.y + 42, half - 74 - pareto.LEVELS, 350,
                   lambda axes: pareto.pareto(axes, dossier.engines, metric))  # fmt: skip
    if engine is not None and sensitive:
        x = EDGE + half + 60 if drawn else EDGE
        few = len(engine.groups) <= figures.NAMED
        sheet.title(f"How sensitive the parts are: {engine.label}", x)
        sheet.axes(x + 66, sheet.y + 42, half - 66, 350 - (70 if few else 0),
                   lambda axes: figures.sensitivity(axes, engine))  # fmt: skip
    sheet.y += 42 + 350 + 74


def _map(sheet: Sheet, engine: Engine) -> None:
    sheet.title(f"Precision of every part, as wide as its share of the work: {engine.label}")
    sheet.y += 34
    x = float(EDGE)
    for name, color, share in figures.precisions(engine):
        sheet.axes(x, sheet.y + 2, 15, 15, lambda axes, color=color: _fill(axes, color))  # type: ignore[misc]
        sheet.text(x + 24, sheet.y, f"{name}: {share}", 11, FAINT)
        x += 90 + 8.6 * len(f"{name}: {share}")
    sheet.y += 34
    high = 50 * len(figures.map_rows(engine))
    sheet.axes(EDGE, sheet.y, WIDTH - 2 * EDGE, high, lambda axes: figures.precision_map(axes, engine))
    sheet.y += high + 30


def _worst(sheet: Sheet, engine: Engine | None) -> None:
    """Two samples, each as both see it."""
    pairs = worst_pairs(engine)[:2] if engine is not None else []
    if engine is None or not pairs:
        return
    sheet.title(f"Where it differs most from the original: {engine.label}")
    sheet.y += 40
    gap = 14
    width = (WIDTH - 2 * EDGE - 3 * gap) / 4
    pictures = [[_picture(pair.fp32), _picture(pair.engine)] for pair in pairs]
    shapes = [p.shape for both in pictures for p in both if p is not None]
    high = min(max((width * s[0] / s[1] for s in shapes), default=60), 480)
    for index, (pair, both) in enumerate(zip(pairs, pictures, strict=True)):
        x = EDGE + 2 * index * (width + gap)
        sheet.text(x, sheet.y, _caption(pair), 10.5, INK)
        for side, picture in enumerate(both):
            told = "this engine" if side else "original, fp32"
            left = x + side * (width + gap)
            sheet.axes(left, sheet.y + 50, width, high, lambda axes, shown=picture: _show(axes, shown))  # type: ignore[misc]
            sheet.text(left, sheet.y + 24, told, 10.5, FAINT)
    sheet.y += 50 + high


def _caption(pair: Pair) -> str:
    return f"{words.shortened(pair.name, 40)}, divergence {words.rounded(pair.divergence, 2)}"


def _picture(content: bytes | None) -> Any:
    if content is None:
        return None
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    return None if decoded is None else decoded[..., ::-1]


def _show(axes: Any, picture: Any) -> None:
    bare(axes)
    axes.set_anchor("NW")
    if picture is None:
        axes.text(0, 0.9, "the picture is gone", fontsize=11, color=FAINT)
    else:
        axes.imshow(picture, interpolation="antialiased")
