"""What the rules of the hardware and of a policy leave of each node's precisions, on one graph and target."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property

import onnx

from edge.errors import ConfigError, nearest
from edge.graph import Graph
from edge.precision.facts import Facts
from edge.precision.policy import ORDER, QUANTIZED, Between, Condition, Match, Policy, Rule, hardware
from edge.targets import Target


@dataclass(frozen=True, slots=True)
class Options:
    """What a node may have.

    Attributes:
        precisions: best first; never empty.
        reasons: why others are not among them, and why the only one is, by precision.
        decided: whether a user's rule chose `precisions`; its reason then explains each of them.
    """

    precisions: tuple[str, ...]
    reasons: Mapping[str, str]
    decided: str = ""


class Rulebook:
    """The hardware's rules and a user's policy, applied to one graph for one target.

    Raises:
        ConfigError: a rule of the policy matches nothing, more than it expects, or what the device refuses.
    """

    def __init__(self, graph: Graph, facts: Mapping[str, Facts], target: Target, policy: Policy) -> None:
        self.graph, self.facts, self.target, self.policy = graph, facts, target, policy
        self.matcher = Matcher(graph, facts)
        self.objecting: dict[tuple[str, str], str] = {}
        """Node and precision → the hardware's rule that objects."""
        self.refused = self._refused()
        self.hits = self._hits()

    def _refused(self) -> dict[str, dict[str, str]]:
        """Node → precision → why the hardware's rules object; the first that does gives the reason."""
        found: dict[str, dict[str, str]] = {}
        for rule in hardware().rules:
            if not self._applies(rule):
                continue
            for node in self.matcher.products(rule.match):
                reasons = found.setdefault(node, {})
                for precision in rule.forbid:
                    reasons.setdefault(precision, self._reason(rule, node))
                    self.objecting.setdefault((node, precision), f"hardware rule '{rule.name}'")
        return found

    def _hits(self) -> dict[str, list[int]]:
        """Node → indices of the policy's rules about it."""
        found: dict[str, list[int]] = {}
        for index, rule in enumerate(self.policy.rules):
            if not self._applies(rule):
                continue
            nodes = self.matcher.every(rule.match) if rule.widens else self.matcher.products(rule.match)
            label = self.policy.label(index)
            if not nodes:
                raise self.matcher.nothing(rule.match, label, rule.widens)
            if rule.expect is not None and len(nodes) > rule.expect:
                raise ConfigError(
                    f"the policy's rule '{label}' matches {len(nodes)} nodes",
                    f"it expects at most {rule.expect}; some of them: {', '.join(nodes[:6])}",
                    "make `match` narrower, or raise `expect`",
                )
            for node in nodes:
                found.setdefault(node, []).append(index)
        return found

    def _applies(self, rule: Rule) -> bool:
        if rule.targets and self.target.name not in rule.targets:
            return False
        return not (rule.unless and self._capability(rule.unless))

    def _capability(self, name: str) -> bool:
        value = getattr(self.target, name, None)
        if not isinstance(value, bool):
            known = [
                field for field in self.target.__slots__ if isinstance(getattr(self.target, field), bool)
            ]
            raise ConfigError(
                f"no capability '{name}'", "a row of the matrix has no such key", nearest(name, known)
            )
        return value

    def _reason(self, rule: Rule, node: str) -> str:
        numbers = {name: _told(name, value) for name, value in self.facts[node].numbers.items()}
        try:
            return rule.reason.format_map(numbers)
        except (KeyError, ValueError, IndexError):
            return rule.reason

    # ------------------------------------------------------------------ what a node may have

    def product(self, node: str, wanted: Sequence[str], possible: Mapping[str, str]) -> Options:
        """What a product may have.

        Args:
            wanted: precisions of the variant, best first; the carrier among them.
            possible: why a precision is impossible for reasons of data (no range, weights not finite).

        Raises:
            ConfigError: the policy leaves nothing over that the device takes.
        """
        carrier = self.target.carrier
        reasons = {**self.refused.get(node, {}), **possible}
        absent = {p for p in QUANTIZED if p not in self.target.quantized}
        reasons |= {p: f"{self.target.name} has no {p} in the hardware matrix" for p in absent}
        left = [p for p in wanted if p not in reasons]
        said: dict[str, str] = {}
        decided = ""
        for index in self.hits.get(node, []):
            rule, label = self.policy.rules[index], self.policy.label(index)
            why = f"{label}: {self._reason(rule, node)}"
            if rule.precision:
                asked = [carrier if word == "carrier" else word for word in rule.precision]
                left = [p for p in asked if p not in reasons and self._carries(p)]
                missing = asked[0] if left and left[0] != asked[0] else ""
                said, decided = {}, f"{why} (no {missing}: {reasons[missing]})" if missing in reasons else why
            elif rule.at_least is not None:
                least = ORDER.index(carrier if rule.at_least == "carrier" else rule.at_least)
                removed = [p for p in left if ORDER.index(p) < least]
                left = [p for p in left if p not in removed] or (
                    ["fp32"] if rule.at_least == "fp32" else [carrier]
                )
                said |= dict.fromkeys(removed, why)
                decided = why if removed else decided
            else:
                named = [carrier if word == "carrier" else word for word in rule.forbid]
                removed = [p for p in left if p in named]
                left = [p for p in left if p not in removed]
                said |= dict.fromkeys(removed, why)
                decided = why if removed else decided
            if not left:
                raise self._contradiction(node, rule, label, reasons)
        return Options(tuple(left), reasons | said, decided)

    def _carries(self, precision: str) -> bool:
        """Whether the device has this float type as its carrier, or it is no 16-bit float at all."""
        return precision not in ("fp16", "bf16") or precision == self.target.carrier

    def _contradiction(self, node: str, rule: Rule, label: str, reasons: Mapping[str, str]) -> ConfigError:
        asked = ", ".join(rule.precision or rule.forbid)
        refused = self.refused.get(node, {})
        told = {
            p: self.objecting[node, p] if reasons[p] == refused.get(p) else ""
            for p in rule.precision
            if p in reasons
        }
        why = "; ".join(f"{p}: {reasons[p]}{name and f' ({name})'}" for p, name in told.items())
        if not why and rule.precision:
            why = f"{self.target.name} carries {self.target.carrier}"
        return ConfigError(
            f"the policy's rule '{label}' asks for {'no ' if rule.forbid else ''}{asked} at node '{node}'",
            f"on {self.target.name} that is not possible: {why or 'nothing is left over'}",
            'name an alternative ("precision": ["fp8", "int8", "carrier"]), or narrow `targets` or `match`',
        )

    def widened(self, node: str) -> str:
        """Why a node that cannot be quantized runs in fp32; "" if no rule says so."""
        for index in reversed(self.hits.get(node, [])):
            rule = self.policy.rules[index]
            if rule.widens:
                return f"{self.policy.label(index)}: {self._reason(rule, node)}"
            if rule.precision:
                return ""
        return ""


class Matcher:
    """Finds the nodes that a rule is about."""

    def __init__(self, graph: Graph, facts: Mapping[str, Facts]) -> None:
        self.graph, self.facts = graph, facts

    @cached_property
    def _float_nodes(self) -> list[onnx.NodeProto]:
        return [n for n in self.graph.nodes if any(self.graph.is_float(name) for name in n.output if name)]

    @cached_property
    def _count(self) -> dict[str, int]:
        """How many products and blocks there are."""
        numbers = [facts.numbers for facts in self.facts.values()]
        return {
            key: 1 + int(max((n[key] for n in numbers if key in n), default=-1)) for key in ("layer", "block")
        }

    def products(self, match: Match) -> list[str]:
        """Names of the products it fits, in graph order."""
        return [name for name in self.every(match) if "product" in self.facts[name].tags]

    def every(self, match: Match) -> list[str]:
        """Names of all nodes it fits that compute in floating point."""
        tests = list(self._tests(match).values())
        return [node.name for node in self._float_nodes if all(test(node) for test in tests)]

    def _tests(self, match: Match) -> dict[str, Callable[[onnx.NodeProto], bool]]:
        """Each criterion that is given, by what it says."""
        facts = self.facts
        tests: dict[str, Callable[[onnx.NodeProto], bool]] = {}
        if match.op:
            tests[f"op {_either(match.op)}"] = lambda n: n.op_type in match.op
        if match.name:
            tests[f"name {_either(match.name)}"] = lambda n: any(fnmatchcase(n.name, p) for p in match.name)
        for key, span in (("layer", match.layers), ("block", match.blocks)):
            if span is not None:
                tests[f"{key}s {' to '.join(map(str, span))}"] = self._in_span(key, span)
        if match.between is not None:
            inside = self._between(match.between)
            tests["between those tensors"] = lambda n: n.name in inside
        for tag in match.tag:
            tests[f"tag {tag}"] = lambda n, tag=tag: tag in facts[n.name].tags  # type: ignore[misc]
        for tag in match.not_tag:
            tests[f"not tag {tag}"] = lambda n, tag=tag: tag not in facts[n.name].tags  # type: ignore[misc]
        for number, condition in match.where.items():
            tests[f"where {number} {_conditions(condition)}"] = self._where(number, condition)
        return tests

    def _where(self, number: str, condition: Condition) -> Callable[[onnx.NodeProto], bool]:
        def holds(node: onnx.NodeProto) -> bool:
            value = self.facts[node.name].numbers.get(number)
            return value is not None and condition.holds(value)

        return holds

    def _in_span(self, key: str, span: Sequence[int]) -> Callable[[onnx.NodeProto], bool]:
        count = self._count[key]
        low, high = ((end + count if end < 0 else end) for end in (span[0], span[-1]))

        def holds(node: onnx.NodeProto) -> bool:
            value = self.facts[node.name].numbers.get(key)
            return value is not None and low <= value <= high

        return holds

    def _between(self, ends: Between) -> set[str]:
        """Nodes on a path from one of the first tensors to one of the last."""
        known = {*self.graph.inputs, *self.graph.producer}
        for name in (*ends.begin, *ends.end):
            if name not in known:
                raise ConfigError(
                    f"`between` names the tensor '{name}'",
                    "the graph has no such tensor",
                    nearest(name, known) if len(known) < 40 else _close(name, known),
                )
        reached, behind = set(ends.begin or self.graph.inputs), set()
        for node in self.graph.nodes:
            if reached.intersection(node.input):
                behind.add(node.name)
                reached.update(node.output)
        leading, before = set(ends.end or self.graph.outputs), set()
        for node in reversed(self.graph.nodes):
            if leading.intersection(node.output):
                before.add(node.name)
                leading.update(node.input)
        return behind & before

    def nothing(self, match: Match, label: str, widens: bool) -> ConfigError:
        """The error for a rule that matches no node, with how near its criteria come."""
        among = (
            self._float_nodes
            if widens
            else [n for n in self._float_nodes if "product" in self.facts[n.name].tags]
        )
        alone = {text: sum(test(node) for node in among) for text, test in self._tests(match).items()}
        told = ", ".join(f"{text} fits {count or 'none'}" for text, count in alone.items())
        hints = []
        for text, count in alone.items():
            if count == 0:
                hints += self._near(match, text, among)
        what = "nodes" if widens else "products"
        return ConfigError(
            f"the policy's rule '{label}' matches nothing",
            f"of the graph's {len(among)} {what}: {told or 'there are none'}",
            "; ".join(hints) or "its criteria fit different nodes: drop one of them",
        )

    def _near(self, match: Match, text: str, among: Sequence[onnx.NodeProto]) -> list[str]:
        """What a criterion that fits nothing may have meant."""
        if text.startswith("name"):
            names = [node.name for node in among]
            return [_close(pattern.replace("*", ""), names) for pattern in match.name]
        if text.startswith("op"):
            return [f"operators there are: {', '.join(sorted({node.op_type for node in among}))}"]
        if text.startswith("tag"):
            tags = sorted({tag for node in among for tag in self.facts[node.name].tags})
            return [f"tags there are: {', '.join(tags)}"]
        if text.startswith(("layers", "blocks")):
            key = "layer" if text.startswith("layer") else "block"
            count = self._count[key]
            return [f"{key}s go from 0 to {count - 1}" if count else f"the graph has no {key}s"]
        return []


def _told(number: str, value: float) -> str:
    """A number of a node for people: a share as per cent."""
    return f"{value:.2%}" if number.endswith("_share") else f"{value:g}"


def _either(words: Iterable[str]) -> str:
    return " or ".join(f"'{word}'" for word in words)


def _conditions(condition: Condition) -> str:
    given = condition.model_dump(exclude_none=True)
    return ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in given.items())


def _close(name: str, known: Iterable[str]) -> str:
    """The nearest of many long names: by similarity, else those that hold a part of it."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    close = close or [k for k in known if name and name.strip("/?").lower() in k.lower()][:3]
    return f"near: {', '.join(close)}" if close else f"names look like {', '.join(known[:3])}"
