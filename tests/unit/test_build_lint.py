"""Each rule with a graph that breaks it; what `rewrite` writes breaks none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge.build.lint import RULES, Finding, lint, refuse
from edge.errors import ModelError
from edge.precision import numerics, plan
from edge.precision.plan import Variant
from edge.precision.rewrite import rewrite
from edge.targets import TARGETS


def typed(name: str = "residual", target: str = "ada", variant: Variant = "fast") -> onnx.ModelProto:
    index = graphs.good(name)
    seen = graphs.ranges(index)
    return rewrite(index, plan.make(index, TARGETS[target], variant, seen), seen, TARGETS[target])


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.name == name)


def replace(model: onnx.ModelProto, name: str, value: NDArray[Any]) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(value, name))


def constant(model: onnx.ModelProto, name: str) -> NDArray[Any]:
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def retype(model: onnx.ModelProto, tensor: str, code: int) -> None:
    value = next(v for v in model.graph.value_info if v.name == tensor)
    value.type.tensor_type.elem_type = code


# Each damages a good graph for Ada; the rule, its level and the node it has to name.

SCALE, ZERO = "left_relu.out/scale", "left_relu.out/zero_point"


def zero_point_of_one(m: onnx.ModelProto) -> None:
    replace(m, ZERO, np.ones((), numerics.NUMPY["fp8"]))


def zero_point_computed(m: onnx.ModelProto) -> None:
    node(m, "left_relu.out/fp8").input[2] = "stem_relu.out"


def negative_scale(m: onnx.ModelProto) -> None:
    replace(m, SCALE, -constant(m, SCALE))


def infinite_scale(m: onnx.ModelProto) -> None:
    replace(m, SCALE, np.asarray(np.inf, numerics.NUMPY["bf16"]))


def scale_computed(m: onnx.ModelProto) -> None:
    node(m, "left_relu.out/fp8").input[1] = "stem_relu.out"


def activation_per_channel(m: onnx.ModelProto) -> None:
    replace(m, SCALE, np.full(32, constant(m, SCALE)))


def wrong_axis(m: onnx.ModelProto) -> None:
    node(m, "right.weight/dequantized").attribute[0].i = 1


def activation_in_blocks(m: onnx.ModelProto) -> None:
    """A scale for every 8 values of an activation, in fp8."""
    pair = [n for n in m.graph.node if n.output[0] == "left_relu.out/dequantized"]
    pair[0].attribute.append(helper.make_attribute("block_size", 8))


def half_scale(m: onnx.ModelProto) -> None:
    replace(m, SCALE, np.asarray(0.5, np.float16))


def inexact_scale(m: onnx.ModelProto) -> None:
    replace(m, SCALE, np.asarray(0.1, np.float32))


def half_tensor(m: onnx.ModelProto) -> None:
    retype(m, "left_relu.out", TensorProto.FLOAT16)


def mixed_addends(m: onnx.ModelProto) -> None:
    retype(m, "right.out", TensorProto.FLOAT)


def int8_weights_for_fp8(m: onnx.ModelProto) -> None:
    replace(m, "right.weight/fp8", np.zeros((32, 32, 3, 3), np.int8))


def infinite_weight(m: onnx.ModelProto) -> None:
    bias = constant(m, "right.bias").copy()
    bias[0] = np.inf
    replace(m, "right.bias", bias)


def nan_weight(m: onnx.ModelProto) -> None:
    replace(m, "right.bias", constant(m, "right.bias") * np.array(np.nan, constant(m, "right.bias").dtype))


def quantized_bias(m: onnx.ModelProto) -> None:
    m.graph.node.insert(0, helper.make_node("DequantizeLinear", ["b", SCALE], ["b/dq"], name="b/dq"))
    m.graph.initializer.append(numpy_helper.from_array(np.zeros(32, np.int32), "b"))
    node(m, "right").input[2] = "b/dq"


def both_branches(m: onnx.ModelProto) -> None:
    for index in (0, 1):
        name = node(m, "add").input[index]
        pair = [
            helper.make_node("QuantizeLinear", [name, SCALE, ZERO], [f"q{index}"], name=f"q{index}"),
            helper.make_node("DequantizeLinear", [f"q{index}", SCALE, ZERO], [f"d{index}"], name=f"d{index}"),
        ]
        m.graph.node.extend(pair)
        node(m, "add").input[index] = f"d{index}"


def late_opset(m: onnx.ModelProto) -> None:
    m.opset_import[0].version = 21


Damage = Callable[[onnx.ModelProto], None]
BROKEN: list[tuple[Damage, str, str, str]] = [
    (zero_point_of_one, "error", "symmetric", "left_relu.out/fp8"),
    (zero_point_computed, "error", "symmetric", "left_relu.out/fp8"),
    (negative_scale, "error", "positive-scale", "left_relu.out/fp8"),
    (infinite_scale, "error", "positive-scale", "left_relu.out/fp8"),
    (scale_computed, "error", "positive-scale", "left_relu.out/fp8"),
    (activation_per_channel, "error", "per-channel", "left_relu.out/fp8"),
    (wrong_axis, "error", "per-channel", "right.weight/dequantized"),
    (activation_in_blocks, "error", "blocks", "left_relu.out/dequantized"),
    (half_scale, "error", "scale-type", "left_relu.out/fp8"),
    (inexact_scale, "error", "exact-scales", "left_relu.out/fp8"),
    (half_tensor, "error", "supported-types", "left_relu"),
    (mixed_addends, "error", "one-type", "add"),
    (int8_weights_for_fp8, "error", "one-quantized-type", "right"),
    (infinite_weight, "warning", "finite-constants", "right"),
    (nan_weight, "error", "finite-constants", "right"),
    (quantized_bias, "error", "no-quantized-bias", "right"),
    (both_branches, "warning", "one-residual-branch", "add"),
    (late_opset, "warning", "parser-opset", ""),
]


@pytest.mark.parametrize(("damage", "level", "rule", "where"), BROKEN, ids=[d[0].__name__ for d in BROKEN])
def test_a_broken_rule_is_found_with_its_node(damage: Damage, level: str, rule: str, where: str) -> None:
    model = typed()
    assert rule not in {f.rule for f in lint(model, TARGETS["ada"])}
    damage(model)
    found = [f for f in lint(model, TARGETS["ada"]) if f.rule == rule]
    assert found
    assert {f.level for f in found} == {level}
    assert where in {f.node for f in found} or not where


def test_every_rule_has_a_graph_that_breaks_it() -> None:
    assert len({rule for _, _, rule, _ in BROKEN}) == len(RULES)


def test_a_graph_for_a_newer_device_names_what_the_older_one_has_not() -> None:
    found = lint(typed(target="ada"), TARGETS["orin"])
    assert any(f.rule == "supported-types" and "writes fp8, which orin has not" in f.text for f in found)
    found = lint(typed(target="orin", variant="exact"), TARGETS["t4"])
    assert any(f.rule == "supported-types" and "writes bf16, which t4 has not" in f.text for f in found)


def test_weights_of_a_type_the_device_has_not_are_found() -> None:
    """Weights stored as fp8 behind a lone DQ, their activations not quantized."""
    model = typed(target="orin", variant="exact")
    weights = constant(model, "right.weight").astype(numerics.NUMPY["fp8"])
    model.graph.initializer.append(numpy_helper.from_array(weights, "w/fp8"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((), numerics.NUMPY["bf16"]), "w/scale"))
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["w/fp8", "w/scale"], ["w"], name="w/dq"))
    node(model, "right").input[1] = "w"
    found = lint(model, TARGETS["orin"])
    assert any(f.rule == "supported-types" and f.node == "w/dq" and "fp8" in f.text for f in found)


def test_fp16_overflow_of_a_weight_is_found() -> None:
    model = graphs.residual()
    tensor = next(t for t in model.graph.initializer if t.name == "right.bias")
    tensor.CopyFrom(numpy_helper.from_array(np.full(32, 1e5, np.float32), tensor.name))
    index = graphs.graph(model)
    for target, broken in (("t4", True), ("orin", False)):
        row = TARGETS[target]
        found = lint(rewrite(index, plan.make(index, row, "exact", {}), {}, row), row)
        assert any(f.rule == "finite-constants" and f.node == "right" for f in found) == broken


@pytest.mark.parametrize("name", [*graphs.GOOD, "loop"])
@pytest.mark.parametrize("variant", plan.VARIANTS)
@pytest.mark.parametrize("target", TARGETS)
def test_what_rewrite_writes_is_clean(name: str, target: str, variant: Variant) -> None:
    assert lint(typed(name, target, variant), TARGETS[target]) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", graphs.REAL)
def test_real_graphs_are_clean_on_every_target(name: str) -> None:
    index = graphs.real(name)
    seen = graphs.made_up_ranges(index)
    kinds: dict[tuple[object, ...], str] = {}
    for row in TARGETS.values():  # targets of the same capabilities have the same graph
        kinds.setdefault((row.carrier, row.quantized, row.depthwise_swish_int8, row.min_tensorrt), row.name)
    for target in kinds.values():
        for variant in plan.VARIANTS:
            model = rewrite(index, plan.make(index, TARGETS[target], variant, seen), seen, TARGETS[target])
            assert [str(f) for f in lint(model, TARGETS[target]) if f.level == "error"] == []


def test_processors_have_other_rules() -> None:
    model = typed()
    negative_scale(model)
    assert lint(model, TARGETS["cpu"]) == []


def test_errors_are_refused_with_node_and_rule_and_warnings_are_not() -> None:
    warning = Finding("warning", "parser-opset", "n", "opset 21")
    refuse([warning], TARGETS["ada"])
    errors = [
        Finding("error", "symmetric", f"node{i}", "the zero point is not a constant zero") for i in range(7)
    ]
    with pytest.raises(ModelError, match="the graph for ada breaks 7 rules") as caught:
        refuse([*errors, warning], TARGETS["ada"])
    assert "error [symmetric] node 'node0': the zero point is not a constant zero" in str(caught.value)
    assert "and 2 more" in str(caught.value)


def test_errors_come_first() -> None:
    model = typed()
    late_opset(model)
    negative_scale(model)
    levels = [f.level for f in lint(model, TARGETS["ada"])]
    assert levels == sorted(levels)
