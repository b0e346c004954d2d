"""A publisher that is killed, runs out of disk or meets another one: the store holds old or new, whole.

The tests run this file as a program, because a process that kills itself, or whose files may not grow, must
not be the one that runs the tests.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from stores import manifest

from edge.errors import StoreError
from edge.store import Store

IMPORTED_FROM = os.pathsep.join(str(folder) for folder in Path(__file__).resolve().parents[:3])
"""This folder, what the tests share, and the package."""
CONTENT = {key: key.encode() * 100_000 for key in ("old", "new", "next")}
SYSTEM_CALLS = (
    "open",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.listdir",
    "os.scandir",
    "fcntl.flock",
)
"""Audit events of everything that touches the file system by name; `os.fsync` has none and is wrapped."""


def publish(folder: Path, key: str) -> None:
    Store(folder / "engines").publish(
        manifest(key=key), {"engine.onnx": folder / key, "notes.txt": folder / key}
    )


def live(folder: Path) -> str:
    """Key of the live engine, after every byte of it was checked."""
    entry = Store(folder / "engines").find("net", "cpu", "fast")
    assert entry.engine.read_bytes() == CONTENT[entry.manifest.key]
    return entry.manifest.key


def contents(folder: Path) -> set[str]:
    return {path.name for path in (folder / "engines/net/cpu/fast").iterdir()}


def prepare(folder: Path) -> Path:
    """A store whose live engine is "old", and the files to publish next."""
    folder.mkdir(parents=True, exist_ok=True)
    for key, content in CONTENT.items():
        (folder / key).write_bytes(content)
    publish(folder, "old")
    return folder


class Fault:
    """Calls `act` at the n-th operation on a file below `folder`, once."""

    def __init__(self, folder: Path, n: int, act: Callable[[], None]) -> None:
        self.folder, self.left, self.act = str(folder), n, act
        sys.addaudithook(self._event)  # cannot be removed; does nothing once `left` is below 1
        self._fsync = os.fsync
        os.fsync = self._synced

    def _event(self, event: str, args: tuple[object, ...]) -> None:
        if event in SYSTEM_CALLS and (event == "fcntl.flock" or self.folder in str(args[0])):
            self._count()

    def _synced(self, descriptor: int) -> None:
        self._count()

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.act()

    @property
    def happened(self) -> bool:
        return self.left <= 0


def kill_everywhere(folder: Path) -> None:
    """Kill a publisher at its first, second, third … operation, until one gets through."""
    seen = set()
    for n in range(1, 1000):
        place = prepare(folder / str(n))
        child = os.fork()
        if child == 0:
            Fault(place / "engines", n, lambda: os.kill(os.getpid(), signal.SIGKILL))
            publish(place, "new")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        seen.add(live(place))
        publish(place, "next")  # neither the dead one's lock nor what it left is in the way
        assert live(place) == "next"
        left = contents(place)
        assert left <= {".lock", "current", "next", "new", "old"} and len(left) == 4, left
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    assert seen == {"old", "new"}
    print(n - 1)


def fail_everywhere(folder: Path) -> None:
    """Let each operation of a publisher in turn find the disk full."""
    for n in range(1, 1000):
        place = prepare(folder / str(n))
        before = contents(place)
        fault, error = Fault(place / "engines", n, full_disk), None
        try:
            publish(place, "new")
        except StoreError as e:
            error = e
        happened, fault.left = fault.happened, 0
        if error is None:
            assert live(place) == "new"
        else:
            assert error.exit_code == 5 and "No space left" in error.why and "free some space" in error.fix
            assert live(place) == "old" and contents(place) == before, (n, contents(place))
        if not happened:
            break
    print(n - 1)


def full_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def limited(folder: Path) -> None:
    """The engine's file does not fit: the write itself fails."""
    place = prepare(folder)
    before = contents(place)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        publish(place, "new")
    except StoreError as e:
        assert "File too large" in e.why, e
    else:
        raise AssertionError("published more than the limit allows")
    assert live(place) == "old" and contents(place) == before


def run(name: str, folder: Path) -> str:
    command = [sys.executable, __file__, name, str(folder)]
    environment = os.environ | {"PYTHONPATH": IMPORTED_FROM}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_killed_at_any_operation_the_store_holds_old_or_new(tmp_path: Path) -> None:
    assert int(run("kill_everywhere", tmp_path)) > 20


def test_a_disk_that_is_full_at_any_operation_costs_nothing(tmp_path: Path) -> None:
    assert int(run("fail_everywhere", tmp_path)) > 20


def test_a_file_that_may_not_grow_costs_nothing(tmp_path: Path) -> None:
    run("limited", tmp_path)


@contextmanager
def small_disk(folder: Path, kibibytes: int) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a small disk can be mounted by root only")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full_costs_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2600) as disk:
        prepare(disk)  # 1 MB of sources and 600 kB of the old engine
        before = contents(disk)
        (disk / "ballast").write_bytes(bytes(700_000))
        with pytest.raises(StoreError, match="No space left on device") as e:
            publish(disk, "new")
        assert e.value.exit_code == 5
        assert live(disk) == "old" and contents(disk) == before
        (disk / "ballast").unlink()
        publish(disk, "new")
        assert live(disk) == "new"


def test_publishers_of_the_same_engine_queue_and_readers_never_wait(tmp_path: Path) -> None:
    place = prepare(tmp_path)
    code = (
        "import sys; from pathlib import Path; from test_store_interrupted import publish\n"
        "for _ in range(8):\n for key in sys.argv[2:]: publish(Path(sys.argv[1]), key)"
    )
    publishers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(place), *keys], env=os.environ | {"PYTHONPATH": IMPORTED_FROM}
        )
        for keys in (("new", "old"), ("next", "old", "new"))
    ]
    seen = set()
    while any(publisher.poll() is None for publisher in publishers):
        with suppress(FileNotFoundError):  # overtaken by two publishers: what was found is removed again
            seen.add(live(place))
    assert [publisher.wait() for publisher in publishers] == [0, 0]
    assert live(place) in CONTENT and "old" in seen
    assert len(contents(place)) == 4  # lock, current, two keys


def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    place = prepare(tmp_path)
    blocked = tmp_path / "engines" / "net" / "cpu" / "exact"
    blocked.write_text("a file where a folder should be")
    manifest = (
        Store(place / "engines").find("net", "cpu", "fast").manifest.model_copy(update={"variant": "exact"})
    )
    with pytest.raises(StoreError, match="cannot publish net/cpu/exact"):
        Store(place / "engines").publish(manifest, {"engine.onnx": place / "new"})


if __name__ == "__main__":
    {f.__name__: f for f in (kill_everywhere, fail_everywhere, limited)}[sys.argv[1]](Path(sys.argv[2]))
