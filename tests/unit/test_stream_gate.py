"""What does not move is not run again: the last finding is repeated, in order, and never past a change."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streaming import Collect, Script

from edge.backends.null import NullEngine
from edge.sources import Picture
from edge.stream.config import FeedSettings
from edge.stream.feed import Feed
from edge.stream.network import Network, null_network
from edge.stream.run import Run
from edge.types import Image

ALWAYS = 1e9
"""Seconds that no test takes."""


@dataclass
class Seen:
    """A finding that says in which frame it was made, and which scene that shows."""

    seq: int
    scene: int

    def to_json(self) -> dict[str, Any]:
        return {"seq": self.seq}

    def draw(self, image: Image) -> Image:
        return image

    def found(self) -> dict[str, float]:
        return {str(self.scene): 1.0}


class Looking(Network):
    """Finds `Seen`; what is in `bad` fails while it is prepared.

    Attributes:
        looked: feed and number of each frame that was run.
    """

    def __init__(
        self, batch: int = 1, delay: float = 0.0, fail_every: int = 0, patience: float = 0.0
    ) -> None:
        id = null_network().id
        super().__init__(id, NullEngine(delay, fail_every, batch), patience=patience)
        self.bad: set[int] = set()
        self.looked: list[tuple[str, int]] = []

    def prepare(self, frame: Any, slot: Any, index: int = 0) -> Any:
        self.looked.append((frame.feed, frame.seq))
        if frame.seq in self.bad:
            raise ValueError("cannot be prepared")
        return Seen(frame.seq, scene_of(frame.image))

    def interpret(self, outputs: Any, placement: Any, index: int = 0) -> Any:
        return placement


def scene(number: int) -> Image:
    """A grey picture with a white square at one of eight places; 0: without."""
    image = np.full((64, 64, 3), 90, np.uint8)
    if number:
        row, column = divmod(number - 1, 4)
        image[4 + row * 30 : 24 + row * 30, 1 + column * 15 : 14 + column * 15] = 250
    image[60:, 60:] = number
    return image


def scene_of(image: Image) -> int:
    return int(image[63, 63, 0])


def gated(name: str, scenes: Sequence[int], live: bool = False, **more: Any) -> Feed:
    made = FeedSettings.model_validate({"motion": {"refresh_s": ALWAYS}, **more})
    source = Script([Picture(scene(s), i / 25) for i, s in enumerate(scenes)], live=live)
    return Feed(name, f"{name}:", source, settings=made)


def first_of(scenes: Sequence[int]) -> list[int]:
    """For each frame, the number of the first that shows the same since the last change."""
    first: list[int] = []
    for number, shown in enumerate(scenes):
        first.append(first[-1] if number and shown == scenes[number - 1] else number)
    return first


def stream(network: Network, feeds: list[Feed], serial: bool = False) -> tuple[Collect, list[dict[str, Any]]]:
    sink = Collect()
    summary = Run(network, feeds, [("c:", sink)], serial=serial).go()
    return sink, summary.data["feeds"]


@pytest.mark.parametrize("serial", [True, False])
def test_a_still_picture_is_run_once_and_its_finding_repeated(serial: bool) -> None:
    network, scenes = Looking(delay=0.001), [1] * 30
    sink, (row,) = stream(network, [gated("a", scenes)], serial)
    assert network.looked == [("a", 0)]
    assert [result.payload.seq for result in sink.results] == [0] * 30
    assert [result.flags for result in sink.results] == [(), *[("gated",)] * 29]
    assert (row["delivered"], row["flags"], row["dropped"]) == (30, {"gated": 29}, {})


@settings(max_examples=40, deadline=None)
@given(
    tapes=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=25), min_size=1, max_size=3),
    batch=st.sampled_from([1, 2, 4]),
    serial=st.booleans(),
)
def test_every_change_is_run_and_every_other_frame_repeats_it_in_order(
    tapes: list[list[int]], batch: int, serial: bool
) -> None:
    network = Looking(batch, delay=2e-4, patience=2e-3)
    sink, rows = stream(network, [gated(f"f{i}", tape) for i, tape in enumerate(tapes)], serial)
    for row, tape in zip(rows, tapes, strict=True):
        results = [result for result in sink.results if result.frame.feed == row["feed"]]
        assert [result.frame.seq for result in results] == list(range(len(tape)))
        assert [result.payload.seq for result in results] == first_of(tape)
        assert [result.flags == () for result in results] == [i == n for i, n in enumerate(first_of(tape))]
        assert (row["delivered"], row["in_flight"], row["dropped"]) == (len(tape), 0, {})
        times = [stage for result in results for stage in result.stages.values()]
        assert min(times) >= 0


def test_frames_that_do_not_move_between_two_that_do_stay_between_them_in_one_batch() -> None:
    """Otherwise the finding of the second would have passed them."""
    network = Looking(batch=4, patience=0.3)
    sink, (row,) = stream(network, [gated("a", [1, 1, 2, 2, 3, 3])])
    assert [result.payload.seq for result in sink.results] == [0, 0, 2, 2, 4, 4]
    assert row["dropped"] == {}


@settings(max_examples=30, deadline=None)
@given(
    tape=st.lists(st.integers(0, 3), min_size=5, max_size=40),
    batch=st.sampled_from([1, 3]),
    serial=st.booleans(),
    bad=st.sets(st.integers(0, 39), max_size=8),
    fail_every=st.sampled_from([0, 3, 7]),
)
def test_where_frames_fail_no_finding_of_another_scene_is_shown(
    tape: list[int], batch: int, serial: bool, bad: set[int], fail_every: int
) -> None:
    network = Looking(batch, 2e-4, fail_every, patience=1e-3)
    network.bad = bad
    sink, rows = stream(network, [gated("a", tape), gated("b", [0] * 5)], serial)
    results = [result for result in sink.results if result.frame.feed == "a"]
    assert [result.frame.seq for result in results] == sorted({result.frame.seq for result in results})
    for result in results:
        assert result.payload.scene == tape[result.frame.seq]
        assert result.payload.seq <= result.frame.seq
    assert all(row["in_flight"] == 0 for row in rows)


def test_after_a_frame_that_failed_the_next_one_is_run() -> None:
    network = Looking()
    network.bad = {0, 1, 5}
    sink, (row,) = stream(network, [gated("a", [1, 1, 1, 1, 1, 2, 2, 2])], serial=True)
    assert network.looked == [("a", 0), ("a", 1), ("a", 2), ("a", 5), ("a", 6)]
    assert [(r.frame.seq, r.payload.seq) for r in sink.results] == [(2, 2), (3, 2), (4, 2), (6, 6), (7, 6)]
    assert row["failures"] == {"preprocess": 3}


def test_a_frame_that_looks_like_one_that_failed_in_flight_is_dropped_as_gated() -> None:
    network = Looking(delay=0.3, fail_every=1)
    _, (row,) = stream(network, [gated("a", [1, 1, 1])])
    assert row["failures"].get("infer", 0) + row["dropped"].get("gated", 0) == 3
    assert row["dropped"]["gated"] >= 1


def test_a_result_is_not_held_back_for_frames_that_only_repeat_it() -> None:
    """The next frame comes only after the first result."""
    out = threading.Event()

    class Camera(Script):
        def read(self) -> Picture | None:
            if self.read_count in (1, 2):
                assert out.wait(10)
                out.clear()
            return super().read()

    made = FeedSettings.model_validate({"motion": {"refresh_s": ALWAYS}})
    source = Camera([Picture(scene(1), i / 25) for i in range(3)], live=True)
    sink = Collect(lambda result: out.set())
    Run(Looking(batch=4, delay=0.01), [Feed("a", "a:", source, settings=made)], [("c:", sink)]).go()
    assert sink.sequence("a") == [0, 1, 2]


def test_a_still_picture_is_run_again_after_refresh_s() -> None:
    network = Looking()
    steps = [step for i in range(6) for step in (Picture(scene(1), i / 25), 0.05)]
    made = FeedSettings.model_validate({"motion": {"refresh_s": 0.04}})
    Run(network, [Feed("a", "a:", Script(steps), settings=made)]).go()
    assert len(network.looked) == 6


# ---- alarm


def test_a_feed_on_alarm_is_run_frame_by_frame_and_says_so() -> None:
    network, tape = Looking(), [1, 1, 1, 2, 2, 2, 2]
    sink, (row,) = stream(
        network, [gated("a", tape, alarm={"classes": ["2"], "seconds": ALWAYS})], serial=True
    )
    assert [seq for _, seq in network.looked] == [0, 3, 4, 5, 6]
    assert [result.flags for result in sink.results] == [(), *[("gated",)] * 2, *[("alarm",)] * 4]
    assert row["flags"] == {"gated": 2, "alarm": 4}


def test_motion_raises_the_alarm_and_the_first_frame_is_no_motion() -> None:
    network, tape = Looking(), [1, 1, 1, 2, 2]
    sink, _ = stream(network, [gated("a", tape, alarm={"motion": 0.02, "seconds": ALWAYS})], serial=True)
    assert [seq for _, seq in network.looked] == [0, 3, 4]
    assert [("alarm" in result.flags) for result in sink.results] == [False] * 3 + [True] * 2


def test_an_alarm_ends_and_the_gate_works_again() -> None:
    network = Looking()
    tape = [Picture(scene(s), i / 25) for i, s in enumerate([2, 1, 1, 1, 1, 1])]
    steps: list[Any] = [*tape[:3], 0.3, *tape[3:]]
    made = FeedSettings.model_validate(
        {"motion": {"refresh_s": ALWAYS}, "alarm": {"classes": ["2"], "seconds": 0.25}}
    )
    sink = Collect()
    Run(network, [Feed("a", "a:", Script(steps), settings=made)], [("c:", sink)], serial=True).go()
    assert [seq for _, seq in network.looked] == [0, 1, 2]
    assert sink.results[-1].flags == ("gated",)


def test_an_alarm_lifts_the_rate_limit() -> None:
    tape = [Picture(scene(1 + i % 3), i / 25) for i in range(20)]
    limited = FeedSettings.model_validate({"fps": 5})
    alarmed = FeedSettings.model_validate({"fps": 5, "alarm": {"classes": ["1"], "seconds": ALWAYS}})
    feeds = [
        Feed("limited", "l:", Script(tape, paced=True), settings=limited),
        Feed("alarmed", "a:", Script(tape, paced=True), settings=alarmed),
    ]
    _, rows = stream(Looking(), feeds)
    assert rows[0]["dropped"]["limited"] >= 14
    assert rows[1]["dropped"].get("limited", 0) <= 4
