"""A graph simplified by ONNX Runtime, and what ONNX Runtime knows of operators that ONNX does not."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from edge.errors import ModelError

STANDARD_DOMAINS = ("", "ai.onnx")
QDQ_PASSES = ("DoubleQDQPairsRemover", "EnsureUniqueDQForNodeUnit", "QDQPropagationTransformer")
"""What moves, adds or drops Q/DQ among ONNX Runtime's basic optimizations."""


def simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold constants and BatchNorm with ONNX Runtime's basic optimizations; no operator is added that is not
    ONNX's own, and Q/DQ stay where they are."""
    import onnxruntime as ort

    own_domains = [(o.domain, o.version) for o in model.opset_import]
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "basic.onnx")
        options.log_severity_level = 4
        try:
            ort.InferenceSession(
                model.SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=list(QDQ_PASSES),
            )
        except Exception as e:  # onnxruntime raises a family of its own that shares no base class
            raise _refused(model, str(e)) from e
        simple = onnx.load(options.optimized_model_filepath)
    if not _foreign(simple.graph) <= _foreign(model.graph):
        simple = model
    del simple.opset_import[:]
    simple.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in own_domains)
    return _with_foreign_types(simple)


def _foreign(graph: onnx.GraphProto) -> set[str]:
    """Operators of a graph that are not ONNX's own, in its sub-graphs too: "domain:operator"."""
    found = {f"{n.domain}:{n.op_type}" for n in graph.node if n.domain not in STANDARD_DOMAINS}
    inner = (g for n in graph.node for a in n.attribute for g in (a.g, *a.graphs))
    return found.union(*(_foreign(g) for g in inner))


def _refused(model: onnx.ModelProto, reason: str) -> ModelError:
    """The error for a graph that ONNX Runtime does not take; it names an operator, not the node."""
    for node in model.graph.node:
        held = {f"{node.domain}:{node.op_type}"} & _foreign(model.graph)
        held |= set().union(*(_foreign(g) for a in node.attribute for g in (a.g, *a.graphs)))
        for operator in sorted(held):
            if operator in reason:
                return ModelError(
                    f"unsupported operator {operator.replace(':', '::')} in node '{node.name}'",
                    "it is not one of ONNX's own operators, and ONNX Runtime does not know it either",
                    "export with standard operators only",
                )
    return ModelError(
        "ONNX Runtime refuses the graph", reason.strip().splitlines()[0], "export the model again"
    )


def _with_foreign_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """Types and shapes behind operators that ONNX's shape inference does not know, from ONNX Runtime."""
    import onnxruntime as ort

    nodes = [node for node in model.graph.node if node.domain not in STANDARD_DOMAINS]
    if not nodes:
        return model
    names = [name for node in nodes for name in node.output if name]
    watched = onnx.ModelProto.FromString(model.SerializeToString())
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for found in session.get_outputs():
        kind = getattr(onnx.TensorProto, found.type.removeprefix("tensor(").removesuffix(")").upper(), None)
        if kind is not None:
            sizes = [size if isinstance(size, int) else None for size in found.shape]
            model.graph.value_info.append(onnx.helper.make_tensor_value_info(found.name, kind, sizes))
    return model
