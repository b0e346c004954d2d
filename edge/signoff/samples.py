"""The samples an engine does worst on, as the original and the engine see them."""

from __future__ import annotations

import base64
from collections.abc import Iterator

from edge.signoff import words
from edge.signoff.data import Engine, Pair
from edge.signoff.html import Html, tag

EXACT = 1
"""Pairs of an engine that is not quantized."""


def samples(engine: Engine, shown: dict[tuple[bytes | None, bytes | None], str]) -> Iterator[Html]:
    """The worst ones side by side.

    Args:
        shown: pictures that are on the page already, and at which engine; those of this one are added.
    """
    pairs = worst_pairs(engine)
    if not engine.pairs:
        return
    yield tag("h4", "Pictures on which it differs most")
    if not pairs:
        yield tag("p", "Its result is the original's on every picture of the evaluation.")
        return
    again = {shown[_key(pair)] for pair in pairs if _key(pair) in shown}
    fresh = [pair for pair in pairs if _key(pair) not in shown]
    for pair in fresh:
        shown[_key(pair)] = engine.label
    yield tag("p", _spread(engine))
    yield tag("div", *(_pair(pair) for pair in fresh), class_="grid wide")
    if again:
        rest = len(pairs) - len(fresh)
        yield tag(
            "p",
            f"{words.counted(rest, 'more picture')} {'is' if rest == 1 else 'are'} shown above, at "
            f"{words.listed(sorted(again))}.",
        )


def worst_pairs(engine: Engine) -> list[Pair]:
    """Those that differ at all; of an engine that is not quantized few will do."""
    able = [pair for pair in engine.pairs if pair.divergence > 0]
    return able if engine.is_quantized else able[:EXACT]


def _key(pair: Pair) -> tuple[bytes | None, bytes | None]:
    return pair.fp32, pair.engine


def _spread(engine: Engine) -> str:
    found = [value for _, value in engine.evidence.divergences] if engine.evidence else []
    told = "The worst ones of the evaluation, left as the original sees them, right as this engine does."
    if len(found) > 1:
        ordered = sorted(found)
        median, most = words.rounded(ordered[len(ordered) // 2]), words.rounded(ordered[-1])
        told += f" Divergence: {median} in the middle of {len(found)} pictures, {most} at worst."
    if engine.carried:
        told += " They come from emulation, before the engine was compiled on its device."
    return told


def _pair(pair: Pair) -> Html:
    sides = (("original, fp32", pair.fp32), ("this engine", pair.engine))
    pictures = [
        tag("div", picture(content, f"{pair.name}: {side}"), tag("span", side, class_="side"))
        for side, content in sides
    ]
    caption = tag("figcaption", tag("strong", pair.name), f", divergence {words.rounded(pair.divergence)}")
    return tag("figure", tag("div", *pictures, class_="pair"), caption, class_="half")


def picture(content: bytes | None, alt: str) -> Html:
    """A JPEG within the page."""
    if content is None:
        return tag("p", "The picture is gone.", class_="faint")
    return tag("img", src="data:image/jpeg;base64," + base64.b64encode(content).decode(), alt=alt)
