"""Look-up tables, windows by name and palettes, as files hold them."""

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
from pydicom.sequence import Sequence  # noqa: E402
from pydicom.uid import ExplicitVRBigEndian  # noqa: E402

from edge import config  # noqa: E402
from edge.dicom import open_dicom  # noqa: E402
from edge.dicom.color import palette  # noqa: E402
from edge.dicom.lut import look_up_table  # noqa: E402
from edge.errors import InputError  # noqa: E402
from tests.dicoms import item, write  # noqa: E402

FILES = config.assets() / "dicom" / "files"


@pytest.fixture
def image(tmp_path):
    """Writes a DICOM file of the given stored values and elements, and opens it."""
    return lambda stored, **elements: open_dicom(write(tmp_path / "image.dcm", stored, **elements))


def grey(image, **options):
    return image.frame(0, **options)[0][..., 0].tolist()


def table(entries, first, bits, **more):
    return item(LUTDescriptor=[len(entries) % 65536, first, bits], LUTData=entries.tobytes(), **more)


def test_values_outside_a_table_get_its_first_or_last_entry():
    found = look_up_table([3, 10, 8], [5, 6, 7], little=True, signed=False)
    assert found(np.array([0, 10, 11, 12, 99])).tolist() == [5, 5, 6, 7, 7]


def test_a_count_of_0_means_65536_entries():
    entries = np.arange(65536, dtype=np.uint16)[::-1]
    found = look_up_table([0, 0, 16], entries.tobytes(), little=True, signed=False)
    assert found(np.array([0, 65535])).tolist() == [65535, 0]


def test_a_first_value_above_32767_is_negative_where_values_are():
    found = look_up_table([2, 65536 - 5, 8], [1, 2], little=True, signed=True)
    assert found(np.array([-5, -4])).tolist() == [1, 2]


@pytest.mark.parametrize("little", [True, False])
def test_entries_of_8_bits_may_be_packed_two_a_word(little):
    words = np.array([0x0201, 0x0403], "<u2" if little else ">u2")
    found = look_up_table([4, 0, 8], words.tobytes(), little, signed=False)
    assert found(np.arange(4)).tolist() == [1, 2, 3, 4]


def test_a_table_shorter_than_it_says_is_refused():
    with pytest.raises(InputError, match="9 entries"):
        look_up_table([9, 0, 16], np.arange(4, dtype=np.uint16).tobytes(), little=True, signed=False)


def test_an_8_bit_voi_table_of_more_than_256_entries_does_not_wrap(image):
    voi = table(np.repeat(np.arange(256, dtype=np.uint16), 16), 0, 8)
    this = image(np.uint16([[0, 160, 2048, 4095]]), BitsStored=12, VOILUTSequence=Sequence([voi]))
    assert grey(this) == [[0, 10, 128, 255]]


def test_a_modality_table_of_signed_values_does_not_overflow(image):
    modality = table(np.arange(65536, dtype=np.uint16), -32768, 16, ModalityLUTType="US")
    window = {"WindowCenter": 32768, "WindowWidth": 65536}
    this = image(np.int16([[-32768, 0, 32767]]), ModalityLUTSequence=Sequence([modality]), **window)
    assert grey(this) == [[0, 128, 255]]


def test_a_voi_table_may_map_rescaled_negative_values(image):
    voi = table(np.uint16([0, 100, 255]), 65535, 8)  # -1 in an unsigned element
    this = image(np.uint8([[0, 1, 2]]), RescaleSlope=1, RescaleIntercept=-1, VOILUTSequence=Sequence([voi]))
    assert grey(this) == [[0, 100, 255]]


def test_tables_come_before_windows_and_both_can_be_chosen_by_name(image):
    voi = table(np.uint16([255, 0]), 0, 8, LUTExplanation="NEGATIVE")
    this = image(
        np.uint8([[0, 1]]),
        VOILUTSequence=Sequence([voi]),
        WindowCenter=[1, 128],
        WindowWidth=[2, 256],
        WindowCenterWidthExplanation=["BONE", "ALL"],
    )
    assert this.windows() == ("NEGATIVE", "BONE", "ALL")
    assert grey(this) == grey(this, window="negative") == [[255, 0]]
    assert grey(this, window=1) == grey(this, window="Bone") == [[0, 255]]
    assert grey(this, window=2) == [[0, 1]]


@pytest.mark.parametrize("window", [-1, 2, "LUNG"])
def test_a_window_that_is_not_there_is_refused(image, window):
    this = image(np.uint8([[0, 1]]), WindowCenter=[1, 2], WindowWidth=[2, 3])
    with pytest.raises(InputError, match="the image has 2"):
        this.frame(0, window=window)


def test_a_window_chosen_where_there_is_none_is_refused(image):
    with pytest.raises(InputError, match="none"):
        image(np.uint8([[0, 1]])).frame(0, window=1)


def colors(reds, bits=16, first=0, segmented=False, **more):
    elements = dict(more)
    for name, entries in (("Red", reds), ("Green", 0 * reds), ("Blue", 0 * reds)):
        key = f"Segmented{name}" if segmented else name
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [len(reds), first, bits]
        elements[f"{key}PaletteColorLookupTableData"] = entries.tobytes()
    return elements


def test_a_palette_of_8_bits_keeps_values_above_255_apart(image):
    reds = np.arange(512).astype(np.uint8)
    elements = colors(reds, 8, PhotometricInterpretation="PALETTE COLOR")
    picture, _ = image(np.uint16([[1, 257, 300, 9999]]), **elements).frame(0)
    assert picture[0, :, 2].tolist() == [1, 1, 44, 255]


def test_a_palette_of_16_bits_that_holds_8_bit_values_is_not_black(image):
    elements = colors(np.uint16([0, 200]), 16, PhotometricInterpretation="PALETTE COLOR")
    assert image(np.uint8([[0, 1]]), **elements).frame(0)[0][0, :, 2].tolist() == [0, 200]


def test_a_segmented_palette_is_expanded(image):
    """Two entries one by one, then a line of three up to 0x5000 (PS3.3 C.7.9.2)."""
    segments = np.uint16([0, 2, 0x1000, 0x2000, 1, 3, 0x5000])
    elements = colors(segments, 16, 0, segmented=True, PhotometricInterpretation="PALETTE COLOR")
    for name in ("Red", "Green", "Blue"):
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [5, 0, 16]
        elements[f"Segmented{name}PaletteColorLookupTableData"] = segments.tobytes()
    picture, transforms = image(np.uint8([[0, 1, 2, 3, 4]]), **elements).frame(0)
    assert picture[0, :, 2].tolist() == [0x10, 0x20, 0x30, 0x40, 0x50]
    assert "segmented" in transforms[0]


def test_a_supplemental_palette_colours_the_values_from_its_first_one_on(image):
    window = {"WindowCenter": 50.5, "WindowWidth": 101}
    reds = np.uint16([0xC800, 0xFF00])
    this = image(
        np.uint16([[0, 50, 100, 1000, 1001]]), **window, **colors(reds, 16, 1000, PixelPresentation="COLOR")
    )
    picture, transforms = this.frame(0)
    assert picture[0].tolist() == [[0] * 3, [128] * 3, [255] * 3, [0, 0, 0xC8], [0, 0, 0xFF]]
    assert any(t.startswith("supplemental: stored values from 1000") for t in transforms)


def test_a_grey_frame_of_a_mixed_file_stays_grey(image):
    kinds = [
        item(CTImageFrameTypeSequence=Sequence([item(PixelPresentation=p)])) for p in ("MONOCHROME", "COLOR")
    ]
    frames = np.uint16([[[0, 1000]], [[0, 1000]]])
    elements = colors(np.uint16([0xC800, 0xFF00]), 16, 1000, PixelPresentation="MIXED")
    this = image(frames, PerFrameFunctionalGroupsSequence=Sequence(kinds), **elements)
    assert this.frame(0)[0][0].tolist() == [[0] * 3, [255] * 3]
    assert this.frame(1)[0][0].tolist() == [[0] * 3, [0, 0, 0xC8]]


@pytest.mark.skipif(not FILES.is_dir(), reason=f"no measuring data: {FILES} is absent")
def test_a_real_ct_with_a_supplemental_palette_is_in_colour():
    this = open_dicom(FILES / "eCT_Supplemental.dcm")
    picture, _ = this.frame(0)
    coloured = this.stored(0) >= 1024
    assert np.ptp(picture[~coloured], axis=1).max() == 0
    assert np.ptp(picture[coloured], axis=1).max() > 100


def test_palettes_of_big_endian_files_are_read_in_their_order():
    ds = item(**colors(np.array([0x1000, 0x2000], ">u2")))
    ds.file_meta = item(TransferSyntaxUID=ExplicitVRBigEndian)
    found, first, _ = palette(np.arange(2), ds, little=False)
    assert (found[:, 2].tolist(), first) == ([0x10, 0x20], 0)
