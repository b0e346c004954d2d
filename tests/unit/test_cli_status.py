"""The line that follows a run: no wider than the terminal, it says which feed is in trouble and why."""

from __future__ import annotations

import logging

import pytest

from edge.cli.status import CLEAR, _Above, status
from edge.stream.feed import Feed
from edge.stream.life import State


def feed(name: str, state: State = "live", reason: str = "", delivered: int = 0) -> Feed:
    made = Feed(name, f"rtsp://u:***@{name}/live", None, opener=lambda: None)  # type: ignore[arg-type,return-value]
    made.life.to(state, reason)
    for _ in range(delivered):
        made.account.read()
        made.account.deliver()
    return made


REFUSED = (
    "cannot open rtsp://u:***@cam3/live: Connection refused (check host, port and path); "
    "the next attempt in 4.6 s"
)


def test_a_few_feeds_are_told_one_by_one() -> None:
    feeds = [feed("gate", delivered=12), feed("yard", "frozen", "identical for 2.0 s")]
    assert status(feeds, 80) == "gate 12  0 ms  yard frozen"


def test_many_are_summed_up_with_the_worst_first_and_why() -> None:
    feeds = [feed(f"cam{n}", delivered=10) for n in range(14)]
    feeds += [feed("cam14", "frozen", "identical for 2.0 s"), feed("cam3", "reconnecting", REFUSED)]
    told = "14 live, 1 reconnecting (cam3: Connection refused), 1 frozen (cam14)"
    assert status(feeds, 100) == f"{told}  140  0 ms"


def test_feeds_in_the_same_trouble_are_named_after_the_first() -> None:
    feeds = [feed("a"), feed("cam3", "reconnecting", REFUSED), feed("b", "reconnecting"), feed("c", "ended")]
    assert status(feeds, 100) == "1 live, 2 reconnecting (cam3: Connection refused, b), 1 ended  0  0 ms"


@pytest.mark.parametrize("columns", [1, 5, 20, 40, 79, 200])
@pytest.mark.parametrize("count", [1, 3, 16, 100])
def test_it_is_never_wider_than_the_terminal(columns: int, count: int) -> None:
    feeds = [feed(f"a-camera-with-a-long-name-{n}", "stalled" if n % 2 else "live") for n in range(count)]
    line = status(feeds, columns)
    assert 0 < len(line) <= columns
    assert "\n" not in line


def test_what_is_logged_takes_the_lines_place(capsys: pytest.CaptureFixture[str]) -> None:
    handler = _Above()
    for level in (logging.INFO, logging.WARNING):
        record = logging.LogRecord("edge.stream", level, "", 0, "%s: stalled", ("cam3",), None)
        if record.levelno >= handler.level:
            handler.emit(record)
    assert capsys.readouterr().err == f"{CLEAR}cam3: stalled\n"
