"""`edge demo`: the whole way once, from the ONNX graph to a figure, on this machine."""

from __future__ import annotations

import argparse
import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.cli import main

if TYPE_CHECKING:
    from edge.types import Image

MODEL = "burned_in_text"
CAMERA = "test:text?size=640x480&fps=30&frames=300&seed=1"
TITLES = {
    "ultrasound": "Ultrasound cine from DICOM, every frame",
    "camera": "Camera-like feed in real time, newest frame wins",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--engines", type=Path, default=Path("engines"), metavar="DIR", help="the engine store"
    )
    parser.add_argument("--targets", default="all", help="all, local, or names with commas (default: all)")


def run(args: argparse.Namespace) -> int:
    """Build, stream, draw; stops at the first step that fails, with its exit code."""
    started = time.monotonic()
    _check_checkout()
    args.out.mkdir(parents=True, exist_ok=True)
    steps = (
        ("Building an engine for every target", build_command(args.out, args.engines, args.targets)),
        ("Streaming an ultrasound cine: every frame", ultrasound_command(args.out, args.engines)),
        ("Streaming a camera-like feed: ten seconds in real time", camera_command(args.out, args.engines)),
    )
    for number, (what, command) in enumerate(steps, start=1):
        print(f"\n[{number}/4] {what}\n      $ edge {shlex.join(command)}", flush=True)
        code = main(command)  # exactly what a user would type
        if code:
            return code
    print("\n[4/4] Drawing what happened", flush=True)
    rows = _read(args.out / "build.json")
    feeds = [feed for name in TITLES for feed in _read(args.out / f"{name}.json")["feeds"]]
    (args.out / "summary.json").write_text(json.dumps({"feeds": feeds}, indent=1) + "\n", encoding="utf-8")
    draw(args.out, rows, feeds)
    _conclude(args.out, rows, feeds, time.monotonic() - started)
    return 0


def _check_checkout() -> None:
    from edge.config import MODELS
    from edge.errors import UsageError

    if not (MODELS / f"{MODEL}.toml").is_file():
        raise UsageError(
            "the demo model is not here", "it comes with the source only", "make run, in a checkout"
        )


def build_command(out: Path, engines: Path, targets: str) -> list[str]:
    return [
        "build", "--model", MODEL, "--targets", targets,
        "--out", _short(engines), "--json", _short(out / "build.json"),
    ]  # fmt: skip


def ultrasound_command(out: Path, engines: Path) -> list[str]:
    return _run_command("ultrasound", str(ultrasound()), out, engines)


def camera_command(out: Path, engines: Path) -> list[str]:
    return [*_run_command("camera", CAMERA, out, engines), "--realtime"]


def _run_command(name: str, source: str, out: Path, engines: Path) -> list[str]:
    return [
        "run", "--model", MODEL, "--target", "cpu", "--engines", _short(engines),
        "--source", f"{name}={source}",
        "--sink", f"jsonl:{_short(out / f'{name}.jsonl')}", "--sink", f"video:{_short(out / f'{name}.mp4')}",
        "--summary", _short(out / f"{name}.json"),
    ]  # fmt: skip


def _short(path: Path) -> str:
    """Relative to the working folder where it lies below it."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


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
        FeedPicture(TITLES.get(feed["feed"], feed["feed"]), middle_frame(out / f"{feed['feed']}.mp4"))
        for feed in feeds
    ]
    targets = {row["target"] for row in rows}
    draw_summary(
        out / "summary.png",
        f"One ONNX graph, {len(rows)} checked engines for {len(targets)} targets, two feeds",
        f"Model {MODEL}, which marks burned-in text. Streamed on {detect().label}, with the engine cpu/fast.",
        pictures,
        rows,
        feeds,
    )


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


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _conclude(out: Path, rows: list[dict[str, Any]], feeds: list[dict[str, Any]], seconds: float) -> None:
    states = [row["state"] for row in rows]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    print(f"\nDone in {seconds:.0f} s.")
    print(f"  engines     {len(rows)}: {counts}")
    for feed in feeds:
        counts = f"{feed['delivered']} of {feed['captured']} frames, {feed['fps']:.0f} frames/s"
        latency = f", p50 {feed['latency_ms']['p50']:.0f} ms, p99 {feed['latency_ms']['p99']:.0f} ms"
        print(f"  {feed['feed']:<11} {counts}{latency if feed['live'] else ''}")
    look_at = [out / "summary.png", *(out / f"{name}.mp4" for name in TITLES)]
    print(f"  look at     {', '.join(map(_short, look_at))}")
    print(f"  results     {', '.join(_short(out / f'{name}.jsonl') for name in TITLES)}, one line a frame")
