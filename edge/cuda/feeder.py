"""Pictures on their way to an engine: copied as they are, fitted into its input on the device.

A frame in a page-locked buffer (`edge.cuda.pool`) is copied straight from where its source decoded it; on an
integrated GPU not even that. Any other is first copied into the slot's own page-locked memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edge.config import InputConfig
from edge.cuda.buffers import Exchange
from edge.cuda.device import Device, Stream
from edge.cuda.kernels import PreprocessKernel
from edge.cuda.picture import PicturePreprocess, SourcePicture
from edge.preprocess import Placement, check_image
from edge.types import Array, Image, TensorSpec


class PictureFeeder:
    """Brings pictures of any size into one input tensor.

    Args:
        spec: of the input, batch × channels × height × width.
    """

    def __init__(
        self, device: Device, kernel: PreprocessKernel, config: InputConfig, spec: TensorSpec
    ) -> None:
        self.inputs: Mapping[str, Array] = {}
        self._device = device
        self._rows = [_Seat(device) for _ in range(int(spec.shape[0]))]
        self._tensor = device.device_array([int(size) for size in spec.shape], spec.dtype)
        self._row_bytes = self._tensor.nbytes // len(self._rows)
        self._preprocess = PicturePreprocess(device, kernel, config, spec.dtype)

    @property
    def address(self) -> int:
        """Where the input tensor is."""
        return self._tensor.address

    def place(self, index: int, image: Image, stream: Stream) -> Placement:
        """Take picture `index` of the next batch: H × W × 3 uint8 BGR, or H × W grey."""
        check_image(image)
        if image.ndim == 3 and image.shape[2] == 1:
            image = image[:, :, 0]
        self._device.frames.provide_wanted()
        return self._preprocess.learn(stream, self._rows[index].take(image))

    def upload(self, stream: Stream, rows: int) -> None:
        for row in self._rows[:rows]:
            row.upload(stream)

    def prepare(self, stream: Stream, rows: int) -> None:
        address = self._tensor.address
        for row in self._rows[:rows]:
            self._preprocess.launch(stream, row.picture, address)
            address += self._row_bytes

    def free(self) -> None:
        for row in self._rows:
            row.free()
        self._preprocess.free()
        self._tensor.free()


class _Seat:
    """Room for one picture of a batch. It grows with the largest picture and never shrinks."""

    picture: SourcePicture

    def __init__(self, device: Device) -> None:
        self._device = device
        self._staging: Exchange | None = None
        self._image: Image | None = None
        """Kept until the next one comes: the copy to the device reads it."""
        self._locked = False

    def take(self, image: Image) -> SourcePicture:
        height, width = image.shape[:2]
        self._locked = self._device.frames.holds(image)
        if self._locked and self._device.integrated:
            address = self._device.frames.address(image)
        else:
            staging = self._room_for(image.nbytes)
            address = staging.address
            if not self._locked:
                np.copyto(staging.host[: image.nbytes].reshape(image.shape), image)
        self._image = image
        kind: Any = "bgr8" if image.ndim == 3 else "gray8"
        self.picture = SourcePicture(address, kind, width, height, image.nbytes // height)
        return self.picture

    def upload(self, stream: Stream) -> None:
        assert self._image is not None
        if not self._locked:
            assert self._staging is not None
            self._staging.upload(stream, self._image.nbytes)
        elif not self._device.integrated:
            assert self._staging is not None
            self._staging.upload_from(self._image, stream)

    def free(self) -> None:
        if self._staging is not None:
            self._staging.free()
        self._image = None

    def _room_for(self, nbytes: int) -> Exchange:
        if self._staging is None or self._staging.host.nbytes < nbytes:
            larger = self._device.exchange((nbytes,), np.uint8, write_combined=True)
            if self._staging is not None:  # only now: without room for the larger one this one still serves
                self._staging.free()
            self._staging = larger
        return self._staging
