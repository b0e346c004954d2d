"""What the tests of the simulated CUDA device share: a context, two streams, and a little memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from fakes.cuda import FakeCuda

NON_BLOCKING = 1


class Bench:
    """A device with a context, two streams, and memory of four floats: `host` → `device` → `back`."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, self.driver = cuda, cuda.driver
        self.driver.init()
        self.context = self.driver.Device(0).retain_primary_context()
        self.context.push()
        self.one, self.two = self.driver.Stream(NON_BLOCKING), self.driver.Stream(NON_BLOCKING)
        self.event = self.driver.Event()
        self.host, self.back = self.pinned(), self.pinned()
        self.host[:] = [1, 2, 3, 4]
        self.device = self.driver.mem_alloc(16)

    def pinned(self, flags: int = 0) -> Any:
        return self.driver.pagelocked_empty(4, np.float32, mem_flags=flags)

    def copy_in(self, stream: Any = None) -> None:
        self.driver.memcpy_htod_async(self.device, self.host, stream or self.one)

    def copy_out(self, stream: Any = None) -> None:
        self.driver.memcpy_dtoh_async(self.back, self.device, stream or self.one)

    def finish(self) -> None:
        """Give everything back, in the order a program should."""
        self.one.synchronize()
        self.two.synchronize()
        self.device.free()
        self.host.base.free()
        self.back.base.free()
        self.one = self.two = self.event = None
        self.context.detach()
        self.cuda.libcuda.pop_context()


def told(cuda: FakeCuda, *words: str) -> bool:
    """Whether the first violation says all of this; those after it may be its consequence."""
    return all(word in "".join(cuda.violations[:1]) for word in words)
