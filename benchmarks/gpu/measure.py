"""What the runner keeps of an engine's own throughput, and adds to its latency.

One feed of frames in page-locked memory, batch 1. The engine's own throughput is that of executions enqueued
back to back, without copies, on one stream and on as many as there are slots.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, cast

import numpy as np

from edge.backends import EngineOptions, PictureSlot
from edge.cuda.slot import DeviceSlot
from edge.errors import EdgeError, RuntimeFault
from edge.stream.network import Network
from edge.types import Image
from gpu import engines
from gpu.report import Section
from gpu.setting import Deadline, Setting, or_say_why
from gpu.streams import BUFFERS, Memory, Results, Streamed, noise, page_locked, stream

RUN_SECONDS = 4.0
"""Of one configuration."""
CHUNK = 400
"""Executions that are enqueued before the first is waited for: the driver's queue holds about a thousand."""
PATIENCE = 2e-3
"""Seconds that the first frame of a batch waits for the other feed's."""
DEFAULT = {"slots": 2, "graphs": True}
"""The configuration that `edge run` uses; the figures with a reach are its."""

KEPT, ADDED_MS, CPU_US, OVERLAP = 0.97, 1.0, 150.0, 0.9


def runner(setting: Setting, found: Section) -> None:
    """The runner alone: an engine of known length that needs no runtime."""
    with or_say_why(found, "the runner with a synthetic engine"):
        measure(setting, found, engines.synthetic(setting), judged=True)


def engine(setting: Setting, found: Section) -> None:
    """The first of the engines that were compiled for this GPU, quantized before exact."""
    contenders = engines.compiled(setting)
    if not contenders:
        found.skip("an engine compiled for this GPU", "there is none in the store (see the section build)")
    _first_that_loads(setting, found, contenders, judged=True)


def onnxruntime(setting: Setting, found: Section) -> None:
    """ONNX Runtime's CUDA provider through the same slots. Its host code is its own: speed is only noted."""
    contenders = engines.with_onnxruntime(setting)
    if not contenders:
        found.skip("ONNX Runtime on CUDA", "the processor's fp32 engine was not built")
    _first_that_loads(setting, found, contenders, judged=False)


def _first_that_loads(
    setting: Setting, found: Section, contenders: list[engines.Contender], judged: bool
) -> None:
    for contender in contenders:
        if engines.loads(setting, contender, found):
            measure(setting, found, contender, judged)
            return


def measure(setting: Setting, found: Section, contender: engines.Contender, judged: bool) -> None:
    """All configurations of one engine; figures of the default one get a verdict if `judged`."""
    deadline = Deadline(setting.seconds)
    found.note("engine", contender.label)
    found.details |= {"frame": list(setting.frame), "runs": []}
    images = noise(setting.frame, BUFFERS)
    configurations = [DEFAULT] + [
        {"slots": slots, "graphs": graphs}
        for graphs in (True, False)
        for slots in (1, 2, 3)
        if (slots, graphs) != tuple(DEFAULT.values())
    ]
    for index, configuration in enumerate(configurations):
        if deadline.left < setting.seconds * 0.15:
            found.skip(f"{contender.label} with {configuration}", "no time was left")
            continue
        options = EngineOptions(gpu=setting.gpu, graphs=bool(configuration["graphs"]))
        with contender.network(options, int(configuration["slots"])) as network:
            row = {**configuration, **one_feed(setting, network, images)}
            found.details["runs"].append(row)
            if index == 0:
                tell(found, row, judged)
                tell_latency(found, latency(setting, network, images, row["fps"] / 2), judged)
    two_feeds(setting, found, contender, images)


# ---------------------------------------------------------------------- throughput


def one_feed(setting: Setting, network: Network, images: list[Image]) -> dict[str, Any]:
    """Throughput of the engine alone, then of the pipeline over it."""
    seconds = RUN_SECONDS * setting.pace
    buffers = page_locked(network, images)
    slots = cast("list[DeviceSlot]", network.slots())
    for slot in slots:
        _fill(network, slot, buffers[0])
    alone = executions_per_second(slots[:1], seconds / 4)
    beside = executions_per_second(slots, seconds / 4) if len(slots) > 1 else alone
    settling = stream(network, [Memory(buffers)], 64)  # meets the frames' size, and tells how many to take
    frames = max(64, int(settling.fps * seconds / 2))
    run = stream(network, [Memory(buffers)], frames)
    return {
        "engine_per_second": alone,
        "engine_per_second_on_all_streams": beside,
        "frames": frames,
        "kept": run.fps / alone,
        "kept_of_all_streams": run.fps / max(alone, beside),
        **_told(run),
    }


def executions_per_second(slots: list[DeviceSlot], seconds: float) -> float:
    """Of the engine alone, by the device's clock.

    With several slots these run side by side as far as the processor can keep their queues filled: a queue
    holds about a thousand launches, which without CUDA graphs is no more than a few executions.

    Args:
        slots: what they were filled with last is executed again and again.
    """
    done, took, chunk = 0, 0.0, 4
    while took < seconds:
        for slot in slots:
            slot.repeat(chunk)
        for slot in slots:
            slot.wait()
        spans = [slot.spans["execute"] for slot in slots]
        span = max(end for _, end in spans) - min(start for start, _ in spans)
        if chunk == CHUNK or span > seconds / 4:
            done, took = done + chunk * len(slots), took + max(span, 1e-6)
        chunk = min(CHUNK, max(chunk + 1, int(chunk * seconds / 4 / max(span, 1e-6))))
    return done / took


def _fill(network: Network, slot: DeviceSlot, image: Image) -> None:
    """One batch of this picture, so that `repeat` has something to copy."""
    if network.engine.takes_pictures:
        for index in range(network.batch):
            cast(PictureSlot, slot).place(index, image)
    slot.submit()
    slot.wait()


def _told(run: Streamed) -> dict[str, Any]:
    """What the runner says of a run, with a check that every frame came through."""
    if run.data["faults"] or not run.delivered:
        raise RuntimeFault("frames were lost in the measured run", str(run.data["feeds"]))
    device = run.data["device"] or {}
    return {
        "fps": run.fps,
        "host_cpu_us": run.cpu_us,
        "latency_ms": run.data["feeds"][0]["latency_ms"],
        "device_ms": device.get("stages_ms", {}),
        "execute_p99_ms": device.get("execute_p99_ms"),
        "overlap_ratio": device.get("overlap_ratio"),
        "allocations_after_warm_up": device.get("allocations_after_warm_up"),
    }


def tell(found: Section, row: dict[str, Any], judged: bool) -> None:
    """The figures of the default configuration."""
    found.note("engine alone, one stream", row["engine_per_second"], "/s")
    found.note("engine alone, all streams", row["engine_per_second_on_all_streams"], "/s")
    found.note("pipeline", row["fps"], "frames/s")
    stages = row["device_ms"]
    for stage, milliseconds in stages.items():
        found.note(f"device: {stage}", milliseconds, "ms")
    found.note("kept of all streams", row["kept_of_all_streams"])
    longest = bool(stages) and max(stages, key=stages.get) == "execute"
    _figure(found, "kept of the engine's throughput", row["kept"], KEPT, "", judged and longest)
    _figure(found, "host CPU a frame", row["host_cpu_us"], -CPU_US, "µs", judged)
    if row["overlap_ratio"] is not None:
        _figure(found, "overlap_ratio", row["overlap_ratio"], OVERLAP, "", judged and longest)
    else:
        found.skip("overlap_ratio", "too few batches ran beside each other")
    if judged and not longest:
        found.skip("a verdict on kept share and overlap", "executing is not the longest stage here")
    if row["allocations_after_warm_up"] is not None:
        found.expect("allocations after warm-up", row["allocations_after_warm_up"], 0)


def _figure(found: Section, name: str, value: float, limit: float, unit: str, judged: bool) -> None:
    """A negative limit is an upper one."""
    if not judged:
        found.note(name, value, unit)
    elif limit < 0:
        found.at_most(name, value, -limit, unit)
    else:
        found.at_least(name, value, limit, unit)


# ---------------------------------------------------------------------- latency


def latency(setting: Setting, network: Network, images: list[Image], fps: float) -> Results:
    """A feed at half of what the pipeline can do: no frame waits for another."""
    sink = Results(keep=False)
    frames = max(32, int(fps * RUN_SECONDS * setting.pace))
    _told(stream(network, [Memory(page_locked(network, images), fps)], frames, sink))
    return sink


def tell_latency(found: Section, results: Results, judged: bool) -> None:
    """What comes on top of the engine's own time, from a frame being there to its result."""
    settled = slice(len(results.added) // 10, None)
    added, total = (1e3 * np.asarray(values[settled]) for values in (results.added, results.total))
    found.note("latency at half load, p50", float(np.percentile(total, 50)), "ms")
    found.note("latency at half load, p99", float(np.percentile(total, 99)), "ms")
    found.note("added to the engine's, p50", float(np.percentile(added, 50)), "ms")
    _figure(found, "added to the engine's, p99", float(np.percentile(added, 99)), -ADDED_MS, "ms", judged)


# ---------------------------------------------------------------------- several feeds


def two_feeds(setting: Setting, found: Section, contender: engines.Contender, images: list[Image]) -> None:
    """Two feeds in batches of two, where the engine takes them."""
    what, seconds = "2 feeds in batches of 2", RUN_SECONDS * setting.pace
    with ExitStack() as opened:
        try:
            options = EngineOptions(gpu=setting.gpu, batch=2)
            network = opened.enter_context(contender.network(options, patience=PATIENCE))
        except EdgeError as e:
            found.skip(what, str(e))
            return
        if network.batch < 2:
            found.skip(what, "the engine takes one picture at a time")
            return
        buffers = page_locked(network, images)
        slots = cast("list[DeviceSlot]", network.slots())
        _fill(network, slots[0], buffers[0])
        alone = 2 * executions_per_second(slots[:1], seconds / 4)
        settling = stream(network, [Memory(buffers), Memory(buffers[::-1])], 32)
        frames = max(32, int(settling.fps * seconds / 4))
        run = stream(network, [Memory(buffers), Memory(buffers[::-1])], frames)
    row = {"feeds": 2, "batch": 2, "engine_per_second": alone, "kept": run.fps / alone, **_told(run)}
    found.details["runs"].append(row)
    found.note(f"{what}: kept of the engine's", row["kept"])
