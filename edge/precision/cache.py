"""Measured sensitivity on disk: numbers as arrays, the rest as JSON; nothing in it is ever executed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from edge.precision import kept
from edge.precision.compensation import Compensation, StoredWeight
from edge.precision.numerics import NUMPY
from edge.precision.sensitivity import GroupNoise, Sensitivity, Tried
from edge.types import Array

VERSION = 1


def save(found: Sensitivity, path: Path) -> None:
    """Write it whole or not at all."""
    arrays: dict[str, Array] = {}
    weights = []
    for index, (key, weight) in enumerate(found.compensation.weights.items()):
        arrays[f"values{index}"] = weight.values.view(np.uint8)
        arrays[f"scales{index}"] = weight.scales
        weights.append([list(key), _kind_of(weight.values), weight.axis, weight.block])
    biases = []
    for index, (place, bias) in enumerate(found.compensation.biases.items()):
        arrays[f"bias{index}"] = bias
        biases.append(list(place))
    about = {
        "version": VERSION,
        "kind": found.kind,
        "samples": found.samples,
        "groups": {name: dataclasses.asdict(noise) for name, noise in found.groups.items()},
        "tried": {name: [dataclasses.asdict(t) for t in tried] for name, tried in found.tried.items()},
        "weights": weights,
        "biases": biases,
    }
    kept.save(path, {"about": np.array(json.dumps(about)), **arrays})


def load(path: Path) -> Sensitivity | None:
    """What was saved; None where there is nothing, or nothing whole."""
    try:
        with path.open("rb") as file, np.load(file) as stored:
            about = json.loads(str(stored["about"]))
            if about["version"] != VERSION:
                return None
            return _read(about, stored)
    except kept.DAMAGED:
        return None


def _read(about: dict[str, Any], stored: Any) -> Sensitivity:
    weights = {}
    for index, (key, kind, axis, block) in enumerate(about["weights"]):
        values = stored[f"values{index}"].view(NUMPY[kind])
        weights[key[0], key[1], key[2]] = StoredWeight(values, stored[f"scales{index}"], axis, block)
    biases = {(node, kind): stored[f"bias{index}"] for index, (node, kind) in enumerate(about["biases"])}
    return Sensitivity(
        about["kind"],
        about["samples"],
        {name: GroupNoise(**noise) for name, noise in about["groups"].items()},
        {name: tuple(Tried(**t) for t in tried) for name, tried in about["tried"].items()},
        Compensation(weights, biases),
    )


def _kind_of(values: Array) -> str:
    return next(name for name, dtype in NUMPY.items() if dtype == values.dtype)
