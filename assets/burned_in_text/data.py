"""Scenes with rendered text, and their masks: the data that burned_in_text is trained and judged on.

A scene is a 480 x 640 RGB frame (uint8) with a mask of the same size (uint8, 0 or 255). The mask is the
union of one filled quad per word: the tight box of the word's rendered ink, grown on each side by 8 % of the
font size (at least one pixel), turned with the text. Words of one line often merge.

Scene kinds: `ultrasound` (sector or linear probe picture with side columns, menu bar, scales), `slice` (CT,
MR and NM pictures with corner annotations), `photo` (text over photographs and procedural textures, as in a
camera feed) and `empty` (any of these without text). Every scene is a function of (seed, split, index) alone.

Fonts, photographs and texture kinds are divided into `train`, `val` and `heldout`; no item is in two splits.
"""

from __future__ import annotations

import functools
import os
import string
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pydicom
import pydicom.data
import skimage
from PIL import Image, ImageDraw, ImageFont

HEIGHT, WIDTH = 480, 640  # of a finished scene, pixels
CELL = 4  # pixels per heatmap cell, each way
SPLITS = ("train", "val", "heldout")
Rng = np.random.Generator

# ----------------------------------------------------------------------------- what is used where

FONT_FAMILIES: dict[str, tuple[str, ...]] = {
    "train": (
        "DejaVu Sans", "DejaVu Sans Mono", "DejaVu Serif", "STIXGeneral", "cmr10", "cmss10", "cmtt10",
        "Liberation Sans", "Liberation Sans Narrow", "Liberation Mono", "Liberation Serif",
        "FreeSans", "FreeMono", "FreeSerif", "Noto Sans", "Noto Serif", "Noto Mono", "Open Sans", "Roboto",
        "Roboto Condensed", "Lato", "Hack", "Nimbus Sans", "Nimbus Sans Narrow", "Nimbus Mono PS",
        "Oxygen-Sans", "Carlito", "URW Bookman", "C059",
    ),
    "val": ("Fira Code", "Cabin", "P052", "Oxygen Mono"),
    "heldout": ("Comic Neue", "EB Garamond", "Caladea", "URW Gothic", "Inconsolata", "Cantarell"),
}  # fmt: skip

# OpenCV's stroke fonts; the camera demo feed writes with SIMPLEX and DUPLEX.
HERSHEY: dict[str, tuple[int, ...]] = {
    "train": (
        cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_PLAIN, cv2.FONT_HERSHEY_COMPLEX,
        cv2.FONT_HERSHEY_SCRIPT_SIMPLEX,
    ),
    "val": (cv2.FONT_HERSHEY_COMPLEX_SMALL,),
    "heldout": (cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_SCRIPT_COMPLEX),
}  # fmt: skip

# Pictures that come inside the wheels of scikit-image and matplotlib, with the part of each that is free of
# text: rows from, to, columns from, to.
WHOLE = (0, None, 0, None)
PHOTOS: dict[str, dict[str, tuple[int, int | None, int, int | None]]] = {
    "train": {
        "brick.png": WHOLE, "camera.png": WHOLE, "coffee.png": WHOLE, "color.png": WHOLE, "grass.png": WHOLE,
        "hubble_deep_field.jpg": WHOLE, "logo.png": WHOLE, "moon.png": WHOLE, "cell.png": WHOLE,
        "horse.png": WHOLE, "phantom.png": WHOLE, "chessboard_RGB.png": WHOLE, "microaneurysms.png": WHOLE,
        "grace_hopper.jpg": (0, 470, 0, None),  # matplotlib's; below is a name tag
    },
    "val": {"chelsea.png": WHOLE, "retina.jpg": WHOLE},
    "heldout": {"coins.png": WHOLE, "ihc.png": WHOLE, "rocket.jpg": WHOLE, "gravel.png": WHOLE},
}  # fmt: skip

# pydicom test files, likewise. examples_ybr_color.dcm is the real check and is in none.
SLICES: dict[str, dict[str, tuple[int, int | None, int, int | None]]] = {
    "train": {
        "693_J2KI.dcm": WHOLE, "CT_small.dcm": WHOLE, "JPEG2000.dcm": WHOLE, "image_dfl.dcm": WHOLE,
        "SC_rgb_gdcm_KY.dcm": WHOLE,
    },
    "val": {"MR_small.dcm": WHOLE},
    "heldout": {"examples_overlay.dcm": WHOLE, "J2K_pixelrep_mismatch.dcm": WHOLE},
}  # fmt: skip
PROBE_PICTURES: dict[str, dict[str, tuple[int, int | None, int, int | None]]] = {
    "train": {"examples_jpeg2k.dcm": (114, 328, 60, 560)},
    "val": {"examples_palette.dcm": (66, 270, 340, 600)},
    "heldout": {},
}

TEXTURES: dict[str, tuple[str, ...]] = {
    "train": ("flat", "gradient", "clouds", "grain", "stripes", "blobs", "bricks", "boxes"),
    "val": ("flat", "gradient", "clouds", "waves"),
    "heldout": ("flat", "gradient", "voronoi", "plaid"),
}

# --------------------------------------------------------------------------------------- pictures


def _as_rgb8(pixels: np.ndarray) -> np.ndarray:
    """Any decoded frame -> H x W x 3 uint8; greys are stretched between their 0.5 % and 99.5 % levels."""
    if pixels.ndim == 4 or (pixels.ndim == 3 and pixels.shape[-1] not in (3, 4)):
        pixels = pixels[0]
    if pixels.dtype != np.uint8:
        low, high = np.percentile(pixels, [0.5, 99.5])
        pixels = np.clip((pixels - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return np.ascontiguousarray(pixels[..., :3])


def _read_dicom(name: str) -> np.ndarray:
    """The first frame of a file in pydicom's wheel, H x W x 3 uint8."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(Path(pydicom.data.__file__).parent / "test_files" / name)
        pixels = dataset.pixel_array
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            pixels = (pydicom.pixels.apply_color_lut(pixels, dataset) >> 8).astype(np.uint8)
    return _as_rgb8(pixels)


def _read_photo(name: str) -> np.ndarray:
    folders = (Path(skimage.__file__).parent / "data", Path(matplotlib.get_data_path()) / "sample_data")
    path = next(folder / name for folder in folders if (folder / name).exists())
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


@functools.lru_cache(maxsize=8)
def pictures(split: str, group: str) -> list[np.ndarray]:
    """The text-free pictures of one group (`photo`, `slice` or `probe`) in one split, H x W x 3 uint8."""
    table, read = {
        "photo": (PHOTOS, _read_photo),
        "slice": (SLICES, _read_dicom),
        "probe": (PROBE_PICTURES, _read_dicom),
    }[group]
    return [read(name)[t:b, le:r] for name, (t, b, le, r) in table[split].items()]


def random_view(rng: Rng, picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """A random crop of a picture, flipped and quarter-turned at random, at height x width pixels."""
    picture = np.rot90(picture, rng.integers(4))
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
    tall, wide = picture.shape[:2]
    fraction = rng.uniform(0.35, 1.0)
    crop_h = max(8, int(min(tall, wide * height / width) * fraction))
    crop_w = max(8, min(wide, int(crop_h * width / height)))
    top, left = rng.integers(tall - crop_h + 1), rng.integers(wide - crop_w + 1)
    crop = np.ascontiguousarray(picture[top : top + crop_h, left : left + crop_w])
    how = cv2.INTER_AREA if crop_h > height else cv2.INTER_LINEAR
    return cv2.resize(crop, (width, height), interpolation=how)


# --------------------------------------------------------------------------------------- textures


def clouds(rng: Rng, height: int, width: int, octaves: int = 4) -> np.ndarray:
    """Smooth random field in 0..1, height x width float32 (value noise summed over octaves)."""
    total = np.zeros((height, width), np.float32)
    cells, weight = int(rng.integers(2, 6)), 1.0
    for _ in range(octaves):
        grid = rng.random((cells, cells + 1), dtype=np.float32)
        total += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        cells, weight = cells * 2, weight * 0.5
    total -= total.min()
    return total / max(float(total.max()), 1e-6)


def colour(rng: Rng, vivid: float = 0.5) -> np.ndarray:
    """An RGB colour, float32 0..255: grey with probability 1 - vivid."""
    if rng.random() < vivid:
        return rng.uniform(0, 255, 3).astype(np.float32)
    return np.full(3, rng.uniform(0, 255), np.float32)


def _two_tone(rng: Rng, field_: np.ndarray) -> np.ndarray:
    """Colours a 0..1 field between two random colours."""
    first, second = colour(rng), colour(rng)
    return first + (second - first) * field_[..., None]


def _flat(rng: Rng, h: int, w: int) -> np.ndarray:
    return np.broadcast_to(colour(rng), (h, w, 3)).copy()


def _gradient(rng: Rng, h: int, w: int) -> np.ndarray:
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.cos(angle) * x / w + np.sin(angle) * y / h
    return _two_tone(rng, (ramp - ramp.min()) / np.ptp(ramp))


def _clouds(rng: Rng, h: int, w: int) -> np.ndarray:
    return _two_tone(rng, clouds(rng, h, w, int(rng.integers(1, 7))))


def _grain(rng: Rng, h: int, w: int) -> np.ndarray:
    noise = rng.standard_normal((h, w), dtype=np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), rng.uniform(0.6, 4), sigmaY=rng.uniform(0.6, 4))
    return _two_tone(rng, np.clip(0.5 + noise / (noise.std() + 1e-6) * rng.uniform(0.05, 0.25), 0, 1))


def _stripes(rng: Rng, h: int, w: int) -> np.ndarray:
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 80)
    wave = np.sin(2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / period + 3 * clouds(rng, h, w, 2))
    hard = rng.random() < 0.5
    return _two_tone(rng, (wave > 0).astype(np.float32) if hard else wave * 0.5 + 0.5)


def _blobs(rng: Rng, h: int, w: int) -> np.ndarray:
    image = _clouds(rng, h, w)
    for _ in range(rng.integers(5, 60)):
        centre = (int(rng.integers(w)), int(rng.integers(h)))
        axes = (int(rng.integers(2, h // 8)), int(rng.integers(2, h // 8)))
        cv2.ellipse(image, centre, axes, rng.uniform(0, 180), 0, 360, colour(rng).tolist(), -1, cv2.LINE_AA)
    return image


def _bricks(rng: Rng, h: int, w: int) -> np.ndarray:
    image, rows, cols = _clouds(rng, h, w), int(rng.integers(10, 60)), int(rng.integers(14, 120))
    line = (colour(rng) * 0.6).tolist()
    for row, y in enumerate(range(0, h, rows)):
        cv2.line(image, (0, y), (w, y), line, int(rng.integers(1, 3)))
        for x in range((row % 2) * cols // 2, w, cols):
            cv2.line(image, (x, y), (x, y + rows), line, int(rng.integers(1, 3)))
    return image


def _boxes(rng: Rng, h: int, w: int) -> np.ndarray:
    """Overlapping rectangles and lines: shelves, windows, user interfaces."""
    image = _gradient(rng, h, w)
    for _ in range(rng.integers(8, 50)):
        x, y = int(rng.integers(w)), int(rng.integers(h))
        size = (int(rng.integers(4, w // 3)), int(rng.integers(4, h // 3)))
        cv2.rectangle(image, (x, y, *size), colour(rng).tolist(), -1 if rng.random() < 0.6 else 1)
    return image


def _waves(rng: Rng, h: int, w: int) -> np.ndarray:
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    r = np.hypot(x - rng.uniform(0, w), y - rng.uniform(0, h))
    return _two_tone(rng, np.sin(r / rng.uniform(4, 30)) * 0.5 + 0.5)


def _voronoi(rng: Rng, h: int, w: int) -> np.ndarray:
    seeds = np.full((h, w), 255, np.uint8)
    count = int(rng.integers(20, 250))
    seeds[rng.integers(0, h, count), rng.integers(0, w, count)] = 0
    distance, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5)
    palette = np.stack([colour(rng) for _ in range(int(labels.max()) + 1)])
    return palette[labels] * (1 - 0.5 * distance / distance.max())[..., None]


def _plaid(rng: Rng, h: int, w: int) -> np.ndarray:
    rows = np.repeat(rng.random(h // 8 + 1), 8)[:h, None]
    cols = np.repeat(rng.random(w // 8 + 1), 8)[None, :w]
    return _two_tone(rng, ((rows + cols) / 2).astype(np.float32))


def texture(rng: Rng, split: str, h: int, w: int) -> np.ndarray:
    """A procedural background of one of the split's kinds, h x w x 3 float32 0..255."""
    return globals()["_" + str(rng.choice(TEXTURES[split]))](rng, h, w).astype(np.float32)


# ------------------------------------------------------------------- distractors: not to be found


def _points(rng: Rng, h: int, w: int, count: int) -> np.ndarray:
    return np.stack([rng.integers(0, w, count), rng.integers(0, h, count)], 1).astype(np.int32)


def ruler(rng: Rng, image: np.ndarray) -> None:
    """Depth or time scale: ticks, dots or dashes along a vertical or horizontal line."""
    h, w = image.shape[:2]
    ink, step = colour(rng, 0.2).tolist(), int(rng.integers(3, 26))
    vertical, major = rng.random() < 0.6, int(rng.integers(2, 11))
    at, side = int(rng.integers(4, (w if vertical else h) - 4)), int(rng.choice([-1, 1]))
    short, thick, dots = int(rng.integers(0, 5)), int(rng.integers(1, 3)), rng.random() < 0.4
    start, stop = sorted(rng.integers(0, h if vertical else w, 2).tolist())
    for tick, along in enumerate(range(start, stop, step)):
        reach = short + (int(rng.integers(2, 6)) if tick % major == 0 else 0)
        a, b = (
            ((at, along), (at + side * reach, along))
            if vertical
            else ((along, at), (along, at + side * reach))
        )
        if dots:
            cv2.circle(image, a, 1 + (tick % major == 0), ink, -1)
        else:
            cv2.line(image, a, b, ink, thick)
    if rng.random() < 0.4:
        cv2.line(
            image, (at, start) if vertical else (start, at), (at, stop) if vertical else (stop, at), ink, 1
        )


def trace(rng: Rng, image: np.ndarray) -> None:
    """ECG or other curve from left to right."""
    h, w = image.shape[:2]
    x = np.arange(0, w, 2)
    period, height = rng.uniform(w / 12, w / 2), rng.uniform(4, h / 8)
    phase = (x % period) / period
    if rng.random() < 0.6:
        y = np.exp(-(((phase - 0.4) / 0.02) ** 2)) + 0.2 * np.exp(-(((phase - 0.6) / 0.06) ** 2))
        y -= 0.25 * np.exp(-(((phase - 0.44) / 0.02) ** 2))
    else:
        y = np.sin(2 * np.pi * phase) + 0.3 * rng.standard_normal(len(x))
    line = np.stack([x, rng.uniform(0.1, 0.95) * h - height * y], 1).astype(np.int32)
    cv2.polylines(image, [line], False, colour(rng, 0.8).tolist(), int(rng.integers(1, 3)), cv2.LINE_AA)


def colour_bar(rng: Rng, image: np.ndarray) -> None:
    """Grey or colour scale next to a picture."""
    h, w = image.shape[:2]
    tall, wide = int(rng.integers(h // 10, h // 2)), int(rng.integers(4, max(6, w // 30)))
    y, x = int(rng.integers(0, h - tall)), int(rng.integers(0, w - wide))
    ramp = np.linspace(0, 1, tall, dtype=np.float32)[:, None, None]
    top, bottom = colour(rng, 0.6), colour(rng, 0.6)
    image[y : y + tall, x : x + wide] = top * ramp + bottom * (1 - ramp)
    if rng.random() < 0.5:
        cv2.rectangle(image, (x, y, wide, tall), (200, 200, 200), 1)


def shapes(rng: Rng, image: np.ndarray) -> None:
    """A few lines, circles, rectangles, triangles or dashed segments of any size."""
    h, w = image.shape[:2]
    for _ in range(rng.integers(1, 5)):
        ink, thick = colour(rng).tolist(), int(rng.integers(1, 4))
        a, b, c = _points(rng, h, w, 3)
        kind = rng.integers(6)
        if kind == 0:
            cv2.line(image, a.tolist(), b.tolist(), ink, thick, cv2.LINE_AA)
        elif kind == 1:
            cv2.circle(image, a.tolist(), int(rng.integers(5, h // 4)), ink, thick, cv2.LINE_AA)
        elif kind == 2:
            cv2.rectangle(image, a.tolist(), b.tolist(), ink, thick)
        elif kind == 3:
            cv2.polylines(image, [np.stack([a, b, c])], True, ink, thick, cv2.LINE_AA)
        elif kind == 4:
            for t in np.arange(0, 1, 0.06):
                p, q = a + (b - a) * t, a + (b - a) * (t + 0.03)
                cv2.line(image, p.astype(int).tolist(), q.astype(int).tolist(), ink, thick)
        else:
            cv2.circle(image, a.tolist(), int(rng.integers(2, max(3, h // 60))), ink, -1, cv2.LINE_AA)


def grid(rng: Rng, image: np.ndarray) -> None:
    """Regular grid or checkerboard in part of the frame."""
    h, w = image.shape[:2]
    step, ink = int(rng.integers(4, 40)), colour(rng, 0.3).tolist()
    rows, cols = int(rng.integers(2, 12)), int(rng.integers(2, 12))
    x0, y0 = int(rng.integers(w)), int(rng.integers(h))
    checker = rng.random() < 0.4
    for i in range(rows + 1):
        for j in range(cols + 1):
            x, y = x0 + j * step, y0 + i * step
            if checker and (i + j) % 2:
                cv2.rectangle(image, (x, y, step, step), ink, -1)
            elif not checker:
                cv2.line(image, (x, y0), (x, y0 + rows * step), ink, 1)
                cv2.line(image, (x0, y), (x0 + cols * step, y), ink, 1)


def icon(rng: Rng, image: np.ndarray, x: int, y: int, size: int, ink: list[float]) -> None:
    """A pictogram as in a scanner's menu bar: frame, disc or polygon with details, at (x, y)."""
    kind, thick = rng.integers(6), 1 + int(size > 24)
    half = size // 2
    if kind == 0:
        cv2.rectangle(image, (x, y, size, int(size * 0.8)), ink, thick)
        for _ in range(rng.integers(1, 4)):
            at = y + int(rng.uniform(0.15, 0.7) * size)
            cv2.line(image, (x + size // 5, at), (x + int(size * rng.uniform(0.4, 0.85)), at), ink, 1)
    elif kind == 1:
        cv2.circle(image, (x + half, y + half), half, ink, -1 if rng.random() < 0.4 else thick, cv2.LINE_AA)
        cv2.line(image, (x + half, y + half), (x + half, y + size // 4), (0, 0, 0), 1)
    elif kind == 2:
        roof = np.array([[x, y + size * 2 // 3], [x + half, y], [x + size, y + size * 2 // 3]], np.int32)
        cv2.polylines(image, [roof], True, ink, thick, cv2.LINE_AA)
        cv2.line(image, (x, y + size - 1), (x + size, y + size - 1), ink, thick)
        cv2.circle(image, (x + half, y + half), max(1, size // 6), ink, -1, cv2.LINE_AA)
    elif kind == 3:
        cv2.rectangle(image, (x, y, size, size), ink, -1)
        inner = [0.3 * value for value in ink]
        cv2.rectangle(image, (x + size // 4, y + size // 4, half, half), inner, thick)
    elif kind == 4:
        small = max(2, size // 3)
        cv2.rectangle(image, (x, y + size - small, small, small), ink, thick)
        cv2.rectangle(image, (x + half, y, small, small), ink, thick)
        cv2.line(image, (x + small, y + small), (x + half, y + half), ink, 1)
    else:
        cv2.rectangle(image, (x, y, int(size * 1.3), int(size * 0.7)), ink, thick)
        for part in range(1, int(rng.integers(2, 5))):
            at = x + int(size * 1.3 * part / 4)
            cv2.line(image, (at, y), (at, y + int(size * 0.7)), ink, 1)


def icons(rng: Rng, image: np.ndarray) -> None:
    h, w = image.shape[:2]
    for _ in range(rng.integers(1, 4)):
        size = int(rng.integers(max(5, h // 48), h // 12))
        x, y = int(rng.integers(0, w - size)), int(rng.integers(0, h - size))
        icon(rng, image, x, y, size, colour(rng).tolist())


def cutouts(rng: Rng, split: str, image: np.ndarray) -> None:
    """A row or a scatter of small discs or boxes cut from a photograph: as fine as letters, but none."""
    h, w = image.shape[:2]
    stock = pictures(split, "photo")
    source = stock[rng.integers(len(stock))]
    size, in_row, disc = int(rng.integers(h // 24, h // 5)), rng.random() < 0.6, rng.random() < 0.6
    y = int(rng.integers(0, h - size))
    stamp = np.zeros((size, size, 1), np.float32)
    if disc:
        cv2.circle(stamp, (size // 2, size // 2), size // 2 - 1, 1.0, -1, cv2.LINE_AA)
    else:
        stamp[:] = 1
    for number in range(rng.integers(2, 9)):
        x = int(number * size * 1.3) if in_row else int(rng.integers(0, w - size))
        y = y if in_row else int(rng.integers(0, h - size))
        if x + size > w:
            break
        piece = random_view(rng, source, size, size) * np.float32(rng.uniform(0.6, 1.2))
        area = image[y : y + size, x : x + size]
        area[:] = area * (1 - stamp) + piece * stamp


def scatter_distractors(rng: Rng, split: str, image: np.ndarray, most: int) -> None:
    """Draws up to `most` random distractors into an H x W x 3 float32 image."""
    kinds: list[Callable[[Rng, np.ndarray], None]] = [ruler, trace, colour_bar, shapes, grid, icons]
    for _ in range(rng.integers(0, most + 1)):
        chosen = rng.integers(len(kinds) + 1)
        if chosen == len(kinds):
            cutouts(rng, split, image)
        else:
            kinds[chosen](rng, image)


# ------------------------------------------------------------------------------------------ words


def _words(text: str, separator: str | None = None) -> list[str]:
    return text.split(separator)


SURNAMES = _words(
    "Smith Garcia Müller Nguyen Kowalski Rossi Okafor Johnson Dubois Tanaka Silva Andersson Ivanov Kim "
    "Patel Haddad O'Brien Lopez Wagner Novak Jensen Moreau Schmidt Costa Ali Cohen Murphy Weber Yilmaz "
    "Santos"
)
GIVEN = _words(
    "Anna John Maria David Fatima Wei Olga James Linda Pedro Yuki Ahmed Sofia Peter Emma Lucas Nina Karl "
    "Rosa Ivan Grace Omar Julia Paul Mei Hans Clara Tom Eva Liam"
)
PLACES = _words(
    "St. Mary Hospital|General Hospital|Univ. Clinic|Mercy Med Ctr|City Health|Royal Infirmary|"
    "Heart Center|Radiology Dept|County Memorial|Klinikum Nord|Hôpital Central|OB/GYN Clinic|Cardiology|"
    "Emergency Dept",
    "|",
)
ID_LABELS = ("MRN", "ID", "ID:", "Acc#", "No.", "PAT")
SCANNER = _words(
    "MI|TIS|TIB|TIC|Gen|THI|Crd|PLA|PSAX|A4C|Res|Pen|Abd|MB|On|Off|Sector|Linear|Page|Gain|DR|FR|2D|"
    "M-Mode|PW|CW|Color|Depth|Freq|Zoom|Freeze|Store|Menu|Exit|Save|Print|Next|Back|CINE|IM#|HGen|Gn|PWR|"
    "LV|RV|AO|LA|Liver|Kidney|Lt|Rt|SAG|TRV|Dist|Area|Vol|HR|BPM|EF|cm|mm|dB|Hz|MHz|kPa|Preset|Probe|"
    "Biopsy|Guide|Doppler|WF|PRF|SV|L|R|A|P|H|F|S",
    "|",
)
COMMON = _words(
    "EXIT STOP OPEN CAFE Station Gate Platform Camera Lane Speed Warning Danger Press Start Engine Level "
    "Battery Street Market Hotel Parking Police Taxi Bus Welcome Please Closed Push Pull Sale Free Water "
    "Power Model Serial Made with the and for from this that live stream recording north south east west "
    "front rear room floor door table number quality control line product batch lot part assembly tested "
    "passed failed item order weight total price"
)


def _digits(rng: Rng, count: int) -> str:
    return "".join(str(d) for d in rng.integers(0, 10, count))


def _any_letters(rng: Rng) -> str:
    alphabet = string.ascii_letters + string.digits + "-/.:#%+"
    return "".join(rng.choice(list(alphabet), int(rng.integers(2, 10))))


def phrase(rng: Rng, medical: bool) -> str:
    """One line of text, as scanners, cameras and signs write it."""
    day, month, year = rng.integers(1, 29), rng.integers(1, 13), rng.integers(1935, 2027)
    hour, minute, second = rng.integers(1, 13), rng.integers(60), rng.integers(60)
    person = f"{rng.choice(SURNAMES)}, {rng.choice(GIVEN)}"
    makers: list[Callable[[], str]] = [
        lambda: person,
        lambda: f"{rng.choice(GIVEN)} {rng.choice(SURNAMES)}",
        lambda: f"{rng.choice(SURNAMES)}^{rng.choice(GIVEN)}",
        lambda: f"{day:02d}/{month:02d}/{year}",
        lambda: f"{year}-{month:02d}-{day:02d} {2 * hour - 1:02d}:{minute:02d}:{second:02d}",
        lambda: f"{hour}:{minute:02d}:{second:02d} {rng.choice(['AM', 'PM'])}",
        lambda: f"{rng.choice(ID_LABELS)} {_digits(rng, int(rng.integers(4, 10)))}",
        lambda: f"DOB {day:02d}.{month:02d}.{year} {rng.choice(['M', 'F', 'O'])}",
        lambda: str(rng.choice(PLACES)),
        lambda: f"{rng.choice(SCANNER)} {rng.uniform(0, 3):.1f}",
        lambda: f"{rng.choice(SCANNER)} {rng.choice(SCANNER)}",
        lambda: str(rng.choice(SCANNER)),
        lambda: (
            f"{rng.choice(SCANNER)} {rng.integers(1, 100)}{rng.choice(['', '%', 'Hz', 'cm', ' dB', '/3'])}"
        ),
        lambda: _digits(rng, int(rng.integers(1, 5))),
        lambda: str(rng.choice(list(string.ascii_uppercase + string.digits))),
        lambda: " ".join(rng.choice(COMMON, int(rng.integers(1, 5)))),
        lambda: " ".join(rng.choice(COMMON, int(rng.integers(1, 3)))).upper(),
        lambda: f"{rng.choice(COMMON).title()} {_digits(rng, int(rng.integers(1, 4)))}",
        lambda: f"CAM {rng.integers(1, 17):02d} {rng.choice(['REC', 'LIVE', 'FRONT', 'REAR'])}",
        lambda: _any_letters(rng),
    ]
    chosen = makers[rng.integers(0, 15) if medical else rng.integers(3, len(makers))]()
    style = rng.random()
    return chosen.upper() if style < 0.2 else chosen.lower() if style < 0.26 else chosen


# ------------------------------------------------------------------------------------------ fonts


def font_folders() -> list[Path]:
    """Where fonts are looked for: matplotlib's own and the usual system and user folders."""
    home = Path.home()
    folders = [Path(matplotlib.get_data_path()) / "fonts" / "ttf", Path("/usr/share/fonts"),
               Path("/usr/local/share/fonts"), home / ".fonts", home / ".local/share/fonts",
               Path("/Library/Fonts"), Path("/System/Library/Fonts")]  # fmt: skip
    if "WINDIR" in os.environ:
        folders.append(Path(os.environ["WINDIR"]) / "Fonts")
    return [folder for folder in folders if folder.is_dir()]


@functools.lru_cache(maxsize=1)
def font_files() -> dict[str, list[str]]:
    """Family -> font files found on this computer, without hairline and ornamental cuts."""
    split_of = {family for families in FONT_FAMILIES.values() for family in families}
    found: dict[str, dict[str, str]] = {}
    for folder in font_folders():
        for path in sorted(folder.rglob("*.[to]tf")):
            try:
                family, style = ImageFont.truetype(str(path), 12).getname()
            except OSError:
                continue
            style = style or "Regular"
            thin = any(word in style for word in ("Hairline", "Thin", "ExtraLight"))
            if family in split_of and not thin:
                found.setdefault(family, {}).setdefault(style, str(path))
    return {family: sorted(styles.values()) for family, styles in found.items()}


def families(split: str) -> list[str]:
    """The families of a split that are installed here."""
    return [family for family in FONT_FAMILIES[split] if family in font_files()]


@functools.lru_cache(maxsize=2048)
def _open_font(path: str, em: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, em)


@dataclass(frozen=True)
class Face:
    """A way to draw words: a font file at `em` pixels, or an OpenCV stroke font of the same size."""

    em: int
    path: str | None = None
    hershey: int = 0
    stroke: int = 1
    aliased: bool = False  # one bit per pixel, as the fonts built into old scanners

    def draw(self, word: str) -> tuple[np.ndarray, int, int]:
        """-> (ink, uint8 alpha; baseline row in it; advance in pixels to the end of the word)."""
        pad = self.em // 2 + 2
        if self.path is None:
            scale = self.em / 30  # Hershey capitals are 21 units high, about 0.7 em
            (wide, tall), _ = cv2.getTextSize(word, self.hershey, scale, self.stroke)
            ink = np.zeros((tall + 2 * pad, wide + 2 * pad), np.uint8)
            line = cv2.LINE_8 if self.aliased else cv2.LINE_AA
            cv2.putText(ink, word, (pad, pad + tall), self.hershey, scale, 255, self.stroke, line)
            return ink, pad + tall, wide
        font = _open_font(self.path, self.em)
        wide = int(np.ceil(font.getlength(word)))
        canvas = Image.new("L", (wide + 2 * pad, self.em * 2 + 2 * pad))
        pen = ImageDraw.Draw(canvas)
        pen.fontmode = "1" if self.aliased else "L"
        baseline = pad + int(self.em * 1.2)
        pen.text((pad, baseline), word, fill=255, font=font, anchor="ls")
        return np.asarray(canvas), baseline, wide


def random_face(rng: Rng, split: str, em: int, stroke_font: float = 0.3) -> Face:
    """A face of the split, `em` pixels high; an OpenCV stroke font with probability `stroke_font`."""
    if rng.random() < stroke_font:
        fonts = HERSHEY[split]
        usual = split == "train" and rng.random() < 0.6
        hershey = fonts[rng.integers(2)] if usual else fonts[rng.integers(len(fonts))]
        stroke = int(np.clip(round(em / 30 * rng.uniform(0.8, 2.8)), 1, 9))
        return Face(em, None, hershey, stroke, rng.random() < 0.3)
    family = str(rng.choice(families(split)))
    files = font_files()[family]
    return Face(em, files[rng.integers(len(files))], aliased=em < 30 and rng.random() < 0.15)


@dataclass
class Block:
    """Lines of text in one face: ink (h x w uint8 alpha) and one (x, y, w, h) box per word, in pixels."""

    ink: np.ndarray
    boxes: list[tuple[int, int, int, int]] = field(default_factory=list)


def set_block(rng: Rng, face: Face, lines: list[str], align: str) -> Block:
    """Sets lines of words, ragged or centred."""
    space = max(2, int(face.em * rng.uniform(0.22, 0.4)))
    leading = int(face.em * rng.uniform(1.0, 1.35))
    drawn = [[face.draw(word) for word in line.split()] for line in lines]
    pads = face.em // 2 + 2
    widths = [sum(wide for _, _, wide in line) + space * (len(line) - 1) for line in drawn]
    above = max(baseline for line in drawn for _, baseline, _ in line)
    below = max(ink.shape[0] - baseline for line in drawn for ink, baseline, _ in line)
    canvas = np.zeros((above + below + leading * (len(lines) - 1), max(widths) + 2 * pads + 8), np.uint8)
    block = Block(canvas)
    for row, (line, wide) in enumerate(zip(drawn, widths, strict=True)):
        slack = max(widths) - wide
        x = {"left": 0, "right": slack, "centre": slack // 2}[align]
        for ink, baseline, advance in line:
            top = above + row * leading - baseline
            target = canvas[top : top + ink.shape[0], x : x + ink.shape[1]]
            np.maximum(target, ink[:, : target.shape[1]], out=target)
            left, upper, w, h = cv2.boundingRect((ink > 64).astype(np.uint8))
            if w and h:
                block.boxes.append((x + left, top + upper, w, h))
            x += advance + space
    return block


# ----------------------------------------------------------------------------------------- canvas


@dataclass
class Canvas:
    """A scene while it is drawn: image (H x W x 3 float32 0..255), mask (H x W uint8 0/255)."""

    image: np.ndarray
    mask: np.ndarray

    def put(self, rng: Rng, block: Block, em: int, x: int, y: int, style: TextStyle) -> bool:
        """Draws a block, its ink's top left at (x, y) px. False where it has no room or covers other text."""
        if not block.boxes:
            return False
        ink, quads = _turn(block, style.angle, max(1.0, 0.08 * em))
        points = np.concatenate(quads)
        (left, top), (right, bottom) = points.min(0), points.max(0)
        shift = np.array([x - left, y - top]).round().astype(int)
        height, width = self.mask.shape
        x1, y1 = int(right + shift[0]) + 1, int(bottom + shift[1]) + 1
        if x < 0 or y < 0 or x1 >= width or y1 >= height or self.mask[y : y1 + 1, x : x1 + 1].any():
            return False
        sy, sx = (max(0, shift[1]), max(0, shift[0]))
        ink = ink[sy - shift[1] :, sx - shift[0] :][: height - sy, : width - sx]
        area = self.image[sy : sy + ink.shape[0], sx : sx + ink.shape[1]]
        ground = self.image[y:y1, x:x1]
        if style.ink is not None and abs(float(style.ink.mean()) - float(ground.mean())) < 40:
            return False  # nobody could read it
        _blend(rng, area, ink, style, ground, (x - sx, y - sy, x1 - sx, y1 - sy))
        for quad in quads:
            cv2.fillConvexPoly(self.mask, (quad + shift).round().astype(np.int32), 255)
        return True


@dataclass
class TextStyle:
    """How a block is laid over the picture."""

    angle: float = 0.0  # degrees, counter-clockwise
    ink: np.ndarray | None = None  # RGB; None: chosen to stand out by `contrast`
    contrast: float = 90.0  # least grey-level difference from the ground under it
    plate: np.ndarray | None = None  # RGB of a filled box behind the text
    outline: bool = False


def _turn(block: Block, angle: float, grow: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """Ink and word quads (4 x 2 float32 px, grown by `grow` px) of a block turned by `angle` degrees."""
    quads = [
        np.array([(x - grow, y - grow), (x + w - 1 + grow, y - grow),
                  (x + w - 1 + grow, y + h - 1 + grow), (x - grow, y + h - 1 + grow)], np.float32)
        for x, y, w, h in block.boxes
    ]  # fmt: skip
    if angle == 0:
        return block.ink, quads
    height, width = block.ink.shape
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
    cos, sin = abs(matrix[0, 0]), abs(matrix[0, 1])
    wide, tall = int(height * sin + width * cos) + 2, int(height * cos + width * sin) + 2
    matrix[:, 2] += ((wide - width) / 2, (tall - height) / 2)
    ink = cv2.warpAffine(block.ink, matrix, (wide, tall), flags=cv2.INTER_LINEAR)
    return ink, [cv2.transform(quad[None], matrix)[0].astype(np.float32) for quad in quads]


def _ink_colour(rng: Rng, ground: np.ndarray, contrast: float) -> np.ndarray:
    """An RGB colour `contrast` or more grey levels away from the ground's mean, more over a busy ground."""
    luma = np.array([0.299, 0.587, 0.114], np.float32)
    grey = ground.reshape(-1, 3) @ luma
    level, needed = float(grey.mean()), max(contrast, 1.3 * float(grey.std()))
    for _ in range(12):
        ink = colour(rng, 0.6)
        if abs(float(ink @ luma) - level) >= needed:
            return ink
    return np.full(3, 255.0 if level < 128 else 0.0, np.float32)


def _blend(
    rng: Rng, area: np.ndarray, ink: np.ndarray, style: TextStyle, ground: np.ndarray, plate: tuple[int, ...]
) -> None:
    """Lays plate, outline and ink over `area` (h x w x 3 float32). `plate` is x0, y0, x1, y1 in it."""
    if style.plate is not None:
        pad = int(rng.integers(0, 5))
        corner = (max(0, plate[0] - pad), max(0, plate[1] - pad))
        area[corner[1] : plate[3] + pad, corner[0] : plate[2] + pad] = style.plate
        ground = style.plate[None, None]
    shade = style.ink if style.ink is not None else _ink_colour(rng, ground, style.contrast)
    alpha = ink[..., None].astype(np.float32) / 255
    if style.outline:
        edge = cv2.dilate(ink, np.ones((3, 3), np.uint8))[..., None].astype(np.float32) / 255
        rim = np.full(3, 0.0 if shade.mean() > 110 else 255.0, np.float32)
        area[:] = area * (1 - edge) + rim * edge
    area[:] = area * (1 - alpha) + shade * alpha


def scatter_text(rng: Rng, split: str, canvas: Canvas, count: int, medical: bool, unit: float) -> None:
    """Tries to place `count` blocks at random. `unit`: finished pixels per canvas pixel."""
    height, width = canvas.mask.shape
    for _ in range(count):
        small = rng.random() < 0.75
        em = max(7, int(np.exp(rng.uniform(np.log(11), np.log(40 if small else 125))) / unit))
        lines = [phrase(rng, medical) for _ in range(1 if rng.random() < 0.7 else rng.integers(2, 5))]
        block = set_block(
            rng, random_face(rng, split, em), lines, str(rng.choice(["left", "centre", "right"]))
        )
        turn = rng.random()
        angle = 0.0 if turn < 0.5 else rng.uniform(-15, 15) if turn < 0.9 else float(rng.choice([90, -90]))
        style = TextStyle(angle, contrast=float(rng.choice([35, 60, 90, 130])), outline=rng.random() < 0.15)
        if rng.random() < 0.2:
            style.plate = colour(rng)
        for _ in range(4):
            x, y = int(rng.integers(1, width)), int(rng.integers(1, height))
            x = min(x, max(1, width - block.ink.shape[1])) if rng.random() < 0.7 else x
            if canvas.put(rng, block, em, x, y, style):
                break


# ---------------------------------------------------------------------------- ultrasound pictures


def _speckle(rng: Rng, rows: int, cols: int) -> np.ndarray:
    """Ultrasound-like echoes in 0..1, rows (depth) x cols (beams): layered tissue times Rayleigh speckle."""
    tissue = clouds(rng, rows, cols, 3) ** rng.uniform(1.2, 3.5)
    layers = clouds(rng, rows, 4, 5)[:, :1] ** 2
    noise = rng.rayleigh(0.55, (rows, cols)).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), rng.uniform(0.8, 2.5), sigmaY=rng.uniform(0.4, 1.2))
    depth = np.linspace(1, rng.uniform(0.2, 1), rows, dtype=np.float32)[:, None]
    for _ in range(rng.integers(0, 5)):  # chambers, vessels, cysts
        centre = (int(rng.integers(cols)), int(rng.integers(rows)))
        axes = (int(rng.integers(cols // 16, cols // 4)), int(rng.integers(rows // 16, rows // 4)))
        hole = np.ones((rows, cols), np.float32)
        cv2.ellipse(hole, centre, axes, rng.uniform(0, 180), 0, 360, float(rng.uniform(0, 0.4)), -1)
        tissue = tissue * cv2.GaussianBlur(hole, (0, 0), 3)
    for _ in range(rng.integers(0, 4)):  # bright interfaces
        a, b = _points(rng, rows, cols, 2)
        cv2.line(tissue, a.tolist(), b.tolist(), float(rng.uniform(0.5, 1)), int(rng.integers(1, 8)))
    return np.clip((0.75 * tissue + 0.25 * layers) * noise * depth * rng.uniform(0.7, 2.0), 0, 1)


def _sector(rng: Rng, height: int, width: int) -> np.ndarray:
    """A sector or convex probe's picture on black, height x width float32 0..255."""
    echo = _speckle(rng, 192, 160)
    apex_x, apex_y = width * rng.uniform(0.35, 0.65), height * rng.uniform(-0.1, 0.2)
    near, far = height * rng.uniform(0, 0.2), height * rng.uniform(0.6, 0.95)
    half = rng.uniform(0.45, 0.9)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    radius = np.hypot(x - apex_x, y - apex_y)
    angle = np.arctan2(x - apex_x, np.maximum(y - apex_y, 1e-3))
    rows, cols = (radius - near) / (far - near) * 191, (angle + half) / (2 * half) * 159
    rows = np.where(y > apex_y, rows, -9).astype(np.float32)
    return cv2.remap(echo, cols.astype(np.float32), rows, cv2.INTER_LINEAR) * 255


def _linear(rng: Rng, split: str, image: np.ndarray) -> None:
    """A linear probe's rectangular picture, or a real probe picture of the split, somewhere in the frame."""
    height, width = image.shape[:2]
    tall, wide = int(height * rng.uniform(0.4, 0.75)), int(width * rng.uniform(0.4, 0.85))
    top, left = int(rng.integers(height - tall)), int(rng.integers(width - wide))
    real = pictures(split, "probe")
    if real and rng.random() < 0.6:
        picture = random_view(rng, real[rng.integers(len(real))], tall, wide).astype(np.float32)
        picture = picture.mean(2, keepdims=True) if rng.random() < 0.4 else picture
        image[top : top + tall, left : left + wide] = picture * rng.uniform(0.6, 1.1)
    else:
        echo = cv2.resize(_speckle(rng, 128, 160), (wide, tall)) * 255
        image[top : top + tall, left : left + wide] = echo[..., None]


def _echoes(rng: Rng, image: np.ndarray) -> None:
    """Speckled, curved bright streaks in rows as high as letters: reverberations under the probe, muscle."""
    height, width = image.shape[:2]
    for _ in range(rng.integers(1, 5)):
        tall, wide = int(height * rng.uniform(0.06, 0.25)), int(width * rng.uniform(0.06, 0.4))
        top, left = int(rng.integers(height - tall)), int(rng.integers(width - wide))
        noise = rng.standard_normal((tall, wide), dtype=np.float32)
        noise = cv2.GaussianBlur(noise, (0, 0), rng.uniform(1.2, 5), sigmaY=rng.uniform(0.6, 1.6))
        streaks = np.clip(0.3 + 0.4 * noise / noise.std(), 0, 1)
        y, x = np.mgrid[0:tall, 0:wide].astype(np.float32)
        bend = rng.uniform(-0.3, 0.5) * tall * ((2 * x / wide - 1) ** 2)
        if rng.random() < 0.6:
            streaks *= 0.5 + 0.5 * np.cos(2 * np.pi * (y + bend) / rng.uniform(4, 16))
        fade = np.sin(np.pi * (y + 0.5) / tall) * np.sin(np.pi * (x + 0.5) / wide)
        streaks = cv2.remap(streaks * fade, x, y + bend, cv2.INTER_LINEAR)
        image[top : top + tall, left : left + wide] += streaks[..., None] * rng.uniform(60, 320)


def _strands(rng: Rng, image: np.ndarray) -> None:
    """Bright speckled strands in the probe picture: septa, valve leaflets, chambers with their walls."""
    height, width = image.shape[:2]
    level = np.zeros((height, width), np.float32)
    unit = height / HEIGHT  # thicknesses are given in pixels of the finished scene
    for _ in range(rng.integers(1, 7)):
        layer = np.zeros((height, width), np.float32)
        thick = max(1, round(float(rng.uniform(4, 20)) * unit))
        if rng.random() < 0.25:  # a chamber: its wall, or a part of it, around a dark inside
            centre = (int(width * rng.uniform(0.2, 0.8)), int(height * rng.uniform(0.15, 0.85)))
            axes = (int(width * rng.uniform(0.04, 0.18)), int(height * rng.uniform(0.05, 0.22)))
            angle, start = rng.uniform(0, 180), rng.uniform(0, 360)
            hole = np.zeros((height, width), np.float32)
            cv2.ellipse(hole, centre, axes, angle, 0, 360, 1.0, -1)
            hole = cv2.GaussianBlur(hole, (0, 0), 3 * unit + 0.5)
            image *= 1 - rng.uniform(0.5, 0.95) * hole[..., None]
            level *= 1 - 0.9 * hole
            sweep = rng.uniform(90, 360)
            cv2.ellipse(layer, centre, axes, angle, start, start + sweep, 1.0, thick, cv2.LINE_AA)
        else:  # a strand: a bent line of any direction, steep ones most often, tapered at random
            lean = rng.normal(np.pi / 2, 0.45) if rng.random() < 0.6 else rng.uniform(0, np.pi)
            reach = height * rng.uniform(0.06, 0.45)
            along = np.linspace(-0.5, 0.5, 24)
            bend = rng.uniform(-0.25, 0.25) * (1 - 4 * along**2)
            bend += rng.uniform(0, 0.06) * np.sin(along * rng.uniform(5, 30) + rng.uniform(0, 6.3))
            x = width * rng.uniform(0.2, 0.8) + reach * (along * np.cos(lean) - bend * np.sin(lean))
            y = height * rng.uniform(0.15, 0.85) + reach * (along * np.sin(lean) + bend * np.cos(lean))
            points = np.stack([x, y], 1).round().astype(np.int32)
            taper = rng.uniform(0.3, 1, 2)
            for at in range(len(points) - 1):
                share = taper[0] + (taper[1] - taper[0]) * at / len(points)
                ends = points[at].tolist(), points[at + 1].tolist()
                cv2.line(layer, *ends, 1.0, max(1, round(thick * float(share))), cv2.LINE_AA)
        layer = cv2.GaussianBlur(layer, (0, 0), max(0.4, unit * rng.uniform(0.8, 6)))
        if rng.random() < 0.75:  # broken into blobs
            size = max(0.7, unit * rng.uniform(1.5, 7))
            flat = max(0.6, size * rng.uniform(0.3, 1))
            noise = rng.standard_normal((height, width), dtype=np.float32)
            across, down = (size, flat) if rng.random() < 0.7 else (flat, size)
            noise = cv2.GaussianBlur(noise, (0, 0), across, sigmaY=down)
            noise /= noise.std()
            hard = rng.uniform(0.4, 3)
            layer *= np.clip(rng.uniform(0.2, 0.7) + hard * noise, 0, 1)
        speckle = rng.rayleigh(0.6, (height, width)).astype(np.float32)
        wide = max(0.5, unit * rng.uniform(1, 3.5))
        speckle = cv2.GaussianBlur(speckle, (0, 0), wide, sigmaY=wide * rng.uniform(0.4, 1))
        level = np.maximum(level, layer * (0.3 + speckle) * rng.uniform(0.35, 1.1))
    level = cv2.GaussianBlur(level, (0, 0), max(0.3, unit * rng.uniform(0.6, 2)))
    if rng.random() < 0.5:  # what the scanner had compressed already
        shown = np.clip(level * 255, 0, 255).astype(np.uint8)
        level = _jpeg(shown, int(rng.integers(30, 90)))[..., 0] / np.float32(255)
    tint = np.array([1, 1, 1] if rng.random() < 0.7 else rng.uniform(0.75, 1.1, 3), np.float32)
    image += level[..., None] * tint * rng.uniform(140, 270)


def _doppler(rng: Rng, image: np.ndarray) -> None:
    """A colour flow window: blobs of red-yellow or blue-cyan inside a thin frame."""
    height, width = image.shape[:2]
    tall, wide = int(height * rng.uniform(0.15, 0.4)), int(width * rng.uniform(0.15, 0.4))
    top, left = int(rng.integers(height - tall)), int(rng.integers(width - wide))
    flow = clouds(rng, tall, wide, 4)[..., None]
    hot = np.array([255, 200, 30] if rng.random() < 0.5 else [40, 160, 255], np.float32)
    window = image[top : top + tall, left : left + wide]
    window[:] = np.where(flow > rng.uniform(0.5, 0.75), hot * flow, window)
    if rng.random() < 0.6:
        cv2.rectangle(image, (left, top, wide, tall), (180, 180, 180), 1)


def _menu_bar(rng: Rng, split: str, canvas: Canvas, unit: float, with_text: bool) -> None:
    """A row of soft-key cells at the top or bottom edge, each with an icon, a word or both."""
    height, width = canvas.mask.shape
    em = max(7, int(rng.uniform(13, 24) / unit))
    tall, bottom = int(em * rng.uniform(1.3, 1.9)), rng.random() < 0.75
    top = height - tall - int(rng.integers(0, 3)) if bottom else int(rng.integers(0, 3))
    left, right = (
        (0, width) if rng.random() < 0.4 else (int(width * 0.12), int(width * rng.uniform(0.75, 0.95)))
    )
    ground = rng.uniform(0, 1) * np.array([rng.uniform(10, 50), rng.uniform(20, 60), rng.uniform(40, 110)])
    canvas.image[top : top + tall, left:right] = ground
    cells = int(rng.integers(3, 8))
    face = random_face(rng, split, em, 0.1)
    level = float(ground.mean()) + rng.uniform(45, 180)
    ink = np.clip(np.array([0.9, 0.95, 1.05]) * level, 0, 255).astype(np.float32)
    pictogram = np.clip(ground * 2 + np.array([20, 40, 110]) * rng.uniform(0.4, 1.4), 0, 255).tolist()
    edge = np.clip(ground + rng.uniform(20, 120), 0, 255).tolist()
    for cell in range(cells):
        x0 = left + (right - left) * cell // cells
        cv2.line(canvas.image, (x0, top), (x0, top + tall), edge, 1)
        size, x = int(tall * rng.uniform(0.45, 0.7)), x0 + int(rng.integers(2, 8))
        if rng.random() < 0.75:
            icon(rng, canvas.image, x, top + (tall - size) // 2, size, pictogram)
            x += int(size * 1.3) + int(rng.integers(2, 10))
        if with_text and rng.random() < 0.85:
            block = set_block(rng, face, [phrase(rng, True)[:9].strip() or "On"], "left")
            if block.boxes and x + max(b[0] + b[2] for b in block.boxes) < x0 + (right - left) // cells:
                ink_tall = max(b[1] + b[3] for b in block.boxes) - min(b[1] for b in block.boxes)
                canvas.put(rng, block, em, x, max(0, top + (tall - ink_tall) // 2), TextStyle(ink=ink))


def _column(rng: Rng, split: str, canvas: Canvas, unit: float) -> None:
    """Settings down the left or right edge, or a header line: one face, one grey or colour, several gaps."""
    height, width = canvas.mask.shape
    em = max(7, int(rng.uniform(12, 26) / unit))
    face = random_face(rng, split, em, 0.15)
    level = rng.choice([rng.uniform(70, 130), rng.uniform(120, 255)])
    ink = np.clip(level * np.array([1, 1, 1] if rng.random() < 0.7 else rng.uniform(0.5, 1.3, 3)), 0, 255)
    on_right = rng.random() < 0.5
    y = int(rng.integers(1, height // 3))
    for _ in range(rng.integers(2, 9)):
        lines = [str(p)[:14].strip() or "S" for p in (phrase(rng, True) for _ in range(rng.integers(1, 3)))]
        block = set_block(rng, face, lines, "centre" if on_right else "left")
        if not block.boxes:
            continue
        wide = max(b[0] + b[2] for b in block.boxes) - min(b[0] for b in block.boxes)
        tall = max(b[1] + b[3] for b in block.boxes) - min(b[1] for b in block.boxes)
        x = width - wide - int(rng.integers(3, 12)) if on_right else int(rng.integers(2, 8))
        canvas.put(rng, block, em, x, y, TextStyle(ink=ink.astype(np.float32)))
        y += tall + int(em * rng.choice([0.4, 0.6, 1.5, 3.0]))
        if rng.random() < 0.25:
            size = int(em * rng.uniform(0.6, 1.2))
            icon(
                rng,
                canvas.image,
                max(0, x),
                min(y, height - size - 2),
                size,
                (ink * rng.uniform(0.5, 1)).tolist(),
            )
            y += int(size * 1.6)


def _depth_scale(rng: Rng, canvas: Canvas) -> None:
    """Grey dots and ticks at regular depths, near the right or left edge."""
    height, width = canvas.mask.shape
    x = int(width * rng.choice([rng.uniform(0.02, 0.12), rng.uniform(0.86, 0.98)]))
    step, major, level = int(rng.integers(4, 24)), int(rng.integers(2, 6)), float(rng.uniform(60, 230))
    faint = float(rng.choice([0, rng.uniform(20, 90)]))  # minor depths as single dim dots
    for tick, y in enumerate(range(int(height * 0.08), int(height * rng.uniform(0.7, 0.98)), step)):
        long = tick % major == 0
        if not long and faint:
            canvas.image[y, x] += faint
            continue
        cv2.line(canvas.image, (x, y), (x + (int(rng.integers(0, 4)) if long else 0), y), [level] * 3, 1)
        if long and rng.random() < 0.5:
            cv2.circle(canvas.image, (x, y), 1, [level] * 3, -1)


def ultrasound(
    rng: Rng,
    split: str,
    height: int,
    width: int,
    with_text: bool,
    echoes: bool = False,
    strands: bool = False,
) -> Canvas:
    """A scanner's screen: probe picture, and around it text columns, scales, menu bar and icons."""
    unit = HEIGHT / height
    ground = rng.uniform(0, 12) if rng.random() < 0.8 else rng.uniform(12, 60)
    canvas = Canvas(np.full((height, width, 3), ground, np.float32), np.zeros((height, width), np.uint8))
    if rng.random() < 0.6:
        canvas.image += (_sector(rng, height, width) * rng.uniform(0.4, 1))[..., None]
    else:
        _linear(rng, split, canvas.image)
    if echoes:
        _echoes(rng, canvas.image)
    if strands and rng.random() < 0.85:
        _strands(rng, canvas.image)
    if rng.random() < 0.25:
        _doppler(rng, canvas.image)
    if rng.random() < 0.75:
        _depth_scale(rng, canvas)
    scatter_distractors(rng, split, canvas.image, 3)
    if rng.random() < 0.6:
        _menu_bar(rng, split, canvas, unit, with_text)
    if with_text:
        for _ in range(rng.integers(1, 4)):
            _column(rng, split, canvas, unit)
        scatter_text(rng, split, canvas, int(rng.integers(0, 5)), True, unit)
    return canvas


# ----------------------------------------------------------------------------------- other scenes


def _recolour(rng: Rng, image: np.ndarray) -> np.ndarray:
    """Random gamma, brightness, channel order, sometimes grey or negative; RGB float32 0..255."""
    image = 255 * np.clip(image / 255, 0, 1) ** rng.uniform(0.5, 1.9)
    if rng.random() < 0.3:
        image = image[..., rng.permutation(3)]
    if rng.random() < 0.15:
        image = np.repeat(image.mean(2, keepdims=True), 3, axis=2)
    if rng.random() < 0.12:
        image = 255 - image
    image = np.clip(image * rng.uniform(0.5, 1.1) + rng.uniform(-15, 30), 0, 255)
    return np.ascontiguousarray(image, np.float32)  # OpenCV draws into this layout only


def photo(rng: Rng, split: str, height: int, width: int, with_text: bool) -> Canvas:
    """Text of any look over a photograph or a procedural texture."""
    stock = pictures(split, "photo")
    if rng.random() < 0.55:
        ground = random_view(rng, stock[rng.integers(len(stock))], height, width).astype(np.float32)
        ground = _recolour(rng, ground)
    else:
        ground = texture(rng, split, height, width)
        if rng.random() < 0.5:
            ground += rng.standard_normal(ground.shape, dtype=np.float32) * rng.uniform(1, 14)
    canvas = Canvas(np.ascontiguousarray(ground), np.zeros((height, width), np.uint8))
    scatter_distractors(rng, split, canvas.image, 4)
    if with_text:
        scatter_text(rng, split, canvas, int(rng.integers(2, 15)), False, HEIGHT / height)
    return canvas


def slice_(rng: Rng, split: str, height: int, width: int, with_text: bool) -> Canvas:
    """A CT, MR or NM picture with annotations in the corners and anywhere."""
    stock = pictures(split, "slice")
    ground = random_view(rng, stock[rng.integers(len(stock))], height, width).astype(np.float32)
    if rng.random() < 0.5:  # picture in the middle, black around it
        framed = np.zeros_like(ground)
        side = int(rng.uniform(0.05, 0.25) * width)
        framed[:, side : width - side] = cv2.resize(ground, (width - 2 * side, height))
        ground = framed
    canvas = Canvas(_recolour(rng, ground), np.zeros((height, width), np.uint8))
    scatter_distractors(rng, split, canvas.image, 2)
    if with_text:
        for _ in range(rng.integers(1, 4)):
            _column(rng, split, canvas, HEIGHT / height)
        scatter_text(rng, split, canvas, int(rng.integers(1, 7)), True, HEIGHT / height)
    return canvas


# --------------------------------------------------------------------------------------- finished


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def _wear(rng: Rng, image: np.ndarray) -> np.ndarray:
    """Blur, noise, brightness and JPEG artefacts. H x W x 3 float32 0..255 -> uint8."""
    if rng.random() < 0.45:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.1))
    if rng.random() < 0.3:
        image = image + rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(1, 9)
    if rng.random() < 0.15:
        image = image * (
            1 + rng.standard_normal(image.shape[:2], dtype=np.float32)[..., None] * rng.uniform(0, 0.2)
        )
    if rng.random() < 0.3:
        image = image * rng.uniform(0.5, 1.15)
    worn = np.clip(image, 0, 255).astype(np.uint8)
    return _jpeg(worn, int(rng.integers(35, 96))) if rng.random() < 0.6 else worn


def _to_frame(rng: Rng, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Any size -> 480 x 640, stretched to fit the width and, where it is flatter, letterboxed."""
    tall = min(HEIGHT, round(image.shape[0] * WIDTH / image.shape[1]))
    how = cv2.INTER_LINEAR if image.shape[1] < WIDTH else cv2.INTER_AREA
    image = cv2.resize(image, (WIDTH, tall), interpolation=how)
    mask = cv2.resize(mask, (WIDTH, tall), interpolation=cv2.INTER_LINEAR)
    if tall < HEIGHT:
        top = (HEIGHT - tall) // 2
        bars = (top, HEIGHT - tall - top, 0, 0)
        image = cv2.copyMakeBorder(
            image, *bars, cv2.BORDER_CONSTANT, value=[int(rng.choice([0, 114, 128]))] * 3
        )
        mask = cv2.copyMakeBorder(mask, *bars, cv2.BORDER_CONSTANT, value=0)
    return image, np.where(mask >= 128, 255, 0).astype(np.uint8)


ECHOES_FROM = 20_000
ECHOES_TO = 40_000  # training scenes of these indices have bright echoes in their ultrasound pictures
STRANDS_FROM = 30_000  # from here on echoes in half of them, strands in most, and more ultrasound


def make_scene(seed: int, split: str, index: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Scene `index` of a split -> (image 480 x 640 x 3 RGB uint8, mask 480 x 640 uint8 0/255, kind)."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    strands = STRANDS_FROM <= index < ECHOES_TO
    shares = [0.6, 0.3, 0.1] if strands else [0.4, 0.48, 0.12]
    kind = str(rng.choice(["ultrasound", "photo", "slice"], p=shares))
    with_text = rng.random() >= 0.15
    sizes = {"ultrasound": [0.7, 0.25, 0.05], "photo": [0.15, 0.65, 0.2], "slice": [0.4, 0.5, 0.1]}[kind]
    height, width = [(240, 320), (480, 640), (720, 1280)][rng.choice(3, p=sizes)]
    if kind == "ultrasound":
        echoes = ECHOES_FROM <= index < ECHOES_TO and not (strands and rng.random() < 0.5)
        canvas = ultrasound(rng, split, height, width, with_text, echoes, strands)
    else:
        canvas = {"photo": photo, "slice": slice_}[kind](rng, split, height, width, with_text)
    image, mask = _to_frame(rng, _wear(rng, canvas.image), canvas.mask)
    if rng.random() < 0.2:
        image = _jpeg(image, int(rng.integers(50, 96)))
    return image, mask, kind if with_text else "empty"


def to_cells(mask: np.ndarray) -> np.ndarray:
    """Mask H x W uint8 0/255 -> share of each 4 x 4 cell that is text, H/4 x W/4 uint8 0..255."""
    return cv2.resize(mask, (mask.shape[1] // CELL, mask.shape[0] // CELL), interpolation=cv2.INTER_AREA)
