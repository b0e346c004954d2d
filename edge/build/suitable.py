"""What cannot be built, whatever its precisions: refused before a plan is searched for."""

from __future__ import annotations

import numpy as np
import onnx

from edge.config import ModelConfig
from edge.errors import ModelError
from edge.graph import Graph
from edge.precision.given import QUANTIZERS, storage
from edge.precision.plan import Variant
from edge.simplify import STANDARD_DOMAINS
from edge.targets import Target


def refuse_unsuitable(graph: Graph, target: Target) -> None:
    """Refuse a graph that TensorRT cannot take, whatever its precisions.

    Raises:
        ModelError: it has an operator that is not ONNX's own, or Q/DQ that are not symmetric.
    """
    for node in graph.nodes:
        if node.domain not in STANDARD_DOMAINS:
            raise ModelError(
                f"node '{node.name}' is {node.domain}::{node.op_type}, which TensorRT has not",
                f"it is not one of ONNX's own operators; ONNX Runtime knows it, {target.name} does not",
                "export with standard operators, or build for --targets cpu alone",
            )
        if node.op_type in QUANTIZERS and (why := _objection(graph, node)):
            raise ModelError(
                f"the graph comes with a {node.op_type} that {target.name} cannot take: node '{node.name}'",
                f"{why}; TensorRT quantizes symmetrically (NvInfer.h, IQuantizeLayer)",
                "quantize it with signed, symmetric int8, give the graph as it was before quantization, or "
                "build for --targets cpu alone",
            )


def refuse_for_volumes(config: ModelConfig, target: Target, variant: Variant) -> None:
    """
    Raises:
        ModelError: the model reads volumes, and the engine would be for a GPU or of quantized weights.
    """
    if config.input.volume is None:
        return
    what = f"cannot build {target.name}/{variant}: the model reads volumes"
    if target.is_gpu:
        raise ModelError(what, "they run on a processor, and on no GPU yet", "give --targets cpu")
    if variant not in ("fast", "exact"):
        raise ModelError(what, "their weights are not quantized yet", "give --variants exact")


def _objection(graph: Graph, node: onnx.NodeProto) -> str:
    kind = storage(graph, node.output[0] if node.op_type == "QuantizeLinear" else node.input[0])
    if kind not in ("int8", "fp8", "int4"):
        return f"it is in {kind or 'a type that has no name here'}"
    zero = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
    return "" if zero is not None and not np.any(zero.astype(np.float32)) else "its zero point is not 0"
