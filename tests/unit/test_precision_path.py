"""The path from the fastest plan to the finest: what each exchange costs and what it buys."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, cast

import graphs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.precision.compensation import NO_COMPENSATION
from edge.precision.cost import roofline
from edge.precision.numerics import QuantType
from edge.precision.path import OTHER_TYPE, Option, Path, _hull, _percent
from edge.precision.plan import Choice, Planner
from edge.precision.policy import NOTHING, Policy, Prefer
from edge.precision.sensitivity import GroupNoise, Sensitivity
from edge.targets import TARGETS

Noises = Mapping[str, Mapping[str, float]]
"""By type and group."""


def path(
    noises: Noises,
    target: str = "ada",
    graph: str = "residual",
    prefer: Prefer = "balanced",
    carrier_noise: float = 1e-6,
    policy: Policy = NOTHING,
) -> Path:
    index = graphs.good(graph)
    planner = Planner(index, TARGETS[target], "fast", graphs.made_up_ranges(index), policy=policy)
    sensitivities = {
        kind: Sensitivity(
            cast(QuantType, kind),
            4,
            {name: GroupNoise(noise, 30.0, 30.0, None, True) for name, noise in groups.items()},
            {},
            NO_COMPENSATION,
        )
        for kind, groups in noises.items()
    }
    return Path(
        planner, sensitivities, roofline(index, planner.groups, TARGETS[target]), carrier_noise, prefer
    )


GROUPS = ("stem", "left", "right", "branch", "merge", "head", "add")
EVEN: Noises = {"int8": dict.fromkeys(GROUPS, 1e-4), "fp8": dict.fromkeys(GROUPS, 4e-4)}

noise = st.floats(0, 1, allow_subnormal=False) | st.just(float("inf")) | st.just(float("nan"))
noises = st.fixed_dictionaries(
    {kind: st.dictionaries(st.sampled_from(GROUPS), noise, max_size=7) for kind in ("int8", "fp8")}
)


class TestOrder:
    @settings(max_examples=60, deadline=None)
    @given(noises, st.sampled_from(["ada", "orin", "t4"]))
    def test_time_goes_up_and_noise_goes_down(self, found: Noises, target: str) -> None:
        made = path(found, target)
        for (w1, _, n1), (w2, _, n2) in pairwise(made.points):
            assert w2 > w1 * (1 - 1e-12)
            assert n2 <= n1 + 1e-12
        assert all(np.isfinite(point).all() for point in made.points)
        assert len(made.points) == len(made.moves) + 1

    @settings(max_examples=40, deadline=None)
    @given(noises)
    def test_each_exchange_pays_less_than_the_one_before(self, found: Noises) -> None:
        rates = [move.noise / move.seconds for move in path(found).moves]
        assert all(a >= b * (1 - 1e-9) for a, b in pairwise(rates))

    @settings(max_examples=40, deadline=None)
    @given(noises)
    def test_a_group_is_exchanged_for_finer_and_finer(self, found: Noises) -> None:
        made = path(found)
        current = {name: options[0] for name, options in made.options.items()}
        for move in made.moves:
            assert move.option.noise < current[move.group].noise
            assert move.option.weight > current[move.group].weight
            current[move.group] = move.option

    def test_the_path_begins_with_the_fastest_and_ends_with_the_carrier(self) -> None:
        made = path(EVEN, "orin")
        first, last = (made.planner.plan(made.choices(n)) for n in (0, len(made.moves)))
        assert first.quantized_mac_share == 1.0
        assert not last.quantized and last.label == "bf16"

    def test_the_noisiest_for_its_time_goes_first(self) -> None:
        loud = {"int8": {**EVEN["int8"], "branch": 0.5}}
        made = path(loud, "orin")
        assert made.moves[0].group == "branch"
        choices = made.choices(1)
        assert choices["branch"].precision == "bf16"
        assert {c.precision for name, c in choices.items() if name not in ("branch", "add")} == {"int8"}

    def test_the_same_measurements_give_the_same_path(self) -> None:
        a, b = path(EVEN), path(EVEN)
        assert a.moves == b.moves and a.points == b.points
        assert [a.choices(n) for n in range(len(a.points))] == [b.choices(n) for n in range(len(b.points))]


class TestOptions:
    def test_the_type_that_the_device_does_not_prefer_counts_as_slower(self) -> None:
        options = {o.precision: o for o in path(EVEN).all_options["merge"]}
        assert options["int8"].weight == pytest.approx(options["int8"].seconds * (1 + OTHER_TYPE))
        assert options["fp8"].weight == options["fp8"].seconds

    def test_what_was_not_measured_is_not_an_option(self) -> None:
        silent = {"int8": {k: v for k, v in EVEN["int8"].items() if k != "left"}}
        made = path(silent, "orin")
        assert [o.precision for o in made.options["left"]] == ["bf16"]
        assert made.choices(0)["left"].precision == "bf16"

    @pytest.mark.parametrize("value", [float("inf"), float("nan")])
    def test_what_broke_the_network_is_not_an_option(self, value: float) -> None:
        made = path({"int8": {**EVEN["int8"], "left": value}}, "orin")
        assert [o.precision for o in made.options["left"]] == ["bf16"]

    def test_a_group_that_a_policy_has_decided_keeps_its_precision(self) -> None:
        rule = {"match": {"name": "left"}, "precision": "int8", "reason": "so"}
        made = path({}, "orin", policy=Policy.model_validate({"name": "p", "rules": [rule]}))
        assert made.choices(len(made.moves))["left"].precision == "int8"

    def test_an_option_that_is_slower_and_no_finer_is_left_out(self) -> None:
        def option(weight: float, noise: float) -> Option:
            return Option("x", weight, weight, noise)

        given = [option(1, 10), option(2, 11), option(3, 9), option(4, 1), option(9, 0)]
        assert [(o.weight, o.noise) for o in _hull(given)] == [(1, 10), (4, 1), (9, 0)]
        assert _hull([option(1, 5), option(1, 2)]) == [option(1, 2)]


class TestKnee:
    def test_cheap_accuracy_is_taken(self) -> None:
        loud = {"int8": {**EVEN["int8"], "branch": 0.5}}  # a small convolution with nearly all of the noise
        made = path(loud, "orin")
        assert made.knee() >= 1
        assert made.choices(made.knee())["branch"].precision == "bf16"
        assert path(loud, "orin", prefer="speed").knee() == 0

    def test_accuracy_that_is_next_to_free_is_taken_before_that(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loud = {"int8": {**EVEN["int8"], "branch": 0.5}}  # 22 per cent of the noise for one of the time
        made = path(loud, "orin")
        assert made.start() == 0
        monkeypatch.setattr("edge.precision.path.FREE", {"balanced": 20.0, "speed": math.inf})
        assert made.start() == 1 <= made.knee()
        assert made.choices(1)["branch"].precision == "bf16"
        assert path(loud, "orin", prefer="speed").start() == 0

    def test_noise_below_the_carriers_is_worth_nothing(self) -> None:
        made = path(EVEN, "orin", carrier_noise=10.0)
        assert made.knee() == 0

    def test_without_any_noise_the_fastest_is_as_good_as_any(self) -> None:
        quiet = {"int8": dict.fromkeys(GROUPS, 0.0)}
        assert path(quiet, "orin", carrier_noise=0.0).knee() == 0


class TestReasons:
    @settings(max_examples=40, deadline=None)
    @given(noises, st.sampled_from(["ada", "orin"]))
    def test_every_choice_has_one_that_can_be_read(self, found: Noises, target: str) -> None:
        made = path(found, target)
        for position in range(len(made.points)):
            for choice in made.choices(position).values():
                assert choice.reason and "  " not in choice.reason
                assert "nan" not in choice.reason and "inf" not in choice.reason

    def test_they_say_what_it_would_have_cost(self) -> None:
        made = path({"int8": {**EVEN["int8"], "branch": 0.0997}}, "orin", carrier_noise=0.0)
        reasons = {name: c.reason for name, c in made.choices(0).items()}
        assert reasons["branch"] == "int8: 99% of the plan's noise"
        assert reasons["left"] == "int8: 0.1% of the plan's noise"
        after: Choice = made.choices(1)["branch"]
        assert after.reason.startswith("in int8 it alone would add ") and after.reason.endswith(
            "(30 dB SQNR)"
        )

    @pytest.mark.parametrize(
        ("share", "text"),
        [(0.0, "0%"), (1e-5, "0.0%"), (0.012, "1.2%"), (0.1, "10%"), (0.995, "100%"), (3.2, "320%")],
    )
    def test_shares(self, share: float, text: str) -> None:
        assert _percent(share) == text


def test_everything_in_the_carrier_is_what_speed_is_compared_with() -> None:
    made: Any = path(EVEN, "orin")
    weighted = {n.name for n in made.planner.graph.nodes if n.op_type == "Conv"}
    expected = sum(made.costs.products[name, "bf16"] for name in (*weighted, "add"))
    assert made.carrier_seconds == pytest.approx(expected)
