"""The motion gate: what of a still, noisy scene still reaches the engine, and is any change missed?"""

from __future__ import annotations

import time
from functools import partial

import cv2
import numpy as np

from edge.stream.config import FeedSettings, MotionConfig
from edge.stream.feed import Feed
from edge.types import Image, Result
from feeds.memory import Camera, noisy
from feeds.question import Answer, Options
from feeds.stage import streaming, until

FPS, STILL_S = 30.0, 30.0
NOISE = 6.0
REACH = 0.1
EVERY, SHOWN = 24, 12
"""In the clip something new comes every so many frames, and stays for so many."""
CHANGES = 20
SIDES = (20, 36)
"""Pixels a side of what comes, in a picture of 640 × 480: a third of a percent of it at most."""


class Noted:
    """Remembers which frames were run."""

    def __init__(self) -> None:
        self.run: dict[int, bool] = {}

    def write(self, result: Result) -> None:
        self.run[result.frame.seq] = "gated" not in result.flags

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def measure(options: Options) -> Answer:
    still = through_gate(noisy(64, strength=NOISE), round(FPS * STILL_S))
    share = sum(still.values()) / len(still)
    clip, changes = changing_clip()
    run = through_gate(clip, len(clip))
    late = [next((n for n in range(5) if run.get(change + n)), 5) for change in changes]
    missed = sum(frames > 1 for frames in late)
    false = sum(run.values()) / len(run)
    return Answer(
        f"{share:.1%} of a still scene is run; {missed} of {len(changes)} changes missed "
        f"({late.count(0)} seen in their first frame, {false:.0%} of the clip run)",
        f"at most {REACH:.0%}; none missed by more than one frame",
        share <= REACH and not missed,
        {
            "share_run": share,
            "reach_share": REACH,
            "changes": len(changes),
            "missed": missed,
            "frames_late": late,
            "share_of_clip_run": false,
        },
    )


def through_gate(pictures: list[Image], frames: int) -> dict[int, bool]:
    """Frame number → whether it was run."""
    opener = partial(Camera, pictures, FPS, frames)
    feed = Feed("camera", "memory:", None, settings=FeedSettings(motion=MotionConfig()), opener=opener)
    noted = Noted()
    with streaming([feed], sinks=[("noted:", noted)]):
        until(lambda: feed.reader_count >= frames, frames / FPS + 10)
        time.sleep(0.3)
    return {number: run for number, run in noted.run.items() if number < frames}


def changing_clip() -> tuple[list[Image], list[int]]:
    """A still scene in which small things come and go, and the frames in which they do."""
    random = np.random.default_rng(1)
    start = 2 * EVERY
    pictures = noisy(start + CHANGES // 2 * EVERY, strength=NOISE, seed=0)
    changes = []
    for number in range(start, len(pictures), EVERY):
        side = int(random.integers(*SIDES))
        left, top = int(random.integers(0, 640 - side)), int(random.integers(0, 480 - side))
        dark = pictures[0][top : top + side, left : left + side].mean() < 128
        color = (200, 200, 200) if dark else (40, 40, 40)
        for picture in pictures[number : number + SHOWN]:
            cv2.rectangle(picture, (left, top), (left + side, top + side), color, -1)
        changes += [number, number + SHOWN]
    return pictures, changes
