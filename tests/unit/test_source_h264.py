"""Pictures of H.264 that are missing are noticed by their numbers, in streams of a real encoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge.sources.h264 import FrameNumbers

av = pytest.importorskip("av")


def encode(count: int = 60, **options: str) -> list[bytes]:
    """Access units of a moving picture, the first with its parameter sets."""
    try:
        encoder: Any = av.CodecContext.create("libx264", "w")
    except av.error.FFmpegError:
        pytest.skip("this FFmpeg has no libx264")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.framerate = 96, 64, "yuv420p", 25
    encoder.options = {"preset": "veryfast", "forced-idr": "1", **options}
    packets = []
    for number in range(count):
        image = np.full((64, 96, 3), 90, np.uint8)
        image[10:30, number % 70 : number % 70 + 20] = (200, 80, 30)
        frame = av.VideoFrame.from_ndarray(image, format="bgr24")
        frame.pts = number
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    return [bytes(packet) for packet in packets]


STREAMS = {
    "as cameras send it": {"tune": "zerolatency", "g": "20"},
    "one key frame": {"tune": "zerolatency", "g": "1000"},
    "slices": {"tune": "zerolatency", "x264-params": "slices=4"},
    "many references": {"tune": "zerolatency", "x264-params": "ref=4"},
    "frames between": {"x264-params": "bframes=3:b-pyramid=normal:b-adapt=0"},
    "interlaced": {"x264-params": "interlaced=1:bframes=0"},
    "refreshed bit by bit": {"tune": "zerolatency", "x264-params": "intra-refresh=1:keyint=20"},
    "scaling matrices": {"profile": "high", "x264-params": "cqm=jvt:8x8dct=1"},
}


@pytest.mark.parametrize("options", STREAMS.values(), ids=STREAMS)
def test_a_whole_stream_has_no_gap(options: dict[str, str]) -> None:
    numbers = FrameNumbers()
    units = encode(**options)
    assert len(units) == 60
    assert not any(numbers.gap(unit) for unit in units)


@pytest.mark.parametrize("options", STREAMS.values(), ids=STREAMS)
def test_a_lost_picture_that_others_build_on_is_a_gap(options: dict[str, str]) -> None:
    units = encode(**options)
    for lost in range(1, len(units) - 1):
        is_reference, is_key = slices(units[lost])
        if is_reference and not is_key and not slices(units[lost + 1])[1]:
            numbers = FrameNumbers()
            found = [numbers.gap(unit) for unit in units[:lost] + units[lost + 1 :]]
            assert found.index(True) == lost
            assert sum(found) == 1, "after it all is well again"


def slices(unit: bytes) -> tuple[bool, bool]:
    """Whether others build on a picture, and whether it is a key frame that starts anew."""
    heads = [part[0] for part in unit.split(b"\0\0\1")[1:] if part[0] & 31 in (1, 5)]
    return bool(heads[0] & 0x60), heads[0] & 31 == 5


def test_parameter_sets_may_come_apart_from_the_pictures() -> None:
    units = encode(tune="zerolatency")
    cut = units[0].index(b"\0\0\1\x65")
    numbers = FrameNumbers()
    assert not numbers.gap(units[0][:cut])
    assert not numbers.gap(units[0][cut:])
    assert numbers.gap(units[2])


def test_without_parameter_sets_nothing_is_said() -> None:
    units = encode(tune="zerolatency", g="1000")
    numbers = FrameNumbers()
    assert not any(numbers.gap(unit) for unit in units[1::2])


def test_garbage_is_no_error() -> None:
    random = np.random.default_rng(1)
    units = encode(count=20, tune="zerolatency")
    for _ in range(300):
        data = bytearray(units[int(random.integers(len(units)))])
        for _ in range(8):
            data[int(random.integers(len(data)))] = int(random.integers(256))
        FrameNumbers().gap(bytes(data[: int(random.integers(len(data)))]))
    numbers = FrameNumbers()
    for data in (b"", b"\0\0\1", b"\0\0\1\x67", b"\0\0\1\x67" + bytes(40), b"\0\0\1\x65" + b"\xff" * 9):
        assert not numbers.gap(data)
