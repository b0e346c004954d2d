"""The plans of real graphs on every target, as they were last looked at and found right.

After a change that is meant, write them anew, read the difference, and commit it:

    EDGE_WRITE_GOLDEN=1 python -m pytest tests/unit/test_golden_plans.py

A file holds each distinct plan once, with the targets that share it. Weighted nodes are grouped by
"precision | reason"; all others are in the carrier, which the target's row names.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import graphs
import pytest

from edge.graph import WEIGHTED
from edge.precision import plan
from edge.precision.plan import Plan
from edge.targets import TARGETS

GOLDEN = Path(__file__).parents[1] / "golden"


def summary(made: Plan) -> dict[str, Any]:
    groups: dict[str, list[str]] = {}
    widened: Counter[str] = Counter()
    for step in made.steps:
        precision = "carrier" if step.precision == made.carrier else step.precision
        if step.op in WEIGHTED:
            groups.setdefault(f"{precision} | {step.reason}", []).append(step.node)
        elif step.node in made.widened:
            widened[step.op] += 1
        else:
            assert precision == "carrier", step
    return {
        "quantized_mac_share": round(made.quantized_mac_share, 4),
        "widened": dict(sorted(widened.items())),
        "weighted": dict(sorted(groups.items())),
    }


def plans(name: str) -> list[dict[str, Any]]:
    """The distinct fast plans of a model, in the order of the hardware matrix."""
    index = graphs.real(name)
    ranges = graphs.made_up_ranges(index)
    found: list[dict[str, Any]] = []
    for target in TARGETS.values():
        this = summary(plan.make(index, target, "fast", ranges))
        same = next((p for p in found if {k: v for k, v in p.items() if k != "targets"} == this), None)
        if same is None:
            found.append({"targets": [target.name], **this})
        else:
            same["targets"].append(target.name)
    return found


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n.startswith("craft") else n for n in graphs.REAL]
)
def test_the_plan_is_the_golden_one(name: str) -> None:
    found, path = plans(name), GOLDEN / f"{name}.json"
    if os.environ.get("EDGE_WRITE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    golden = json.loads(path.read_text(encoding="utf-8"))
    for expected, this in zip(golden, found, strict=True):
        assert this == expected, f"{name} on {this['targets']}"


@pytest.mark.parametrize("name", graphs.REAL)
def test_the_golden_file_covers_every_target(name: str) -> None:
    golden = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    assert sorted(t for p in golden for t in p["targets"]) == sorted(TARGETS)
