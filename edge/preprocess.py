"""Picture → network input, by one rule for calibration, verification and streaming.

A pixel has 256 possible values, so scale, mean and std are one table look-up: exact, and as fast as a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.config import InputConfig
from edge.errors import InputError
from edge.types import Array, Image

Planes = NDArray[np.float32]
"""C × H × W, what a network reads."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the picture lies in the network's input: x_network = x_image · scale_x + left.

    Attributes:
        width, height: size of the source picture in pixels.
        scale_x, scale_y: network pixels per source pixel.
        left, top: offset in network pixels; negative where the picture was cropped.
        network_width, network_height: size of the network's input in pixels.
    """

    width: int
    height: int
    scale_x: float
    scale_y: float
    left: int
    top: int
    network_width: int
    network_height: int


@dataclass(frozen=True, slots=True)
class Fit:
    """How pictures of one size are laid into the input; worked out once a size.

    Attributes:
        scale_x, scale_y: given to the resize as they are, so that its rounding is the reference's.
        source: the part of the resized picture that is used.
        target: the part of the input that it fills.
    """

    placement: Placement
    width: int
    height: int
    source: tuple[slice, slice]
    target: tuple[slice, slice]


class Preparation(Protocol):
    """What a source gives → network input: pictures by `Preprocess`, series by `edge.dicom.conform`."""

    config: InputConfig

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input: channels × (depth ×) height × width."""
        ...

    def into(self, given: Any, out: Planes, /) -> Any:
        """Write a picture or series into `out`, wholly; where it lies there, as the task needs to know it.

        Raises:
            InputError: it is not what the network reads, or cannot be read.
        """
        ...

    def batch(self, given: Sequence[Any], /) -> tuple[Planes, list[Any]]:
        """Several as a fresh array, batch first, and where each lies in it."""
        ...


def preparation(config: InputConfig) -> Preparation:
    """The way into an input of this config."""
    if config.volume is None:
        return Preprocess(config)
    from edge.dicom.conform import Conform

    return Conform(config, config.volume)


class Preprocess:
    """Fits pictures into one network's input. It keeps scratch buffers: one instance a thread."""

    def __init__(self, config: InputConfig) -> None:
        self.config = config
        self.shape = (config.channels, *config.size)
        self.table = value_table(config)
        """C × 256 float32, C in network order: the network's value of each pixel value."""
        self._identity = np.array_equal(self.table, np.tile(np.arange(256), (config.channels, 1)))
        self._fit: Fit | None = None
        self._resized = np.empty((0, 0), np.uint8)
        self._planes: list[Array] = []

    def into(self, image: Image, out: Planes) -> Placement:
        """Write `image` into `out`, allocating nothing while pictures keep their size.

        Args:
            image: H × W × 3 uint8 BGR, or H × W uint8 grey.
            out: C × H × W float32, wholly overwritten.

        Raises:
            InputError: the picture is empty or of another type or channel count.
        """
        check_image(image)
        if out.shape != self.shape or out.dtype != np.float32:
            raise ValueError(f"out is {out.dtype}{list(out.shape)}, not float32{list(self.shape)}")
        if image.ndim == 3 and image.shape[2] == 1:
            image = image[:, :, 0]
        fit = self._fit_for(image)
        visible = self._resize(image, fit)[fit.source]
        rows, columns = fit.target
        for channel, plane in enumerate(self._network_planes(visible)):
            self._pad(out[channel], channel, fit)
            self._convert(plane, channel, out[channel, rows, columns])
        return fit.placement

    def batch(self, images: Sequence[Image]) -> tuple[Planes, list[Placement]]:
        """N pictures as a fresh N × C × H × W array, and where each lies in it."""
        out = np.empty((len(images), *self.shape), np.float32)
        return out, [self.into(image, out[i]) for i, image in enumerate(images)]

    def _fit_for(self, image: Image) -> Fit:
        height, width = image.shape[:2]
        fit = self._fit
        if fit is None or (fit.placement.height, fit.placement.width) != (height, width):
            fit = self._fit = plan_fit(self.config, height, width)
        return fit

    def _resize(self, image: Image, fit: Fit) -> Array:
        """The picture at the fit's size: itself where that is its own, else a view of the scratch buffer."""
        if image.shape[:2] == (fit.height, fit.width):
            return image
        shape = (fit.height, fit.width, *image.shape[2:])
        if self._resized.shape != shape:
            self._resized = np.empty(shape, np.uint8)
        if self.config.fit == "crop":  # the factor itself, not the ratio of rounded sizes
            place = fit.placement
            cv2.resize(image, None, self._resized, place.scale_x, place.scale_y, cv2.INTER_LINEAR)
        else:
            cv2.resize(image, (fit.width, fit.height), self._resized, interpolation=cv2.INTER_LINEAR)
        return self._resized

    def _network_planes(self, picture: Array) -> Sequence[Array]:
        """H × W planes in the network's channel order."""
        count = self.config.channels
        if picture.ndim == 2:
            return [picture] * count
        if len(self._planes) != count or self._planes[0].shape != picture.shape[:2]:
            self._planes = [np.empty(picture.shape[:2], np.uint8) for _ in range(count)]
        if count == 1:
            cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY, dst=self._planes[0])
            return self._planes
        cv2.split(picture, self._planes)
        return self._planes if self.config.color == "bgr" else self._planes[::-1]

    def _convert(self, plane: Array, channel: int, out: Array) -> None:
        if self._identity:
            np.copyto(out, plane)
        else:
            cv2.LUT(plane, self.table[channel], dst=out)

    def _pad(self, out: Array, channel: int, fit: Fit) -> None:
        rows, columns = fit.target
        value = self.table[channel, self.config.pad]
        out[: rows.start] = value
        out[rows.stop :] = value
        out[rows, : columns.start] = value
        out[rows, columns.stop :] = value


def check_image(image: Image) -> None:
    """Raise InputError unless `image` is a picture: uint8, H × W or H × W × 3 (or × 1), not empty."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"a picture of type {kind}", "pictures are uint8 arrays", "convert it to 8 bits")
    shape = "×".join(map(str, image.shape))
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise InputError(
            f"a picture of shape {shape}",
            "it is neither height × width (grey) nor height × width × 3 (BGR)",
            "drop an alpha channel, or choose one plane of a volume",
        )
    if image.size == 0:
        raise InputError(f"a picture of shape {shape}", "it is empty", "check the source")


def value_table(config: InputConfig) -> NDArray[np.float32]:
    """(value · scale − mean) / std for all 256 values, in float32 steps as training code does it."""
    scaled = (np.arange(256) * config.scale).astype(np.float32)
    mean, std = (np.array(v, np.float32).reshape(-1, 1) for v in (config.mean, config.std))
    values = (scaled - mean) / std
    return np.ascontiguousarray(np.broadcast_to(values, (config.channels, 256)))


def plan_fit(config: InputConfig, height: int, width: int) -> Fit:
    """Where a `height` × `width` picture goes in the input of `config`."""
    return {"letterbox": _letterbox, "stretch": _stretch, "crop": _crop}[config.fit](config, height, width)


def _letterbox(config: InputConfig, height: int, width: int) -> Fit:
    """The whole picture, in its own proportions (YOLOX's rule: sizes are cut, not rounded)."""
    rows, columns = config.size
    scale = min(rows / height, columns / width)
    h, w = max(1, int(height * scale)), max(1, int(width * scale))
    centered = config.anchor == "center"
    top, left = ((rows - h) // 2, (columns - w) // 2) if centered else (0, 0)
    return _whole(config, height, width, (h, w), (top, left))


def _stretch(config: InputConfig, height: int, width: int) -> Fit:
    return _whole(config, height, width, config.size, (0, 0))


def _whole(
    config: InputConfig, height: int, width: int, size: tuple[int, int], corner: tuple[int, int]
) -> Fit:
    (rows, columns), (h, w), (top, left) = config.size, size, corner
    return Fit(
        Placement(width, height, w / width, h / height, left, top, columns, rows),
        w,
        h,
        source=(slice(0, h), slice(0, w)),
        target=(slice(top, top + h), slice(left, left + w)),
    )


def _crop(config: InputConfig, height: int, width: int) -> Fit:
    """The shorter side resized to `shorter_side`, at least as far as the input needs, then the centre."""
    rows, columns = config.size
    scale = max(rows / height, columns / width)
    if config.shorter_side:
        scale = max(scale, config.shorter_side / min(height, width))
    h, w = round(height * scale), round(width * scale)  # half to even, as cv2.resize rounds
    top, left = (h - rows) // 2, (w - columns) // 2
    return Fit(
        Placement(width, height, scale, scale, -left, -top, columns, rows),
        w,
        h,
        source=(slice(top, top + rows), slice(left, left + columns)),
        target=(slice(0, rows), slice(0, columns)),
    )
