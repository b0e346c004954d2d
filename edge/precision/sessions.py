"""ONNX Runtime as a calculator: sessions on the processor that show the tensors inside a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx

from edge.precision.given import has_quantizers
from edge.types import Array


def open_session(model: onnx.ModelProto, plain: bool = False, threads: int = 0, arena: bool = True) -> Any:
    """An ONNX Runtime session on the processor, whose threads sleep when it does not run: there are many.

    Args:
        plain: without optimizations that change fp8 (see `edge.backends.onnxruntime`); a graph with Q/DQ is
            always run so, and rounds exactly as its nodes say.
        threads: 0 for as many as there are cores.
        arena: keep memory from run to run; where many sessions take turns that is memory nobody else has.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = arena
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if plain or has_quantizers(model):
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def observer(
    model: onnx.ModelProto, tensors: Sequence[str], plain: bool = False
) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """A function that runs the graph and gives the value of each of `tensors`.

    Args:
        plain: as for `open_session`.
    """
    watched = onnx.ModelProto.FromString(model.SerializeToString())
    fed = {i.name for i in watched.graph.input} & set(tensors)
    outputs = {o.name for o in watched.graph.output}
    inner = [name for name in tensors if name not in fed]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner if name not in outputs)
    session = open_session(watched, plain, arena=False)

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        values = dict(zip(inner, session.run(inner, dict(feeds)), strict=True)) if inner else {}
        return {name: feeds[name] if name in fed else values[name] for name in tensors}

    return run
