"""The network inside a simulated engine: its tensors, its layers, and a session that runs it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, shape_inference

from fakes.trt_types import ONNX_TYPES, WIDTHS, DataType

Shape = tuple[int, ...]


class Tensor(NamedTuple):
    """An input or output of the network; -1 for a size that is open."""

    name: str
    element: int
    shape: Shape
    is_input: bool

    @property
    def dtype(self) -> DataType:
        return ONNX_TYPES[self.element]

    def nbytes(self, shape: Sequence[int]) -> int:
        return math.prod(shape) * WIDTHS.get(self.dtype, 1)


class Layer(NamedTuple):
    """A node of the ONNX graph, as the engine inspector tells of it."""

    name: str
    op: str
    inputs: tuple[tuple[str, int], ...]
    """Name and element type."""
    outputs: tuple[tuple[str, int], ...]


class Graph:
    """A parsed ONNX graph."""

    def __init__(self, content: bytes) -> None:
        self.model = onnx.load_from_string(content)
        constants = {tensor.name for tensor in self.model.graph.initializer}
        inputs = [value for value in self.model.graph.input if value.name not in constants]
        self.inputs = tuple(_tensor(value, True) for value in inputs)
        self.outputs = tuple(_tensor(value, False) for value in self.model.graph.output)
        self.session = _session(self.model)
        self._shapes: dict[tuple[Shape, ...], dict[str, Shape]] = {}

    @property
    def layers(self) -> tuple[Layer, ...]:
        inferred = shape_inference.infer_shapes(self.model)
        graph = inferred.graph
        types = {
            v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output, *graph.value_info)
        }
        types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
        return tuple(
            Layer(
                node.name,
                node.op_type,
                tuple((name, types.get(name, TensorProto.FLOAT)) for name in node.input if name),
                tuple((name, types.get(name, TensorProto.FLOAT)) for name in node.output if name),
            )
            for node in graph.node
        )

    def output_shapes(self, inputs: Mapping[str, Shape]) -> dict[str, Shape]:
        """Shapes of the outputs for these shapes of the inputs; -1 where the data decide."""
        key = tuple(inputs[tensor.name] for tensor in self.inputs)
        if key not in self._shapes:
            fixed = onnx.ModelProto()
            fixed.CopyFrom(self.model)
            del fixed.graph.value_info[:]
            for value in fixed.graph.input:
                for dim, size in zip(value.type.tensor_type.shape.dim, inputs[value.name], strict=True):
                    dim.dim_value = size
            for value in fixed.graph.output:
                value.type.tensor_type.ClearField("shape")
            inferred = shape_inference.infer_shapes(fixed)
            self._shapes[key] = {v.name: _tensor(v, False).shape for v in inferred.graph.output}
        return self._shapes[key]

    def binding(self, addresses: Mapping[str, int], shapes: Mapping[str, Shape]) -> Any:
        """The session's tensors, bound to memory; `session.run_with_iobinding` takes it."""
        binding = self.session.io_binding()
        for tensor in (*self.inputs, *self.outputs):
            bind = binding.bind_input if tensor.is_input else binding.bind_output
            element = _element(tensor.element)
            bind(tensor.name, "cpu", 0, element, shapes[tensor.name], addresses[tensor.name])
        return binding


@lru_cache(maxsize=64)
def _graph(digest: str, content: bytes) -> Graph:
    return Graph(content)


def graph(content: bytes) -> Graph:
    """The graph in these bytes, with its session made once."""
    return _graph(hashlib.sha256(content).hexdigest(), content)


def _tensor(value: onnx.ValueInfoProto, is_input: bool) -> Tensor:
    kind = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)
    return Tensor(value.name, kind.elem_type, shape, is_input)


def _element(element: int) -> Any:
    kind = onnx.helper.tensor_dtype_to_np_dtype(element)
    return kind.type if kind.type.__module__ == np.__name__ else element


def _session(model: onnx.ModelProto) -> Any:
    """One thread, no spinning. What processors cannot run (bf16, fp8 convolutions) is emulated."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    narrow = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN)
    if any(tensor.data_type in narrow for tensor in model.graph.initializer):
        from edge.build.emulate import emulated

        model = emulated(model)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
