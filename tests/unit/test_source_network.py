"""Streams of the network: addresses and their secrets, times, key frames, and streams of a real server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from mjpeg import mjpeg_server
from rtsp import RtspServer, draw_number, free_port, number_of

from edge.address import without_password
from edge.errors import InputError, MissingPackage, UsageError
from edge.sources import Damaged, keyframes, locate, lookup, network, open_source
from edge.sources.url import parse

pytest.importorskip("av")


# ---- addresses


def describe(uri: str) -> Any:
    return network.describe(locate(uri)[1])


def full(uri: str) -> str:
    """What FFmpeg is asked for."""
    return parse(locate(uri)[1], network.SETTINGS).full


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://guard:s3cret@10.0.0.7/live", "rtsp://guard:***@10.0.0.7/live"),
        ("rtsp://guard:s3%40cret@10.0.0.7:554/live", "rtsp://guard:***@10.0.0.7:554/live"),
        ("rtsp://guard:s3@cret@10.0.0.7/live", "rtsp://guard:***@10.0.0.7/live"),
        ("rtsp://guard:s3/cret@10.0.0.7/live", "rtsp://guard:***@10.0.0.7/live"),
        ("rtsp://guard:s3#c?ret@10.0.0.7/live", "rtsp://guard:***@10.0.0.7/live"),
        ("rtsp://guard:s3@cr/et@10.0.0.7/live", "rtsp://guard:***@10.0.0.7/live"),
        ("rtsp://:s3cret@10.0.0.7/live", "rtsp://:***@10.0.0.7/live"),
        (
            "http://10.0.0.7/live?user=guard&password=s3cret&n=1",
            "http://10.0.0.7/live?user=guard&password=***&n=1",
        ),
        ("http://10.0.0.7/live?access_token=s3cret", "http://10.0.0.7/live?access_token=***"),
        ("rtsp://10.0.0.7/user=a_password=s3cret_n=1.sdp", "rtsp://10.0.0.7/user=a_password=***"),
        (
            "gst:rtspsrc location=rtsp://h/a user-pw=s3cret ! x",
            "gst:rtspsrc location=rtsp://h/a user-pw=*** ! x",
        ),
        ("rtsp://10.0.0.7:554/live/a@b", "rtsp://10.0.0.7:554/live/a@b"),
        ("passes=3.mp4", "passes=3.mp4"),
    ],
)
def test_an_address_is_shown_without_its_password(address: str, shown: str) -> None:
    assert without_password(address) == shown


@pytest.mark.parametrize(
    ("uri", "label"),
    [
        ("rtsp://guard:s3cret@10.0.0.7:554/live/1", "10.0.0.7-live-1"),
        ("rtsp://10.0.0.7", "10.0.0.7"),
        ("rtsp://10.0.0.7/user=admin_password=s3cret_1.sdp", "10.0.0.7-user=admin_password"),
        ("udp://:5000", "udp-5000"),
        ("udp://239.0.0.1:5000", "239.0.0.1-5000"),
    ],
)
def test_a_label_is_made_of_host_and_path(uri: str, label: str) -> None:
    assert describe(uri).label == label


def test_our_settings_are_taken_out_of_the_query_and_nothing_else_is_touched() -> None:
    uri = "rtsp://10.0.0.7/live?channel=1&transport=udp&subtype=%30%31&&read_timeout=2&empty="
    assert full(uri) == "rtsp://10.0.0.7/live?channel=1&subtype=%30%31&empty="
    assert full("rtsp://10.0.0.7/live?transport=udp") == "rtsp://10.0.0.7/live"
    assert full("rtsp://a:b%2Fc@10.0.0.7/live?") == "rtsp://a:b%2Fc@10.0.0.7/live"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("rtsp://guard:s3cret@10.0.0.7/live?transport=tpc", "did you mean 'tcp'"),
        ("rtsp://guard:s3cret@10.0.0.7/live?read_timeout=soon", "read_timeout='soon'"),
        ("rtsp://guard:s3cret@10.0.0.7/live?open_timeout=0", "not above 0"),
        ("rtsp://guard:s3cret@10.0.0.7/live?open_timeout=nan", "not above 0"),
        ("rtsp://guard:s3cret@10.0.0.7/live?threads=0", "not above 0"),
        ("rtsp://guard:s3cret@/live", "not an address of the network"),
        ("rtsp://guard:s3/cret@10.0.0.7/live", "percent-encoded"),
        ("rtsp://guard:s3 cret@10.0.0.7/live", "percent-encoded"),
        ("rtsp:10.0.0.7/live", "not an address of the network"),
        ("rtps://guard:s3cret@10.0.0.7/live", "did you mean 'rtsp"),
    ],
)
def test_a_wrong_address_is_a_usage_error_without_password(uri: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_source(uri)
    assert said in str(caught.value)
    assert "cret" not in str(caught.value)


def test_without_pyav_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(MissingPackage, match=r"needs the package 'av'.*\[feeds\]"):
        open_source("rtsp://127.0.0.1/live")


def test_a_decoder_that_is_not_there_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no decoder 'abacus'"):
        open_source("rtsp://127.0.0.1:9/live?decoder=abacus")


# ---- names of hosts


def test_a_lookup_that_hangs_ends_in_time_and_is_not_begun_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    answered, asked = threading.Event(), []

    def hang(host: str) -> None:
        asked.append(host)
        answered.wait(60)

    monkeypatch.setattr(lookup, "resolve", hang)
    for _ in range(3):
        with pytest.raises(InputError, match=r"looking up 'camera.example' takes longer than 0\.05 s"):
            open_source("rtsp://camera.example/live?open_timeout=0.05")
    assert asked == ["camera.example"]
    answered.set()


def test_a_host_without_an_address_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(host: str) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(lookup, "resolve", fail)
    with pytest.raises(InputError, match=r"'lost\.example': Name or service not known"):
        open_source("rtsp://lost.example/live")


def test_an_address_in_numbers_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "resolve", lambda host: pytest.fail(f"asked for {host}"))
    for host in ("", "127.0.0.1", "::1"):
        lookup.look_up(host, 1.0, "")


# ---- a real server


@pytest.fixture
def calm(rtsp_server: RtspServer) -> Iterator[RtspServer]:
    yield rtsp_server
    for mount in ("/cam0", "/cam1", "/jpeg"):
        rtsp_server.calm(mount)


def read(source: Any, count: int) -> list[Any]:
    """Pictures, or what was raised instead."""
    seen: list[Any] = []
    while len(seen) < count:
        try:
            picture = source.read()
        except Damaged as e:
            seen.append(e)
        else:
            assert picture is not None, source.problem
            seen.append(picture)
    return seen


@pytest.mark.parametrize(
    "address",
    [
        "/cam0",
        "/cam0?transport=udp",
        "/cam0?transport=http",
        "/cam0?threads=2",
        "/sliced",
        "/jpeg",
        "/both",
        "/cam0?channel=1",
    ],
)
def test_pictures_come_one_after_the_other_with_their_times(rtsp_server: RtspServer, address: str) -> None:
    source = open_source(rtsp_server.url(address))
    pictures = read(source, 8)
    source.close()
    assert (source.live, source.paced, source.truth_kind) == (True, False, None)
    assert source.fps in (20.0, None), "what the server says, if it does"
    assert source.label == "127.0.0.1-" + address[1:].partition("?")[0]
    assert all(picture.image.shape == (240, 320, 3) for picture in pictures)
    numbers = [number_of(picture.image) for picture in pictures]
    assert all((after - before) % 100 == 1 for before, after in pairwise(numbers))
    times = [picture.pts for picture in pictures[1:]]  # the first may come before its time is known
    assert all(0 < after - before < 5 for before, after in pairwise(times))


def test_the_colours_are_bgr(rtsp_server: RtspServer) -> None:
    source = open_source(rtsp_server.url("/cam0"))
    disc = read(source, 1)[0].image[60:, :].reshape(-1, 3).astype(int)
    source.close()
    yellow = disc[disc[:, 2] - disc[:, 0] > 120]
    assert len(yellow) > 1000, "the disc is yellow: much red and green, little blue"
    assert yellow[:, 1].mean() > 180


def test_credentials_are_percent_encoded_in_an_address(rtsp_server: RtspServer) -> None:
    source = open_source(rtsp_server.url("/secret", user="guard:s3cret%2Fword"))
    assert source.label == "127.0.0.1-secret"
    assert len(read(source, 2)) == 2
    source.close()


def test_frames_are_decoded_into_memory_that_is_given(rtsp_server: RtspServer) -> None:
    source: Any = open_source(rtsp_server.url("/cam0"))
    given: list[Any] = []

    def lend(shape: tuple[int, ...]) -> Any:
        given.append(np.zeros(shape, np.uint8))
        return given[-1]

    source.allocate = lend
    assert all(picture.image is memory for picture, memory in zip(read(source, 3), given, strict=True))
    source.close()


def test_in_a_hurry_only_key_frames_are_decoded_and_the_rest_counted(rtsp_server: RtspServer) -> None:
    source: Any = open_source(rtsp_server.url("/cam2"))
    while source._keys.gap > 1:  # two key frames have been seen
        read(source, 1)
    source.hurry = True
    before = source.skipped
    numbers = [number_of(picture.image) for picture in read(source, 3)]
    assert all(number % 10 == 0 for number in numbers[1:]), "each tenth is a key frame"
    assert source.skipped - before >= 2 * 9
    source.hurry = False
    after = [number_of(picture.image) for picture in read(source, 3)]
    source.close()
    assert [n - after[0] for n in after] == [0, 1, 2]
    assert after[0] % 10 == 0 or after[0] == numbers[-1] + 1, "on from a whole picture"


def test_where_key_frames_are_rare_there_is_no_hurry(
    rtsp_server: RtspServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "HURRY_GAP", 0.1)
    source: Any = open_source(rtsp_server.url("/cam2"))
    source.hurry = True
    read(source, 25)
    source.close()
    assert source.skipped == 0


def test_a_stream_that_never_has_a_key_frame_is_believed_again_after_a_while() -> None:
    keys = keyframes.KeyFrames(now=0.0)
    assert keys.waiting(0.0), "what comes first builds on pictures from before"
    assert not keys.waiting(0.1 + keyframes.KEY_PATIENCE)
    keys.wait("damaged", 100.0)
    assert keys.waiting(100.0 + keyframes.KEY_PATIENCE)
    assert not keys.waiting(100.1 + keyframes.KEY_PATIENCE)
    assert not keys.waiting(100.2 + keyframes.KEY_PATIENCE)


def test_a_stream_that_is_joined_in_the_middle_begins_with_a_key_frame(rtsp_server: RtspServer) -> None:
    first = open_source(rtsp_server.url("/cam1"))
    read(first, 3)
    for _ in range(3):
        source: Any = open_source(rtsp_server.url("/cam1"))
        assert number_of(read(source, 1)[0].image) % 10 == 0
        assert source.skipped == 0
        source.close()
        read(first, 4)
    first.close()


def test_another_thread_may_close_it_while_it_waits(calm: RtspServer) -> None:
    source = open_source(calm.url("/cam1?read_timeout=0.5"))
    read(source, 1)
    calm.turn("/cam1", pause=True)
    ended = threading.Thread(target=lambda: [None for _ in iter(source.read, None)])
    ended.start()
    time.sleep(0.1)
    source.close()
    ended.join(20)
    assert not ended.is_alive()
    assert source.read() is None
    source.close()


def test_pictures_over_http_have_no_times_of_their_own() -> None:
    import cv2

    data = cv2.imencode(".jpg", np.full((48, 64, 3), 200, np.uint8))[1].tobytes()
    with mjpeg_server([data] * 4) as url:
        source = open_source(url + "?camera=1")
        pictures = list(iter(source.read, None))
    assert [picture.pts for picture in pictures] == [None] * 4
    assert source.fps is None
    assert source.problem


def test_a_transport_stream_over_udp() -> None:
    import av

    port, sent, stop = free_port(), threading.Event(), threading.Event()

    def send() -> None:
        with av.open(f"udp://127.0.0.1:{port}?pkt_size=1316", "w", format="mpegts") as container:
            stream: Any = container.add_stream("mpeg2video", rate=25)
            stream.width, stream.height, stream.pix_fmt, stream.gop_size = 320, 240, "yuv420p", 5
            for number in range(1000):
                image = np.full((240, 320, 3), 90, np.uint8)
                draw_number(image, number % 256)
                frame: Any = av.VideoFrame.from_ndarray(image, format="bgr24")
                frame.pts = number
                container.mux(stream.encode(frame))
                if stop.wait(0.01):
                    break
        sent.set()

    threading.Thread(target=send, daemon=True).start()
    source = open_source(f"udp://127.0.0.1:{port}")
    pictures = read(source, 20)
    stop.set()
    source.close()
    assert sent.wait(20)
    numbers = [number_of(picture.image) for picture in pictures]
    assert all((after - before) % 256 == 1 for before, after in pairwise(numbers))
    assert [round(after.pts - before.pts, 3) for before, after in pairwise(pictures)] == [0.04] * 19
    assert source.fps == 25
