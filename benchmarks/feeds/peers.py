"""One video through YOLOX-Nano at 416: its share of the engine's ceiling, and latency at a live 30 a second.

The clock, the stamps and the ceiling are those of `stream_peers.py`: a frame's latency begins just before it
is read, or when it fell due; the ceiling is a session with two threads alone, right before and right after,
in the same process. Every run is a process of its own, ours and the others' in turn.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge.backends import Engine, EngineOptions, backend
from edge.config import assets, load_model
from edge.preprocess import Preprocess
from edge.sources import Picture
from edge.stream.feed import Feed
from edge.stream.network import Network, engine_options
from edge.stream.run import Run
from edge.types import EngineId, Result
from feeds.question import Answer, Options

VIDEO = assets() / "video" / "one-by-one-person-detection.mp4"
THREADS, BRACKET = 2, 100
FRAMES = 400
LIVE_FPS = 30.0
EFFICIENCY, CPU_MS = 0.86, 20.0
SPINNING = "ours, --spin"
OURS = ("ours", SPINNING)
CHILD = Path(__file__).resolve().parents[1] / "live_feeds.py"


class Stamped:
    """The video, with the moment that its frames' latency begins; at a camera's pace where it has one."""

    label, paced, truth_kind, problem = "video", False, None, None

    def __init__(self, fps: float, frames: int) -> None:
        import cv2

        self.fps, self.live = fps or None, bool(fps)
        self._capture, self._left = cv2.VideoCapture(str(VIDEO)), frames
        self._due = time.perf_counter()

    def read(self) -> Picture | None:
        self._left -= 1
        stamp = time.perf_counter()
        if self.fps:
            self._due += 1 / self.fps
            time.sleep(max(0.0, self._due - time.perf_counter()))
            stamp = self._due
        got, image = self._capture.read() if self._left >= 0 else (False, None)
        return Picture(image, None, {"stamp": stamp}) if got else None

    def close(self) -> None:
        self._capture.release()


class Latencies:
    """A sink that keeps how long each frame took."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.found = 0
        self.last = 0.0

    def write(self, result: Result) -> None:
        ready = result.frame.captured + result.stages["total"]
        self.seconds.append(ready - result.frame.meta["stamp"])
        self.found += len(result.payload.to_json().get("detections", ()))
        self.last = max(self.last, ready)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def child(live: float, spin: bool = False) -> dict[str, Any]:
    """Our run, in this process."""
    from edge import tasks

    config = load_model(Path("yolox_nano"))
    alone = backend("onnxruntime").load(config.onnx, EngineOptions(threads=THREADS))
    name = alone.inputs[0].name
    options = engine_options(THREADS, live=bool(live), serial=False, spin=spin)
    engine = backend("onnxruntime").load(config.onnx, options)
    made = Preprocess(config.input)
    id, slots = EngineId(config.name, "cpu", "fp32", ""), options.streams + 1  # as `open_network` does
    network = Network(id, engine, made, tasks.create(config), name, slots=slots)
    for _ in range(20):
        network.warm_up()
    ceiling(alone, name, made.shape, 20)
    before = ceiling(alone, name, made.shape, BRACKET)
    sink, source = Latencies(), Stamped(live, FRAMES)
    wall, cpu = time.perf_counter(), time.process_time()
    Run(network, [Feed("video", str(VIDEO), source)], [("latencies:", sink)]).go()
    wall, cpu = sink.last - wall, time.process_time() - cpu
    after = ceiling(alone, name, made.shape, BRACKET)
    latency = sorted(sink.seconds)
    return {
        "fps": len(latency) / wall,
        "efficiency": len(latency) / wall / (2 * BRACKET / (before + after)),
        "cpu_ms_per_frame": 1e3 * cpu / len(latency),
        "latency_p50_ms": 1e3 * statistics.median(latency),
        "latency_p99_ms": 1e3 * latency[min(len(latency) - 1, int(0.99 * len(latency)))],
        "frames": len(latency),
        "detections": sink.found,
    }


def ceiling(engine: Engine, name: str, shape: tuple[int, ...], runs: int) -> float:
    """Seconds of so many runs of the session alone."""
    import numpy as np

    tensor = np.full((1, *shape), 114, np.float32)
    start = time.perf_counter()
    for _ in range(runs):
        engine.run({name: tensor})
    return time.perf_counter() - start


def measure(options: Options) -> Answer:
    if not VIDEO.exists():
        return Answer("not measured", f"{VIDEO} is absent: set $EDGE_ASSETS", False)
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {"file": {}, "live": {}}
    for _ in range(options.repeat):
        for pace, fps in (("file", 0.0), ("live", LIVE_FPS)):
            runs[pace].setdefault("ours", []).append(_run(CHILD, [f"--child={fps:g}"], sys.executable))
            if fps:
                spinning = _run(CHILD, [f"--child={fps:g}", "--spin"], sys.executable)
                runs[pace].setdefault(SPINNING, []).append(spinning)
            for name, done in _peers(options, fps):
                runs[pace].setdefault(name, []).append(done)
    table = {pace: {name: medians(of) for name, of in ways.items()} for pace, ways in runs.items()}
    file, live = judge_file(table["file"]), judge_live(table["live"])
    return Answer(
        f"{file.told}; {live.told}",
        f"{file.reach}; live {live.reach}",
        file.met and live.met,
        {"file": file.record(), "live": live.record(), "peers_were_asked": bool(options.peers)},
    )


Table = Mapping[str, Mapping[str, float]]


def judge_file(rows: Table) -> Answer:
    """As fast as it goes."""
    ours, others = rows["ours"], {name: row for name, row in rows.items() if name not in ("ours", "ceiling")}
    best = max([EFFICIENCY, *(row["efficiency"] for row in others.values())])
    beside = "".join(f", {name} {row['efficiency']:.2f}" for name, row in others.items())
    late = "loop" in others and ours["latency_p99_ms"] > 2 * others["loop"]["latency_p99_ms"]
    return Answer(
        f"{ours['efficiency']:.2f} of the ceiling{beside}; p99 {ours['latency_p99_ms']:.0f} ms",
        f"at least {EFFICIENCY:g} of the ceiling, above all; p99 at most 2 × the loop's",
        ours["efficiency"] >= best and not late,
        {"rows": rows, "reach_efficiency": EFFICIENCY},
    )


def judge_live(rows: Table) -> Answer:
    """At a camera's pace."""
    ours, others = rows["ours"], [row for name, row in rows.items() if name not in (*OURS, "ceiling")]
    late = any(ours[key] > row[key] for key in ("latency_p50_ms", "latency_p99_ms") for row in others)
    shown = {name: row for name, row in rows.items() if name != "ceiling"}
    return Answer(
        "live p50/p99/CPU a frame in ms: "
        + ", ".join(
            f"{name} {row['latency_p50_ms']:.1f}/{row['latency_p99_ms']:.1f}/{row['cpu_ms_per_frame']:.0f}"
            for name, row in shown.items()
        ),
        f"no later than any, at most {CPU_MS:g} ms CPU a frame",
        not late and ours["cpu_ms_per_frame"] <= CPU_MS,
        {"rows": rows},
    )


def _peers(options: Options, fps: float) -> list[tuple[str, dict[str, Any]]]:
    """One run each of the others' pipelines."""
    if options.peers is None:
        return []
    names = ["ceiling", "loop", "threads", *(["roboflow"] if options.peers_python else [])]
    python = str(options.peers_python or sys.executable)
    arguments = [str(assets()), "--frames", str(FRAMES), *(["--live", f"{fps:g}"] if fps else [])]
    return [(name, _run(options.peers, [*arguments, "--child", name], python)) for name in names]


def _run(script: Path, arguments: list[str], python: str) -> dict[str, Any]:
    """A run in a process of its own: what it says in JSON."""
    done = subprocess.run([python, str(script), *arguments], capture_output=True, text=True, timeout=600)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise RuntimeError(f"{script} {' '.join(arguments)}: {done.stderr[-500:]}")
    return dict(json.loads(lines[-1]))


def medians(runs: list[dict[str, Any]]) -> dict[str, float]:
    keys = ("fps", "efficiency", "cpu_ms_per_frame", "latency_p50_ms", "latency_p99_ms", "detections")
    return {key: statistics.median(run[key] for run in runs) for key in keys}
