"""ONNX Runtime's CUDA provider: a GPU runtime for machines without TensorRT, through the same slots.

One session serves all slots. It computes on a stream of ours (`user_compute_stream`), reads and writes our
device buffers by IO binding, and is told not to wait for the device, so that the slots overlap as they do
with TensorRT; only the executions themselves run one after the other.
"""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.backends import EngineOptions, engine_file
from edge.backends.onnxruntime import (
    new_session,
    one_line,
    open_batches,
    open_dimensions,
    resolve,
    spec_of,
)
from edge.cuda.device import URGENT, Device, Event, Stream, open_device
from edge.cuda.engine import DeviceEngine
from edge.errors import MissingPackage, RuntimeFault
from edge.types import TensorSpec

if TYPE_CHECKING:
    from edge.machine import Machine

log = logging.getLogger(__name__)

PROVIDER = "CUDAExecutionProvider"
_GPU_ALONE = {"session.disable_cpu_ep_fallback": "1"}
"""A session refuses nodes that its providers cannot run, instead of giving them to the processor."""


def load(path: Path, options: EngineOptions) -> OrtCudaEngine:
    """Load an ONNX file for the GPU.

    Raises:
        MissingPackage: onnxruntime-gpu or PyCUDA is not installed.
        InputError: the file cannot be read.
        StoreError: it is not what `options.expected` says.
        RuntimeFault: no driver or GPU, or the runtime refuses the file.
    """
    ort = _runtime()
    if not path.suffix == ".onnx":
        raise RuntimeFault(
            f"ONNX Runtime cannot run {path}", "it is no ONNX file", "use --target cpu with this backend"
        )
    engine_file.read(path, options.expected)
    device = open_device(options.gpu or 0)
    try:
        return OrtCudaEngine(ort, device, path, options)
    except BaseException:
        device.close()
        raise


def unavailable(machine: Machine) -> str:
    if not machine.gpus:
        return "no NVIDIA GPU"
    return "" if "pycuda" in machine.packages else "pycuda not installed"


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as e:
        raise MissingPackage(
            "the package 'onnxruntime-gpu' is needed", str(e), "pip install 'onnxruntime-gpu[cuda,cudnn]'"
        ) from e
    if PROVIDER not in onnxruntime.get_available_providers():
        raise MissingPackage(
            "this ONNX Runtime has no CUDA provider",
            f"it has {', '.join(onnxruntime.get_available_providers())}",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'onnxruntime-gpu[cuda,cudnn]'",
        )
    return onnxruntime


def _preload(ort: Any) -> str:
    """Load CUDA and cuDNN where pip has put them (onnxruntime-gpu[cuda,cudnn]), since 1.21; what it said."""
    preload = getattr(ort, "preload_dlls", None)
    said = io.StringIO()
    if preload is not None:
        try:
            with contextlib.redirect_stdout(said):
                preload()
        except Exception as e:  # whether it matters is for the session to say
            said.write(one_line(e))
    return " ".join(said.getvalue().split())


def _open(ort: Any, path: Path, options: EngineOptions, provider: tuple[str, dict[str, Any]]) -> Any:
    """A session that runs on the GPU alone if it can; where it cannot, that is said.

    Raises:
        RuntimeFault: the runtime refuses the file, or its CUDA provider does not start.
    """
    said = _preload(ort)
    both = [provider, "CPUExecutionProvider"]
    session = new_session(ort, path, options, {}, both)
    if PROVIDER not in session.get_providers():
        raise RuntimeFault(
            f"{path.name}: the CUDA provider did not start",
            said or "ONNX Runtime fell back to the processor",
            "pip install 'onnxruntime-gpu[cuda,cudnn]', or install the CUDA and cuDNN that it names",
        )
    sizes = open_dimensions(session, options)
    del session  # it holds a copy of the weights on the GPU
    try:
        return new_session(ort, path, options, sizes, [provider], _GPU_ALONE)
    except RuntimeFault as e:
        session = new_session(ort, path, options, sizes, both)
        log.warning("%s: parts of it run on the processor, and the GPU waits for them: %s", path.name, e.why)
        return session


class OrtCudaEngine(DeviceEngine):
    """A session on one GPU, and the stream that all slots compute on."""

    def __init__(self, ort: Any, device: Device, path: Path, options: EngineOptions) -> None:
        super().__init__(device, path, options)
        self.compute = device.stream(URGENT)
        settings = {
            "device_id": device.index,
            "user_compute_stream": str(self.compute.handle),
            "do_copy_in_default_stream": "1",
        }
        self.session: Any = _open(ort, path, options, (PROVIDER, settings))
        self.run_options = ort.RunOptions()
        self.run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        inputs = tuple(spec_of(t, resolve(t.shape, options)) for t in self.session.get_inputs())
        sizes = [spec.shape[0] for spec in inputs if spec.shape]
        batch = int(sizes[0]) if sizes else 1
        batches = open_batches(self.session)
        self.open_batch = bool(batches)
        outputs = tuple(
            spec_of(t, tuple(batch if d in batches else d or "?" for d in t.shape))
            for t in self.session.get_outputs()
        )
        self._ready(inputs, outputs, batch)

    def _executor(self) -> _Executor:
        return _Executor(self)

    def _release(self) -> None:
        self.session = None
        self.compute.free()


class _Executor:
    """The session, bound to one slot's addresses."""

    capturable = False
    """Its host code decides what runs from call to call."""

    def __init__(self, owner: OrtCudaEngine) -> None:
        self._owner = owner
        self._ready: Event = owner.device.event()
        self._done: Event = owner.device.event()
        self._addresses: dict[str, int] = {}
        self._rows = 0
        self._bindings: dict[int, Any] = {}

    def resize(self, rows: int) -> None:
        if rows != self._owner.batch and not self._owner.open_batch:
            raise RuntimeFault(
                f"{self._owner.path.name}: a batch of {rows}", f"the graph is for {self._owner.batch}"
            )
        self._rows = rows

    def tensors(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        for spec in self._owner.outputs:
            if not all(isinstance(size, int) for size in spec.shape):
                raise RuntimeFault(
                    f"{self._owner.path.name}: output '{spec.name}' has the open shape {list(spec.shape)}",
                    "slots have buffers of a fixed size",
                    "give the input's size in the model's config; export the model without NMS in the graph",
                )
        return self._owner.inputs, self._owner.outputs

    def bind(self, name: str, address: int) -> None:
        self._addresses[name] = address

    def enqueue(self, stream: Stream) -> None:
        """The session's stream works between two events of the slot's, also where the session gives up
        half-way: it may have enqueued kernels by then, and the slot waits for its own streams alone."""
        binding = self._bindings.get(self._rows) or self._bound()
        compute = self._owner.compute
        self._ready.record(stream)
        compute.wait(self._ready)
        try:
            self._owner.session.run_with_iobinding(binding, self._owner.run_options)
        except Exception as e:  # the runtime's exceptions share no base class
            raise RuntimeFault(f"{self._owner.path.name}: inference failed", one_line(e)) from e
        finally:
            self._done.record(compute)
            stream.wait(self._done)

    def free(self) -> None:
        self._bindings.clear()
        self._ready.free()
        self._done.free()

    def _bound(self) -> Any:
        owner = self._owner
        binding = self._bindings[self._rows] = owner.session.io_binding()
        for specs, bind in ((owner.inputs, binding.bind_input), (owner.outputs, binding.bind_output)):
            for spec in specs:
                shape = (self._rows, *spec.shape[1:])
                bind(spec.name, "cuda", owner.device.index, spec.dtype, shape, self._addresses[spec.name])
        return binding
