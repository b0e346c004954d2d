"""OpenCV's windows on a screen that is a folder: its `log` says what happened there, `keys` stands for a key.

The folder of this file goes in front of PYTHONPATH, where a process that wants `cv2` finds it. Without `log`
there is no screen.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

WINDOW_NORMAL, WINDOW_KEEPRATIO, WND_PROP_VISIBLE = 0, 0, 4
SCREEN = Path(os.environ["FAKE_SCREEN"])
windows: list[str] = []


class error(Exception):
    pass


def _note(line: str) -> None:
    with (SCREEN / "log").open("r+") as log:
        log.seek(0, os.SEEK_END)
        log.write(line + "\n")


def namedWindow(name: str, flags: int = 0) -> None:
    if not (SCREEN / "log").exists():
        raise error("OpenCV(9.9.9) (-2:Unspecified error) The function is not implemented.")
    windows.append(name)
    _note(f"open {name}")


def resizeWindow(name: str, width: int, height: int) -> None:
    _note(f"size {name} {width}x{height}")


def imshow(name: str, image: Any) -> None:
    _note(f"show {name} {int(image.mean())}")


def destroyWindow(name: str) -> None:
    windows.remove(name)
    _note(f"close {name}")


def getWindowProperty(name: str, prop: int) -> float:
    return float(name in windows)


def pollKey() -> int:
    keys = SCREEN / "keys"
    if not keys.exists():
        return -1
    keys.unlink()
    return ord("q")
