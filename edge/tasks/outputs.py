"""Picks a network's output and checks its shape, so that a wrong graph is named instead of misread."""

from __future__ import annotations

from collections.abc import Mapping

from edge.errors import ModelError, nearest
from edge.types import Array


def one_picture(outputs: Mapping[str, Array], name: str | None, index: int, ndim: int, want: str) -> Array:
    """Picture `index` of the batch in output `name` (None: the first output).

    Args:
        ndim: dimensions of one picture's output.
        want: its shape in words, for the error.

    Raises:
        ModelError: there is no such output, or it has another number of dimensions.
    """
    name = next(iter(outputs), "") if name is None else name
    if name not in outputs:
        raise ModelError(
            f"the graph has no output '{name}'", nearest(name, outputs), "set `output` in [task]"
        )
    output = outputs[name]
    if output.ndim != ndim + 1:
        shape = "×".join(map(str, output.shape))
        raise ModelError(f"output '{name}' has shape {shape}", f"the task expects {want}", "check [task]")
    picture: Array = output[index]
    return picture
