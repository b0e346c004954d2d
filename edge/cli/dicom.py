"""`edge dicom`: what the reader does to a file's pixels (`show`); the network is in `dicom_network`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.cli.dicom_mask import add_mask
from edge.cli.dicom_network import add_actions

if TYPE_CHECKING:
    from edge.dicom import DicomImage
    from edge.types import Array


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    purpose = "print what the reader does to a file's pixels"
    show = actions.add_parser("show", help=purpose, description=f"{purpose.capitalize()}.")
    add = show.add_argument
    add("file", type=Path, metavar="FILE", help="a DICOM file")
    add("--frame", type=int, default=0, metavar="N", help="which frame, counted from 0 (default: 0)")
    add("--window", type=_window, default=0, metavar="I", help="which window: its number or its explanation")
    add("--png", type=Path, metavar="OUT", help="write the picture that display and network get")
    add("--json", action="store_true", help="print JSON")
    show.set_defaults(act=_show)
    add_mask(actions)
    add_actions(actions)


def run(args: argparse.Namespace) -> int:
    """
    Raises:
        UsageError: an address or a setting cannot be.
        InputError: the file, the frame or the window cannot be shown; there is nothing to send.
        MissingPackage: pydicom or pynetdicom is not installed.
        RuntimeFault: the picture cannot be written; an archive did not take everything.
    """
    code: int = args.act(args)
    return code


def _window(text: str) -> int | str:
    from edge.dicom.voi import window_of

    return window_of(text)


def _show(args: argparse.Namespace) -> int:
    from edge.dicom import open_dicom
    from edge.dicom.header import reading

    image = open_dicom(args.file)
    picture, transforms = image.frame(args.frame, args.window)
    with reading(args.file, "read"):
        facts = _facts(image, args.frame)
    facts["transforms"] = list(transforms)
    facts["picture"] = _range(picture)
    if args.png:
        _write(args.png, picture)
        facts["png"] = str(args.png)
    if args.json:
        print(json.dumps(facts, indent=1))
    else:
        _print(facts)
    return 0


def _facts(image: DicomImage, frame: int) -> dict[str, Any]:
    """What the header says of the pixels, and the stored values of one frame; nothing of the patient."""
    ds = image.dataset
    syntax = ds.file_meta.TransferSyntaxUID
    times = image.frame_times
    return {
        "file": str(image.path),
        "sop_class": ds.get("SOPClassUID", "") and ds.SOPClassUID.name,
        "transfer_syntax": f"{syntax.name} ({syntax})",
        "rows": int(ds.Rows),
        "columns": int(ds.Columns),
        "frames": image.frames,
        "frame": frame,
        "seconds": times[-1] if times else None,
        "photometric_interpretation": str(ds.get("PhotometricInterpretation", "")),
        "bits_allocated": int(ds.BitsAllocated),
        "bits_stored": int(ds.get("BitsStored") or ds.BitsAllocated),
        "signed": bool(ds.get("PixelRepresentation")),
        "windows": list(image.windows(frame)),
        "stored": _range(image.stored(frame)),
    }


def _range(pixels: Array) -> dict[str, Any]:
    import numpy as np

    finite = pixels[np.isfinite(pixels)]
    lowest, highest = (finite.min().item(), finite.max().item()) if finite.size else (0, 0)
    return {"dtype": pixels.dtype.name, "lowest": lowest, "highest": highest}


def _write(path: Path, picture: Array) -> None:
    import cv2

    from edge.errors import RuntimeFault

    try:
        path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    except OSError as e:
        raise RuntimeFault(f"cannot write {path}", e.strerror or str(e), "check the path and the disk") from e


def _print(facts: dict[str, Any]) -> None:
    sign = "signed" if facts["signed"] else "unsigned"
    cine = f", {facts['seconds']:.3g} s" if facts["seconds"] else ""
    lines = [
        ("file", facts["file"]),
        ("class", facts["sop_class"]),
        ("syntax", facts["transfer_syntax"]),
        ("size", f"{facts['columns']}×{facts['rows']}, {facts['frames']} frame(s){cine}"),
        ("pixels", f"{facts['photometric_interpretation']}, {facts['bits_stored']} bits, {sign}"),
        *((f"window {i}", name or "(without a name)") for i, name in enumerate(facts["windows"])),
        (f"frame {facts['frame']}", "stored {lowest:g}..{highest:g} ({dtype})".format(**facts["stored"])),
        *(("", f"{i}. {step}") for i, step in enumerate(facts["transforms"], 1)),
        ("picture", "{lowest}..{highest} ({dtype}, BGR)".format(**facts["picture"])),
    ]
    lines += [("png", facts["png"])] if "png" in facts else []
    for name, text in lines:
        print(f"{name:<9} {text}")
