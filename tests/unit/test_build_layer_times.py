"""What ONNX Runtime's profile says of a graph, counted for its products."""

from __future__ import annotations

from typing import Any

import graphs
import pytest

from edge.build import layer_times
from edge.build.layer_times import RUNS, measured
from edge.precision.groups import groups
from edge.precision.plan import Choice, Planner
from edge.precision.rewrite import rewrite
from edge.targets import TARGETS

CPU = TARGETS["cpu"]


def typed(name: str, quantized: bool, activations: Any = "u8") -> Any:
    index = graphs.good(name)
    planner = Planner(index, CPU, "fast", graphs.ranges(index), activations)
    choices = None if quantized else {g.name: Choice("fp32", "") for g in planner.groups}
    return rewrite(index, planner.plan(choices), graphs.ranges(index), CPU)


@pytest.mark.parametrize("name", ["residual", "depthwise_swish", "classifier", "transformer"])
def test_every_product_has_a_time_in_both(name: str) -> None:
    index = graphs.good(name)
    feeds = graphs.feeds(1)[0]
    found = measured(index, groups(index), typed(name, False), typed(name, True), feeds)
    assert found.how == "measured on this processor" and found.others >= 0
    for group in groups(index):
        for product in group.products:
            for precision in ("fp32", "int8"):
                assert found.products[product, precision] >= 0
    weighted = [n.name for n in index.nodes if n.op_type in ("Conv", "Gemm")]
    timed = [n for n in weighted if found.products[n, "fp32"] > 0 and found.products[n, "int8"] > 0]
    assert len(timed) >= len(weighted) - 1  # the clock counts in microseconds


def test_all_of_the_time_is_somebodys() -> None:
    """What is not a product's is the rest's; nothing is counted twice."""
    index = graphs.good("residual")
    seconds = layer_times._profile(typed("residual", True), graphs.feeds(1)[0])
    owners = layer_times._owners(index, groups(index))
    found, rest = layer_times._by_owner(owners, seconds)
    assert sum(found.values()) + rest == pytest.approx(sum(seconds.values()))
    assert set(found) <= {product for group in groups(index) for product in group.products}


@pytest.mark.parametrize(
    ("said", "owner"),
    [
        ("left_kernel_time", "left"),
        ("left_quant_kernel_time", "left"),
        ("left_nchwc_kernel_time", "left"),
        ("left_token_12_kernel_time", "left"),
        ("left_relu.out/int8_kernel_time", "left"),
        ("left_relu.out/dequantized_kernel_time", "left"),
        ("somebody/else_kernel_time", None),
    ],
)
def test_names_that_the_runtime_made_up_lead_to_their_product(said: str, owner: str | None) -> None:
    index = graphs.good("residual")
    found, rest = layer_times._by_owner(layer_times._owners(index, groups(index)), {said: 1.0})
    assert (found, rest) == (({owner: 1.0}, 0.0) if owner else ({}, 1.0))


def test_the_fastest_of_each_nodes_runs_counts() -> None:
    def event(name: str, microseconds: int, cat: str = "Node") -> dict[str, Any]:
        return {"cat": cat, "name": name, "dur": microseconds}

    events = [
        event("a_kernel_time", 900),
        event("a_kernel_time", 100),
        event("a_kernel_time", 101),
        event("b_kernel_time", 7),
        event("a_fence_before", 5000),
        event("model_run", 9999, cat="Session"),
    ]
    assert layer_times._kernel_seconds(events) == pytest.approx(
        {"a_kernel_time": 1e-4, "b_kernel_time": 7e-6}
    )


def test_profiles_leave_no_file_behind(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    layer_times._profile(typed("residual", False), graphs.feeds(1)[0])
    assert list(tmp_path.iterdir()) == [] and RUNS > 1
