"""The report as one page: all of it in the file, nothing fetched, no script. The verdict comes first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from importlib.resources import files
from typing import Any

from edge import __version__
from edge.signoff import canvas, glossary, limits, pareto, words
from edge.signoff.data import Dossier, Engine
from edge.signoff.html import Html, bullets, table, tag, text
from edge.signoff.sections import anchor, article, badge, figure

EARLIER = " The engine of that name above is an earlier one."
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Content security: the browser itself refuses to fetch anything."""


def page(dossier: Dossier, now: datetime | None = None) -> str:
    """The whole file.

    Args:
        now: when it was written, UTC.

    Raises:
        MissingPackage: matplotlib is not installed.
    """
    parts = (
        _header(dossier, now or datetime.now(timezone.utc)),
        _section("The engines", *_engines(dossier)),
        _pareto(dossier),
        _each(dossier),
        _section("What data was used for what", *_data(dossier)),
        _section("Limits of this report", bullets(limits.limits(dossier))),
        _section("Words", _glossary()),
        _section("Sign-off", *_sign_off(dossier)),
    )
    style = files("edge.signoff").joinpath("style.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("title", f"{dossier.model}: engines and their accuracy"),
        tag("style", Html(style)),
    )
    return "<!doctype html>\n" + tag("html", head, tag("body", tag("main", *parts)), lang="en") + "\n"


def _section(title: str, *content: str | None) -> Html:
    return tag("section", tag("h2", title), *content)


# ---------------------------------------------------------------------- verdict


def _header(dossier: Dossier, now: datetime) -> Html:
    kind = _config(dossier).get("task", {}).get("kind", "")
    task = glossary.TASKS.get(kind, "")
    return tag(
        "header",
        tag("h1", f"{dossier.model}: engines and their accuracy"),
        tag("p", task[:1].upper() + task[1:] + "." if task else None, class_="faint"),
        tag("p", words.overall(dossier), class_=f"verdict {standing(dossier)}"),
        tag(
            "dl",
            *(tag("div", tag("dt", name), tag("dd", value)) for name, value in _facts(dossier)),
            class_="facts",
        ),
        _warning(dossier),
        tag(
            "p",
            f"Written {now:%Y-%m-%d %H:%M} UTC by edge {__version__} from the manifests of the engines.",
            class_="faint",
        ),
    )


def standing(dossier: Dossier) -> str:
    """ "good" if every engine passes, "bad" if one fails or was refused, "open" if one was not judged."""
    if dossier.refused or dossier.damaged or any(engine.passes is False for engine in dossier.engines):
        return "bad"
    judged = bool(dossier.engines) and all(engine.passes for engine in dossier.engines)
    return "good" if judged else "open"


def _facts(dossier: Dossier) -> Iterator[tuple[str, str]]:
    """The figures that a reader looks for first."""
    worst = words.worst_drop(dossier)
    if worst is not None:
        yield "Largest loss of any engine", words.loss(worst)
        limit = next((c.limit for c in worst.checks if c.what == "drop" and c.limit is not None), None)
        if limit is not None:
            yield "May be lost", words.amount(limit, words.metric_of([worst]))
    speeds = [engine.speed_up for engine in dossier.quantized if engine.speed_up is not None]
    if speeds:
        low, high = words.times(min(speeds)), words.times(max(speeds))
        yield "Expected speed-up of quantized engines", low if low == high else f"{low} to {high}"
    counts = sorted({e.accuracy.samples for e in dossier.engines if e.accuracy})
    if counts:
        yield (
            "Judged on",
            f"{counts[-1]:,} pictures" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,} pictures",
        )


def _warning(dossier: Dossier) -> Html | None:
    if not dossier.pictures:
        return None
    return tag(
        "p",
        tag("strong", "This file holds pictures of the evaluation set. "),
        "They may show patients or other people: keep this file, send it and delete it as you do those "
        "pictures.",
        class_="warning",
    )


def _config(dossier: Dossier) -> dict[str, Any]:
    return dossier.engines[0].manifest.config if dossier.engines else {}


# ---------------------------------------------------------------------- engines


def _engines(dossier: Dossier) -> Iterator[Html]:
    if dossier.engines:
        metric = words.metric_of(dossier.engines)
        columns = (
            "Engine", "Precisions, share of the work", f"{metric.name} fp32 → engine", "Loss",
            "Expected speed-up", "State", "Gate", "Where the figures come from",
        )  # fmt: skip
        yield table(columns, (_row(engine) for engine in dossier.engines))
        yield tag(
            "p",
            f"{metric.name}: {metric.meaning}. Speed-up: over everything in the carrier, on the same device.",
            class_="faint",
        )
    else:
        yield tag("p", "There is none.")
    if dossier.refused:
        yield tag("h4", "Not published")
        kept = {engine.label for engine in dossier.engines}
        yield bullets(
            text(
                tag("strong", refused.label),
                f": {refused.reason}.",
                EARLIER if refused.label in kept else None,
            )
            for refused in dossier.refused
        )
    if dossier.damaged:
        yield tag("h4", "Damaged: these must not be used")
        yield bullets(dossier.damaged)


def _row(engine: Engine) -> tuple[str, ...]:
    m = engine.manifest
    name = text(
        tag("a", tag("strong", engine.label), href=f"#{anchor(engine)}"),
        tag("span", words.devices(engine), class_="faint"),
    )
    state = text(m.state, tag("span", glossary.STATES[m.state], class_="faint"))
    return (
        name,
        words.shares(engine),
        words.change(engine),
        words.lost(engine),
        words.speed(engine),
        state,
        badge(engine),
        words.origin(engine),
    )


def _pareto(dossier: Dossier) -> Html | None:
    shown = pareto.drawable(dossier.engines)
    if not shown:
        return None
    metric = words.metric_of(dossier.engines)
    picture = canvas.as_svg(
        lambda axes: pareto.pareto(axes, dossier.engines, metric), 1000, 440, (84, pareto.LEVELS, 12, 48),
        f"{metric.name} against expected speed-up",
    )  # fmt: skip
    missing = [engine.label for engine in dossier.engines if engine not in shown]
    caption = (
        "Each mark is an engine: circles are quantized (fast), squares exact, diamonds and triangles "
        "have short "
        "weights only. Farther right is faster, farther up more accurate; the grey band joins the best "
        "trade-offs." + (f" Not drawn, as a figure is missing: {words.listed(missing)}." if missing else "")
    )
    return _section("Accuracy against speed", figure(picture, caption))


def _each(dossier: Dossier) -> Html | None:
    if not dossier.engines:
        return None
    shown: dict[tuple[bytes | None, bytes | None], str] = {}
    # the quantized ones first: there is something to say about them
    ordered = sorted(dossier.distinct, key=lambda same: not same[0].is_quantized)
    return _section("Engine by engine", *(article(same, shown) for same in ordered))


# ---------------------------------------------------------------------- data, words, signature


def _data(dossier: Dossier) -> Iterator[Html]:
    rows = limits.data_used(dossier)
    if rows:
        yield table(("Used for", "Pictures", "From", "Which means"), rows)
    yield tag("p", tag("strong", limits.held_out(dossier)))


def _glossary() -> Html:
    entries = (part for word, meaning in glossary.GLOSSARY for part in (tag("dt", word), tag("dd", meaning)))
    return tag("dl", *entries, class_="words")


def _sign_off(dossier: Dossier) -> Iterator[Html]:
    yield tag(
        "p",
        "The signature stands for these engines and no others; “edge inspect” shows their keys and "
        "hashes, too.",
    )
    rows = [
        (engine.label, engine.manifest.state, _hash(engine.manifest.key), _hash(engine.manifest.graph_sha256),
         _hash(engine.manifest.calibration_sha256 or "not calibrated"), _hash(_engine_hash(engine)))
        for engine in dossier.engines
    ]  # fmt: skip
    yield table(
        ("Engine", "State", "Key", "Graph, SHA-256", "Calibration, SHA-256", "Engine file, SHA-256"), rows
    )
    for role in ("Prepared by", "Approved by"):
        yield tag("p", tag("strong", role))
        yield tag(
            "div", *(tag("div", field) for field in ("Name", "Role", "Date", "Signature")), class_="sign"
        )


def _engine_hash(engine: Engine) -> str:
    return engine.manifest.files.get(engine.manifest.engine_file, "–")


def _hash(value: str) -> Html:
    return tag("span", value, class_="hash")


def interesting(engines: Sequence[Engine]) -> Engine | None:
    """The quantized engine that most is known of; of these one of most precisions, then of most loss."""
    able = [engine for engine in engines if engine.is_quantized and engine.groups]
    return max(able, key=_telling, default=None)


def _telling(engine: Engine) -> tuple[bool, bool, int, float]:
    kinds = {group.precision for group in engine.groups}
    return any(group.types for group in engine.groups), bool(engine.pairs), len(kinds), engine.drop or 0.0
