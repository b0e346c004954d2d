"""The part of the page about one engine, or several that are the same graph: plan, search, samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from edge.signoff import canvas, figures, words
from edge.signoff.data import Engine
from edge.signoff.glossary import Metric
from edge.signoff.html import Html, bullets, join, table, tag, text
from edge.signoff.kept import Group, Judged, TensorRange, Tried
from edge.signoff.samples import samples

TENSORS = 4
"""Histograms an engine."""
MAP_ROW, MAP_MARGIN = 46, 4


def article(same: Sequence[Engine], shown: dict[tuple[bytes | None, bytes | None], str]) -> Html:
    """Everything about engines that are the same graph.

    Args:
        shown: pictures that are on the page already, and in which engine's part; those of this one are added.
    """
    engine = same[0]
    name = words.listed([e.label for e in same])
    return tag(
        "article",
        tag("h3", name, id=anchor(engine)),
        *_verdicts(same),
        _gate(engine),
        *_plan(same),
        *_sensitivity(engine),
        *_search(same),
        *_ranges(engine),
        *samples(engine, shown),
        *_remarks(same),
    )


def anchor(engine: Engine) -> str:
    return engine.label.replace("/", "-")


def figure(picture: Html, caption: str, class_: str | None = None) -> Html:
    """A picture that can be pushed sideways on a narrow screen, with what it shows."""
    return tag("figure", tag("div", picture, class_="scroll"), tag("figcaption", caption), class_=class_)


def badge(engine: Engine) -> Html:
    """Passes, fails or was not judged."""
    if engine.passes is None:
        return tag("span", "not judged", class_="badge open")
    return tag(
        "span",
        *(("✓ passes",) if engine.passes else ("✗ fails",)),
        class_=f"badge {'good' if engine.passes else 'bad'}",
    )


def _verdicts(same: Sequence[Engine]) -> Iterator[Html]:
    engine = same[0]
    yield tag("p", badge(engine), " ", tag("strong", f"It {words.verdict(engine)}"))
    for each in same:
        if each.manifest.reason:
            told = f"{each.label}: {each.manifest.reason}" if len(same) > 1 else each.manifest.reason
            yield tag("p", told[0].upper() + told[1:] if len(same) == 1 else told, ".", class_="faint")


def _gate(engine: Engine) -> Html:
    """What the gate decided, limit by limit."""
    accuracy = engine.accuracy
    if accuracy is None:
        return tag("p", "It was not judged; nothing is known of its accuracy.")
    metric = words.metric_of([engine])
    lines = [
        text(
            tag("span", "✓" if c.met else "✗", class_="good" if c.met else "bad"),
            " ",
            words.check_line(c, metric),
        )
        for c in engine.checks
    ]
    how = f"Judged on {words.counted(accuracy.samples, 'picture')}, {accuracy.how or 'nobody said how'}:"
    if accuracy.divergence is not None:
        divergence = words.rounded(accuracy.divergence)
        lines.append(text(tag("span", "·"), f" divergence {divergence} a picture on average, no limit"))
    return tag("div", tag("h4", "The gate"), tag("p", how), bullets(lines, "checks"))


# ---------------------------------------------------------------------- the plan


def _plan(same: Sequence[Engine]) -> Iterator[Html]:
    engine = same[0]
    if not engine.groups:
        yield tag("p", "Its plan is not known.", class_="faint")
        return
    yield tag("h4", "Which part computes in which precision, and why")
    if not engine.is_quantized:
        reasons = words.listed([reason for reason, _ in words.by_reason(engine.groups)])
        yield tag(
            "p", f"All {words.counted(len(engine.groups), 'group')} compute in {engine.types} ({reasons})."
        )
        return
    rows = len(figures.map_rows(engine))
    picture = canvas.as_svg(
        lambda axes: figures.precision_map(axes, engine),
        1000, rows * MAP_ROW + 2 * MAP_MARGIN, (2, 2, MAP_MARGIN, MAP_MARGIN),
        f"Precision map of {engine.label}",
    )  # fmt: skip
    known = any(group.macs for group in engine.groups)
    caption = "Every group of the network in the order in which it computes, " + (
        "as wide as its share of the work (the smallest ones a little wider, to be seen)."
        if known
        else "all of one width: their work is not known."
    )
    yield text(legend(engine), figure(picture, caption))
    yield _reasons(engine)
    if engine.evidence and engine.evidence.equalized:
        layers = words.counted(len(engine.evidence.equalized), "layer")
        yield tag("p", f"Channels of {layers} were first brought to a like range, which changes no result.")
    yield from _policy(engine)
    yield _every_group(engine)


def legend(engine: Engine) -> Html:
    """The colours."""
    entries = [
        tag("span", tag("i", style=f"background:{color}"), f" {name}: {share}")
        for name, color, share in figures.precisions(engine)
    ]
    return tag("p", *entries, class_="legend")


def _reasons(engine: Engine) -> Html:
    total = sum(group.macs for group in engine.groups)
    rows = [
        (groups[0].precision, words.counted(len(groups), "group"),
         words.percent(sum(g.macs for g in groups) / total) if total else "–", reason)
        for reason, groups in words.by_reason(engine.groups)
    ]  # fmt: skip
    return table(("Precision", "Groups", "Share of the work", "Why"), rows)


def _policy(engine: Engine) -> Iterator[Html]:
    policy = engine.evidence.policy if engine.evidence else {}
    rules = policy.get("rules") or []
    if rules:
        said = words.listed([str(rule.get("reason") or "a rule without a reason") for rule in rules])
        yield tag("p", f"Policy “{policy.get('name', '')}” with {words.counted(len(rules), 'rule')}: {said}.")


def _every_group(engine: Engine) -> Html:
    kinds = list(dict.fromkeys(kind for group in engine.groups for kind in group.types))
    total = sum(group.macs for group in engine.groups)
    rows = [
        (
            str(number),
            group.name,
            group.kind,
            words.percent(group.macs / total) if total else "–",
            group.precision,
            *(words.rounded(group.types[k].noise, 2) if k in group.types else "–" for k in kinds),
            group.reason,
        )
        for number, group in enumerate(engine.groups, 1)
    ]  # fmt: skip
    columns = (
        "No.",
        "Group",
        "Kind",
        "Share of the work",
        "Precision",
        *(f"Noise in {kind}" for kind in kinds),
        "Why",
    )
    return tag(
        "details",
        tag("summary", f"All {words.counted(len(rows), 'group')} one by one"),
        table(columns, rows, "small"),
    )


def _sensitivity(engine: Engine) -> Iterator[Html]:
    groups = engine.groups
    if not engine.is_quantized or not any(group.types for group in groups):
        return
    few = len(groups) <= figures.NAMED
    picture = canvas.as_svg(
        lambda axes: figures.sensitivity(axes, engine),
        1000, 360 if few else 320, (72, 8, 8, 108 if few else 46),
        f"Sensitivity of {engine.label}",
    )  # fmt: skip
    yield tag("h4", "How sensitive each part is")
    yield figure(
        picture,
        "How far results move when one group alone is quantized, on a logarithmic scale; the colour is the "
        "precision that was chosen for it, as above. A part that stayed in the carrier shows what "
        "quantizing it "
        "would do.",
    )


# ---------------------------------------------------------------------- the search


def _search(same: Sequence[Engine]) -> Iterator[Html]:
    searched = [engine for engine in same if engine.trail and engine.trail.judged]
    if not searched:
        return
    metric = words.metric_of(searched)
    rows: list[tuple[str, ...]] = []
    marked = []
    for engine in searched:
        trail = engine.trail
        assert trail is not None
        for judged in trail.judged:
            if judged is trail.chosen:
                marked.append(len(rows))
            name = (engine.label,) if len(searched) > 1 else ()
            rows.append((*name, *_judged(judged, judged is trail.chosen, metric)))
    count = searched[0].evidence.samples_used.get("search") if searched[0].evidence else None
    pictures = (
        f"{words.counted(count, 'picture')} of the calibration set"
        if count
        else "pictures of the calibration set"
    )
    yield tag("h4", "What the search tried")
    yield tag(
        "p",
        f"These plans were run as a whole on {pictures} that ranges were not measured on. What the original "
        "itself believes counts as right there, so these figures compare plans with each other, not with the "
        "evaluation. The search asks for more than the gate, as other pictures will judge the engine. A "
        "metric of so few pictures jumps: what a plan loses is taken from the trend of all plans that were "
        "run, over their divergence, so that one can be refused whose own figure looks good, or the reverse.",
    )
    names = (
        *(("Engine",) if len(searched) > 1 else ()), "Step", "Expected time", "Predicted noise",
        f"{metric.name} fp32 → plan", "Divergence", "What the search found",
    )  # fmt: skip
    yield table(names, rows, marked=marked)
    for engine in searched:
        if engine.trail and engine.trail.note:
            yield tag("p", f"{engine.label}: {engine.trail.note}.", class_="faint")
    costs = words.listed(sorted({e.trail.costs for e in searched if e.trail and e.trail.costs}))
    if costs:
        yield tag(
            "p",
            f"Expected times: {costs}. Step 0 is the fastest plan; each further one is slower and finer.",
            class_="faint",
        )


def _judged(judged: Judged, chosen: bool, metric: Metric) -> tuple[str, ...]:
    found = text(join(judged.failures, "; ")) if judged.failures else "good enough"
    return (
        str(judged.position),
        words.clock(judged.seconds),
        words.rounded(judged.noise),
        words.from_to(judged.fp32, judged.this, metric.digits),
        words.rounded(judged.divergence),
        text(found, tag("strong", ": the engine’s plan")) if chosen else found,
    )


# ---------------------------------------------------------------------- ranges


def _ranges(engine: Engine) -> Iterator[Html]:
    tensors = worst_tensors(engine)
    if not tensors:
        return
    yield tag("h4", "Ranges of the tensors that cost most")
    yield tag(
        "p",
        "An 8-bit number covers a range; values beyond it are clipped, and a wider range has coarser steps. "
        "Several ways to choose it were tried, and the one was taken that leaves the smallest error in "
        "the parts "
        "that read the tensor.",
    )
    yield tag("div", *(_histogram(engine, tensor) for tensor in tensors), class_="grid")


def worst_tensors(engine: Engine) -> list[TensorRange]:
    """Those in the types that the engine uses."""
    used = {group.precision for group in engine.groups}
    tensors = engine.evidence.tensors if engine.evidence else ()
    able = [t for t in tensors if t.kind in used and t.counts and t.tried and t.edges[1] > t.edges[0]]
    return sorted(able, key=lambda t: -t.noise)[:TENSORS]


def _histogram(engine: Engine, tensor: TensorRange) -> Html:
    accent = canvas.color(tensor.kind, "")
    picture = canvas.as_svg(
        lambda axes: figures.histogram(axes, tensor, accent), 480, 252, (58, 44, 66, 44),
        f"Range of {tensor.name} in {tensor.kind} for {engine.label}",
    )  # fmt: skip
    chosen, *others = tensor.tried
    clipped = words.percent(tensor.clipped(chosen.threshold))
    told = f"Chosen: {_threshold(chosen)}; {clipped} of the values are clipped."
    tried = [
        f"{_threshold(t)} leaves {words.times(t.error / chosen.error)} the error"
        for t in others
        if chosen.error > 0 and math.isfinite(t.error)
    ]
    readers = words.listed(list(tensor.read_by), 3)
    stays = [g for g in engine.groups if g.name in tensor.read_by and g.precision != tensor.kind]
    note = f" Not used here: {_stay(stays)}." if stays and len(stays) == len(tensor.read_by) else ""
    caption = text(
        tag("strong", f"{tensor.name} in {tensor.kind}"), f", read by {readers}.{note} {told}",
        f" Tried, too: {', '.join(tried)}." if tried else "",
    )  # fmt: skip
    return figure(picture, caption, "half")


def _threshold(tried: Tried) -> str:
    return f"{words.method(tried.method)} at ±{words.rounded(tried.threshold)}"


def _stay(groups: Sequence[Group]) -> str:
    names = words.listed([group.name for group in groups], 3)
    kinds = words.listed(sorted({group.precision for group in groups}))
    return f"{names} {'computes' if len(groups) == 1 else 'compute'} in {kinds}"


def _remarks(same: Sequence[Engine]) -> Iterator[Html]:
    """What lint, compiler and device said."""
    said = dict.fromkeys(line for engine in same for line in engine.manifest.lint)
    if said:
        yield tag("h4", "What checks, compiler and device remarked")
        yield bullets(said)
