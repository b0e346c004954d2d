"""`edge demo`: the whole way once, from the ONNX graph to a figure, on this machine."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge.types import Image

MODEL = "burned_in_text"
CAMERA = "test:text?size=640x480&fps=30&frames=300&seed=1"
TITLES = {
    "ultrasound": "Ultrasound cine, read from DICOM",
    "camera": "Camera-like feed with moving text",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from edge.config import ROOT

    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--engines", type=Path, default=ROOT / "engines", metavar="DIR", help="the engine store"
    )
    parser.add_argument("--targets", default="all", help="all, local, or names with commas (default: all)")


def run(args: argparse.Namespace) -> int:
    """Build, stream, draw; stops at the first step that fails, with its exit code."""
    started = time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    steps = (
        ("Building an engine for every target", build_command(args.out, args.engines, args.targets)),
        ("Streaming an ultrasound cine and a camera-like feed", run_command(args.out, args.engines)),
    )
    for number, (what, command) in enumerate(steps, start=1):
        _announce(number, what, command)
        code = _edge(command)
        if code:
            return code
    _announce(3, "Drawing what happened")
    rows, summary = _read(args.out / "build.json"), _read(args.out / "summary.json")
    draw(args.out, rows, summary["feeds"])
    _conclude(args.out, rows, summary["feeds"], time.monotonic() - started)
    return 0


def build_command(out: Path, engines: Path, targets: str) -> list[str]:
    return [
        "build", "--model", MODEL, "--targets", targets,
        "--out", str(engines), "--json", str(out / "build.json"),
    ]  # fmt: skip


def run_command(out: Path, engines: Path) -> list[str]:
    return [
        "run", "--model", MODEL, "--target", "cpu", "--engines", str(engines),
        "--source", f"ultrasound={ultrasound()}", "--source", f"camera={CAMERA}", "--realtime",
        "--sink", f"jsonl:{out / 'results.jsonl'}", "--sink", f"video:{out / 'annotated.mp4'}",
        "--summary", str(out / "summary.json"),
    ]  # fmt: skip


def ultrasound() -> Path:
    """pydicom's example of an ultrasound cine with burned-in text: 30 frames of 320 × 240.

    Raises:
        MissingPackage: pydicom is not installed.
    """
    from edge.errors import missing_package

    try:
        from pydicom.examples import get_path
    except ImportError as e:
        raise missing_package("pydicom", "dicom", "reading the ultrasound cine") from e
    return Path(get_path("ybr_color"))


def draw(out: Path, rows: list[dict[str, Any]], feeds: list[dict[str, Any]]) -> None:
    """`summary.png` from what the two commands wrote."""
    from edge.machine import detect
    from edge.report import FeedPicture, draw_summary

    pictures = [
        FeedPicture(TITLES.get(feed["feed"], feed["feed"]), middle_frame(_recording(out, feed)))
        for feed in feeds
    ]
    targets = {row["target"] for row in rows}
    draw_summary(
        out / "summary.png",
        f"One ONNX graph, {len(rows)} checked engines for {len(targets)} targets, two live feeds",
        f"Model {MODEL}, which marks burned-in text. Streamed on {detect().label}, with the engine cpu/fast.",
        pictures,
        rows,
        feeds,
    )


def _recording(out: Path, feed: dict[str, Any]) -> Path:
    return out / f"annotated-{feed['feed']}.mp4"


def middle_frame(path: Path) -> Image:
    """The frame in the middle of a video file.

    Raises:
        InputError: the file holds no frame.
    """
    import os

    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "8")
    import cv2
    import numpy as np

    from edge.errors import InputError

    capture = cv2.VideoCapture(str(path.resolve()))
    capture.set(cv2.CAP_PROP_POS_FRAMES, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) // 2)
    found, image = capture.read()
    capture.release()
    if not found:
        raise InputError(f"{path} holds no frame", "the run wrote none", "see what the run printed above")
    return np.asarray(image, np.uint8)


def _announce(number: int, what: str, command: list[str] | None = None) -> None:
    print(f"\n[{number}/3] {what}")
    if command:
        print(f"      $ edge {shlex.join(command)}")
    sys.stdout.flush()


def _edge(command: list[str]) -> int:
    """One command line, exactly as a user would type it."""
    from edge.cli import main

    return main(command)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _conclude(out: Path, rows: list[dict[str, Any]], feeds: list[dict[str, Any]], seconds: float) -> None:
    states = [row["state"] for row in rows]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    print(f"\nDone in {seconds:.0f} s.")
    print(f"  engines     {len(rows)}: {counts}")
    for feed in feeds:
        latency = feed["latency_ms"]
        print(
            f"  {feed['feed']:<11} {feed['delivered']} of {feed['captured']} frames, "
            f"p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms"
        )
    print(f"  look at     {out / 'summary.png'}")
    for feed in feeds:
        print(f"              {_recording(out, feed)}")
    print(f"              {out / 'results.jsonl'}, one line a frame")
