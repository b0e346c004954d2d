"""Whatever a header claims, the reader gives a picture or an error, soon and without much memory."""

import os
import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from edge.dicom import open_dicom  # noqa: E402
from edge.errors import InputError  # noqa: E402
from tests.dicoms import write  # noqa: E402

EXAMPLES = int(os.environ.get("EDGE_FUZZ_EXAMPLES", "150"))
TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
SECONDS, BYTES = 5, 64 << 20

fuzz = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

SMALL = st.sampled_from([0, 1, 2, 3, 7, 8, 9, 12, 15, 16, 17, 31, 32, 64, 65535])
NUMBER = st.one_of(
    st.sampled_from(["0", "-1", "1e9", "1E-9", "1e308", "9e999", "nan", "1A", ""]),
    st.text("0123456789.-e", max_size=8),
)
CLAIMS = {
    **{
        (0x28, number): ("US", SMALL)
        for number in (0x02, 0x06, 0x10, 0x11, 0x100, 0x101, 0x102, 0x103, 0x120, 0x121)
    },
    (0x28, 0x08): ("IS", NUMBER),
    (0x28, 0x04): (
        "CS",
        st.sampled_from(
            ["MONOCHROME1", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", ""]
        ),
    ),
    **{(0x28, number): ("DS", NUMBER) for number in (0x1050, 0x1051, 0x1052, 0x1053)},
    (0x28, 0x1056): ("CS", st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID", "?"])),
    (0x2050, 0x20): ("CS", st.sampled_from(["INVERSE", "IDENTITY", "?"])),
    (0x18, 0x1063): ("DS", NUMBER),
}
"""Tag → value representation and the values tried."""


def element(tag: tuple[int, int], vr: str, value: object) -> bytes:
    data = struct.pack("<H", value) if vr == "US" else str(value).encode()
    data += b" " * (len(data) % 2)
    return struct.pack("<HH", *tag) + vr.encode() + struct.pack("<H", len(data)) + data


def judge(path: Path) -> None:
    """
    Raises:
        AssertionError: it was neither a picture nor a proper error, or took too much.
    """
    tracemalloc.start()
    start = time.monotonic()
    try:
        image = open_dicom(path)
        picture, transforms = image.frame(image.frames - 1)
        assert picture.dtype == np.uint8 and picture.ndim == 3 and all(transforms)
        image.frame(0), image.meta(0), image.frame_times, image.windows()
    except InputError as e:
        assert e.what and e.why
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.monotonic() - start < SECONDS
    assert peak < BYTES


@fuzz
@given(st.data())
def test_any_claim_about_the_pixels_is_a_picture_or_an_error(tmp_path, data):
    claims = {
        tag: data.draw(CLAIMS[tag][1])
        for tag in data.draw(st.sets(st.sampled_from(sorted(CLAIMS)), max_size=6))
    }
    base = {(0x28, 0x02): 1, (0x28, 0x04): "MONOCHROME2", (0x28, 0x10): 8, (0x28, 0x11): 8, (0x28, 0x100): 16}
    base |= {(0x28, 0x101): 12, (0x28, 0x102): 11, (0x28, 0x103): 0}
    path = write(tmp_path / "claims.dcm", np.arange(64, dtype=np.uint16).reshape(8, 8))
    whole = path.read_bytes()
    start = whole.index(struct.pack("<HH", 0x10, 0x10))  # the patient's name: the first group after group 8
    body = b"".join(element(tag, CLAIMS[tag][0], value) for tag, value in sorted((base | claims).items()))
    path.write_bytes(whole[:start] + body + whole[whole.index(b"\xe0\x7f\x10\0OW") :])
    judge(path)


@fuzz
@given(
    name=st.sampled_from(["MR_small.dcm", "JPEG2000.dcm", "SC_rgb_jpeg_dcmtk.dcm", "MR_small_RLE.dcm"]),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.one_of(st.just(1.0), st.floats(0, 1.5)),
)
def test_any_changed_byte_is_a_picture_or_an_error(tmp_path, name, edits, cut):
    whole = bytearray((TEST_FILES / name).read_bytes())
    for place, value in edits:
        whole[128 + int(place * (len(whole) - 129))] = value
    path = tmp_path / name
    path.write_bytes(bytes(whole[: int(cut * len(whole))]) + b"\0" * max(0, int((cut - 1) * len(whole))))
    judge(path)
