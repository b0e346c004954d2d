"""A build interrupted, killed or out of disk: nothing half-written, nothing running, the old engine live."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import graphs
import pytest

from edge import machine
from edge.build import workshop
from edge.cli import main
from edge.store import Store

ROOT = Path(__file__).parents[2]
COMPILER = "tensorrt-rtx" in machine.detect().packages
STEPS = [
    "calibrate",
    "fp32 on held-out samples",
    pytest.param(
        "compile ada/fast", marks=pytest.mark.skipif(not COMPILER, reason="tensorrt-rtx is not installed")
    ),
]


class Build:
    """`build_engines.py` in a process group of its own, with its own folder for temporary files."""

    def __init__(self, folder: Path) -> None:
        self.store, self.temporary = Store(folder / "engines"), folder / "tmp"
        self.temporary.mkdir()
        graph = graphs.saved(graphs.residual(shape=(1, 3, 192, 192)), folder / "net.onnx")
        pictures = graphs.pictures(folder / "pictures", 16)
        words = ["--onnx", str(graph), "--calib", str(pictures), "--out", str(self.store.root)]
        self.words = [*words, "--targets", "ada", "--variants", "fast"]
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "build_engines.py"), *self.words],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "TMPDIR": str(self.temporary)},
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
        )
        return self.process

    def start_and_wait_for(self, step: str) -> subprocess.Popen[str]:
        process = self.start()
        assert process.stderr is not None
        seen = []
        for line in process.stderr:
            seen.append(line)
            if line.rstrip().endswith(step):
                return process
        raise AssertionError(f"no step '{step}': {''.join(seen)}")

    def wait_until_all_are_gone(self) -> None:
        """Every process of the group has to end by itself."""
        assert self.process is not None
        for _ in range(600):
            try:
                os.killpg(self.process.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.1)
        raise AssertionError("a process of the build is still running")

    def left_behind(self) -> list[str]:
        """What is in the store and in the folder for temporary files, but for what is meant to stay."""
        files = [p for folder in (self.store.root, self.temporary) for p in folder.rglob("*")]
        kept = {".lock", ".ses"}  # the store's lock file; a mark of ONNX Runtime's own
        files = [p for p in files if ".calibration" not in p.parts and p.name not in kept]
        return [str(p) for p in files if p.is_file() or p.parent == self.temporary]


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    made = Build(tmp_path)
    yield made
    if made.process is not None:
        with suppress(ProcessLookupError):
            os.killpg(made.process.pid, signal.SIGKILL)
        made.process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_ctrl_c_leaves_nothing_behind(build: Build, step: str) -> None:
    process = build.start_and_wait_for(step)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "edge: interrupted" in rest and "Traceback" not in rest
    build.wait_until_all_are_gone()
    assert build.left_behind() == []
    assert build.store.current("net", "ada", "fast") is None


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS[::2])
def test_after_a_kill_the_next_build_works(build: Build, step: str) -> None:
    process = build.start_and_wait_for(step)
    process.kill()
    process.communicate()
    build.wait_until_all_are_gone()  # the compiler too, once it is done
    assert build.store.current("net", "ada", "fast") is None
    assert build.start().wait(timeout=200) == 0
    assert build.store.find("net", "ada", "fast").engine.stat().st_size > 0


class TestFullDisk:
    @pytest.fixture
    def words(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """A store with published bundles, and a command line that builds others in their place."""
        here = machine.detect()
        bare = machine.Machine(here.cpu, here.arch, packages={})
        monkeypatch.setattr(machine, "detect", lambda: bare)
        graph = graphs.saved(graphs.residual(), tmp_path / "net.onnx")
        pictures = graphs.pictures(tmp_path / "pictures")
        words = ["build", "--onnx", str(graph), "--calib", str(pictures), "--variants", "exact"]
        words += ["--targets", "orin,ada", "--out", str(tmp_path / "engines")]
        assert main(words) == 0
        graphs.saved(graphs.residual(seed=1), graph)
        return words

    def test_while_publishing_the_old_engine_stays(
        self,
        words: list[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        store = Store(tmp_path / "engines")
        before = {t: store.find("net", t, "exact").manifest.key for t in ("orin", "ada")}

        def full(source: Path, destination: Path) -> str:
            destination.write_bytes(b"as much as there was room for")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(destination))

        with monkeypatch.context() as patch:
            patch.setattr("edge.store._copy", full)
            assert main(words) == 5
        error = capsys.readouterr().err
        assert "cannot publish net/orin/exact" in error and "No space left on device" in error
        assert "free some space" in error
        for target, key in before.items():
            assert store.find("net", target, "exact").manifest.key == key
        assert not list(store.root.rglob(".staging*"))
        assert main(words) == 0
        assert store.find("net", "orin", "exact").manifest.key != before["orin"]

    def test_while_building_one_target_the_others_are_built(
        self,
        words: list[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        write = workshop.Workshop.write

        def full(shop: Any, model: Any, name: str) -> Path:
            if name.startswith("orin/"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
            return write(shop, model, name)

        monkeypatch.setattr(workshop.Workshop, "write", full)
        store = Store(tmp_path / "engines")
        before = {t: store.find("net", t, "exact").manifest.key for t in ("orin", "ada")}
        assert main(words) == 5
        assert "No space left on device" in capsys.readouterr().err
        assert store.find("net", "orin", "exact").manifest.key == before["orin"]
        assert store.find("net", "ada", "exact").manifest.key != before["ada"]
