"""The summary for people: what live feeds went through and what sinks left out, 80 columns wide."""

from __future__ import annotations

from typing import Any

import pytest
from live import Opener, Steady, camera, delivered, going, live_feed, until
from streaming import Script, feed, pictures

from edge.stream.network import null_network
from edge.stream.run import Run
from edge.stream.show import show


def finished(*feeds: Any) -> dict[str, Any]:
    with going(Run(null_network(), list(feeds))) as run:
        until(lambda: all(delivered(one) > 2 for one in feeds))
        return run.end().data


def printed(data: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> list[str]:
    show(data)
    return [line.rstrip() for line in capsys.readouterr().err.splitlines()]


def test_a_live_feed_is_shown_with_age_and_how_often_it_was_away(capsys: pytest.CaptureFixture[str]) -> None:
    data = finished(live_feed("gate", Opener(camera(3), Steady)))
    header, row, *rest = printed(data, capsys)
    assert header.split()[:2] == ["feed", "ended"] and header.endswith("away")
    assert row.split()[:2] == ["gate", "shutdown"] and row.split()[-1] == "1"
    assert "gate: was reconnecting 1" in rest


def test_what_was_wrong_with_a_feed_at_the_end_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    from edge.errors import InputError

    gone = InputError("cannot open x", "no route to host")
    away, sound = live_feed("away", Opener(camera(3), gone)), live_feed("sound", Opener(Steady))
    with going(Run(null_network(), [away, sound])) as run:
        until(lambda: delivered(sound) > 2 and "no route" in away.life.now.reason)
        data = run.end().data
    assert "away: shutdown while reconnecting: cannot open x: no route to host" in printed(data, capsys)


def test_files_are_shown_with_percentiles_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    data = Run(null_network(), [feed("cine", Script(pictures(5)))]).go().data
    header, row, *rest = printed(data, capsys)
    assert header.split()[:2] == ["feed", "captured"] and header.endswith("p50/p95/p99 ms score")
    assert row.split()[:5] == ["cine", "5", "5", "0", "0"]
    assert len(rest) == 1


def test_sixteen_feeds_fit_80_columns_and_drops_are_added_up(
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = finished(live_feed("floor-north-1", Opener(Steady)))
    (one,) = data["feeds"]
    one |= {"captured": 99999999, "delivered": 99999999, "dropped": {"superseded": 9999999}, "fps": 59.9}
    one["latency_ms"] |= {"p50": 110.0, "p99": 1250.0}
    data["feeds"] = [{**one, "feed": f"floor-north-{n}"} for n in range(16)]
    lines = printed(data, capsys)
    assert max(map(len, lines)) <= 80
    assert "all feeds: dropped: superseded 159999984" in lines


def test_what_a_sink_left_out_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    data = finished(live_feed("gate", Opener(Steady)))
    well = {"written": 9, "lost": 0, "dropped": 0, "retries": 0, "failing": False, "error": None}
    data["sinks"] = [
        {"sink": "jsonl:a", **well},
        {"sink": "display:", **well, "dropped": 3},
        {"sink": "video:b.mkv", **well, "lost": 7, "retries": 2, "error": "the disk is full"},
    ]
    lines = printed(data, capsys)
    assert "display:: 3 results dropped" in lines
    assert "video:b.mkv: the disk is full; 7 results lost; opened again 2 times" in lines
    assert not any("jsonl:a" in line for line in lines)
