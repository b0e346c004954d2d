"""Rules on graphs: every way to match, every thing to say, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import graphs
import pytest
from graphs import Net

from edge.errors import ConfigError
from edge.graph import Graph
from edge.precision.facts import describe
from edge.precision.groups import groups
from edge.precision.plan import Plan, Planner, Variant
from edge.precision.policy import Match, Policy
from edge.precision.rules import Matcher, Rulebook
from edge.targets import TARGETS


@pytest.fixture(scope="module")
def encoder() -> Graph:
    return graphs.graph(graphs.encoder())


@pytest.fixture(scope="module")
def residual() -> Graph:
    return graphs.good("residual")


def matcher(index: Graph) -> Matcher:
    return Matcher(index, describe(index, groups(index)))


def matched(index: Graph, **match: Any) -> set[str]:
    return set(matcher(index).products(Match.model_validate(match)))


def policy(*rules: dict[str, Any], **more: Any) -> Policy:
    return Policy.model_validate({"name": "test", "rules": [{"reason": "so", **r} for r in rules], **more})


def planned(index: Graph, target: str, *rules: dict[str, Any], variant: Variant = "fast") -> Plan:
    ranges = graphs.made_up_ranges(index)
    return Planner(index, TARGETS[target], variant, ranges, policy=policy(*rules)).plan()


def reason(plan: Plan, node: str) -> str:
    return next(s.reason for s in plan.steps if s.node == node)


class TestMatch:
    @pytest.mark.parametrize(
        ("match", "nodes"),
        [
            ({"op": "Gemm"}, {"classes"}),
            ({"op": ["Conv", "Gemm"]}, {"patches", "classes"}),
            ({"name": "b0.up"}, {"b0.up"}),
            ({"name": "b?.up"}, {"b0.up", "b1.up"}),
            ({"name": ["*.up", "pat*"]}, {"b0.up", "b1.up", "patches"}),
            ({"name": "B0.UP"}, set()),
            ({"layers": 0}, {"patches"}),
            ({"layers": -1}, {"classes"}),
            ({"layers": [0, 1]}, {"patches", "b0.key"}),
            ({"layers": [-2, -1]}, {"b1.down", "classes"}),
            ({"blocks": 0, "op": "MatMul", "tag": "mlp"}, {"b0.up", "b0.down"}),
            ({"blocks": -1, "tag": "qkv"}, {"b1.key", "b1.query", "b1.value"}),
            ({"blocks": [0, 1], "tag": "projection"}, {"b0.project", "b1.project"}),
            ({"tag": ["mlp", "weighted"], "name": "b0*"}, {"b0.up", "b0.down"}),
            ({"tag": "weighted", "not_tag": ["qkv", "mlp", "projection"]}, {"patches", "classes"}),
            ({"where": {"depth": {"at_least": 64}}}, {"b0.down", "b1.down"}),
            ({"where": {"columns": {"at_most": 10}}}, {"classes"}),
            ({"where": {"mac_share": {"at_least": 0.2}}}, {"patches"}),
            ({"where": {"depth": {"at_least": 32}, "columns": {"multiple_of": 64}}}, {"b0.up", "b1.up"}),
            ({"between": {"from": "b0.norm2.out", "to": "b0.down.out"}}, {"b0.up", "b0.down"}),
            ({"between": {"to": "rows.out"}}, {"patches"}),
            ({"between": {"from": "norm.out"}}, {"classes"}),
            ({"between": {"from": "b0.norm1.out", "to": ["b0.query.out", "b0.value.out"]}},
             {"b0.query", "b0.value"}),
        ],
    )  # fmt: skip
    def test_each_key(self, match: dict[str, Any], nodes: set[str], encoder: Graph) -> None:
        assert matched(encoder, **match) == nodes

    def test_nothing_given_is_every_product(self, encoder: Graph) -> None:
        assert len(matched(encoder)) == 18

    def test_an_unknown_tensor_is_an_error_with_the_nearest(self, encoder: Graph) -> None:
        with pytest.raises(ConfigError, match=r"names the tensor 'b0\.norm\.out'") as caught:
            matched(encoder, between={"from": "b0.norm.out"})
        assert "b0.norm" in caught.value.fix


class TestWhatIsSaid:
    def test_precision_decides(self, residual: Graph) -> None:
        plan = planned(residual, "ada", {"match": {"name": "left"}, "precision": "int8"})
        assert plan.precisions["left"] == "int8" and plan.precisions["right"] == "fp8"
        assert reason(plan, "left") == "test: rule 1: so"

    def test_of_several_the_best_that_the_device_has_is_taken(self, residual: Graph) -> None:
        rule = {"match": {"tag": "product"}, "precision": ["fp8", "int8", "carrier"]}
        assert planned(residual, "orin", rule).precisions["left"] == "int8"
        assert planned(residual, "ada", rule).precisions["left"] == "fp8"
        ada = planned(residual, "ada", rule)
        assert ada.precisions["stem"] == "int8" and "(no fp8: fp8 convolution needs" in reason(ada, "stem")
        assert reason(ada, "left") == "test: rule 1: so"

    @pytest.mark.parametrize(
        ("least", "target", "precision"),
        [
            ("fp8", "ada", "fp8"),
            ("int8", "ada", "int8"),
            ("int8", "orin", "int8"),
            ("w8a16", "ada", "bf16"),
            ("carrier", "ada", "bf16"),
            ("carrier", "t4", "fp16"),
            ("carrier", "cpu", "fp32"),
            ("bf16", "t4", "fp16"),
            ("fp16", "ada", "bf16"),
            ("fp32", "ada", "fp32"),
        ],
    )
    def test_at_least_takes_away_what_is_coarser(
        self, least: str, target: str, precision: str, residual: Graph
    ) -> None:
        plan = planned(residual, target, {"match": {"name": "left"}, "at_least": least})
        assert plan.precisions["left"] == precision

    def test_forbid_takes_away_what_it_names(self, residual: Graph) -> None:
        one = planned(residual, "ada", {"match": {"name": "left"}, "forbid": "fp8"})
        assert one.precisions["left"] == "int8" and reason(one, "left") == "test: rule 1: so"
        both = planned(residual, "ada", {"match": {"name": "left"}, "forbid": ["fp8", "int8"]})
        assert both.precisions["left"] == "bf16"

    def test_a_rule_that_takes_nothing_away_gives_no_reason(self, residual: Graph) -> None:
        first = {"match": {"name": "left"}, "at_least": "carrier", "name": "edges"}
        second = {"match": {"name": "left"}, "forbid": "fp8", "name": "no fp8"}
        assert reason(planned(residual, "ada", first, second), "left") == "test: edges: so"
        assert reason(planned(residual, "ada", second, first), "left") == "test: edges: so"

    def test_later_rules_work_on_what_earlier_ones_left(self, residual: Graph) -> None:
        everything = {"match": {"tag": "product"}, "at_least": "carrier", "name": "all"}
        but = {"match": {"name": "left"}, "precision": "int8", "name": "but"}
        first = planned(residual, "orin", everything, but)
        assert first.quantized == {"left"} and reason(first, "left") == "test: but: so"
        assert planned(residual, "orin", but, everything).quantized == set()

    def test_fp32_is_about_every_node(self, residual: Graph) -> None:
        rule = {"match": {"op": ["Concat", "Sigmoid"]}, "precision": "fp32", "name": "wide"}
        plan = planned(residual, "ada", rule)
        assert plan.widened == {"concat", "sigmoid"} and reason(plan, "concat") == "test: wide: so"
        assert planned(residual, "ada", rule, variant="exact").widened == {"concat", "sigmoid"}

    def test_a_reason_holds_the_nodes_numbers(self, residual: Graph) -> None:
        rule = {"match": {"name": "left"}, "forbid": "fp8", "reason": "{in_channels} → {out_channels}, {odd}"}
        text = reason(planned(residual, "ada", rule), "left")
        assert text == "test: rule 1: {in_channels} → {out_channels}, {odd}"  # a word that it has not
        rule["reason"] = "{in_channels} → {out_channels}, {kernel:}"
        assert reason(planned(residual, "ada", rule), "left") == "test: rule 1: 32 → 32, 9"
        rule["reason"] = "{mac_share} of the work"
        share = reason(planned(residual, "ada", rule), "left")
        assert re.fullmatch(r"test: rule 1: \d+\.\d\d% of the work", share)

    def test_int4_and_w8a16_can_be_mixed_into_a_fast_plan(self, encoder: Graph) -> None:
        rules = (
            {"match": {"tag": "mlp"}, "precision": "w4a16"},
            {"match": {"tag": "projection"}, "precision": "w8a16"},
        )
        plan = planned(encoder, "ada", *rules)
        assert plan.precisions["b0.up"] == "w4a16" and plan.precisions["b1.project"] == "w8a16"
        assert plan.precisions["b0.query"] == "fp8"
        assert set(plan.label.split("+")) == {"fp8", "int8", "w4a16", "w8a16"} or "w4a16" in plan.label


class TestVariants:
    def test_exact_hears_of_fp32_alone(self, residual: Graph) -> None:
        plan = planned(residual, "ada", {"match": {"name": "left"}, "precision": "int8"}, variant="exact")
        assert {s.precision for s in plan.steps} == {"bf16"}

    @pytest.mark.parametrize("variant", ["w8a16", "w4a16"])
    def test_weight_only_does_not_multiply_in_what_a_rule_asks_for_the_fast_one(
        self, variant: Variant, encoder: Graph
    ) -> None:
        """Nor does it lose its weights' type: that is finer than what the rule allows."""
        rule = {"match": {"tag": "mlp"}, "precision": ["fp8", "carrier"]}
        plan = planned(encoder, "ada", rule, variant=variant)
        assert not plan.quantized
        assert plan.precisions["b0.up"] == variant

    def test_weight_only_obeys_all_other_rules(self, encoder: Graph) -> None:
        kept = {"match": {"tag": "first"}, "at_least": "carrier"}
        finer = {"match": {"tag": "mlp"}, "at_least": "w8a16"}
        plan = planned(encoder, "ada", kept, finer, variant="w4a16")
        assert plan.precisions["patches"] == "bf16" and plan.precisions["b0.up"] == "w8a16"

    def test_rules_keep_their_place_in_what_is_told(self, residual: Graph) -> None:
        rules = (
            {"match": {"name": "left"}, "precision": "int8"},
            {"match": {"op": "Concat"}, "at_least": "fp32"},
        )
        assert reason(planned(residual, "ada", *rules, variant="exact"), "concat") == "test: rule 2: so"


class TestTargets:
    def test_a_rule_for_others_is_not_applied(self, residual: Graph) -> None:
        rule = {"match": {"name": "left"}, "forbid": "int8", "targets": ["t4"]}
        assert planned(residual, "orin", rule).precisions["left"] == "int8"
        assert planned(residual, "t4", rule).precisions["left"] == "fp16"

    def test_a_rule_for_others_may_match_nothing(self, residual: Graph) -> None:
        planned(residual, "orin", {"match": {"name": "absent"}, "forbid": "int8", "targets": ["t4"]})

    def test_a_capability_makes_a_rule_void(self, residual: Graph) -> None:
        rule = {"match": {"name": "left"}, "forbid": "int8", "unless": "depthwise_swish_int8"}
        assert planned(residual, "a100", rule).precisions["left"] == "int8"  # has that kernel
        assert planned(residual, "t4", rule).precisions["left"] == "fp16"

    def test_an_unknown_capability_is_an_error_with_the_nearest(self, residual: Graph) -> None:
        rule = {"match": {"name": "left"}, "forbid": "int8", "unless": "depthwise_swish"}
        with pytest.raises(ConfigError, match="no capability 'depthwise_swish'") as caught:
            planned(residual, "orin", rule)
        assert "depthwise_swish_int8" in caught.value.fix


class TestRefused:
    @pytest.mark.parametrize(
        ("match", "says"),
        [
            ({"name": "lefd"}, "near: left"),
            ({"name": "*/stem/*"}, "near: stem"),
            ({"op": "Convolution"}, "operators there are: Conv"),
            ({"tag": "depthwise"}, "tags there are: "),
            ({"layers": 40}, "layers go from 0 to 5"),
            ({"blocks": 0}, "the graph has no blocks"),
            ({"op": "Conv", "name": "lefd"}, "near: left"),
            ({"name": "left", "layers": 0}, "its criteria fit different nodes"),
        ],
    )
    def test_a_rule_that_matches_nothing_shows_near_misses(
        self, match: dict[str, Any], says: str, residual: Graph
    ) -> None:
        with pytest.raises(ConfigError, match="the policy's rule 'test: rule 1' matches nothing") as caught:
            planned(residual, "orin", {"match": match, "forbid": "int8"})
        assert says in caught.value.fix

    def test_how_many_each_criterion_fits_is_told(self, residual: Graph) -> None:
        with pytest.raises(ConfigError) as caught:
            planned(residual, "orin", {"match": {"op": "Conv", "name": "lefd"}, "forbid": "int8"})
        assert "of the graph's 6 products: op 'Conv' fits 6, name 'lefd' fits none" in caught.value.why

    def test_a_rule_for_fp32_looks_among_all_nodes(self, residual: Graph) -> None:
        with pytest.raises(ConfigError) as caught:
            planned(residual, "orin", {"match": {"op": "Softmax"}, "precision": "fp32"})
        assert "Concat" in caught.value.fix and "Sigmoid" in caught.value.fix

    def test_more_nodes_than_expected(self, residual: Graph) -> None:
        rule = {"match": {"op": "Conv"}, "forbid": "int8", "expect": 5, "name": "few"}
        with pytest.raises(ConfigError, match="'test: few' matches 6 nodes") as caught:
            planned(residual, "orin", rule)
        assert "stem" in caught.value.why
        planned(residual, "orin", {**rule, "expect": 6})

    @pytest.mark.parametrize(
        ("target", "node", "precision", "why"),
        [
            ("orin", "left", "fp8", "orin has no fp8"),
            ("ada", "stem", "fp8", "more than 16 channels"),
            ("t4", "stem", "fp8", "t4 has no fp8 in the hardware matrix"),
            ("cpu", "left", "bf16", "cpu carries fp32"),
            ("orin", "left", "w4a16", "int4 weights are for matrix products"),
        ],
    )
    def test_what_the_device_does_not_have(
        self, target: str, node: str, precision: str, why: str, residual: Graph
    ) -> None:
        rule = {"match": {"name": node}, "precision": precision}
        with pytest.raises(ConfigError, match=f"asks for {precision} at node '{node}'") as caught:
            planned(residual, target, rule)
        assert why in caught.value.why
        assert ("hardware rule" in caught.value.why) is (target == "ada" or precision == "w4a16")
        alternative = {**rule, "precision": [precision, "carrier"]}
        assert planned(residual, target, alternative).precisions[node] == TARGETS[target].carrier

    def test_everything_forbidden(self, residual: Graph) -> None:
        rule = {"match": {"name": "left"}, "forbid": ["int8", "carrier"]}
        with pytest.raises(ConfigError, match="asks for no int8, carrier at node 'left'") as caught:
            planned(residual, "orin", rule)
        assert "nothing is left over" in caught.value.why

    def test_a_dead_input_cannot_be_quantized_by_a_rule(self, residual: Graph) -> None:
        rule = policy({"match": {"name": "left"}, "precision": "int8"})
        with pytest.raises(ConfigError, match="at node 'left'") as caught:
            Planner(residual, TARGETS["orin"], "fast", {}, policy=rule).plan()
        assert "no range was measured" in caught.value.why


class TestHardware:
    """Rules of the matrix that test_precision_plan.py does not go through one by one."""

    def refused(self, index: Graph, target: str, node: str) -> dict[str, str]:
        book = Rulebook(index, describe(index, groups(index)), TARGETS[target], policy())
        return book.refused.get(node, {})

    def test_rows_of_the_matrix_decide(self) -> None:
        swish = graphs.good("depthwise_swish")
        for target, row in TARGETS.items():
            reasons = self.refused(swish, target, "depthwise")
            assert ("int8" in reasons) is (not row.depthwise_swish_int8)
            assert ("fp8" in reasons) is (not row.depthwise_fp8)

    def test_attention_needs_a_kernel(self) -> None:
        index = graphs.good("transformer")
        for target, row in TARGETS.items():
            assert ("int8" in self.refused(index, target, "scores")) is (not row.quantized_attention)

    def test_int4_needs_a_device_and_a_matrix(self) -> None:
        index = graphs.good("transformer")
        for target, row in TARGETS.items():
            assert ("w4a16" in self.refused(index, target, "query")) is (not row.int4_weights)
            assert "w4a16" in self.refused(index, target, "patches")

    def test_no_kernel_of_more_than_32_elements_in_fp8(self) -> None:
        net = Net()
        x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="relu")
        x = net.conv(net.conv(x, "five", (32, 32), kernel=5), "seven", (32, 32), kernel=7)
        index = graphs.graph(net.model(x))
        assert "fp8" not in self.refused(index, "ada", "five")
        assert "has 49" in self.refused(index, "ada", "seven")["fp8"]
