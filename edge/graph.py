"""An ONNX graph, checked, simplified and indexed.

`prepare` makes of any fp32 ONNX file the one form the rest of the build works on: opset ≥ 19, a fixed input
size, constants folded, BatchNorm folded into convolutions, every node named. `Graph` answers questions about
it.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx.inliner
from onnx import numpy_helper

from edge.errors import ConfigError, ModelError
from edge.simplify import STANDARD_DOMAINS, simplified
from edge.types import Array

OPSET = 19
"""First opset with fp8 and with 16-bit scales; TensorRT 10.3's parser documents up to 20."""

Given = Literal["refuse", "keep"]
"""What to do with Q/DQ that a graph comes with."""

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class Graph:
    """A read-only index over a model."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes: list[onnx.NodeProto] = list(model.graph.node)
        self.initializers: dict[str, onnx.TensorProto] = {t.name: t for t in model.graph.initializer}
        self.inputs = [i.name for i in model.graph.input if i.name not in self.initializers]
        self.outputs = [o.name for o in model.graph.output]

    @cached_property
    def producer(self) -> dict[str, onnx.NodeProto]:
        return {name: node for node in self.nodes for name in node.output if name}

    @cached_property
    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                if name:
                    users[name].append(node)
        return users

    @cached_property
    def _values(self) -> dict[str, onnx.ValueInfoProto]:
        inferred = onnx.shape_inference.infer_shapes(self.model, data_prop=True).graph
        return {v.name: v for v in (*inferred.value_info, *inferred.input, *inferred.output)}

    def info(self, name: str) -> onnx.ValueInfoProto:
        """Name, type and shape of a tensor, as far as they are known."""
        value = self._values.get(name)
        return onnx.ValueInfoProto(name=name) if value is None else value

    def is_float(self, name: str) -> bool:
        """Whether the tensor is float32, the only float type of a prepared graph."""
        if name in self.initializers:
            return bool(self.initializers[name].data_type == onnx.TensorProto.FLOAT)
        value = self._values.get(name)
        return value is not None and bool(value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The tensor's shape; None where it is not known."""
        if name in self.initializers:
            return tuple(self.initializers[name].dims)
        value = self._values.get(name)
        if value is None or not value.type.tensor_type.HasField("shape"):
            return None
        sizes = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        return None if 0 in sizes else sizes

    def constant(self, name: str) -> Array | None:
        """The value of an initializer, else None."""
        tensor = self.initializers.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def macs(self, node: onnx.NodeProto) -> int:
        """Multiply–accumulates of one inference; 0 for operators that are not matrix products."""
        if node.op_type not in WEIGHTED:
            return 0
        out, left, right = self.shape(node.output[0]), self.shape(node.input[0]), self.shape(node.input[1])
        if out is None or left is None or right is None:
            return 0
        elements = int(np.prod(out))
        if node.op_type == "Conv":
            return elements * int(np.prod(right[1:]))
        if node.op_type == "ConvTranspose":
            return int(np.prod(left)) * int(np.prod(right[1:]))
        transposed = node.op_type == "Gemm" and attribute(node, "transA", 0)
        return elements * (left[0] if transposed else left[-1])


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """A node's attribute value, or `default`."""
    for a in node.attribute:
        if a.name == name:
            return onnx.helper.get_attribute_value(a)
    return default


def captured(node: onnx.NodeProto) -> Iterator[str]:
    """Names of the tensors that a node's sub-graphs (If, Loop, Scan) read from around them."""
    for a in node.attribute:
        for inner in (a.g, *a.graphs):
            inside = {i.name for i in inner.input} | {t.name for t in inner.initializer}
            inside |= {name for n in inner.node for name in n.output}
            read = [name for n in inner.node for name in (*n.input, *captured(n))]
            yield from (name for name in read if name and name not in inside)


def rename_captured(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Have a node's sub-graphs read other tensors from around them, in place: old name → new one."""
    for a in node.attribute:
        for inner in (a.g, *a.graphs):
            own = {i.name for i in inner.input} | {t.name for t in inner.initializer}
            own |= {name for n in inner.node for name in n.output}
            outer = {old: new for old, new in names.items() if old not in own}
            for n in inner.node:
                for index, name in enumerate(n.input):
                    n.input[index] = outer.get(name, name)
                rename_captured(n, outer)


def part(graph: Graph, nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> onnx.ModelProto:
    """Some nodes of a graph as a model: what they read and do not write becomes its inputs.

    Args:
        nodes: in graph order.
    """
    written = {name for node in nodes for name in node.output}
    read = dict.fromkeys(name for node in nodes for name in (*node.input, *captured(node)) if name)
    model = onnx.ModelProto(ir_version=graph.model.ir_version, opset_import=graph.model.opset_import)
    model.graph.name = graph.model.graph.name
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(graph.initializers[name] for name in read if name in graph.initializers)
    inputs = [name for name in read if name not in written and name not in graph.initializers]
    model.graph.input.extend(graph.info(name) for name in inputs)
    model.graph.output.extend(graph.info(name) for name in outputs)
    return model


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def serialize(model: onnx.ModelProto) -> bytes:
    """The same bytes for the same graph, on every run."""
    return bytes(model.SerializeToString(deterministic=True))


def read(path: Path, given: Given = "refuse") -> onnx.ModelProto:
    """Load and check an ONNX file.

    Args:
        given: what to do with a graph that holds Q/DQ already.

    Raises:
        ModelError: it is missing, not ONNX, damaged, not float32, or holds what cannot be built.
    """
    if not path.is_file():
        raise ModelError(
            f"no ONNX file at {path}",
            "it is a folder" if path.is_dir() else "there is no such file",
            "check the path: --onnx, or `onnx` in the model config",
        )
    try:
        model = onnx.load(path)
        if not model.graph.node:
            raise ValueError("it holds no graph")
        _refuse_what_cannot_be_built(model, path, given)
        onnx.checker.check_model(model)
    except ModelError:
        raise
    except Exception as e:  # protobuf, onnx and the checker each raise their own
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise ModelError(f"{path} is not a valid ONNX model", reason, "export the model again") from e
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def _refuse_what_cannot_be_built(model: onnx.ModelProto, path: Path, given: Given) -> None:
    opsets = {o.domain: o.version for o in model.opset_import}
    opset = opsets.get("", opsets.get("ai.onnx", 1))
    for node in model.graph.node:
        name = node.name or ", ".join(node.output)
        if given == "refuse" and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            raise ModelError(
                f"{path} is quantized already: node '{name}' is a {node.op_type}",
                "a precision plan starts from the fp32 graph",
                'give the graph as it was before quantization, or keep what it has: `given = "keep"` under '
                "[quantize] of its config",
            )
        if node.domain in STANDARD_DOMAINS and not onnx.defs.has(node.op_type, opset, ""):
            raise ModelError(
                f"unsupported operator {node.op_type} in node '{name}' of {path}",
                f"opset {opset} has no such operator",
                "check the exporter's opset",
            )


def prepare(model: onnx.ModelProto, input_name: str | None, shape: tuple[int, ...]) -> onnx.ModelProto:
    """The graph in the form the build works on; see the module's docstring.

    Args:
        input_name: what the config calls the picture's tensor; None takes the graph's only input.
        shape: C × H × W of the picture, or C × D × H × W of the volume; the batch becomes 1.

    Raises:
        ConfigError: the graph has no such input, or its own size contradicts `shape`.
        ModelError: a runtime refuses the graph.
    """
    model = onnx.ModelProto.FromString(model.SerializeToString())
    _fix_input(model, picture_input(model, input_name), shape)
    _name_nodes(model)  # runtimes refuse two nodes of one name
    model = simplified(_convert(model))
    _drop_empty_constants(model)
    _name_nodes(model)
    return model


def picture_input(model: onnx.ModelProto, name: str | None = None) -> onnx.ValueInfoProto:
    """The graph's only input, which takes the picture.

    Raises:
        ConfigError: it has another name, or there are several.
        ModelError: it is not float32.
    """
    graph = Graph(model)
    inputs = [i for i in model.graph.input if i.name in graph.inputs]
    names = ", ".join(f"'{i.name}'" for i in inputs)
    if len(inputs) != 1:
        raise ConfigError(
            f"the graph has {len(inputs)} inputs: {names}",
            "a feed delivers pictures and nothing else",
            "export the model with the picture as its only input",
        )
    if name not in (None, inputs[0].name):
        raise ConfigError(
            f"the graph has no input '{name}'", f"its input is {names}", "mend `name` under [input]"
        )
    if inputs[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise ModelError(
            f"input {names} is not float32",
            "the build starts from an fp32 graph with an fp32 input",
            "export the model in float32, and leave normalisation to [input] of its config",
        )
    value: onnx.ValueInfoProto = inputs[0]
    return value


def input_dims(value: onnx.ValueInfoProto) -> tuple[list[int], bool]:
    """Sizes of a picture input as N, C, H, W (0 where dynamic), and whether the graph has channels last.

    Raises:
        ConfigError: it does not have four dimensions.
    """
    dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
    if len(dims) != 4:
        raise ConfigError(
            f"input '{value.name}' has {len(dims)} dimensions",
            "a picture needs four: N × C × H × W or N × H × W × C",
            "for a volume, N × C × D × H × W, write a config with [input.volume]",
        )
    channels_last = dims[3] in (1, 3) and dims[1] not in (1, 3)
    return ([dims[0], dims[3], dims[1], dims[2]] if channels_last else dims), channels_last


def volume_dims(value: onnx.ValueInfoProto) -> list[int]:
    """Sizes of a volume input as N, C, D, H, W (0 where dynamic).

    Raises:
        ConfigError: it does not have five dimensions.
    """
    dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
    if len(dims) != 5:
        raise ConfigError(
            f"input '{value.name}' has {len(dims)} dimensions",
            "a volume needs five: N × C × D × H × W",
            "leave out [input.volume] if it takes pictures",
        )
    return dims


def _fix_input(model: onnx.ModelProto, value: onnx.ValueInfoProto, shape: tuple[int, ...]) -> None:
    """Give the input its size; a graph with channels last gets a Transpose in front."""
    found, channels_last = input_dims(value) if len(shape) == 3 else (volume_dims(value), False)
    wanted = (1, *shape)
    axes = ("batch", "channels", *(["depth"] if len(shape) == 4 else []), "height", "width")
    for size, want, what in zip(found, wanted, axes, strict=True):
        if size not in (0, want):
            keys = {"channels": "`channels`", "batch": "a batch of 1 at export", "depth": "`volume.depth`"}
            key = keys.get(what, "`size`")
            raise ConfigError(
                f"input '{value.name}' has {what} {size}, the config says {want}",
                "the graph was exported with a fixed size",
                f"set {key} under [input] to what the graph has" if what != "batch" else f"ask for {key}",
            )
    name = value.name
    if channels_last:
        inner = f"{name}/channels_last"
        for node in model.graph.node:
            for index, used in enumerate(node.input):
                if used == name:
                    node.input[index] = inner
        to_last = onnx.helper.make_node("Transpose", [name], [inner], name=inner, perm=[0, 2, 3, 1])
        model.graph.node.insert(0, to_last)
    value.CopyFrom(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(wanted)))
    for output in model.graph.output:  # shapes follow from the input; stale symbols would contradict it
        output.type.tensor_type.ClearField("shape")


def _convert(model: onnx.ModelProto) -> onnx.ModelProto:
    version = next(o.version for o in model.opset_import if o.domain in STANDARD_DOMAINS)
    if version >= OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, OPSET)
    except Exception as e:
        raise ModelError(
            f"cannot bring the graph from opset {version} to {OPSET}",
            str(e).strip().splitlines()[0],
            f"export it with opset {OPSET}",
        ) from e


def _drop_empty_constants(model: onnx.ModelProto) -> None:
    """Resize's unused region of interest is often an empty tensor: ONNX spells "absent" as an empty name."""
    empty = {t.name for t in model.graph.initializer if 0 in t.dims}
    for node in model.graph.node:
        if node.op_type == "Resize":
            for index, name in enumerate(node.input):
                if name in empty:
                    node.input[index] = ""
    used = {name for node in model.graph.node for name in (*node.input, *captured(node))}
    kept = [t for t in model.graph.initializer if t.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _name_nodes(model: onnx.ModelProto) -> None:
    taken: Counter[str] = Counter()
    for node in model.graph.node:
        base = node.name or node.output[0]
        taken[base] += 1
        node.name = base if taken[base] == 1 else f"{base}_{taken[base]}"


def walk_back(graph: Graph, name: str) -> Iterator[onnx.NodeProto]:
    """The nodes between tensor `name` and the weighted nodes it comes from, these included; nearest first."""
    seen: set[str] = set()
    front = [name]
    while front:
        node = graph.producer.get(front.pop())
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        yield node
        if node.op_type not in WEIGHTED:
            front.extend(i for i in node.input if i)
