"""Engines for a range of batches and sizes: what the config asks for, and the proof that a graph takes it.

The build works on a graph of one fixed size and batch 1, and opens it at its end (`edge.build.opening`). A
run proves it: each sample of a batch gives what it gives alone, and another size gives what the original
graph gives at that size.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from edge import graph as graphs
from edge.build.opening import open_dimensions
from edge.build.tensorrt import CompileRequest, Profile
from edge.config import ModelConfig, ProfileConfig
from edge.errors import ConfigError, ModelError
from edge.graph import Graph
from edge.types import Array

PROVEN_BATCH = 3
"""Largest batch that is run to prove a graph, which bounds the memory. What keeps 3 samples apart keeps any
number apart: every size that depends on the batch is then a name, a 0 (copy) or a −1 (what is left)."""
WATCHED = 16
"""Nodes whose outputs are looked at in one run, when the one that mixes samples is searched."""
TOLERANCE = 1e-3
"""Of the largest value: other batch sizes take other kernels, which sum in another order."""


def input_shapes(config: ModelConfig) -> Profile | None:
    """Shapes of the picture input, N × C × H × W; None for one fixed size at batch 1."""
    profile = config.profile
    if profile is None:
        return None
    size = config.input.size
    sizes = (profile.min_size or size, size, profile.max_size or size)
    shapes = [(batch, config.input.channels, *hw) for batch, hw in zip(profile.batch, sizes, strict=True)]
    return None if set(shapes) == {(1, config.input.channels, *size)} else Profile(*shapes)


def within(
    request: CompileRequest, profile: ProfileConfig | None, shapes: Profile | None, input_name: str
) -> CompileRequest:
    """The request with what [profile] asks for; `shapes` as `input_shapes` gives them."""
    profile = profile or ProfileConfig()
    return replace(
        request,
        profiles={} if shapes is None else {input_name: shapes},
        workspace_mb=profile.workspace_mb,
        gpu_memory_mb=profile.gpu_memory_mb,
    )


def prove(fixed: onnx.ModelProto, config: ModelConfig, shapes: Profile) -> None:
    """Run the opened fp32 graph where its range ends.

    Args:
        fixed: prepared (`graph.prepare`).
        config: names the original graph, which is prepared anew for other sizes.

    Raises:
        ModelError: it cannot be opened; the message names the node that mixes samples, or keeps a size.
    """
    opened = open_dimensions(fixed, shapes)
    session = _session(opened, "the graph with open dimensions")
    batches = {min(batch, PROVEN_BATCH) for batch in (shapes.minimum[0], shapes.maximum[0])}
    alone = _session(fixed, "the graph")
    for batch in sorted(batches - {1}):
        _prove_batch(opened, session, alone, (batch, *shapes.optimum[1:]))
    for shape in (shapes.minimum, shapes.maximum):
        if shape[1:] != shapes.optimum[1:]:
            _prove_size(session, config, shape)


def _prove_batch(opened: onnx.ModelProto, session: Any, alone: Any, shape: tuple[int, ...]) -> None:
    name = session.get_inputs()[0].name
    samples = _samples(shape)
    expected = [alone.run(None, {name: sample[None]}) for sample in samples]
    try:
        found = session.run(None, {name: samples})
    except Exception as e:  # onnxruntime's own family
        raise _keeps_batch(_node_in(e), shape[0], str(e)) from e
    for index, output in enumerate(session.get_outputs()):
        one = expected[0][index].shape
        if one[:1] != (1,):
            why = f"output '{output.name}' is {list(one)}: a batch cannot be its first dimension"
            raise _keeps_batch(_folding_node(opened, output.name), shape[0], why)
        if not _same(found[index], np.concatenate([outputs[index] for outputs in expected])):
            node = _mixing_node(opened, name, samples[:2]) or output.name
            why = f"output '{output.name}' of a sample depends on its neighbours"
            raise _keeps_batch(node, shape[0], why)


def _prove_size(session: Any, config: ModelConfig, shape: tuple[int, ...]) -> None:
    what = f"{shape[2]}×{shape[3]}"
    try:
        original = graphs.prepare(
            graphs.read(config.onnx, config.quantize.given), config.input.name, (shape[1], shape[2], shape[3])
        )
    except ConfigError as e:
        raise _keeps_size(what, e.why) from e
    name = session.get_inputs()[0].name
    sample = _samples((1, *shape[1:]))
    alone = _session(original, f"the graph at {what}")
    try:
        expected, found = alone.run(None, {name: sample}), session.run(None, {name: sample})
    except Exception as e:  # onnxruntime's own family
        raise _keeps_size(what, f"node '{_node_in(e)}' was made for one size") from e
    for output, this, right in zip(session.get_outputs(), found, expected, strict=True):
        if not _same(this, right):
            raise _keeps_size(what, f"output '{output.name}' differs from the original graph's at this size")


def _samples(shape: tuple[int, ...]) -> Array:
    """Different pictures of 0…1, the same on every run."""
    return np.random.default_rng(0).random(shape, np.float32)


def _same(found: Array, expected: Array) -> bool:
    if found.shape != expected.shape:
        return False
    scale = float(np.abs(expected).max(initial=0))
    return bool(np.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE * scale, equal_nan=True))


def _session(model: onnx.ModelProto, what: str) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(graphs.serialize(model), options, providers=["CPUExecutionProvider"])
    except Exception as e:  # onnxruntime's own family
        raise ModelError(f"ONNX Runtime refuses {what}", " ".join(str(e).split())[:300], _FIX) from e


def _node_in(error: Exception) -> str:
    """The node that ONNX Runtime names in its message."""
    match = re.search(r"Name:'([^']*)'", str(error)) or re.search(r"[Nn]ode[: ]+\(?([\w./]+)", str(error))
    return match[1] if match else "unknown"


def _folding_node(opened: onnx.ModelProto, output: str) -> str:
    """The node that folded the batch into the first dimension of an output: a Reshape, as a rule."""
    index = Graph(opened)
    node = index.producer[output]
    while node.op_type != "Reshape" and node.input[0] in index.producer:
        node = index.producer[node.input[0]]
    return str(node.name)


def _mixing_node(opened: onnx.ModelProto, name: str, samples: Array) -> str | None:
    """The first node whose output for two samples is not the two outputs side by side, along any axis."""
    nodes = list(opened.graph.node)
    for start in range(0, len(nodes), WATCHED):
        writers = {
            tensor: node for node in nodes[start : start + WATCHED] for tensor in node.output if tensor
        }
        watched = onnx.ModelProto()
        watched.CopyFrom(opened)
        del watched.graph.output[:]
        watched.graph.output.extend(onnx.ValueInfoProto(name=tensor) for tensor in writers)
        session = _session(watched, "the graph with every tensor as an output")
        runs = [session.run(None, {name: batch}) for batch in (samples, samples[:1], samples[1:])]
        for node, *values in zip(writers.values(), *runs, strict=True):
            if not _side_by_side(*values):
                return str(node.name)
    return None


def _side_by_side(both: Array, first: Array, second: Array) -> bool:
    if first.dtype.kind != "f":
        return True  # shape arithmetic may know the batch
    joined = (np.concatenate([first, second], axis) for axis in range(first.ndim))
    return _same(both, first) or any(_same(both, found) for found in joined)


_FIX = "export the model with a dynamic batch and size, or leave [profile] at batch 1 and one size"


def _keeps_batch(node: str, batch: int, why: str) -> ModelError:
    return ModelError(
        f"the graph cannot take a batch of {batch}: node '{node}' mixes the batch axis",
        " ".join(why.split())[:300],
        _FIX,
    )


def _keeps_size(size: str, why: str) -> ModelError:
    return ModelError(f"the graph cannot take pictures of {size}", why, _FIX)
