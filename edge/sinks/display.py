"""`display:` and `display:<feed>`: what was found, drawn over the pictures, in a window a feed."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from edge.config import ROOT
from edge.errors import InputError, RuntimeFault, UsageError, nearest
from edge.sinks import Address, FeedInfo, Policy
from edge.sinks.drawing import in_color
from edge.sinks.viewer import HEAD, READY
from edge.types import Result

POLICY: Policy = "drop-oldest"

LONGEST_START = 20.0
"""Seconds until the first window must be there."""

LONGEST_END = 2.0
"""Seconds that windows have to close."""


class Display:
    """Sends pictures to the process that owns the windows.

    Args:
        only: the feed that is shown; None: all.
    """

    def __init__(self, only: str | None) -> None:
        self.only = only
        self._viewer = _start()

    def write(self, result: Result) -> None:
        frame = result.frame
        if self.only is not None and frame.feed != self.only:
            return
        image, name = result.payload.draw(in_color(frame.image)), frame.feed.encode()
        try:
            self._send(HEAD.pack(len(name), *image.shape[:2]) + name)
            self._send(image.tobytes())
        except OSError as e:
            raise RuntimeFault("the windows are gone", "their process has ended", "see the screen") from e

    def flush(self) -> None:
        pass

    def close(self) -> None:
        """Close the windows."""
        _end(self._viewer)

    def reopen(self) -> None:
        self._viewer = _start()

    def _send(self, data: bytes) -> None:
        assert self._viewer.stdin is not None
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._viewer.stdin.fileno(), rest) :]


def open(address: Address, feeds: Sequence[FeedInfo]) -> Display:
    """Windows open at the first picture of their feed; q or Esc closes them, and the run goes on.

    Raises:
        UsageError: there is no such feed, or a setting.
        InputError: there is no screen, or this OpenCV opens no windows.
    """
    outputs(address, feeds)
    if not _has_screen(sys.platform, os.environ):
        raise InputError(
            f"{address.uri}: there is no screen", "", "start it in a desktop session, or set DISPLAY"
        )
    return Display(address.place or None)


def outputs(address: Address, feeds: Sequence[FeedInfo]) -> list[Path]:
    """None.

    Raises:
        UsageError: as `open`.
    """
    address.settings({})
    names = [feed.name for feed in feeds]
    if address.place and names and address.place not in names:
        raise UsageError(f"{address.uri}: no feed '{address.place}'", "", nearest(address.place, names))
    return []


def _has_screen(platform: str, environment: Mapping[str, str]) -> bool:
    if platform in ("darwin", "win32"):
        return True
    return bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))


def _start() -> subprocess.Popen[bytes]:
    """The process of the windows, once it has shown that it can open one."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    with tempfile.TemporaryFile() as said:
        viewer = subprocess.Popen(
            [sys.executable, "-m", "edge.sinks.viewer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C is for the run, which closes the windows
        )
        assert viewer.stdout is not None
        ready = select.select([viewer.stdout], [], [], LONGEST_START)[0]
        if ready and viewer.stdout.read(len(READY)) == READY:
            return viewer
        _end(viewer)
        said.seek(0)
        why = next((line for line in said.read().decode(errors="replace").splitlines() if line.strip()), "")
        raise InputError(
            "cannot open a window",
            why.strip() or f"none came within {LONGEST_START:g} s",
            "check DISPLAY and the rights to it; the package opencv-python-headless has no windows at all",
        )


def _end(viewer: subprocess.Popen[bytes]) -> None:
    for pipe in (viewer.stdin, viewer.stdout):
        if pipe is not None:
            pipe.close()
    try:
        viewer.wait(LONGEST_END)
    except subprocess.TimeoutExpired:
        viewer.kill()
        viewer.wait()
