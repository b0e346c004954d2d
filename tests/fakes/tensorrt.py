"""The modules `tensorrt` and `tensorrt_rtx` on the simulated device: loading and running engines.

An engine runs its graph with ONNX Runtime, as one operation of the stream it is given, on device memory.
"""

from __future__ import annotations

import functools
import json
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fakes import trt_builder, trt_types
from fakes.errors import Error
from fakes.memory import Resource
from fakes.queues import Queue, Work
from fakes.trt_builder import Builder, OnnxParser
from fakes.trt_graph import Graph, Shape, Tensor, graph
from fakes.trt_types import DataType, Dims, IHostMemory, Plan, Severity, Shapes, TensorIOMode, read_plan

if TYPE_CHECKING:
    from fakes.cuda import FakeCuda

CONTEXT_BYTES = 1 << 16
"""Device memory that an execution context takes."""
LAYER_MS = {"Conv": 1.0, "Gemm": 1.0, "MatMul": 1.0}
"""What a profiler is told of layers; of all others a hundredth."""
_ALIGNMENT = 256
"""Of tensor addresses: NvInferRuntime.h, IExecutionContext::setTensorAddress."""


def fake_plan(
    model: Path | bytes,
    capability: tuple[int, int] = (9, 0),
    version: str = "10.3.0",
    rtx: bool = False,
    profile: Mapping[str, Shapes] | None = None,
) -> bytes:
    """An engine file of this graph, as if it had been compiled.

    Args:
        profile: shapes of inputs that leave sizes open; without it batches of 1 to 4, pictures of 8 to 1024.
    """
    content = model if isinstance(model, bytes) else Path(model).read_bytes()
    product = "tensorrt_rtx" if rtx else "tensorrt"
    shapes = {tensor.name: _default_shapes(tensor) for tensor in graph(content).inputs} | dict(profile or {})
    return Plan(content, product, version, (capability,), shapes).serialize()


def _default_shapes(tensor: Tensor) -> Shapes:
    def filled(batch: int, size: int) -> Shape:
        return tuple(
            dim if dim >= 0 else (batch if axis == 0 else size) for axis, dim in enumerate(tensor.shape)
        )

    return filled(1, 8), filled(1, 32), filled(4, 1024)


class FakeTensorRT:
    """The module.

    Args:
        rtx: TensorRT-RTX instead of TensorRT.
    """

    Logger, ILogger, IProgressMonitor = trt_types.Logger, trt_types.ILogger, trt_types.IProgressMonitor
    IProfiler = trt_types.IProfiler
    DataType, Dims, TensorIOMode, nptype = DataType, Dims, TensorIOMode, staticmethod(trt_types.nptype)
    MemoryPoolType, ProfilingVerbosity = trt_types.MemoryPoolType, trt_types.ProfilingVerbosity
    LayerInformationFormat, ErrorCode = trt_types.LayerInformationFormat, trt_types.ErrorCode
    NetworkDefinitionCreationFlag = trt_types.NetworkDefinitionCreationFlag
    OnnxParser, ParserError = OnnxParser, trt_builder.ParserError
    INetworkDefinition, ILayer = trt_builder.INetworkDefinition, trt_builder.ILayer
    ITensor, LayerType = trt_builder.ITensor, trt_builder.LayerType
    IBuilderConfig, IOptimizationProfile = trt_builder.IBuilderConfig, trt_builder.IOptimizationProfile

    def __init__(self, cuda: FakeCuda, version: str = "", rtx: bool = False) -> None:
        self.cuda, self.rtx = cuda, rtx
        self.__version__ = version or ("1.7.1.116" if rtx else "10.3.0")
        self.__name__ = "tensorrt_rtx" if rtx else "tensorrt"
        self.objects: weakref.WeakSet[Any] = weakref.WeakSet()
        """What lives in the device's context, and may not outlive it."""
        self.built_for = 12
        """The CUDA whose drivers it needs."""
        self._logger: Callable[[], Any] = lambda: None
        self.plugin_logger: Callable[[], Any] = lambda: None
        """What the plugin library logs to: it points there, and keeps nothing alive."""
        self.Builder = _of(self, Builder)
        self.Runtime: Any = _of(self, RtxRuntime if rtx else Runtime)
        self.ICudaEngine = RtxEngine if rtx else ICudaEngine
        self.IExecutionContext, self.EngineInspector = IExecutionContext, EngineInspector
        if rtx:
            self.IRuntimeConfig, self.IRuntimeCache = IRuntimeConfig, IRuntimeCache
            self.EngineValidity = trt_types.EngineValidity
            if [int(number) for number in self.__version__.split(".")[:2]] >= [1, 2]:
                self.CudaGraphStrategy = trt_types.CudaGraphStrategy
                strategies = trt_types.DynamicShapesKernelSpecializationStrategy
                self.DynamicShapesKernelSpecializationStrategy = strategies
            self.ComputeCapability = trt_types.ComputeCapability
        else:
            self.ITimingCache = trt_builder.ITimingCache
            self.init_libnvinfer_plugins = self._init_plugins

    def install(self, monkeypatch: Any) -> None:
        """`import tensorrt` (or `tensorrt_rtx`) gives this module from now on."""
        monkeypatch.setitem(sys.modules, self.__name__, self)

    def registered(self, logger: Any) -> Any:
        """The logger that is used: as long as there is one, others are ignored."""
        if self._logger() is None:
            self._logger = weakref.ref(logger)
        return self._logger()

    def start(self, logger: Any) -> Any:
        """The logger to use.

        Raises:
            TypeError: pybind11's, because CUDA does not start.
        """
        logger = self.registered(logger)
        if self.cuda.driver_version < 1000 * self.built_for:
            link = "http://docs.nvidia.com/cuda/cuda-installation-guide-linux/index.html"
            text = f"CUDA initialization failure with error: 35. Please check your CUDA installation: {link}"
            logger.log(Severity.WARNING, text)
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return logger

    def _init_plugins(self, logger: Any, namespace: str) -> bool:
        self.plugin_logger = weakref.ref(logger)
        return True

    def check(self, plan: Plan | None) -> str:
        """Why this machine cannot load the engine, in TensorRT's words; "" if it can."""
        if plan is None or plan.product != self.__name__:
            return (
                "Error Code 1: Serialization (Serialization assertion plan->header.magicTag == "
                "rt::kPLAN_MAGIC_TAG failed. Trying to load an engine created with incompatible "
                "serialization version.)"
            )
        if not self.rtx and plan.version != self.__version__:
            return (
                "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Version tag does not match. "
                f"Note: Current Version: {self.__version__}, Serialized Engine Version: {plan.version})"
            )
        if self.cuda.capability not in plan.capabilities:
            expected = ", ".join(f"{a}.{b}" for a, b in plan.capabilities)
            return (
                "Error Code 6: API Usage Error (The engine plan file is generated on an incompatible device, "
                "expecting compute {}.{} got compute {}, please rebuild.)".format(
                    *self.cuda.capability, expected
                )
            )
        return ""


def _of(trt: FakeTensorRT, kind: type[Any]) -> Any:
    """The class, tied to its module."""
    return type(kind.__name__, (kind,), {"trt": trt})


class Runtime:
    trt: FakeTensorRT

    def __init__(self, logger: Any) -> None:
        self._given, self.logger = logger, self.trt.start(logger)
        self.trt.objects.add(self)

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        """The engine; None after an error was logged."""
        plan = read_plan(bytes(serialized_engine))
        problem = self.trt.check(plan)
        if not problem and self.trt.cuda.sticky:
            problem = f"Error Code 1: Cuda Runtime ({self.trt.cuda.sticky})"
        weights = None
        if not problem:
            assert plan is not None
            weights = self.trt.cuda.reserve("the weights of an engine", len(plan.onnx))
            problem = (
                "" if weights else f"Error Code 2: OutOfMemory (Requested size was {len(plan.onnx)} bytes.)"
            )
        if problem:
            self.logger.log(Severity.ERROR, problem)
            return None
        assert plan is not None and weights is not None
        kind = RtxEngine if self.trt.rtx else ICudaEngine
        return kind(self, plan, weights)


class RtxRuntime(Runtime):
    def get_engine_validity(self, buffer: Any) -> tuple[Any, int]:
        problem = self.trt.check(read_plan(bytes(buffer)))
        validity = trt_types.EngineValidity
        return (validity.INVALID, 1) if problem else (validity.VALID, 0)


class ICudaEngine:
    num_optimization_profiles = 1
    device_memory_size_v2 = CONTEXT_BYTES

    def __init__(self, runtime: Runtime, plan: Plan, weights: Resource) -> None:
        self.runtime, self.plan, self._weights = runtime, plan, weights
        runtime.trt.objects.add(self)
        self.graph: Graph = graph(plan.onnx)
        self._tensors = {t.name: t for t in (*self.graph.inputs, *self.graph.outputs)}

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode.INPUT if self._tensors[name].is_input else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return self._tensors[name].dtype

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(self._tensors[name].shape)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        return [Dims(shape) for shape in self.plan.profile[name]]

    def create_execution_context(self, how: Any = None) -> IExecutionContext | None:
        """A context; None after an error was logged.

        Args:
            how: an allocation strategy, or TensorRT-RTX's runtime config.
        """
        scratch = self.runtime.trt.cuda.reserve("an execution context", CONTEXT_BYTES)
        if scratch is None:
            text = f"Error Code 2: OutOfMemory (Requested size was {CONTEXT_BYTES} bytes.)"
            self.runtime.logger.log(Severity.ERROR, text)
            return None
        return IExecutionContext(self, scratch, how)

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self)

    def __del__(self) -> None:
        self.runtime.trt.cuda.release(self._weights)


class RtxEngine(ICudaEngine):
    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig(self)


class IRuntimeConfig:
    """How TensorRT-RTX runs an engine."""

    cuda_graph_strategy = trt_types.CudaGraphStrategy.DISABLED
    dynamic_shapes_kernel_specialization_strategy = trt_types.DynamicShapesKernelSpecializationStrategy.LAZY

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._cache: IRuntimeCache | None = None
        engine.runtime.trt.objects.add(self)

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache(self._engine.runtime.trt)

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        self._cache = cache
        return True

    def get_runtime_cache(self) -> IRuntimeCache | None:
        return self._cache


class IRuntimeCache:
    """Kernels that TensorRT-RTX has compiled for this GPU."""

    def __init__(self, trt: FakeTensorRT) -> None:
        self._header = f"{trt.__version__} sm{trt.cuda.capability}".encode()
        self.loaded = False
        trt.objects.add(self)

    def serialize(self) -> IHostMemory:
        return IHostMemory(self._header)

    def deserialize(self, blob: Any) -> bool:
        self.loaded = bytes(blob) == self._header
        return self.loaded


class IExecutionContext:
    """One execution at a time: its scratch memory is its own, and belongs to the work in flight."""

    profiler: Any = None
    """Hears of every layer of every execution that is not captured."""

    def __init__(self, engine: ICudaEngine, scratch: Resource, how: Any = None) -> None:
        self.engine, self._scratch, self.how = engine, scratch, how
        engine.runtime.trt.objects.add(self)
        self._shapes: dict[str, Shape] = {t.name: t.shape for t in engine.graph.inputs}
        self._addresses: dict[str, int] = {}
        self._bound: tuple[Work, Any] | None = None
        self._ready = False
        """Whether it has run since shapes changed: the first run does what cannot be captured."""

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        return profile_index == 0

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        low, _, high = self.engine.plan.profile[name]
        wanted = tuple(int(size) for size in shape)
        if len(wanted) != len(low) or any(not a <= s <= b for a, s, b in zip(low, wanted, high, strict=True)):
            return self._refuse(
                f"IExecutionContext::setInputShape: Error Code 3: API Usage Error (Set dimensions {wanted} "
                f"for tensor {name} do not satisfy any optimization profiles. Valid range for profile 0: "
                f"{low}..{high}.)"
            )
        if self._shapes[name] != wanted:
            self._shapes[name], self._bound, self._ready = wanted, None, False
        return True

    def get_tensor_shape(self, name: str) -> Dims:
        """-1 for sizes that are not known."""
        return Dims(self._all_shapes()[name])

    def infer_shapes(self) -> list[str]:
        """Names of inputs whose sizes are not all set."""
        return [name for name, shape in self._shapes.items() if -1 in shape]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self.engine._tensors:
            return self._refuse(f"Error Code 3: API Usage Error (Given invalid tensor name: {name}.)")
        if self._addresses.get(name) != memory:
            self._addresses[name], self._bound = int(memory), None
        return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Enqueue one execution; False after an error was logged."""
        cuda = self.engine.runtime.trt.cuda
        queue = cuda.queues.get(stream_handle)
        if queue is None:
            return self._refuse("Error Code 1: Cuda Runtime (invalid resource handle)")
        work = self._work()
        if work is None:
            return False
        if queue.capture is None and self.profiler is not None:
            for layer in self.engine.graph.layers:  # a layer takes as long as its kind of operator does here
                self.profiler.report_layer_time(layer.name, LAYER_MS.get(layer.op, 0.01))
        if queue.capture is not None and not self._ready:
            queue.capture.broken = True
            return self._refuse(
                "Error Code 1: Cuda Runtime (operation not permitted when stream is capturing)"
            )
        return self._enqueue(queue, work)

    def _enqueue(self, queue: Queue, work: Work) -> bool:
        cuda = self.engine.runtime.trt.cuda
        try:
            cuda.call("cuLaunchKernel")
        except Error as e:
            return self._refuse(f"Error Code 1: Cuda Runtime ({e.result.text})")
        self._ready = True
        cuda.submit(queue, work)
        return True

    def _work(self) -> Work | None:
        """The execution as it is set up now; None after an error was logged."""
        if self._bound is not None:
            return self._bound[0]
        shapes = self._all_shapes()
        tensors = (*self.engine.graph.inputs, *self.engine.graph.outputs)
        for tensor in tensors:
            if problem := self._problem(tensor, shapes[tensor.name]):
                self._refuse(f"IExecutionContext::enqueueV3: Error Code 3: API Usage Error ({problem})")
                return None
        spans = [(self._addresses[t.name], t.nbytes(shapes[t.name])) for t in tensors]
        inputs = len(self.engine.graph.inputs)
        session = self.engine.graph.session
        binding = self.engine.graph.binding(dict(self._addresses), shapes)
        run = functools.partial(session.run_with_iobinding, binding)
        work = Work("execute", tuple(spans[:inputs]), tuple(spans[inputs:]), run, (self._scratch,))
        self._bound = work, binding
        return work

    def _problem(self, tensor: Tensor, shape: Shape) -> str:
        address = self._addresses.get(tensor.name, 0)
        if -1 in shape:
            return f"the shape of tensor {tensor.name} is not known: {shape}"
        if not address:
            return f"Address is not set for tensor {tensor.name}"
        if address % _ALIGNMENT:
            return f"the address of tensor {tensor.name} is not aligned to {_ALIGNMENT} bytes"
        block = self.engine.runtime.trt.cuda.memory.find(address, tensor.nbytes(shape))
        if block is not None and not block.addressable:
            return f"tensor {tensor.name} is in {block.label}, which the device cannot address"
        return ""

    def _all_shapes(self) -> dict[str, Shape]:
        if any(-1 in shape for shape in self._shapes.values()):
            return self._shapes | {t.name: t.shape for t in self.engine.graph.outputs}
        return self._shapes | self.engine.graph.output_shapes(self._shapes)

    def _refuse(self, text: str) -> bool:
        self.engine.runtime.logger.log(Severity.ERROR, text)
        return False

    def __del__(self) -> None:
        self.engine.runtime.trt.cuda.release(self._scratch)


class EngineInspector:
    """Tells the layers; their precisions only where the engine was built with detail."""

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self.execution_context: IExecutionContext | None = None

    def get_engine_information(self, format: Any) -> str:
        layers = self._engine.graph.layers
        detailed = self._engine.plan.detailed
        told = [_describe(layer) if detailed else layer.name for layer in layers]
        return json.dumps({"Layers": told, "Bindings": list(self._engine._tensors)})


_WORDS = {"FLOAT": "FP32", "HALF": "FP16", "BF16": "BF16"}


def _describe(layer: Any) -> dict[str, Any]:
    """As TensorRT 10 writes it."""

    def tensors(named: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
        words = [(name, trt_types.ONNX_TYPES[element].name) for name, element in named]
        return [
            {"Name": name, "Location": "Device", "Format/Datatype": f"Row major linear {_WORDS.get(w, w)}"}
            for name, w in words
        ]

    return {
        "Name": layer.name,
        "LayerType": layer.op,
        "Inputs": tensors(layer.inputs),
        "Outputs": tensors(layer.outputs),
        "TacticName": f"fake_{layer.op.lower()}",
        "Metadata": f"[ONNX Layer: {layer.name}]",
    }
