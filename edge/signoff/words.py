"""Numbers and verdicts in plain words, for somebody who signs and does not know quantization."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from edge.signoff.data import COSINE, Check, Dossier, Engine
from edge.signoff.glossary import METRICS, Metric
from edge.signoff.kept import Group
from edge.targets import TARGETS

NARROW = "\u202f"
"""A narrow space that no line ends at."""


def metric_of(engines: Iterable[Engine]) -> Metric:
    """The metric that these engines are judged by."""
    name = next((e.accuracy.metric for e in engines if e.accuracy and e.accuracy.metric), "")
    return METRICS.get(name) or Metric(name or "accuracy", "", 4, "the task's own figure of accuracy")


def number(value: float | None, digits: int = 3) -> str:
    """With so many digits behind the point and a real minus; "–" where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    shown = f"{value:.{digits}f}"
    return shown.lstrip("-") if float(shown) == 0 else shown.replace("-", "−")


def rounded(value: float | None, digits: int = 3) -> str:
    """To so many digits in all, without exponents where these can be avoided."""
    if value is None or not math.isfinite(value):
        return "–"
    if value and not 1e-4 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.{max(digits - 2, 0)}e}".split("e")
        return f"{mantissa}·10{str(int(exponent)).translate(_RAISED)}".replace("-", "−")
    return f"{value:.{digits}g}".replace("-", "−")


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def percent(share: float) -> str:
    """ "94 %", "0.31 %", "0 %": two digits at least where it is small."""
    value = 100 * share
    if value == 0 or value >= 10:
        return f"{value:.0f}{NARROW}%"
    if value < 0.001:
        return f"below 0.001{NARROW}%"
    return f"{value:.1f}{NARROW}%" if value >= 1 else f"{value:.2g}{NARROW}%"


def clock(seconds: float) -> str:
    """ "168 µs", "2.31 ms"."""
    for size, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def times(factor: float) -> str:
    """ "1.4×"."""
    return f"{factor:.2g}×" if factor < 9.95 else f"{factor:.0f}×"


def counted(count: int, one: str, many: str = "") -> str:
    """ "1 engine", "8 engines"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(names: Sequence[str], most: int = 6) -> str:
    """ "a, b and c"; of many the first ones and how many more there are."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join([*([", ".join(names[:-1])] if len(names) > 1 else []), *names[-1:]])


def method(name: str) -> str:
    """Of choosing a range: "percentile 99.9" as "p99.9"."""
    return name.replace("percentile ", "p")


def shortened(name: str, most: int) -> str:
    """A long name by its end, where names of nodes differ."""
    return name if len(name) <= most else "…" + name[1 - most :]


def devices(engine: Engine) -> str:
    """Examples of what it is for: "L4, L40S, RTX 4090, RTX 6000 Ada"."""
    row = TARGETS.get(engine.manifest.target)
    if row is not None:
        return ", ".join(row.devices)
    capability = engine.manifest.compute_capability
    return f"compute capability {capability}" if capability else "a processor"


def verdict(engine: Engine) -> str:
    """One sentence that needs no knowledge."""
    accuracy, metric = engine.accuracy, metric_of([engine])
    if accuracy is None:
        return "was not judged: there are no figures of its accuracy."
    told = _fails(engine) if engine.passes is False else "passes its gate"
    if accuracy.this is None or accuracy.fp32 is None:
        return f"{told}; its accuracy could not be scored."
    here, before = (number(value, metric.digits) for value in (accuracy.this, accuracy.fp32))
    if accuracy.metric == COSINE:
        return f"{told}: its outputs agree with the original's to a cosine of {here} (1 would be the same)."
    drop = engine.drop or 0.0
    change = f"a loss of {number(drop, metric.digits)}{metric.unit}{give_or_take(engine)}"
    if drop <= 0:
        change = "nothing is lost"
    elif float(number(drop, metric.digits)) == 0:
        change = "the loss does not show in these digits"
    return f"{told}: {metric.name} {here} where the original has {before}, {change}{_allowed(engine)}."


def give_or_take(engine: Engine) -> str:
    """ " ± 0.55", the standard error of the loss; nothing where it is not known."""
    error = engine.accuracy.drop_error if engine.accuracy else None
    shown = number(error, metric_of([engine]).digits)
    return f" ± {shown}" if error and float(shown) else ""


def shares(engine: Engine) -> str:
    """ "94 % int8, 6 % fp16" of the work."""
    found = engine.shares or {engine.manifest.carrier: 1.0}
    return ", ".join(f"{percent(share)} {name}" for name, share in found.items() if share > 0)


def change(engine: Engine) -> str:
    """ "36.60 → 36.11": the original's figure and the engine's; breaks over no line."""
    accuracy, digits = engine.accuracy, metric_of([engine]).digits
    if accuracy is None or accuracy.this is None:
        return "–"
    return from_to(accuracy.fp32, accuracy.this, digits)


def from_to(before: float | None, now: float | None, digits: int) -> str:
    """Two figures that no line ends between."""
    return f"{number(before, digits)}\u00a0→\u00a0{number(now, digits)}"


def amount(limit: float, metric: Metric) -> str:
    """A limit as it was written: "1 point", "0.05 dB"."""
    unit = metric.unit.rstrip("s") if limit == 1 else metric.unit
    return f"{limit:g}{unit}"


def speed(engine: Engine) -> str:
    """ "1.3×", measured latency behind it."""
    parts = [] if engine.speed_up is None else [times(engine.speed_up)]
    if engine.manifest.latency is not None:
        parts.append(f"{engine.manifest.latency.p50_ms:.3g} ms measured")
    return ", ".join(parts) or "not estimated"


def _allowed(engine: Engine) -> str:
    limit = next((c.limit for c in engine.checks if c.what == "drop"), None)
    return "" if limit is None else f" ({amount(limit, metric_of([engine]))} may be lost)"


def _fails(engine: Engine) -> str:
    names = {"drop": "accuracy falls too far", "cosine": "cosine is too low", "sqnr": "SQNR is too low"}
    return f"FAILS its gate ({', '.join(names[c.what] for c in engine.checks if not c.met)})"


def overall(dossier: Dossier) -> str:
    """The verdict over all engines."""
    judged = [e for e in dossier.engines if e.passes is not None]
    failed = [e.label for e in judged if e.passes is False]
    missing = [e.label for e in dossier.engines if e.passes is None]
    if not judged:
        text = "No engine has been judged."
    elif failed:
        text = f"{len(judged) - len(failed)} of {counted(len(judged), 'engine')} pass their gate; "
        text += f"{listed(failed)} {'does' if len(failed) == 1 else 'do'} not."
    else:
        text = (
            f"All {len(judged)} engines pass their gate."
            if len(judged) > 1
            else "The engine passes its gate."
        )
    worst = worst_drop(dossier)
    if worst is not None and (worst.drop or 0) > 0 and worst.accuracy and worst.accuracy.metric != COSINE:
        text += f" The largest loss is {loss(worst)}, of {worst.label}{_allowed(worst)}."
    if judged and missing:
        text += f" {listed(missing)} {'was' if len(missing) == 1 else 'were'} not judged."
    if dossier.refused:
        text += f" Not published: {listed([r.label for r in dossier.refused])}."
    return text


def worst_drop(dossier: Dossier) -> Engine | None:
    """The engine that loses most."""
    able = [e for e in dossier.engines if e.drop is not None]
    return max(able, key=lambda e: e.drop or 0.0, default=None)


def loss(engine: Engine) -> str:
    """What an engine loses, as a figure: "0.65 points AP"."""
    metric = metric_of([engine])
    drop = engine.drop
    if drop is None:
        return "–"
    if metric.name == "cosine":
        return f"cosine {number(1 - drop, metric.digits)}"
    shown = number(max(drop, 0.0), metric.digits)
    return (
        f"{shown}{metric.unit} {metric.name}" if metric.unit.strip() != "dB" else f"{shown} dB {metric.name}"
    )


def check_line(check: Check, metric: Metric) -> str:
    """A limit and what was found: "drop 0.65 ≤ 1"."""
    if check.what == "drop":
        found = number(check.found, metric.digits) if check.found is not None else "no figure"
        sign, name = "≤", f"{metric.name} drop"
        exceeded = ">"
    else:
        digits = 5 if check.what == "cosine" else 1
        found = number(check.found, digits) if check.found is not None else "–"
        sign, name = "≥", {"cosine": "cosine", "sqnr": "SQNR"}[check.what]
        exceeded = "<"
    unit = " dB" if check.what == "sqnr" and check.found is not None else ""
    if check.what == "sqnr" and check.found is None:
        return "SQNR: no error at all" if check.met else "SQNR: no figure"
    if check.limit is None:
        return f"{name} {found}{unit}, no limit"
    return f"{name} {found}{unit} {sign if check.met else exceeded} {check.limit:g}{unit}"


def summed_up(reasons: Sequence[str]) -> str:
    """Reasons that differ in their numbers only, as one: "K = 3" and "K = 7" → "K = 3–7"."""
    parts = [_NUMBER.split(reason) for reason in reasons]
    found = [_NUMBER.findall(reason) for reason in reasons]
    text = parts[0][0]
    for index, values in enumerate(zip(*found, strict=True)):
        ordered = sorted(set(values), key=float)
        text += ordered[0] if len(ordered) == 1 else f"{ordered[0]}–{ordered[-1]}"
        text += parts[0][index + 1]
    return text


_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e[+-]?\d+)?(?!\w)")


def by_reason(groups: Iterable[Group]) -> list[tuple[str, list[Group]]]:
    """Groups by precision and the reason for it, most work first; numbers within a reason may differ."""
    found: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        found.setdefault((group.precision, _NUMBER.sub("#", group.reason)), []).append(group)
    ordered = sorted(found.values(), key=lambda g: (-sum(x.macs for x in g), -len(g)))
    return [(summed_up([g.reason for g in some]), some) for some in ordered]


def lost(engine: Engine) -> str:
    """ "0.65 points of 1 allowed", "nothing"."""
    metric, drop = metric_of([engine]), engine.drop
    if drop is None or metric.name == COSINE:
        return "–"
    limit = next((c.limit for c in engine.checks if c.what == "drop"), None)
    shown = f"{number(drop, metric.digits)}{metric.unit}" if drop > 0 else "nothing"
    return shown if limit is None else f"{shown} ({limit:g}\u00a0allowed)"


def origin(engine: Engine) -> str:
    """Where its figures come from."""
    if engine.accuracy is None:
        return "–"
    return f"{engine.accuracy.how or 'not said'}, {counted(engine.accuracy.samples, 'picture')}"
