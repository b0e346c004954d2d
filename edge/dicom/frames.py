"""Stored values, one frame at a time from where it lies in the file: a cine is never in memory whole."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edge.dicom import external
from edge.dicom.ahead import Decoders, Decoding
from edge.dicom.codestream import declared_size
from edge.dicom.decoder import Job, decode
from edge.dicom.header import UNDEFINED_LENGTH, Header, reading
from edge.errors import InputError
from edge.types import Array

Fragment = tuple[int, int]
"""Where the value of an item of encapsulated pixels begins, and its length in bytes."""

ITEM = (0xFFFE, 0xE000)

DELIMITER = b"\xfe\xff\xdd\xe0"
"""Of a sequence, little endian: all encapsulated syntaxes are."""

END_OF_IMAGE = b"\xff\xd9"
"""Ends a codestream of JPEG, JPEG-LS and JPEG 2000."""

REPAIR = "the file is cut off or its header is wrong: get it again"


class StoredFrames:
    """The frames of one file; colour is converted to RGB by the decoder, once.

    Args:
        decoders: decompress its frames; without, that is done here.
    """

    def __init__(self, path: Path, header: Header, decoders: Decoders | None = None) -> None:
        from pydicom.pixels.decoders.base import get_decoder
        from pydicom.pixels.utils import as_pixel_options

        self.path = path
        self.frames = header.frames
        self._header = header
        ds = header.dataset
        self._syntax = ds.file_meta.TransferSyntaxUID
        self._decoder = get_decoder(self._syntax)
        self._decoders = decoders
        self._begun: dict[int, Decoding] = {}
        with reading(path, "read"):
            element = header.pixels
            self._options = as_pixel_options(ds, pixel_keyword=element.keyword, pixel_vr=element.vr)
            self._shift = 0
            if not self._syntax.is_encapsulated and element.keyword == "PixelData":
                self._shift = max(0, int(ds.get("HighBit", 0)) + 1 - int(ds.get("BitsStored", 1)))
                self._options["bits_stored"] = self._options.get("bits_stored", 0) + self._shift

    @property
    def compressed(self) -> bool:
        """Whether its frames are decompressed one by one."""
        return bool(self._syntax.is_encapsulated)

    def begin(self, index: int) -> None:
        """Have a compressed frame decompressed meanwhile; what is wrong is told when it is asked for."""
        if self._decoders is None or not self.compressed or index in self._begun:
            return
        with suppress(InputError), reading(self.path, "decode"), self._open() as file:
            self._begun[index] = self._decoders.begin(self._job(file, index))

    def __getitem__(self, index: int) -> Array:
        """Stored values of frame `index` (from 0): rows × columns, × 3 in colour.

        Raises:
            InputError: it is damaged, or not there.
        """
        try:
            with reading(self.path, "decode", quote=True), self._open() as file:
                if self.compressed:
                    return self._decoded(file, index)
                file.seek(self._header.pixels.offset)
                stored = self._decoder.as_array(file, index=index, **self._options)[0]
                return np.right_shift(stored, self._shift) if self._shift else stored
        except InputError as e:
            raise self._explained(e) from e.__cause__

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        if self._header.streamed:
            with self.path.open("rb") as file:
                yield file
        else:
            yield io.BytesIO(self._header.dataset[self._header.pixels.keyword].value)

    def _decoded(self, file: BinaryIO, index: int) -> Array:
        begun = self._begun.pop(index, None)
        if begun is not None:
            return begun.result()
        job = self._job(file, index)
        return decode(job) if self._decoders is None else self._decoders.begin(job).result()

    def _job(self, file: BinaryIO, index: int) -> Job:
        """
        Raises:
            InputError: the frame is not there, or of another size than the header says.
        """
        encoded, ds = self._encoded(file, index), self._header.dataset
        size = declared_size(encoded)
        if size is not None and size != (ds.Rows, ds.Columns):
            raise InputError(
                f"cannot decode {self.path}",
                f"its header says {ds.Rows}×{ds.Columns} pixels, its compressed frame {size[0]}×{size[1]}",
                REPAIR,
            )
        options = {**self._options, "number_of_frames": 1}
        options.pop("extended_offsets", None)
        return Job(str(self._syntax), options, encoded)

    def _encoded(self, file: BinaryIO, index: int) -> bytes:
        if index >= len(self._index):
            what = f"{self.path} has only {len(self._index)} frames"
            raise InputError(what, f"its header says {self.frames}", REPAIR)
        parts = []
        for offset, length in self._index[index]:
            file.seek(offset)
            parts.append(file.read(length))
        return b"".join(parts)

    @cached_property
    def _index(self) -> list[list[Fragment]]:
        """The fragments of each frame: found from their own lengths and ends, since the offset table is often
        empty and sometimes wrong."""
        with self._open() as file:
            fragments = list(_fragments(file, self._header.pixels.offset))[
                1:
            ]  # the first is the offset table
            if self.frames == 1 or len(fragments) <= self.frames:
                return [fragments] if self.frames == 1 and fragments else [[f] for f in fragments]
            frames: list[list[Fragment]] = [[]]
            for fragment in fragments:
                frames[-1].append(fragment)
                if _ends_image(file, fragment):
                    frames.append([])
        return [frame for frame in frames if frame]

    def _explained(self, error: InputError) -> InputError:
        ds = self._header.dataset
        if self._syntax != external.JPEG_EXTENDED or ds.get("BitsStored", 8) <= 8:
            return error
        if external.is_available(self._syntax):
            return error
        fix = "install dcmtk or GDCM (apt-get install dcmtk), or convert the file with `dcmdjpeg`"
        return InputError(error.what, "12-bit JPEG needs dcmdjpeg or gdcmconv, and neither is installed", fix)


def _fragments(file: BinaryIO, offset: int) -> Iterator[Fragment]:
    """Items of encapsulated pixel data (PS3.5 A.4) up to the delimiter or the end of the file."""
    end = file.seek(0, 2)
    while offset + 8 <= end:
        file.seek(offset)
        group, number, length = struct.unpack("<HHL", file.read(8))
        if (group, number) != ITEM or length == UNDEFINED_LENGTH:
            return
        yield offset + 8, min(length, end - offset - 8)
        offset += 8 + length


def ends_with_delimiter(file: BinaryIO, offset: int) -> bool:
    """Whether encapsulated pixel data that begins at `offset` goes on to its delimiter (PS3.5 A.4)."""
    for begin, length in _fragments(file, offset):
        offset = begin + length
    file.seek(offset)
    return file.read(4) == DELIMITER


def _ends_image(file: BinaryIO, fragment: Fragment) -> bool:
    """An end marker within its last bytes; some writers pad more than one."""
    offset, length = fragment
    file.seek(offset + max(0, length - 10))
    return END_OF_IMAGE in file.read(min(length, 10))
