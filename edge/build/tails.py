"""What a GPU engine computes behind the network, so that streaming copies kilobytes and not megabytes.

The network keeps its outputs: verification compares them, and scoring reads them. A task describes what else
it wants (`Task.tail`); it is appended here, in fp32, after the network's precisions have been written and
judged. A runtime copies only the outputs it is asked for (`edge.tasks.outputs.streamed`).

Operators and attributes are those of opset 19 that TensorRT 10.3, 11 and TensorRT-RTX read; no shape depends
on the data, and the batch is never named, so that it may be dynamic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edge.config import InputConfig
from edge.errors import ModelError, nearest
from edge.manifest import Tensor
from edge.tasks import Task
from edge.tasks.outputs import SUM, TAIL
from edge.types import Array

PLUGINS = frozenset({"EfficientNMS_TRT"})
"""Operators beyond ONNX that a tail may use where the runtime has the plugin library (see `trt_api`).

EfficientNMS_TRT 1: deprecated since TensorRT 10.12 (its release notes); 11.0 removed twelve plugins, not this
one, and lists the V2 plugin interface that it uses as deprecated (migration guide). TensorRT-RTX has it not.
"""

DTYPES = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.INT32: "int32"}
PREFIX = "edge_tail"
Dim = int | str
"""A size, or the name of a dynamic one."""


class TailWriter:
    """Adds nodes behind one output of a graph. Tensors are names; numbers and arrays become constants.

    Attributes:
        raw: the output to start from, float32.
        shape: its sizes; all but the batch are known, and the batch is given as 0 where it is dynamic.
        size: height and width of the network's input in pixels.
        plugins: operators beyond ONNX that the runtime has.
    """

    FLOAT, INT32 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32

    def __init__(
        self, raw: str, dims: Sequence[Dim], size: tuple[int, int], plugins: Collection[str] = ()
    ) -> None:
        self.raw, self.size, self.plugins = raw, size, frozenset(plugins)
        self.batch = dims[0]
        self.shape = tuple(dim if isinstance(dim, int) else 0 for dim in dims)
        self.written: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.published: list[onnx.ValueInfoProto] = []
        self._count: Counter[str] = Counter()

    def node(self, op: str, *inputs: str | Array | Sequence[int], **attributes: Any) -> str:
        """Add a node with one output, and give that."""
        return self.nodes(op, *inputs, outputs=1, **attributes)[0]

    def nodes(
        self,
        op: str,
        *inputs: str | Array | Sequence[int],
        outputs: int,
        domain: str = "",
        **attributes: Any,
    ) -> list[str]:
        """Add a node with several outputs."""
        name = self._name(op)
        results = [name] if outputs == 1 else [f"{name}/{i}" for i in range(outputs)]
        tensors = [each if isinstance(each, str) else self._constant(each) for each in inputs]
        self.written.append(helper.make_node(op, tensors, results, name=name, domain=domain, **attributes))
        return results

    def slice(self, tensor: str, axis: int, start: int, stop: int) -> str:
        return self.node("Slice", tensor, [start], [stop], [axis])

    def publish(self, tensor: str, name: str, sizes: Sequence[int], code: int = FLOAT) -> None:
        """Make a tensor an output of the engine.

        Args:
            sizes: without the batch, which comes first.
        """
        for node in self.written:
            for names in (node.input, node.output):
                names[:] = [name if each == tensor else each for each in names]
        self.published.append(helper.make_tensor_value_info(name, code, [self.batch, *sizes]))

    def publish_sum(self) -> None:
        """Publish the sum over everything in `raw`: it tells whether anything there is NaN or infinite."""
        axes = list(range(1, len(self.shape)))
        self.publish(self.node("ReduceSum", self.raw, axes, keepdims=0), SUM, ())

    def _constant(self, value: Array | Sequence[int]) -> str:
        array = np.asarray(value)
        name = self._name("constant")
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def _name(self, kind: str) -> str:
        self._count[kind] += 1
        return f"{PREFIX}/{kind}_{self._count[kind]}"


def append_tail(
    model: onnx.ModelProto, task: Task, config: InputConfig, plugins: Collection[str] = ()
) -> onnx.ModelProto:
    """The graph with the task's tail behind it; `model` itself where the task has none.

    Args:
        model: precisions written in (`edge.precision.rewrite`); its outputs are float32.
        plugins: operators beyond ONNX that the runtime has (`PLUGINS`).

    Raises:
        ModelError: the graph has no such output, or it is not what [task] says.
    """
    tail = task.tail()
    if tail is None:
        return model
    raw = _output(model, tail.output)
    dims = _dims(model, raw)
    if dims is None:
        return model
    writer = TailWriter(raw, dims, config.size, plugins)
    tail.write(writer)
    return _joined(model, writer) if writer.published else model


def tail_outputs(model: onnx.ModelProto) -> tuple[Tensor, ...]:
    """The outputs that a tail added, as the manifest records them."""
    return tuple(
        Tensor(name=o.name, dtype=DTYPES[o.type.tensor_type.elem_type], shape=tuple(_sizes(o)))
        for o in model.graph.output
        if o.name in TAIL
    )


def _output(model: onnx.ModelProto, name: str | None) -> str:
    names = [output.name for output in model.graph.output]
    if taken := TAIL & set(names):
        raise ModelError(
            f"the graph already has an output '{min(taken)}'",
            "the builder gives this name to what it adds itself",
            "export the model under other names, or start from the graph before it was built",
        )
    if name is not None and name not in names:
        raise ModelError(f"the graph has no output '{name}'", nearest(name, names), "set `output` in [task]")
    return name or names[0]


def _dims(model: onnx.ModelProto, name: str) -> list[Dim] | None:
    """Sizes of a float32 output with three or more dimensions; None unless all but the batch are known."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    output = next(output for output in inferred.output if output.name == name)
    dims = _sizes(output)
    usable = output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT and len(dims) > 2
    return dims if usable and all(isinstance(dim, int) for dim in dims[1:]) else None


def _sizes(value: onnx.ValueInfoProto) -> list[Dim]:
    return [d.dim_value or d.dim_param or "?" for d in value.type.tensor_type.shape.dim]


def _joined(model: onnx.ModelProto, writer: TailWriter) -> onnx.ModelProto:
    joined = onnx.ModelProto()
    joined.CopyFrom(model)
    joined.graph.node.extend(writer.written)
    joined.graph.initializer.extend(writer.constants)
    joined.graph.output.extend(writer.published)
    for domain in sorted({node.domain for node in writer.written} - {o.domain for o in model.opset_import}):
        joined.opset_import.append(helper.make_opsetid(domain, 1))
    return joined
