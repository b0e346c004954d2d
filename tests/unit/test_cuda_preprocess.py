"""The GPU's preprocessing kernel, run on the processor, against the processor's own preprocessing."""

from __future__ import annotations

import platform
from typing import Any

import cv2
import kernel_on_host
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.config import InputConfig
from edge.cuda import rule
from edge.cuda.picture import MAX_BYTES, SIZES, PicturePreprocess, SourcePicture, check_picture, row_bytes
from edge.errors import InputError, RuntimeFault, UsageError
from edge.precision import numerics
from edge.preprocess import Preprocess, plan_fit, value_table

pytestmark = pytest.mark.skipif(bool(kernel_on_host.ABSENT), reason=kernel_on_host.ABSENT or "g++ is here")

NUMPY = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int8": np.dtype(np.int8),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
}

OPENCV_LEVELS = 0 if platform.machine() in ("x86_64", "AMD64") else 2
"""How many grey levels OpenCV may be off its own rule: its kernels for ARM are reported to be up to 2 off."""

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
sides = st.integers(1, 70)
configs = st.builds(
    InputConfig,
    size=st.tuples(sides, sides),
    channels=st.sampled_from([1, 3]),
    fit=st.sampled_from(["letterbox", "stretch", "crop"]),
    anchor=st.sampled_from(["top-left", "center"]),
    color=st.sampled_from(["rgb", "bgr"]),
    pad=st.integers(0, 255),
    shorter_side=st.none() | st.integers(1, 90),
    mean=st.just((0.45,)),
    std=st.just((0.22,)),
)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def with_pitch(rows: np.ndarray, extra: int) -> np.ndarray:
    """The same rows, each followed by `extra` bytes that nobody should read."""
    flat = rows.reshape(rows.shape[0], -1).view(np.uint8)
    return np.hstack([flat, np.full((len(flat), extra), 99, np.uint8)])


def on_kernel(config: InputConfig, picture: SourcePicture, dtype: str = "float32", scale: float = 1.0) -> Any:
    """What the kernel makes of a picture, checked to leave alone what lies beside it."""
    device: Any = kernel_on_host.HostDevice()
    shape = (config.channels, *config.size)
    out = np.full((3, *shape), 77, f"u{NUMPY[dtype].itemsize}")
    PicturePreprocess(device, device.kernel, config, dtype, scale).launch(device, picture, out[1].ctypes.data)
    assert (out[0] == 77).all() and (out[2] == 77).all()
    return out[1].view(NUMPY[dtype])


def of_image(config: InputConfig, image: np.ndarray, extra: int = 0, **how: Any) -> Any:
    rows = with_pitch(image, extra)
    kind = "bgr8" if image.ndim == 3 else "gray8"
    height, width = image.shape[:2]
    return on_kernel(config, SourcePicture(rows.ctypes.data, kind, width, height, rows.shape[1]), **how)


def on_processor(config: InputConfig, image: np.ndarray) -> np.ndarray:
    """What the rule makes of a picture, checked against what OpenCV does."""
    fit = plan_fit(config, *image.shape[:2])
    values = rule.words(value_table(config), "float32")
    wanted = rule.preprocess(config, fit, image, values).view(np.float32)
    theirs = Preprocess(config).batch([image])[0][0]
    if OPENCV_LEVELS == 0:
        assert np.array_equal(theirs, wanted)
    else:
        level = np.abs(np.diff(value_table(config)[:, :2], axis=1)).max()
        assert np.abs(theirs - wanted).max() <= OPENCV_LEVELS * level * 1.001
    return wanted


# The rule


@settings(deadline=None, max_examples=250)
@given(configs, sides, sides, st.sampled_from([(), (3,)]), st.integers(0, 5), st.integers(0, 99))
def test_a_picture_becomes_what_opencv_makes_of_it_bit_for_bit(config, height, width, depth, extra, seed):
    image = noise(height, width, *depth, seed=seed)
    assert np.array_equal(of_image(config, image, extra), on_processor(config, image))


@pytest.mark.parametrize(
    ("picture", "network"),
    [
        ((1080, 1920), (640, 640)),  # a camera's
        ((96, 128), (48, 64)),  # exactly 1/2, where OpenCV takes another path
        ((97, 127), (48, 64)),  # nearly
        ((48, 64), (48, 64)),  # as it is
        ((7, 5), (300, 400)),  # much larger
        ((2000, 11), (64, 64)),
        ((1, 1), (33, 17)),
        ((1, 500), (20, 30)),
        ((500, 1), (20, 30)),
        ((31, 29), (1, 1)),
    ],
)
@pytest.mark.parametrize("fit", ["letterbox", "stretch", "crop"])
def test_sizes_that_resizing_treats_in_their_own_way(picture, network, fit):
    config = InputConfig(size=network, fit=fit, pad=114, **IMAGENET)
    image = noise(*picture, 3)
    if fit == "crop" and max(picture) / min(picture) > 100:
        image = image[:40, :40]
    assert np.array_equal(of_image(config, image), on_processor(config, image))


@pytest.mark.parametrize(("height", "width", "shorter"), [(97, 143, 49), (4, 7, 2), (8, 11, 4), (6, 6, 3)])
def test_crop_by_about_one_half_of_odd_pictures(height, width, shorter):
    """Where a factor of exactly 1/2 leaves half a column over, it lies outside what is cropped."""
    image = noise(height, width, 3)
    config = InputConfig(size=(shorter, shorter), fit="crop", shorter_side=shorter)
    assert np.array_equal(of_image(config, image), on_processor(config, image))


def test_a_crop_of_a_narrow_picture_costs_no_more_than_what_is_seen_of_it():
    config = InputConfig(size=(64, 64), fit="crop")
    image = noise(1, 60_000)  # would be 64 × 3,840,000
    got = of_image(config, image)
    assert got.shape == (3, 64, 64) and np.isfinite(got).all()


# Pixel formats


def nv12(height: int, width: int, extra: int = 0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Both planes; with `extra` bytes after each row of luma and twice as many after each of chroma."""
    luma = with_pitch(noise(height, width, seed=seed), extra)
    return luma, with_pitch(noise(height // 2, width // 2, 2, seed=seed + 1), 2 * extra)


def bgr_of(luma: np.ndarray, chroma: np.ndarray, width: int) -> np.ndarray:
    """The rule's BGR of an nv12 picture, checked against OpenCV's."""
    pairs = np.ascontiguousarray(chroma[:, :width]).reshape(len(chroma), width // 2, 2)
    plane = np.ascontiguousarray(luma[:, :width])
    wanted = rule.bgr_of_nv12(plane, pairs)
    theirs = cv2.cvtColorTwoPlane(plane, pairs, cv2.COLOR_YUV2BGR_NV12)
    assert np.abs(theirs.astype(int) - wanted).max() <= OPENCV_LEVELS
    return wanted


@settings(deadline=None, max_examples=60)
@given(configs, st.integers(1, 40), st.integers(1, 40), st.integers(0, 3), st.integers(0, 99))
def test_nv12_is_converted_before_it_is_resized(config, half_height, half_width, extra, seed):
    height, width = 2 * half_height, 2 * half_width
    luma, chroma = nv12(height, width, extra, seed)
    picture = SourcePicture(
        luma.ctypes.data, "nv12", width, height, luma.shape[1], chroma.shape[1], chroma.ctypes.data
    )
    assert np.array_equal(on_kernel(config, picture), on_processor(config, bgr_of(luma, chroma, width)))


def test_the_chroma_of_nv12_follows_its_luma_unless_it_is_said_where_it_is():
    config = InputConfig(size=(24, 24))
    luma, chroma = nv12(16, 20)
    both = np.vstack([luma, chroma])
    picture = SourcePicture(both.ctypes.data, "nv12", 20, 16, 20)
    assert np.array_equal(on_kernel(config, picture), on_processor(config, bgr_of(luma, chroma, 20)))


@pytest.mark.parametrize("window", [(40, 400, "LINEAR"), (300, 1, "LINEAR"), (-200, 1500, "SIGMOID")])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_gray16_takes_the_whole_dicom_chain_as_one_table(window, signed, photometric):
    pydicom = pytest.importorskip("pydicom")
    from edge.dicom.transforms import GreyTransform, Renderer, every_value

    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.PhotometricInterpretation, ds.PixelRepresentation = photometric, int(signed)
    ds.BitsStored = ds.BitsAllocated = 16
    ds.RescaleSlope, ds.RescaleIntercept = 0.5, -100
    ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = window
    kind = np.dtype(np.int16 if signed else np.uint16)
    stored = np.random.default_rng(0).integers(-2000 if signed else 0, 3000, (37, 53)).astype(kind)
    values = every_value(kind)
    renderer = Renderer(ds, 1, lambda frame: stored)
    levels, _ = GreyTransform.of(ds, 0)(values, lambda: renderer.span)
    config = InputConfig(size=(48, 40), **IMAGENET)

    rows = with_pitch(stored, 6)
    picture = SourcePicture(
        rows.ctypes.data, "gray16", 53, 37, rows.shape[1], levels_address=levels.ctypes.data
    )

    shown, _ = renderer(stored, 0)
    assert levels.shape == (65536,) and len(np.unique(shown)) > 1
    assert np.array_equal(on_kernel(config, picture), on_processor(config, shown))


# Types of the input


def converted(values: np.ndarray, dtype: str, scale: float) -> np.ndarray:
    """float32 → the type, by the rounding that the builder uses."""
    if dtype == "int8":
        return numerics.quantize_int8(values, np.float32(scale))
    if dtype == "float8_e4m3fn":
        return numerics.quantize_fp8(values, np.float32(scale))
    return values.astype(NUMPY[dtype])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        ("float32", 1),
        ("float16", 1),
        ("bfloat16", 1),
        ("int8", 0.02),
        ("int8", 0.003),
        ("float8_e4m3fn", 0.01),
    ],
)
def test_every_type_is_the_float32_input_rounded_once(dtype, scale, channels):
    normalisation = IMAGENET if channels == 3 else {"mean": (0.5,), "std": (0.25,)}
    config = InputConfig(size=(40, 50), channels=channels, **normalisation)
    image = noise(61, 47, 3)
    got = of_image(config, image, dtype=dtype, scale=scale)
    want = converted(on_processor(config, image), dtype, scale)
    assert got.dtype == want.dtype and got.tobytes() == want.tobytes()


def test_rounding_is_to_nearest_even_and_quantized_values_saturate():
    table = np.array([[0.5, 1.5, 2.5, -0.5, 200.0, -200.0]], np.float32)
    assert rule.words(table, "int8").view(np.int8).tolist() == [[0, 2, 2, 0, 127, -128]]
    large = np.array([[1e6, -1e6, 1e6]], np.float32)
    assert rule.words(large, "float8_e4m3fn").view(NUMPY["float8_e4m3fn"]).astype(float).tolist() == [
        [448.0, -448.0, 448.0]
    ]
    assert np.isposinf(rule.words(large, "float16").view(np.float16)[0, 0])
    between = np.array([[1 + 2**-8, 1 + 3 * 2**-8]], np.float32)  # halfway between bfloat16 values
    assert rule.words(between, "bfloat16").tolist() == [[0x3F80, 0x3F82]]


# Sizes are worked out once


def test_pictures_of_many_sizes_share_a_fixed_number_of_buffers():
    device: Any = kernel_on_host.HostDevice()
    config = InputConfig(size=(20, 30), pad=9)
    preprocess = PicturePreprocess(device, device.kernel, config)
    out = np.empty((3, 20, 30), np.float32)
    for height in [*range(1, 3 * SIZES), 2, 5, 2]:
        image = noise(height, 17, 3, seed=height)
        picture = SourcePicture(image.ctypes.data, "bgr8", 17, height, 51)
        place = preprocess.learn(device, picture)
        assert preprocess.launch(device, picture, out.ctypes.data) == place
        assert place == Preprocess(config).batch([image])[1][0]
        assert np.array_equal(out, on_processor(config, image))
    assert device.allocations == SIZES


# What cannot be done is refused before anything is enqueued


@pytest.mark.parametrize(
    ("picture", "says"),
    [
        (SourcePicture(64, "nv12", 33, 32, 34), "2×2"),
        (SourcePicture(64, "nv12", 32, 31, 32), "2×2"),
        (SourcePicture(64, "nv12", 32, 32, 32, 30), "a row alone takes 32"),
        (SourcePicture(64, "bgr8", 32, 32, 95), "a row alone takes 96"),
        (SourcePicture(64, "gray16", 32, 32, 63), "a row alone takes 64"),
        (SourcePicture(64, "gray16", 32, 32, 65), "even addresses"),
        (SourcePicture(64, "bgr8", 0, 32, 96), "sides of 1 to"),
        (SourcePicture(64, "bgr8", 32, 70_000, 96), "sides of 1 to"),
        (SourcePicture(64, "bgr8", 65_535, 65_535, 196_605), f"{MAX_BYTES:,} bytes"),
    ],
)
def test_pictures_that_the_kernel_cannot_read(picture, says):
    device: Any = kernel_on_host.HostDevice()
    preprocess = PicturePreprocess(device, device.kernel, InputConfig(size=(8, 8)))
    for work in (lambda: preprocess.learn(device, picture), lambda: preprocess.launch(device, picture, 4096)):
        with pytest.raises(InputError, match=says) as caught:
            work()
        assert f"{picture.width}×{picture.height} {picture.format}" in caught.value.what


def test_an_unknown_format_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'nv12'"):
        check_picture(SourcePicture(64, "nv21", 8, 8, 8))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "picture",
    [
        SourcePicture(0, "bgr8", 8, 8, 24),
        SourcePicture(65, "gray16", 8, 8, 16, levels_address=4096),
        SourcePicture(64, "gray16", 8, 8, 16),
    ],
    ids=["no address", "odd address", "no levels"],
)
def test_addresses_are_checked_before_they_kill_the_context(picture):
    device: Any = kernel_on_host.HostDevice()
    with pytest.raises(RuntimeFault, match=f"a {picture.format} picture at address"):
        PicturePreprocess(device, device.kernel, InputConfig(size=(8, 8))).launch(device, picture, 4096)


@pytest.mark.parametrize(
    ("size", "dtype", "scale", "says"),
    [
        ((8, 8), "float64", 1.0, "to float64 on the GPU"),
        ((8, 8), "float16", 0.5, "only int8 and fp8"),
        ((8, 8), "int8", 0.0, "positive"),
        ((8, 8), "int8", float("nan"), "positive"),
        ((40_000, 40_000), "float32", 1.0, "values"),
        ((8, 70_000), "float32", 1.0, "sides"),
    ],
)
def test_inputs_that_the_kernel_cannot_fill(size, dtype, scale, says):
    device: Any = kernel_on_host.HostDevice()
    with pytest.raises(UsageError, match=says):
        PicturePreprocess(device, device.kernel, InputConfig(size=size), dtype, scale)


def test_offsets_of_the_largest_picture_do_not_overflow():
    side = 46_340  # its square is the largest below 2³¹
    image = np.zeros((side, side), np.uint8)  # pages that are not touched take no memory
    image[-40:, -40:] = 200
    image[0, 0] = 50
    config = InputConfig(size=(9, 9), fit="stretch", channels=1, scale=1.0)
    assert np.array_equal(of_image_in_place(config, image), on_processor(config, image))


def of_image_in_place(config: InputConfig, image: np.ndarray) -> np.ndarray:
    height, width = image.shape
    return on_kernel(
        config, SourcePicture(image.ctypes.data, "gray8", width, height, row_bytes("gray8", width))
    )


# On the simulated device


@pytest.mark.parametrize("integrated", [False, True])
def test_on_the_simulated_device_copies_and_launches_are_in_order(monkeypatch, tmp_path, integrated):
    from fakes.cuda import FakeCuda

    from edge.cuda import kernels
    from edge.cuda.device import open_device

    config = InputConfig(size=(24, 32), **IMAGENET)
    with FakeCuda(seed=3, integrated=integrated) as cuda:
        cuda.install(monkeypatch)
        kernel_on_host.install(cuda, monkeypatch, tmp_path)
        device = open_device()
        preprocess = PicturePreprocess(device, kernels.load(device), config, "float16")
        stream = device.stream()
        source = device.exchange((50 * 40 * 3,), np.uint8, write_combined=True)
        result = device.exchange((3, 24, 32), np.float16)
        for height, width in [(40, 50), (20, 30), *((n, 50) for n in range(5, 7 + SIZES)), (40, 50)]:
            image = noise(height, width, 3)
            source.host[: image.size] = image.ravel()
            source.upload(stream, image.size)
            picture = SourcePicture(source.address, "bgr8", width, height, 3 * width)
            preprocess.launch(stream, picture, result.address)
            result.download(stream)
            stream.synchronize()
            assert np.array_equal(result.host, on_processor(config, image).astype(np.float16))
        assert kernels.available() == ""
        preprocess.free()
        device.close()
        cuda.assert_clean()
