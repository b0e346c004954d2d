"""Does anything grow? Engines and slots are opened and closed, sizes change, frames stream, for a minute."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from itertools import count

import numpy as np

from edge.backends import EngineOptions
from edge.build.resources import current_rss
from edge.cuda.device import Device, open_device
from gpu import engines
from gpu.report import Section
from gpu.setting import Deadline, Setting
from gpu.streams import Memory, Results, noise, page_locked, stream

SECONDS = 60.0
"""A cycle does in a second what ten minutes of a kiosk do: open, stream, change size, close."""
SIZES = ((1080, 1920), (720, 1280), (480, 640), (600, 800), (37, 53), (1200, 1600))
LEAST_CYCLES = 4
GPU_MIB, HOST_MIB = 4.0, 16.0
"""Growth from the first third of the cycles to their end that is more than noise of allocators."""


@dataclass(frozen=True, slots=True)
class Sample:
    """After a cycle, everything closed."""

    free: int
    rss: int
    allocations: int


def check(setting: Setting, found: Section) -> None:
    contender = engines.best(setting, found)
    if contender is None:
        return
    found.note("engine", contender.label)
    deadline = Deadline(min(SECONDS * setting.pace, 0.9 * setting.seconds))
    device = open_device(setting.gpu)  # kept: its context is not what is examined
    try:
        samples = [_sample(device)]
        for number in count():
            if deadline.left <= 0 and number >= LEAST_CYCLES:
                break
            cycle(setting, contender, number)
            samples.append(_sample(device))
    finally:
        device.close()
    tell(found, samples)


def cycle(setting: Setting, contender: engines.Contender, number: int) -> None:
    """Open, stream pictures of several sizes in both loops, close."""
    options = EngineOptions(gpu=setting.gpu, graphs=number % 2 == 0)
    sizes = [setting.frame, *SIZES] if setting.pace >= 0.2 else [setting.frame, (37, 53)]
    with contender.network(options, slots=1 + number % 3) as network:
        for size in sizes:
            images = page_locked(network, noise(size, 2))
            for serial in (False, True):
                stream(network, [Memory(images)], max(8, int(32 * setting.pace)), Results(keep=False), serial)
            del images


def _sample(device: Device) -> Sample:
    gc.collect()
    return Sample(device.free_memory(), current_rss(), device.counters.total)


def tell(found: Section, samples: list[Sample]) -> None:
    """Growth by a straight line through all but the first third: libraries fill their caches first."""
    settled = samples[max(1, len(samples) // 3) :]
    found.note("cycles", len(samples) - 1)
    used = [-sample.free / 2**20 for sample in settled]
    found.at_most("GPU memory, growth", _growth(used), GPU_MIB, "MiB")
    found.at_most("host memory, growth", _growth([s.rss / 2**20 for s in settled]), HOST_MIB, "MiB")
    made = np.diff([sample.allocations for sample in samples]).tolist()
    found.note("allocations a cycle, first and last", f"{made[0]}, {made[-1]}")
    found.note("GPU memory, first to last cycle", (samples[0].free - samples[-1].free) / 2**20, "MiB")
    found.details["samples"] = [[s.free >> 10, s.rss >> 10, s.allocations] for s in samples]


def _growth(values: list[float]) -> float:
    """What a straight line through the values rises from the first to the last."""
    if len(values) < 2:
        return 0.0
    slope = np.polyfit(np.arange(len(values)), values, 1)[0]
    return round(float(slope * (len(values) - 1)), 3)
