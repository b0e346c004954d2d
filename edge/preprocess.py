"""Picture → network input, by one rule for calibration, verification and streaming."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the picture lies in the network's input: x_network = x_image · scale_x + left.

    Attributes:
        width, height: size of the source picture in pixels.
        scale_x, scale_y: network pixels per source pixel.
        left, top: offset in network pixels; negative where the picture was cropped.
    """

    width: int
    height: int
    scale_x: float
    scale_y: float
    left: int
    top: int
