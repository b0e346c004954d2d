"""The path of plans from the fastest to the finest.

Errors of groups that are quantized together add up (the sensitivity's divergence is quadratic in them), so
plans can be ranked without running them: from the fastest one, groups are exchanged for something finer in
the order of what accuracy a second buys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from edge.precision.cost import Costs
from edge.precision.groups import Group
from edge.precision.plan import Choice, Planner
from edge.precision.policy import QUANTIZED, Prefer
from edge.precision.sensitivity import Sensitivity

CHEAP: Mapping[Prefer, float] = {"speed": math.inf, "balanced": 10.0, "accuracy": 10.0}
"""Per cent of the noise that one per cent of time has to take away, for accuracy to be called cheap."""
FREE: Mapping[Prefer, float] = {"speed": math.inf, "balanced": 120.0, "accuracy": 120.0}
"""The same, for accuracy that is taken unasked: an eighth of the noise for a thousandth of the time."""
OTHER_TYPE = 0.25
"""A type that the device does not prefer counts as so much slower: fp8 keeps its range where data drift."""
UNKNOWN = math.inf


@dataclass(frozen=True, slots=True)
class Option:
    """One precision of a group.

    Attributes:
        weight: seconds, as the search counts them.
        seconds: as the cost model has them.
    """

    precision: str
    weight: float
    seconds: float
    noise: float


@dataclass(frozen=True, slots=True)
class Move:
    """An exchange of one group's precision for the next finer one worth having."""

    group: str
    option: Option
    seconds: float
    noise: float
    """How much time it costs and how much noise it takes away."""


class Path:
    """The path of plans of one planner.

    Args:
        sensitivities: by type.
        carrier_noise: divergence of the carrier alone; noise below it is not worth a thing.
    """

    def __init__(
        self,
        planner: Planner,
        sensitivities: Mapping[str, Sensitivity],
        costs: Costs,
        carrier_noise: float,
        prefer: Prefer = "balanced",
    ) -> None:
        self.planner, self.sensitivities, self.costs = planner, sensitivities, costs
        self.carrier_noise, self.prefer = carrier_noise, prefer

    @cached_property
    def options(self) -> dict[str, list[Option]]:
        """By group: what is worth having, fastest first; each costs more and is finer than the one before."""
        return {name: _hull(options) for name, options in self.all_options.items()}

    @cached_property
    def all_options(self) -> dict[str, list[Option]]:
        """By group: everything that the rules leave and that was measured."""
        return {group.name: self._options(group) for group in self.planner.groups}

    def _options(self, group: Group) -> list[Option]:
        choosable = self.planner.choosable(group)
        preferred = self.planner.target.quantized[0]
        found = []
        for precision in choosable:
            seconds = self.costs.group(self.planner.given(group, precision))
            other = precision in QUANTIZED and precision != preferred and preferred in choosable
            weight = seconds * (1 + OTHER_TYPE) if other else seconds
            noise = self._noise(group, precision)
            if noise < UNKNOWN or len(choosable) == 1:
                found.append(Option(precision, weight, seconds, 0.0 if noise == UNKNOWN else noise))
        return found or [self._finest(group, choosable)]

    def _finest(self, group: Group, choosable: Sequence[str]) -> Option:
        """Where nothing was measured: the carrier, if it may have that."""
        carrier = self.planner.target.carrier
        precision = carrier if carrier in choosable else choosable[-1]
        seconds = self.costs.group(self.planner.given(group, precision))
        return Option(precision, seconds, seconds, 0.0)

    def _noise(self, group: Group, precision: str) -> float:
        """Of the group in this precision; infinite where it was not measured."""
        given = self.planner.given(group, precision)
        kinds = {p for p in given.values() if p in QUANTIZED}
        found = [self.sensitivities[k].groups.get(group.name) for k in kinds if k in self.sensitivities]
        if len(found) < len(kinds) or any(f is None for f in found):
            return UNKNOWN
        return sum(f.noise for f in found if f is not None)

    @cached_property
    def moves(self) -> list[Move]:
        """Exchanges in the order in which they pay: most noise for a second first."""
        found = []
        for group in self.planner.groups:
            options = self.options[group.name]
            for before, after in pairwise(options):
                move = Move(group.name, after, after.weight - before.weight, before.noise - after.noise)
                found.append(move)
        order = {group.name: index for index, group in enumerate(self.planner.groups)}
        return sorted(found, key=lambda m: (-m.noise / max(m.seconds, 1e-30), order[m.group]))

    @cached_property
    def points(self) -> list[tuple[float, float, float]]:
        """Weight, seconds and noise of each plan, from the fastest to the finest."""
        current = {name: options[0] for name, options in self.options.items()}
        weight = sum(o.weight for o in current.values())
        found = []
        for move in (None, *self.moves):
            if move is not None:
                weight += move.option.weight - current[move.group].weight
                current[move.group] = move.option
            seconds = sum(o.seconds for o in current.values())
            found.append((weight, seconds, sum(o.noise for o in current.values())))
        return found

    def start(self) -> int:
        """Where on the path accuracy stops being next to free: no plan before it is worth a look."""
        return self._worth(FREE[self.prefer])

    def knee(self) -> int:
        """Where on the path accuracy stops being cheap: the first exchange that buys too little."""
        return self._worth(CHEAP[self.prefer])

    def _worth(self, least: float) -> int:
        """Exchanges from the fastest plan on that take away so many times the part of the noise that they
        cost of the time."""
        for position, move in enumerate(self.moves):
            weight, _, noise = self.points[position]
            total = noise + self.carrier_noise
            if total <= 0 or move.noise / total < least * move.seconds / max(weight, 1e-30):
                return position
        return len(self.moves)

    def choices(self, position: int) -> dict[str, Choice]:
        """The choice of every group at a position of the path, with its reason."""
        chosen = {name: options[0] for name, options in self.options.items()}
        chosen |= {move.group: move.option for move in self.moves[:position]}
        total = self.points[position][2] + self.carrier_noise
        return {
            name: Choice(option.precision, self._reason(name, option, total))
            for name, option in chosen.items()
        }

    def _reason(self, group: str, option: Option, total: float) -> str:
        measured = {k: s.groups[group] for k, s in self.sensitivities.items() if group in s.groups}
        fastest = self.options[group][0]
        own = measured.get(option.precision)
        if own is not None:
            share = option.noise / total if total else 0.0
            text = f"{option.precision}: {_percent(share)} of the plan's noise"
            if fastest.precision != option.precision and option.noise > 0:
                times = fastest.noise / option.noise
                text += f", {times:.3g} times less than in {fastest.precision}"
            return text
        if fastest.precision == option.precision:
            return f"{option.precision}: nothing coarser is faster"
        added = fastest.noise / total if total else 0.0
        sqnr = measured[fastest.precision].sqnr_db if fastest.precision in measured else None
        told = "" if sqnr is None else f" ({sqnr:.0f} dB SQNR)"
        return f"in {fastest.precision} it alone would add {_percent(added)} to the plan's noise{told}"

    @property
    def carrier_seconds(self) -> float:
        """Of all products in the carrier, whether the rules allow it or not."""
        carrier = self.planner.target.carrier
        return sum(self.costs.products[name, carrier] for g in self.planner.groups for name in g.products)


def _hull(options: Sequence[Option]) -> list[Option]:
    """The options that are worth having at some price, fastest first: the lower convex hull."""
    ordered = sorted(options, key=lambda o: (o.weight, o.noise))
    kept: list[Option] = []
    for option in ordered:
        if kept and option.noise >= kept[-1].noise:
            continue
        while len(kept) > 1 and _slope(kept[-2], kept[-1]) <= _slope(kept[-1], option):
            kept.pop()
        kept.append(option)
    return kept


def _slope(before: Option, after: Option) -> float:
    """Noise taken away for a second."""
    return (before.noise - after.noise) / max(after.weight - before.weight, 1e-30)


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.1 or share == 0 else f"{share:.1%}"
