"""The preprocessing kernel against its rule, bit for bit: random sizes, formats, pitches and types."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
from on_device import through_kernel

from edge.config import InputConfig
from edge.cuda import kernels, rule
from edge.cuda.device import Device
from edge.cuda.kernels import PreprocessKernel
from edge.cuda.picture import PicturePreprocess, SourcePicture
from edge.errors import EdgeError
from edge.preprocess import plan_fit, value_table

pytestmark = pytest.mark.gpu

DTYPES = ("float32", "float16", "bfloat16", "int8", "float8_e4m3fn")
FORMATS = ("bgr8", "gray8", "gray16", "nv12")
CASES = 12
"""Random ones of each format and type."""
LARGE = [((1080, 1920), (640, 640)), ((1081, 1923), (480, 640)), ((96, 128), (48, 64)), ((1, 1), (33, 17))]


@pytest.fixture
def kernel(device: Device) -> Iterator[PreprocessKernel]:
    try:
        yield kernels.load(device)
    except EdgeError as e:
        pytest.skip(str(e))


def compare(
    device: Device, kernel: PreprocessKernel, config: InputConfig, kind: str, dtype: str, sizes: list[int]
) -> None:
    """One random picture: rows with bytes between them that nobody should read."""
    height, width, extra, seed = sizes
    noise = np.random.default_rng(seed)
    scale = 0.011 if dtype in ("int8", "float8_e4m3fn") else 1.0
    rows, picture, seen, levels = PICTURES[kind](noise, height, width, extra)
    words = rule.words(value_table(config), dtype, scale)
    wanted = rule.preprocess(config, plan_fit(config, *seen.shape[:2]), seen, words)
    preprocess = PicturePreprocess(device, kernel, config, dtype, scale)
    found = through_kernel(device, preprocess, rows, picture, wanted.nbytes, levels)
    preprocess.free()
    differing = np.count_nonzero(found != wanted.view(np.uint8).ravel())
    assert not differing, f"{differing} of {found.size} bytes differ: {config}, {picture}"


def padded(rows: np.ndarray, extra: int) -> np.ndarray:
    flat = rows.reshape(rows.shape[0], -1).view(np.uint8)
    return np.hstack([flat, np.full((len(flat), extra), 99, np.uint8)])


def _plain(noise: np.random.Generator, height: int, width: int, extra: int, depth: tuple[int, ...]):
    seen = noise.integers(0, 256, (height, width, *depth), np.uint8)
    rows = padded(seen, extra)
    return rows, SourcePicture(0, "bgr8" if depth else "gray8", width, height, rows.shape[1]), seen, None


def _gray16(noise: np.random.Generator, height: int, width: int, extra: int):
    stored = noise.integers(0, 65536, (height, width)).astype(np.uint16)
    levels = noise.integers(0, 256, 65536, np.uint8)
    rows = padded(stored, 2 * extra)
    return rows, SourcePicture(0, "gray16", width, height, rows.shape[1]), levels[stored], levels


def _nv12(noise: np.random.Generator, height: int, width: int, extra: int):
    height, width = height + height % 2, width + width % 2
    luma = noise.integers(0, 256, (height, width), np.uint8)
    chroma = noise.integers(0, 256, (height // 2, width // 2, 2), np.uint8)
    rows = np.vstack([padded(luma, extra), padded(chroma, extra)])
    return rows, SourcePicture(0, "nv12", width, height, rows.shape[1]), rule.bgr_of_nv12(luma, chroma), None


PICTURES = {
    "bgr8": lambda *args: _plain(*args, (3,)),
    "gray8": lambda *args: _plain(*args, ()),
    "gray16": _gray16,
    "nv12": _nv12,
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_random_pictures_become_what_the_rule_makes_of_them(
    device: Device, kernel: PreprocessKernel, kind: str, dtype: str
) -> None:
    dice = random.Random(f"{kind} {dtype}")
    for _ in range(CASES):
        config = InputConfig(
            size=(dice.randint(1, 90), dice.randint(1, 90)),
            channels=dice.choice((1, 3)),
            fit=dice.choice(("letterbox", "stretch", "crop")),
            anchor=dice.choice(("top-left", "center")),
            color=dice.choice(("rgb", "bgr")),
            pad=dice.randint(0, 255),
            mean=(0.45,),
            std=(0.22,),
        )
        sizes = [dice.randint(1, 150), dice.randint(1, 150), dice.randint(0, 5), dice.randint(0, 10**6)]
        compare(device, kernel, config, kind, dtype, sizes)


@pytest.mark.parametrize(("picture", "network"), LARGE)
@pytest.mark.parametrize("fit", ["letterbox", "stretch", "crop"])
def test_sizes_of_cameras_and_extremes(
    device: Device, kernel: PreprocessKernel, picture: tuple[int, int], network: tuple[int, int], fit: str
) -> None:
    config = InputConfig(size=network, fit=fit, pad=114)  # type: ignore[arg-type]
    compare(device, kernel, config, "bgr8", "float32", [*picture, 1, 3])
