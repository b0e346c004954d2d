"""What a report is made from: manifests, the evidence beside them, and what the gate says of both."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from edge.build import evidence
from edge.config import GateConfig
from edge.manifest import Accuracy, Entry, Manifest, is_plain
from edge.precision.plan import VARIANTS
from edge.precision.policy import QUANTIZED, WEIGHT_ONLY
from edge.signoff.kept import Evidence, Group, Trail
from edge.store import Store
from edge.targets import TARGETS

log = logging.getLogger(__name__)

COSINE = "cosine"
"""The metric's name where samples have no labels (`edge.build.verify`)."""


@dataclass(frozen=True, slots=True)
class Check:
    """One limit of the gate.

    Attributes:
        what: "drop", "cosine" or "sqnr".
        found: None where there is no such number.
    """

    what: str
    found: float | None
    limit: float | None
    met: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """A sample as fp32 and as the engine see it: two JPEGs, None where a file is gone."""

    name: str
    divergence: float
    fp32: bytes | None
    engine: bytes | None


@dataclass(frozen=True)
class Engine:
    """A published engine and everything that is known of it.

    Attributes:
        evidence: None for an engine that came from another machine.
    """

    manifest: Manifest
    evidence: Evidence | None
    pairs: tuple[Pair, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.manifest.target}/{self.manifest.variant}"

    @property
    def accuracy(self) -> Accuracy | None:
        return self.manifest.accuracy

    @property
    def trail(self) -> Trail | None:
        return self.evidence.search if self.evidence else None

    @property
    def drop(self) -> float | None:
        """By how much the metric fell; None where there is none. Without labels: 1 − lowest cosine."""
        return _drop(self.accuracy)

    @cached_property
    def checks(self) -> tuple[Check, ...]:
        return checks(self.accuracy, self.manifest.config.get("gate"))

    @property
    def passes(self) -> bool | None:
        """Whether it meets its gate; None where it was not judged."""
        return None if self.accuracy is None else all(check.met for check in self.checks)

    @property
    def carried(self) -> bool:
        """Whether its evidence is older than the engine: from the build that its device finished."""
        return self.evidence is not None and self.evidence.key != self.manifest.key

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """From the evidence; without it from the manifest's plan, which does not know the work."""
        if self.evidence and self.evidence.groups:
            return self.evidence.groups
        first: dict[str, Group] = {}
        for entry in self.manifest.plan:
            if entry.group and entry.group not in first:
                found = Group(name=entry.group, precision=entry.precision, reason=entry.reason)
                first[entry.group] = found
        return tuple(first.values())

    @property
    def is_quantized(self) -> bool:
        coarse = {*QUANTIZED, *WEIGHT_ONLY}
        return bool(coarse & set(self.shares)) or any(g.precision in coarse for g in self.groups)

    @property
    def shares(self) -> Mapping[str, float]:
        """Share of the multiply–accumulates by precision; empty where that is not known."""
        return self.manifest.mac_shares

    @property
    def types(self) -> str:
        """Its precisions in a word, the most used one first: "int8+fp8", or the carrier."""
        used = Counter(g.precision for g in self.groups)
        ordered = [*self.shares] or [precision for precision, _ in used.most_common()]
        coarse = [p for p in ordered if p in QUANTIZED + WEIGHT_ONLY]
        return "+".join(coarse) or self.manifest.carrier

    @property
    def speed_up(self) -> float | None:
        """Expected over everything in the carrier; None where nobody estimated it."""
        if self.manifest.speed_up is not None:
            return self.manifest.speed_up
        return None if self.is_quantized else 1.0


@dataclass(frozen=True, slots=True)
class Refused:
    """An engine that was not published."""

    label: str
    reason: str


@dataclass(frozen=True)
class Dossier:
    """All that a report says.

    Attributes:
        damaged: what the store holds and must not be used, in words.
        refused: engines of the last build that were not published.
    """

    model: str
    engines: tuple[Engine, ...]
    damaged: tuple[str, ...] = ()
    refused: tuple[Refused, ...] = ()

    @property
    def quantized(self) -> tuple[Engine, ...]:
        return tuple(engine for engine in self.engines if engine.is_quantized)

    @cached_property
    def distinct(self) -> tuple[tuple[Engine, ...], ...]:
        """Engines with the same plan and the same results together: several devices may run one graph."""
        found: dict[object, list[Engine]] = {}
        for engine in self.engines:
            found.setdefault(_likeness(engine), []).append(engine)
        return tuple(map(tuple, found.values()))

    @property
    def pictures(self) -> bool:
        """Whether samples are shown, which may show patients."""
        return any(engine.pairs for engine in self.engines)


def _likeness(engine: Engine) -> object:
    """Equal for engines about which the same has to be said."""
    if engine.evidence is None or engine.accuracy is None:
        return engine.label
    m, a = engine.manifest, engine.accuracy
    plan = tuple((group.name, group.precision, group.reason) for group in engine.groups)
    return m.variant, m.carrier, m.state, a.model_dump_json(), plan, engine.evidence.divergences, m.lint


def collect(root: Path, model: str, refused: Sequence[Refused] = ()) -> Dossier | None:
    """Everything the store below `root` knows of a model; None where it holds no engine of it."""
    engines, damaged = [], []
    for found in Store(root).scan(model):
        if isinstance(found, Entry):
            engines.append(_engine(found.manifest, root))
        else:
            damaged.append(str(found))
    if not (engines or damaged or refused):
        return None
    return Dossier(model, tuple(sorted(engines, key=_order)), tuple(damaged), tuple(refused))


def checks(accuracy: Accuracy | None, gate: object) -> tuple[Check, ...]:
    """The gate's limits against what was measured, by the rules of `edge.build.verify.failures`."""
    if accuracy is None:
        return ()
    try:
        limits = GateConfig.model_validate(gate or {})
    except ValidationError:
        limits = GateConfig()
    found = []
    if accuracy.metric != COSINE:
        drop, most = _drop(accuracy), limits.max_drop
        found.append(Check("drop", drop, most, most is None or (drop is not None and drop <= most)))
    cosines = [o.cosine for o in accuracy.outputs]
    lowest = None if None in cosines else min((c for c in cosines if c is not None), default=None)
    met = not accuracy.outputs or (lowest is not None and lowest >= limits.min_cosine)
    found.append(Check("cosine", lowest, limits.min_cosine, met))
    sqnr = min((o.sqnr_db for o in accuracy.outputs if o.sqnr_db is not None), default=None)
    least = limits.min_sqnr_db
    found.append(Check("sqnr", sqnr, least, least is None or sqnr is None or sqnr >= least))
    return tuple(found)


def _drop(accuracy: Accuracy | None) -> float | None:
    if accuracy is None or accuracy.fp32 is None or accuracy.this is None:
        return None
    drop = accuracy.fp32 - accuracy.this
    return drop if math.isfinite(drop) else None


def _order(engine: Engine) -> tuple[int, str, int, str]:
    """As the hardware matrix and the list of variants have it; a user's rows behind."""
    target, variant = engine.manifest.target, engine.manifest.variant
    rows, columns = [*TARGETS], [str(name) for name in VARIANTS]
    row = rows.index(target) if target in rows else len(rows)
    column = columns.index(variant) if variant in columns else len(columns)
    return row, target, column, variant


def _engine(manifest: Manifest, root: Path) -> Engine:
    about = evidence.load(manifest, root)
    if about is None:
        return Engine(manifest, None)
    try:
        known = Evidence.model_validate(about)
    except ValidationError as e:
        problem = e.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        log.warning("what was kept of %s is left out: %s: %s", manifest.address, where, problem["msg"])
        return Engine(manifest, None)
    folder = root / manifest.model / evidence.FOLDER / manifest.target
    pairs = (
        Pair(s.name, s.divergence, _picture(folder, s.fp32), _picture(folder, s.engine))
        for s in known.samples
    )
    return Engine(manifest, known, tuple(pair for pair in pairs if pair.fp32 or pair.engine))


def _picture(folder: Path, name: str) -> bytes | None:
    """A JPEG of this folder and no other file."""
    if not is_plain(name):
        return None
    try:
        content = (folder / name).read_bytes()
    except OSError:
        return None
    return content if content.startswith(b"\xff\xd8\xff") else None
