"""Compressed frames are decoded in processes of their own: ahead, in order, and none takes the run along."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit  # noqa: E402

from edge.config import assets  # noqa: E402
from edge.dicom import open_dicom  # noqa: E402
from edge.dicom.ahead import PROGRAM, Decoders  # noqa: E402
from edge.dicom.series import Frames  # noqa: E402
from edge.errors import InputError  # noqa: E402
from edge.sources import Idle, open_source  # noqa: E402
from edge.spool import Spool, State  # noqa: E402
from tests.dicoms import write  # noqa: E402

TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
COMPRESSED = ["JPEG2000.dcm", "MR_small_RLE.dcm", "SC_rgb_jpeg_dcmtk.dcm"]

MARKED = """
import ctypes, os, edge.dicom.decoder as decoder
decode = decoder.decode
def marked(job):
    if job.encoded.startswith(b"\\xff\\xd8\\xff\\xfe\\0\\6BAD!"):
        {act}
    return decode(job)
decoder.decode = marked
"""
"""A decoder that does something else with frames that begin with this comment."""

CRASH = MARKED.format(act="ctypes.string_at(0)") + PROGRAM
HANG = MARKED.format(act="ctypes.PyDLL(None).pause()") + PROGRAM  # native code that holds Python's lock
SLOW = MARKED.format(act="ctypes.PyDLL(None).usleep(700_000)") + PROGRAM


def jpeg(level: int, marked: bool = False) -> bytes:
    data = cv2.imencode(".jpg", np.full((32, 48), level, np.uint8))[1].tobytes()
    data = data[:2] + b"\xff\xfe\0\6BAD!"[: 8 * marked] + data[2:]
    return data + b"\0" * (len(data) % 2)


def cine(path: Path, levels, marked=(), **elements) -> Path:
    frames = [jpeg(level, level in marked) for level in levels]
    return write(path, np.zeros((len(frames), 32, 48), np.uint8), JPEGBaseline8Bit, frames, **elements)


def levels(frames: Frames) -> list[int | str]:
    """The mean of each frame, or why there is none."""
    found: list[int | str] = []
    while True:
        try:
            if not frames.open():
                return found
            found.append(round(frames.read()[1].mean()))
        except InputError as e:
            found.append(e.why)


@pytest.fixture
def decoders():
    """Makes decoders, and closes them."""
    made: list[Decoders] = []

    def make(**settings) -> Decoders:
        made.append(Decoders(**settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def ends(pid: int, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def same(path: Path, decoders: Decoders) -> bool:
    """Whether the processes give the same frames as this thread; False too if nothing is compressed."""
    here, there = open_dicom(path), open_dicom(path, decoders)
    for index in range(here.frames):
        there.begin(index)
    for index in range(here.frames):
        mine, theirs = here.stored(index), there.stored(index)
        assert np.array_equal(mine, theirs) and mine.dtype == theirs.dtype
    return here.compressed


def test_what_the_processes_decode_is_what_is_decoded_here(decoders):
    both = decoders(count=2)
    assert all(same(TEST_FILES / name, both) for name in COMPRESSED) and both.processes


@pytest.mark.skipif(not (assets() / "dicom/files").is_dir(), reason="the published files are not here")
def test_all_syntaxes_of_published_files_come_from_the_processes_as_from_here(decoders):
    both, syntaxes = decoders(count=2), set()
    for path in sorted((assets() / "dicom/files").glob("*.dcm")):
        try:
            if same(path, both):
                syntaxes.add(open_dicom(path).dataset.file_meta.TransferSyntaxUID)
        except InputError as e:
            with pytest.raises(InputError) as here:
                [open_dicom(path).stored(index) for index in range(open_dicom(path).frames)]
            assert here.value.why == e.why
    assert len(syntaxes) >= 8


@pytest.mark.parametrize("count", [1, 3])
def test_frames_keep_their_order_within_a_file_and_across_files(tmp_path, decoders, count):
    first = cine(tmp_path / "1.dcm", range(10, 80, 10))
    stills = [cine(tmp_path / f"{2 + place}.dcm", [100 + place]) for place in range(4)]
    plain = write(tmp_path / "8.dcm", np.full((32, 48), 200, np.uint8), ExplicitVRLittleEndian)
    last = cine(tmp_path / "9.dcm", [210, 220])
    frames = Frames([first, *stills, plain, last], decoders=decoders(count=count))
    found = [*range(10, 80, 10), 100, 101, 102, 103, 200, 210, 220]
    assert levels(frames) == pytest.approx(found, abs=1)


def test_so_many_frames_are_ahead_as_there_are_processes(tmp_path, decoders):
    paths = [cine(tmp_path / f"{place}.dcm", [place]) for place in range(9)]
    begun: list[bytes] = []
    two = decoders(count=2)
    original = two.begin
    two.begin = lambda job: begun.append(job.encoded) or original(job)
    frames = Frames(paths, decoders=two)
    assert frames.open()
    assert len(begun) == 3  # the first one, which is done, and two
    for place in range(8):
        frames.read()
        assert frames.open()
        assert len(begun) == min(9, place + 4) and len(two.processes) <= 2


def test_frames_that_are_not_compressed_need_no_process(tmp_path, decoders):
    none = decoders()
    path = write(tmp_path / "plain.dcm", np.full((3, 8, 8), 5, np.uint8))
    assert levels(Frames([path], decoders=none)) == [5, 5, 5]
    assert none.processes == []


def test_a_damaged_frame_is_one_lost_frame(tmp_path, decoders):
    good = [jpeg(10), b"\xff\xd8\xff\xd9" + b"\0" * 16, jpeg(30)]
    path = write(tmp_path / "x.dcm", np.zeros((3, 32, 48), np.uint8), JPEGBaseline8Bit, good)
    (tmp_path / "y.dcm").write_bytes(b"\0" * 200)
    last = cine(tmp_path / "z.dcm", [40])
    found = levels(Frames([path, tmp_path / "y.dcm", last], decoders=decoders(count=2)))
    assert found[0] == pytest.approx(10, abs=1) and found[2] == pytest.approx(30, abs=1)
    assert isinstance(found[1], str) and "DICM" in str(found[3]) and found[4] == pytest.approx(40, abs=1)


@pytest.mark.parametrize("count", [1, 2])
def test_a_decoder_that_crashes_costs_one_frame(tmp_path, decoders, count):
    path = cine(tmp_path / "cine.dcm", range(10, 70, 10), marked=[30])
    crashing = decoders(count=count, program=CRASH)
    found = levels(Frames([path], decoders=crashing))
    assert found[2] == "its decoder crashed"
    assert [*found[:2], *found[3:]] == pytest.approx([10, 20, 40, 50, 60], abs=1)


def test_a_decoder_that_hangs_in_native_code_costs_one_frame(tmp_path, decoders):
    path = cine(tmp_path / "cine.dcm", range(10, 50, 10), marked=[20])
    start = time.monotonic()
    found = levels(Frames([path], decoders=decoders(count=2, seconds=1, program=HANG)))
    assert found[1] == "its decoder was not done within 1 s"
    assert [found[0], *found[2:]] == pytest.approx([10, 30, 40], abs=1)
    assert time.monotonic() - start < 20


def test_a_process_that_is_ended_from_outside_costs_nothing(tmp_path, decoders):
    both = decoders(count=2)
    frames = Frames([cine(tmp_path / "cine.dcm", range(10, 100, 10))], decoders=both)
    found: list[int] = []
    while frames.open():
        for process in both.processes[: 9 * (len(found) % 3 == 0)]:  # no frame meets it twice
            os.kill(process.pid, signal.SIGKILL)
        found.append(round(frames.read()[1].mean()))
    assert found == pytest.approx([*range(10, 100, 10)], abs=1)


def test_where_no_process_can_start_frames_are_decoded_all_the_same(tmp_path, decoders, monkeypatch):
    path = cine(tmp_path / "cine.dcm", [10, 20, 30])
    assert levels(Frames([path], decoders=decoders(program="raise SystemExit"))) == pytest.approx(
        [10, 20, 30], abs=1
    )
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))
    assert levels(Frames([path], decoders=decoders())) == pytest.approx([10, 20, 30], abs=1)


def test_other_threads_go_on_while_a_decoder_holds_pythons_lock(tmp_path, decoders):
    path = cine(tmp_path / "cine.dcm", [10], marked=[10])
    frames = Frames([path], decoders=decoders(program=SLOW))
    assert frames.open()
    reader = threading.Thread(target=frames.read)
    reader.start()
    beats = 0
    while reader.is_alive():
        time.sleep(0.01)
        beats += 1
    assert beats > 10


def test_what_was_begun_and_is_left_out_blocks_nothing(tmp_path, decoders):
    paths = [cine(tmp_path / f"{place}.dcm", [10 * place + k for k in range(5)]) for place in range(3)]
    frames = Frames(paths, decoders=decoders(count=2))
    assert frames.open()
    frames.skip()
    assert levels(frames) == pytest.approx([10, 11, 12, 13, 14, 20, 21, 22, 23, 24], abs=1)


def test_of_received_objects_the_next_one_is_decoded_beside_the_last(tmp_path, monkeypatch):
    begun: list[bytes] = []
    original = Decoders.begin
    monkeypatch.setattr(Decoders, "begin", lambda self, job: begun.append(job.encoded) or original(self, job))
    box = tmp_path / "box"
    box.mkdir()
    for place in range(3):
        cine(box / f"{place}.dcm", [50 * place], StudyInstanceUID="1.2.8", SeriesInstanceUID="1.2.9")
    source = open_source(f"dicom:{box}?watch=1&unit=object&free_gb=0&spool={tmp_path / 'spool'}")
    deadline = time.monotonic() + 20
    while sum(source.outcomes.spool.counts().values()) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    found: list[int] = []
    while len(found) < 3 and time.monotonic() < deadline:
        with suppress(Idle):
            found.append(round(source.read().image.mean()))
            assert len(begun) == min(3, len(found) + 1)
    source.close()
    source.outcomes.close()
    assert sorted(found) == pytest.approx([0, 50, 100], abs=1)
    with Spool(tmp_path / "spool") as spool:
        assert spool.counts() == {State.QUEUED: 3}


def test_a_source_that_is_closed_leaves_no_process(tmp_path):
    cine(tmp_path / "cine.dcm", range(10, 60, 10))
    source = open_source(str(tmp_path))
    source.read()
    pids = [process.pid for process in source._decoders.processes]
    source.close()
    assert pids and all(map(ends, pids))


def test_a_run_that_is_killed_leaves_no_process(tmp_path):
    path = cine(tmp_path / "cine.dcm", range(10, 60, 10))
    program = """
import sys, time
from pathlib import Path
from edge.dicom.ahead import Decoders
from edge.dicom.series import Frames
decoders = Decoders(count=2)
frames = Frames([Path(sys.argv[1])], decoders=decoders)
frames.open()
print(*(process.pid for process in decoders.processes), flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        pids = [int(pid) for pid in run.stdout.readline().split()]
        run.kill()
    assert len(pids) == 2 and all(map(ends, pids))
