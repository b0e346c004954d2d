"""Real files of many makers against dcmtk, whose pictures hospitals have trusted for decades."""

import re
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")

from edge import config  # noqa: E402
from edge.dicom import external, open_dicom  # noqa: E402
from edge.preprocess import Preprocess  # noqa: E402
from tests.dicoms import write  # noqa: E402

FILES = config.assets() / "dicom" / "files"
NAMES = [path.name for path in sorted(FILES.glob("*.dcm"))] if FILES.is_dir() else []
TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
pytestmark = pytest.mark.skipif(not NAMES, reason=f"no measuring data: {FILES} is absent")

NO_JPEG_2000 = "dcmtk has no decoder of JPEG 2000 and HTJ2K"
NOT_BY_DCMTK = {
    **dict.fromkeys([name for name in NAMES if "J2K" in name or "j2k" in name], NO_JPEG_2000),
    "emri_small_jpeg_2k_lossless.dcm": NO_JPEG_2000,
    "emri_small_jpeg_2k_lossless_too_short.dcm": NO_JPEG_2000,
    "explicit_VR-UN.dcm": NO_JPEG_2000,
    "JLSL_08_07_0_1F.dcm": "dcmtk decodes no JPEG-LS of 7 bits",
    "eCT_Supplemental.dcm": "dcmtk shows no supplemental palette",
    "gdcm-US-ALOKA-16.dcm": "dcmtk refuses its palette of 8-bit entries that are said to have 16",
    "gdcm-US-ALOKA-16_big.dcm": "the same",
    "parametric_map_float.dcm": "dcmtk reads no floating-point pixels",
    "parametric_map_double_float.dcm": "dcmtk reads no floating-point pixels",
    "SC_rgb_32bit.dcm": "dcmtk reads no 32-bit colour",
    "SC_rgb_32bit_2frame.dcm": "dcmtk reads no 32-bit colour",
    "SC_rgb_expb_32bit.dcm": "dcmtk reads no 32-bit colour",
    "SC_rgb_expb_32bit_2frame.dcm": "dcmtk reads no 32-bit colour",
    "liver_deflate.dcm": "refused by both",
    "liver_nonbyte_aligned_deflate.dcm": "refused by both",
    "liver_rle.dcm": "refused by both",
    "liver_nonbyte_aligned_rle.dcm": "refused by both",
}
"""Files that are not compared, and why."""

MORE = [
    "CT_small.dcm",
    "ExplVR_BigEnd.dcm",
    "MR_small_RLE.dcm",
    "SC_jpeg_no_color_transform.dcm",
    "SC_rgb_jpeg_app14_dcmd.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "SC_rgb_small_odd_jpeg.dcm",
    "examples_palette.dcm",
    "image_dfl.dcm",
    "rtdose.dcm",
]
"""Files that come with pydicom, of kinds the others lack: JPEG baseline, a deflated data set, 32 bits."""

YBR = {"SC_ybr_full_uncompressed.dcm"}
"""Within two levels: dcmtk centres the colour differences at 127.5, PS3.3 C.7.6.3.1.2 at 128."""


def by_dcmtk(path, options, tmp_path):
    """H × W × 3 BGR, without overlays."""
    tool = "dcml2pnm" if path.name.startswith(("JLS", "emri_small_jpeg_ls")) else "dcmj2pnm"
    if shutil.which(tool) is None:
        pytest.skip(f"dcmtk's {tool} is not installed")
    out = tmp_path / "out.ppm"
    subprocess.run([tool, "-O", "+op", *options, str(path), str(out)], check=True, capture_output=True)
    return cv2.imread(str(out), cv2.IMREAD_COLOR)


def voi(dataset, transforms) -> list[str]:
    """dcmtk's options for what the reader did."""
    for step in transforms:
        if span := re.fullmatch(r"voi: none, .* (\S+)\.\.(\S+)", step):
            low, high = map(float, span.groups())
            return ["+Ww", str((low + high + 1) / 2), str(high - low + 1)]
        if step.startswith("voi:"):
            return ["+Wl" if "VOILUTSequence" in dataset else "+Wi", "1"]
    return []  # colour


@pytest.mark.parametrize("name", [name for name in NAMES + MORE if name not in NOT_BY_DCMTK])
def test_the_picture_is_that_of_dcmtk(name, tmp_path):
    image = open_dicom((TEST_FILES if name in MORE else FILES) / name)
    ours, transforms = image.frame(0)
    theirs = by_dcmtk(image.path, voi(image.dataset, transforms), tmp_path)
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs).max() <= (2 if name in YBR else 1)


def test_a_jpeg_2000_codestream_without_sign_keeps_the_sign_of_the_header():
    stored = open_dicom(TEST_FILES / "J2K_pixelrep_mismatch.dcm").stored(0)
    assert (stored.dtype, stored[0, 0], stored.min()) == (np.int16, -2000, -2000)


def test_ybr_is_converted_by_the_formula_of_the_standard():
    image = open_dicom(FILES / "SC_ybr_full_uncompressed.dcm")
    stored = np.frombuffer(pydicom.dcmread(image.path).PixelData, np.uint8).astype(float)
    y, b, r = stored[0::3], stored[1::3], stored[2::3]
    red, blue = y + 1.402 * (r - 128), y + 1.772 * (b - 128)
    green = y - 0.344136 * (b - 128) - 0.714136 * (r - 128)
    exact = np.clip(np.stack([blue, green, red], axis=1), 0, 255)
    assert np.abs(image.frame(0)[0].reshape(-1, 3) - exact).max() <= 0.51


@pytest.mark.parametrize("tool", ["dcmdjpeg", "gdcmconv"])
def test_12_bit_jpeg_is_decoded_by_a_tool_of_the_system(tool, monkeypatch, tmp_path):
    """The file's values as dcmtk's own converter writes them."""
    for needed in (tool, "dcmdjpeg"):
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not installed")
    monkeypatch.setattr(external, "TOOLS", {tool: external.TOOLS[tool]})
    path, plain = TEST_FILES / "JPEG-lossy.dcm", tmp_path / "plain.dcm"
    subprocess.run(["dcmdjpeg", str(path), str(plain)], check=True)
    image = open_dicom(path)
    assert np.array_equal(image.stored(0), open_dicom(plain).stored(0))
    assert image.stored(0).max() > 255


def test_a_radiograph_and_its_inverse_give_the_network_the_same_input(tmp_path):
    """CR chest, MONOCHROME1; as MONOCHROME2 both the values and the window are turned round."""
    chest = open_dicom(FILES / "RG1_J2KI.dcm")
    ds, stored = chest.dataset, chest.stored(0)
    top = 2**ds.BitsStored - 1
    values = (ds.WindowCenter, ds.WindowWidth)
    center, width = (float(v[0]) if hasattr(v, "__iter__") else float(v) for v in values)
    inverse = write(
        tmp_path / "inverse.dcm",
        (top - stored).astype(np.uint16),
        BitsStored=ds.BitsStored,
        WindowCenter=top + 1 - center,
        WindowWidth=width,
    )
    network = Preprocess(config.load_model(config.MODELS / "squeezenet1.1.toml").input)
    one, _ = network.batch([chest.frame(0)[0]])
    other, _ = network.batch([open_dicom(inverse).frame(0)[0]])
    assert one.std() > 0.1
    np.testing.assert_allclose(one, other, atol=1.01 / 255 / 0.224)
