"""Which output of an engine holds what: the network's own, and those that a tail adds (`edge.build.tails`).

A wrong graph is named instead of misread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edge.errors import ModelError, nearest
from edge.types import Array

CANDIDATES = "edge_candidates"
"""N × K × 6 float32: x1 y1 x2 y2 (network pixels) score class, best first; rows of score 0 hold nothing."""
COUNT, BOXES, SCORES, CLASSES = "edge_count", "edge_boxes", "edge_scores", "edge_classes"
"""What the engine's own suppression keeps: N × 1 int32, N × K × 4, N × K float32, N × K int32."""
HEAT = "edge_heat"
"""N × 1 × h × w float32: the one plane of a heat map that is used, as probabilities."""
SUM = "edge_sum"
"""N float32: the sum of the network's output, NaN or infinite where anything in it is."""
TAIL = frozenset({CANDIDATES, COUNT, BOXES, SCORES, CLASSES, HEAT, SUM})
"""All that a tail may add. A network's own outputs have other names."""


def streamed(names: Iterable[str]) -> tuple[str, ...] | None:
    """Of an engine's outputs those that streaming needs: a tail's; None (all) where it has no tail."""
    return tuple(name for name in names if name in TAIL) or None


def one_picture(outputs: Mapping[str, Array], name: str | None, index: int, ndim: int, want: str) -> Array:
    """Picture `index` of the batch in the network's output `name` (None: its first).

    Args:
        ndim: dimensions of one picture's output.
        want: its shape in words, for the error.

    Raises:
        ModelError: there is no such output, or it has another number of dimensions.
    """
    own = [each for each in outputs if each not in TAIL]
    if not own:
        raise ModelError(
            "the network's own output is not there",
            "only what its tail computes was copied from the device",
            "load the engine with all its outputs to score it",
        )
    name = own[0] if name is None else name
    if name not in outputs:
        raise ModelError(f"the graph has no output '{name}'", nearest(name, own), "set `output` in [task]")
    output = outputs[name]
    if output.ndim != ndim + 1:
        shape = "×".join(map(str, output.shape))
        raise ModelError(f"output '{name}' has shape {shape}", f"the task expects {want}", "check [task]")
    picture: Array = output[index]
    return picture
