"""Each rule of a precision plan, with a layer that meets it and one that does not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest

from edge.graph import Graph
from edge.precision import plan
from edge.precision.facts import last_layers
from edge.precision.placement import observed_tensors
from edge.precision.plan import Plan
from edge.precision.policy import Policy
from edge.precision.ranges import Range
from edge.targets import TARGETS, load_targets

SEEN = Range(-1.0, 1.0, 1.0, 1.0, (-1.0, 1.0))
DEAD = Range(0.0, 0.0, 0.0, 0.0, (0.0, 0.0))


def ranges(index: Graph, **different: Range) -> dict[str, Range]:
    return dict.fromkeys(observed_tensors(index), SEEN) | different


def planned(net: graphs.Net, last: str, target: str, seen: Mapping[str, Range] | None = None) -> Plan:
    """The fast plan of a net whose output comes from `last` through a cheap 1×1 head."""
    index = graphs.graph(net.model(last))
    return plan.make(index, TARGETS[target], "fast", ranges(index) if seen is None else seen)


def step(made: Plan, node: str) -> tuple[str, str]:
    return next((s.precision, s.reason) for s in made.steps if s.node == node)


def conv(
    target: str, channels: tuple[int, int], kernel: int = 3, group: int = 1, first: bool = False
) -> tuple[str, str]:
    """What becomes of one convolution, with a stem before it (or `first`) and another behind it."""
    net = graphs.Net(shape=(1, channels[0], 16, 16) if first else (1, 3, 16, 16))
    x = "image" if first else net.op("Relu", net.conv("image", "stem", (3, channels[0])), name="relu")
    x = net.conv(x, "layer", channels, kernel, group)
    x = net.conv(net.op("Relu", x, name="after"), "last", (channels[1], 16))
    index = Graph(graphs.prepare(net.model(x), None, (channels[0] if first else 3, 16, 16)))
    return step(plan.make(index, TARGETS[target], "fast", ranges(index)), "layer")


def matmul(shape: tuple[int, int], rows: int = 16) -> tuple[str, str]:
    """What becomes of a MatMul of `rows`×K by K×N on Ada; another follows it."""
    k, n = shape
    net = graphs.Net(shape=(1, 1, rows, k))
    x = net.op("MatMul", "image", net.weights("layer.weight", k, n), name="layer")
    x = net.op("MatMul", x, net.weights("last.weight", n, 512), name="last")
    index = Graph(graphs.prepare(net.model(x), None, (1, rows, k)))
    return step(plan.make(index, TARGETS["ada"], "fast", ranges(index)), "layer")


class TestRules:
    def test_other_operators_stay_in_the_carrier(self) -> None:
        index = graphs.good("transformer")
        made = plan.make(index, TARGETS["ada"], "fast", ranges(index))
        for node in ("norm", "softmax"):
            precision, reason = step(made, node)
            assert precision == "bf16"
            assert "stays in the carrier: only Conv, Gemm and MatMul are quantized" in reason
        assert step(made, "query") == ("fp8", "fp8: no rule objects")

    def test_attention_is_quantized_where_the_device_has_a_kernel(self) -> None:
        index = graphs.good("transformer")
        for target, precision, why in (
            ("ada", "fp8", "fp8: no rule objects"),
            ("orin", "int8", "int8: no rule objects"),
            ("cpu", "fp32", "product of two activations: this device has no quantized kernel for it"),
        ):
            made = plan.make(index, TARGETS[target], "fast", ranges(index))
            for node in ("scores", "mix"):
                assert step(made, node) == (precision, why)

    @pytest.mark.parametrize(
        ("head", "tokens", "ada", "orin"),
        [
            (8, 64, "bf16", "bf16"),  # too small for any kernel
            (16, 64, "fp8", "int8"),
            (256, 64, "fp8", "int8"),
            (264, 64, "int8", "int8"),  # fp8 ends at 256
            (16, 512, "fp8", "int8"),
            (16, 520, "fp8", "bf16"),  # int8 ends at 512 tokens
        ],
    )
    def test_heads_and_sequences_of_attention_have_limits(
        self, head: int, tokens: int, ada: str, orin: str
    ) -> None:
        index = Graph(graphs.prepare(graphs.attention(head, tokens), None, (1, tokens, head)))
        for target, expected in (("ada", ada), ("orin", orin)):
            made = plan.make(index, TARGETS[target], "fast", ranges(index))
            assert [step(made, node)[0] for node in ("scores", "mix")] == [expected] * 2

    def test_a_range_has_to_be_known_and_alive(self) -> None:
        index = graphs.good("residual")
        source = next(n.input[0] for n in index.nodes if n.name == "right")
        alive = ranges(index)
        unknown = {k: v for k, v in alive.items() if k != source}
        for seen, reason in (
            (alive, "int8: no rule objects"),
            (unknown, "no range was measured for its input"),
            (
                {**alive, source: DEAD},
                "its input was zero, or next to it, in every calibration sample: no scale fits",
            ),
        ):
            assert step(plan.make(index, TARGETS["orin"], "fast", seen), "right")[1] == reason

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_weights_have_to_be_finite(self, bad: float) -> None:
        model = graphs.residual()
        tensor = next(t for t in model.graph.initializer if t.name == "right.weight")
        values = graphs.numpy_helper.to_array(tensor).copy()
        values[0, 0, 0, 0] = bad
        tensor.CopyFrom(graphs.numpy_helper.from_array(values, tensor.name))
        index = graphs.graph(model)
        made = plan.make(index, TARGETS["orin"], "fast", ranges(index))
        assert step(made, "right") == ("bf16", "its weights or bias hold NaN or infinity")
        assert step(made, "left")[0] == "int8"

    @pytest.mark.parametrize(
        ("channels", "precision", "reason"),
        [
            ((17, 32), "fp8", "no rule objects"),
            ((16, 32), "int8", "more than 16 channels, has 16 → 32"),
            ((32, 16), "int8", "more than 16 channels, has 32 → 16"),
        ],
    )
    def test_fp8_wants_more_than_16_channels(
        self, channels: tuple[int, int], precision: str, reason: str
    ) -> None:
        found = conv("ada", channels)
        assert found[0] == precision and reason in found[1]

    @pytest.mark.parametrize(("kernel", "precision"), [(5, "fp8"), (7, "int8")])
    def test_fp8_takes_kernels_of_up_to_32_elements(self, kernel: int, precision: str) -> None:
        found = conv("ada", (32, 32), kernel)
        assert found[0] == precision
        assert (
            precision == "fp8" or found[1] == "int8: fp8 convolution takes kernels up to 32 elements, has 49"
        )
        assert conv("orin", (32, 32), kernel)[0] == "int8"

    def test_fp8_has_no_grouped_kernels(self) -> None:
        assert conv("ada", (64, 64), group=2) == (
            "int8",
            "int8: no optimized fp8 kernel for grouped convolution (group=2)",
        )
        assert conv("orin", (64, 64), group=2)[0] == "int8"

    @pytest.mark.parametrize(
        ("channels", "first", "precision"),
        [
            ((16, 16), False, "int8"),
            ((12, 32), False, "int8"),  # one side wide, in multiples of 8
            ((12, 30), False, "bf16"),
            ((12, 12), False, "bf16"),
            ((3, 8), True, "int8"),  # a first layer may be narrow
            ((3, 8), False, "bf16"),
            ((3, 10), True, "bf16"),
        ],
    )
    def test_int8_wants_16_channels_on_a_side(
        self, channels: tuple[int, int], first: bool, precision: str
    ) -> None:
        found = conv("orin", channels, first=first)
        assert found[0] == precision
        if precision == "bf16":
            assert (
                found[1] == f"int8 convolution needs 16 channels on a side, has {channels[0]} → {channels[1]}"
            )

    @pytest.mark.parametrize(
        ("channels", "kernel", "precision"),
        [((32, 32), 3, "int8"), ((32, 36), 3, "bf16"), ((32, 32), 1, "bf16")],
    )
    def test_grouped_int8_wants_multiples_of_8_and_a_kernel(
        self, channels: tuple[int, int], kernel: int, precision: str
    ) -> None:
        found = conv("orin", channels, kernel, group=4)
        assert found[0] == precision
        assert precision == "int8" or "output channels in multiples of 8 and kernels of 3" in found[1]

    @pytest.mark.parametrize(("target", "device"), [("orin", True), ("t4", True), ("a10", False)])
    def test_depthwise_before_swish_has_no_kernel_on_some_devices(self, target: str, device: bool) -> None:
        for swish in (True, False):
            index = graphs.graph(graphs.depthwise_swish(swish))
            precision, reason = step(plan.make(index, TARGETS[target], "fast", ranges(index)), "depthwise")
            refused = swish and device
            assert precision == (TARGETS[target].carrier if refused else "int8")
            assert reason.startswith("no int8 kernel for depthwise" if refused else "int8: no rule objects")

    @pytest.mark.parametrize(
        ("shape", "rows", "precision", "reason"),
        [
            ((32, 32), 16, "fp8", "no rule objects"),
            ((15, 32), 16, "bf16", "matrix of 15×32 is too small to gain"),
            ((32, 15), 16, "bf16", "matrix of 32×15 is too small to gain"),
            ((32, 32), 1, "bf16", "matrix–vector product: memory-bound in any type"),
        ],
    )
    def test_small_matrices_and_vectors_gain_nothing(
        self, shape: tuple[int, int], rows: int, precision: str, reason: str
    ) -> None:
        found = matmul(shape, rows)
        assert found[0] == precision and reason in found[1]

    def test_a_vector_of_weights_is_no_matrix(self) -> None:
        net = graphs.Net(shape=(1, 3, 16, 32))
        x = net.op("MatMul", "image", net.weights("layer.weight", 32), name="layer")
        index = Graph(graphs.prepare(net.model(x), None, (3, 16, 32)))
        precision, reason = step(plan.make(index, TARGETS["ada"], "fast", ranges(index)), "layer")
        assert (precision, reason) == ("bf16", "matrix of 32×1 is too small to gain")

    def test_the_first_rule_that_objects_gives_the_reason(self) -> None:
        assert "16 channels" in conv("ada", (16, 16), kernel=7)[1]


def planned_residual(at_least: dict[str, Any] | None = None) -> Plan:
    """On Orin; products that fit `at_least` stay in the carrier."""
    index = graphs.good("residual")
    rule = {
        "match": at_least or {"tag": "product"},
        "at_least": "carrier" if at_least else "int8",
        "reason": "so",
    }
    policy = Policy.model_validate({"name": "test", "rules": [rule]})
    return plan.make(index, TARGETS["orin"], "fast", ranges(index), policy=policy)


class TestPlan:
    @pytest.mark.parametrize("target", TARGETS)
    def test_the_exact_variant_quantizes_nothing(self, target: str) -> None:
        index = graphs.good("residual")
        made = plan.make(index, TARGETS[target], "exact", {})
        assert not made.quantized and made.quantized_mac_share == 0
        assert made.label == TARGETS[target].carrier
        assert {s.precision for s in made.steps} == {TARGETS[target].carrier}
        assert {s.reason for s in made.steps} == {"variant 'exact': everything in the carrier"}

    @pytest.mark.parametrize("target", TARGETS)
    @pytest.mark.parametrize("name", graphs.GOOD)
    def test_the_same_inputs_give_the_same_plan(self, name: str, target: str) -> None:
        plans = []
        for _ in range(2):
            index = graphs.graph(graphs.GOOD[name]())
            plans.append(plan.make(index, TARGETS[target], "fast", ranges(index)))
        assert plans[0] == plans[1]

    @pytest.mark.parametrize("name", graphs.GOOD)
    def test_every_node_that_computes_in_floating_point_has_a_step(self, name: str) -> None:
        index = graphs.graph(graphs.GOOD[name]())
        made = plan.make(index, TARGETS["ada"], "fast", ranges(index))
        assert [s.node for s in made.steps] == [n.name for n in index.nodes]
        assert all(s.reason and s.precision in ("fp8", "int8", "bf16") for s in made.steps)

    def test_shape_arithmetic_has_no_step(self) -> None:
        net = graphs.Net()
        x = net.conv("image", "stem", (3, 32))
        where = net.op("NonZero", x, name="where")
        rows = net.op("Cast", where, name="rows", to=1)
        made = planned(net, rows, "ada")
        assert "where" not in {s.node for s in made.steps}
        assert "rows" in {s.node for s in made.steps}

    def test_the_share_is_of_multiply_accumulates(self) -> None:
        made = planned_residual()
        macs = {s.node: s.macs for s in made.steps if s.macs}
        assert macs == {
            "stem": 32 * 32 * 32 * 27,
            "left": 32 * 32 * 32 * 32 * 9,
            "right": 32 * 32 * 32 * 32 * 9,
            "branch": 16 * 16 * 32 * 32,
            "merge": 16 * 16 * 32 * 64 * 9,
            "head": 16 * 16 * 32,
        }
        assert made.quantized == set(macs)
        kept = planned_residual(at_least={"name": "head"})
        assert kept.quantized == set(macs) - {"head"}
        assert kept.quantized_mac_share == pytest.approx(1 - macs["head"] / sum(macs.values()))
        assert kept.mac_shares == pytest.approx(
            {"int8": kept.quantized_mac_share, "bf16": 1 - kept.quantized_mac_share}
        )

    def test_a_users_row_is_asked_like_any_other(self, tmp_path: Path) -> None:
        matrix = tmp_path / "boards.toml"
        matrix.write_text(
            '[targets.board]\nlike = "ada"\nquantized = ["int8"]\ndepthwise_swish_int8 = false\n'
        )
        board = load_targets(matrix)["board"]
        index = graphs.graph(graphs.depthwise_swish())
        made = plan.make(index, board, "fast", ranges(index))
        assert made.label == "int8"
        assert step(made, "depthwise")[1].startswith(
            "no int8 kernel for depthwise convolution followed by Swish"
        )

    def test_a_net_without_ranges_is_not_quantized(self) -> None:
        index = graphs.good("residual")
        assert not plan.make(index, TARGETS["ada"], "fast", {}).quantized


def test_last_layers_are_those_an_output_is_reached_from_without_another() -> None:
    net = graphs.Net()
    x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="relu")
    left, right = net.conv(x, "left", (32, 4)), net.conv(x, "right", (32, 4))
    index = graphs.graph(net.model(net.op("Add", left, right, name="add"), left, names=("sum", "part")))
    assert last_layers(index) == {"left", "right"}


def test_an_operator_whose_shapes_are_unknown_counts_no_work() -> None:
    index = graphs.graph(graphs.loop())
    made: Any = plan.make(index, TARGETS["orin"], "fast", ranges(index))
    assert {s.node: s.macs for s in made.steps}["body"] == 0
