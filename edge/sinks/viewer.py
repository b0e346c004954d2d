"""The windows of a `display:` sink, in a process of their own: a screen that goes away ends no run.

Qt, which OpenCV's windows are made of, ends its process when it finds no screen or loses it, and wants the
main thread. So pictures come through standard input, each as `HEAD`, the name of its window, and its pixels.
"""

from __future__ import annotations

import os
import select
import struct
import sys
from typing import Any

import numpy as np

from edge.types import Image

HEAD = struct.Struct("=III")
"""Bytes of the name, height and width."""

READY = b"ready\n"
"""Said on standard output once a window could be opened."""

IDLE_S = 0.03
"""Windows are looked after this often while no picture comes."""

_QUIT = (ord("q"), 27)


class Windows:
    """One window a name; what is closed, by q, Esc or its frame, stays closed."""

    def __init__(self, cv2: Any) -> None:
        self._cv2 = cv2
        self._open: dict[str, bool] = {}
        """Whether a window has been on the screen yet: until then it counts as invisible, not as closed."""
        self._closed: set[str] = set()

    def show(self, name: str, image: Image) -> None:
        """Show the picture in the window of this name."""
        if name in self._closed:
            return
        if name not in self._open:
            self._cv2.namedWindow(name, self._cv2.WINDOW_NORMAL | self._cv2.WINDOW_KEEPRATIO)
            self._cv2.resizeWindow(name, image.shape[1], image.shape[0])
            self._open[name] = False
        self._cv2.imshow(name, image)

    def look_after(self) -> None:
        """Let windows repaint themselves, and close those that the user wants closed."""
        if not self._open:
            return
        quits = self._cv2.pollKey() & 0xFF in _QUIT
        for name, seen in list(self._open.items()):
            visible = self._cv2.getWindowProperty(name, self._cv2.WND_PROP_VISIBLE) >= 1
            if quits or (seen and not visible):
                self._close(name, visible)
            else:
                self._open[name] = seen or visible

    def _close(self, name: str, visible: bool) -> None:
        del self._open[name]
        self._closed.add(name)
        if visible:
            self._cv2.destroyWindow(name)
            self._cv2.pollKey()


def read_picture(fd: int) -> tuple[str, Image] | None:
    """The next picture and the name of its window; None when the other side has closed."""
    head = _read(fd, HEAD.size)
    if head is None:
        return None
    length, height, width = HEAD.unpack(head)
    name, pixels = _read(fd, length), _read(fd, 3 * height * width)
    if name is None or pixels is None:
        return None
    return name.decode(), np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


def _read(fd: int, size: int) -> bytearray | None:
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        got = os.readv(fd, [rest])
        if not got:
            return None
        rest = rest[got:]
    return data


def main() -> int:
    """Show what comes until there is no more; 1 when no window can be opened."""
    try:
        import cv2

        cv2.namedWindow("edge")
        cv2.destroyWindow("edge")
    except Exception as e:
        print(" ".join(str(e).split()), file=sys.stderr)
        return 1
    os.write(1, READY)
    windows = Windows(cv2)
    while True:
        if select.select([0], [], [], IDLE_S)[0]:
            picture = read_picture(0)
            if picture is None:
                return 0
            windows.show(*picture)
        windows.look_after()


if __name__ == "__main__":
    sys.exit(main())
