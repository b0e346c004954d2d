"""Pictures in device memory, and how one network's input is made of them: worked out once a picture size.

A launch of a known size packs addresses into the kernel's arguments and does nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from edge.config import InputConfig
from edge.cuda import rule
from edge.cuda.buffers import Exchange
from edge.cuda.device import Device, Stream
from edge.cuda.kernels import PreprocessKernel
from edge.errors import InputError, RuntimeFault, UsageError, nearest
from edge.preprocess import Fit, Placement, plan_fit, value_table

PixelFormat = Literal["bgr8", "gray8", "gray16", "nv12"]

MAX_SIDE = 65_535
MAX_BYTES = 2**31 - 1
"""The kernel counts bytes of a picture and values of an input in 32 bits."""

SIZES = 8
"""Picture sizes whose weights stay on the device; feeds have one each, a folder of pictures has many."""

_PIXEL_BYTES = {"bgr8": 3, "gray8": 1, "gray16": 2, "nv12": 1}
_BLOCK = (32, 8, 1)


class SourcePicture(NamedTuple):
    """A picture in memory that the device can read.

    Attributes:
        address: of the first row.
        format: bgr8 (B, G, R interleaved), gray8, gray16 (little-endian stored values) or nv12 (a plane of
            luma, then one of interleaved U and V at half size; BT.601, limited range).
        width, height: in pixels; even for nv12.
        pitch: bytes from a row to the next; at least a row's.
        chroma_address, chroma_pitch: nv12: where the U/V plane is; 0: right behind the luma, with its pitch.
        levels_address: gray16: 65,536 bytes, the grey level of each stored value by its bits.
    """

    address: int
    format: PixelFormat
    width: int
    height: int
    pitch: int
    chroma_pitch: int = 0
    chroma_address: int = 0
    levels_address: int = 0


def row_bytes(format: PixelFormat, width: int) -> int:
    """The smallest pitch, of the luma plane for nv12."""
    return width * _PIXEL_BYTES[format]


def check_picture(picture: SourcePicture) -> None:
    """Raise an error unless the kernel can read a picture of this format, size and pitch.

    Raises:
        UsageError: the format is unknown.
        InputError: the size or the pitch is impossible or too large.
    """
    _, format, width, height, pitch, chroma_pitch, _, _ = picture
    if format not in _PIXEL_BYTES:
        raise UsageError(f"no picture format '{format}'", nearest(format, _PIXEL_BYTES))
    what = f"a picture of {width}×{height} {format} with {pitch} bytes a row"
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise InputError(what, f"sides of 1 to {MAX_SIDE} pixels can be read", "check the source")
    if format == "nv12" and (width % 2 or height % 2):
        raise InputError(
            what, "nv12 keeps colour for 2×2 pixels: both sides are even", "crop it, or use bgr8"
        )
    least = row_bytes(format, width)
    if pitch < least or (format == "nv12" and 0 < chroma_pitch < least):
        raise InputError(what, f"a row alone takes {least}", "give the bytes from one row to the next")
    if format == "gray16" and pitch % 2:
        raise InputError(what, "rows of 16-bit values start at even addresses", "pad the rows")
    if max(pitch, chroma_pitch) * height > MAX_BYTES:
        raise InputError(
            what, f"the kernel reads pictures of up to {MAX_BYTES:,} bytes", "make it smaller first"
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Layout:
    """One picture size, laid into the input.

    Attributes:
        launch: PyCUDA's call of the kernel.
        weights: taps of the columns, taps of the rows and the table of values, as the kernel reads them.
        constants: the kernel's arguments after the addresses of picture and input.
        chroma_offset: from the picture's address, where it does not say.
        alignment: of the picture's address.
        looks_up: it needs the grey levels of stored values.
    """

    placement: Placement
    launch: Callable[..., None]
    weights: Exchange
    constants: tuple[int, ...]
    chroma_offset: int
    alignment: int
    looks_up: bool


class PicturePreprocess:
    """Makes one network's input of pictures. All launches of one instance go to one stream, in order.

    Args:
        dtype: of the input: float32, float16, bfloat16, int8 or float8_e4m3fn.
        scale: of a quantized input: the value of its step 1.

    Raises:
        UsageError: the input has another type or is too large.
    """

    def __init__(
        self,
        device: Device,
        kernel: PreprocessKernel,
        config: InputConfig,
        dtype: str = "float32",
        scale: float = 1.0,
    ) -> None:
        check_input(config)
        self.config, self._device, self._kernel = config, device, kernel
        self._words = rule.words(value_table(config), dtype, scale)
        self._layouts: dict[tuple[Any, ...], _Layout] = {}
        rows, columns = config.size
        self._grid = (-(-columns // _BLOCK[0]), -(-rows // _BLOCK[1]))

    def learn(self, stream: Stream, picture: SourcePicture) -> Placement:
        """Where the picture will lie in the input; the first of its size brings its weights to the device.

        Its addresses need not be known yet.

        Raises:
            UsageError, InputError: see `check_picture`.
            OutOfDeviceMemory: there is no room for the weights (about 20 KB).
        """
        return (self._layouts.get(picture[1:6]) or self._add(stream, picture)).placement

    def launch(self, stream: Stream, picture: SourcePicture, out_address: int) -> Placement:
        """Enqueue the work that writes `picture` as C × H × W values to `out_address`.

        Raises:
            UsageError, InputError: see `check_picture`.
            RuntimeFault: an address is missing or not aligned.
            OutOfDeviceMemory: there is no room for the weights of a size that was not learnt.
        """
        layout = self._layouts.get(picture[1:6]) or self._add(stream, picture)
        address, levels = picture.address, picture.levels_address
        if not (address and out_address and (levels or not layout.looks_up)) or address % layout.alignment:
            raise _bad_address(picture, out_address)
        chroma = picture.chroma_address or address + layout.chroma_offset
        layout.launch(self._grid, _BLOCK, stream.raw, address, chroma, levels, out_address, *layout.constants)
        return layout.placement

    def free(self) -> None:
        """Give the weights back; nothing may be in flight."""
        for layout in self._layouts.values():
            layout.weights.free()
        self._layouts.clear()

    def _add(self, stream: Stream, picture: SourcePicture) -> _Layout:
        check_picture(picture)
        entry = self._kernel.entry(picture.format, self.config.channels, self._words.itemsize)
        fit = plan_fit(self.config, picture.height, picture.width)
        weights = self._buffer(stream)
        try:
            addresses = self._write(weights, *rule.visible_taps(fit))
            weights.upload(stream)
        except BaseException:
            weights.free()
            raise
        layout = self._layouts[picture[1:6]] = _Layout(
            placement=fit.placement,
            launch=entry,
            weights=weights,
            constants=(*addresses, *self._geometry(picture, fit)),
            chroma_offset=picture.pitch * picture.height,
            alignment=_PIXEL_BYTES["gray16"] if picture.format == "gray16" else 1,
            looks_up=picture.format == "gray16",
        )
        return layout

    def _buffer(self, stream: Stream) -> Exchange:
        """Memory for the weights of one size: new, or that of the size that has been known the longest."""
        if len(self._layouts) < SIZES:
            taps = sum(self.config.size) * rule.TAP
            return self._device.exchange((taps + self._words.nbytes // 4,), np.int32, copied=True)
        stream.synchronize()  # launches in flight may still read it
        return self._layouts.pop(next(iter(self._layouts))).weights

    def _write(self, weights: Exchange, columns: rule.Taps, rows: rule.Taps) -> tuple[int, int, int]:
        """Fill the buffer; the device addresses of its three parts."""
        parts = (columns.ravel(), rows.ravel(), self._words.ravel().view(np.int32))
        starts = np.cumsum([0, *(part.size for part in parts)])
        for part, start in zip(parts, starts, strict=False):
            weights.host[start : start + part.size] = part
        first, second, third = (weights.address + 4 * int(start) for start in starts[:3])
        return first, second, third

    def _geometry(self, picture: SourcePicture, fit: Fit) -> tuple[int, ...]:
        """The numbers of a Job, in its order."""
        rows, columns = fit.target
        return (
            picture.pitch,
            picture.chroma_pitch or picture.pitch,
            columns.start,
            rows.start,
            columns.stop - columns.start,
            rows.stop - rows.start,
            self.config.size[1],
            self.config.size[0],
            int(self.config.color == "rgb"),
            self.config.pad,
            picture.width,
            picture.height,
        )


def check_input(config: InputConfig) -> None:
    """Raise UsageError if the kernel cannot count the values of this input."""
    rows, columns = config.size
    if max(rows, columns) > MAX_SIDE or config.channels * rows * columns > MAX_BYTES:
        raise UsageError(
            f"an input of {config.channels}×{rows}×{columns}",
            f"the kernel makes sides of up to {MAX_SIDE} and {MAX_BYTES:,} values",
            "preprocess on the processor",
        )


def _bad_address(picture: SourcePicture, out_address: int) -> RuntimeFault:
    named = ", ".join(f"{name} {value:#x}" for name, value in picture._asdict().items() if "address" in name)
    return RuntimeFault(
        f"a {picture.format} picture at {named} for an input at {out_address:#x}",
        "an address is missing, or 16-bit values start at an odd one",
        "gray16 pictures need a table of levels",
    )
