"""What the runner's own Python costs a frame on a GPU: every driver call does nothing here.

The GPU path of one 1080p feed, from taking the frame to delivering its result, with page-locked frames,
preprocessing on the device and CUDA graphs. A real driver adds its calls, some 30 a frame of 1–5 µs each;
`make gpu-check` measures both together.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from common import arguments, report

from edge.backends import EngineOptions
from edge.config import InputConfig
from edge.cuda import driver, kernels
from edge.cuda.device import open_device
from edge.cuda.engine import DeviceEngine
from edge.preprocess import Preprocess
from edge.sources import Picture
from edge.stream.feed import Feed
from edge.stream.network import Network, Nothing
from edge.stream.run import Run
from edge.tasks.outputs import CANDIDATES, SUM
from edge.types import EngineId, TensorSpec

SIZE = (640, 640)
OUTPUTS = (TensorSpec(CANDIDATES, "float32", (1, 1000, 6)), TensorSpec(SUM, "float32", (1,)))


class Idle:
    """Stands for any object of PyCUDA: every call is accepted and does nothing."""

    handle = 1

    def __init__(self, *args: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self

    def time_since(self, other: Any) -> float:
        return 0.5

    def __int__(self) -> int:
        return 4096


class Locked(np.ndarray):  # type: ignore[type-arg]
    """An array whose `base` can be freed, as PyCUDA's is."""

    base = Idle()  # type: ignore[assignment]


def idle_driver() -> driver.Bindings:
    device = Idle()
    for name, value in {
        "name": "idle",
        "compute_capability": (9, 0),
        "total_memory": 1 << 36,
        "get_attribute": 0,
        "retain_primary_context": Idle(),
    }.items():
        setattr(device, name, lambda *args, value=value: value)
    found = Idle()
    nothing = lambda *args: None  # noqa: E731
    members = {
        "Device": type("Device", (), {"__new__": lambda cls, i: device, "count": staticmethod(lambda: 1)}),
        "Context": Idle(),
        "Stream": Idle,
        "Event": Idle,
        "Error": type("Error", (Exception,), {}),
        "event_flags": SimpleNamespace(DEFAULT=0, BLOCKING_SYNC=1),
        "host_alloc_flags": SimpleNamespace(PORTABLE=1, DEVICEMAP=2, WRITECOMBINED=4),
        "device_attribute": SimpleNamespace(INTEGRATED=0, CAN_MAP_HOST_MEMORY=1),
        "mem_alloc": Idle,
        "mem_get_info": lambda: (1 << 35, 1 << 36),
        "get_driver_version": lambda: 13000,
        "pagelocked_empty": lambda shape, dtype, *_: np.zeros(shape, dtype).view(Locked),
        "memcpy_htod_async": nothing,
        "memcpy_dtoh_async": nothing,
    }
    for name, value in members.items():
        setattr(found, name, value)
    libcuda = Idle()
    libcuda.priority_range = lambda: (0, -5)  # type: ignore[method-assign]
    return driver.Bindings(found, libcuda)  # type: ignore[arg-type]


class IdleExecutor:
    capturable = True

    def resize(self, rows: int) -> None:
        pass

    def tensors(self) -> Any:
        return (TensorSpec("image", "float32", (1, 3, *SIZE)),), OUTPUTS

    def bind(self, name: str, address: int) -> None:
        pass

    def enqueue(self, stream: Any) -> None:
        pass

    def free(self) -> None:
        pass


class IdleEngine(DeviceEngine):
    """An engine on the idle device, by the real slots."""

    def __init__(self, picture: InputConfig) -> None:
        super().__init__(open_device(), Path("idle"), EngineOptions(picture=picture))
        self._ready(*IdleExecutor().tensors(), 1)

    def _executor(self) -> IdleExecutor:
        return IdleExecutor()

    def _release(self) -> None:
        pass


class Memory:
    """The same page-locked 1080p picture again and again."""

    label, live, paced, fps, truth_kind, problem = "memory", False, False, None, None, None

    def __init__(self, frames: int) -> None:
        self.left = frames
        self.allocate: Any = lambda shape: np.zeros(shape, np.uint8)

    def read(self) -> Picture | None:
        self.left -= 1
        return Picture(self.allocate((1080, 1920, 3))) if self.left >= 0 else None

    def close(self) -> None:
        pass


def measure(frames: int) -> dict[str, Any]:
    config = InputConfig(size=SIZE)
    found = idle_driver()
    names = ("edge.cuda.driver", "edge.cuda.device")
    patches = [mock.patch(f"{name}.bindings", lambda: found) for name in names]
    patches.append(mock.patch.object(kernels, "load", lambda _: kernels.PreprocessKernel(Idle())))
    for patch in patches:
        patch.start()
    engine = IdleEngine(config)
    network = Network(EngineId("idle", "hopper", "fast", "0"), engine, Preprocess(config), None, "image")
    network.interpret = lambda *args: Nothing()  # type: ignore[method-assign]
    network.warm_up()
    Run(network, [Feed("warm", "memory:", Memory(200))]).go()
    start = time.perf_counter()
    data = Run(network, [Feed("memory", "memory:", Memory(frames))]).go().data
    wall = time.perf_counter() - start
    network.close()
    return {
        "frames": frames,
        "cpu_us_a_frame": 1e6 * data["cpu_seconds"] / frames,
        "wall_us_a_frame": 1e6 * wall / frames,
        "allocations_after_warm_up": data["device"]["allocations_after_warm_up"],
    }


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--frames", type=int, default=20_000)
    args = parser.parse_args()
    report("gpu_overhead", measure(args.frames), args.json)
