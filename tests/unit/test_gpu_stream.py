"""Streams through a GPU: the processor's findings, batches, page-locked frames, no allocations."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fakes.cuda import FakeCuda
from gpus import gpu_network, install, plan
from kernel_on_host import ABSENT
from onnx import TensorProto, helper, numpy_helper
from streaming import Script, feed, heatmap_graph, network_of, pictures

from edge.backends import EngineOptions, backend
from edge.sources import Allocate, Picture, numpy_memory
from edge.stream.metrics import DeviceTimes, merged
from edge.stream.pipeline import SETTLING
from edge.stream.run import Run

needs_kernel = pytest.mark.skipif(bool(ABSENT), reason=ABSENT)


@pytest.fixture(params=[False, True], ids=["discrete", "integrated"])
def cuda(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[FakeCuda]:
    with FakeCuda(seed=5, integrated=request.param) as device:
        install(monkeypatch, device, tmp_path)
        yield device


def stream(network: Any, *sources: Any, serial: bool = False) -> tuple[dict[str, Any], list[Any]]:
    """The summary, and each result's finding by feed and frame."""
    sink = Note(lambda result: ((result.frame.feed, result.frame.seq), result.payload.to_json()))
    feeds = [feed(f"f{i}", source) for i, source in enumerate(sources)]
    data = Run(network, feeds, [("note:", sink)], serial=serial).go().data
    return data, [finding for _, finding in sorted(sink.notes, key=lambda note: note[0])]


class Decoder:
    """A source that decodes into memory it is lent, as a video file does."""

    label, live, paced, fps, truth_kind, problem = "decoder", False, False, None, None, None

    def __init__(self, images: list[Any]) -> None:
        self.images = iter(images)
        self.allocate: Allocate = numpy_memory

    def read(self) -> Picture | None:
        image = next(self.images, None)
        if image is None:
            return None
        buffer = self.allocate(image.shape)
        buffer[...] = image
        return Picture(buffer)

    def close(self) -> None:
        pass


class Note:
    """A sink that keeps what `look` sees in a result, and not the result."""

    def __init__(self, look: Any) -> None:
        self.look, self.notes = look, []

    def write(self, result: Any) -> None:
        self.notes.append(self.look(result))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize("slots", [1, 2, 3, 4])
@pytest.mark.parametrize("on_device", [False, pytest.param(True, marks=needs_kernel)])
def test_findings_are_those_of_the_processor(
    cuda: FakeCuda, tmp_path: Path, slots: int, on_device: bool
) -> None:
    network = gpu_network(plan(tmp_path), pictures=on_device, slots=slots)
    assert network.engine.takes_pictures == on_device
    data, found = stream(network, Script(pictures(15)))
    network.close()
    cpu = network_of(tmp_path / "tiny.onnx")
    _, expected = stream(cpu, Script(pictures(15)), serial=True)
    cpu.close()
    assert found == expected and len(found) == 15
    assert data["slots"] == slots and data["device"]["batches"] == 15
    settled = SETTLING * slots <= 15  # otherwise it was over before anything could be said
    assert data["device"]["allocations_after_warm_up"] == (0 if settled else None)
    cuda.assert_clean()


@needs_kernel
@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "no graphs"])
def test_batches_of_several_feeds_give_what_single_frames_give(
    cuda: FakeCuda, tmp_path: Path, graphs: bool
) -> None:
    graph = heatmap_graph(tmp_path / "tiny.onnx", batch="n")
    options = EngineOptions(batch=4, graphs=graphs)
    sizes = [(24, 40), (48, 32), (33, 17)]
    sources = [[Script(pictures(9, seed, size)) for seed, size in enumerate(sizes)] for _ in range(2)]
    network = gpu_network(plan(tmp_path, graph=graph), options, pictures=True, patience=0.05)
    data, found = stream(network, *sources[0])
    network.close()
    single = gpu_network(plan(tmp_path, graph=graph), pictures=True)
    _, expected = stream(single, *sources[1])
    single.close()
    assert found == expected and len(found) == 27
    assert data["device"]["batches"] < 27, "nothing was batched"
    cuda.assert_clean()


@needs_kernel
def test_executions_follow_each_other_where_asked(cuda: FakeCuda, tmp_path: Path) -> None:
    for in_order in (True, False):
        network = gpu_network(plan(tmp_path), EngineOptions(in_order=in_order), pictures=True, slots=3)
        network.warm_up()
        start = len(cuda.trace)
        stream(network, Script(pictures(30)))
        spans = sorted((s.start, s.end) for s in cuda.trace[start:] if s.name == "execute")
        beside = sum(b[0] < a[1] for a, b in itertools.pairwise(spans))
        assert beside == 0 or not in_order
        network.close()
    cuda.assert_clean()


def test_a_graph_is_given_up_where_batches_change_their_size(cuda: FakeCuda, tmp_path: Path) -> None:
    graph = heatmap_graph(tmp_path / "tiny.onnx", batch="n")
    network = gpu_network(plan(tmp_path, graph=graph), EngineOptions(batch=4))
    (slot, _), before = network.slots(), cuda.allocations["graph"]
    for rows in (4, 4, 4, 3) * 100:
        slot.submit(rows)
        slot.wait()
    assert cuda.allocations["graph"] - before == 1
    for _ in range(20):
        slot.submit(4)
        slot.wait()
    assert cuda.allocations["graph"] - before == 2
    network.close()
    cuda.assert_clean()


def test_a_live_feed_is_not_waited_for_by_its_own_batch(cuda: FakeCuda, tmp_path: Path) -> None:
    graph = heatmap_graph(tmp_path / "tiny.onnx", batch="n")
    network = gpu_network(plan(tmp_path, graph=graph), EngineOptions(batch=4), patience=3600.0)
    steps = [step for picture in pictures(4) for step in (picture, 0.02)]
    _, found = stream(network, Script(steps, live=True))
    assert len(found) == 4
    network.close()


def test_a_batch_does_not_wait_for_feeds_that_have_ended(cuda: FakeCuda, tmp_path: Path) -> None:
    graph = heatmap_graph(tmp_path / "tiny.onnx", batch="n")
    network = gpu_network(plan(tmp_path, graph=graph), EngineOptions(batch=4), patience=3600.0)
    _, found = stream(network, Script(pictures(3)))
    assert len(found) == 3
    network.close()


@needs_kernel
def test_a_steady_run_allocates_nothing(cuda: FakeCuda, tmp_path: Path) -> None:
    images = [picture.image for picture in pictures(80)]
    asked = []
    for count in (30, 80):
        network = gpu_network(plan(tmp_path), pictures=True)
        network.warm_up()
        before = cuda.allocations
        data, _ = stream(network, Decoder(images[:count]))
        asked.append(cuda.allocations - before)
        assert data["device"]["allocations_after_warm_up"] == 0
        network.close()
    assert asked[0] == asked[1], "a longer run asks the driver for more"
    cuda.assert_clean()


def test_allocations_are_counted_where_the_processor_prepares_pictures_too(
    cuda: FakeCuda, tmp_path: Path
) -> None:
    network = gpu_network(plan(tmp_path))
    network.warm_up()
    assert not network.engine.takes_pictures and network.allocations > 0
    graphs = cuda.allocations["graph"]
    stream(network, Script(pictures(20)))
    assert cuda.allocations["graph"] == graphs == 2, "each slot records its CUDA graph while it warms up"
    network.close()
    cuda.assert_clean()


@needs_kernel
def test_frames_in_page_locked_buffers_are_not_copied_by_the_loop(cuda: FakeCuda, tmp_path: Path) -> None:
    network = gpu_network(plan(tmp_path), pictures=True)
    frames = network.engine.frames  # type: ignore[attr-defined]
    images = [picture.image for picture in pictures(30)]
    _, found = stream(network, Decoder(images))
    lent = frames.take(images[0].shape)
    assert frames.holds(lent) and not frames.holds(lent[1:]) and not frames.holds(images[0])
    sink = Note(lambda result: (result.payload.to_json(), frames.holds(result.frame.image)))
    script = Script([Picture(image) for image in images])  # whose pictures its reader copies
    Run(network, [feed("f0", script)], [("note:", sink)]).go()
    assert [finding for finding, _ in sink.notes] == found
    assert all(locked for _, locked in sink.notes[20:])
    network.close()
    lent[...] = 7  # a sink may still hold it
    assert (lent == 7).all()
    cuda.assert_clean()


@needs_kernel
def test_buffers_come_back_and_an_empty_pool_is_no_obstacle(cuda: FakeCuda, tmp_path: Path) -> None:
    network = gpu_network(plan(tmp_path), pictures=True)
    frames = network.engine.frames  # type: ignore[attr-defined]
    shape, lend = (8, 8, 3), frames.lend(6)
    assert not frames.holds(lend(shape))  # this size was not known yet
    frames.provide_wanted()
    held = [lend(shape) for _ in range(8)]
    assert [frames.holds(image) for image in held] == [True] * 6 + [False] * 2 and frames.misses == 2
    part = held[0][2:4]
    held.clear()
    again = [lend(shape) for _ in range(6)]
    assert sum(map(frames.holds, again)) == 5, "a buffer came back while a part of it was in use"
    del part
    assert frames.holds(lend.copy(np.zeros(shape, np.uint8)))
    again.clear()
    network.close()
    cuda.assert_clean()


@needs_kernel
def test_readers_get_buffers_of_their_own_and_odd_sizes_none(cuda: FakeCuda, tmp_path: Path) -> None:
    network = gpu_network(plan(tmp_path), pictures=True)
    frames = network.engine.frames  # type: ignore[attr-defined]
    lenders, shape = [frames.lend(3), frames.lend(3)], (8, 8, 3)
    for lender in lenders:
        lender(shape)
    frames.provide_wanted()
    assert sum(frames.holds(image) for image in [lenders[0](shape) for _ in range(9)]) == 6
    before = frames.device.counters.host
    for side in range(10, 40):  # a folder of pictures, each of another size
        picture = np.zeros((side, side, 3), np.uint8)
        assert lenders[1].copy(picture) is picture
        frames.provide_wanted()
    assert frames.device.counters.host - before == 3 * 3
    network.close()
    cuda.assert_clean()


def test_only_the_outputs_that_are_wanted_are_copied(cuda: FakeCuda, tmp_path: Path) -> None:
    network = gpu_network(plan(tmp_path), EngineOptions(outputs=()))
    slot = network.slot()
    slot.submit()
    assert slot.wait() == {}
    assert cuda.calls["cuMemcpyDtoHAsync"] == 0
    everything = network.engine.run({"image": np.zeros((1, 3, 32, 32), np.float32)})
    assert set(everything) == {"heatmap"}
    network.close()
    cuda.assert_clean()


def test_outputs_and_inputs_need_no_batch_axis_where_the_batch_is_one(cuda: FakeCuda, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["image", "gain"], ["louder"], name="mul"),
        helper.make_node("Reshape", ["louder", "shape"], ["rows"], name="reshape"),
        helper.make_node("ReduceSum", ["rows"], ["total"], name="sum", keepdims=0),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "flat",
        [value("image", TensorProto.FLOAT, [1, 3, 4, 4]), value("gain", TensorProto.FLOAT, [3, 1, 1])],
        [value("rows", TensorProto.FLOAT, [12, 4]), value("total", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(np.array([12, 4]), "shape")],
    )
    path = tmp_path / "flat.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    engine = backend("tensorrt").load(plan(tmp_path, graph=path), EngineOptions())
    random = np.random.default_rng(0)
    feeds = {spec.name: random.random(spec.shape, np.float32) for spec in engine.inputs}
    found = engine.run(feeds)
    np.testing.assert_allclose(found["rows"], (feeds["image"] * feeds["gain"]).reshape(12, 4))
    np.testing.assert_allclose(found["total"], found["rows"].sum(), rtol=1e-5)
    engine.close()
    cuda.assert_clean()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_engines_close_in_any_order(cuda: FakeCuda, tmp_path: Path, order: tuple[int, ...]) -> None:
    networks = [gpu_network(plan(tmp_path)) for _ in range(3)]
    for network in networks:
        network.warm_up()
    for index in order:
        networks[index].close()
        networks[index].close()
    cuda.assert_clean()


def test_closing_ends_what_is_in_flight_first(cuda: FakeCuda, tmp_path: Path) -> None:
    network = gpu_network(plan(tmp_path))
    for slot in network.slots():
        slot.submit()
    network.close()
    cuda.assert_clean()


def spans(copy_in: float, execute: float, length: float = 1.0) -> dict[str, tuple[float, float]]:
    """A batch that is copied in at one time and executed at another."""
    end = execute + length
    return {
        "copy_in": (copy_in, copy_in + 0.2),
        "preprocess": (copy_in + 0.2, copy_in + 0.4),
        "execute": (execute, end),
        "copy_out": (end, end + 0.1),
    }


def test_overlap_is_the_share_of_copies_that_run_beside_another_execution() -> None:
    hidden, bare = DeviceTimes(2), DeviceTimes(2)
    for n in range(20):
        hidden.add(spans(n - 0.8, n))  # copied in while the one before executes, out while the next does
        bare.add(spans(2 * n - 0.4, 2 * n))  # the device waits for every copy
    assert hidden.summary()["overlap_ratio"] == pytest.approx(1.0)
    assert bare.summary()["overlap_ratio"] == 0.0
    assert hidden.summary()["stages_ms"]["execute"] == pytest.approx(1000)


def test_overlap_is_unknown_before_batches_ran_beside_each_other() -> None:
    times = DeviceTimes(2)
    times.add(spans(0, 1))
    assert times.summary()["overlap_ratio"] is None


def test_merged_spans_do_not_overlap() -> None:
    assert merged([(3, 4), (0, 1), (0.5, 2), (2, 2.5)]) == [(0, 2.5), (3, 4)]
