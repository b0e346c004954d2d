"""Writing the report: beside the engines unless told otherwise, whole or not at all."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.errors import RuntimeFault, UsageError, nearest
from edge.signoff.canvas import new_figure
from edge.signoff.data import Dossier, Refused, collect
from edge.signoff.page import page
from edge.signoff.poster import draw_poster
from edge.store import Store

HTML, PNG = "report.html", "report.png"


@dataclass(frozen=True, slots=True)
class Written:
    """A report on disk."""

    dossier: Dossier
    html: Path
    png: Path


def write(
    root: Path, model: str, html: Path | None = None, png: Path | None = None, refused: Sequence[Refused] = ()
) -> Written:
    """The report on a model's engines.

    Args:
        root: of the store.
        html, png: where to; None for the model's folder in the store.
        refused: engines of the last build that were not published.

    Raises:
        UsageError: the store holds no engine of the model.
        MissingPackage: matplotlib is not installed.
        RuntimeFault: a file cannot be written.
    """
    dossier = collect(root, model, refused)
    if dossier is None:
        known = sorted({entry.manifest.model for entry in Store(root).entries()})
        raise UsageError(
            f"no engine of '{model}' in {root}",
            nearest(model, known) if known else "nothing was built there",
            f"edge build --model {model}",
        )
    new_figure(1, 1)  # refuses before work is done
    html, png = html or root / model / HTML, png or root / model / PNG
    content = page(dossier)
    _replace(html, lambda path: path.write_text(content, encoding="utf-8"))
    _replace(png, lambda path: draw_poster(dossier, path))
    return Written(dossier, html, png)


def _replace(path: Path, write_to: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_to(temporary)
        temporary.replace(path)
    except OSError as e:
        raise RuntimeFault(
            f"cannot write {path}", e.strerror or str(e), "check the folder, or give another file"
        ) from e
    finally:
        temporary.unlink(missing_ok=True)
