"""ONNX Runtime's CUDA provider: what it does in silence is said, what it leaves in flight is waited for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes.cuda import FakeCuda
from fakes.ort import FakeOnnxRuntime
from gpus import install
from streaming import SIZE, heatmap_graph

from edge.backends import EngineOptions, backend
from edge.backends.onnxruntime_cuda import OrtCudaEngine
from edge.errors import RuntimeFault


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    with FakeCuda(seed=1) as device:
        yield device


@pytest.fixture
def ort(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda) -> FakeOnnxRuntime:
    install(monkeypatch, cuda, tmp_path)
    module = FakeOnnxRuntime(cuda)
    module.install(monkeypatch)
    return module


def load(folder: Path) -> OrtCudaEngine:
    engine = backend("onnxruntime_cuda").load(heatmap_graph(folder / "tiny.onnx"), EngineOptions())
    assert isinstance(engine, OrtCudaEngine)
    return engine


@pytest.mark.parametrize("last", ["the next batch", "freed"])
def test_kernels_of_an_execution_that_gave_up_half_way_are_waited_for(
    tmp_path: Path, cuda: FakeCuda, ort: FakeOnnxRuntime, last: str
) -> None:
    """ONNX Runtime enqueues node by node on a stream of the engine's: the slot's own streams know nothing."""
    engine = load(tmp_path)
    slot = engine.slot()
    ort.fails_half_way = True
    with pytest.raises(RuntimeFault, match="inference failed"):
        slot.submit()
    if last == "the next batch":
        slot.inputs["image"][...] = 0.5
        slot.submit()
        assert np.isfinite(slot.wait()["heatmap"]).all()
    else:
        slot.free()
    engine.close()
    cuda.assert_clean()


def test_a_graph_that_the_gpu_runs_alone_is_opened_without_a_word(
    tmp_path: Path, cuda: FakeCuda, ort: FakeOnnxRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    load(tmp_path).close()
    assert not caplog.records
    cuda.assert_clean()


def test_nodes_that_run_on_the_processor_are_told(
    tmp_path: Path, cuda: FakeCuda, ort: FakeOnnxRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    ort.complete = False
    engine = load(tmp_path)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "tiny.onnx: parts of it run on the processor" in record.getMessage()
    assert "assigned to the default CPU EP" in record.getMessage()
    image = np.zeros((1, 3, SIZE, SIZE), np.float32)
    assert np.isfinite(engine.run({"image": image})["heatmap"]).all()
    engine.close()
    cuda.assert_clean()


def test_open_sizes_are_known_before_the_processor_is_refused(
    tmp_path: Path, cuda: FakeCuda, ort: FakeOnnxRuntime
) -> None:
    """Shape arithmetic runs on the processor unless the optimizer can fold it."""
    graph = heatmap_graph(tmp_path / "tiny.onnx", "h", "w", "n")
    engine = backend("onnxruntime_cuda").load(graph, EngineOptions(size=(SIZE, 2 * SIZE)))
    assert engine.inputs[0].shape == (1, 3, SIZE, 2 * SIZE)
    engine.close()
    cuda.assert_clean()


def test_libraries_that_pip_brought_are_loaded_and_missing_ones_are_named(
    tmp_path: Path, cuda: FakeCuda, ort: FakeOnnxRuntime, capsys: pytest.CaptureFixture[str]
) -> None:
    ort.starts = False
    with pytest.raises(RuntimeFault, match=r"did not start: Failed to load libcudnn\.so\.9") as caught:
        load(tmp_path)
    assert "onnxruntime-gpu[cuda,cudnn]" in caught.value.fix
    assert capsys.readouterr().out == "", "results may go there"
    cuda.assert_clean()


def test_an_onnx_runtime_without_preloading_is_used_as_it_is(
    tmp_path: Path, cuda: FakeCuda, ort: FakeOnnxRuntime
) -> None:
    """It came with 1.21."""
    ort.preloaded, ort.preload_dlls = 1, None  # type: ignore[method-assign, assignment]
    load(tmp_path).close()
    cuda.assert_clean()
