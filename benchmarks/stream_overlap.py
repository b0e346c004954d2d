"""How much faster is the overlapped runner than the loop everyone writes first?

    python benchmarks/stream_overlap.py [--frames 400] [--repeat 5] [--threads 2] [--json FILE]

The plain loop reads a frame, prepares it, runs the session and decodes, one after the other. All ways use the
same video, preprocessing, postprocessing and YOLOX-Nano graph; runs alternate, and ratios are taken within
each turn:

    loop        the plain loop, a session with --threads threads
    same        the overlapped runner with exactly the loop's session: threads, spinning and all
    default     the overlapped runner as `edge run` opens a file: two streams that share the same threads
    serial      the runner's serial loop, with the loop's session

Reach: `same` and `default` at least 1.05 of the loop's frames a second, at most 1.05 of its CPU time a frame.
The findings of all four must be the same, number for number.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from common import arguments, report

from edge import tasks
from edge.backends import EngineOptions, backend
from edge.config import assets, load_model
from edge.preprocess import Preprocess
from edge.sources.video import VideoFile
from edge.stream.feed import Feed
from edge.stream.network import Network, engine_options
from edge.stream.run import Run
from edge.types import EngineId, Result

VIDEO = assets() / "video" / "one-by-one-person-detection.mp4"
Findings = list[dict[str, Any]]


class Collect:
    """A sink that keeps the findings: here the run is short and they are what is compared."""

    def __init__(self) -> None:
        self.found: Findings = []

    def write(self, result: Result) -> None:
        self.found.append(result.payload.to_json())

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def network(options: EngineOptions) -> Network:
    from pathlib import Path

    config = load_model(Path("yolox_nano"))
    engine = backend("onnxruntime").load(config.onnx, options)
    name = engine.inputs[0].name
    return Network(
        EngineId(config.name, "cpu", "fp32", ""), engine, Preprocess(config.input), tasks.create(config), name
    )


def loop(net: Network, frames: int) -> Findings:
    """Read, prepare, run, decode; one thread."""
    import cv2
    import numpy as np

    assert net.preprocess is not None and net.task is not None
    capture, found = cv2.VideoCapture(str(VIDEO)), []
    tensor = np.zeros((1, *net.preprocess.shape), np.float32)
    for _ in range(frames):
        got, image = capture.read()
        if not got:
            break
        placement = net.preprocess.into(image, tensor[0])
        outputs = net.engine.run({net.input_name: tensor})
        found.append(net.task.postprocess(outputs, 0, placement).to_json())
    return found


def runner(net: Network, frames: int, serial: bool = False) -> Findings:
    sink = Collect()
    Run(net, [Feed("video", str(VIDEO), VideoFile(VIDEO))], [("collect:", sink)], frames, serial).go()
    return sink.found


def measure(work: Callable[[], Findings]) -> tuple[Findings, float, float]:
    """Findings, frames a second, CPU milliseconds a frame."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return found, len(found) / wall, 1e3 * cpu / len(found)


def ratio(runs: list[tuple[float, float]], loop: list[tuple[float, float]], figure: int) -> float:
    """Median of the ratios within each turn: a machine that slows down for a while slows both."""
    return statistics.median(mine[figure] / its[figure] for mine, its in zip(runs, loop, strict=True))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if not VIDEO.exists():
        sys.exit(f"{VIDEO} is absent: set $EDGE_ASSETS to the folder of measuring data")
    plain = network(EngineOptions(threads=args.threads))
    default = network(engine_options(args.threads, live=False, serial=False))
    for net in (plain, default):
        for _ in range(20):
            net.warm_up()
    ways: dict[str, Callable[[], Findings]] = {
        "loop": lambda: loop(plain, args.frames),
        "same": lambda: runner(plain, args.frames),
        "default": lambda: runner(default, args.frames),
        "serial": lambda: runner(plain, args.frames, serial=True),
    }
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    findings: dict[str, Findings] = {}
    for turn in range(args.repeat):
        order = list(ways)[turn % len(ways) :] + list(ways)[: turn % len(ways)]
        for name in order:
            findings[name], fps, cpu = measure(ways[name])
            runs[name].append((fps, cpu))
    report(
        "stream_overlap",
        {
            "fps": {name: statistics.median(r[0] for r in values) for name, values in runs.items()},
            "cpu_ms_per_frame": {
                name: statistics.median(r[1] for r in values) for name, values in runs.items()
            },
            "fps_ratio_to_loop": {name: ratio(runs[name], runs["loop"], 0) for name in ways},
            "cpu_ratio_to_loop": {name: ratio(runs[name], runs["loop"], 1) for name in ways},
            "identical": all(found == findings["loop"] for found in findings.values()),
            "fps_range": {
                name: [f(r[0] for r in values) for f in (min, max)] for name, values in runs.items()
            },
            "frames": args.frames,
            "repeat": args.repeat,
            "threads": args.threads,
        },
        args.json,
    )


if __name__ == "__main__":
    main()
