"""Every graph that the builder writes for a target is taken by that target's real compiler.

TensorRT-RTX compiles for GPUs that are not here, on x86-64 only. What it takes is necessary, not sufficient:
the rules of full TensorRT are linted (`unit/test_build_lint.py`).
"""

from __future__ import annotations

from dataclasses import replace

import graphs
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge import machine
from edge.build.opening import open_dimensions
from edge.build.resources import in_child
from edge.build.tensorrt import Compiled, CompileRequest, Profile, compile_engine
from edge.errors import ModelError
from edge.graph import Graph, serialize
from edge.precision import plan
from edge.precision.plan import Variant
from edge.precision.policy import NOTHING, Policy
from edge.precision.rewrite import planned_precisions, rewrite
from edge.targets import TARGETS

HERE = machine.detect()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not HERE.is_x86 or "tensorrt-rtx" not in HERE.packages,
        reason="tensorrt-rtx is not installed, or this is not x86-64: it compiles nowhere else",
    ),
]
COMPILED = [name for name, row in TARGETS.items() if row.rtx_aot]
KINDS = ["t4", "a10", "ada"]
"""One compiled target of each kind of graph."""


def request(index: Graph, target: str, variant: Variant, policy: Policy = NOTHING) -> CompileRequest:
    """The typed graph of a target and its plan, as the builder hands them to the compiler."""
    tiny = index.inputs == ["image"] and index.shape("image") == (1, 3, 32, 32)
    seen = graphs.ranges(index) if tiny else graphs.made_up_ranges(index)
    row = TARGETS[target]
    made = plan.make(index, row, variant, seen, policy=policy)
    graph = serialize(rewrite(index, made, seen, row))
    return CompileRequest(
        graph, "tensorrt_rtx", row.compute_capability, plan=planned_precisions(made.steps, made.carrier)
    )


def compiled(what: CompileRequest) -> Compiled:
    return in_child(compile_engine, what)[0]


def for_target(graph: bytes, target: str) -> CompileRequest:
    return CompileRequest(graph, "tensorrt_rtx", TARGETS[target].compute_capability)


@pytest.mark.parametrize("variant", plan.VARIANTS)
@pytest.mark.parametrize("target", COMPILED)
def test_the_demo_model_compiles_for_every_target(target: str, variant: Variant) -> None:
    found = compiled(request(graphs.real("burned_in_text"), target, variant))
    assert len(found.engine) > 100_000
    assert found.version.count(".") >= 1
    assert found.findings == ()  # every node is in the network, in the precision it was planned in


@pytest.mark.parametrize("name", graphs.GOOD)
@pytest.mark.parametrize("target", KINDS)
def test_every_kind_of_operator_compiles(name: str, target: str) -> None:
    found = compiled(request(graphs.good(name), target, "fast"))
    assert found.engine and found.findings == ()


@pytest.mark.parametrize("variant", ["w8a16", "w4a16"])
@pytest.mark.parametrize("name", ["transformer", "classifier", "encoder"])
@pytest.mark.parametrize("target", KINDS)
def test_weights_alone_in_8_and_4_bits_compile(name: str, target: str, variant: Variant) -> None:
    made = request(graphs.graph({**graphs.GOOD, "encoder": graphs.encoder}[name]()), target, variant)
    types = {t.data_type for t in onnx.load_from_string(made.graph).graph.initializer}
    if variant == "w4a16":
        assert (TensorProto.INT4 in types) == TARGETS[target].int4_weights
    else:
        assert TensorProto.INT8 in types and TensorProto.INT4 not in types
    found = compiled(made)
    assert found.engine and found.findings == ()


@pytest.mark.parametrize(("target", "kind"), [("ada", "fp8"), ("blackwell", "fp8"), ("a10", "int8")])
def test_a_whole_attention_in_8_bits_compiles(target: str, kind: str) -> None:
    made = request(graphs.graph(graphs.encoder()), target, "fast")
    assert dict(made.plan)["b0.scores"] == dict(made.plan)["b0.mix"] == kind
    found = compiled(made)
    assert found.engine and found.findings == ()


def test_several_types_in_one_plan_compile() -> None:
    """fp8 with int4 weights and int8 beside it, as a policy may ask for."""
    rules = [
        {"match": {"tag": "mlp"}, "precision": "w4a16", "reason": "size"},
        {"match": {"tag": "qkv"}, "precision": "fp8", "reason": "speed"},
        {"match": {"op": "Conv"}, "precision": "int8", "reason": "speed"},
    ]
    policy = Policy.model_validate({"name": "mixed", "rules": rules})
    made = request(graphs.graph(graphs.encoder()), "ada", "fast", policy)
    types = {t.data_type for t in onnx.load_from_string(made.graph).graph.initializer}
    assert {TensorProto.INT4, TensorProto.INT8, TensorProto.FLOAT8E4M3FN} <= types
    found = compiled(made)
    assert found.engine and found.findings == ()


def one_product(kind: int) -> bytes:
    """image → Cast → MatMul in a type → Cast."""
    weights = np.eye(32).astype(helper.tensor_dtype_to_np_dtype(kind))
    nodes = [
        helper.make_node("Cast", ["image"], ["narrow"], name="narrow", to=kind),
        helper.make_node("MatMul", ["narrow", "w"], ["product"], name="product"),
        helper.make_node("Cast", ["product"], ["out"], name="wide", to=TensorProto.FLOAT),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 32, 32]) for n in ("image", "out")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [numpy_helper.from_array(weights, "w")])
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9
    ).SerializeToString()


def test_a_t4_refuses_bf16_which_is_why_its_carrier_is_fp16() -> None:
    assert compiled(for_target(one_product(TensorProto.FLOAT16), "t4")).engine
    with pytest.raises(ModelError, match=r"cannot compile the graph for compute capability 7\.5"):
        compiled(for_target(one_product(TensorProto.BFLOAT16), "t4"))


def test_an_a10_refuses_fp8_which_is_why_it_gets_int8() -> None:
    for_ada = request(graphs.good("residual"), "ada", "fast")
    with pytest.raises(ModelError, match=r"cannot compile the graph for compute capability 8\.6"):
        compiled(replace(for_ada, capability=(8, 6)))
    assert compiled(for_ada).engine


@pytest.mark.parametrize("target", ["hopper", "orin", "thor"])
def test_devices_it_does_not_know_are_said_to_be_so(target: str) -> None:
    assert not TARGETS[target].rtx_aot
    with pytest.raises(ModelError, match="has no target SM") as caught:
        compiled(for_target(one_product(TensorProto.FLOAT), target))
    assert "SM89" in caught.value.why and "bundle" in caught.value.fix


def test_a_node_that_the_parser_cannot_read_is_named() -> None:
    model = onnx.ModelProto.FromString(one_product(TensorProto.FLOAT))
    model.graph.node[1].op_type, model.graph.node[1].domain = "Warp", "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(ModelError, match=r"TensorRT-RTX [\d.]+ cannot read the graph") as caught:
        compiled(for_target(model.SerializeToString(), "ada"))
    assert "node 'product' (Warp)" in caught.value.why


def test_two_compilations_give_the_same_bytes() -> None:
    what = request(graphs.good("classifier"), "ada", "fast")
    assert compiled(what).engine == compiled(what).engine


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("name", ["residual", "transformer"])
def test_a_range_of_batches_compiles_and_keeps_its_precisions(name: str, target: str) -> None:
    shapes = Profile((1, 3, 32, 32), (4, 3, 32, 32), (8, 3, 32, 32))
    fixed = request(graphs.good(name), target, "fast")
    opened = serialize(open_dimensions(onnx.ModelProto.FromString(fixed.graph), shapes))
    found = compiled(replace(fixed, graph=opened, profiles={"image": shapes}))
    assert found.engine and found.findings == ()


def test_a_range_of_sizes_compiles() -> None:
    shapes = Profile((1, 3, 16, 16), (1, 3, 32, 32), (2, 3, 64, 96))
    fixed = request(graphs.good("residual"), "ada", "fast")
    opened = serialize(open_dimensions(onnx.ModelProto.FromString(fixed.graph), shapes))
    assert compiled(replace(fixed, graph=opened, profiles={"image": shapes})).findings == ()


def test_an_open_graph_without_a_profile_is_refused_with_the_compilers_reason() -> None:
    shapes = Profile((1, 3, 32, 32), (4, 3, 32, 32), (8, 3, 32, 32))
    fixed = request(graphs.good("residual"), "ada", "fast")
    opened = serialize(open_dimensions(onnx.ModelProto.FromString(fixed.graph), shapes))
    with pytest.raises(ModelError, match="cannot compile") as caught:
        compiled(replace(fixed, graph=opened))
    assert "optimization profile" in caught.value.why


def test_a_graph_that_is_not_what_was_planned_is_found() -> None:
    """Compiled from the exact graph, with the plan of the fast one."""
    fast, exact = (request(graphs.good("residual"), "a10", variant) for variant in ("fast", "exact"))
    found = compiled(replace(exact, plan=fast.plan)).findings
    assert "planned int8, runs bf16: node 'left'" in found
    assert len(found) == sum(precision == "int8" for _, precision in fast.plan)


def test_a_build_tells_how_far_it_is() -> None:
    heard: list[int] = []
    what = request(graphs.good("classifier"), "ada", "fast")
    in_child(compile_engine, what, progress=lambda phase, done, total: heard.append(done))
    assert heard == sorted(heard) and heard[-1] > 50  # the last phase may end early


def test_a_build_for_this_machine_needs_its_gpu() -> None:
    if HERE.gpus:
        pytest.skip("there is one")
    what = replace(request(graphs.good("classifier"), "ada", "fast"), capability=None)
    with pytest.raises(ModelError, match="cannot compile the graph for this machine's GPU"):
        compiled(what)
