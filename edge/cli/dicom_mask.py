"""`edge dicom mask`: copies of DICOM files without burned-in text and without identifiers in the header."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.errors import EXIT_DONE, InputError

if TYPE_CHECKING:
    from edge.dicom.masking import Masked

NO_PROMISE = (
    "a model looked for the text, and it misses some: have a person look before anything is given away"
)


def add_mask(actions: Any) -> None:
    """Declare the action."""
    purpose = "write copies with burned-in text blacked out and the header de-identified"
    mask = actions.add_parser("mask", help=purpose, description=f"{purpose.capitalize()}; {NO_PROMISE}.")
    add = mask.add_argument
    add("path", type=Path, metavar="FILE|FOLDER", help="a DICOM file, or a folder of them")
    add("--out", type=Path, required=True, metavar="DIR", help="where the copies go, named by their new UIDs")
    add(
        "--model",
        type=Path,
        default=Path("burned_in_text"),
        metavar="NAME",
        help="which model finds the text",
    )
    add("--privacy-key", type=Path, metavar="FILE", help="the key for the new UIDs; made where it is absent")
    add("--json", action="store_true", help="print JSON, one object a file")
    mask.set_defaults(act=_mask)


def _mask(args: argparse.Namespace) -> int:
    from edge.dicom.deidentify import require
    from edge.dicom.masking import mask
    from edge.dicom.part10 import dicom_files
    from edge.dicom.text import TextFinder
    from edge.privacy import Privacy

    require()
    files = sorted(dicom_files(args.path)) if args.path.is_dir() else [args.path]
    if not files:
        raise InputError(f"nothing to mask in {args.path}", "it holds no DICOM file", "check the folder")
    pseudonyms = Privacy("pseudonym", args.privacy_key).pseudonyms
    finder = TextFinder(args.model)
    failed = 0
    for number, path in enumerate(files, 1):
        try:
            _tell(mask(path, args.out, finder, pseudonyms), args.json)
        except InputError as e:
            if path == args.path:
                raise
            failed += 1  # by its number: a file's name may be a patient's
            why = str(e).replace(str(path), "it")
            print(f"file {number} of {len(files)} in the order of names: {why}", file=sys.stderr)
    if not args.json:
        print(f"{len(files) - failed} of {len(files)} masked; {NO_PROMISE}", file=sys.stderr)
    return InputError.exit_code if failed else EXIT_DONE


def _tell(masked: Masked, as_json: bool) -> None:
    facts = {
        "file": masked.path.name,
        "frames": len(masked.text),
        "frames_with_text": sum(masked.text),
        "regions": masked.regions.tolist(),
    }
    if as_json:
        print(json.dumps(facts))
    else:
        print(
            "{file}: text in {frames_with_text} of {frames} frame(s), {count} region(s)".format(
                **facts, count=len(masked.regions)
            )
        )
