"""Stored values → display pictures, each transform by its section of the standard."""

from pathlib import Path

import numpy as np
import pytest

from edge import config
from edge.dicom import frame_times, open_dicom
from edge.dicom.voi import apply_window
from edge.errors import InputError

pydicom = pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
from pydicom.sequence import Sequence  # noqa: E402

from tests.dicoms import item, write  # noqa: E402

FILES = config.assets() / "dicom" / "files"
needs_files = pytest.mark.skipif(not FILES.is_dir(), reason=f"no measuring data: {FILES} is absent")


@pytest.fixture
def image(tmp_path):
    """Writes a DICOM file of the given stored values and elements, and opens it."""
    return lambda stored, **elements: open_dicom(write(tmp_path / "image.dcm", stored, **elements))


def grey(image, frame=0, **options):
    picture, transforms = image.frame(frame, **options)
    assert picture.ndim == 3 and picture.shape[2] == 3 and picture.dtype == np.uint8
    assert np.array_equal(picture[..., 0], picture[..., 1]) and np.array_equal(
        picture[..., 0], picture[..., 2]
    )
    return picture[..., 0], transforms


RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def test_8_bit_pictures_pass_unchanged(image):
    picture, transforms = grey(image(RAMP))
    assert np.array_equal(picture, RAMP)
    assert transforms == ("voi: none, stored range 0..255",)


def test_deeper_pictures_without_a_window_span_the_frame(image):
    picture, transforms = grey(image(np.uint16([[100, 200], [300, 500]])))
    assert picture.tolist() == [[0, 64], [128, 255]]
    assert transforms == ("voi: none, frame range 100..500",)


def test_a_flat_frame_is_black_not_an_error(image):
    assert not grey(image(np.full((4, 4), 700, np.uint16)))[0].any()


def test_rescale_comes_before_the_window(image):
    stored = np.int16([[-1000, 0], [1064, 2000]])
    this = image(stored, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=40.5, WindowWidth=401)
    picture, transforms = grey(this)
    assert picture.tolist() == [[0, 0], [round(255 * (40 - 40) / 400 + 127.5), 255]]
    assert transforms == (
        "modality: rescale slope 1 intercept -1024 (PS3.3 C.11.1)",
        "voi: LINEAR window center 40.5 width 401 (PS3.3 C.11.2.1)",
    )


def test_the_three_window_functions_are_those_of_the_standard():
    x = np.array([0.0, 25.0, 50.0, 100.0])
    linear = (x - 49.5) / 99 + 0.5
    np.testing.assert_allclose(apply_window(x, 50, 100, "LINEAR"), linear)
    np.testing.assert_allclose(apply_window(x, 50, 100, "LINEAR_EXACT"), (x - 50) / 100 + 0.5)
    sigmoid = 1 / (1 + np.exp(-4 * (x - 50) / 100))
    np.testing.assert_allclose(apply_window(x, 50, 100, "SIGMOID"), sigmoid)


def test_a_linear_window_of_width_1_is_a_threshold():
    assert apply_window(np.array([9.0, 10.0]), 10, 1, "LINEAR").tolist() == [0, 1]


def test_a_width_below_1_is_taken_as_exact_and_says_so(image):
    this = image(
        np.uint16([[0, 1000]]), RescaleSlope=0.001, RescaleIntercept=0, WindowCenter=0.5, WindowWidth=0.5
    )
    picture, transforms = grey(this)
    assert picture.tolist() == [[0, 255]]
    assert transforms[-1].endswith("taken as LINEAR_EXACT")


@pytest.mark.parametrize("width", [0, -5])
def test_a_window_without_width_is_no_window(image, width):
    _, transforms = grey(image(np.uint16([[1, 9]]), WindowCenter=5, WindowWidth=width))
    assert transforms == ("voi: none, frame range 1..9",)


def test_of_several_windows_the_first_is_used_unless_another_is_chosen(image):
    this = image(np.uint16([[0, 100, 1000]]), WindowCenter=[50.5, 500], WindowWidth=[101, 1001])
    assert grey(this)[0].tolist() == [[0, 255, 255]]
    assert grey(this, window=1)[0].tolist() == [[0, 26, 255]]
    with pytest.raises(InputError, match="the image has 2"):
        this.frame(0, window=2)


def test_an_unknown_window_function_is_refused(image):
    this = image(np.uint16([[0, 1]]), WindowCenter=1, WindowWidth=2, VOILUTFunction="CUBIC")
    with pytest.raises(InputError, match="VOI LUT Function"):
        this.frame(0)


def test_look_up_tables_are_applied_in_both_places(image):
    modality = item(LUTDescriptor=[4, 0, 16], LUTData=np.uint16([3, 2, 1, 0]).tobytes(), ModalityLUTType="US")
    voi = item(LUTDescriptor=[4, 0, 8], LUTData=np.uint16([0, 10, 20, 255]).tobytes())
    this = image(
        np.uint8([[0, 1, 2, 3]]), ModalityLUTSequence=Sequence([modality]), VOILUTSequence=Sequence([voi])
    )
    picture, transforms = grey(this)
    assert picture.tolist() == [[255, 20, 10, 0]]
    assert [t.split(":")[0] for t in transforms] == ["modality", "voi"]


INVERTED = [
    {"PhotometricInterpretation": "MONOCHROME1"},
    {"PresentationLUTShape": "INVERSE"},
    {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
]


@pytest.mark.parametrize("elements", INVERTED, ids=["MONOCHROME1", "INVERSE", "both"])
def test_inversion_happens_once_and_after_the_window(image, elements):
    window = {"WindowCenter": 100, "WindowWidth": 51}
    plain, _ = grey(image(RAMP, **window))
    inverted, transforms = grey(image(RAMP, **window, **elements))
    np.testing.assert_allclose(inverted.astype(int), 255 - plain.astype(int), atol=1)
    assert sum(t.startswith("presentation: inverted") for t in transforms) == 1


def test_padding_is_black_and_does_not_stretch_the_range(image):
    this = image(np.int16([[-2000, 100], [200, 300]]), PixelPaddingValue=-2000)
    picture, transforms = grey(this)
    assert picture.tolist() == [[0, 0], [128, 255]]
    assert transforms[0].startswith("padding: stored -2000")


def test_padding_is_black_in_an_inverted_picture_too(image):
    elements = {"PixelPaddingValue": 0, "PhotometricInterpretation": "MONOCHROME1"}
    assert grey(image(np.uint16([[0, 100, 300]]), **elements))[0].tolist() == [[0, 255, 0]]


def test_a_padding_range_covers_all_between_its_ends(image):
    this = image(np.uint16([[0, 5, 10, 20]]), PixelPaddingValue=0, PixelPaddingRangeLimit=5)
    assert grey(this)[0].tolist() == [[0, 0, 0, 255]]


def test_bits_above_those_stored_are_ignored(image):
    """Old files keep overlays there."""
    this = image(np.uint16([[0x1000, 0xF800, 0x0FFF]]), BitsStored=12, WindowCenter=2048, WindowWidth=4096)
    assert grey(this)[0].tolist() == [[0, 128, 255]]


def test_signed_values_keep_their_sign(image):
    this = image(np.int16([[-100, 0, 100]]), WindowCenter=0.5, WindowWidth=201)
    assert grey(this)[0].tolist() == [[0, 128, 255]]


def test_enhanced_images_keep_rescale_and_window_per_frame(image):
    def group(intercept, center):
        values = item(RescaleSlope=1, RescaleIntercept=intercept, RescaleType="US")
        window = item(WindowCenter=center, WindowWidth=101)
        return item(
            PixelValueTransformationSequence=Sequence([values]), FrameVOILUTSequence=Sequence([window])
        )

    frames = np.uint16([[[0, 50, 100]], [[0, 50, 100]]])
    this = image(frames, PerFrameFunctionalGroupsSequence=Sequence([group(0, 50.5), group(50, 50.5)]))
    assert grey(this, 0)[0].tolist() == [[0, 128, 255]]
    assert grey(this, 1)[0].tolist() == [[128, 255, 255]]
    assert "intercept 50" in grey(this, 1)[1][0]
    assert grey(this, 0)[0].tolist() == [[0, 128, 255]]


def test_a_shared_functional_group_serves_all_frames(image):
    window = item(WindowCenter=50.5, WindowWidth=101)
    shared = item(FrameVOILUTSequence=Sequence([window]))
    frames = np.uint16([[[0, 50, 100]], [[100, 50, 0]]])
    this = image(frames, SharedFunctionalGroupsSequence=Sequence([shared]))
    assert grey(this, 1)[0].tolist() == [[255, 128, 0]]


def test_colour_comes_out_as_bgr(image):
    stored = np.uint8([[[1, 2, 3], [4, 5, 6]]])  # one row of two RGB pixels
    this = image(
        stored.reshape(1, 6),
        Rows=1,
        Columns=2,
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
    )
    picture, transforms = this.frame(0)
    assert picture.tolist() == [[[3, 2, 1], [6, 5, 4]]]
    assert transforms == ()


def test_planar_colour_is_the_same_picture(image):
    this = image(
        np.uint8([[1, 4, 2, 5, 3, 6]]),
        Rows=1,
        Columns=2,
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=1,
    )
    assert this.frame(0)[0].tolist() == [[[3, 2, 1], [6, 5, 4]]]


def palette(image, stored, entries: np.ndarray, bits: int, first: int = 0):
    """A palette of reds `entries`, greens 10 and blues 20."""
    elements = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, values in (("Red", entries), ("Green", 0 * entries + 10), ("Blue", 0 * entries + 20)):
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [len(entries), first, bits]
        elements[f"{name}PaletteColorLookupTableData"] = values.astype(entries.dtype).tobytes()
    return image(stored, **elements).frame(0)


def test_a_palette_of_16_bits_is_cut_to_8(image):
    picture, transforms = palette(
        image, np.uint8([[0, 1, 2, 3]]), np.uint16([0x0100, 0x7F00, 0x80FF, 0xFFFF]), 16
    )
    assert picture[0, :, 2].tolist() == [0x01, 0x7F, 0x80, 0xFF]
    assert [t.split(":")[0] for t in transforms] == ["palette", "depth"]


def test_a_palette_of_8_bits_stays_as_it_is(image):
    picture, _ = palette(image, np.uint16([[0, 1, 2, 9]]), np.uint8([5, 6, 7, 8]), 8)
    assert picture[0].tolist() == [[20, 10, 5], [20, 10, 6], [20, 10, 7], [20, 10, 8]]


def test_a_palette_that_says_16_bits_of_8_bit_entries_is_not_shifted_away(image):
    picture, _ = palette(image, np.uint8([[0, 3]]), np.uint8([5, 6, 7, 8]), 16)
    assert picture[0, :, 2].tolist() == [5, 8]


def test_a_palette_may_begin_above_0(image):
    picture, _ = palette(image, np.uint8([[0, 100, 101, 255]]), np.uint8([5, 6]), 8, first=100)
    assert picture[0, :, 2].tolist() == [5, 5, 6, 6]


@pytest.mark.parametrize("photometric", ["HSV", "CMYK", "PALETTE COLOUR"])
def test_an_unknown_photometric_interpretation_is_refused(image, photometric):
    with pytest.raises(InputError, match=photometric):
        image(RAMP, PhotometricInterpretation=photometric).frame(0)


@pytest.mark.parametrize("photometric", ["HSV", "YBR_PARTIAL_420", "MONOCHROME2"])
def test_three_samples_that_do_not_come_out_as_rgb_are_refused(image, photometric):
    elements = {"Columns": 1, "SamplesPerPixel": 3, "PlanarConfiguration": 0}
    with pytest.raises(InputError):
        image(np.uint8([[1, 2, 3]]), PhotometricInterpretation=photometric, **elements).frame(0)


def test_frames_can_be_read_in_any_order(image):
    frames = np.arange(5 * 16, dtype=np.uint8).reshape(5, 4, 4)
    this = image(frames)
    for index in (3, 0, 1, 2, 1, 4, 0):
        assert np.array_equal(grey(this, index)[0], frames[index])
    with pytest.raises(InputError, match="no frame 5"):
        this.frame(5)


def test_the_metadata_names_the_object_and_not_the_patient(image):
    meta = image(RAMP, Modality="US").meta(0)
    assert meta["frame_number"] == 1 and meta["modality"] == "US"
    assert meta["sop_instance_uid"].startswith("1.2.826")
    assert "DOE" not in str(meta) and "12345" not in str(meta)


@pytest.mark.parametrize(
    ("elements", "seconds"),
    [
        ({"FrameTime": 40}, (0.0, 0.04, 0.08)),
        ({"FrameTimeVector": [0, 10, 30], "FrameTime": 99}, (0.0, 0.01, 0.04)),
        ({"RecommendedDisplayFrameRate": 10}, (0.0, 0.1, 0.2)),
        ({"CineRate": 25}, (0.0, 0.04, 0.08)),
        ({"FrameTimeVector": [0, 10], "CineRate": 25}, (0.0, 0.04, 0.08)),
        ({"FrameTime": 0, "CineRate": 25}, (0.0, 0.04, 0.08)),
        ({"FrameTime": -5}, None),
        ({}, None),
    ],
)
def test_cine_timing(elements, seconds):
    times = frame_times(item(NumberOfFrames=3, **elements))
    assert times is None if seconds is None else times == pytest.approx(seconds)


def test_a_single_frame_has_no_timing():
    assert frame_times(item(FrameTime=40)) is None


def test_a_real_cine_decodes_frame_by_frame():
    this = open_dicom(Path(pydicom.examples.get_path("ybr_color")))
    in_order = [this.frame(i)[0] for i in range(4)]
    assert (this.frames, in_order[0].shape) == (30, (240, 320, 3))
    assert this.frame_times[:3] == pytest.approx((0.0, 0.033333, 0.066666))
    assert np.array_equal(open_dicom(this.path).frame(3)[0], in_order[3])
    assert this.frame(0)[1] == ("color: YBR_FULL_422 → RGB (PS3.3 C.7.6.3.1.2)",)


SAME_PICTURE = [
    ("MR2_UNCR", "MR2_J2KR"),
    ("MR2_UNCI", "MR2_J2KI"),
    ("693_UNCR", "693_J2KR"),
    ("US1_UNCR", "US1_J2KR"),
    ("US1_UNCI", "US1_J2KI"),
    ("OBXXXX1A", "OBXXXX1A_rle", "OBXXXX1A_expb"),
    ("OBXXXX1A_2frame", "OBXXXX1A_rle_2frame", "OBXXXX1A_expb_2frame"),
    ("gdcm-US-ALOKA-16", "gdcm-US-ALOKA-16_big"),
    ("liver", "liver_expb", "liver_j2k"),
    ("liver_nonbyte_aligned", "liver_nonbyte_aligned_j2k"),
    ("emri_small", "emri_small_RLE", "emri_small_big_endian", "emri_small_jpeg_2k_lossless",
     "emri_small_jpeg_ls_lossless"),
    ("SC_rgb", "SC_rgb_expb", "SC_rgb_16bit", "SC_rgb_expb_16bit", "SC_rgb_32bit"),
    ("color-pl", "color-px"),
    ("JLSL_RGB_ILV0", "JLSL_RGB_ILV1", "JLSL_RGB_ILV2"),
    ("parametric_map_float", "parametric_map_double_float"),
]  # fmt: skip


@needs_files
@pytest.mark.parametrize("names", SAME_PICTURE, ids=lambda names: names[0])
def test_one_picture_in_several_encodings_comes_out_the_same(names):
    first, *others = (open_dicom(FILES / f"{name}.dcm") for name in names)
    last = first.frames - 1
    for other in others:
        assert np.array_equal(other.frame(0)[0], first.frame(0)[0])
        assert np.array_equal(other.frame(last)[0], first.frame(last)[0])


REFUSED = {
    "liver_deflate.dcm": "1.2.840.10008.1.2.8.1",
    "liver_nonbyte_aligned_deflate.dcm": "1.2.840.10008.1.2.8.1",
    "liver_rle.dcm": "1 bits allocated",
    "liver_nonbyte_aligned_rle.dcm": "1 bits allocated",
}


@needs_files
def test_every_file_is_shown_or_refused_for_a_stated_reason():
    refused = {}
    for path in sorted(FILES.glob("*.dcm")):
        try:
            picture, _ = open_dicom(path).frame(0)
            assert picture.std() > 0, path
        except InputError as e:
            refused[path.name] = str(e)
    assert refused.keys() == REFUSED.keys()
    for name, reason in REFUSED.items():
        assert reason in refused[name]


@needs_files
def test_a_chest_radiograph_shows_bone_brighter_than_lung():
    """MONOCHROME1: stored the other way round."""
    picture = open_dicom(FILES / "RG1_J2KI.dcm").frame(0)[0]
    height, width = picture.shape[:2]
    spine = picture[height // 3 : height // 2, int(width * 0.45) : int(width * 0.5)].mean()
    lung = picture[height // 3 : height // 2, int(width * 0.2) : int(width * 0.35)].mean()
    assert spine > lung + 10
