"""The worklist as one HTML file: it fetches nothing, and holds what it takes to go on with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from importlib.resources import files

from edge.signoff.html import Html, join, tag, text
from edge.triage.studies import Row, moment
from edge.triage.worklist import Worklist

TITLE = "Worklist"
NO_NETWORK = "default-src 'none'; style-src 'unsafe-inline'"
"""The page's own rule for browsers: nothing is loaded, and no script runs."""

_DATA = re.compile(r'<script type="application/json" id="worklist">(.*?)</script>', re.DOTALL)

COLUMNS = ("", "Finding", "Confidence", "Study", "Objects", "Age", "State")


def page(worklist: Worklist, now: float, refresh: float | None = None) -> str:
    """The page.

    Args:
        refresh: seconds after which a browser loads it again; None: never.
    """
    rows = worklist.rows()
    again = (
        None if refresh is None else tag("meta", http_equiv="refresh", content=f"{max(1, round(refresh))}")
    )
    style = files("edge.triage").joinpath("style.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=NO_NETWORK),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        again,
        tag("title", _title(rows)),
        tag("style", Html(style)),
    )
    body = tag(
        "body", tag("main", _header(rows, now), _table(rows, now), _footer(worklist)), _data(worklist, now)
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def restore(worklist: Worklist, html: str) -> None:
    """Take up the list that a page shows.

    Raises:
        ValueError: it is no page of ours.
    """
    found = _DATA.search(html)
    if found is None:
        raise ValueError("it is no worklist")
    worklist.restore(found[1])


def _data(worklist: Worklist, now: float) -> Html:
    """The list for `restore`; what could end the element is written as JSON's own escapes."""
    written = json.dumps(worklist.to_json(now), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    safe = written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Html(f'<script type="application/json" id="worklist">{safe}</script>')


def _title(rows: Sequence[Row]) -> str:
    urgent = sum(row.urgent for row in rows)
    return f"({urgent}) {TITLE}" if urgent else TITLE


def _header(rows: Sequence[Row], now: float) -> Html:
    urgent = sum(row.urgent for row in rows)
    facts = [(str(urgent), "urgent", "bad" if urgent else ""), (str(len(rows)), _plural(len(rows)), "")]
    if waiting := [row for row in rows if row.urgent]:
        oldest = max(now - row.since for row in waiting)
        facts.append((age(oldest), "oldest urgent", ""))
    written = datetime.fromtimestamp(now).astimezone()
    return tag(
        "header",
        tag("h1", TITLE),
        tag(
            "dl", *(tag("div", tag("dd", n, class_=look or None), tag("dt", name)) for n, name, look in facts)
        ),
        tag(
            "p",
            "as of ",
            tag("time", f"{written:%H:%M:%S}", datetime=moment(now)),
            f"{written: %Z, %d %b %Y}",
        ),
    )


def _plural(count: int) -> str:
    return "study" if count == 1 else "studies"


def _table(rows: Sequence[Row], now: float) -> Html:
    if not rows:
        return tag("p", "No study yet.", class_="empty")
    head = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in COLUMNS)))
    lines = [_line(number, row, now) for number, row in enumerate(rows, 1)]
    return tag("table", head, tag("tbody", *lines))


def _line(number: int, row: Row, now: float) -> Html:
    cells = (
        tag("td", str(number), class_="rank"),
        tag("td", *_finding(row), data_label="Finding"),
        tag("td", _bar(row.score), data_label="Confidence"),
        tag("td", tag("span", short(row.study), class_="uid", title=row.study), data_label="Study"),
        tag("td", _objects(row), data_label="Objects"),
        tag("td", tag("time", age(now - row.since), datetime=moment(row.since)), data_label="Age"),
        tag("td", tag("span", row.state, class_=f"state {_word(row.state)}"), data_label="State"),
    )
    return tag("tr", *cells, class_="urgent" if row.urgent else None)


def _finding(row: Row) -> Iterable[Html]:
    if row.urgent:
        yield tag("strong", "urgent", class_="badge")
    yield tag("span", row.finding or row.verdict, class_=None if row.finding else "faint")
    for flag in row.flags:
        yield tag("span", flag.replace("_", " "), class_="flag")


def _bar(score: float | None) -> Html | None:
    if score is None:
        return None
    filled = tag("i", style=f"width:{100 * min(1.0, max(0.0, score)):.1f}%")
    return text(tag("span", f"{score:.2f}", class_="score"), tag("span", filled, class_="bar"))


def _objects(row: Row) -> Html:
    results = f"{row.results} result{'s' if row.results != 1 else ''}"
    kind = f"{row.modality} · " if row.modality else ""
    return text(tag("span", str(row.objects or "–")), tag("small", kind + results))


def _footer(worklist: Worklist) -> Html:
    rules = [
        text(tag("b", name), f" from {score:g}") for name, score in sorted(worklist.rules.urgent.items())
    ]
    said = text("Urgent: ", join(rules, ", "), ".") if rules else text("No rule says what is urgent.")
    order = " Sorted by the model's confidence, of equal ones the oldest first. A finding is no diagnosis."
    return tag("footer", tag("p", said, order))


def short(uid: str) -> str:
    """Both ends of a long UID: sites begin all of theirs in the same way."""
    return uid if len(uid) <= 28 else f"{uid[:14]}…{uid[-10:]}"


def _word(state: str) -> str:
    return re.sub(r"\W+", "-", state)


def age(seconds: float) -> str:
    """A length of time in its two largest units."""
    seconds = max(0, int(seconds))
    for unit, length, below, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= length:
            rest = seconds % length // part
            small = f" {rest} {below}" if rest and seconds < 10 * length else ""
            return f"{seconds // length} {unit}{small}"
    return f"{seconds} s"
