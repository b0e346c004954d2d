"""Streams of the network that are absent, wrong, damaged or die: told in time, and without a password."""

from __future__ import annotations

import socket
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import rtsp
from rtsp import RtspServer, number_of

from edge.errors import InputError, UsageError
from edge.sources import Damaged, Refused, open_source

pytest.importorskip("av")


@pytest.fixture
def calm(rtsp_server: RtspServer) -> Iterator[RtspServer]:
    """The shared server; afterwards its streams are as they were."""
    yield rtsp_server
    for mount in ("/cam0", "/cam1", "/cam3", "/sliced", "/jpeg"):
        rtsp_server.calm(mount)


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[RtspServer]:
    """A server for this test alone."""
    if why := rtsp.missing():
        pytest.skip(why)
    with RtspServer(tmp_path, rtsp.every_kind(tmp_path)[:1]) as server:
        yield server


@contextmanager
def silent_host() -> Iterator[str]:
    """Accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def error_of(uri: str) -> InputError:
    with pytest.raises(InputError) as caught:
        open_source(uri)
    return caught.value


def watch(source: Any, enough: Any) -> list[Any]:
    """Pictures' numbers and `Damaged`, until `enough(seen)`."""
    seen: list[Any] = []
    while not enough(seen):
        try:
            picture = source.read()
        except Damaged as e:
            seen.append(e)
        else:
            assert picture is not None, source.problem
            seen.append(number_of(picture.image))
    return seen


def end(source: Any) -> None:
    """Read on to the end of the stream; what was under way then may be damaged."""
    while True:
        with suppress(Damaged):
            if source.read() is None:
                return


# ---- at the start


def test_an_unknown_scheme_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'rtsp'"):
        open_source("rstp://guard:s3cret@127.0.0.1/live")


@pytest.mark.parametrize("user", ["guard:wr0ng", "guard:wr0ng%2Fword", "nobody:s3cret%2Fword"])
def test_wrong_credentials_are_refused_and_not_shown(rtsp_server: RtspServer, user: str) -> None:
    with pytest.raises(Refused) as caught:
        open_source(rtsp_server.url("/secret", user=user))
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value.__context__)
    assert "user name and password are wrong" in told
    assert user.partition(":")[0] + ":***@127.0.0.1" in told
    for secret in ("wr0ng", "s3cret"):
        assert secret not in told


def test_missing_credentials_are_asked_for(rtsp_server: RtspServer) -> None:
    with pytest.raises(Refused, match="asks for user name and password"):
        open_source(rtsp_server.url("/secret"))


def test_no_password_on_standard_error_or_in_the_log(
    rtsp_server: RtspServer, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for address in ("/secret", "/nowhere", "/unknown"):
        error_of(rtsp_server.url(address, user="guard:wr0ng"))
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""


def test_a_path_that_is_not_there_says_so(rtsp_server: RtspServer) -> None:
    error = error_of(rtsp_server.url("/nowhere"))
    assert "no such stream (404)" in str(error)
    assert not isinstance(error, Refused), "it may come later"


def test_sound_alone_is_refused(rtsp_server: RtspServer) -> None:
    with pytest.raises(Refused, match="it has no video"):
        open_source(rtsp_server.url("/audio"))


def test_a_codec_that_is_not_there_is_refused(rtsp_server: RtspServer) -> None:
    with pytest.raises(Refused, match="no decoder for its video"):
        open_source(rtsp_server.url("/unknown"))


def test_nobody_there() -> None:
    error = error_of(f"rtsp://guard:s3cret@127.0.0.1:{rtsp.free_port()}/live")
    assert "Connection refused" in str(error)
    assert "s3cret" not in str(error)


@pytest.mark.parametrize("scheme", ["rtsp", "rtsps", "http", "https"])
def test_a_host_that_accepts_and_says_nothing_is_left_in_time(scheme: str) -> None:
    with silent_host() as host:
        start = time.monotonic()
        error = error_of(f"{scheme}://guard:s3cret@{host}/live?open_timeout=0.3")
        seconds = time.monotonic() - start
    assert "did not answer within 0.3 s" in str(error)
    assert "s3cret" not in str(error)
    assert 0.3 <= seconds < 10


def test_no_packets_at_all_are_left_in_time() -> None:
    assert "did not answer within 0.3 s" in str(
        error_of(f"udp://127.0.0.1:{rtsp.free_port()}?open_timeout=0.3")
    )


def test_other_threads_run_while_one_waits() -> None:
    """The interpreter is free during a wait, so that a thread is enough for a feed."""
    steps, stop = [], threading.Event()

    def count() -> None:
        while not stop.wait(0.01):
            steps.append(time.monotonic())

    counter = threading.Thread(target=count)
    counter.start()
    with silent_host() as host:
        error_of(f"rtsp://{host}/live?open_timeout=1")
    stop.set()
    counter.join()
    assert len(steps) > 20


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.0 200 OK\r\n\r\nhello", b"\0" * 5000, b"RTSP/1.0 200 OK\r\n\r\n" * 9]
)
@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_what_is_no_stream_is_an_error(scheme: str, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(10000)
                client.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        error_of(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/live?open_timeout=1")


# ---- in mid-stream


@pytest.mark.parametrize(
    ("mount", "trouble"),
    [("/cam0", {"damage": 7}), ("/cam0", {"cut": 7}), ("/cam0", {"drop": 7}), ("/sliced", {"cut": 7})],
)
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_damage_is_counted_and_what_builds_on_it_is_not_shown(
    calm: RtspServer, mount: str, trouble: dict[str, int], transport: str
) -> None:
    calm.turn(mount, **trouble)
    source = open_source(calm.url(f"{mount}?transport={transport}"))
    seen = watch(source, lambda seen: sum(isinstance(s, Damaged) for s in seen) > 8 and len(seen) > 30)
    source.close()
    for before, now in pairwise(seen):
        if isinstance(now, int):
            whole = isinstance(before, int) and (now - before) % 100 == 1
            assert whole or now % 10 == 0, "after damage the next key frame, each tenth, comes first"


@pytest.mark.parametrize("knob", ["cut", "damage"])
def test_damage_ends_with_the_next_key_frame(calm: RtspServer, knob: str) -> None:
    source = open_source(calm.url("/cam1"))
    watch(source, lambda seen: len(seen) > 3)
    calm.turn("/cam1", **{knob: 3})
    watch(source, lambda seen: any(isinstance(s, Damaged) for s in seen))
    calm.calm("/cam1")
    watch(source, lambda seen: len(seen) > 25)
    healed = watch(source, lambda seen: len(seen) > 15)
    source.close()
    assert not any(isinstance(s, Damaged) for s in healed)


def test_a_damaged_jpeg_costs_itself_alone(calm: RtspServer) -> None:
    calm.turn("/jpeg", cut=5)
    source = open_source(calm.url("/jpeg"))
    seen = watch(source, lambda seen: len(seen) >= 20)
    source.close()
    damaged = [isinstance(s, Damaged) for s in seen]
    assert 3 <= sum(damaged) <= 5
    assert not any(a and b for a, b in pairwise(damaged))


def test_another_resolution_in_mid_stream(calm: RtspServer) -> None:
    source = open_source(calm.url("/cam3"))
    assert source.read().image.shape == (240, 320, 3)
    calm.turn("/cam3", size=(160, 96))
    shapes = [(240, 320, 3)]
    while shapes[-1] != (96, 160, 3):
        picture = source.read()
        assert picture is not None, source.problem
        shapes.append(picture.image.shape)
    source.close()
    assert set(shapes) == {(240, 320, 3), (96, 160, 3)}
    calm.turn("/cam3", size=(320, 240))


def test_times_that_jump_back_are_told_as_they_are(calm: RtspServer) -> None:
    source = open_source(calm.url("/cam0"))
    times = [source.read().pts for _ in range(5)][1:]
    calm.turn("/cam0", back=60.0)
    while times[-1] >= times[-2] and len(times) < 200:
        picture = source.read()
        assert picture is not None, source.problem
        times.append(picture.pts)
    jump = times[-1] - times[-2]
    after = [source.read().pts for _ in range(5)]
    source.close()
    assert jump == pytest.approx(-60, abs=1)
    assert after == sorted(after)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_frozen_server_ends_the_stream_in_time(mortal: RtspServer, transport: str) -> None:
    source = open_source(mortal.url(f"/cam0?read_timeout=0.5&transport={transport}"))
    watch(source, lambda seen: len(seen) > 2)
    mortal.freeze()
    start = time.monotonic()
    end(source)
    assert time.monotonic() - start < 10
    assert source.problem == "nothing came for 0.5 s"
    assert source.read() is None
    source.close()
    mortal.thaw()


def test_a_killed_server_ends_the_stream_at_once_and_can_be_opened_again(mortal: RtspServer) -> None:
    source = open_source(mortal.url("/cam0?read_timeout=30"))
    watch(source, lambda seen: len(seen) > 2)
    mortal.kill()
    start = time.monotonic()
    end(source)
    assert time.monotonic() - start < 10
    assert source.problem
    source.close()
    assert "Connection refused" in str(error_of(mortal.url("/cam0")))
    mortal.start()
    source = open_source(mortal.url("/cam0"))
    assert watch(source, lambda seen: len(seen) > 2) == [0, 1, 2]
    source.close()
