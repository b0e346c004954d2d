"""HTML that is safe by construction: whatever is not markup already is escaped when it is put into a tag."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

VOID = frozenset({"br", "col", "hr", "img", "meta"})


class Html(str):
    """Text that is markup. A plain `str` is text from outside and gets escaped."""

    __slots__ = ()


def tag(name: str, *content: str | None, **attributes: str | None) -> Html:
    """An element. None as content or as an attribute's value leaves that out.

    Args:
        attributes: `class_` is written class, `data_label` data-label.
    """
    pairs = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    written = "".join(f' {key}="{escape(value)}"' for key, value in pairs if value is not None)
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{text(*content)}</{name}>")


def text(*parts: str | None) -> Html:
    """Markup and plain text one after the other."""
    return Html("".join(p if isinstance(p, Html) else escape(p, quote=False) for p in parts if p is not None))


def join(parts: Iterable[str], between: str = "") -> Html:
    """Several parts with something between them."""
    found: list[str] = []
    for part in parts:
        found += [between, part] if found else [part]
    return text(*found)


def bullets(items: Iterable[str], class_: str | None = None) -> Html:
    """An unordered list."""
    return tag("ul", *(tag("li", item) for item in items), class_=class_)


def table(
    columns: Iterable[str], rows: Iterable[Iterable[str]], class_: str = "", marked: Iterable[int] = ()
) -> Html:
    """A table that turns into cards on a narrow screen: each cell knows its column's name.

    Args:
        marked: indices of rows that stand out.
    """
    names, bright = [*columns], {*marked}
    head = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in names)))
    body = [
        tag(
            "tr",
            *(tag("td", tag("div", cell), data_label=name) for name, cell in zip(names, row, strict=True)),
            class_="marked" if index in bright else None,
        )
        for index, row in enumerate(rows)
    ]
    return tag("div", tag("table", head, tag("tbody", *body), class_=class_ or None), class_="scroll")
