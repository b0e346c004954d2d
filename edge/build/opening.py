"""A graph of one size and batch 1, made to take a range of them.

The input gets names for the dimensions that may vary. Constants that had the fixed batch in them let go of
it: the sizes of Reshape and Resize, and constants that are joined to each sample. The result is proven by
running it (`edge.build.profiles`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor, prod

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edge.build.tensorrt import Profile
from edge.graph import Graph, attribute
from edge.simplify import STANDARD_DOMAINS
from edge.types import Array

NAMES = {0: "batch", 2: "height", 3: "width"}
"""What the open dimensions of a picture input (N × C × H × W) are called."""
MARK = 10007
"""A batch that no size of a graph is a multiple of (a prime): where it shows up, there the batch is."""
SMALL = 64
"""Constants of up to so many elements may hold sizes, axes or indices."""


def open_axes(shapes: Profile) -> tuple[int, ...]:
    """Axes of the input on which more is asked for than the fixed graph has: batch 1, the optimum's size."""
    fixed = (1, *shapes.optimum[1:])
    return tuple(a for a in NAMES if {shapes.minimum[a], shapes.maximum[a]} != {fixed[a]})


def open_dimensions(model: onnx.ModelProto, shapes: Profile) -> onnx.ModelProto:
    """The fixed graph `model`, fp32 or with its precisions written in, for all of `shapes`.

    Tensors and nodes keep their names, and every node its precision.
    """
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    axes = open_axes(shapes)
    opener = _Opener(opened, batch_open=0 in axes, sizes_open=bool({2, 3} & set(axes)))
    opener.run()
    for stale in (*opened.graph.value_info, *opened.graph.output):
        stale.type.tensor_type.ClearField("shape")
    (value,) = (i for i in opened.graph.input if i.name in opener.marked)
    for axis in axes:
        value.type.tensor_type.shape.dim[axis].dim_param = NAMES[axis]
    ends = _sizes_at_ends(opened, value.name, shapes) if opener.sizes_open else opener.ends()
    _describe_outputs(opened, ends)
    return opened


class _Opener:
    """Walks the graph with a marked batch, which tells on which axis of each tensor the batch lies.

    `marked` holds the types of the tensors that depend on the input.
    """

    def __init__(self, opened: onnx.ModelProto, batch_open: bool, sizes_open: bool) -> None:
        self.opened, self.batch_open, self.sizes_open = opened, batch_open, sizes_open
        self.fixed = Graph(opened)
        self.small = {t.name: t for t in opened.graph.initializer if prod(t.dims) <= SMALL}
        self.marked: dict[str, onnx.TypeProto] = {}
        inferred = onnx.shape_inference.infer_shapes(opened, data_prop=True).graph
        values = (*inferred.input, *inferred.value_info, *inferred.output)
        self.types = {value.name: value.type for value in values}
        self.types |= {
            t.name: helper.make_tensor_type_proto(t.data_type, t.dims) for t in opened.graph.initializer
        }

    def run(self) -> None:
        (name,) = self.fixed.inputs
        self.marked[name] = self._with_batch(name)
        opens = {"Resize": self._resize}
        if self.batch_open:
            opens |= {"Reshape": self._reshape, "Concat": self._concat}
        nodes = list(self.opened.graph.node)
        del self.opened.graph.node[:]
        for node in nodes:
            if any(name in self.marked for name in node.input):
                if node.op_type in opens:
                    opens[node.op_type](node)
                self._mark(node)
            self.opened.graph.node.append(node)

    def ends(self) -> dict[str, list[tuple[int, ...]]]:
        """Shapes of each output at batch 1 and at the marked one."""
        found = {}
        for name in self.fixed.outputs:
            ends = (self.fixed.shape(name), _sizes(self.marked[name]) if name in self.marked else None)
            found[name] = [sizes for sizes in ends if sizes]
        return found

    # ------------------------------------------------------------------ where the batch is

    def _mark(self, node: onnx.NodeProto) -> None:
        """Infer the node's outputs; where that is not possible they are taken to have the batch in front."""
        domain = next(o for o in self.opened.opset_import if o.domain in STANDARD_DOMAINS)
        types = {name: self.marked.get(name) or self.types[name] for name in node.input if name in self.types}
        types |= {name: self.marked[name] for name in node.input if name in self.marked}
        constants = {name: self.small[name] for name in node.input if name in self.small}
        try:
            schema = onnx.defs.get_schema(node.op_type, domain.version, "")
            found = onnx.shape_inference.infer_node_outputs(
                schema, node, types, constants, opset_imports=[domain]
            )
        except Exception:  # sub-graphs, and sizes that depend on the data; the proof decides
            found = {}
        for name in node.output:
            known = found.get(name)
            self.marked[name] = known if known is not None and _sizes(known) else self._with_batch(name)

    def _with_batch(self, name: str) -> onnx.TypeProto:
        """The tensor's type with the marked batch as its first size, if that is 1."""
        shape = self.fixed.shape(name)
        marked = (
            None if shape is None else tuple(MARK if a == 0 and d == 1 else d for a, d in enumerate(shape))
        )
        kind = self.types[name].tensor_type.elem_type if name in self.types else onnx.TensorProto.FLOAT
        return helper.make_tensor_type_proto(kind, marked)

    def _batch_axis(self, name: str) -> int | None:
        sizes = _sizes(self.marked[name]) if name in self.marked else ()
        return next((axis for axis, size in enumerate(sizes) if size and size % MARK == 0), None)

    # ------------------------------------------------------------------ letting go of it

    def _constant(self, name: str, value: Array) -> str:
        tensor = numpy_helper.from_array(value, name)
        self.opened.graph.initializer.append(tensor)
        self.small[name] = tensor
        self.types[name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        return name

    def _reshape(self, node: onnx.NodeProto) -> None:
        """The size that holds the batch is copied (0) if it keeps its place, else it is what is left (−1)."""
        before, after = self.fixed.shape(node.input[0]), self.fixed.shape(node.output[0])
        wanted, axis = self.fixed.constant(node.input[1]), self._batch_axis(node.input[0])
        if wanted is None or before is None or after is None or axis is None:
            return
        place = _place(before[:axis], after)
        copies = place == axis and before[axis] == after[place] and not attribute(node, "allowzero", 0)
        sizes = wanted.astype(np.int64)
        if copies:
            sizes[place] = 0
        elif not self.sizes_open:
            sizes = np.array(after, np.int64)
            sizes[place] = -1
        elif -1 not in np.delete(sizes, place):
            sizes[place] = -1
        if not np.array_equal(sizes, wanted):
            node.input[1] = self._constant(f"{node.name}/open_shape", sizes)

    def _resize(self, node: onnx.NodeProto) -> None:
        """Sizes become the factors that give them."""
        before, after = self.fixed.shape(node.input[0]), self.fixed.shape(node.output[0])
        by_size = len(node.input) > 3 and node.input[3] in self.fixed.initializers
        if not by_size or attribute(node, "axes", None) is not None or before is None or after is None:
            return
        scales = [_factor(a, b) for a, b in zip(before, after, strict=True)]
        node.input[2] = self._constant(f"{node.name}/open_scales", np.array(scales, np.float32))
        del node.input[3:]

    def _concat(self, node: onnx.NodeProto) -> None:
        """A constant that is joined to every sample, such as a class token, is repeated for each."""
        like = next(name for name in node.input if self._batch_axis(name) is not None or name in self.marked)
        rank = len(self.fixed.shape(node.output[0]) or ())
        if self._batch_axis(like) != 0 or not rank or attribute(node, "axis", 0) % rank == 0:
            return
        for index, name in enumerate(node.input):
            if name not in self.marked:
                node.input[index] = self._repeated(name, like, f"{node.name}/{name}")

    def _repeated(self, name: str, like: str, label: str) -> str:
        """`name`, with as many samples as `like`."""
        batch, shape, out = f"{label}/batch", f"{label}/open_shape", f"{label}/repeated"
        ones = self._constant(f"{label}/ones", np.ones(len(self.fixed.shape(name) or ()) - 1, np.int64))
        self.opened.graph.node.extend(
            [
                helper.make_node("Shape", [like], [batch], name=batch, start=0, end=1),
                helper.make_node("Concat", [batch, ones], [shape], name=shape, axis=0),
                helper.make_node("Expand", [name, shape], [out], name=out),
            ]
        )
        marked = (MARK, *(self.fixed.shape(name) or ())[1:])
        self.marked[out] = helper.make_tensor_type_proto(self.types[name].tensor_type.elem_type, marked)
        self.opened.graph.value_info.append(onnx.ValueInfoProto(name=out, type=self.marked[out]))
        return out


def _sizes(kind: onnx.TypeProto) -> tuple[int, ...]:
    return tuple(d.dim_value for d in kind.tensor_type.shape.dim)


def _place(front: Sequence[int], after: Sequence[int]) -> int:
    """The axis of `after` that has as many elements in front of it as the batch had: its own one, if any."""
    places = [axis for axis in range(len(after)) if prod(after[:axis]) == prod(front)]
    return next((axis for axis in places if after[axis] == 1), places[-1] if places else 0)


def _factor(before: int, after: int) -> float:
    """A float32 that takes `before` to `after`: runtimes round down."""
    factor = np.float32(after / before)
    while floor(np.float32(before) * factor) < after:
        factor = np.nextafter(factor, np.float32(np.inf))
    return float(factor)


# ---------------------------------------------------------------------- what varies


def _sizes_at_ends(model: onnx.ModelProto, name: str, shapes: Profile) -> dict[str, list[tuple[int, ...]]]:
    """Shapes of each output with the input at both ends of its range."""
    found: dict[str, list[tuple[int, ...]]] = {output.name: [] for output in model.graph.output}
    for shape in (shapes.minimum, shapes.maximum):
        at = onnx.ModelProto()
        at.CopyFrom(model)
        del at.graph.value_info[:]  # types without shapes stop ONNX's inference in some graphs
        value = next(i for i in at.graph.input if i.name == name)
        value.CopyFrom(helper.make_tensor_value_info(name, value.type.tensor_type.elem_type, shape))
        graph = Graph(at)
        for output, ends in found.items():
            ends += [sizes] if (sizes := graph.shape(output)) else []
    return found


def _describe_outputs(model: onnx.ModelProto, ends: Mapping[str, Sequence[tuple[int, ...]]]) -> None:
    """Sizes of outputs that do not vary, names for those that do; nothing where an end is not known."""
    for output in model.graph.output:
        if len(ends[output.name]) < 2:
            continue
        dims = output.type.tensor_type.shape
        dims.ClearField("dim")
        for axis, sizes in enumerate(zip(*ends[output.name], strict=True)):
            if len(set(sizes)) == 1:
                dims.dim.add().dim_value = sizes[0]
            else:
                dims.dim.add().dim_param = NAMES[0] if axis == 0 else f"{output.name}_{axis}"


def dimensions(model: onnx.ModelProto) -> dict[str, tuple[int | str, ...]]:
    """Sizes, or names where they vary, of an opened graph's inputs and outputs; those that are known."""
    values = [v for v in (*model.graph.input, *model.graph.output) if v.type.tensor_type.HasField("shape")]
    return {v.name: tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}
