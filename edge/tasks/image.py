"""A picture in, a picture out: super-resolution, denoising, enhancement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from edge.config import SamplesConfig, Section, validate
from edge.errors import InputError, ModelError
from edge.preprocess import Placement
from edge.tasks import Sample, Tail, drawing
from edge.tasks.outputs import one_picture
from edge.tasks.samples import find_samples, read_picture
from edge.types import Array, Image

BORDER = 4
"""Pixels at the edge that PSNR leaves out, as super-resolution papers do."""

LUMA_BGR = np.array([24.966, 128.553, 65.481]) / 255
"""Y of ITU-R BT.601 in studio range, as super-resolution papers measure it."""


class ImageSettings(Section):
    """The keys of `[task]` with `kind = "image"`."""

    output: str | None = Field(None, description="the graph's output; default: its first")
    color: Literal["rgb", "bgr"] = Field("rgb", description="channel order of the output")
    range: float = Field(1.0, gt=0, description="the output's value for white")
    scale: PositiveInt = Field(1, description="output pixels per input pixel")
    crop: PositiveInt = Field(
        512, description="samples: side of the centre that is cut out, made smaller by `scale` and restored"
    )


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """The network's picture, letterbox padding cut off.

    Attributes:
        image: h × w × 3 uint8 BGR.
    """

    image: Image

    def to_json(self) -> dict[str, Any]:
        height, width = self.image.shape[:2]
        return {"image": {"width": width, "height": height}}

    def found(self) -> dict[str, float]:
        return {}

    def draw(self, image: Image) -> Image:
        """Before and after, side by side in one picture: its left half and the network's right half."""
        out = drawing.canvas(image)
        height, width = out.shape[:2]
        middle, line = width // 2, drawing.style(out).line
        restored = cv2.resize(self.image, (width, height), interpolation=cv2.INTER_AREA)
        out[:, middle:] = restored[:, middle:]
        cv2.line(out, (middle, 0), (middle, height - 1), drawing.DARK, line + 2)
        cv2.line(out, (middle, 0), (middle, height - 1), drawing.LIGHT, line)
        return out


@dataclass
class PsnrY:
    """Mean peak signal-to-noise ratio of luma, in dB."""

    crop: int
    values: list[float] = field(default_factory=list)

    def add(self, sample: Sample, payload: Picture) -> None:
        original = centre_crop(read_picture(sample.path), self.crop)
        if payload.image.shape != original.shape:
            got, want = ("×".join(map(str, image.shape)) for image in (payload.image, original))
            raise InputError(
                f"the network's picture is {got}",
                f"the original is {want}",
                "mend `scale` and `crop` in [task]",
            )
        self.values.append(psnr_y(payload.image, original))

    def value(self) -> float:
        return float(np.mean(self.values)) if self.values else float("nan")


class ImageToImage:
    kind = "image"
    metric = "psnr_y"

    def __init__(self, settings: ImageSettings) -> None:
        self.settings = settings

    def samples(self, config: SamplesConfig) -> Sequence[Sample]:
        """Pictures large enough for the crop; they are their own labels."""
        every = find_samples(config.model_copy(update={"limit": None}))
        large = [s for s in every if min(read_picture(s.path).shape[:2]) >= self.settings.crop]
        if not large:
            side = self.settings.crop
            raise InputError(
                f"no picture in {config.images} is large enough",
                f"{side}×{side} are cut out",
                "lower [task] crop",
            )
        return [Sample(s.path, label=s.path) for s in large[: config.limit]]

    def network_image(self, sample: Sample) -> Image:
        """The centre of the picture, made smaller by `scale`: what the network has to restore."""
        original = centre_crop(read_picture(sample.path), self.settings.crop)
        return shrink(original, self.settings.scale)

    def tail(self) -> Tail | None:
        """None: every pixel of the output is shown."""
        return None

    def postprocess(self, outputs: Mapping[str, Array], index: int, placement: Placement) -> Picture:
        planes = one_picture(outputs, self.settings.output, index, 3, "batch × channels × height × width")
        visible = self._without_padding(planes, placement)
        levels = np.nan_to_num(visible.astype(np.float32))
        np.clip(levels, 0, self.settings.range, out=levels)
        levels *= np.float32(255 / self.settings.range)
        channels = list(np.rint(levels, out=levels).astype(np.uint8))
        if len(channels) not in (1, 3):
            raise ModelError(
                f"the network's picture has {len(channels)} channels",
                "1 or 3 are expected",
                "check [task] output",
            )
        if self.settings.color == "rgb":
            channels.reverse()
        return Picture(np.asarray(cv2.merge(channels * (3 // len(channels))), np.uint8))

    def score_payload(self, outputs: Mapping[str, Array], index: int, placement: Placement) -> Picture:
        return self.postprocess(outputs, index, placement)

    def scorer(self) -> PsnrY:
        return PsnrY(self.settings.crop)

    def divergence(
        self, reference: Mapping[str, Array], this: Mapping[str, Array], placement: Placement
    ) -> float:
        """Mean squared error of what is shown, over the squared value for white."""
        planes = (
            one_picture(o, self.settings.output, 0, 3, "batch × channels × height × width")
            for o in (reference, this)
        )
        a, b = (self._without_padding(p, placement).astype(np.float64) for p in planes)
        return float(np.square(a - b).mean() / self.settings.range**2)

    def believed(
        self, sample: Sample, outputs: Mapping[str, Array], placement: Placement, random: Generator
    ) -> Sequence[Sample]:
        """The picture is its own label."""
        return [sample]

    def _without_padding(self, planes: Array, place: Placement) -> Array:
        """C × h × w of the network's output that show the picture."""
        x, y = planes.shape[2] / place.network_width, planes.shape[1] / place.network_height
        top, left = max(place.top, 0), max(place.left, 0)
        bottom = min(place.top + round(place.height * place.scale_y), place.network_height)
        right = min(place.left + round(place.width * place.scale_x), place.network_width)
        return planes[:, round(top * y) : round(bottom * y), round(left * x) : round(right * x)]


def centre_crop(image: Image, side: int) -> Image:
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return image[top : top + side, left : left + side]


def shrink(image: Image, factor: int) -> Image:
    """Bicubic to 1/`factor`, antialiased as Pillow and MATLAB do it (OpenCV's bicubic is not)."""
    if factor == 1:
        return image
    rows, columns = (_cubic_weights(side, factor) for side in image.shape[:2])
    smaller = np.einsum("yi,ijc,xj->yxc", rows, image.astype(np.float64), columns, optimize=True)
    return np.asarray(smaller.round().clip(0, 255), np.uint8)


@lru_cache(maxsize=8)
def _cubic_weights(size: int, factor: int) -> NDArray[np.float64]:
    """size/factor × size: the Keys kernel (a = −0.5) widened by `factor`, each row summing to 1."""
    centres = (np.arange(size // factor) + 0.5) * factor
    x = np.abs(np.arange(size) + 0.5 - centres[:, None]) / factor
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    normed: NDArray[np.float64] = weights / weights.sum(1, keepdims=True)
    return normed


def psnr_y(a: Image, b: Image) -> float:
    """Of two BGR pictures, in dB; 100 where they are equal."""
    difference = ((a.astype(np.float64) - b) @ LUMA_BGR)[BORDER:-BORDER, BORDER:-BORDER]
    error = float(np.mean(difference**2))
    return float(10 * np.log10(255**2 / error)) if error else 100.0


def create(settings: dict[str, Any], where: str) -> ImageToImage:
    return ImageToImage(validate(ImageSettings, settings, where))
