"""What is known of an engine beyond its manifest: what the search saw, and the samples it does worst on.

Kept beside the engines for the report (`edge/signoff`). It does not travel with them: it holds pictures.

    engines/<model>/.report/<target>/<variant>.json, <variant>-<n>-fp32.jpg, <variant>-<n>-engine.jpg
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from edge.graph import Graph
from edge.manifest import Manifest
from edge.precision.groups import groups, operands
from edge.precision.histogram import Histogram
from edge.precision.search import Found
from edge.tasks import Task
from edge.tasks.image import Picture
from edge.tasks.samples import as_picture
from edge.types import Array, Image, Payload

if TYPE_CHECKING:
    from edge.build.choose import Chooser, Chosen
    from edge.build.verify import Case

SCHEMA = 1
FOLDER = ".report"
WORST = 4
"""Samples that are shown."""
TENSORS = 8
"""Tensors whose histograms are shown: those read by the groups that make most of the noise."""
BARS = 128
"""Bars of a histogram."""
LARGEST = 720
"""Longest side of a picture that is kept, in pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A sample as fp32 and as the engine see it."""

    name: str
    divergence: float
    image: Image
    fp32: Payload
    engine: Payload


@dataclass
class Samples:
    """Hears of every sample while an engine is judged, and keeps those it does worst on."""

    task: Task
    divergences: list[tuple[str, float]] = field(default_factory=list)
    worst: list[Shown] = field(default_factory=list)

    def add(self, case: Case, outputs: Mapping[str, Array], divergence: float) -> None:
        name = case.sample.path.name
        self.divergences.append((name, divergence))
        if len(self.worst) == WORST and divergence <= self.worst[-1].divergence:
            return
        fp32 = self.task.postprocess(case.outputs, 0, case.placement)
        engine = self.task.postprocess(outputs, 0, case.placement)
        image = as_picture(self.task.network_image(case.sample))
        self.worst.append(Shown(name, divergence, image, fp32, engine))
        self.worst.sort(key=lambda shown: -shown.divergence)
        del self.worst[WORST:]


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """About one engine: what is written as JSON, and the pictures beside it."""

    about: dict[str, Any]
    pictures: Mapping[str, Image]


def gather(
    manifest: Manifest, chosen: Chosen | None, samples: Samples | None, chooser: Chooser | None
) -> Evidence:
    """Everything about one engine."""
    about: dict[str, Any] = {
        "schema": SCHEMA,
        "model": manifest.model,
        "target": manifest.target,
        "variant": manifest.variant,
        "key": manifest.key,
        "recipe": manifest.recipe,
        "groups": [],
        "search": None,
        "tensors": [],
    }
    if chosen is not None and chooser is not None and manifest.variant != "exact":
        about |= _precision(chosen, chooser)
    pictures: dict[str, Image] = {}
    about["divergences"], about["samples"] = [], []
    if samples is not None:
        about["divergences"] = [[name, value] for name, value in samples.divergences]
        for index, shown in enumerate(samples.worst):
            names = {side: f"{manifest.variant}-{index}-{side}.jpg" for side in ("fp32", "engine")}
            about["samples"].append({"name": shown.name, "divergence": shown.divergence, **names})
            pictures[names["fp32"]] = _small(_seen(shown.fp32, shown.image))
            pictures[names["engine"]] = _small(_seen(shown.engine, shown.image))
    return Evidence(about, pictures)


def save(evidence: Evidence, root: Path) -> None:
    """Write it whole, in place of what was there."""
    about = evidence.about
    folder = root / about["model"] / FOLDER / about["target"]
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{about['variant']}-*.jpg"):
        old.unlink()
    for name, picture in evidence.pictures.items():
        cv2.imwrite(str(folder / name), picture, [cv2.IMWRITE_JPEG_QUALITY, 85])
    temporary = folder / f".{uuid.uuid4().hex}.json"
    temporary.write_text(json.dumps(about, separators=(",", ":")), encoding="utf-8")
    temporary.replace(folder / f"{about['variant']}.json")


def load(manifest: Manifest, root: Path) -> dict[str, Any] | None:
    """What was kept of this very engine, or of the graph its device finished it from; None if nothing was."""
    path = root / manifest.model / FOLDER / manifest.target / f"{manifest.variant}.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(about, dict) or about.get("schema") != SCHEMA:
        return None
    finished = bool(manifest.recipe) and about.get("recipe") == manifest.recipe
    return about if finished or about.get("key") == manifest.key else None


def forget(model: str, root: Path) -> None:
    """Remove all that is kept about a model's engines, pictures among it."""
    shutil.rmtree(root / model / FOLDER, ignore_errors=True)


def _seen(payload: Payload, image: Image) -> Image:
    """What an engine makes of a picture: its own picture, or what it found, drawn."""
    return payload.image if isinstance(payload, Picture) else payload.draw(image)


def _small(picture: Image) -> Image:
    factor = LARGEST / max(picture.shape[:2])
    if factor >= 1:
        return picture
    return np.asarray(cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8)


def _precision(chosen: Chosen, chooser: Chooser) -> dict[str, Any]:
    """Groups, search and ranges of a quantized engine."""
    found = chosen.found
    steps = {step.node: step for step in chosen.plan.steps}
    layer = 0
    rows = []
    for group in groups(chosen.graph):
        step = steps[group.products[0]]
        measured = {kind: chooser.sensitivity(kind).groups.get(group.name) for kind in chooser.known}
        rows.append(
            {
                "name": group.name,
                "kind": group.kind,
                "block": group.block,
                "layer": layer,
                "products": list(group.products),
                "macs": sum(steps[name].macs for name in group.products),
                "precision": step.precision,
                "reason": step.reason,
                "types": {
                    kind: {
                        "noise": m.noise,
                        "sqnr_db": m.sqnr_db,
                        "local_db": m.local_db,
                        "drop": m.drop,
                        "compensated": m.compensated,
                    }
                    for kind, m in measured.items()
                    if m is not None
                },
                "seconds": {o.precision: o.seconds for o in found.options[group.name]} if found else {},
            }
        )
        layer += len(group.products) if group.kind != "skip" else 0
    equalized = dict(chooser.equalized)
    return {
        "groups": rows,
        "search": None if found is None else _search(found),
        "tensors": _tensors(chosen, chooser, rows),
        "equalized": equalized,
        "policy": chooser.policy.model_dump(mode="json", by_alias=True, exclude_defaults=True),
        "samples_used": {
            "ranges": chooser.calibration.samples,
            "search": chooser.search.count,
            **{f"sensitivity to {kind}": chooser.sensitivity(kind).samples for kind in chooser.known},
        },
    }


def _search(found: Found) -> dict[str, Any]:
    return {
        "seconds": found.seconds,
        "carrier_seconds": found.carrier_seconds,
        "speed_up": found.speed_up,
        "noise": found.noise,
        "carrier_noise": found.carrier_noise,
        "costs": found.costs,
        "passed": found.passed,
        "note": found.note,
        "path": [[seconds, noise] for seconds, noise in found.path],
        "judged": [
            {
                "position": j.position,
                "seconds": j.seconds,
                "noise": j.noise,
                "metric": j.accuracy.metric,
                "fp32": j.accuracy.fp32,
                "this": j.accuracy.this,
                "divergence": j.accuracy.divergence,
                "failures": list(j.failures),
            }
            for j in found.judged
        ],
    }


def _tensors(chosen: Chosen, chooser: Chooser, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ranges of the tensors that the noisiest groups read."""
    read = _readers(chosen.graph)
    found: list[dict[str, Any]] = []
    for kind in chooser.known:
        sensitivity = chooser.sensitivity(kind)
        noise = {name: g.noise for name, g in sensitivity.groups.items()}
        total = {t: sum(noise.get(g, 0.0) for g in readers) for t, readers in read.items()}
        ranked = sorted((t for t in total if t in sensitivity.tried), key=lambda t: -total[t])
        for tensor in ranked[:TENSORS]:
            h, tried = chooser.calibration.histograms[tensor], sensitivity.tried[tensor]
            found.append(
                {
                    "name": tensor,
                    "kind": kind,
                    "read_by": read[tensor],
                    "noise": total[tensor],
                    "low": h.low,
                    "high": h.high,
                    "tried": [
                        {"method": t.method, "threshold": t.threshold, "error": t.error} for t in tried
                    ],
                    **_bars(h),
                }
            )
    return found


def _readers(graph: Graph) -> dict[str, list[str]]:
    """Tensor → groups that quantize it."""
    nodes = {node.name: node for node in graph.nodes}
    found: dict[str, list[str]] = {}
    for group in groups(graph):
        for name in dict.fromkeys(t for p in group.products for t in operands(graph, nodes[p])):
            found.setdefault(name, []).append(group.name)
    return found


def _bars(h: Histogram) -> dict[str, Any]:
    """The histogram in few bars between its extremes."""
    values = np.clip(h.centers.astype(np.float64), h.low, h.high)  # a bin's centre may lie beyond them
    bars, edges = np.histogram(values, BARS, (h.low, h.high), weights=h.counts)
    return {"counts": bars.astype(int).tolist(), "edges": [float(edges[0]), float(edges[-1])]}
