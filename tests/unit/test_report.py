"""The summary figure and the demo's steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge.cli import demo, parser
from edge.errors import InputError
from edge.report import FeedPicture, draw_summary
from edge.targets import TARGETS


def feed(name: str, live: bool) -> dict[str, Any]:
    return {
        "feed": name,
        "live": live,
        "captured": 30,
        "delivered": 28,
        "dropped": {"superseded": 2} if live else {},
        "fps": 21.4,
        "latency_ms": {"p50": 12.0, "p95": 20.0, "p99": 30.0, "max": 31.0},
        "stages_ms": {"queue": 1.0, "preprocess": 2.0, "infer": 7.0, "postprocess": 0.5, "total": 12.5},
        "score": {"f1": 0.91} if live else None,
    }


def row(target: str, variant: str, **changes: Any) -> dict[str, Any]:
    return {
        "target": target,
        "variant": variant,
        "state": "simulated",
        "size_bytes": 2_000_000,
        "quantized_mac_share": 0.9 if variant == "fast" else 0.0,
        "accuracy": {"metric": "f1", "fp32": 0.93, "this": 0.92, "samples": 9},
        **changes,
    }


PICTURE = np.full((48, 64, 3), 90, np.uint8)


def draw(path: Path, rows: list[dict[str, Any]], feeds: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    pictures = [FeedPicture(f["feed"], PICTURE) for f in feeds]
    draw_summary(path, "A title", "a subtitle", pictures, rows, feeds)
    image = cv2.imread(str(path))
    assert image is not None
    return image


def test_the_figure_of_the_whole_matrix(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib draws the figure")
    rows = [row(target, variant) for target in TARGETS for variant in ("fast", "exact")]
    image = draw(tmp_path / "summary.png", rows, [feed("ultrasound", False), feed("camera", True)])
    assert image.shape[:2] == (1056, 1430)
    assert (image == 90).all(axis=2).mean() > 0.1  # the pictures are in it, in their own colour


@pytest.mark.parametrize(
    "rows",
    [
        [row("cpu", "fast")],
        [row("my_board", "fast")],  # a user's own row
        [row("cpu", "fast", accuracy=None), row("cpu", "exact", state="failed", size_bytes=0, accuracy=None)],
        [row("cpu", "fast", accuracy={"metric": "", "fp32": None, "this": None, "samples": 3})],
    ],
    ids=["one engine", "own board", "a failed one", "no labels"],
)
def test_the_figure_of_other_builds(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib draws the figure")
    assert draw(tmp_path / "summary.png", rows, [feed("only", True)]).size


@pytest.mark.parametrize("folder", ["out", "a folder with spaces"])
def test_the_demos_commands_are_ones_that_edge_understands(folder: str) -> None:
    pytest.importorskip("pydicom", reason="pydicom brings the ultrasound cine")
    out, engines = Path(folder), Path("engines")
    for command in (
        demo.build_command(out, engines, "all"),
        demo.ultrasound_command(out, engines),
        demo.camera_command(out, engines),
    ):
        assert parser(command[0]).parse_args(command).command == command[0]


def test_the_ultrasound_cine_is_there() -> None:
    pytest.importorskip("pydicom", reason="pydicom brings the ultrasound cine")
    assert demo.ultrasound().is_file()


def test_a_video_without_frames_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"camera\.mp4 holds no frame"):
        demo.middle_frame(tmp_path / "camera.mp4")
