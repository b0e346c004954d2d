"""Paper to draw on, and how it becomes a part of the page.

Ink, lines and paper are written in the colours of light paper; `as_svg` makes them the page's own, and so
figures turn dark with the page.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from typing import Any

from edge.errors import missing_package
from edge.signoff.html import Html

INK, FAINT, LINE, PAPER = "#1f2430", "#667085", "#dfe3e9", "#ffffff"
FAILED = "#c2413b"
THEME = {INK: "var(--ink)", FAINT: "var(--faint)", LINE: "var(--line)", PAPER: "var(--paper)"}
"""What these colours are called on the page."""
COLOURS: Mapping[str, str] = {
    "int8": "#2f74c0",
    "fp8": "#139a7b",
    "w8a16": "#8b6fd0",
    "w4a16": "#c45fa0",
    "bf16": "#a9b1bd",
    "fp16": "#a9b1bd",
    "fp32": "#d99a3d",
}
"""By precision. What is not quantized is grey, but fp32 stands out where it is not the carrier."""
GREY = COLOURS["bf16"]
ON_GREY, ON_COLOUR = "#1f2431", "#fffffe"
"""Text on these colours, which stay what they are when the page turns dark."""
SMALL, NORMAL = 8.5, 9.5

Draw = Callable[[Any], None]


def new_figure(width: float, height: float) -> Any:
    """A figure of so many pixels, 100 of which are an inch.

    Raises:
        MissingPackage: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as e:
        raise missing_package("matplotlib", "report", "the report") from e
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def as_svg(
    draw: Draw, width: float, height: float, margins: tuple[float, float, float, float], title: str
) -> Html:
    """The figure as an element of a page.

    Args:
        margins: left, right, top and bottom of the axes, in pixels.
        title: what it shows, for those who cannot see it.
    """
    import matplotlib as mpl

    figure = new_figure(width, height)
    left, right, top, bottom = margins
    box = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}), any_script():
        draw(figure.add_axes(box))
        figure.savefig(file, format="svg", transparent=True)
    return _for_page(file.getvalue(), title)


@contextmanager
def any_script() -> Iterator[None]:
    """Names may be in a script that the font has not: a page shows them all the same, a picture boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def _for_page(svg: str, title: str) -> Html:
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for color, name in THEME.items():
        svg = svg.replace(color, name)
    return Html(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1).strip())


def color(precision: str, carrier: str) -> str:
    """Of a precision, in an engine with this carrier."""
    return GREY if precision == carrier else COLOURS.get(precision, GREY)


def style(axes: Any, x: str, y: str) -> None:
    """Quiet axes."""
    axes.set_facecolor("none")
    axes.set_xlabel(x, fontsize=NORMAL, color=FAINT)
    axes.set_ylabel(y, fontsize=NORMAL, color=FAINT)
    axes.tick_params(colors=FAINT, labelsize=SMALL, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.set_axisbelow(True)


def bare(axes: Any) -> None:
    """No ticks, no frame, no ground."""
    axes.set_facecolor("none")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
