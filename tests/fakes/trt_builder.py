"""Compiling with the simulated TensorRT: a network is its ONNX graph, an engine is that with a header."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import onnx

from fakes.trt_graph import Graph, Layer, graph
from fakes.trt_types import (
    ONNX_TYPES,
    ComputeCapability,
    DataType,
    Dims,
    ErrorCode,
    IHostMemory,
    Plan,
    ProfilingVerbosity,
    Severity,
    Shapes,
)

if TYPE_CHECKING:
    from fakes.tensorrt import FakeTensorRT

LayerType = enum.Enum(
    "LayerType",
    "CONVOLUTION CAST ACTIVATION POOLING SOFTMAX DECONVOLUTION CONCATENATION ELEMENTWISE UNARY SHUFFLE "
    "REDUCE GATHER MATRIX_MULTIPLY CONSTANT IDENTITY SLICE SHAPE RESIZE QUANTIZE DEQUANTIZE NORMALIZATION "
    "PLUGIN_V3",
    start=0,
)
_LAYERS = {
    "Conv": "CONVOLUTION",
    "ConvTranspose": "DECONVOLUTION",
    "Gemm": "MATRIX_MULTIPLY",
    "MatMul": "MATRIX_MULTIPLY",
    "Cast": "CAST",
    "QuantizeLinear": "QUANTIZE",
    "DequantizeLinear": "DEQUANTIZE",
    "Softmax": "SOFTMAX",
    "Concat": "CONCATENATION",
    "Reshape": "SHUFFLE",
    "Transpose": "SHUFFLE",
    "MaxPool": "POOLING",
    "AveragePool": "POOLING",
    "Relu": "ACTIVATION",
    "Sigmoid": "ACTIVATION",
    "Identity": "IDENTITY",
    "Resize": "RESIZE",
}
"""ONNX operators → layers; ELEMENTWISE for all others."""
_OWN_WEIGHTS = ("CONVOLUTION", "DECONVOLUTION")
"""Layers whose constant weights are a part of them and no input."""


class ITensor(NamedTuple):
    name: str
    dtype: DataType


class ILayer:
    name: str
    type: Any
    metadata: str
    num_inputs: int
    num_outputs: int

    def __init__(self, node: Layer, constants: frozenset[str]) -> None:
        self.name = node.name
        self.type = LayerType[_LAYERS.get(node.op, "ELEMENTWISE")]
        self.metadata = f"[ONNX Layer: {node.name}]"
        own = constants if self.type.name in _OWN_WEIGHTS else frozenset()
        self._inputs = [_itensor(tensor) for tensor in node.inputs if tensor[0] not in own]
        self._outputs = [_itensor(tensor) for tensor in node.outputs]
        self.num_inputs, self.num_outputs = len(self._inputs), len(self._outputs)

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]


def _itensor(tensor: tuple[str, int]) -> ITensor:
    return ITensor(tensor[0], ONNX_TYPES[tensor[1]])


class INetworkDefinition:
    def __init__(self) -> None:
        self.content = b""
        self.graph: Graph | None = None
        self._layers: list[ILayer] = []

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def get_layer(self, index: int) -> ILayer:
        return self._layers[index]

    def _fill(self, content: bytes) -> None:
        self.content, self.graph = content, graph(content)
        constants = frozenset(tensor.name for tensor in self.graph.model.graph.initializer)
        self._layers = [ILayer(node, constants) for node in self.graph.layers]


class ParserError:
    """What the parser says of one node; everything is a method."""

    def __init__(self, name: str, op: str, desc: str) -> None:
        self._said = name, op, desc

    def node_name(self) -> str:
        return self._said[0]

    def node_operator(self) -> str:
        return self._said[1]

    def desc(self) -> str:
        return self._said[2]

    def code(self) -> Any:
        return ErrorCode.UNSUPPORTED_NODE

    def file(self) -> str:
        return "/parser/ModelImporter.cpp"

    def line(self) -> int:
        return 1


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: Any) -> None:
        self._network, self._logger = network, logger
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse(self, model: bytes) -> bool:
        try:
            read = onnx.load_from_string(model)
        except Exception:  # protobuf's own error type differs between its versions
            self._errors = [ParserError("", "", "Failed to parse the ONNX model.")]
            return False
        self._errors = [
            ParserError(node.name, node.op_type, f"no importer registered for op: {node.op_type}")
            for node in read.graph.node
            if not onnx.defs.has(node.op_type, node.domain)
        ]
        for error in self._errors:
            self._logger.log(Severity.ERROR, error.desc())
        if not self._errors:
            self._network._fill(model)
        return not self._errors


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, Shapes] = {}

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:
        shapes = tuple(min), tuple(opt), tuple(max)
        if not all(a <= b <= c for a, b, c in zip(*shapes, strict=True)):
            raise ValueError(f"the profile of {input} is not in order: {shapes}")
        self.shapes[input] = shapes

    def get_shape(self, input: str) -> list[Dims]:
        return [Dims(shape) for shape in self.shapes.get(input, ())]


class ITimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> IHostMemory:
        return IHostMemory(self.content)


class IBuilderConfig:
    progress_monitor: Any = None
    profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
    num_compute_capabilities = 0

    def __init__(self) -> None:
        self.limits: dict[Any, int] = {}
        self.profiles: list[IOptimizationProfile] = []
        self.capabilities: dict[int, ComputeCapability] = {}
        self._timing_cache: ITimingCache | None = None

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self.limits[pool] = pool_size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def set_compute_capability(self, compute_capability: ComputeCapability, index: int) -> bool:
        self.capabilities[index] = compute_capability
        return 0 <= index < self.num_compute_capabilities

    def create_timing_cache(self, serialized_timing_cache: Any) -> ITimingCache:
        return ITimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if cache.content and not cache.content.startswith(b"timings"):
            return False
        self._timing_cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._timing_cache


class Builder:
    trt: FakeTensorRT

    def __init__(self, logger: Any) -> None:
        register = self.trt.registered if self.trt.rtx else self.trt.start  # TensorRT-RTX needs no driver
        self._given, self.logger = logger, register(logger)

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None:
        """The engine; None after an error was logged, or if the monitor said stop."""
        profile = self._profile(network, config)
        if profile is None or not _told_to_go_on(config.progress_monitor, network.num_layers):
            return None
        if config.get_timing_cache() is not None:
            config.set_timing_cache(ITimingCache(b"timings of " + network.content[:16]), False)
        detailed = config.profiling_verbosity is ProfilingVerbosity.DETAILED
        plan = Plan(
            network.content,
            self.trt.__name__,
            self.trt.__version__,
            self._capabilities(config),
            profile,
            detailed,
        )
        return IHostMemory(plan.serialize())

    def _profile(self, network: INetworkDefinition, config: IBuilderConfig) -> dict[str, Shapes] | None:
        assert network.graph is not None
        given = config.profiles[0].shapes if config.profiles else {}
        shapes: dict[str, Shapes] = {}
        for tensor in network.graph.inputs:
            shapes[tensor.name] = given.get(tensor.name, (tensor.shape,) * 3)
            if -1 in shapes[tensor.name][0]:
                text = (
                    "Error Code 4: API Usage Error (Network has dynamic or shape inputs, but no "
                    f"optimization profile has been defined for {tensor.name}.)"
                )
                self.logger.log(Severity.ERROR, text)
                return None
        return shapes

    def _capabilities(self, config: IBuilderConfig) -> tuple[tuple[int, int], ...]:
        named = [c for c in config.capabilities.values() if c.name.startswith("SM")]
        return tuple((c.value // 10, c.value % 10) for c in named) or (self.trt.cuda.capability,)


def _told_to_go_on(monitor: Any, steps: int) -> bool:
    """Report a phase with a step for each layer; False as soon as the monitor says so."""
    if monitor is None:
        return True
    monitor.phase_start("Building Engine", None, steps)
    try:
        return all(monitor.step_complete("Building Engine", step) for step in range(steps))
    finally:
        monitor.phase_finish("Building Engine")
