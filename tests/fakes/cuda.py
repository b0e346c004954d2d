"""A CUDA device with real asynchrony, its rules enforced: the part that both `driver` and `libcuda` speak to.

Work runs on a thread for each stream, after delays drawn from the seed. Whatever the timing was, an access
without an order, a read of what nothing wrote, a buffer freed or refilled in flight is a violation.
"""

from __future__ import annotations

import gc
import itertools
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fakes.errors import STICKY, failure
from fakes.memory import Block, Resource
from fakes.queues import Queue, Span
from fakes.schedule import Schedule

Accesses = Callable[[Sequence[Any]], tuple[Sequence[Span], Sequence[Span]]]
"""A kernel's arguments → the spans (address, bytes) that it reads, and those that it writes."""


class FakeCuda(Schedule):
    """One GPU, its driver, and what a test wants to know of them.

    Args:
        seed: of the delays.
        integrated: processor and GPU share their memory, as on a Jetson.
        capability: CUDA compute capability.
        total_memory: bytes of device memory.
        jitter: delay operations at random; without it they only run on other threads.
        driver_version: the newest CUDA the driver supports: 13000 is 13.0.
        present: False: there is no driver on this machine.
        revives: whether a context that is made anew works after a sticky error. False: nothing does until the
            process ends, which is all that CUDA promises.
        allow_pageable: let asynchronous copies use ordinary memory (they would be synchronous).

    Attributes:
        driver: stands for `pycuda.driver`.
        libcuda: stands for an `edge.cuda.libcuda.LibCuda`.
        violations: what went against the rules, in words.
        calls: how often each driver call was made, by its name ("cuMemAlloc").
        trace: what ran when.
    """

    def __init__(
        self,
        seed: int = 0,
        integrated: bool = False,
        capability: tuple[int, int] = (9, 0),
        total_memory: int = 1 << 30,
        jitter: bool = True,
        driver_version: int = 13000,
        present: bool = True,
        allow_pageable: bool = False,
        revives: bool = True,
    ) -> None:
        from fakes.driver import Driver
        from fakes.libcuda import FakeLibCuda

        super().__init__(seed, jitter)
        self.name, self.integrated, self.capability = "Simulated GPU", integrated, capability
        self.total_memory, self.driver_version = total_memory, driver_version
        self.present, self.allow_pageable, self.revives = present, allow_pageable, revives
        self.calls: Counter[str] = Counter()
        self.initialized = False
        self.retained = 0
        """How often the primary context is retained."""
        self.reserved: dict[Resource, int] = {}
        """Device memory that libraries hold for themselves."""
        self.handles: dict[int, Any] = {}
        """Graphs and executables."""
        self.stacks: dict[int, list[Any]] = {}
        """PyCUDA's stack of pushed contexts in each thread."""
        self.current: dict[int, list[int]] = {}
        """The driver's, as the contexts' epochs; the last one is current."""
        self.kernels: dict[str, tuple[Callable[..., None], Accesses]] = {}
        self._faults: list[list[Any]] = []
        self._numbers = itertools.count(1)
        self.driver, self.libcuda = Driver(self), FakeLibCuda(self)

    def __enter__(self) -> FakeCuda:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def install(self, monkeypatch: Any) -> None:
        """Let `edge.cuda` find this device instead of a real one."""
        from fakes.install import install_cuda

        install_cuda(self, monkeypatch)

    # What tests use

    def register_kernel(self, name: str, run: Callable[..., None], accesses: Accesses) -> None:
        """A kernel that modules offer from now on.

        Args:
            run: called with (arguments, grid, block), on the stream's thread; pointers are addresses.
            accesses: what it will read and write.
        """
        self.kernels[name] = run, accesses

    def fail_next(self, call: str, name: str, after: int = 0) -> None:
        """Let a driver call fail once, after `after` calls that succeed.

        Args:
            call: as in the driver API: "cuMemAlloc", "cuStreamSynchronize", "cuLaunchKernel".
            name: "CUDA_ERROR_OUT_OF_MEMORY"; after one that is sticky every call fails.
        """
        self._faults.append([_plain(call), name, after])

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The device does nothing inside the block: what is enqueued stays in flight."""
        self.running.clear()
        try:
            yield
        finally:
            self.running.set()

    @property
    def allocations(self) -> Counter[str]:
        """How many were made so far: device, pinned, registered, stream, event, module, graph."""
        return Counter({kind: self.calls[call] for kind, call in _ALLOCATES.items()})

    @property
    def used_memory(self) -> int:
        blocks: int = sum(block.nbytes for block in self.memory if block.alive and not block.on_host)
        return blocks + sum(self.reserved.values())

    def leaks(self) -> list[str]:
        """What is still there and would not go with the objects that hold it."""
        found = [f"{block.label} was not freed" for block in self.memory if block.alive]
        found += [f"{resource.label} was not freed" for resource in self.reserved]
        found += [f"{handle} was not destroyed" for handle in self.handles.values()]
        found += [f"{queue} was not destroyed" for queue in self.queues.values()]
        found += [f"a capture on {q} was not ended" for q in self.queues.values() if q.capture]
        if self.retained:
            found.append(f"the primary context is retained {self.retained} times")
        if any(self.stacks.values()):
            found.append("a context is still pushed: PyCUDA aborts the process")
        elif any(self.current.values()):
            found.append("a released context is still current: the driver's stack was left as it was")
        return found

    def assert_clean(self) -> None:
        """Let all work end, then fail if a rule was broken or something was not freed."""
        for queue in list(self.queues.values()):
            self.wait_for(queue, queue.tickets)
        leaks = self.leaks()
        if leaks:  # streams and events may wait for the garbage collector
            gc.collect()
            leaks = self.leaks()
        damage = [text for block in self.memory if (text := block.damage())]
        problems = self.violations + damage + leaks
        if problems:
            raise AssertionError("\n".join(dict.fromkeys(problems)))

    def close(self) -> None:
        """End the threads; work that is in flight is done first."""
        self.running.set()
        for queue in self.queues.values():
            queue.close()
        self.queues.clear()
        for queue in self._threads:
            queue.join()

    # What driver, libcuda and libraries on top of them use

    def new_handle(self) -> int:
        return 0x7F0000000000 + next(self._numbers) * 0x100

    def call(self, name: str, context: bool = True, unsafe: bool = False) -> None:
        """Every driver call begins with this one.

        Args:
            context: whether it needs a current context.
            unsafe: whether the thread that captures must not make it.

        Raises:
            Error: a fault was injected, the context is dead, missing, or a capture forbids the call.
        """
        self.calls[_plain(name)] += 1
        if not self.initialized and name != "cuInit":
            raise failure(name, "NOT_INITIALIZED")
        if self.sticky and context:
            raise failure(name, self.sticky)
        self._inject(name)
        if context:
            self._check_context(name)
        if unsafe:
            self._check_capture(name)

    def _inject(self, name: str) -> None:
        for fault in self._faults:
            if fault[0] == _plain(name):
                fault[2] -= 1
                if fault[2] < 0:
                    self._faults.remove(fault)
                    if fault[1] in STICKY:
                        self._die(fault[1])
                    raise failure(name, fault[1])

    def _die(self, name: str) -> None:
        """An error after which nothing in the context works: what is in flight does not count any more."""
        with self.lock:
            self.sticky = name
            self.loans.drop()

    def _check_context(self, name: str) -> None:
        stack = self.current.get(threading.get_ident())
        if not stack:
            raise failure(name, "INVALID_CONTEXT")
        if stack[-1] != self.epoch:
            raise failure(name, "CONTEXT_IS_DESTROYED")

    def push_current(self, epoch: int) -> None:
        """The driver's stack gets a context; an earlier error is reported, though it was pushed."""
        self.call("cuCtxPushCurrent", context=False)
        self.current.setdefault(threading.get_ident(), []).append(epoch)
        self.check_alive("cuCtxPushCurrent")

    def pop_current(self) -> None:
        """The driver's stack loses its top; an earlier error is reported, though it was popped."""
        self.call("cuCtxPopCurrent", context=False)
        stack = self.current.get(threading.get_ident())
        if not stack:
            raise failure("cuCtxPopCurrent", "INVALID_CONTEXT")
        stack.pop()
        self.check_alive("cuCtxPopCurrent")

    def check_alive(self, name: str) -> None:
        """Raises: Error: the context is dead."""
        if self.sticky:
            raise failure(name, self.sticky)

    def _check_capture(self, name: str) -> None:
        for queue in self.queues.values():
            if queue.capture and queue.capture.thread == threading.get_ident():
                queue.capture.broken = True
                raise failure(name, "STREAM_CAPTURE_UNSUPPORTED")

    def queue(self, handle: int, call: str) -> Queue:
        """The stream with this handle.

        Raises:
            Error: there is none.
        """
        found = self.queues.get(handle)
        if found is None:
            raise failure(call, "INVALID_HANDLE")
        return found

    def add_stream(self) -> Queue:
        return self.add_queue(self.new_handle())

    def add_block(self, block: Block) -> Block:
        with self.lock:
            self.memory.add(block)
        return block

    def free_block(self, block: Block) -> None:
        """Take it back; work that may still use it is a violation."""
        with self.lock:
            idle = self._check_idle(block)
            self.loans.drop(block)
            if block.kind == "registered":
                self.memory.remove(block)
            block.retire(in_use=not idle)

    def reserve(self, label: str, nbytes: int) -> Resource | None:
        """Device memory of a library; None where there is not enough."""
        with self.lock:
            if self.used_memory + nbytes > self.total_memory:
                return None
            resource = Resource(label)
            self.reserved[resource] = nbytes
            return resource

    def release(self, resource: Resource) -> None:
        """Give it back; work that may still use it is a violation."""
        with self.lock:
            if resource.alive:
                self._check_idle(resource)
                resource.alive = False
                self.reserved.pop(resource, None)

    def _check_idle(self, resource: Resource) -> bool:
        busy = next((a for a in resource.accesses if not a.ended(self.known)), None)
        if busy is not None and not self.sticky:
            self.report(f"{resource.label} was freed while {busy.label} may still use it")
        return busy is None

    def end_context(self) -> None:
        """The primary context is gone, and with it all that lived in it; nothing of it runs afterwards."""
        self.epoch += 1
        for queue in self.queues.values():
            self.wait_for(queue, queue.tickets)
        with self.lock:
            self.sticky = "" if self.revives else self.sticky
            self.loans.drop()
            for block in [block for block in self.memory if block.alive]:
                if block.kind == "registered":
                    self.memory.remove(block)
                block.retire()
            for resource in self.reserved:
                resource.alive = False
            self.reserved.clear()
            self.handles.clear()
            for queue in self.queues.values():
                queue.close()
            self.queues.clear()


_ALLOCATES = {
    "device": "cuMemAlloc",
    "pinned": "cuMemHostAlloc",
    "registered": "cuMemHostRegister",
    "stream": "cuStreamCreate",
    "event": "cuEventCreate",
    "module": "cuModuleLoadDataEx",
    "graph": "cuGraphInstantiateWithFlags",
}


def _plain(call: str) -> str:
    """The driver call without the version of its entry point."""
    return re.sub(r"_v\d+$", "", call)
