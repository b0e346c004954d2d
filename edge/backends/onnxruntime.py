"""ONNX Runtime on the processor: the engine that runs everywhere, and the emulator of GPU engines.

`session.run` lets go of Python's lock, so a slot is executed by a thread of the engine while the caller
prepares the next picture. Where the graph's shapes are known, a slot's inputs and outputs are bound to arrays
that were allocated once (IO binding); an output whose shape depends on the data is allocated by the runtime.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.backends import EngineOptions, Span
from edge.errors import MissingPackage, RuntimeFault
from edge.types import Array, TensorSpec

if TYPE_CHECKING:
    from edge.machine import Machine

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(uint16)": "uint16",
    "tensor(int16)": "int16",
    "tensor(uint32)": "uint32",
    "tensor(int32)": "int32",
    "tensor(uint64)": "uint64",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


def load(path: Path, options: EngineOptions) -> OrtEngine:
    """Load an ONNX file for the processor.

    Raises:
        MissingPackage: onnxruntime is not installed.
        RuntimeFault: the file is missing, damaged, or holds what the runtime cannot run.
    """
    try:
        import onnxruntime
    except ImportError as e:
        raise MissingPackage(
            f"running {path.name} needs the package 'onnxruntime'", str(e), "pip install onnxruntime"
        ) from e
    return OrtEngine(open_session(onnxruntime, path, options, ["CPUExecutionProvider"]), path, options)


def unavailable(machine: Machine) -> str:
    return "" if "onnxruntime" in machine.packages else "onnxruntime not installed"


def open_session(ort: Any, path: Path, options: EngineOptions, providers: list[Any]) -> Any:
    """A session with every size known that the options give: then the optimizer folds shape arithmetic and
    buffers can be bound once.

    Raises:
        RuntimeFault: the runtime refuses the file.
    """
    session = new_session(ort, path, options, {}, providers)
    if sizes := open_dimensions(session, options):
        session = new_session(ort, path, options, sizes, providers)
    return session


def new_session(
    ort: Any,
    path: Path,
    options: EngineOptions,
    sizes: Mapping[str, int],
    providers: list[Any],
    entries: Mapping[str, str] | None = None,
) -> Any:
    """One session.

    Args:
        sizes: of named open dimensions.
        entries: further session config entries.

    Raises:
        RuntimeFault: the runtime refuses the file.
    """
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.log_severity_level = 3  # errors; they arrive as exceptions too
    if not options.spin:
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if options.exact:
        # Higher levels delete the Relu in front of an fp8 QuantizeLinear, and the Q/DQ pass builds a
        # QLinearConv that does not exist for fp8 (both measured with onnxruntime 1.31).
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        settings.add_session_config_entry("session.disable_quant_qdq", "1")
    for name, size in sizes.items():
        settings.add_free_dimension_override_by_name(name, size)
    for name, value in (entries or {}).items():
        settings.add_session_config_entry(name, value)
    try:  # enable_fallback: it would print what went wrong and open the file for the processor
        return ort.InferenceSession(str(path), settings, providers=providers, enable_fallback=0)
    except Exception as e:  # the runtime's exceptions share no base class
        raise RuntimeFault(
            f"ONNX Runtime refuses {path}", one_line(e), "build the engine again, or check the graph"
        ) from e


def open_dimensions(session: Any, options: EngineOptions) -> dict[str, int]:
    """Named open dimensions of the inputs, with the sizes that the options give them."""
    found: dict[str, int] = {}
    for tensor in session.get_inputs():
        for dim, size in zip(tensor.shape, resolve(tensor.shape, options), strict=True):
            if isinstance(dim, str) and dim and isinstance(size, int):
                found[dim] = size
    if options.batch > 1:  # batches of fewer pictures come too
        found = {dim: size for dim, size in found.items() if dim not in open_batches(session)}
    return found


def open_batches(session: Any) -> set[str]:
    """Names that open first dimensions have."""
    first = (tensor.shape[0] for tensor in session.get_inputs() if tensor.shape)
    return {dim for dim in first if isinstance(dim, str)}


def resolve(shape: list[int | str | None], options: EngineOptions) -> tuple[int | str, ...]:
    """The shape with the batch and, for pictures (N × C × H × W), height and width filled in."""
    resolved = [dim if isinstance(dim, int) else (dim or "?") for dim in shape]
    if resolved and not isinstance(resolved[0], int):
        resolved[0] = options.batch
    if len(resolved) == 4 and options.size is not None:
        for axis, size in zip((2, 3), options.size, strict=True):
            if not isinstance(resolved[axis], int):
                resolved[axis] = size
    return tuple(resolved)


class OrtEngine:
    """A session, and the threads that execute its slots."""

    def __init__(self, session: Any, path: Path, options: EngineOptions) -> None:
        self.path = path
        self.inputs = tuple(spec_of(t, resolve(t.shape, options)) for t in session.get_inputs())
        self.outputs = tuple(spec_of(t, tuple(d or "?" for d in t.shape)) for t in session.get_outputs())
        self.takes_pictures, self.allocations = False, 0
        self.wanted = options.outputs
        self._open_batch = open_batches(session)
        sizes = [spec.shape[0] for spec in self.inputs if spec.shape]
        self.batch = int(sizes[0]) if sizes and isinstance(sizes[0], int) else 1
        self._session = session
        self._streams = max(1, options.streams)
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._workers: list[threading.Thread] = []

    def slot(self) -> OrtSlot:
        """A new slot with buffers of its own.

        Raises:
            RuntimeFault: the graph leaves a size open that the options do not give.
        """
        self._alive()
        slot = OrtSlot(self)
        while len(self._workers) < self._streams:
            name = f"engine-{len(self._workers)}"
            self._workers.append(threading.Thread(target=self._work, name=name, daemon=True))
            self._workers[-1].start()
        return slot

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One inference, in the calling thread: outputs by name, freshly allocated.

        Raises:
            RuntimeFault: an input is missing, unknown, or of a wrong type or shape.
        """
        self._alive()
        expected, given = {spec.name for spec in self.inputs}, set(feeds)
        if expected != given:
            raise RuntimeFault(
                f"{self.path.name}: inputs {', '.join(sorted(given)) or 'none'}",
                f"the graph's inputs are {', '.join(sorted(expected))}",
            )
        try:
            values = self._session.run(None, dict(feeds))
        except Exception as e:
            raise RuntimeFault(f"{self.path.name}: inference failed", one_line(e)) from e
        return {spec.name: value for spec, value in zip(self.outputs, values, strict=True)}

    def close(self) -> None:
        for _ in self._workers:
            self._jobs.put(None)
        for worker in self._workers:
            worker.join()
        self._workers.clear()
        self._session = None

    def _alive(self) -> None:
        if self._session is None:
            raise RuntimeFault(f"{self.path.name}: the engine is closed")

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


class OrtSlot:
    """Input and output arrays of one batch, bound to the session once for each number of rows."""

    def __init__(self, engine: OrtEngine) -> None:
        self._engine = engine
        self.inputs: dict[str, Array] = {spec.name: _buffer(engine, spec) for spec in engine.inputs}
        self._buffers = {spec.name: self._output(spec) for spec in engine.outputs if self._is_wanted(spec)}
        self._bound: dict[int, _Binding] = {}
        self._current = self._binding(engine.batch)
        self.infer_seconds = 0.0
        self.spans: Mapping[str, Span] = {}
        self._fault: Exception | None = None
        self._busy = False
        self._finished = threading.Lock()  # held from submit until the worker is done

    def _is_wanted(self, spec: TensorSpec) -> bool:
        return self._engine.wanted is None or spec.name in self._engine.wanted

    def _output(self, spec: TensorSpec) -> Array | None:
        """An array for the largest batch; None where a size depends on the data."""
        engine = self._engine
        sizes = [engine.batch if dim in engine._open_batch else dim for dim in spec.shape]
        fixed = [dim for dim in sizes if isinstance(dim, int)]
        return np.empty(fixed, spec.dtype) if len(fixed) == len(sizes) else None

    def _binding(self, rows: int) -> _Binding:
        if rows not in self._bound:
            self._bound[rows] = _Binding(self._engine, self.inputs, self._buffers, rows)
        return self._bound[rows]

    def submit(self, rows: int | None = None) -> None:
        """Hand the batch to a thread of the engine; returns at once."""
        self._engine._alive()
        if self._busy:
            raise RuntimeFault("a slot was submitted twice", "its last batch was not waited for")
        self._current = self._binding(rows or self._engine.batch)
        self._busy = True
        self._finished.acquire()
        self._engine._jobs.put(self._execute)

    def done(self) -> bool:
        """Whether the worker has finished the batch."""
        return not self._finished.locked()

    def wait(self) -> Mapping[str, Array]:
        """Outputs by name, valid until the next `submit`.

        Raises:
            RuntimeFault: inference failed, or nothing was submitted.
        """
        if not self._busy:
            raise RuntimeFault("a slot was waited for", "nothing was submitted")
        with self._finished:
            self._busy = False
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise RuntimeFault(f"{self._engine.path.name}: inference failed", one_line(fault)) from fault
        return self._current.outputs

    def _execute(self) -> None:
        start = time.perf_counter()
        try:
            self._current.run()
        except Exception as e:  # carried to whoever waits
            self._fault = e
        finally:
            self.infer_seconds = time.perf_counter() - start
            self._finished.release()


class _Binding:
    """The arrays of a batch of `rows` pictures, bound to the session."""

    def __init__(
        self, engine: OrtEngine, inputs: Mapping[str, Array], buffers: Mapping[str, Array | None], rows: int
    ) -> None:
        self._session = engine._session
        self._binding = self._session.io_binding()
        self.outputs: dict[str, Array] = {}
        self._open: list[tuple[int, str]] = []
        """Outputs that the runtime allocates: place among what is bound, and name."""
        part = slice(rows) if rows != engine.batch else slice(None)
        for name, whole in inputs.items():
            array = whole[part]
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for index, (name, buffer) in enumerate(buffers.items()):
            if buffer is None:
                self._binding.bind_output(name, "cpu")
                self._open.append((index, name))
                continue
            array = self.outputs[name] = buffer[part]
            self._binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)
        if self._open:
            values = self._binding.get_outputs()
            for index, name in self._open:
                self.outputs[name] = values[index].numpy()


def spec_of(tensor: Any, shape: tuple[int | str, ...]) -> TensorSpec:
    if tensor.type not in _DTYPES:
        raise RuntimeFault(f"tensor '{tensor.name}' is a {tensor.type}", "slots hold plain numeric tensors")
    return TensorSpec(tensor.name, _DTYPES[tensor.type], shape)


def _buffer(engine: OrtEngine, spec: TensorSpec) -> Array:
    shape = [dim for dim in spec.shape if isinstance(dim, int)]
    if len(shape) < len(spec.shape):
        raise RuntimeFault(
            f"{engine.path.name}: input '{spec.name}' has the open shape {list(spec.shape)}",
            "a slot's buffers are allocated once",
            "give the input's height and width in the model's config",
        )
    return np.zeros(shape, spec.dtype)


def one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:400] if text else type(error).__name__
