"""What this processor's speed would decide, decided: no test depends on the clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from edge.build import processor
from edge.build.choose import Chooser
from edge.build.workshop import Workshop
from edge.precision.cost import Costs, roofline
from edge.targets import Activation, Target


@contextmanager
def int8_is_faster() -> Iterator[None]:
    """On the processor int8 is taken wherever it passes, all of it, however slow it is here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processor, "ROUNDS", 1)
        patch.setattr(processor, "RUNS", 1)
        patch.setattr(processor, "WORTHWHILE", 1e6)
        patch.setattr(processor, "HOPELESS", 1e6)
        patch.setattr(processor, "measured_costs", _estimated)
        yield


def _estimated(shop: Workshop, chooser: Chooser, target: Target, scheme: Activation) -> Costs:
    """In place of measured ones."""
    return roofline(chooser.graph, chooser.planner(target, "fast", scheme).groups, target)
