"""How much sooner is a triage list of 23 radiographs there, if they are run together and not one at a time?

    python benchmarks/dicom_triage.py [--images 23] [--rounds 3] [--json FILE]

Radiographs of 2500 × 2000 pixels, each a study, uncompressed and as JPEG 2000, from files on the disk to the
sorted list. One at a time is a plain loop: read, decode, prepare, infer, list. Together is what `edge run`
does with a folder: decoding processes ahead, the engine beside them, batches of 1 or 8. Two engines:

    squeezenet   SqueezeNet 1.1 in fp32 on this processor, its batch open; lists must have the loop's order
    stand_in     takes 40 ms a batch whatever is in it, like an engine that gains from batches; finds nothing

`engine_ms` is what squeezenet takes a picture alone and in a batch of 8: whether a processor gains at all.
Ratios are taken within each turn. Reach: 2 with an engine that gains from batches.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import onnx
from common import arguments, report
from dicom_decode import picture, write
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless

from edge import tasks
from edge.backends import EngineOptions, backend
from edge.build.opening import open_dimensions
from edge.build.tensorrt import Profile
from edge.config import assets, load_model
from edge.dicom import open_dicom
from edge.machine import usable_cores
from edge.preprocess import Preprocess
from edge.privacy import Privacy
from edge.sinks.jsonl import result_fields
from edge.sources.dicom import DicomFiles
from edge.stream.feed import Feed
from edge.stream.network import Network, engine_options, null_network
from edge.stream.run import Run
from edge.triage import Worklist
from edge.types import EngineId, Result

REACH = 2.0
ROWS, COLUMNS, BATCH = 2500, 2000, 8
DELAY_MS = 40
PATIENCE = 0.5
SYNTAXES = {"uncompressed": ExplicitVRLittleEndian, "jpeg_2000": JPEG2000Lossless}
Order = list[str]


class Listing:
    """A sink that is a worklist."""

    def __init__(self) -> None:
        self.worklist = Worklist()

    def write(self, result: Result) -> None:
        self.worklist.add(result_fields(result))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def opened(folder: Path) -> Path:
    """SqueezeNet's graph with an open batch."""
    config = load_model(Path("squeezenet1.1"))
    shapes = [(count, 3, *config.input.size) for count in (1, BATCH, BATCH)]
    path = folder / "squeezenet.onnx"
    onnx.save(open_dimensions(onnx.load(config.onnx), Profile(*shapes)), path)
    return path


def squeezenet(path: Path, options: EngineOptions) -> Network:
    config = load_model(Path("squeezenet1.1"))
    engine = backend("onnxruntime").load(path, options)
    name, id = engine.inputs[0].name, EngineId(config.name, "cpu", "fp32", "")
    prepare, task = Preprocess(config.input), tasks.create(config)
    return Network(id, engine, prepare, task, name, patience=PATIENCE)


def engine_ms(path: Path) -> dict[str, float]:
    """Milliseconds a picture, alone and in a batch, by turns."""
    networks = {count: squeezenet(path, EngineOptions(usable_cores(), batch=count)) for count in (1, BATCH)}
    times: dict[int, list[float]] = {count: [] for count in networks}
    for turn in range(25):
        for count, network in networks.items():
            slot = network.slots()[0]
            start = time.perf_counter()
            slot.submit(count)
            slot.wait()
            if turn >= 5:
                times[count].append((time.perf_counter() - start) / count)
    return {f"batch_{count}": 1e3 * median(values) for count, values in times.items()}


def studies(folder: Path, images: int, syntax: str) -> Path:
    """A folder with one study a file."""
    folder.mkdir()
    for number in range(images):
        path = write(folder / f"{number}.dcm", picture(ROWS, COLUMNS, 12, number)[None], 12, syntax)
        ds = dcmread(path)
        ds.StudyInstanceUID, ds.SeriesInstanceUID = f"1.2.3.{number}", f"1.2.3.{number}.1"
        ds.save_as(path)
    return folder


def one_at_a_time(network: Network, folder: Path) -> Order:
    """Read, decode, prepare, infer, list; nothing beside anything else."""
    worklist, slot = Worklist(), network.slots()[0]
    for path in sorted(folder.iterdir(), key=lambda path: int(path.stem)):
        image = open_dicom(path)
        shown, _ = image.frame(0)
        placement = None
        if network.preprocess is not None:
            placement = network.preprocess.into(shown, slot.inputs[network.input_name][0])
        slot.submit(1)
        found = network.interpret(slot.wait(), placement)
        worklist.add({"source_meta": image.meta(0), **found.to_json()})
    return [row.study for row in worklist.rows()]


def together(network: Network, folder: Path) -> Order:
    """As `edge run` does."""
    sink = Listing()
    Run(
        network,
        [Feed("dicom", str(folder), DicomFiles(folder))],
        [("triage:", sink)],
        privacy=Privacy("none"),
    ).go()
    return [row.study for row in sink.worklist.rows()]


def compare(
    ways: dict[str, Callable[[Path], Order]], folder: Path, rounds: int, order: bool
) -> dict[str, Any]:
    """Seconds of each way, and how many times faster than the first it is."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    orders: list[Order] = []
    for _ in range(rounds):
        for way, work in ways.items():
            start = time.perf_counter()
            orders.append(work(folder))
            seconds[way].append(time.perf_counter() - start)
    first = next(iter(seconds.values()))
    found: dict[str, Any] = {
        way: {
            "seconds": median(values),
            "ratio": median(one / mine for one, mine in zip(first, values, strict=True)),
        }
        for way, values in seconds.items()
    }
    if order:
        assert all(each == orders[0] for each in orders), "the order depends on the way"
        found["order_equals_the_serial_one"] = True
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=23)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if not (assets() / "models" / "squeezenet1.1.onnx").exists():
        sys.exit(f"{assets()} holds no squeezenet1.1: set $EDGE_ASSETS to the folder of measuring data")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        graph = opened(folder)
        figures: dict[str, Any] = {"images": args.images, "reach": REACH, "engine_ms": engine_ms(graph)}
        options = engine_options(0, live=False, serial=False)
        alone = squeezenet(graph, EngineOptions(usable_cores()))
        plain, batched = squeezenet(graph, options), squeezenet(graph, replace(options, batch=BATCH))
        delay = f"delay_ms={DELAY_MS}"
        stand_in, stand_in_batch = null_network(delay), null_network(delay, BATCH, PATIENCE)
        engines: dict[str, dict[str, Callable[[Path], Order]]] = {
            "squeezenet": {
                "one_at_a_time": lambda at: one_at_a_time(alone, at),
                "together": lambda at: together(plain, at),
                "together_batch_8": lambda at: together(batched, at),
            },
            "stand_in": {
                "one_at_a_time": lambda at: one_at_a_time(stand_in, at),
                "together": lambda at: together(stand_in, at),
                "together_batch_8": lambda at: together(stand_in_batch, at),
            },
        }
        for network in (alone, plain, batched):
            network.warm_up()
        for syntax, uid in SYNTAXES.items():
            files = studies(folder / syntax, args.images, uid)
            for engine, ways in engines.items():
                figures[f"{engine}_{syntax}"] = compare(ways, files, args.rounds, engine == "squeezenet")
    report("dicom_triage", figures, args.json)


if __name__ == "__main__":
    main()
