"""DICOM files that lie, break off or cannot be decoded: an error that says what, why and what to do."""

import random
import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest

from edge.dicom import header as dicom_header
from edge.dicom import open_dicom
from edge.errors import InputError, MissingPackage

pydicom = pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")

EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG2000 = "1.2.840.10008.1.2.4.90"
MPEG4 = "1.2.840.10008.1.2.4.102"
LONG = (b"OB", b"OW", b"SQ", b"UN")
TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"


def element(group: int, number: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    value += b"\0" * (len(value) % 2)
    length = len(value) if length is None else length
    size = struct.pack("<HL", 0, length) if vr in LONG else struct.pack("<H", length)
    return struct.pack("<HH", group, number) + vr + size + value


def file(tmp_path: Path, body: bytes, syntax: str = EXPLICIT) -> Path:
    uid = element(2, 0x10, b"UI", syntax.encode())
    start = element(2, 0, b"UL", struct.pack("<L", len(uid)))
    path = tmp_path / "hostile.dcm"
    path.write_bytes(b"\0" * 128 + b"DICM" + start + uid + body)
    return path


def us(number: int, value: int) -> bytes:
    return element(0x28, number, b"US", struct.pack("<H", value))


def picture(rows: int = 4, columns: int = 4, frames: str = "", bits: int = 8, patient: bytes = b"") -> bytes:
    return b"".join(
        [
            element(0x10, 0x10, b"PN", patient),
            us(2, 1),
            element(0x28, 4, b"CS", b"MONOCHROME2"),
            element(0x28, 8, b"IS", frames.encode()) if frames else b"",
            us(0x10, rows),
            us(0x11, columns),
            us(0x100, bits),
            us(0x101, bits),
            us(0x102, bits - 1),
            us(0x103, 0),
        ]
    )


def pixels(value: bytes, length: int | None = None) -> bytes:
    return element(0x7FE0, 0x10, b"OB", value, length)


def refused(path: Path, *words: str) -> InputError:
    with pytest.raises(InputError) as caught:
        image = open_dicom(path)
        image.frame(image.frames - 1)
    for word in words:
        assert word in str(caught.value)
    assert caught.value.exit_code == 4
    assert caught.value.what and caught.value.why
    return caught.value


def test_the_builder_of_these_files_builds_good_ones_too(tmp_path):
    image, _ = open_dicom(file(tmp_path, picture() + pixels(bytes(range(16))))).frame(0)
    assert image[:, :, 0].ravel().tolist() == list(range(16))


@pytest.mark.parametrize("syntax", [EXPLICIT, JPEG2000])
def test_a_small_file_that_claims_a_huge_picture_allocates_nothing(tmp_path, syntax):
    path = file(tmp_path, picture(65535, 65535) + pixels(b"\0" * 500), syntax)
    refused(path, "65535×65535", "4.0 GiB")


def test_more_pixels_claimed_than_there_are(tmp_path):
    refused(file(tmp_path, picture(1000, 1000) + pixels(b"\0" * 100)), "1000000", "100")


def test_a_pixel_element_longer_than_the_file(tmp_path):
    refused(file(tmp_path, picture() + pixels(b"\0" * 4, length=16)), "cut off")


def test_an_element_that_claims_gigabytes_allocates_nothing(tmp_path):
    path = file(tmp_path, element(0x10, 0x10, b"UN", b"", length=0xF0000000) + picture() + pixels(b"\0" * 16))
    tracemalloc.start()
    refused(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_pixels_padded_at_their_end_are_a_picture(tmp_path):
    image, _ = open_dicom(file(tmp_path, picture() + pixels(bytes(range(16)) + b"\0" * 500))).frame(0)
    assert image[:, :, 0].ravel().tolist() == list(range(16))


def test_more_frames_claimed_than_there_are(tmp_path):
    refused(file(tmp_path, picture(frames="2000000000") + pixels(b"\0" * 16)), "2000000000 frame")


def test_more_compressed_frames_claimed_than_there_are(tmp_path):
    delimiter = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    body = picture(frames="500") + pixels(delimiter, length=0xFFFFFFFF)
    refused(file(tmp_path, body, JPEG2000), "500 frame")


@pytest.mark.parametrize("frames", ["1A", "1.5", "-3", "0x10", "nan"])
def test_a_number_of_frames_that_is_none(tmp_path, frames):
    refused(file(tmp_path, picture(frames=frames) + pixels(b"\0" * 16)), "Number of Frames")


@pytest.mark.parametrize("rows", [0])
def test_a_picture_without_rows(tmp_path, rows):
    refused(file(tmp_path, picture(rows=rows) + pixels(b"\0" * 16)), "Rows")


def test_no_pixels(tmp_path):
    assert refused(file(tmp_path, picture()), "no pixels").fix


def test_no_image_module(tmp_path):
    refused(file(tmp_path, pixels(b"\0" * 16)), "missing")


def test_sequences_nested_without_end(tmp_path):
    deeper = element(0x40, 0xA730, b"SQ", b"", 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    refused(file(tmp_path, deeper * 5000), "nested without end")


def test_a_sequence_that_is_cut_off(tmp_path):
    cut = element(0x40, 0xA730, b"SQ", b"", 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 400)
    refused(file(tmp_path, cut))


@pytest.mark.parametrize("cut", [0, 60, 131, 132, 140, 170, 200, 260])
def test_a_file_cut_off_anywhere(tmp_path, cut):
    path = file(tmp_path, picture() + pixels(b"\0" * 16))
    path.write_bytes(path.read_bytes()[:cut])
    refused(path)


def test_a_file_of_another_kind(tmp_path):
    path = tmp_path / "notes.dcm"
    path.write_text("not an image " * 40)
    refused(path, "not a DICOM file")


def test_a_file_that_is_not_there(tmp_path):
    refused(tmp_path / "absent.dcm", "No such file")


def test_a_video_syntax_is_named(tmp_path):
    refused(file(tmp_path, picture() + pixels(b"", 0xFFFFFFFF), MPEG4), "MPEG-4", MPEG4)


def test_an_unknown_syntax_is_named(tmp_path):
    refused(file(tmp_path, picture() + pixels(b"\0" * 16), "1.2.3.4"), "1.2.3.4")


def test_damaged_compressed_pixels(tmp_path):
    def piece(data):
        return struct.pack("<HHL", 0xFFFE, 0xE000, len(data)) + data

    data = piece(b"") + piece(b"\xff\x4f\xff\x51 not a code stream") + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    refused(file(tmp_path, picture() + pixels(data, 0xFFFFFFFF), JPEG2000), "cannot decode")


def test_a_missing_decoder_is_named_with_its_package():
    from pydicom.pixels.decoders.base import get_decoder

    path = Path(pydicom.examples.get_path("jpeg2k"))
    decoder = get_decoder(pydicom.uid.JPEG2000Lossless)
    plugins = dict(decoder._available)
    try:
        for plugin in plugins:
            decoder.remove_plugin(plugin)
        error = refused(path, "JPEG 2000")
        assert "pip install 'pylibjpeg[openjpeg]'" in error.fix
    finally:
        decoder._available.update(plugins)
    open_dicom(path).frame(0)


def test_missing_pydicom_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingPackage, match="pydicom"):
        open_dicom(tmp_path / "any.dcm")


def test_12_bit_jpeg_without_a_tool_says_which_one_reads_it(monkeypatch):
    monkeypatch.setenv("PATH", "")
    refused(TEST_FILES / "JPEG-lossy.dcm", "12-bit JPEG", "dcmdjpeg")


def test_a_deflated_file_may_not_grow_without_bound(tmp_path, monkeypatch):
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = deflate.compress(picture(100, 100) + pixels(b"\0" * 10_000)) + deflate.flush()
    path = file(tmp_path, body, DEFLATED)
    open_dicom(path).frame(0)
    monkeypatch.setattr(dicom_header, "MAX_INFLATED_BYTES", 5_000)
    refused(path, "inflates")


def test_a_decoder_that_panics_is_an_input_error(tmp_path):
    """The RLE decoder is written in Rust, whose panics are no ordinary exceptions."""
    data = bytearray((TEST_FILES / "MR_small_RLE.dcm").read_bytes())
    assert data[2188] == 250
    data[2188] = 218  # a run longer than its segment
    path = tmp_path / "rle.dcm"
    path.write_bytes(data)
    error = refused(path, "cannot decode")
    assert not isinstance(error.__cause__, Exception)


@pytest.mark.parametrize("name", ["MR_small.dcm", "CT_small.dcm", "rtdose.dcm", "examples_palette.dcm"])
def test_no_changed_byte_leads_to_anything_but_a_picture_or_an_error(tmp_path, name):
    rng = random.Random(name)
    whole, path = (TEST_FILES / name).read_bytes(), tmp_path / name
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 3, 20])):
            data[rng.randrange(128, 4000)] = rng.randrange(256)
        path.write_bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])
        try:
            image = open_dicom(path)
            picture, _ = image.frame(image.frames - 1)
            assert picture.dtype == "uint8" and picture.shape[2] == 3
            assert image.meta(0) and (image.frame_times is None or len(image.frame_times) == image.frames)
        except InputError as e:
            assert e.what and e.why


def test_errors_and_logs_never_quote_the_patient(tmp_path, caplog, recwarn, capfd):
    patient = b"DOE^JOHN"
    bodies = [
        picture(frames="1A", patient=patient),
        picture(1000, 1000, patient=patient) + pixels(b"\0" * 4),
        element(0x10, 0x30, b"DA", patient) + picture(patient=patient) + pixels(b"\0" * 4),
        element(0x10, 0x10, b"US", patient) + element(0x10, 0x1010, b"AS", patient),
        element(0x28, 0x1050, b"DS", patient) + picture(patient=patient) + pixels(b"\0" * 16),
    ]
    for body in bodies:
        try:
            open_dicom(file(tmp_path, body)).frame(0)
        except InputError as e:
            assert "DOE" not in str(e)
    assert "DOE" not in caplog.text + "".join(str(w.message) for w in recwarn) + "".join(capfd.readouterr())
