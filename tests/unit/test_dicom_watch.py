"""A watched folder: whole files are taken once, over restarts too; whatever else lies there harms nobody."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")

from live import until  # noqa: E402

from edge.dicom.receiving import watch  # noqa: E402
from edge.dicom.receiving.intake import read_meta, take_in  # noqa: E402
from edge.dicom.receiving.watch import FolderWatch, is_whole  # noqa: E402
from edge.errors import InputError, UsageError  # noqa: E402
from edge.sources import open_source  # noqa: E402
from edge.spool import Kept, Spool, State, Watermarks  # noqa: E402
from tests.pacs import ct_slice, data_set_of, encoded  # noqa: E402

Start = Callable[[], FolderWatch]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "in"
    made.mkdir()
    return made


@pytest.fixture
def spool(tmp_path: Path, no_sync: None) -> Iterator[Spool]:
    with Spool(tmp_path / "spool", marks=Watermarks(0, 0)) as spool:
        yield spool


@pytest.fixture(params=["inotify", "polling"])
def start(
    request: pytest.FixtureRequest, spool: Spool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Start]:
    """Starts to watch, by either way."""
    if request.param == "polling":
        monkeypatch.setattr(FolderWatch, "_start_inotify", lambda self: None)
        monkeypatch.setattr(watch, "SCAN_S", 0.02)
    started: list[FolderWatch] = []

    def begin() -> FolderWatch:
        started.append(FolderWatch(spool, folder, settle=0.1))
        return started[-1]

    yield begin
    for one in started:
        one.close()


def put(path: Path, number: int, **values: object) -> bytes:
    """A file, under its name at once; its bytes."""
    path.parent.mkdir(exist_ok=True, parents=True)
    hidden = path.parent / f".{path.name}"
    pydicom.dcmwrite(hidden, ct_slice(number, **values), enforce_file_format=True)
    hidden.rename(path)
    return path.read_bytes()


def uids(spool: Spool) -> list[str]:
    return sorted(item.uid for item in spool.objects())


def test_what_is_there_and_what_comes_later_is_taken_from_inner_folders_too(start, spool, folder):
    data = put(folder / "a.dcm", 1)
    start()
    until(lambda: len(uids(spool)) == 1)
    put(folder / "new" / "deep" / "b", 2)
    put(folder / "c.dcm", 3)
    until(lambda: uids(spool) == ["1.2.3.1", "1.2.3.2", "1.2.3.3"])
    assert spool.objects()[0].path.read_bytes() == data == (folder / "a.dcm").read_bytes()


def test_a_restart_goes_on_where_it_was(start, spool, folder, monkeypatch):
    put(folder / "a.dcm", 1)
    first = start()
    until(lambda: len(uids(spool)) == 1)
    first.close()
    taken = []
    monkeypatch.setattr(watch, "take_in", lambda *args: taken.append(args) or take_in(*args))
    put(folder / "b.dcm", 2)
    start()
    until(lambda: len(uids(spool)) == 2)
    assert len(taken) == 1


def test_a_file_that_is_still_written_is_taken_once_and_whole(start, spool, folder):
    whole = put(folder.parent / "x.dcm", 1, size=128)
    start()
    with (folder / "a.dcm").open("wb") as file:
        for place in range(0, len(whole), 4096):
            file.write(whole[place : place + 4096])
            file.flush()
            time.sleep(0.03)
            assert spool.objects() == []
    until(lambda: spool.objects())
    time.sleep(0.2)
    (item,) = spool.objects()
    assert item.path.read_bytes() == whole


def test_a_writer_that_pauses_longer_than_a_file_has_to_rest_is_waited_for(start, spool, folder):
    whole = put(folder.parent / "x.dcm", 1, size=128)
    start()
    (folder / "a.dcm").write_bytes(whole[:9000])
    time.sleep(0.5)
    assert spool.objects() == []
    with (folder / "a.dcm").open("ab") as file:
        file.write(whole[9000:])
    until(lambda: spool.objects())
    assert spool.objects()[0].path.read_bytes() == whole


def test_a_file_that_stays_incomplete_ends_in_the_spool_and_its_better_self_is_taken_too(
    start, spool, folder
):
    whole = put(folder.parent / "x.dcm", 1, size=128)
    (folder / "a.dcm").write_bytes(whole[:9000])
    start()
    until(lambda: spool.objects())
    claim = spool.claim_object()
    spool.quarantine(claim, "cut off")
    (folder / "a.dcm").write_bytes(whole)
    until(lambda: spool.counts()[State.RECEIVED] == 1)


def test_what_is_no_dicom_is_left_alone(start, spool, folder, caplog):
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "empty.dcm").touch()
    (folder / "notes.txt").write_text("hello")
    (folder / "Doe_John.dcm").write_text("not what its name says")
    shutil.copy(pydicom.data.get_testdata_file("DICOMDIR"), folder / "DICOMDIR")
    put(folder / ".cache" / "hidden.dcm", 8)
    put(folder / "z.dcm", 1)
    caplog.set_level(logging.INFO)
    start()
    until(lambda: uids(spool) == ["1.2.3.1"])
    until(lambda: "is left out" in caplog.text, 10)
    assert f"inode {(folder / 'Doe_John.dcm').stat().st_ino}" in caplog.text
    assert "Doe" not in caplog.text
    assert uids(spool) == ["1.2.3.1"]


def test_a_file_that_may_not_be_read_holds_up_nobody(start, spool, folder, monkeypatch):
    def refuse(self: FolderWatch, path: Path, mark: str) -> bool:
        if path.name == "a.dcm":
            raise PermissionError(13, "Permission denied", str(path))
        return take(self, path, mark)

    take = FolderWatch._take
    monkeypatch.setattr(FolderWatch, "_take", refuse)
    put(folder / "a.dcm", 1)
    put(folder / "b.dcm", 2)
    start()
    until(lambda: uids(spool) == ["1.2.3.2"])


def test_a_full_spool_is_waited_for(start, spool, folder, monkeypatch):
    monkeypatch.setattr(watch, "AGAIN_S", 0.05)
    room = [False]
    monkeypatch.setattr(spool._gauge, "room", lambda: room[0])
    put(folder / "a.dcm", 1)
    start()
    time.sleep(0.3)
    assert spool.objects() == []
    room[0] = True
    until(lambda: spool.objects())


def test_a_folder_that_goes_and_comes_back_is_watched_again(start, spool, folder, monkeypatch):
    monkeypatch.setattr(watch, "AGAIN_S", 0.05)
    monkeypatch.setattr(watch, "SCAN_ANYWAY_S", 0.1)
    start()
    folder.rename(folder.parent / "away")
    time.sleep(0.3)
    folder.mkdir()
    put(folder / "a.dcm", 1)
    until(lambda: spool.objects())


def test_compressed_pixels_are_whole_with_their_delimiter_alone(tmp_path):
    path = Path(pydicom.data.get_testdata_file("JPEG2000.dcm"))
    cut = tmp_path / "cut.dcm"
    cut.write_bytes(path.read_bytes())
    assert is_whole(path) and is_whole(cut)
    data = path.read_bytes()
    end = data.rindex(b"\xfe\xff\xdd\xe0")
    for length in (end, end - 1000):
        cut.write_bytes(data[:length])
        assert not is_whole(cut)


def test_an_object_is_the_same_from_a_folder_and_from_the_network(spool, tmp_path):
    put(tmp_path / "a.dcm", 1)
    arrival = spool.arrival("1.2.3.1", ct_slice(1).SOPClassUID, "1.2.840.10008.1.2.1")
    arrival.write(encoded(ct_slice(1)))
    assert arrival.keep() is Kept.STORED
    assert data_set_of((tmp_path / "a.dcm").read_bytes()) == encoded(ct_slice(1))
    with (tmp_path / "a.dcm").open("rb") as file:
        assert take_in(spool, file) is Kept.KNOWN


@pytest.mark.parametrize("length", [0, 100, 132, 143, 200, 250])
def test_a_file_that_is_cut_off_in_its_file_meta_information_is_no_dicom(tmp_path, length):
    data = put(tmp_path / "a.dcm", 1)
    (tmp_path / "a.dcm").write_bytes(data[:length])
    with (tmp_path / "a.dcm").open("rb") as file, pytest.raises(InputError, match="no DICOM file"):
        read_meta(file)


def test_wrong_addresses_are_named(tmp_path, folder):
    with pytest.raises(InputError, match="no such folder"):
        open_source(f"dicom:{tmp_path / 'absent'}?watch=1&spool={tmp_path / 'spool'}")
    for inner in (folder, folder / "spool"):
        with pytest.raises(UsageError, match="the spool lies in the watched folder"):
            open_source(f"dicom:{folder}?watch=1&spool={inner}")
    with pytest.raises(UsageError, match="no spool"):
        open_source(f"dicom:{folder}?watch=1")
    with pytest.raises(UsageError, match="settle"):
        open_source(f"dicom:{folder}?watch=1&settle=0&spool={tmp_path / 'spool'}")
    assert os.listdir(folder) == []
