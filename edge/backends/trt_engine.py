"""An engine of TensorRT or TensorRT-RTX: deserialized once, with an execution context for every slot.

The contexts share the engine's weights. What a slot does in which order is in `edge.cuda.slot`.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  # gives NumPy the names bfloat16 and float8_e4m3fn

from edge.backends import EngineOptions
from edge.backends.trt_api import Capabilities
from edge.backends.trt_log import Notes
from edge.backends.trt_profile import LayerTimes
from edge.cuda import cache
from edge.cuda.device import Device, Stream
from edge.cuda.engine import DeviceEngine
from edge.errors import OutOfDeviceMemory, RuntimeFault
from edge.types import TensorSpec

log = logging.getLogger(__name__)

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "FP8": "float8_e4m3fn",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
"""tensorrt.DataType → NumPy (with ml_dtypes)."""


class TensorRTEngine(DeviceEngine):
    """A deserialized engine; its batch is what the options ask for, within the engine's profile."""

    def __init__(
        self,
        trt: Any,
        caps: Capabilities,
        device: Device,
        content: bytes,
        path: Path,
        options: EngineOptions,
    ) -> None:
        super().__init__(device, path, options)
        self.trt, self.caps = trt, caps
        self._notes = Notes(trt)
        self.engine: Any = None
        self._runtime: Any = None
        self._contexts = _Contexts(self)
        self.layer_times = LayerTimes(trt) if options.profile else None
        try:
            self._load(content)
        except BaseException:  # its traceback holds this object until after the device's context is gone
            self._drop()
            raise

    def _load(self, content: bytes) -> None:
        if self.caps.plugins:
            self.trt.init_libnvinfer_plugins(self._notes.logger, "")
        what = f"{self.caps.product} {self.trt.__version__}"
        self._runtime = self._notes.started(self.trt.Runtime, what)
        self._check_room(len(content))
        self.engine = self._runtime.deserialize_cuda_engine(content)
        if self.engine is None:
            raise self.refused(f"{self.caps.product} refuses {self.path}")
        self._contexts.configure(hashlib.sha256(content).hexdigest())
        self._describe()

    def _executor(self) -> _Executor:
        return _Executor(self, self._contexts.make())

    def _release(self) -> None:
        self._contexts.keep()
        self._drop()

    def _drop(self) -> None:
        """End TensorRT's objects, which may not outlive the device's context."""
        self._contexts.drop()
        self.engine = self._runtime = None

    def profile(self, name: str) -> tuple[tuple[int, ...], ...]:
        """Smallest, usual and largest shape of an input."""
        return tuple(tuple(shape) for shape in self.engine.get_tensor_profile_shape(name, 0))

    def refused(self, what: str) -> RuntimeFault:
        return RuntimeFault(
            what,
            self._notes.reason("it gave no reason"),
            "build it again here: build_engines.py --targets local; `edge doctor` shows driver and versions",
        )

    def _describe(self) -> None:
        """Read the engine's tensors.

        Raises:
            RuntimeFault: a tensor has a type that slots cannot hold, or the profile is too small.
        """
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        specs = [self._spec(name) for name in names]
        inputs = tuple(s for s in specs if self._is_input(s.name))
        outputs = tuple(s for s in specs if not self._is_input(s.name))
        self._ready(inputs, outputs, self._largest_batch(inputs[0], self.options.batch))

    def _check_room(self, nbytes: int) -> None:
        """An engine needs at least its own size for its weights.

        Raises:
            OutOfDeviceMemory: less is free.
        """
        free = self.device.room()
        if nbytes > free:
            raise OutOfDeviceMemory(
                f"{self.path.name} does not fit on {self.device.name}",
                f"it is {nbytes >> 20} MiB, {free >> 20} of {self.device.total_memory >> 20} MiB are free",
                "end other programs on this GPU (nvidia-smi)",
            )

    def _is_input(self, name: str) -> bool:
        return bool(self.engine.get_tensor_mode(name) == self.trt.TensorIOMode.INPUT)

    def _spec(self, name: str) -> TensorSpec:
        kind = self.engine.get_tensor_dtype(name).name
        if kind not in _DTYPES:
            raise RuntimeFault(f"{self.path.name}: tensor '{name}' is {kind}", "slots hold plain tensors")
        shape = enumerate(self.engine.get_tensor_shape(name))
        return TensorSpec(
            name, _DTYPES[kind], tuple(d if d >= 0 else _DIMS.get(axis, "?") for axis, d in shape)
        )

    def _largest_batch(self, first: TensorSpec, wanted: int) -> int:
        """A fixed batch is what it is; an open one goes up to the profile's largest.

        Raises:
            RuntimeFault: more is wanted than the profile has.
        """
        if not first.shape or isinstance(first.shape[0], int):
            return first.shape[0] if first.shape and isinstance(first.shape[0], int) else 1
        largest = self.profile(first.name)[2][0]
        if wanted > largest:
            raise RuntimeFault(
                f"{self.path.name}: a batch of {wanted}",
                f"the engine's profile goes up to {largest}",
                "build it with a larger [profile] batch",
            )
        return wanted


_DIMS = {0: "batch", 2: "height", 3: "width"}
"""What open dimensions of a picture tensor (N × C × H × W) are called."""


class _Contexts:
    """Makes the execution contexts of an engine; on TensorRT-RTX with a cache of the kernels it compiled."""

    def __init__(self, owner: TensorRTEngine) -> None:
        self._owner = owner
        self._config: Any = None
        self._cache: Any = None

    def configure(self, digest: str) -> None:
        """Once the engine is there.

        Args:
            digest: of the engine file.
        """
        owner = self._owner
        if not owner.caps.runtime_cache:
            return
        trt = owner.trt
        self._config = owner.engine.create_runtime_config()
        if owner.options.graphs and owner.caps.cuda_graph_strategy:
            self._config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        if owner.caps.kernel_strategy:  # else kernels change under a run that goes on, and under its timing
            eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            self._config.dynamic_shapes_kernel_specialization_strategy = eager
        self._cache = self._config.create_runtime_cache()
        major, minor = owner.device.compute_capability
        self._name = f"runtime/{digest[:16]}-{major}{minor}"  # the cache itself knows versions and driver
        self._kept = cache.read_sealed(self._name)  # a damaged one never reaches TensorRT
        if self._kept and not self._cache.deserialize(self._kept):
            log.info("the runtime cache %s was not usable", self._name)
        self._config.set_runtime_cache(self._cache)

    def make(self) -> Any:
        """A context of its own for one slot.

        Raises:
            OutOfDeviceMemory: it does not fit beside what runs already.
        """
        owner = self._owner
        args = () if self._config is None else (self._config,)
        context = owner.engine.create_execution_context(*args)
        if context is not None and owner.layer_times is not None:
            owner.layer_times.attach(context)
        if context is None:
            need, free = self._memory(), owner.device.room()
            if need > free:
                raise OutOfDeviceMemory(
                    f"{owner.path.name}: no room for another slot on {owner.device.name}",
                    f"it needs {need >> 20} MiB, {free >> 20} MiB are free",
                    "end other programs on this GPU (nvidia-smi), or use fewer slots: --slots",
                )
            raise owner.refused(f"{owner.path.name}: no execution context")
        return context

    def keep(self) -> None:
        """Save what was compiled while it ran, for the next start."""
        if self._cache is not None and not self._owner.device.lost:
            content = bytes(self._cache.serialize())
            if content and content != self._kept:
                cache.write_sealed(self._name, content)

    def drop(self) -> None:
        self._config = self._cache = None

    def _memory(self) -> int:
        return int(self._owner.engine.device_memory_size_v2)


class _Executor:
    """One execution context, bound to one slot's addresses."""

    def __init__(self, owner: TensorRTEngine, context: Any) -> None:
        self._owner, self._context = owner, context
        self.capturable = owner.options.graphs and not owner.caps.cuda_graph_strategy

    def resize(self, rows: int) -> None:
        for spec in self._owner.inputs:
            shape = self._shape(spec, rows)
            if shape is not None and not self._context.set_input_shape(spec.name, shape):
                low, _, high = self._owner.profile(spec.name)
                raise RuntimeFault(
                    f"{self._owner.path.name}: input '{spec.name}' of shape {list(shape)}",
                    f"the engine's profile goes from {list(low)} to {list(high)}",
                    "build it with a wider [profile], or give a size within it",
                )

    def tensors(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        return self._resolved(self._owner.inputs), self._resolved(self._owner.outputs)

    def bind(self, name: str, address: int) -> None:
        if not self._context.set_tensor_address(name, address):
            raise self._owner.refused(f"{self._owner.path.name}: tensor '{name}' cannot be bound")

    def enqueue(self, stream: Stream) -> None:
        if not self._context.execute_async_v3(stream.handle):
            raise self._owner.refused(f"{self._owner.path.name}: execution failed")

    def free(self) -> None:
        self._context = None

    def _shape(self, spec: TensorSpec, rows: int) -> tuple[int, ...] | None:
        """The shape with open dimensions filled in; None if it has none."""
        if all(isinstance(d, int) for d in spec.shape):
            return None
        size = self._owner.options.size or (0, 0)
        sizes = {"batch": rows, "height": size[0], "width": size[1]}
        return tuple(d if isinstance(d, int) else sizes.get(d, 1) for d in spec.shape)

    def _resolved(self, specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        found = []
        for spec in specs:
            shape = tuple(self._context.get_tensor_shape(spec.name))
            if any(d < 0 for d in shape):
                raise RuntimeFault(
                    f"{self._owner.path.name}: the size of output '{spec.name}' depends on the data",
                    "slots have buffers of a fixed size",
                    "export the model without NMS, NonZero or Compress in the graph",
                )
            found.append(TensorSpec(spec.name, spec.dtype, shape))
        return tuple(found)
