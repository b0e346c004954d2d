"""What quantizing each group alone does: the bad one is the noisiest, and noises add up."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from searching import chosen, emulation, workshop

from edge.build.choose import Chooser
from edge.build.verify import measure as judge
from edge.build.workshop import Workshop
from edge.config import ModelConfig
from edge.graph import Graph
from edge.precision import cache, sensitivity
from edge.precision.calibrate import Calibration
from edge.precision.compensation import NO_COMPENSATION, Compensation
from edge.precision.groups import groups
from edge.precision.plan import Choice
from edge.precision.ranges import Range, candidates
from edge.precision.sensitivity import Probe, Sensitivity
from edge.precision.weights import round_weight
from edge.targets import TARGETS

ORIN = TARGETS["orin"]


def config(folder: Path, model: onnx.ModelProto, **more: Any) -> ModelConfig:
    given = {"calibration": {"images": graphs.pictures(folder / "many", 16)}, "quantize": {"equalize": False}}
    return graphs.config(folder, model, **(given | more))


def unequal(spread: float = 8.0) -> onnx.ModelProto:
    """A depthwise convolution that reads channels of very different range, and evens them out again."""
    net = graphs.Net()
    x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="stem_relu")
    even = net.op("Relu", net.conv(x, "even", (32, 32)), name="even_relu")
    factors = np.exp2(np.linspace(-spread, 0, 32)).reshape(-1, 1, 1, 1)
    odd = net.conv(even, "before", (32, 32), kernel=1)
    for tensor in net.constants:
        if tensor.name in ("before.weight", "before.bias"):
            values = graphs.numpy_helper.to_array(tensor).astype(np.float64)
            scaled = values * factors.reshape(-1, *[1] * (values.ndim - 1))
            tensor.CopyFrom(graphs.numpy_helper.from_array(scaled.astype(np.float32), tensor.name))
    x = net.conv(net.op("Relu", odd, name="before_relu"), "bad", (32, 32), group=32)
    for tensor in net.constants:
        if tensor.name == "bad.weight":
            values = graphs.numpy_helper.to_array(tensor) / factors
            tensor.CopyFrom(graphs.numpy_helper.from_array(values.astype(np.float32), tensor.name))
    x = net.op("Relu", net.conv(net.op("Relu", x, name="bad_relu"), "after", (32, 32)), name="after_relu")
    return net.model(net.op("Sigmoid", net.conv(x, "head", (32, 1), kernel=1), name="sigmoid"))


def chooser_of(shop: Workshop) -> Chooser:
    assert shop.chooser is not None
    return shop.chooser


def noises(found: Sensitivity) -> dict[str, float]:
    return {name: group.noise for name, group in found.groups.items()}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("sensitivity")
    return workshop(config(folder, unequal()), folder)


@pytest.fixture(scope="module")
def found(shop: Workshop) -> Sensitivity:
    chooser = chooser_of(shop)
    return chooser.sensitivity("int8", chooser.planner(ORIN, "fast"))


class TestNoise:
    def test_a_layer_whose_channels_do_not_share_a_scale_is_the_noisiest(self, found: Sensitivity) -> None:
        noise = noises(found)
        worst = max(noise, key=lambda name: noise[name])
        assert worst == "bad"
        assert noise["bad"] > 10 * sorted(noise.values())[-2]
        bad = found.groups["bad"]
        assert bad.local_db is not None and bad.local_db < 20
        others = [g.local_db for name, g in found.groups.items() if name != "bad"]
        assert all(db is not None and db > 30 for db in others)

    def test_the_search_leaves_it_alone_in_the_carrier(self, tmp_path: Path) -> None:
        plan = chosen(workshop(config(tmp_path, unequal(), gate={"min_sqnr_db": 45}), tmp_path), "orin").plan
        assert {s.node for s in plan.steps if s.macs} - plan.quantized == {"bad"}
        assert plan.quantized_mac_share > 0.9

    def test_equalizing_takes_the_difference_out(self, found: Sensitivity, tmp_path: Path) -> None:
        made = config(tmp_path, unequal(), quantize={"equalize": True})
        chooser = chooser_of(workshop(made, tmp_path))
        after = chooser.sensitivity("int8", chooser.planner(ORIN, "fast"))
        assert "before_relu.out" in chooser.equalized
        assert after.groups["bad"].noise < 0.05 * found.groups["bad"].noise

    def test_fp8_does_not_mind(self, shop: Workshop, found: Sensitivity) -> None:
        """Its steps shrink with the values."""
        chooser = chooser_of(shop)
        every = groups(chooser.graph)
        fp8 = sensitivity.measure(
            chooser.graph,
            [g for g in every if g.name == "bad"],
            "fp8",
            chooser.calibration,
            NO_COMPENSATION,
            chooser.inputs.task,
            probes(chooser),
            2,
        )
        assert fp8.groups["bad"].noise < 0.2 * found.groups["bad"].noise

    @pytest.mark.parametrize("name", ["residual", "classifier"])
    def test_noises_of_groups_add_up(self, name: str, tmp_path: Path) -> None:
        """Each alone, and all of them together, in fp32 otherwise; on the very same samples."""
        model = graphs.GOOD[name]()
        if name == "classifier":
            model = scores_as_map(model)
        shop = workshop(config(tmp_path, model), tmp_path)
        chooser = chooser_of(shop)
        planner = chooser.planner(ORIN, "fast")
        choices = {g.name: Choice("int8", "") for g in planner.groups if g.kind != "skip"}
        choices |= {g.name: Choice("bf16", "") for g in planner.groups if g.kind == "skip"}
        total = sum(
            noise for group, noise in noises(chooser.sensitivity("int8", planner)).items() if group in choices
        )
        exact = chooser.written(planner.plan({g.name: Choice("bf16", "") for g in planner.groups}))
        both = {}
        for label, written in (("int8", chooser.written(planner.plan(choices))), ("bf16", exact)):
            with emulation(shop, ORIN, label)(written) as run:
                both[label] = judge(run, chooser.search, "here").divergence or 0.0
        assert 0.4 * (both["int8"] - both["bf16"]) < total < 2.5 * both["int8"]

    def test_the_mean_is_restored_by_a_bias(self, found: Sensitivity) -> None:
        assert {node for node, _ in found.compensation.biases} >= {"stem", "bad", "head"}
        assert all(np.isfinite(b).all() for b in found.compensation.biases.values())

    def test_the_metrics_drop_is_measured_where_there_are_labels(self, tmp_path: Path) -> None:
        pictures = graphs.pictures(tmp_path / "labelled", 12, masks=True)
        made = config(tmp_path, unequal(), calibration={"images": pictures, "labels": pictures})
        chooser = chooser_of(workshop(made, tmp_path))
        measured = chooser.sensitivity("int8", chooser.planner(ORIN, "fast"))
        assert all(g.drop is not None and math.isfinite(g.drop) for g in measured.groups.values())

    def test_without_labels_there_is_no_drop(self, found: Sensitivity) -> None:
        assert all(g.drop is None for g in found.groups.values())


def scores_as_map(model: onnx.ModelProto) -> onnx.ModelProto:
    """Scores of 16 rows × 10 classes as a heat map, so that the same task reads them."""
    net = graphs.Net()
    net.nodes = [n for n in model.graph.node if n.op_type != "Identity"]
    net.constants = list(model.graph.initializer)
    shape = net.constant("map", [1, 1, 16, 10], np.int64)
    return net.model(
        net.op("Sigmoid", net.op("Reshape", "classes.out", shape, name="as_map"), name="sigmoid")
    )


def probes(chooser: Chooser) -> list[Probe]:
    return list(chooser.inputs.probes(chooser.graph.inputs[0], chooser.inputs.calibration[:4]))


def test_groups_that_share_weights_have_the_same_ones(tmp_path: Path) -> None:
    """The second group would be better off with rounded weights; its bias is for those it will have."""
    net = graphs.Net()
    stem = net.op("Relu", net.conv("image", "stem", (3, 32)), name="stem_relu")
    shared, halves = net.weights("shared", 32, 32, 1, 1), []
    for name, part in (("first", slice(0, 16)), ("second", slice(16, 32))):
        mask = np.zeros((1, 32, 1, 1), np.float32)
        mask[:, part] = 1
        x = net.op("Mul", stem, net.constant(f"{name}.mask", mask), name=f"{name}_half")
        halves.append(net.op("Conv", x, shared, name=name))
    x = net.op("Relu", net.op("Concat", *halves, name="both", axis=1), name="both_relu")
    model = net.model(net.op("Sigmoid", net.conv(x, "head", (64, 1), kernel=1), name="sigmoid"))
    chooser = chooser_of(workshop(config(tmp_path, model), tmp_path))
    conv = next(node for node in chooser.graph.nodes if node.name == "first")
    value = chooser.graph.constant("shared")
    assert value is not None
    rounded = round_weight(conv, value, "int8", ORIN)
    values = rounded.values.copy()
    values[:, 16:] = 0  # as good as rounded ones for the first, useless for the second
    given = Compensation({("shared", 0, "int8"): dataclasses.replace(rounded, values=values)})
    found = sensitivity.measure(
        chooser.graph,
        [g for g in groups(chooser.graph) if g.name in ("first", "second")],
        "int8",
        chooser.calibration,
        given,
        chooser.inputs.task,
        probes(chooser),
        2,
    )
    kept = bool(found.compensation.weights)
    assert [found.groups[name].compensated for name in ("first", "second")] == [kept, kept]


class TestWhatIsLeftOut:
    def measured(
        self, chooser: Chooser, ranges: Mapping[str, Range], names: Sequence[str] = ()
    ) -> Sensitivity:
        seen = chooser.calibration
        calibration = Calibration(seen.sha256, seen.samples, ranges, seen.histograms)
        every = [g for g in groups(chooser.graph) if not names or g.name in names]
        task = chooser.inputs.task
        return sensitivity.measure(
            chooser.graph, every, "int8", calibration, NO_COMPENSATION, task, probes(chooser), 1
        )

    def test_a_dead_input(self, shop: Workshop) -> None:
        chooser = chooser_of(shop)
        ranges = dict(chooser.calibration.ranges)
        ranges["before_relu.out"] = Range(0.0, 0.0, 0.0, 0.0, (0.0, 0.0))
        measured = self.measured(chooser, ranges)
        assert "bad" not in measured.groups and "after" in measured.groups

    def test_an_input_without_a_range(self, shop: Workshop) -> None:
        chooser = chooser_of(shop)
        ranges = {k: v for k, v in chooser.calibration.ranges.items() if k != "before_relu.out"}
        assert "bad" not in self.measured(chooser, ranges).groups

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_weights_that_are_no_numbers(self, value: float) -> None:
        model = unequal()
        for tensor in model.graph.initializer:
            if tensor.name == "even.weight":
                broken = graphs.numpy_helper.to_array(tensor).copy()
                broken[0, 0, 0, 0] = value
                tensor.CopyFrom(graphs.numpy_helper.from_array(broken, tensor.name))
        index: Graph = graphs.graph(model)
        ranges = graphs.made_up_ranges(index)
        able = [g.name for g in groups(index) if sensitivity.can_be_measured(index, g, "int8", ranges)]
        assert "even" not in able and "bad" in able

    def test_nothing_to_measure_is_no_error(self, shop: Workshop) -> None:
        empty = self.measured(chooser_of(shop), {})
        assert empty.groups == {} and empty.complete
        without_probes = sensitivity.measure(
            chooser_of(shop).graph,
            groups(chooser_of(shop).graph),
            "int8",
            chooser_of(shop).calibration,
            NO_COMPENSATION,
            chooser_of(shop).inputs.task,
            [],
            2,
        )
        assert without_probes.groups == {}

    def test_skip_connections_are_for_int8_alone(self) -> None:
        index = graphs.good("residual")
        ranges = graphs.made_up_ranges(index)
        skip = next(g for g in groups(index) if g.kind == "skip")
        assert sensitivity.can_be_measured(index, skip, "int8", ranges)
        assert not sensitivity.can_be_measured(index, skip, "fp8", ranges)


class TestThresholds:
    def test_the_one_with_the_least_error_is_taken(self, shop: Workshop, found: Sensitivity) -> None:
        for tensor, tried in found.tried.items():
            assert [t.error for t in tried] == sorted(t.error for t in tried)
            proposed = candidates(chooser_of(shop).calibration.histograms[tensor], "int8")
            assert {(t.method, t.threshold) for t in tried} == {(c.method, c.threshold) for c in proposed}

    def test_the_ranges_get_them_and_keep_the_rest(self, shop: Workshop, found: Sensitivity) -> None:
        before = chooser_of(shop).calibration.ranges
        after = found.ranges(before)
        assert set(after) == set(before)
        for name, r in after.items():
            chosen_one = found.tried[name][0].threshold if name in found.tried else before[name].int8
            assert r.int8 == chosen_one
            assert (r.low, r.high, r.fp8, r.u8) == (
                before[name].low, before[name].high, before[name].fp8, before[name].u8,
            )  # fmt: skip

    def test_a_tensor_whose_threshold_was_chosen_before_keeps_it(
        self, shop: Workshop, found: Sensitivity
    ) -> None:
        chooser = chooser_of(shop)
        kept = {name: tried[::-1] for name, tried in found.tried.items()}
        again = sensitivity.measure(
            chooser.graph,
            [g for g in groups(chooser.graph) if g.name == "bad"],
            "int8",
            chooser.calibration,
            NO_COMPENSATION,
            chooser.inputs.task,
            probes(chooser),
            1,
            tried=kept,
        )
        assert again.tried == kept


class TestSharing:
    def test_a_second_run_finds_the_same_in_the_cache(
        self, shop: Workshop, found: Sensitivity, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chooser = chooser_of(shop)
        assert chooser.sensitivity("int8") is found
        stored = cache.load(chooser.folder / "int8.npz")
        assert stored is not None
        assert (stored.groups, stored.tried) == (found.groups, found.tried)
        for key, weight in found.compensation.weights.items():
            assert np.array_equal(stored.compensation.weights[key].values, weight.values)

        def never(*args: Any, **more: Any) -> Sensitivity:
            raise AssertionError("it was measured before")

        monkeypatch.setattr(sensitivity, "measure", never)
        chooser._sensitivities.clear()
        again = chooser.sensitivity("int8", chooser.planner(ORIN, "fast"))
        assert noises(again) == noises(found)

    def test_what_was_measured_later_is_joined(self, shop: Workshop, found: Sensitivity) -> None:
        chooser = chooser_of(shop)
        every = groups(chooser.graph)
        halves = []
        for part in (every[:3], every[3:]):
            halves.append(
                sensitivity.measure(
                    chooser.graph,
                    part,
                    "int8",
                    chooser.calibration,
                    chooser.fitting.weights("int8", found.groups),
                    chooser.inputs.task,
                    list(chooser.inputs.probes(chooser.graph.inputs[0], chooser._probe_set)),
                    8,
                )
            )
        joined = halves[0].joined(halves[1])
        assert set(joined.groups) == set(found.groups)
        for name, noise in noises(joined).items():  # cut elsewhere, so rounded elsewhere in fp32
            assert noise == pytest.approx(found.groups[name].noise, rel=0.05, abs=1e-9)
        assert set(joined.tried) == set(found.tried)

    def test_out_of_time_noises_are_estimated_and_marked(self, shop: Workshop, found: Sensitivity) -> None:
        chooser = chooser_of(shop)
        late = sensitivity.measure(
            chooser.graph,
            groups(chooser.graph),
            "int8",
            chooser.calibration,
            NO_COMPENSATION,
            chooser.inputs.task,
            probes(chooser),
            2,
            deadline=-math.inf,
        )
        assert not late.complete and set(late.groups) == set(found.groups)
        assert all(g.estimated for g in late.groups.values())
        estimate = noises(late)
        assert max(estimate, key=lambda name: estimate[name]) == "bad"
