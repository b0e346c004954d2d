"""A real RTSP server for tests and benchmarks, which can be killed, frozen and told to misbehave.

    with RtspServer(folder, [clip_mount("/a", folder)]) as server:
        open_source(server.url("/a"))
        server.turn("/a", damage=7)

It is GStreamer's, run by the system's Python (`rtsp_server.py`); `missing()` says what is not installed.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge.config import assets

SERVER = Path(__file__).with_name("rtsp_server.py")
PYTHON = "/usr/bin/python3"
PACKAGES = (
    "gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-base gstreamer1.0-plugins-good "
    "gstreamer1.0-plugins-ugly gstreamer1.0-libav"
)
_PROBE = """
import gi
for name in ("Gst", "GstApp", "GstRtspServer"): gi.require_version(name, "1.0")
from gi.repository import Gst, GstApp, GstRtspServer
Gst.init(None)
assert all(Gst.ElementFactory.find(n) for n in ("x264enc", "jpegdec", "jpegenc", "rtph264pay", "appsrc"))
"""
BITS = 8
"""Of a picture's number, drawn as squares along the top."""


@cache
def missing() -> str:
    """Why there is no server on this machine; "" where there is one."""
    try:
        done = subprocess.run([PYTHON, "-c", _PROBE], capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        done = None
    if done is not None and done.returncode == 0:
        return ""
    return f"no GStreamer RTSP server; on Debian and Ubuntu: apt install {PACKAGES}"


def draw_number(image: np.ndarray, number: int) -> None:
    """Write a number into the picture's top row of squares, so that an encoder does not lose it."""
    side = image.shape[1] // BITS
    for bit in range(BITS):
        colour = 255 if number >> bit & 1 else 0
        image[: image.shape[0] // 8, bit * side : (bit + 1) * side] = colour


def number_of(image: np.ndarray) -> int:
    """The number that `draw_number` wrote."""
    height, width = image.shape[:2]
    side = width // BITS
    row = image[height // 16, side // 2 :: side][:BITS].mean(axis=1)
    return sum(1 << bit for bit in range(BITS) if row[bit] > 127)


def clip(folder: Path, size: tuple[int, int] = (320, 240), count: int = 100, video: str = "") -> Path:
    """A folder of numbered JPEG pictures: of a video of the assets if it is there, else a disc in noise."""
    folder.mkdir(parents=True, exist_ok=True)
    width, height = size
    random = np.random.default_rng(0)
    backdrop = cv2.resize(random.integers(40, 200, (9, 12, 3), np.uint8), size, interpolation=cv2.INTER_CUBIC)
    film = cv2.VideoCapture(str(assets() / "video" / video)) if video else None
    for number in range(count):
        got, image = film.read() if film else (False, None)
        if got:
            image = cv2.resize(image, size)
        else:
            noise = random.integers(-6, 7, (height, width, 1), np.int16)
            image = np.clip(backdrop.astype(np.int16) + noise, 0, 255).astype(np.uint8)
            centre = (
                int(width * (0.5 + 0.4 * np.sin(number / 8))),
                int(height * (0.6 + 0.2 * np.cos(number / 5))),
            )
            cv2.circle(image, centre, height // 8, (40, 220, 250), -1)
        draw_number(image, number)
        cv2.imwrite(str(folder / f"{number:05d}.jpg"), image)
    cv2.imwrite(str(folder / "black.jpeg"), np.zeros((height, width, 3), np.uint8))
    return folder


def mount(path: str, folder: Path | str = "", **settings: Any) -> dict[str, Any]:
    """A mount point; the settings are those of `Mount` in `rtsp_server.py`."""
    return {"path": path, "folder": str(folder), **settings}


def every_kind(folder: Path) -> list[dict[str, Any]]:
    """The mounts that the tests share: small and quick, 20 frames a second, a key frame every half second."""
    pictures = clip(folder / "clip")
    common: dict[str, Any] = {"fps": 20.0, "gop": 10}
    return [
        *(mount(f"/cam{number}", pictures, **common) for number in range(4)),
        mount("/long", pictures, fps=20.0, gop=60),
        mount("/sliced", pictures, slices=3, **common),
        mount("/jpeg", pictures, codec="jpeg", **common),
        mount("/audio", codec="audio"),
        mount("/both", pictures, audio=True, **common),
        mount("/unknown", pictures, codec="unknown", **common),
        mount("/secret", pictures, password="guard:s3cret/word", **common),
    ]


class RtspServer:
    """The server's process. Its port stays the same from start to start."""

    def __init__(self, folder: Path, mounts: Sequence[dict[str, Any]]) -> None:
        self.file = folder / "mounts.json"
        self.file.write_text(json.dumps(list(mounts)))
        self.port = free_port()
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> RtspServer:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    def url(self, path: str, user: str = "", query: str = "") -> str:
        """The address of a mount; `user` is `name:password`, percent-encoded as it has to be."""
        return f"rtsp://{user + '@' if user else ''}127.0.0.1:{self.port}{path}{query}"

    def start(self) -> None:
        """Start it, on the same port as before; it accepts clients when this returns."""
        environment = {
            k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        }
        for _ in range(20):  # after a kill, the port may be busy for a moment
            self._process = subprocess.Popen(
                [PYTHON, str(SERVER), str(self.port), str(self.file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=(None if os.environ.get("RTSP_LOG") else subprocess.DEVNULL),
                text=True,
                env=environment,
            )
            if self._answer() is not None:
                return
            self.kill()
            time.sleep(0.1)
        raise RuntimeError(f"the RTSP server does not start on port {self.port}")

    def kill(self) -> None:
        """As when the power goes; connections are reset."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()

    def freeze(self) -> None:
        """It stays connected and does nothing, as a camera that hangs."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def turn(self, path: str, **knobs: Any) -> None:
        """Turn knobs of a mount: see `Knobs` in `rtsp_server.py`."""
        for knob, value in knobs.items():
            self.command("set", path, knob, value)

    def calm(self, path: str) -> None:
        """All knobs back; the size stays as it is."""
        self.turn(path, pause=False, slow=0, static=False, black=False, damage=0, cut=0, drop=0, back=0)

    def times(self, path: str) -> dict[int, float]:
        """When each numbered picture was last sent, `time.monotonic()` seconds."""
        return {int(number): when for number, when in self.command("times", path).items()}

    def command(self, *words: Any) -> Any:
        """One command and its answer.

        Raises:
            RuntimeError: it did not answer, or with an error.
        """
        process = self._running()
        assert process.stdin
        process.stdin.write(json.dumps(words) + "\n")
        process.stdin.flush()
        answer = self._answer()
        if answer is None or "error" in answer:
            raise RuntimeError(f"{words}: {answer}")
        return answer["ok"]

    def _answer(self, seconds: float = 20.0) -> dict[str, Any] | None:
        """The next line it says; None where it ended."""
        stdout = self._running().stdout
        assert stdout
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            if not selector.select(seconds):
                raise RuntimeError("the RTSP server does not answer")
        line = stdout.readline()
        return json.loads(line) if line else None

    def _signal(self, number: signal.Signals) -> None:
        self._running().send_signal(number)

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise RuntimeError("the RTSP server does not run")
        return self._process


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
