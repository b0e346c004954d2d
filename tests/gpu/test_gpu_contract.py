"""What every backend promises, on a real device: the tests of `contract/test_backends.py`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from contract.test_backends import (  # noqa: F401
    test_a_slot_gives_what_run_gives,
    test_a_slot_is_submitted_once_and_waited_for_once,
    test_buffers_are_allocated_once_and_belong_to_one_slot,
    test_closing_twice_does_nothing,
    test_infer_seconds_is_a_part_of_the_time_that_passed,
    test_inputs_the_engine_has_not_are_refused,
    test_two_slots_in_flight_do_not_mix,
)
from on_device import RUNTIMES, engine_of

from edge.backends import DEVICE_STAGES, Engine
from edge.cuda.device import Device
from edge.errors import RuntimeFault

pytestmark = pytest.mark.gpu


@pytest.fixture(params=RUNTIMES)
def engine(request: pytest.FixtureRequest, tmp_path: Path, device: Device) -> Iterator[Engine]:
    engine = engine_of(request.param, tmp_path, device)
    yield engine
    engine.close()


def test_stages_follow_one_another_on_one_clock(engine: Engine) -> None:
    slots = [engine.slot(), engine.slot()]
    for slot in slots:
        slot.submit()
    for slot in slots:
        slot.wait()
        assert tuple(slot.spans) == DEVICE_STAGES
        times = [moment for span in slot.spans.values() for moment in span]
        assert all(b >= a - 5e-6 for a, b in pairwise(times)), slot.spans


def test_a_closed_engine_refuses_work(engine: Engine) -> None:
    engine.close()
    with pytest.raises(RuntimeFault, match="closed"):
        engine.slot()
