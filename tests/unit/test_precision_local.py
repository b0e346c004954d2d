"""One group alone, quantized, against the same by hand in numpy."""

from __future__ import annotations

from typing import Any

import graphs
import numpy as np
import pytest

from edge.graph import Graph
from edge.precision.compensation import NO_COMPENSATION, Compensation
from edge.precision.groups import Group, groups
from edge.precision.local import Sums, local
from edge.precision.numerics import QuantType
from edge.precision.sessions import observer
from edge.precision.weights import round_weight
from edge.targets import TARGETS

KINDS: tuple[QuantType, ...] = ("int8", "fp8")


def group(index: Graph, name: str) -> Group:
    return next(g for g in groups(index) if g.name == name)


def everything(index: Graph, feeds: dict[str, Any]) -> dict[str, Any]:
    names = [*index.inputs, *(o for n in index.nodes for o in n.output)]
    return observer(index.model, names)(feeds)


def rounded(x: Any, threshold: float, kind: str) -> Any:
    import ml_dtypes

    top = 127 if kind == "int8" else 448
    scale = float(np.float32(threshold / top).astype(ml_dtypes.bfloat16))
    if kind == "int8":
        return np.clip(np.rint(np.float32(x / np.float32(scale))), -128, 127).astype(np.float64) * scale
    clipped = np.clip(np.float32(x) / np.float32(scale), -448, 448)
    return clipped.astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * scale


def samples(count: int = 3) -> list[Any]:
    return graphs.feeds(count)


class TestProducts:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_pointwise_convolution_against_numpy(self, kind: QuantType) -> None:
        index = graphs.good("residual")
        branch = next(n for n in index.nodes if n.name == "branch")
        found = local(index, group(index, "branch"), kind, graphs.ranges(index), NO_COMPENSATION)
        w = index.constant("branch.weight")
        assert w is not None
        stored = round_weight(branch, w, kind, TARGETS["orin"]).dequantized()[:, :, 0, 0].astype(np.float64)
        threshold = {branch.input[0]: 1.3}
        errors, values = [], []
        for feeds in samples():
            seen = everything(index, feeds)
            found.add("trial", seen, threshold)
            x, y = seen[branch.input[0]][0], seen[branch.output[0]][0]
            exact = np.einsum("oc,chw->ohw", w[:, :, 0, 0].astype(np.float64), x.astype(np.float64))
            quantized = np.einsum("oc,chw->ohw", stored, rounded(x, 1.3, kind))
            errors.append(quantized - exact)
            values.append(y.astype(np.float64))
        error, value = np.stack(errors), np.stack(values)
        centred = error - error.mean((0, 2, 3), keepdims=True)  # a bias restores the mean
        expected = np.square(centred).sum() / np.square(value).sum()
        assert found.error("trial") == pytest.approx(expected, rel=1e-3)

    def test_each_label_has_sums_of_its_own(self) -> None:
        index = graphs.good("residual")
        found = local(index, group(index, "left"), "int8", graphs.ranges(index), NO_COMPENSATION)
        (tensor,) = (i for i in found.inputs)
        (feeds,) = samples(1)
        seen = everything(index, feeds)
        peak = float(np.abs(seen[tensor]).max())
        for label, threshold in (("good", peak), ("clipping", peak / 10), ("coarse", peak * 30)):
            found.add(label, seen, {tensor: threshold})
        assert found.error("good") < 0.1 * min(found.error("clipping"), found.error("coarse"))

    @pytest.mark.parametrize("name", ["residual", "transformer", "classifier"])
    @pytest.mark.parametrize("kind", KINDS)
    def test_what_is_left_of_the_error_has_no_mean_over_the_samples(self, kind: QuantType, name: str) -> None:
        index = graphs.good(name)
        ranges = graphs.ranges(index)
        for each in groups(index):
            if each.kind == "skip":
                continue
            found = local(index, each, kind, ranges, NO_COMPENSATION)
            thresholds = {t: ranges[t].int8 for t in ranges}
            seen = [everything(index, feeds) for feeds in samples()]
            for values in seen:
                found.add("final", values, thresholds)
            assert 0 <= found.error("final") < 0.05
            for end in found.ends:
                left = [found.errors("final", values, thresholds)[end.output[0]] for values in seen]
                assert all(np.isfinite(e).all() for e in left)
            assert all(np.isfinite(b).all() for b in found.biases("final").values())

    def test_an_attention_is_run_as_one(self) -> None:
        index = graphs.good("transformer")
        attention = next(g for g in groups(index) if g.kind == "attention")
        ranges = graphs.ranges(index)
        found = local(index, attention, "int8", ranges, NO_COMPENSATION)
        assert [n.name for n in found.ends] == ["mix"]
        (feeds,) = samples(1)
        found.add("x", everything(index, feeds), {t: ranges[t].int8 for t in ranges})
        assert 1e-7 < found.error("x") < 0.01


class TestBias:
    def test_it_is_what_the_error_was_on_average(self) -> None:
        index = graphs.good("residual")
        found = local(index, group(index, "left"), "int8", graphs.ranges(index), NO_COMPENSATION)
        threshold = dict.fromkeys(found.inputs, 0.5)  # clips: the mean falls
        moved = []
        for feeds in samples(4):
            seen = everything(index, feeds)
            found.add("final", seen, threshold)
            (name,) = (n.output[0] for n in found.ends)
            written = found._run(seen, threshold)[name]
            moved.append((written - seen[name]).mean((0, 2, 3)))
        bias = found.biases("final")["left", "int8"]
        mean = np.mean(moved, 0)
        doubt = np.var(moved, 0, ddof=1) / 4 / mean**2  # as far as the samples agree
        np.testing.assert_allclose(bias, -mean * np.clip(1 - doubt, 0, 1), rtol=1e-3, atol=1e-6)
        assert (np.abs(bias) > 0).mean() > 0.5

    def test_what_was_applied_already_is_part_of_it(self) -> None:
        index = graphs.good("residual")
        ranges = graphs.ranges(index)
        before = Compensation(biases={("left", "int8"): np.full(32, 0.25, np.float32)})
        thresholds = {t: ranges[t].int8 for t in ranges}
        plain, shifted = (
            local(index, group(index, "left"), "int8", ranges, c) for c in (NO_COMPENSATION, before)
        )
        for feeds in samples(4):
            seen = everything(index, feeds)
            plain.add("f", seen, thresholds)
            shifted.add("f", seen, thresholds)
        np.testing.assert_allclose(
            plain.biases("f")["left", "int8"], shifted.biases("f")["left", "int8"], atol=2e-2
        )


class TestSkip:
    def test_it_is_the_rounding_of_what_is_added(self) -> None:
        index = graphs.good("residual")
        skip = next(g for g in groups(index) if g.kind == "skip")
        found = local(index, skip, "int8", graphs.ranges(index), NO_COMPENSATION)
        (tensor,) = found.inputs
        (feeds,) = samples(1)
        seen = everything(index, feeds)
        found.add("x", seen, {tensor: 0.8})
        x, y = seen[tensor].astype(np.float64), seen["add.out"].astype(np.float64)
        expected = np.square(rounded(seen[tensor], 0.8, "int8") - x).sum() / np.square(y).sum()
        assert found.error("x") == pytest.approx(expected, rel=1e-3)
        assert found.biases("x") == {}  # an Add has no bias


class TestSums:
    def test_a_mean_that_samples_disagree_about_is_not_believed(self) -> None:
        agreed, disputed = Sums(), Sums()
        for sign in (1, -1, 1, -1):
            agreed.add(np.full((1, 10), 0.5, np.float32), np.ones((1, 10), np.float32))
            disputed.add(np.full((1, 10), 0.5 * sign + 0.01, np.float32), np.ones((1, 10), np.float32))
        assert agreed.mean()[0] == pytest.approx(0.5)
        assert abs(disputed.mean()[0]) < 1e-6

    def test_of_one_sample_half_is_believed(self) -> None:
        sums = Sums()
        sums.add(np.full((2, 5), 0.5, np.float32), np.ones((2, 5), np.float32))
        assert sums.mean().tolist() == [0.25, 0.25]

    def test_an_output_of_zeros_has_no_relative_error(self) -> None:
        sums = Sums()
        sums.add(np.ones((1, 5), np.float32), np.zeros((1, 5), np.float32))
        assert sums.error(restored=False) == 0
