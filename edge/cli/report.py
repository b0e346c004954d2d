"""`edge report`: a model's engines, and what speaks for them, as a page to sign and as a picture."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge.signoff.report import Written


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", help="a model's name in the store")
    add("--engines", type=Path, default=Path("engines"), metavar="DIR", help="the engine store")
    add("--html", type=Path, metavar="FILE", help="the page (default: report.html in the model's folder)")
    add("--png", type=Path, metavar="FILE", help="the picture (default: report.png in the model's folder)")
    add("--json", action="store_true", help="print the verdict and the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """
    Raises:
        UsageError: there is no engine of the model.
        MissingPackage: matplotlib is not installed.
        RuntimeFault: a file cannot be written.
    """
    from edge.signoff import words
    from edge.signoff.report import write

    written = write(args.engines, args.model, args.html, args.png)
    if args.json:
        print(json.dumps(_facts(written), indent=1))
        return 0
    print(words.overall(written.dossier))
    for path in (written.html, written.png):
        print(path)
    if written.dossier.pictures:
        print("they hold pictures of the evaluation set: treat them as you treat those")
    return 0


def _facts(written: Written) -> dict[str, Any]:
    from edge.signoff import words

    dossier = written.dossier
    return {
        "model": dossier.model,
        "verdict": words.overall(dossier),
        "html": str(written.html),
        "png": str(written.png),
        "holds_pictures": dossier.pictures,
        "engines": [
            {
                "target": engine.manifest.target,
                "variant": engine.manifest.variant,
                "key": engine.manifest.key,
                "state": engine.manifest.state,
                "passes": engine.passes,
                "metric": engine.accuracy and engine.accuracy.metric,
                "fp32": engine.accuracy and engine.accuracy.fp32,
                "this": engine.accuracy and engine.accuracy.this,
                "drop": engine.drop,
                "speed_up": engine.speed_up,
                "mac_shares": dict(engine.shares),
            }
            for engine in dossier.engines
        ],
        "damaged": list(dossier.damaged),
    }
