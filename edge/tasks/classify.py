"""Which class a picture shows: one score a class → the best few."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from edge.config import SamplesConfig, Section, validate
from edge.errors import InputError, ModelError, nearest
from edge.preprocess import Placement
from edge.tasks import Sample, Tail, drawing, likeness
from edge.tasks.outputs import one_picture
from edge.tasks.samples import find_samples, read_picture
from edge.types import Array, Image

DRAWS = 64
"""Labels drawn for a picture where it has none: a label costs nothing, a picture a run."""


class ClassifySettings(Section):
    """The keys of `[task]` with `kind = "classify"`."""

    output: str | None = Field(None, description="the graph's output; default: its first")
    scores: Literal["logits", "probabilities"] = Field(
        "logits", description="what the output holds; logits go through a softmax"
    )
    top_k: PositiveInt = Field(5, description="classes reported a picture, best first")
    labels: tuple[str, ...] = Field(
        (), description="class names by index (or `labels_file`, one name a line)"
    )


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """The best classes, best first.

    Attributes:
        indices, scores: K classes and their probabilities.
        names: K names; empty where the model has none.
    """

    indices: NDArray[np.intp]
    scores: NDArray[np.float32]
    names: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        classes: list[dict[str, Any]] = [
            {"class": int(i), "score": round(float(s), 4)}
            for i, s in zip(self.indices, self.scores, strict=True)
        ]
        for entry, name in zip(classes, self.names, strict=False):
            entry["name"] = name
        return {"classes": classes}

    def found(self) -> dict[str, float]:
        names = self.names or tuple(map(str, self.indices.tolist()))
        worst_first = zip(reversed(names), reversed(self.scores.tolist()), strict=True)
        return dict(worst_first)  # of two classes of one name the better stays

    def draw(self, image: Image) -> Image:
        """A panel of names with a bar as long as the probability, in the top left corner."""
        out = drawing.canvas(image)
        sizes = drawing.style(out)
        names = self.names or tuple(f"class {i}" for i in self.indices)
        lines = [f"{name}  {100 * score:.0f}%" for name, score in zip(names, self.scores, strict=True)]
        row = sizes.text + 2 * sizes.gap
        width = min(max(drawing.text_width(out, line) for line in lines) + 3 * sizes.gap, out.shape[1])
        drawing.shade(out, 0, 0, width, row * len(lines))
        for i, (line, score) in enumerate(zip(lines, self.scores, strict=True)):
            filled = out[i * row : (i + 1) * row, : round(width * float(np.nan_to_num(score)))]
            filled[:] = drawing.tint(filled, np.full(filled.shape[:2], 0.55, np.float32), drawing.PALETTE[6])
            ink = drawing.LIGHT if i == 0 else (205, 205, 205)
            drawing.write(out, line, sizes.gap, (i + 1) * row - sizes.gap, ink)
        return out


@dataclass
class Top1:
    """Share of pictures whose best class is the labelled one, in %."""

    hits: int = 0
    count: int = 0

    def add(self, sample: Sample, payload: Classes) -> None:
        if sample.label is not None:
            self.hits += int(payload.indices[0]) == sample.label
            self.count += 1

    def value(self) -> float:
        return 100 * self.hits / self.count if self.count else float("nan")


class Classify:
    """One score a class: N × classes (also N × classes × 1 × 1)."""

    kind = "classify"
    metric = "top1"

    def __init__(self, settings: ClassifySettings) -> None:
        self.settings = settings

    def samples(self, config: SamplesConfig) -> Sequence[Sample]:
        """`config.labels` is a JSON or CSV file (file name → class), or the folder of the images itself:
        then a file's folder names its class, or else its own name is the class index."""
        return find_samples(config, self._labels(config) if config.labels else None)

    def network_image(self, sample: Sample) -> Image:
        return read_picture(sample.path)

    def tail(self) -> Tail | None:
        """None: a thousand scores are copied in microseconds, and a softmax over them takes as long."""
        return None

    def postprocess(self, outputs: Mapping[str, Array], index: int, placement: Placement) -> Classes:
        scores = self._probabilities(outputs, index)
        best = np.argsort(-scores, kind="stable")[: self.settings.top_k]
        names = self.settings.labels
        if names and len(names) != len(scores):
            raise ModelError(
                f"{len(names)} labels for {len(scores)} classes", "they do not match", "mend [task] labels"
            )
        return Classes(best, scores[best], tuple(names[i] for i in best) if names else ())

    def score_payload(self, outputs: Mapping[str, Array], index: int, placement: Placement) -> Classes:
        return self.postprocess(outputs, index, placement)

    def scorer(self) -> Top1:
        return Top1()

    def divergence(
        self, reference: Mapping[str, Array], this: Mapping[str, Array], placement: Placement
    ) -> float:
        return likeness.categorical(self._probabilities(reference, 0), self._probabilities(this, 0))

    def believed(
        self, sample: Sample, outputs: Mapping[str, Array], placement: Placement, random: Generator
    ) -> Sequence[Sample]:
        """Classes drawn by their probabilities."""
        share = self._probabilities(outputs, 0).astype(np.float64)
        return [Sample(sample.path, int(c)) for c in random.choice(len(share), DRAWS, p=share / share.sum())]

    def _probabilities(self, outputs: Mapping[str, Array], index: int) -> NDArray[np.float32]:
        flat = {name: _without_ones(value) for name, value in outputs.items()}
        picture = one_picture(flat, self.settings.output, index, 1, "batch × classes")
        scores = picture.astype(np.float32)
        if self.settings.scores == "probabilities":
            return scores
        with np.errstate(invalid="ignore"):  # infinite scores; their results carry the flag `nan`
            scores = np.exp(scores - scores.max())
        return np.asarray(scores / scores.sum(), np.float32)

    def _labels(self, config: SamplesConfig) -> Callable[[Path], int | None]:
        assert config.labels is not None
        if config.labels.is_dir():
            return lambda path: self._from_name(path, config.images)
        table = read_table(config.labels)
        return lambda path: self._class_index(table[path.name], path) if path.name in table else None

    def _from_name(self, path: Path, root: Path) -> int:
        relative = path.relative_to(root)
        if len(relative.parts) == 1:
            return self._class_index(path.stem, path)
        folder = relative.parts[0]
        if folder in self.settings.labels or folder.isdecimal():
            return self._class_index(folder, path)
        folders = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
        return folders.index(folder)

    def _class_index(self, text: str | int, path: Path) -> int:
        if isinstance(text, int) or text.isdecimal():
            return int(text)
        if text in self.settings.labels:
            return self.settings.labels.index(text)
        raise InputError(
            f"no class for {path}",
            f"'{text}' is neither a class index nor a known label",
            _hint(text, self.settings),
        )


def _without_ones(output: Array) -> Array:
    """Drops the trailing 1 × 1 that a convolutional head leaves."""
    trailing = output.shape[2:]
    return output.reshape(output.shape[:2]) if trailing and set(trailing) == {1} else output


def _hint(text: str, settings: ClassifySettings) -> str:
    return nearest(text, settings.labels) if settings.labels else "give the class names in [task] labels"


def read_table(path: Path) -> dict[str, str | int]:
    """File name → class (index or name), from a JSON object or a two-column CSV file.

    Raises:
        InputError: the file cannot be read or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".json":
            table = json.loads(text)
        else:
            table = dict(row[:2] for row in csv.reader(text.splitlines()) if len(row) >= 2)
    except OSError as e:
        raise InputError(f"cannot read the labels {path}", e.strerror or str(e), "check the path") from e
    except ValueError as e:
        raise InputError(f"cannot read the labels {path}", str(e), "mend the file") from e
    if not isinstance(table, dict) or not all(isinstance(v, str | int) for v in table.values()):
        raise InputError(
            f"cannot use the labels {path}", "they are not file name → class", "see docs/tasks.md"
        )
    return table


def create(settings: dict[str, Any], where: str) -> Classify:
    return Classify(validate(ClassifySettings, settings, where))
