"""What is asked of the C library's memory."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

THREADS = 12

PROGRAM = f"""
import ctypes, sys, threading
from edge.build.resources import few_heaps, give_back
if len(sys.argv) > 1:
    few_heaps(int(sys.argv[1]))
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
ready = threading.Barrier({THREADS})
def work():
    ready.wait()  # all at once
    for _ in range(200):
        libc.malloc(10_000)
    ready.wait()
threads = [threading.Thread(target=work) for _ in range({THREADS})]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
give_back()
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


def heaps(*arguments: str) -> int:
    """How many heaps the C library has made for a dozen threads."""
    env = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.count("<heap nr=")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps several heaps")
def test_threads_share_as_many_heaps_as_they_are_told_to() -> None:
    assert heaps() > 3
    assert heaps("2") <= 3  # glibc may have had its first one before
