"""A series of slices: one range for those without a window, and a window by number or name for a feed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")

from edge.dicom.series import SAMPLED, Frames, in_series
from edge.errors import InputError
from edge.sources import open_source
from tests.dicoms import write


def slices(folder: Path, values: list[int], series: str = "1.2.9", **elements: Any) -> list[Path]:
    """16-bit slices of 2 × 2 pixels: 0 and a value of their own."""
    folder.mkdir(exist_ok=True)
    return [
        write(
            folder / f"{series}-{number:03}.dcm",
            np.array([[0, value], [value, value]], np.uint16),
            SeriesInstanceUID=series,
            InstanceNumber=number,
            **elements,
        )
        for number, value in enumerate(values)
    ]


def shown(uri: str) -> list[tuple[int, str]]:
    """The brightest pixel of each picture, and its VOI step."""
    pictures = list(iter(open_source(uri).read, None))
    steps = [next(s for s in p.meta["transforms"] if s.startswith("voi")) for p in pictures]
    return [(int(p.image.max()), step) for p, step in zip(pictures, steps, strict=True)]


def test_slices_without_a_window_share_one_range(tmp_path):
    slices(tmp_path / "study", [1000, 500, 250])
    assert shown(f"dicom:{tmp_path / 'study'}") == [
        (255, "voi: none, series range 0..1000"),
        (128, "voi: none, series range 0..1000"),
        (64, "voi: none, series range 0..1000"),
    ]


def test_each_series_has_a_range_of_its_own_and_a_file_alone_too(tmp_path):
    slices(tmp_path / "study", [1000, 500], "1.2.1")
    slices(tmp_path / "study", [80, 40], "1.2.2")
    (alone,) = slices(tmp_path / "other", [500])
    assert [brightest for brightest, _ in shown(f"dicom:{tmp_path / 'study'}")] == [255, 128, 255, 128]
    assert shown(f"dicom:{alone}") == [(255, "voi: none, frame range 0..500")]


def test_slices_with_a_window_keep_it(tmp_path):
    slices(tmp_path / "study", [1000, 500], WindowCenter=250, WindowWidth=500, VOILUTFunction="LINEAR_EXACT")
    assert [brightest for brightest, _ in shown(f"dicom:{tmp_path / 'study'}")] == [255, 255]


def test_a_long_series_is_looked_at_in_places_and_a_broken_slice_is_left_out(tmp_path):
    files = slices(tmp_path / "study", [100] * 17 + [900, 100, 700])
    files[0].write_bytes(files[0].read_bytes()[:-4])
    (series,) = in_series(files)
    assert series.span is not None
    assert (series.span.low, series.span.high) == (0, 700)
    assert series.span.name == f"range of {SAMPLED} of {SAMPLED + 4} slices"


def test_a_window_of_a_feed_is_a_number_or_an_explanation(tmp_path):
    elements = {"WindowCenter": ["100", "500"], "WindowWidth": ["200", "1000"]}
    (file,) = slices(tmp_path, [500], WindowCenterWidthExplanation=["SOFT", "LUNG"], **elements)
    assert "center 100" in shown(f"dicom:{file}")[0][1]
    assert "center 500" in shown(f"dicom:{file}?window=1")[0][1]
    assert "center 500" in shown(f"dicom:{file}?window=lung")[0][1]
    with pytest.raises(InputError, match="no window BONE"):
        open_source(f"dicom:{file}?window=BONE").read()


def test_a_file_that_cannot_be_opened_costs_its_own_frames_alone(tmp_path):
    files = slices(tmp_path / "study", [100, 100, 100])
    files[1].write_bytes(b"\0" * 128 + b"DICM" + b"garbage" * 40)
    frames, read, lost = Frames(files), [], []
    while True:
        try:
            if not frames.open():
                break
            assert frames.path is not None
            read.append((frames.path, frames.read()[0]))
        except InputError:
            lost.append(frames.path)
    assert read == [(files[0], 0), (files[2], 0)] and lost == [files[1]]
