"""Policies as files: what is read, and what is refused with a hint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from edge.errors import ConfigError, InputError, UsageError
from edge.precision import policy as module
from edge.precision.policy import NOTHING, ORDER, Condition, Match, Policy, hardware, load_policy
from edge.targets import TARGETS


def rule(**more: Any) -> dict[str, Any]:
    return {"match": {"op": "Conv"}, "reason": "so"} | (more or {"at_least": "carrier"})


def saved(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


class TestFiles:
    def test_a_file_is_read(self, tmp_path: Path) -> None:
        content = {"$schema": "anything", "name": "mine", "prefer": "accuracy", "rules": [rule()]}
        found = load_policy(saved(tmp_path / "mine.json", content))
        assert found.name == "mine" and found.prefer == "accuracy" and found.rules[0].at_least == "carrier"

    def test_a_bare_name_is_one_that_comes_with_the_project(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "POLICIES", tmp_path)
        saved(tmp_path / "radiology.json", {"name": "radiology"})
        assert load_policy(Path("radiology")).name == "radiology"
        with pytest.raises(UsageError, match="no policy 'radiolgy'") as caught:
            load_policy(Path("radiolgy"))
        assert "radiology" in caught.value.fix

    @pytest.mark.parametrize(
        ("content", "error", "says"),
        [
            ("{", ConfigError, "not valid JSON"),
            ("[]", ConfigError, "not a JSON object"),
            ({"rules": []}, ConfigError, "name"),
            ({"name": "x", "ruels": []}, ConfigError, "ruels"),
            ({"name": "x", "ruels": []}, ConfigError, "see docs/policies.md"),
            ({"name": "x", "prefer": "luck"}, ConfigError, "prefer"),
        ],
    )
    def test_what_is_wrong_is_said(
        self, content: Any, error: type[Exception], says: str, tmp_path: Path
    ) -> None:
        with pytest.raises(error) as caught:
            load_policy(saved(tmp_path / "p.json", content))
        assert says in str(caught.value) + getattr(caught.value, "why", "") + getattr(caught.value, "fix", "")

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="cannot read the policy"):
            load_policy(tmp_path / "absent.json")


class TestRules:
    @pytest.mark.parametrize(
        "said",
        [
            {"reason": "nothing"},
            {"precision": "int8", "at_least": "bf16"},
            {"precision": "int8", "forbid": "fp8"},
            {"forbid": "fp8", "at_least": "bf16"},
        ],
    )
    def test_each_says_exactly_one_thing(self, said: dict[str, Any]) -> None:
        with pytest.raises(ValidationError, match="exactly one of"):
            Policy.model_validate({"name": "x", "rules": [rule(**said)]})

    def test_a_reason_is_needed(self) -> None:
        with pytest.raises(ValidationError, match="reason"):
            Policy.model_validate({"name": "x", "rules": [{"match": {}, "forbid": "fp8"}]})

    def test_two_of_one_name_are_refused(self) -> None:
        twice = [rule(name="a", forbid="fp8"), rule(name="a", forbid="int8")]
        with pytest.raises(ValidationError, match="two rules are called 'a'"):
            Policy.model_validate({"name": "x", "rules": twice})

    @pytest.mark.parametrize(
        ("match", "hint"),
        [
            ({"tag": "deepwise"}, "depthwise"),
            ({"not_tag": "frist"}, "first"),
            ({"where": {"kernell": {}}}, "kernel"),
        ],
    )
    def test_words_that_do_not_exist_are_refused_with_the_nearest(
        self, match: dict[str, Any], hint: str
    ) -> None:
        with pytest.raises(ValidationError, match=hint):
            Match.model_validate(match)

    @pytest.mark.parametrize("value", ["int7", "FP8", ""])
    def test_so_are_precisions(self, value: str) -> None:
        with pytest.raises(ValidationError):
            Policy.model_validate({"name": "x", "rules": [rule(precision=value)]})

    def test_a_single_word_is_a_list_of_one(self) -> None:
        found = Match.model_validate(
            {"op": "Conv", "name": "a*", "layers": 3, "tag": "first", "not_tag": "last"}
        )
        assert (found.op, found.name, found.layers) == (("Conv",), ("a*",), (3,))
        assert (found.tag, found.not_tag) == (("first",), ("last",))

    @pytest.mark.parametrize("span", [[], [1, 2, 3]])
    def test_a_span_has_one_end_or_two(self, span: list[int]) -> None:
        with pytest.raises(ValidationError):
            Match.model_validate({"blocks": span})

    def test_rules_without_a_name_are_called_by_their_place(self) -> None:
        made = Policy.model_validate({"name": "p", "rules": [rule(), rule(name="b", forbid="fp8")]})
        assert [made.label(0), made.label(1)] == ["p: rule 1", "p: b"]

    def test_only_rules_for_fp32_are_about_more_than_products(self) -> None:
        def widens(**said: Any) -> bool:
            return Policy.model_validate({"name": "x", "rules": [rule(**said)]}).rules[0].widens

        assert widens(precision="fp32") and widens(at_least="fp32")
        assert not widens(precision=["fp32", "carrier"]) and not widens(at_least="carrier")


class TestConditions:
    @pytest.mark.parametrize(
        ("condition", "holds", "fails"),
        [
            ({"at_least": 3}, [3, 4], [2, 2.9]),
            ({"at_most": 3}, [3, 0], [4]),
            ({"at_least": 2, "at_most": 3}, [2, 3], [1, 4]),
            ({"multiple_of": 8}, [0, 8, 64], [4, 12]),
            ({"not_multiple_of": 8}, [4, 12], [0, 8]),
            ({}, [1, 100], []),
        ],
    )
    def test_each(self, condition: dict[str, Any], holds: list[float], fails: list[float]) -> None:
        made = Condition.model_validate(condition)
        assert all(made.holds(v) for v in holds) and not any(made.holds(v) for v in fails)


class TestHardware:
    def test_every_rule_has_a_reason_and_a_source(self) -> None:
        for made in hardware().rules:
            assert made.name and made.reason and made.source and made.forbid

    def test_what_makes_a_rule_void_is_a_capability_of_every_row(self) -> None:
        for made in hardware().rules:
            if made.unless:
                assert all(isinstance(getattr(row, made.unless), bool) for row in TARGETS.values())

    def test_it_names_no_target(self) -> None:
        """Rows have capabilities; a new board is data."""
        assert not any(made.targets for made in hardware().rules)


def test_precisions_are_in_order_of_what_they_lose() -> None:
    assert ORDER.index("fp8") < ORDER.index("int8") < ORDER.index("w8a16") < ORDER.index("bf16")
    assert NOTHING.rules == ()
