"""Whether the calibration pictures can be relied upon: enough of them, different, with something on them.

What is missing does not stop a build. It is said, in the engine's manifest too: an engine that passes its
gate on pictures like these may still clip what other pictures hold.
"""

from __future__ import annotations

import hashlib

from edge.build.inputs import HELD_OUT, Inputs
from edge.tasks.samples import as_picture
from edge.types import Image

FEWEST, DEPENDABLE = 8, 16
"""Pictures below which ranges are doubtful, and from which on they hardly change."""
LOOKED_AT = 64
"""Pictures that are opened; of a larger set the first in the order of their content."""


def warnings(inputs: Inputs) -> tuple[str, ...]:
    """What is wrong with the calibration pictures, a sentence each; usually nothing."""
    pictures = {sample.path: sample for sample in (*inputs.calibration, *inputs.search)}
    looked_at = list(pictures.values())[:LOOKED_AT]
    different: set[str] = set()
    plain: list[str] = []
    for sample in looked_at:
        image = as_picture(inputs.task.network_image(sample))
        different.add(hashlib.sha256(image.tobytes()).hexdigest())
        plain += [sample.path.name] if _is_plain(image) else []
    found = []
    if len(pictures) < FEWEST:
        found.append(_too_few(len(pictures), inputs))
    if len(different) < min(len(looked_at), FEWEST):
        found.append(
            f"calibration has {len(looked_at)} pictures, but only {len(different)} different "
            f"{'one' if len(different) == 1 else 'ones'}; copies add nothing: add other typical ones"
        )
    if plain:
        named = ", ".join(plain[:3]) + (", …" if len(plain) > 3 else "")
        found.append(
            f"{len(plain)} of {len(looked_at)} calibration pictures {'is' if len(plain) == 1 else 'are'} "
            f"of one colour throughout ({named}): the network shows no typical values on them"
        )
    return tuple(found)


def _too_few(count: int, inputs: Inputs) -> str:
    pictures = "1 picture" if count == 1 else f"{count} pictures"
    held_out = "" if inputs.config.evaluation else f" (every {HELD_OUT}th is held out to verify with)"
    return (
        f"calibration has {pictures}{held_out}; ranges of {DEPENDABLE} or more are dependable: "
        "add typical ones, a hundred are plenty"
    )


def _is_plain(image: Image) -> bool:
    return bool((image == image[:1, :1]).all())
