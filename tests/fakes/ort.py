"""ONNX Runtime with a CUDA provider: the real one reads the graph, the simulated device runs it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime

from fakes.queues import Work
from fakes.trt_graph import graph

if TYPE_CHECKING:
    from fakes.cuda import FakeCuda

PROVIDER = "CUDAExecutionProvider"
_NO_FALLBACK = "session.disable_cpu_ep_fallback"


class FakeOnnxRuntime:
    """Stands for the module `onnxruntime` of the package onnxruntime-gpu.

    Args:
        starts: False: the provider is listed but does not start, as without cuDNN; the runtime falls back to
            the processor then, with a warning only.
        complete: False: the provider has no kernel for some node of any graph.

    Attributes:
        preloaded: how often CUDA and cuDNN were looked for in Python's packages.
        fails_half_way: let the next execution raise after its kernels were enqueued.
    """

    def __init__(self, cuda: FakeCuda, starts: bool = True, complete: bool = True) -> None:
        self.cuda, self.starts, self.complete = cuda, starts, complete
        self.preloaded = 0
        self.fails_half_way = False

    def __getattr__(self, name: str) -> Any:
        return getattr(onnxruntime, name)

    def get_available_providers(self) -> list[str]:
        return [PROVIDER, "CPUExecutionProvider"]

    def preload_dlls(self) -> None:
        self.preloaded += 1
        if not self.starts:
            print("Failed to load libcudnn.so.9: cannot open shared object file")

    def InferenceSession(
        self, path: str, settings: Any, providers: Sequence[Any], enable_fallback: int = 1
    ) -> Session:
        assert self.preloaded, "libraries have to be there before the provider starts"
        assert not enable_fallback, "it would open the file for the processor in silence"
        if _refuses_processor(settings):
            if "CPUExecutionProvider" in providers:
                raise RuntimeError("Conflicting session configuration: explicitly added the CPU EP")
            if not (self.complete and self.starts):
                raise RuntimeError(
                    "This session contains graph nodes that are assigned to the default CPU EP, but fallback "
                    "to CPU EP has been explicitly disabled by the user."
                )
        return Session(self, path, settings, dict(providers[0][1]))

    def install(self, monkeypatch: Any) -> None:
        monkeypatch.setattr("edge.backends.onnxruntime_cuda._runtime", lambda: self)


def _refuses_processor(settings: Any) -> bool:
    """Whether the option is set; it is taken away, since the session below runs on the processor."""
    try:
        value: str = settings.get_session_config_entry(_NO_FALLBACK)
    except RuntimeError:  # not set
        return False
    settings.add_session_config_entry(_NO_FALLBACK, "0")
    return value == "1"


class Session:
    def __init__(
        self, module: FakeOnnxRuntime, path: str, settings: Any, cuda_options: dict[str, Any]
    ) -> None:
        self.module = module
        self._real = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        self._graph = graph(Path(path).read_bytes())
        self._stream = int(cuda_options["user_compute_stream"])
        self.get_inputs, self.get_outputs = self._real.get_inputs, self._real.get_outputs

    def get_providers(self) -> list[str]:
        return self.module.get_available_providers() if self.module.starts else ["CPUExecutionProvider"]

    def io_binding(self) -> Binding:
        return Binding()

    def run_with_iobinding(self, binding: Binding, run_options: Any) -> None:
        assert run_options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        cuda, found = self.module.cuda, self._graph
        shapes = {**binding.shapes}
        spans = {
            t.name: (binding.addresses[t.name], t.nbytes(shapes[t.name]))
            for t in (*found.inputs, *found.outputs)
        }
        run = functools.partial(
            found.session.run_with_iobinding, found.binding(dict(binding.addresses), shapes)
        )
        cuda.call("cuLaunchKernel")
        reads, writes = (tuple(spans[t.name] for t in side) for side in (found.inputs, found.outputs))
        cuda.submit(cuda.queue(self._stream, "cuLaunchKernel"), Work("execute", reads, writes, run, ()))
        if self.module.fails_half_way:
            self.module.fails_half_way = False
            raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned")


class Binding:
    """Where each tensor is."""

    def __init__(self) -> None:
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def bind_input(
        self, name: str, device_type: str, device_id: int, element_type: Any, shape: Any, buffer_ptr: int
    ) -> None:
        assert device_type == "cuda"
        self.addresses[name], self.shapes[name] = buffer_ptr, tuple(shape)

    bind_output = bind_input
