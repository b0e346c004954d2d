"""What a plan costs in the task's metric, told by all plans that were run: metrics of a few samples jump.

AP of thirty pictures moves by more than a plan costs when a single box changes places. How far outputs have
moved (the divergence) is smooth, and what the metric loses follows it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edge.manifest import Accuracy

ALIKE = 4.0
"""Plans whose divergence differs by more than this factor are not compared: large losses level off."""


@dataclass
class Trend:
    """Loss by divergence, both beyond the carrier's.

    Attributes:
        carrier: everything in the carrier, on the same samples.
        seen: divergence and loss of each plan.
    """

    carrier: Accuracy
    seen: list[tuple[float, float]] = field(default_factory=list)

    def steadied(self, accuracy: Accuracy) -> Accuracy:
        """The accuracy of one more plan, its metric as the trend has it.

        The loss is in proportion to the divergence, fitted to this plan and those like it.
        """
        beyond, loss = self._beyond(accuracy)
        if accuracy.this is None or loss is None or beyond <= 0:
            return accuracy
        self.seen.append((beyond, loss))
        alike = [(x, y) for x, y in self.seen if beyond / ALIKE <= x <= beyond * ALIKE]
        rate = sum(x * y for x, y in alike) / sum(x * x for x, _ in alike)  # least squares
        return accuracy.model_copy(update={"this": accuracy.this + loss - rate * beyond})

    def _beyond(self, accuracy: Accuracy) -> tuple[float, float | None]:
        """How far outputs have moved, and what the metric has lost, beyond what the carrier does."""
        this, base = accuracy, self.carrier
        if this.this is None or base.this is None or this.divergence is None:
            return 0.0, None
        return this.divergence - (base.divergence or 0.0), base.this - this.this
