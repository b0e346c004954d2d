"""Frames of big, fragmented and oddly stored files: each read alone, and believed only where it can be."""

import struct
import tracemalloc

import cv2
import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
from pydicom.sequence import Sequence  # noqa: E402
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless  # noqa: E402

from edge.dicom import open_dicom  # noqa: E402
from edge.dicom.codestream import declared_size  # noqa: E402
from edge.errors import InputError  # noqa: E402
from tests.dicoms import item, write  # noqa: E402

MIB = 1 << 20


@pytest.fixture
def image(tmp_path):
    """Writes a DICOM file of the given stored values and elements, and opens it."""
    return lambda stored, **elements: open_dicom(write(tmp_path / "image.dcm", stored, **elements))


def jpeg(level: int, rows: int = 32, columns: int = 48) -> bytes:
    data = cv2.imencode(".jpg", np.full((rows, columns), level, np.uint8))[1].tobytes()
    return data + b"\0" * (len(data) % 2)


def levels(image) -> list[int]:
    return [int(image.frame(i)[0].mean()) for i in range(image.frames)]


def test_a_cine_without_a_window_does_not_flicker(image):
    """The same stored value has the same grey level in every frame."""
    frames = np.uint16([[[100, 100]], [[100, 900]], [[100, 500]]])
    this = image(frames)
    pictures = [this.frame(i)[0][0, :, 0].tolist() for i in (1, 0, 2)]
    assert pictures == [[0, 255], [0, 0], [0, 128]]
    assert this.frame(0)[1] == ("voi: none, file range 100..900",)


def test_the_common_range_is_one_of_modality_values(image):
    """Each frame has its own slope, as in PET."""
    groups = [
        item(PixelValueTransformationSequence=Sequence([item(RescaleSlope=s, RescaleIntercept=0)]))
        for s in (1, 10)
    ]
    this = image(np.uint16([[[0, 100]], [[0, 100]]]), PerFrameFunctionalGroupsSequence=Sequence(groups))
    assert this.frame(0)[0][0, :, 0].tolist() == [0, 26]
    assert this.frame(1)[0][0, :, 0].tolist() == [0, 255]


def test_the_range_of_a_long_cine_is_taken_from_frames_spread_over_it(image):
    this = image(np.arange(61, dtype=np.uint16)[:, None, None] + np.zeros((61, 2, 2), np.uint16))
    assert this.frame(30)[1] == ("voi: none, range of 16 of 61 frames 0..60",)


def test_padding_does_not_widen_the_common_range(image):
    this = image(np.int16([[[-2000, 0]], [[50, 100]]]), PixelPaddingValue=-2000)
    assert this.frame(0)[1][-1] == "voi: none, file range 0..100"


def test_a_frame_may_lie_in_several_fragments(image):
    frames = [jpeg(level) for level in (10, 100, 200)]
    cut = [part for data in frames for part in (data[:200], data[200:])]
    this = image(np.zeros((3, 32, 48), np.uint8), syntax=JPEGBaseline8Bit, encoded=cut)
    assert levels(this) == pytest.approx([10, 100, 200], abs=1)
    assert this.frame(2)[0].mean() == pytest.approx(200, abs=1)


def test_fewer_compressed_frames_than_claimed(image):
    this = image(np.zeros((3, 32, 48), np.uint8), syntax=JPEGBaseline8Bit, encoded=[jpeg(10), jpeg(100)])
    assert this.frame(1)[0].mean() == pytest.approx(100, abs=1)
    with pytest.raises(InputError, match="only 2 frames"):
        this.frame(2)


def test_a_damaged_frame_does_not_spoil_the_others(image):
    frames = [jpeg(10), b"\xff\xd8\xff\xd9" + b"\0" * 16, jpeg(200)]
    this = image(np.zeros((3, 32, 48), np.uint8), syntax=JPEGBaseline8Bit, encoded=frames)
    with pytest.raises(InputError, match="cannot decode"):
        this.frame(1)
    assert this.frame(2)[0].mean() == pytest.approx(200, abs=1)


def test_a_high_bit_above_the_bits_stored_is_shifted_down(image):
    this = image(np.uint16([[0x0010, 0x7FF0, 0xFFF5]]), BitsStored=12, HighBit=15)
    assert this.stored(0).tolist() == [[1, 0x7FF, 0xFFF]]


def test_the_sizes_that_codestreams_declare():
    assert declared_size(jpeg(1, 33, 77)) == (33, 77)
    siz = struct.pack(">HH8L", 47, 0, 300 + 7, 200 + 5, 7, 5, 0, 0, 0, 0)
    assert declared_size(b"\xff\x4f\xff\x51" + siz) == (200, 300)
    assert declared_size(b"\xff\xd8\xff\xf7" + struct.pack(">HBHH", 11, 8, 20, 30) + b"\1\1\x11\0") == (
        20,
        30,
    )
    for odd in (b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\0\0\0\0\0\0\0", b"\xff\x4f\xff\x51\0"):
        assert declared_size(odd) is None


@pytest.mark.parametrize("rows", [65535, 16])
def test_a_compressed_frame_of_another_size_than_the_header_says_is_not_decoded(image, rows):
    """A small codestream may claim gigabytes."""
    lie = bytearray(jpeg(10))
    at = lie.index(b"\xff\xc0") + 5
    lie[at : at + 2] = struct.pack(">H", rows)
    this = image(np.zeros((32, 48), np.uint8), syntax=JPEGBaseline8Bit, encoded=[bytes(lie)])
    with pytest.raises(InputError, match=rf"header says 32×48 .* {rows}×48"):
        this.frame(0)


def test_a_jpeg_2000_frame_that_claims_gigabytes_is_not_decoded(image):
    siz = struct.pack(">HH8L", 47, 0, 65535, 65535, 0, 0, 65535, 65535, 0, 0) + b"\0\1\7\1\1"
    lie = b"\xff\x4f\xff\x51" + siz + b"\xff\xd9\0"
    this = image(np.zeros((32, 48), np.uint8), syntax=JPEG2000Lossless, encoded=[lie])
    with pytest.raises(InputError, match="65535×65535"):
        this.frame(0)


def test_fragments_that_claim_more_than_the_file_holds(image, tmp_path):
    path = write(
        tmp_path / "cut.dcm", np.zeros((2, 64, 64), np.uint8), syntax=RLELossless, encoded=[b"\0" * 64] * 2
    )
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(InputError):
        open_dicom(path).frame(1)


@pytest.mark.parametrize("window", [{"WindowCenter": 500, "WindowWidth": 1000}, {}], ids=["window", "none"])
def test_a_big_cine_is_never_in_memory_whole(tmp_path, window):
    path = write(tmp_path / "big.dcm", np.zeros((2, 512, 512), np.uint16), **window)
    data = path.read_bytes()
    header = data[: data.rindex(b"OW")]  # up to the length of the pixel element
    frames, size = 400, 2 * 512 * 512
    header = header.replace(b"\x28\0\x08\0IS\x02\x002 ", b"\x28\0\x08\0IS\x04\x00400 ")
    with path.open("wb") as file:
        file.write(header + b"OW\0\0" + struct.pack("<L", frames * size))
        file.truncate(file.tell() + frames * size)  # zeros that take no room on the disk
    tracemalloc.start()
    this = open_dicom(path)
    assert this.frames == frames
    for index in (0, 399, 1, 200):
        this.frame(index)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 200 * MIB
    assert peak < 30 * MIB
