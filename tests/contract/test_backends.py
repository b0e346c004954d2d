"""What every backend promises, for each one in the table."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes.cuda import FakeCuda
from fakes.ort import FakeOnnxRuntime
from gpus import install, plan
from streaming import SIZE, heatmap_graph, log_graph

from edge.backends import BACKENDS, Engine, EngineOptions, backend
from edge.errors import EdgeError, RuntimeFault, UsageError
from edge.machine import Machine, detect

GPU = ("tensorrt", "tensorrt_rtx", "onnxruntime_cuda")
"""These run on a simulated device here, and on a real one in tests/gpu."""


@pytest.fixture(params=BACKENDS)
def engine(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Engine]:
    name = request.param
    if name not in GPU:
        path = Path("null:") if name == "null" else heatmap_graph(tmp_path / "tiny.onnx")
        engine = backend(name).load(path, EngineOptions(threads=1))
        yield engine
        engine.close()
        return
    with FakeCuda(seed=3) as cuda:
        rtx = name == "tensorrt_rtx"
        install(monkeypatch, cuda, tmp_path, "1.7.1.116" if rtx else "10.3.0", rtx)
        FakeOnnxRuntime(cuda).install(monkeypatch)
        path = plan(tmp_path, version="1.7.1.116" if rtx else "10.3.0", rtx=rtx)
        engine = backend(name).load(
            path if name != "onnxruntime_cuda" else tmp_path / "tiny.onnx", EngineOptions()
        )
        yield engine
        engine.close()
        cuda.assert_clean()


def fill(inputs: object, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.random(array.shape, np.float32) for name, array in inputs.items()}  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_says_whether_it_can_run_here(name: str) -> None:
    bare, full = Machine("none", "x86_64"), detect()
    assert bool(backend(name).unavailable(bare)) == (name != "null")
    assert isinstance(backend(name).unavailable(full), str)


def test_an_unknown_backend_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'onnxruntime'"):
        backend("onnxruntme")


def test_a_slot_gives_what_run_gives(engine: Engine) -> None:
    slot = engine.slot()
    for seed in range(3):
        feeds = fill(slot.inputs, seed)
        for name, value in feeds.items():
            slot.inputs[name][...] = value
        slot.submit()
        outputs = slot.wait()
        expected = engine.run(feeds)
        assert set(outputs) == set(expected) == {spec.name for spec in engine.outputs}
        for name, value in expected.items():
            np.testing.assert_array_equal(outputs[name], value)


def test_buffers_are_allocated_once_and_belong_to_one_slot(engine: Engine) -> None:
    first, second = engine.slot(), engine.slot()
    arrays = {name: id(array) for name, array in first.inputs.items()}
    for _ in range(2):
        first.submit()
        first.wait()
    assert {name: id(array) for name, array in first.inputs.items()} == arrays
    for name, array in first.inputs.items():
        assert not np.shares_memory(array, second.inputs[name])


def test_two_slots_in_flight_do_not_mix(engine: Engine) -> None:
    slots = [engine.slot(), engine.slot()]
    feeds = [fill(slot.inputs, seed) for seed, slot in enumerate(slots)]
    for slot, values in zip(slots, feeds, strict=True):
        for name, value in values.items():
            slot.inputs[name][...] = value
        slot.submit()
    for slot, values in zip(slots, feeds, strict=True):
        for name, value in slot.wait().items():
            np.testing.assert_array_equal(value, engine.run(values)[name])


def test_infer_seconds_is_a_part_of_the_time_that_passed(engine: Engine) -> None:
    slot = engine.slot()
    start = time.perf_counter()
    slot.submit()
    slot.wait()
    assert 0 <= slot.infer_seconds <= time.perf_counter() - start


def test_a_slot_is_submitted_once_and_waited_for_once(engine: Engine) -> None:
    slot = engine.slot()
    with pytest.raises(RuntimeFault, match="nothing was submitted"):
        slot.wait()
    slot.submit()
    with pytest.raises(RuntimeFault, match="submitted twice"):
        slot.submit()
    slot.wait()


def test_closing_twice_does_nothing(engine: Engine) -> None:
    engine.close()
    engine.close()


def test_inputs_the_engine_has_not_are_refused(engine: Engine) -> None:
    with pytest.raises(RuntimeFault):
        engine.run({"nonsense": np.zeros(3, np.float32)})


@pytest.mark.parametrize("name", ["onnxruntime"])
@pytest.mark.parametrize(
    "content", [b"", b"not an onnx", bytes(range(256)) * 8], ids=["empty", "text", "noise"]
)
def test_a_file_that_is_no_engine_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "engine"
    path.write_bytes(content)
    with pytest.raises(EdgeError, match="refuses"):
        backend(name).load(path, EngineOptions())


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFault, match="absent"):
        backend("onnxruntime").load(tmp_path / "absent.onnx", EngineOptions())


def test_a_batch_of_the_wrong_size_is_refused_with_the_sizes(tmp_path: Path) -> None:
    engine = backend("onnxruntime").load(heatmap_graph(tmp_path / "tiny.onnx"), EngineOptions(threads=1))
    with pytest.raises(RuntimeFault, match="Got: 2 Expected: 1"):
        engine.run({"image": np.zeros((2, 3, SIZE, SIZE), np.float32)})
    engine.close()


def test_an_open_input_without_a_size_is_an_error_not_a_guess(tmp_path: Path) -> None:
    engine = backend("onnxruntime").load(
        heatmap_graph(tmp_path / "o.onnx", "h", "w"), EngineOptions(threads=1)
    )
    with pytest.raises(RuntimeFault, match="open shape"):
        engine.slot()
    engine.close()


def test_a_closed_engine_refuses_work(tmp_path: Path) -> None:
    engine = backend("onnxruntime").load(heatmap_graph(tmp_path / "tiny.onnx"), EngineOptions(threads=1))
    engine.close()
    with pytest.raises(RuntimeFault, match="closed"):
        engine.slot()


def test_exact_gives_the_numbers_of_the_unoptimized_graph(tmp_path: Path) -> None:
    import onnxruntime as ort

    graph = log_graph(tmp_path / "log.onnx")
    image = np.random.default_rng(1).random((1, 3, SIZE, SIZE), np.float32)
    plain = ort.SessionOptions()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    expected = ort.InferenceSession(str(graph), plain, providers=["CPUExecutionProvider"]).run(
        None, {"image": image}
    )
    engine = backend("onnxruntime").load(graph, EngineOptions(threads=1, exact=True))
    np.testing.assert_array_equal(engine.run({"image": image})["heatmap"], expected[0])
    engine.close()


def test_null_fails_and_waits_as_told() -> None:
    engine = backend("null").load(Path("null:delay_ms=2&fail_every=2"), EngineOptions())
    slot, fates = engine.slot(), []
    for _ in range(4):
        start = time.perf_counter()
        slot.submit()
        try:
            slot.wait()
            fates.append("fine")
        except RuntimeFault:
            fates.append("failed")
        assert time.perf_counter() - start >= 2e-3
    assert fates == ["fine", "failed"] * 2


def test_null_names_the_nearest_setting() -> None:
    with pytest.raises(UsageError, match="did you mean 'delay_ms'"):
        backend("null").load(Path("null:delay=2"), EngineOptions())
