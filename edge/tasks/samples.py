"""Pictures of calibration and evaluation sets: found in name order, read as a camera would deliver them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from edge.config import SamplesConfig
from edge.dicom.part10 import SUFFIXES, dicom_files, is_dicom
from edge.errors import InputError
from edge.tasks import Sample
from edge.types import Image

if TYPE_CHECKING:
    from edge.dicom.volume import Volume

PICTURES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})


def find_samples(config: SamplesConfig, label: Callable[[Path], Any] | None = None) -> list[Sample]:
    """The folder's pictures with their labels, at most `config.limit`.

    Args:
        label: picture path → its label, None where the set says nothing about it.

    Raises:
        InputError: the folder cannot be read, or holds no picture.
    """
    paths = find_pictures(config.images)
    if config.labels and config.images in config.labels.parents:  # masks in a folder below their pictures
        paths = [path for path in paths if config.labels not in path.parents]
    return [Sample(path, label(path) if label else None) for path in paths[: config.limit]]


def find_series(config: SamplesConfig, suffix: str) -> list[Sample]:
    """The folder and those below that hold DICOM files, each a series, in the order of their relative names.

    Args:
        suffix: of label files: those of the folder `a/b` are `a/b.npy` in `config.labels`, where they exist.

    Raises:
        InputError: the folder cannot be read, or holds no DICOM file.
    """
    root = config.images
    if not root.is_dir():
        why = "it is a file" if root.exists() else "there is no such folder"
        raise InputError(f"cannot read the folder of series {root}", why, "check the path")
    folders = sorted({path.parent for path in dicom_files(root)})
    if not folders:
        raise InputError(f"no series in {root}", "none of its files is a DICOM file", "check the path")
    return [Sample(folder, _labels_of(folder, config, suffix)) for folder in folders[: config.limit]]


def _labels_of(folder: Path, config: SamplesConfig, suffix: str) -> Path | None:
    if config.labels is None:
        return None
    name = folder.relative_to(config.images) if folder != config.images else Path(folder.name)
    labels = config.labels / name.with_name(name.name + suffix)
    return labels if labels.is_file() else None


def content_sha256(path: Path) -> str:
    """Hash of a sample: of the file, or of the DICOM files of a series's folder, whatever they are called."""
    files = [path] if path.is_file() else [file for file in dicom_files(path) if file.parent == path]
    digests = sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    return digests[0] if path.is_file() else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def as_picture(given: Image | Volume) -> Image:
    """What a sample shows to people: of a series the middle slice."""
    return given if isinstance(given, np.ndarray) else given.picture()[0]


def find_pictures(folder: Path) -> list[Path]:
    """Images and DICOM files in `folder` and below, in the order of their relative names.

    A PNG beside another picture of the same stem is that picture's mask and is left out.

    Raises:
        InputError: the folder cannot be read, or holds no picture.
    """
    if not folder.is_dir():
        why = "it is a file" if folder.exists() else "there is no such folder"
        raise InputError(f"cannot read the image folder {folder}", why, "check the path")
    try:
        found = [path for path in folder.rglob("*") if is_picture(path)]
    except OSError as e:
        raise InputError(f"cannot read {folder}", e.strerror or str(e), "check its permissions") from e
    pictures = _without_masks(found)
    if not pictures:
        raise InputError(
            f"no pictures in {folder}",
            f"none of its files ends in {', '.join(sorted(PICTURES | SUFFIXES))}, or is a DICOM file",
            "check the path",
        )
    return sorted(pictures, key=lambda path: path.relative_to(folder).as_posix())


def _without_masks(paths: Iterable[Path]) -> list[Path]:
    paths = list(paths)
    owners = {path.with_suffix("") for path in paths if path.suffix.lower() != ".png"}
    return [path for path in paths if path.suffix.lower() != ".png" or path.with_suffix("") not in owners]


def is_picture(path: Path) -> bool:
    """By its suffix; a file without one is looked into for the DICOM mark."""
    if path.name.startswith("."):
        return False
    suffix = path.suffix.lower()
    if suffix in PICTURES or suffix in SUFFIXES:
        return path.is_file()
    return not suffix and path.is_file() and is_dicom(path)


def read_picture(path: Path) -> Image:
    """The picture as H × W × 3 uint8 BGR; of a multi-frame DICOM file the first frame.

    Raises:
        InputError: there is no such file, or it is not a picture.
    """
    if is_dicom(path):
        from edge.dicom.pixels import open_dicom

        picture, _ = open_dicom(path).frame(0)
        return picture
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as e:
        raise InputError(f"cannot read {path}", e.strerror or str(e), "check the path") from e
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise InputError(f"cannot decode {path}", "it is damaged or not an image", "replace or remove it")
    return np.asarray(image, np.uint8)
