"""Ordering bugs, planted one at a time in the code that runs GPUs: the first schedule finds each of them.

A bug is a change of production code that somebody could make by mistake. The rules of the simulated device do
not depend on timing: so each is found without delays as well as with any.
"""

from __future__ import annotations

import functools
import inspect
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kernel_on_host import ABSENT
from schedules import Setup, Workplace

from edge.backends import trt_engine
from edge.cuda import buffers, device, feeder, pool, slot
from edge.types import Array

PLAIN = Setup(frames=(tuple(range(10)),))
ON_DEVICE = Setup(frames=(tuple(range(20)),), on_device=True)
LENT = Setup(frames=((0, 1, 2, 3, 4) * 4,), on_device=True, lent=True)
BATCHES = Setup(frames=(tuple(range(10)), tuple(range(10))), batch=2)
ZERO_COPY = Setup(frames=(tuple(range(10)),), integrated=True)
BESIDE = Setup(frames=(tuple(range(10)),), in_order=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("planted"))


def replaced(patch: pytest.MonkeyPatch, owner: type[Any], method: str, old: str, new: str) -> None:
    """Plant a bug: `new` instead of `old` in a method's source."""
    source = textwrap.dedent(inspect.getsource(getattr(owner, method)))
    assert source.count(old) == 1, f"{owner.__name__}.{method} has changed: plant the bug anew"
    scope = dict(vars(sys.modules[owner.__module__]))
    code = compile(source.replace(old, new), method, "exec", annotations.compiler_flag)
    exec(code, scope)
    patch.setattr(owner, method, scope[method])


# ---------------------------------------------------------------------- the five of old


def a_missing_wait(patch: pytest.MonkeyPatch) -> None:
    """The engine does not wait for its input."""
    replaced(patch, slot.DeviceSlot, "_enqueue", "work.wait(self._ready)", "pass")


def a_host_buffer_shared_by_slots(patch: pytest.MonkeyPatch) -> None:
    """One page-locked array for the inputs of all slots."""
    shared: dict[Any, Array] = {}

    class Sharing(buffers.CopiedExchange):
        def __init__(self, device: Any, shape: Any, dtype: Any, write_combined: bool) -> None:
            super().__init__(device, shape, dtype, write_combined)
            self.own = self.host
            if write_combined:
                self.host = shared.setdefault((shape, np.dtype(dtype)), self.host)

        def _release(self) -> None:
            self.host = self.own
            super()._release()

    patch.setattr(device, "CopiedExchange", Sharing)


def an_event_recorded_too_early(patch: pytest.MonkeyPatch) -> None:
    """The input is called ready before it is."""
    rest = "    self._feeder.prepare(feed, rows)\n"
    right, ready = rest + "    self._ready.record(feed)\n", "    self._ready.record(feed)\n"
    upload = "    self._feeder.upload(feed, rows)\n    self._copied.record(feed)\n"
    replaced(patch, slot.DeviceSlot, "_enqueue", upload + right, ready + upload + rest)


def a_temporary_freed_in_flight(patch: pytest.MonkeyPatch) -> None:
    """The upload is made from a page-locked copy that nobody keeps."""

    def upload(self: Any, stream: Any, rows: int | None = None) -> None:
        source = self.host if rows is None else self.host[:rows]
        temporary = self.device._cuda.driver.pagelocked_empty(source.shape, source.dtype)
        temporary[...] = source
        self._copy_in(self.address, temporary, stream.raw)

    patch.setattr(buffers.CopiedExchange, "upload", upload)


def a_context_used_by_two_slots(patch: pytest.MonkeyPatch) -> None:
    """All slots of an engine get the same execution context."""
    make = functools.cache(trt_engine._Contexts.make)
    patch.setattr(trt_engine._Contexts, "make", lambda self: make(self))


# ---------------------------------------------------------------------- and some more


def outputs_called_done_before_they_are_copied(patch: pytest.MonkeyPatch) -> None:
    replaced(
        patch,
        slot.DeviceSlot,
        "_finish",
        "self._done.synchronize()",
        "self._executed.synchronize(); self._done = self._executed",
    )


def a_result_read_without_waiting(patch: pytest.MonkeyPatch) -> None:
    replaced(patch, slot.DeviceSlot, "wait", "self._checked(self._finish,", "self._checked(lambda: None,")


def a_copy_on_the_wrong_stream(patch: pytest.MonkeyPatch) -> None:
    replaced(patch, slot.DeviceSlot, "_enqueue", "output.download(work, part)", "output.download(feed, part)")


def preprocessing_on_the_wrong_stream(patch: pytest.MonkeyPatch) -> None:
    prepare = "self._feeder.prepare({}, rows)"
    replaced(patch, slot.DeviceSlot, "_enqueue", prepare.format("feed"), prepare.format("work"))


def a_slot_that_frees_what_is_in_flight(patch: pytest.MonkeyPatch) -> None:
    """A larger picture makes it throw its buffer away right after it was enqueued."""

    def upload(self: Any, stream: Any) -> None:
        self._staging.upload(stream, self._image.nbytes)
        self._staging.free()
        self._staging = None

    patch.setattr(feeder._Seat, "upload", upload)


def a_frame_buffer_that_is_lent_twice(patch: pytest.MonkeyPatch) -> None:
    """A source decodes the next frame where the one in flight is."""
    replaced(patch, pool.FramePool, "take", "free.popleft(), free", "free[0], deque()")


def an_uncounted_row(patch: pytest.MonkeyPatch) -> None:
    """Of a batch, all rows but the last are copied."""
    replaced(
        patch, slot.DeviceSlot, "_enqueue", "self._feeder.upload(feed, rows)", "self._feeder.upload(feed, 1)"
    )


def slots_that_are_not_given_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(slot.DeviceSlot, "free", lambda self: None)


kernel = pytest.mark.skipif(bool(ABSENT), reason=ABSENT)
BUGS = [
    pytest.param(a_missing_wait, PLAIN, "copy in on stream 2 and execute on stream 3 have no order"),
    pytest.param(a_missing_wait, LENT, "and execute on stream 3 have no order", marks=kernel),
    pytest.param(a_host_buffer_shared_by_slots, PLAIN, "the host changed page-locked memory 1"),
    pytest.param(an_event_recorded_too_early, PLAIN, "copy in on stream 2 and execute on stream 3"),
    pytest.param(a_temporary_freed_in_flight, PLAIN, "was freed while copy in on stream 2 may still use it"),
    pytest.param(a_context_used_by_two_slots, BESIDE, "an execution context: execute on stream 3 and"),
    pytest.param(a_context_used_by_two_slots, PLAIN, "was not freed before its context"),
    pytest.param(outputs_called_done_before_they_are_copied, PLAIN, " of 0"),
    pytest.param(a_result_read_without_waiting, PLAIN, "the host changed page-locked memory"),
    pytest.param(a_result_read_without_waiting, ZERO_COPY, "the host changed page-locked memory"),
    pytest.param(a_copy_on_the_wrong_stream, PLAIN, "execute on stream 3 and copy out on stream 2"),
    pytest.param(preprocessing_on_the_wrong_stream, LENT, "have no order", marks=kernel),
    pytest.param(a_slot_that_frees_what_is_in_flight, ON_DEVICE, "was freed while copy in", marks=kernel),
    pytest.param(a_frame_buffer_that_is_lent_twice, LENT, "", marks=kernel),  # a rule, or a wrong result
    pytest.param(an_uncounted_row, BATCHES, "that nothing wrote"),
    pytest.param(slots_that_are_not_given_back, PLAIN, "was not freed"),
]


@pytest.mark.parametrize("plant, setup, words", BUGS, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("seed, jitter", [(0, False), (0, True), (1, True), (2, True)])
def test_a_planted_bug_is_found(
    place: Workplace,
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[pytest.MonkeyPatch], None],
    setup: Setup,
    words: str,
    seed: int,
    jitter: bool,
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError) as found:
        place.check(seed, setup, jitter)
    assert words in str(found.value)


@pytest.mark.parametrize("setup", [PLAIN, ON_DEVICE, LENT, BATCHES, ZERO_COPY])
@pytest.mark.parametrize("jitter", [False, True])
def test_without_a_bug_nothing_is_found(place: Workplace, setup: Setup, jitter: bool) -> None:
    if setup.on_device and ABSENT:
        pytest.skip(ABSENT)
    place.check(0, setup, jitter)
