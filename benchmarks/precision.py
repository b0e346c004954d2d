"""What do engines keep of fp32's accuracy, what share of the work is quantized, and what does a build cost,
beside other tools on the same models and pictures?

    python benchmarks/precision.py [--models …] [--peers all] [--modelopt-python FILE] [--json FILE]

Ours: `edge build` for one target and variant, a process of its own, into an empty store: wall seconds from
start to end, with search and evaluation, and peak memory. Peers: onnxruntime.quantization, and NVIDIA
ModelOpt where it is installed (in this Python, or in `--modelopt-python`), with their defaults, each in a
process of its own. They calibrate with the same pictures as network inputs; their graphs run in ONNX Runtime
on this processor, judged by the same code on the same held-out pictures. A drop is fp32 minus this, in points
of top-1, points of AP, dB of luma PSNR, or F1; below zero is better than fp32.

`--same` also plans with the calibration pictures shuffled, and measures ranges in batches of 1, 8 and 32.
Reach: see REACH, which is printed beside each figure.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import arguments, report

from edge.backends import EngineOptions, backend
from edge.build.inputs import Inputs, gather
from edge.build.verify import Reference, measure
from edge.config import ModelConfig, load_model
from edge.errors import EdgeError
from edge.graph import Graph, prepare, read, serialize

ROOT = Path(__file__).resolve().parent.parent
QUANTIZER = Path(__file__).parent / "peers" / "quantize.py"
PEERS = (
    "ort-int8-minmax",
    "ort-int8-percentile",
    "modelopt-int8-max",
    "modelopt-int8-entropy",
    "modelopt-fp8-max",
)


@dataclass(frozen=True)
class Reach:
    """What an engine is to reach; None where nothing was set."""

    drop: float | None = None
    share: float | None = None
    seconds: float | None = None
    gigabytes: float | None = None


REACH = {
    ("squeezenet1.1", "a10", "fast"): Reach(0.4, 0.90),
    ("squeezenet1.1", "ada", "fast"): Reach(0.6, 0.90),
    ("squeezenet1.1", "a10", "w8a16"): Reach(0.1),
    ("squeezenet1.1", "t4", "w8a16"): Reach(0.1),
    ("yolox_nano", "a10", "fast"): Reach(0.5, 0.85, 90, 1.0),
    ("yolox_nano", "orin", "fast"): Reach(0.5, 0.85),
    ("yolox_nano", "t4", "fast"): Reach(0.5, 0.85),
    ("yolox_nano", "ada", "fast"): Reach(0.4),
    ("yolox_nano", "a10", "w8a16"): Reach(0.1),
    ("yolox_nano", "t4", "w8a16"): Reach(0.1),
    ("craft_x4_128", "a10", "fast"): Reach(0.05, 0.85, None, 1.5),
    ("craft_x4_128", "ada", "fast"): Reach(0.06, 0.85, None, 1.5),
    ("craft_x4_128", "a10", "w8a16"): Reach(0.02),
    ("burned_in_text", "cpu", "fast"): Reach(0.005),
    ("burned_in_text", "t4", "fast"): Reach(0.005),
    ("burned_in_text", "a10", "fast"): Reach(0.005),
    ("burned_in_text", "ada", "fast"): Reach(0.005),
    ("burned_in_text", "blackwell", "fast"): Reach(0.005),
    ("burned_in_text", "a10", "w8a16"): Reach(0.005),
}
MODELS = tuple(dict.fromkeys(model for model, *_ in REACH))


# ---------------------------------------------------------------- ours


def timed(command: list[str], log: Path) -> tuple[int, float, int]:
    """Exit code, wall seconds, and bytes of the largest process."""
    start = time.perf_counter()
    with log.open("w") as said:
        child = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(child.pid, 0)
    return os.waitstatus_to_exitcode(status), time.perf_counter() - start, used.ru_maxrss << 10


def ours(model: str, target: str, variant: str) -> dict[str, Any]:
    """One engine from nothing."""
    with tempfile.TemporaryDirectory() as folder:
        rows, log = Path(folder) / "rows.json", Path(folder) / "log"
        words = ["--model", model, "--targets", target, "--variants", variant, "--no-report"]
        command = [sys.executable, str(ROOT / "build_engines.py"), *words]
        _, seconds, peak = timed([*command, "--out", f"{folder}/engines", "--json", str(rows)], log)
        if not rows.exists():
            return {"error": log.read_text()[-300:]}
        (row,) = json.loads(rows.read_text())
        if row["path"] is None:
            return {"error": row["error"], "seconds": seconds}
        manifest = json.loads((Path(row["path"]) / "manifest.json").read_text())
    accuracy = manifest["accuracy"]
    return {
        "metric": accuracy["metric"],
        "fp32": accuracy["fp32"],
        "this": accuracy["this"],
        "drop": accuracy["fp32"] - accuracy["this"],
        "drop_error": accuracy["drop_error"],
        "divergence": accuracy["divergence"],
        "shares": manifest["mac_shares"],
        "quantized": row["quantized_mac_share"],
        "speed_up": manifest["speed_up"],
        "megabytes": row["size_bytes"] / 1e6,
        "seconds": seconds,
        "gigabytes": max(peak, row["peak_rss_bytes"]) / 2**30,
    }


def verdict(found: dict[str, Any], reach: Reach) -> str:
    """What of the reach is missed; "ok" if nothing is."""
    if "error" in found:
        return "failed"
    weights = sum(share for name, share in found["shares"].items() if name in ("w8a16", "w4a16"))
    pairs = (
        ("drop", found["drop"], reach.drop, False),
        ("share", found["quantized"] + weights, reach.share, True),
        ("seconds", found["seconds"], reach.seconds, False),
        ("GB", found["gigabytes"], reach.gigabytes, False),
    )
    missed = [
        f"{name} {value:.3g}, reach {limit:g}"
        for name, value, limit, larger in pairs
        if limit is not None and (value < limit if larger else round(value, 3) > limit)
    ]
    return "; ".join(missed) or "ok"


# ---------------------------------------------------------------- peers


class Judge:
    """fp32 on the held-out pictures of one model, and graphs against it."""

    def __init__(self, config: ModelConfig, folder: Path) -> None:
        self.folder, self.graph, self.inputs = folder, config.onnx, gather(config)
        shape = (config.input.channels, *config.input.size)
        model = prepare(read(config.onnx), config.input.name, shape)
        prepared = folder / "fp32.onnx"
        prepared.write_bytes(serialize(model))
        engine = backend("onnxruntime").load(prepared, EngineOptions())
        self.input = Graph(model).inputs[0]
        (folder / "cases").mkdir()
        task, evaluation = self.inputs.task, self.inputs.evaluation
        self.reference = Reference(
            task, config.input, self.input, evaluation, engine.run, folder / "cases", lambda done, total: None
        )
        engine.close()
        self.samples = folder / "samples.npz"
        save_samples(self.inputs, self.input, self.samples)

    def peer(self, name: str, python: str) -> dict[str, Any]:
        """A graph quantized by another tool."""
        out = self.folder / f"{name}.onnx"
        command = [python, str(QUANTIZER), name, str(self.graph), str(self.samples), str(out)]
        code, seconds, peak = timed(command, self.folder / "log")
        found: dict[str, Any] = {"seconds": seconds, "gigabytes": peak / 2**30}
        if code or not out.exists():
            lines = (self.folder / "log").read_text().strip().splitlines() or [f"exit status {code}"]
            return {**found, "error": lines[-1][-200:]}
        try:
            engine = backend("onnxruntime").load(out, EngineOptions(exact="fp8" in name))
            accuracy = measure(engine.run, self.reference, name, lambda done, total: None)
            engine.close()
        except EdgeError as e:
            return {**found, "error": str(e)[:200]}
        assert accuracy.fp32 is not None and accuracy.this is not None
        drop = accuracy.fp32 - accuracy.this
        return {**found, "fp32": accuracy.fp32, "this": accuracy.this, "drop": drop}


def save_samples(inputs: Inputs, name: str, path: Path) -> None:
    """All calibration pictures as network inputs, stacked: what the peers read."""
    import numpy as np

    samples = [*inputs.calibration, *inputs.search]
    batch = [probe.feeds[name] for probe in inputs.probes(name, samples)]
    np.savez(path, **{name: np.concatenate(batch)})


def has_modelopt(python: str) -> bool:
    return (
        subprocess.run([python, "-c", "import modelopt.onnx"], capture_output=True, check=False).returncode
        == 0
    )


# ---------------------------------------------------------------- the same plan


def same(model: str, target: str) -> dict[str, Any]:
    """Whether the plan, and every scale in it, is the same for shuffled pictures and for batches of them."""
    config = load_model(Path(model))
    with tempfile.TemporaryDirectory() as folder:
        digests = {"as given": planned(config, target, Path(folder) / "a")}
        digests["shuffled"] = planned(shuffled(config, Path(folder) / "shuffled"), target, Path(folder) / "b")
    ranges = {batch: digest_of_ranges(config, batch) for batch in (1, 8, 32)}
    return {
        "plan and scales": "identical" if len({*digests.values()}) == 1 else digests,
        "ranges in batches of 1, 8, 32": "identical" if len({*ranges.values()}) == 1 else ranges,
    }


def planned(config: ModelConfig, target: str, store: Path) -> str:
    from edge import machine
    from edge.build.planning import plans
    from edge.store import Store
    from edge.targets import TARGETS

    row = TARGETS[target]
    (found,) = plans(config, [row], ["fast"], Store(store), machine.detect(), Silent())
    return hashlib.sha256(serialize(found.chosen.typed(row))).hexdigest()


class Silent:
    """Hears of the build and says nothing."""

    def step(self, text: str, done: int, total: int) -> None: ...

    def row(self, row: object) -> None: ...


def shuffled(config: ModelConfig, folder: Path) -> ModelConfig:
    """The same calibration pictures under other names, so that they come in another order."""
    folder.mkdir(parents=True)
    pictures = sorted(p for p in config.calibration.images.iterdir() if p.suffix.lower() in (".jpg", ".png"))
    random.Random(1).shuffle(pictures)
    for index, picture in enumerate(pictures):
        shutil.copy(picture, folder / f"{index:05d}{picture.suffix}")
    return config.model_copy(update={"calibration": config.calibration.model_copy(update={"images": folder})})


def digest_of_ranges(config: ModelConfig, batch: int) -> str:
    """Of ranges and histograms, measured with so many pictures at once, in an order of its own."""
    import numpy as np

    from edge.precision.calibrate import calibrate
    from edge.precision.placement import observed_tensors

    inputs = gather(config)
    shape = (config.input.channels, *config.input.size)
    index = Graph(prepare(read(config.onnx), config.input.name, shape))
    samples = list(inputs.calibration)[:64]
    random.Random(batch).shuffle(samples)

    def feeds() -> Iterator[dict[str, Any]]:
        name = index.inputs[0]
        for start in range(0, len(samples), batch):
            probes = inputs.probes(name, samples[start : start + batch])
            yield {name: np.concatenate([probe.feeds[name] for probe in probes])}

    found = calibrate(index.model, observed_tensors(index), feeds(), len(samples), "0" * 64)
    with tempfile.TemporaryDirectory() as folder:
        found.save(Path(folder) / "ranges.npz")
        with np.load(Path(folder) / "ranges.npz") as arrays:
            parts = [name.encode() + arrays[name].tobytes() for name in sorted(arrays.files)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


# ---------------------------------------------------------------- the table


def line(found: dict[str, Any]) -> str:
    if "error" in found:
        return f"failed: {found['error']}"
    shares = ", ".join(f"{share:.0%} {name}" for name, share in found.get("shares", {}).items())
    error = f" ± {found['drop_error']:.2g}" if found.get("drop_error") else ""
    return (
        f"drop {found['drop']:+.4g}{error} ({found['fp32']:.4g} → {found['this']:.4g})"
        f"{f', {shares}' if shares else ''}, {found['seconds']:.0f} s, {found['gigabytes']:.2f} GB"
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--peers", default="all", help=f"all, none, or of {', '.join(PEERS)}")
    parser.add_argument("--modelopt-python", default=sys.executable, metavar="FILE")
    parser.add_argument("--same", action="store_true", help="also shuffle, and measure in batches")
    args = parser.parse_args()
    peers = {"all": PEERS, "none": ()}.get(args.peers, tuple(args.peers.split(",")))
    if not has_modelopt(args.modelopt_python):
        peers = tuple(peer for peer in peers if not peer.startswith("modelopt"))
        print("ModelOpt is not installed here: its rows are left out (--modelopt-python)")
    figures: dict[str, Any] = {}
    for model in args.models.split(","):
        for (name, target, variant), reach in REACH.items():
            if name == model:
                found = ours(model, target, variant)
                figures[f"{model}/{target}/{variant}"] = {**found, "verdict": verdict(found, reach)}
                print(f"{model}/{target}/{variant}: {line(found)}: {verdict(found, reach)}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            judge = Judge(load_model(Path(model)), Path(folder)) if peers else None
            for peer in peers:
                assert judge is not None
                python = args.modelopt_python if peer.startswith("modelopt") else sys.executable
                figures[f"{model}: {peer}"] = judge.peer(peer, python)
                print(f"{model}: {peer}: {line(figures[f'{model}: {peer}'])}", flush=True)
        if args.same:
            figures[f"{model}: same samples"] = same(model, "orin")
            print(f"{model}: same samples: {figures[f'{model}: same samples']}", flush=True)
    print()
    report("precision", {name: _flat(found) for name, found in figures.items()}, args.json)


def _flat(found: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in found.items()}


if __name__ == "__main__":
    main()
