"""A source that has to know what became of its pictures is told once of each; it may have nothing to read."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from live import adds_up, going, until
from streaming import Collect, Script, feed, lost, pictures

from edge.errors import UsageError
from edge.sources import Idle, Picture
from edge.stream.admission import Admission, Lane
from edge.stream.config import FeedConfig, FeedSettings
from edge.stream.feed import Feed, open_feed
from edge.stream.network import null_network
from edge.stream.run import Run
from edge.types import Result


class Told:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.fates: list[tuple[int, str]] = []
        self.closed = 0

    def delivered(self, result: Result) -> None:
        self.fates.append((result.frame.meta["number"], "delivered"))

    def missed(self, meta: Mapping[str, Any], cause: str, error: Exception | None = None) -> None:
        self.fates.append((meta["number"], cause))

    def close(self) -> None:
        self.closed += 1


class Owing(Script):
    """A source that is told of outcomes, by its pictures' numbers."""

    def __init__(self, steps: Any, **how: Any) -> None:
        steps = list(steps)
        numbered = [
            Picture(step.image, step.pts, {"number": n}) if isinstance(step, Picture) else step
            for n, step in enumerate(steps)
        ]
        super().__init__(numbered, **how)
        self.outcomes = Told()


class Endless(Owing):
    """Has nothing to read after its steps, for ever."""

    def read(self) -> Picture | None:
        picture = super().read()
        if picture is None:
            threading.Event().wait(0.002)
            raise Idle("nothing to read")
        return picture


def test_every_picture_of_the_source_has_one_fate() -> None:
    source = Owing(pictures(9))
    run = Run(null_network(), [feed("study", source)], [("c", Collect())])
    run.go()
    assert sorted(source.outcomes.fates) == [(number, "delivered") for number in range(9)]
    assert source.outcomes.closed == 1


def test_a_picture_that_fails_on_the_way_is_told_with_its_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    source, network = Owing(pictures(6)), null_network()
    prepare, interpret = network.prepare, network.interpret
    calls: Counter[str] = Counter()

    def fail(what: str, at: int, then: Any) -> Any:
        def call(*args: Any) -> Any:
            calls[what] += 1
            if calls[what] == at:
                raise ValueError(what)
            return then(*args)

        return call

    monkeypatch.setattr(network, "prepare", fail("preprocess", 2, prepare))
    monkeypatch.setattr(network, "interpret", fail("postprocess", 3, interpret))
    Run(network, [feed("study", source)], []).go()
    fates = dict(source.outcomes.fates)
    assert fates == {0: "delivered", 1: "preprocess", 2: "delivered", 3: "postprocess"} | dict.fromkeys(
        (4, 5), "delivered"
    )


def test_a_picture_that_is_left_out_on_purpose_is_told_too() -> None:
    source = Owing(pictures(6))
    settings = FeedSettings(stride=3)
    Run(null_network(), [Feed("study", "study:", source, settings=settings)], []).go()
    assert Counter(cause for _, cause in source.outcomes.fates) == {"delivered": 2, "limited": 4}


def test_a_source_without_an_end_is_read_until_the_run_is_stopped() -> None:
    source, sink = Endless(pictures(3)), Collect()
    one = feed("study", source)
    with going(Run(null_network(), [one], [("c", sink)])) as run:
        until(lambda: len(sink.results) == 3)
        until(lambda: one.lane.idle)
        assert one.life.state == "live" and not source.closed
        run.end()
        assert run.row("study")["ended"] == "shutdown"
    assert source.closed and source.outcomes.closed == 1
    assert adds_up(one)


def test_many_pictures_that_cannot_be_read_do_not_end_a_source_that_is_told_of_outcomes() -> None:
    source, sink = Endless([*lost(250), *pictures(1)]), Collect()
    with going(Run(null_network(), [feed("study", source)], [("c", sink)])) as run:
        until(lambda: sink.results)
        assert run.end().data["feeds"][0]["failures"] == {"capture": 250}


def test_nobody_waits_for_a_feed_that_has_nothing_to_read() -> None:
    camera, study = Lane(live=True), Lane(live=False)
    admission = Admission([camera, study])
    assert not admission.live and admission.may_give([camera])
    admission.rest(study)
    assert admission.live and not admission.may_give([camera])


def test_a_part_of_the_picture_is_no_feed_that_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Owing(pictures(1))
    monkeypatch.setattr("edge.stream.feed.open_source", lambda uri, realtime: source)
    monkeypatch.setattr("edge.stream.feed.describe", lambda uri: None)
    with pytest.raises(UsageError, match="roi"):
        open_feed(FeedConfig(source="study:", roi=(0, 0, 0.5, 0.5)))
    assert source.closed and source.outcomes.closed == 1
