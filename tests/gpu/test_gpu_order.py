"""The order of work on a real device: graphs, slots, loops and a lost context."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu.engines import Contender
from gpu.streams import Memory, Results, noise, page_locked, stream
from gpu.synthetic import Digest, SyntheticEngine, on_processor
from on_device import INDEX, INPUT, ROUNDS, RUNTIMES, SIMULATED, engine_of

from edge.backends import Engine, EngineOptions
from edge.cuda.device import CapturedGraph, Device
from edge.preprocess import Preprocess
from edge.stream.network import Network
from edge.types import EngineId

pytestmark = pytest.mark.gpu


def outputs(engine: Engine, count: int) -> list[dict[str, np.ndarray]]:
    """Of so many different inputs through one slot: long enough for a graph to be recorded on the way."""
    slot, found = engine.slot(), []
    for seed in range(count):
        for array in slot.inputs.values():
            array[...] = np.random.default_rng(seed).random(array.shape, np.float32)
        slot.submit()
        found.append({name: np.array(value) for name, value in slot.wait().items()})
    return found


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_cuda_graph_gives_what_plain_launches_give(runtime: str, device: Device, tmp_path: Path) -> None:
    results = []
    for graphs in (False, True):
        engine = engine_of(runtime, tmp_path, device, graphs=graphs)
        results.append(outputs(engine, 8))
        engine.close()
    for plain, recorded in zip(*results, strict=True):
        for name, value in plain.items():
            np.testing.assert_array_equal(recorded[name], value)


def test_a_slot_records_a_graph_once_its_batches_are_steady(device: Device, tmp_path: Path) -> None:
    engine: Any = engine_of("synthetic", tmp_path, device)
    slot = engine.slot()
    for _ in range(4):
        slot.submit()
        slot.wait()
    assert isinstance(slot._graph, CapturedGraph)
    engine.close()


def test_a_batch_of_another_size_gets_a_graph_of_its_own(device: Device, tmp_path: Path) -> None:
    engine: Any = engine_of("synthetic", tmp_path, device, batch=3)
    slot = engine.slot()
    for rows in (3, 3, 3, 3, 1, 2, 2, 2, 2, 3):
        tensor = np.random.default_rng(rows).random(slot.inputs["image"].shape, np.float32)
        slot.inputs["image"][...] = tensor
        slot.submit(rows)
        wanted = on_processor(tensor[:rows], engine.out_words, engine.rounds)
        np.testing.assert_array_equal(slot.wait()["words"], wanted)
    engine.close()


def test_four_slots_in_flight_do_not_mix(device: Device, tmp_path: Path) -> None:
    engine: Any = engine_of("synthetic", tmp_path, device)
    slots = [engine.slot() for _ in range(4)]
    for turn in range(10):
        tensors = [
            np.random.default_rng(10 * turn + i).random(slot.inputs["image"].shape, np.float32)
            for i, slot in enumerate(slots)
        ]
        for slot, tensor in zip(slots, tensors, strict=True):
            slot.inputs["image"][...] = tensor
            slot.submit()
        for slot, tensor in zip(slots, tensors, strict=True):
            wanted = on_processor(tensor, engine.out_words, engine.rounds)
            np.testing.assert_array_equal(slot.wait()["words"], wanted)
    engine.close()


def test_executions_in_a_row_are_those_of_one_batch(device: Device, tmp_path: Path) -> None:
    engine: Any = engine_of("synthetic", tmp_path, device)
    slot = engine.slot()
    slot.submit()
    once = np.array(slot.wait()["words"])
    slot.repeat(50)
    np.testing.assert_array_equal(slot.wait()["words"], once)
    engine.close()


def contender(device: Device) -> Contender:
    def load(options: EngineOptions, slots: int, patience: float) -> Network:
        engine: Any = SyntheticEngine(options, INPUT, ROUNDS)
        id, task = EngineId("synthetic", "gpu", "", ""), Digest()
        return Network(id, engine, Preprocess(INPUT), task, "image", None, slots, patience)  # type: ignore[arg-type]

    return Contender("synthetic", "synthetic", load)


@pytest.mark.parametrize("graphs", [False, True], ids=["launches", "graphs"])
@pytest.mark.parametrize("pictures", [False, True], ids=["tensors", "pictures"])
@pytest.mark.parametrize("slots", [1, 2, 4])
def test_overlapped_streams_find_what_serial_ones_find(
    device: Device, slots: int, pictures: bool, graphs: bool
) -> None:
    options = EngineOptions(gpu=INDEX, graphs=graphs, picture=INPUT if pictures else None)
    found = []
    with contender(device).network(options, slots) as network:
        sizes = [noise(size, 3, seed) for seed, size in enumerate([(24, 40), (64, 48), (33, 17)])]
        images = [image for group in sizes for image in page_locked(network, group)]
        for serial in (True, False):
            sink = Results()
            stream(network, [Memory(images), Memory(images[::-1])], 18, sink, serial)
            found.append(sorted(sink.findings))
        del images
    assert len(found[0]) == 36 and found[0] == found[1]


def test_a_steady_stream_allocates_nothing(device: Device) -> None:
    options = EngineOptions(gpu=INDEX, picture=INPUT)
    with contender(device).network(options, 2) as network:
        images = page_locked(network, noise((48, 64), 4))
        data = stream(network, [Memory(images)], 60).data
        del images
    if data["device"] is None or not network.engine.takes_pictures:
        pytest.skip("no compiler for the kernel: the processor prepares pictures")
    assert data["device"]["allocations_after_warm_up"] == 0


LOST = """
import sys
sys.path[:0] = {paths!r}
import numpy as np
from edge.backends import EngineOptions
from edge.cuda.device import open_device
from edge.errors import DeviceLost
from gpu.synthetic import SyntheticEngine, on_processor
from edge.config import InputConfig

def engine():
    return SyntheticEngine(EngineOptions(gpu={index}, graphs=False), InputConfig(size=(32, 32)), 1000)

device, broken = open_device({index}), engine()
slot = broken.slot()
executor = slot._executor
executor.bind("words", 64)  # nobody's memory
try:
    slot.submit()
    slot.wait()
    sys.exit("an illegal address went unnoticed")
except DeviceLost as e:
    print(e)
broken.close()
device.close()
again = engine()
slot = again.slot()
tensor = np.random.default_rng(0).random(slot.inputs["image"].shape, np.float32)
slot.inputs["image"][...] = tensor
slot.submit()
assert (slot.wait()["words"] == on_processor(tensor, again.out_words, 1000)).all()
again.close()
print("works again")
"""


@pytest.mark.skipif(SIMULATED, reason="a real illegal address; faults/test_gpu_faults.py simulates it")
def test_a_lost_context_is_told_by_its_name_and_made_anew(device: Device) -> None:
    """In a process of its own: the context of this one is to live on."""
    root = Path(__file__).parents[2]
    script = LOST.format(paths=[str(root), str(root / "benchmarks")], index=INDEX)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in done.stdout and "works again" in done.stdout
