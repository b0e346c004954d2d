"""Stores with engines and the evidence beside them, for the tests of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edge.build import evidence
from edge.manifest import Manifest
from edge.signoff.data import Dossier, Refused, collect
from edge.store import Store
from tests.stores import manifest

HOW = "emulated on the processor (int8, bf16 carrier)"


def accuracy(this: float = 0.92, fp32: float = 0.93, **more: Any) -> dict[str, Any]:
    """What a manifest says of it."""
    output = {"name": "heat", "cosine": 0.9991, "sqnr_db": 28.5}
    return {
        "metric": "f1", "fp32": fp32, "this": this, "samples": 40, "how": HOW, "outputs": [output], **more,
    }  # fmt: skip


def group(index: int, precision: str = "int8", **more: Any) -> dict[str, Any]:
    """A group as `edge.build.evidence` writes it."""
    return {
        "name": f"conv{index}", "kind": "conv", "block": None, "products": [f"conv{index}"],
        "macs": 1000 * (1 + index % 5), "precision": precision,
        "reason": f"int8: {index + 1}% of the plan's noise" if precision == "int8" else "too sensitive",
        "types": {"int8": {"noise": 10.0 ** -(index % 6), "sqnr_db": 30.0, "local_db": 33.0}},
        **more,
    }  # fmt: skip


def about(groups: int = 5, **more: Any) -> dict[str, Any]:
    """The evidence on an engine of so many groups, every fourth of which stayed in the carrier."""
    judged = [
        {"position": 0, "seconds": 1e-4, "noise": 3.0, "metric": "f1", "fp32": 0.8, "this": 0.6,
         "divergence": 2.0, "failures": ["f1 falls by 0.2"]},
        {"position": 2, "seconds": 1.2e-4, "noise": 0.5, "metric": "f1", "fp32": 0.8, "this": 0.795,
         "divergence": 0.3, "failures": []},
    ]  # fmt: skip
    return {
        "groups": [group(i, "bf16" if i % 4 == 3 else "int8") for i in range(groups)],
        "search": {"seconds": 1.2e-4, "carrier_seconds": 2e-4, "speed_up": 1.67, "noise": 0.5,
                   "costs": "roofline estimate", "judged": judged},
        "tensors": [
            {"name": "heat_in", "kind": "int8", "read_by": ["conv0"], "noise": 2.0, "low": -0.3, "high": 9.0,
             "tried": [{"method": "percentile 99.9", "threshold": 6.0, "error": 0.1},
                       {"method": "max", "threshold": 9.0, "error": 0.3}],
             "counts": [40, 400, 900, 80, 7, 1], "edges": [-0.3, 9.0]},
        ],
        "samples_used": {"ranges": 24, "search": 8, "sensitivity to int8": 4},
        **more,
    }  # fmt: skip


class Shelf:
    """A store that is filled engine by engine."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "engines"
        self._file = folder / "file"
        self._file.write_bytes(b"engine")

    def add(self, target: str = "ada", variant: str = "fast", **more: Any) -> Manifest:
        """Publish an engine; by default an int8 one that loses 0.01 of 0.05."""
        quantized = variant == "fast"
        facts = {
            "state": "simulated", "carrier": "bf16", "accuracy": accuracy(),
            "config": {"task": {"kind": "segment"}, "gate": {"max_drop": 0.05},
                       "calibration": {"images": "/data/calibration"},
                       "evaluation": {"images": "/data/eval"}},
            "mac_shares": {"int8": 0.8, "bf16": 0.2} if quantized else {"bf16": 1.0},
            "speed_up": 1.67 if quantized else None, "graph_sha256": "ab" * 32,
            "calibration_sha256": "cd" * 32 if quantized else None, **more,
        }  # fmt: skip
        made = manifest("net", target, variant, **facts)
        return Store(self.root).publish(made, {made.engine_file: self._file}).manifest

    def keep(self, about_it: Manifest, *names: str, **more: Any) -> None:
        """Evidence on an engine, with a pair of pictures for each of these samples."""
        facts: dict[str, Any] = {
            "schema": evidence.SCHEMA, "model": about_it.model, "target": about_it.target,
            "variant": about_it.variant, "key": about_it.key, "recipe": about_it.recipe, **about(**more),
        }  # fmt: skip
        pictures = {}
        facts["divergences"] = [[name, 1.5 - 0.1 * i] for i, name in enumerate(names)]
        facts["samples"] = []
        for index, name in enumerate(names):
            files = {side: f"{about_it.variant}-{index}-{side}.jpg" for side in ("fp32", "engine")}
            facts["samples"].append({"name": name, "divergence": 1.5 - 0.1 * index, **files})
            for shade, file in enumerate(files.values()):
                pictures[file] = np.full((40, 60, 3), 60 + 50 * index + 90 * shade, np.uint8)
        evidence.save(evidence.Evidence(facts, pictures), self.root)

    def dossier(self, *refused: Refused) -> Dossier:
        found = collect(self.root, "net", refused)
        assert found is not None
        return found


def full(folder: Path) -> Shelf:
    """A quantized engine with everything there is to know, and an exact one."""
    shelf = Shelf(folder)
    shelf.keep(shelf.add("ada", "fast"), "a.jpg", "b.jpg")
    shelf.add("ada", "exact", accuracy=accuracy(0.93))
    return shelf
