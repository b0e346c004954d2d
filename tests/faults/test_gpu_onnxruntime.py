"""ONNX Runtime's CUDA provider: what it does in silence is said, what it leaves in flight is waited for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes.cuda import FakeCuda
from fakes.ort import FakeOnnxRuntime
from gpus import install
from streaming import heatmap_graph

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
