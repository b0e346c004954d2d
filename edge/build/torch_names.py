"""A plan for fine-tuning: which module of the PyTorch model each product is, and the scales it would have.

Nothing here needs PyTorch, and quantization-aware training is not needed to use a plan: who wants it anyway
finds in this file what to put fake quantizers around, and where they begin.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from edge.build.planning import Planned
from edge.graph import Graph
from edge.precision.groups import products
from edge.precision.numerics import PRECISION, QMAX
from edge.precision.policy import QUANTIZED, WEIGHT_ONLY
from edge.types import Array

SCHEMA = 1
PARAMETER = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.\w+)*)\.(?:weight|bias)")
"""What PyTorch calls a module's parameters, and its exporters keep."""
OPERATION = re.compile(r"(?:[A-Z][A-Za-z]*)(?:_\d+)?")
"""What the exporter calls an operation inside a module's scope: Conv, MatMul_1, MatMulAddFusion."""


def torch_names(planned: Planned) -> dict[str, Any]:
    """The plan as JSON for training scripts.

    Each entry has the node and its module (None where the graph does not tell), and of every quantized
    operand its type, the axis and values of its scales, and the tensor's name.
    """
    chosen = planned.chosen
    typed = chosen.typed(planned.target)
    scales = _Scales(typed)
    steps = {step.node: step for step in chosen.plan.steps}
    written = {node.name: node for node in typed.graph.node}
    modules = []
    for node in products(chosen.graph):
        step = steps[node.name]
        module, known_from = module_of(node)
        entry: dict[str, Any] = {
            "module": module,
            "known_from": known_from,
            "node": node.name,
            "op": node.op_type,
            "group": step.group,
            "precision": step.precision,
            "reason": step.reason,
        }
        if step.precision in QUANTIZED + WEIGHT_ONLY:
            operands = zip(("input", "weight"), node.input, written[node.name].input, strict=False)
            entry |= {what: found for what, name, new in operands if (found := scales.of(new, name))}
        modules.append(entry)
    return {
        "schema": SCHEMA,
        "model": planned.model,
        "target": planned.target.name,
        "variant": planned.variant,
        "carrier": chosen.plan.carrier,
        "equalized": planned.equalized,
        "modules": modules,
    }


def module_of(node: onnx.NodeProto) -> tuple[str | None, str]:
    """The PyTorch module that a product was, and what tells: "weight", "bias", "scope" or ""."""
    for what, name in zip(("weight", "bias"), node.input[1:3], strict=False):
        found = PARAMETER.fullmatch(name)
        if found is not None:
            return found["module"], what
    parts = [part for part in node.name.split("/") if part]
    if node.name.startswith("/"):
        while parts and OPERATION.fullmatch(parts[-1]):
            parts.pop()
        if parts:
            return ".".join(parts), "scope"
    return None, ""


class _Scales:
    """Finds the quantizer that an operand comes through in a written graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.writers = {name: node for node in model.graph.node for name in node.output}
        self.constants: Mapping[str, onnx.TensorProto] = {t.name: t for t in model.graph.initializer}

    def of(self, name: str, tensor: str) -> dict[str, Any] | None:
        """Of what is read as `name` and was `tensor` in the fp32 graph; None where it is not quantized."""
        node = self.writers.get(name)
        while node is not None and node.op_type == "Cast":
            node = self.writers.get(node.input[0])
        if node is None or node.op_type != "DequantizeLinear":
            return None
        kind = PRECISION[self.constants[node.input[2]].data_type]
        scale = self._value(node.input[1])
        attributes = {a.name: a.i for a in node.attribute}
        found: dict[str, Any] = {"tensor": tensor, "type": kind}
        if scale.size > 1:
            found["axis"] = attributes.get("axis", 1)
        if attributes.get("block_size"):
            found["block"] = attributes["block_size"]
        found["scale"] = scale.tolist()
        if kind in QMAX:
            found["amax"] = (scale * QMAX[kind]).tolist()
        else:
            found["zero_point"] = int(self._value(node.input[2]).reshape(-1)[0])
        return found

    def _value(self, name: str) -> Array:
        return np.asarray(numpy_helper.to_array(self.constants[name]).astype(np.float64))


def unnamed(graph: Graph) -> list[str]:
    """Products that the graph does not tell the module of."""
    return [node.name for node in products(graph) if module_of(node)[0] is None]
