"""The roofline estimate: arithmetic and traffic of every product, by the target's row."""

from __future__ import annotations

import dataclasses

import graphs
import pytest

from edge.graph import Graph
from edge.precision.cost import GROUPED_RATE, Costs, roofline
from edge.precision.groups import groups
from edge.precision.plan import Choice, Planner
from edge.targets import TARGETS, Target

ROW = dataclasses.replace(
    TARGETS["ada"], int8_tops=200.0, fp8_tflops=100.0, carrier_tflops=50.0, memory_bandwidth_gb_s=100.0
)


def costs(index: Graph, row: Target = ROW) -> Costs:
    return roofline(index, groups(index), row)


def test_a_convolution_by_hand() -> None:
    found = costs(graphs.good("residual")).products
    macs, activations, weights = 32 * 32 * 32 * 32 * 9, 2 * 32 * 32 * 32, 32 * 32 * 9
    for precision, rate, size, stored in (
        ("int8", 200e12, 1, 1),
        ("fp8", 100e12, 1, 1),
        ("w8a16", 50e12, 2, 1),
        ("bf16", 50e12, 2, 2),
        ("fp32", 25e12, 4, 4),
    ):
        expected = 2 * macs / rate + (size * activations + stored * weights) / 100e9
        assert found["left", precision] == pytest.approx(expected), precision


def test_int4_weights_take_half_a_byte() -> None:
    found = costs(graphs.good("transformer")).products
    saved = found["query", "w8a16"] - found["query", "w4a16"]
    assert saved == pytest.approx(0.5 * 32 * 32 / 100e9)


def test_a_grouped_convolution_does_not_fill_the_matrix_units() -> None:
    found = costs(graphs.good("depthwise_swish")).products
    macs = 32 * 32 * 32 * 9
    expected = 2 * macs / (200e12 * GROUPED_RATE) + (2 * 32 * 32 * 32 + 32 * 9) / 100e9
    assert found["depthwise", "int8"] == pytest.approx(expected)


def test_a_product_of_two_activations_reads_both() -> None:
    found = costs(graphs.good("transformer")).products
    expected = 2 * 25 * 25 * 32 / 200e12 + (2 * 25 * 32 + 25 * 25) / 100e9
    assert found["scores", "int8"] == pytest.approx(expected)


def test_of_an_add_that_is_fused_only_its_skip_is_read() -> None:
    found = costs(graphs.good("residual")).products
    assert found["add", "int8"] == pytest.approx(32 * 32 * 32 / 100e9)
    assert found["add", "bf16"] == pytest.approx(2 * 32 * 32 * 32 / 100e9)


def test_what_belongs_to_no_group_is_traffic_in_the_carrier() -> None:
    index = graphs.good("residual")
    inside = {name for group in groups(index) for name in group.nodes}
    loose = [node for node in index.nodes if node.name not in inside]
    assert {node.op_type for node in loose} == {"Relu", "MaxPool", "Concat"}
    read = 32 * 32 * 32 + 32 * 32 * 32 + 2 * 32 * 16 * 16  # Relu behind the Add, MaxPool, Concat
    written = 32 * 32 * 32 + 32 * 16 * 16 + 64 * 16 * 16
    assert costs(index).others == pytest.approx(2 * (read + written) / 100e9)


@pytest.mark.parametrize("name", graphs.GOOD)
@pytest.mark.parametrize("target", TARGETS)
def test_nothing_quantized_is_slower_than_the_carrier(name: str, target: str) -> None:
    row = TARGETS[target]
    found = costs(graphs.good(name), row)
    assert all(seconds > 0 for seconds in found.products.values())
    for (node, precision), seconds in found.products.items():
        if precision in row.quantized or precision in ("w8a16", "w4a16"):
            assert seconds <= found.products[node, row.carrier]


def test_a_plan_costs_what_its_products_do_and_the_rest() -> None:
    index = graphs.good("residual")
    planner = Planner(index, TARGETS["orin"], "fast", graphs.made_up_ranges(index))
    found = costs(index, TARGETS["orin"])
    every, none = planner.plan(), planner.plan({g.name: Choice("bf16", "") for g in planner.groups})
    total = sum(
        found.group(planner.given(group, "int8" if group.kind != "skip" else "bf16"))
        for group in planner.groups
    )
    assert found.plan(every) == pytest.approx(total + found.others)
    assert found.plan(none) > found.plan(every)


def test_a_row_that_says_nothing_of_its_speed_still_ranks_plans() -> None:
    silent = dataclasses.replace(
        ROW, int8_tops=None, fp8_tflops=None, carrier_tflops=None, memory_bandwidth_gb_s=None
    )
    found = costs(graphs.good("residual"), silent)
    assert found.products["left", "int8"] < found.products["left", "bf16"] < found.products["left", "fp32"]
    assert found.how == "roofline estimate"


def test_unknown_shapes_cost_no_traffic() -> None:
    found = costs(graphs.good("loop"))
    assert all(seconds >= 0 for seconds in found.products.values())
