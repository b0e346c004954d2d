"""Policies: JSON files of rules that say which precisions a node may have, and why.

What the devices refuse is such a file too (`hardware.json`) and always comes first. A user's rules are
applied in order on what it leaves over: `precision` replaces what the rules before said of a node,
`at_least` and `forbid` take away from it.

A rule is about products (convolutions and matrix products), the only nodes that can be quantized; one that
says fp32 is about every node that computes in floating point.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from edge.config import ROOT, Section, validate
from edge.errors import ConfigError, InputError, UsageError, nearest
from edge.precision.facts import NUMBERS, TAGS

POLICIES = ROOT / "configs" / "policies"

ORDER = ("w4a16", "fp8", "int8", "w8a16", "fp16", "bf16", "fp32")
"""Precisions from the coarsest to the finest: what `at_least` compares. Types with `a16` keep their
activations in the carrier. fp16 stands below bf16 for its range: on a device they are never both carriers."""
QUANTIZED = ("int8", "fp8")
WEIGHT_ONLY = ("w8a16", "w4a16")

Word = Literal["w4a16", "fp8", "int8", "w8a16", "carrier", "bf16", "fp16", "fp32"]
Prefer = Literal["speed", "balanced", "accuracy"]


def _listed(value: object) -> object:
    return [value] if isinstance(value, (str, int, float)) else value


Words = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Precisions = Annotated[tuple[Word, ...], BeforeValidator(_listed)]
Span = Annotated[tuple[int, ...], BeforeValidator(_listed), Field(min_length=1, max_length=2)]


class Condition(Section):
    """What a number has to be."""

    at_least: float | None = Field(None, description="this or more")
    at_most: float | None = Field(None, description="this or less")
    multiple_of: int | None = Field(None, gt=0, description="divisible by this")
    not_multiple_of: int | None = Field(None, gt=0, description="not divisible by this")

    def holds(self, value: float) -> bool:
        return not (
            (self.at_least is not None and value < self.at_least)
            or (self.at_most is not None and value > self.at_most)
            or (self.multiple_of is not None and value % self.multiple_of != 0)
            or (self.not_multiple_of is not None and value % self.not_multiple_of == 0)
        )


class Between(Section):
    """A part of the graph by the tensors at its ends."""

    begin: Words = Field((), alias="from", description="tensors it begins with; default: the graph's inputs")
    end: Words = Field((), alias="to", description="tensors it ends with; default: the graph's outputs")


class Match(Section):
    """Which nodes a rule is about. Everything given has to hold."""

    op: Words = Field((), description="operators, one of which the node is")
    name: Words = Field((), description="patterns of node names (`*` and `?`), one of which fits")
    layers: Span | None = Field(
        None, description="first and last product in graph order, from 0; negative ones count from the end"
    )
    blocks: Span | None = Field(
        None, description="first and last transformer block, from 0; negative ones count from the end"
    )
    between: Between | None = Field(None, description="the part of the graph between tensors")
    tag: Words = Field((), description="words of the table of tags, all of which hold")
    not_tag: Words = Field((), description="words of the table of tags, none of which holds")
    where: dict[str, Condition] = Field(
        default_factory=dict, description="conditions on words of the table of numbers"
    )

    @model_validator(mode="after")
    def _known_words(self) -> Match:
        for words, known, what in (
            ((*self.tag, *self.not_tag), TAGS, "tag"),
            (self.where, NUMBERS, "number"),
        ):
            for word in words:
                if word not in known:
                    raise ValueError(f"there is no {what} '{word}', {nearest(word, known)}")
        return self


class Rule(Section):
    """One rule of a policy."""

    name: str = Field("", description="what errors and reports call it; default: its place")
    match: Match = Field(description="which nodes it is about")
    precision: Precisions = Field(
        (), description="what the node shall have; of several the search takes the best that the device has"
    )
    at_least: Word | None = Field(
        None, description="nothing coarser: w4a16 < fp8 < int8 < w8a16 < fp16 < bf16 < fp32"
    )
    forbid: Precisions = Field((), description="what the node shall not have")
    unless: str = Field("", description="a capability of the target's row that makes the rule void")
    targets: Words = Field((), description="rows of the matrix it is for; default: all")
    expect: int | None = Field(None, ge=1, description="most nodes it may be about")
    reason: str = Field(description="why; `{number}` is replaced by the node's number of that name")
    source: str = Field("", description="where that is known from")

    @model_validator(mode="after")
    def _says_one_thing(self) -> Rule:
        said = [bool(self.precision), self.at_least is not None, bool(self.forbid)]
        if sum(said) != 1:
            raise ValueError("a rule says exactly one of `precision`, `at_least` and `forbid`")
        return self

    @property
    def widens(self) -> bool:
        """Whether it is about nodes that cannot be quantized, too."""
        return self.precision == ("fp32",) or self.at_least == "fp32"


class Policy(Section):
    """Rules, and how much speed accuracy is worth."""

    name: str = Field(description="what reports call it")
    description: str = Field("", description="what it is for")
    prefer: Prefer = Field(
        "balanced",
        description="speed: the fastest plan that passes the gate; balanced: also leave in the carrier what "
        "costs little time and much accuracy; accuracy: the same, and keep further away from the gate",
    )
    rules: tuple[Rule, ...] = Field((), description="in the order in which they are applied")

    @model_validator(mode="after")
    def _named_rules(self) -> Policy:
        names = [rule.name for rule in self.rules if rule.name]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"two rules are called '{sorted(twice)[0]}'")
        return self

    def rule_name(self, index: int) -> str:
        return self.rules[index].name or f"rule {index + 1}"

    def label(self, index: int) -> str:
        return f"{self.name}: {self.rule_name(index)}"


NOTHING = Policy(name="none")


def load_policy(path: Path) -> Policy:
    """A policy's file, or one in `configs/policies/` by its bare name.

    Raises:
        UsageError: there is none of this bare name.
        InputError: it cannot be read.
        ConfigError: it is not JSON, or has an unknown key or a wrong value.
    """
    if not path.exists() and len(path.parts) == 1 and not path.suffix:
        named = POLICIES / f"{path.name}.json"
        if not named.exists():
            known = [p.stem for p in POLICIES.glob("*.json")]
            hint = nearest(path.name, known) if known else "give the path of its JSON file"
            raise UsageError(f"no policy '{path}'", f"there is no {path.name}.json in {POLICIES}", hint)
        path = named
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise InputError(f"cannot read the policy {path}", e.strerror or str(e), "check the path") from e
    except ValueError as e:
        raise ConfigError(f"the policy {path} is not valid JSON", str(e), "mend the place it names") from e
    if not isinstance(content, dict):
        raise ConfigError(f"the policy {path} is not a JSON object", "", 'write {"name": …, "rules": […]}')
    content.pop("$schema", None)
    return validate(Policy, content, f"the policy {path}", "docs/policies.md")


@cache
def hardware() -> Policy:
    """What the devices of the matrix refuse or run slowly."""
    return load_policy(Path(__file__).with_name("hardware.json"))
