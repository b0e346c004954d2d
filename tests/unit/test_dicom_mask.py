"""Masked copies: no text in the pixels, no identifier in the header, everything else as it was."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("pydicom")
import dicoms
import pydicom
from pydicom.uid import ExplicitVRBigEndian, RLELossless
from test_privacy import MARKS, PATIENTS, ROOT

from edge.cli import main
from edge.config import assets
from edge.dicom import open_dicom
from edge.dicom.deidentify import deidentify
from edge.dicom.masking import Masked, mask
from edge.dicom.text import TextFinder, _starts
from edge.errors import InputError, RuntimeFault, UsageError
from edge.privacy import Pseudonyms

pytest.importorskip("dicomanonymizer")

BOX = (10, 5, 40, 15)
"""Where the finder of these tests sees text: x1 y1 x2 y2."""


class Seen:
    """Text at one place, in the frames that are said to have it."""

    def __init__(self, *frames: int, box: tuple[int, ...] = BOX) -> None:
        self.frames, self.box, self.count = frames, box, -1

    def find(self, picture: Any) -> Any:
        self.count += 1
        return np.array([self.box] if self.count in self.frames else [], np.intp).reshape(-1, 4)


NAMES = Pseudonyms(b"k" * 32)


def masked(path: Path, folder: Path, *frames: int) -> Masked:
    return mask(path, folder, Seen(*(frames or (0,))), NAMES)  # type: ignore[arg-type]


def noise(shape: tuple[int, ...], kind: str = "uint16", top: int = 4096) -> Any:
    return np.random.default_rng(1).integers(0, top, shape).astype(kind)


def outside(shape: tuple[int, int]) -> Any:
    kept = np.ones(shape, bool)
    kept[BOX[1] : BOX[3], BOX[0] : BOX[2]] = False
    return kept


def spread(shape: tuple[int, int]) -> Any:
    """Dark to bright, with the darkest inside what is looked at."""
    return np.linspace(0, 1, shape[0] * shape[1]).reshape(shape)


@pytest.mark.parametrize(
    ("kind", "about"),
    [
        ("uint8", {}),
        ("uint16", {"BitsStored": 12}),
        ("int16", {"RescaleIntercept": "-1024", "RescaleSlope": "1"}),
        ("uint16", {"BitsStored": 12, "PhotometricInterpretation": "MONOCHROME1"}),
        ("uint16", {"BitsStored": 12, "PresentationLUTShape": "INVERSE"}),
        ("uint32", {"BitsStored": 32}),
    ],
)
def test_regions_are_as_dark_as_it_gets_and_the_rest_is_untouched(
    kind: str, about: Any, tmp_path: Path
) -> None:
    stored = (spread((32, 64)) * (200 if kind == "uint8" else 3000)).astype(kind)
    path = dicoms.write(tmp_path / "a.dcm", stored, **about)
    before, after = open_dicom(path), open_dicom(masked(path, tmp_path / "out").path)
    kept = outside((32, 64))
    assert after.stored(0).dtype == before.stored(0).dtype
    np.testing.assert_array_equal(after.stored(0)[kept], stored[kept])
    picture = after.frame(0)[0]
    assert picture[~kept].max() == before.frame(0)[0].min()
    np.testing.assert_array_equal(picture[kept], before.frame(0)[0][kept])


def test_text_of_one_frame_is_blacked_out_in_all(tmp_path: Path) -> None:
    stored = noise((3, 32, 64))
    done = masked(dicoms.write(tmp_path / "a.dcm", stored, BitsStored=12), tmp_path / "out", 1)
    assert done.text == (False, True, False)
    kept = outside((32, 64))
    for index in range(3):
        after = open_dicom(done.path).stored(index)
        np.testing.assert_array_equal(after[kept], stored[index][kept])
        assert len(np.unique(after[~kept])) == 1


def test_colour_is_written_as_rgb(tmp_path: Path) -> None:
    stored = noise((32, 64, 3), "uint8", 256)
    data = tmp_path / "a.dcm"
    dicoms.write(data, stored[:, :, 0])
    ds = pydicom.dcmread(data)
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 1
    ds.PixelData = stored.transpose(2, 0, 1).tobytes()
    ds.save_as(data)
    after = pydicom.dcmread(masked(data, tmp_path / "out").path)
    kept = outside((32, 64))
    np.testing.assert_array_equal(after.pixel_array[kept], stored[kept])
    assert after.pixel_array[~kept].max() == 0 and after.PlanarConfiguration == 0


def test_compressed_and_big_endian_files_keep_every_value(tmp_path: Path) -> None:
    stored = noise((32, 64))
    plain = dicoms.write(tmp_path / "plain.dcm", stored, BitsStored=12)
    packed = pydicom.dcmread(plain)
    packed.compress(RLELossless)
    packed.save_as(tmp_path / "rle.dcm")
    dicoms.write(tmp_path / "big.dcm", stored.astype(">u2"), ExplicitVRBigEndian, BitsStored=12)
    for name in ("plain", "rle", "big"):
        after = pydicom.dcmread(masked(tmp_path / f"{name}.dcm", tmp_path / name).path)
        assert after.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
        np.testing.assert_array_equal(after.pixel_array[outside((32, 64))], stored[outside((32, 64))])


def test_only_a_masked_copy_claims_that_there_is_no_text(tmp_path: Path) -> None:
    path = dicoms.write(tmp_path / "a.dcm", noise((32, 64)), BurnedInAnnotation="YES")
    after = pydicom.dcmread(masked(path, tmp_path / "one").path)
    assert after.BurnedInAnnotation == "NO"
    assert "not verified" in after.DeidentificationMethod[1]
    assert [c.CodeValue for c in after.DeidentificationMethodCodeSequence] == ["113100", "113101"]
    after = pydicom.dcmread(masked(path, tmp_path / "two", 9).path)
    assert after.BurnedInAnnotation == "YES"
    assert [c.CodeValue for c in after.DeidentificationMethodCodeSequence] == ["113100"]
    assert after.PatientIdentityRemoved == "YES"


# --------------------------------------------------------------------------- the header


def marked(path: Path, charset: Any, name: str) -> Path:
    """Identifiers in plain elements, in sequences, private ones, overlays, and the preamble."""
    dicoms.write(path, noise((32, 64)))
    ds = pydicom.dcmread(path)
    ds.SpecificCharacterSet, ds.PatientName, ds.StudyInstanceUID = charset, name, f"{ROOT}1"
    ds.SeriesInstanceUID, ds.SOPInstanceUID, ds.FrameOfReferenceUID = f"{ROOT}2", f"{ROOT}3", f"{ROOT}4"
    for keyword, value in MARKS.items():
        setattr(ds, keyword, value)
    source = dicoms.item(
        ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.2", ReferencedSOPInstanceUID=f"{ROOT}3"
    )
    source.PatientComments = "Nachbar-Mark"
    ds.DerivationImageSequence = [dicoms.item(SourceImageSequence=[source])]
    ds.SourceImageSequence = [source]
    ds.RequestAttributesSequence = [dicoms.item(RequestedProcedureID="RPID-Mark")]
    ds.private_block(0x0099, "SECRET-Mark", create=True).add_new(1, "LO", "PRIV-Mark")
    ds.add_new(0x60000010, "US", 32)
    ds.add_new(0x60003000, "OW", b"Over-Mark1")
    ds.add_new(0x60004000, "LT", "Over-Mark2")
    ds.file_meta.SourceApplicationEntityTitle = "AE-Mark"
    ds.preamble = b"Preamble-Mark".ljust(128, b"\0")
    ds.save_as(path)
    return path


@pytest.mark.parametrize(("charset", "name"), PATIENTS)
def test_no_byte_of_a_copy_holds_an_identifier(charset: Any, name: str, tmp_path: Path) -> None:
    path = marked(tmp_path / "a.dcm", charset, name)
    before, after = path.read_bytes(), masked(path, tmp_path / "out").path.read_bytes()
    marks = {part.encode(code) for part in re.split(r"[\^=]", name) for code in _codes(part)}
    marks |= {value.encode() for text in MARKS.values() for value in text.split("^")}
    marks |= {b"-Mark", ROOT.encode(), b"SECRET"}
    marks |= _raw_name(path)
    assert {mark for mark in marks if mark in before} >= {
        b"PID-7700881",
        ROOT.encode(),
        b"-Mark",
    } | _raw_name(path)
    assert {mark for mark in marks if mark in after} == set()


def _codes(text: str) -> list[str]:
    found = []
    for code in ("utf-8", "gb18030", "euc_kr", "iso2022_jp", "iso8859_7"):
        try:
            text.encode(code)
            found.append(code)
        except UnicodeEncodeError:
            pass
    return found


def _raw_name(path: Path) -> set[bytes]:
    """The parts of the name as the file's character sets write them."""
    raw = pydicom.dcmread(path).get_item("PatientName").value
    return {part.strip() for part in re.split(rb"[\^=]", raw) if part.strip()}


def test_uids_stay_consistent_and_classes_stay_what_they_are(tmp_path: Path) -> None:
    path = marked(tmp_path / "a.dcm", "ISO_IR 192", "A^B")
    done = masked(path, tmp_path / "out").path
    ds = pydicom.dcmread(done)
    assert (ds.StudyInstanceUID, ds.SOPInstanceUID) == (NAMES.uid(f"{ROOT}1"), NAMES.uid(f"{ROOT}3"))
    assert (
        done.name == f"{ds.SOPInstanceUID}.dcm"
        and ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
    )
    inner = ds.DerivationImageSequence[0].SourceImageSequence[0]
    assert (
        inner.ReferencedSOPInstanceUID
        == ds.SourceImageSequence[0].ReferencedSOPInstanceUID
        == ds.SOPInstanceUID
    )
    assert inner.ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    assert ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"


def test_patients_stay_apart_under_pseudonyms() -> None:
    found = []
    for patient in ("PID-1", "PID-1", "PID-2", ""):
        ds = dicoms.item(PatientID=patient, PatientName="A^B")
        deidentify(ds, NAMES, cleaned=False)
        found.append(str(ds.PatientID))
        assert ds.PatientName == ""
    assert found[0] == found[1] != found[2] and found[3] == ""


@pytest.mark.parametrize(
    "name", ["US1_UNCI", "emri_small_big_endian", "eCT_Supplemental", "RG1_J2KI", "JPEG-LL"]
)
def test_dciodvfy_has_nothing_more_to_say_of_a_copy(name: str, tmp_path: Path) -> None:
    path = assets() / "dicom" / "files" / f"{name}.dcm"
    if not shutil.which("dciodvfy"):
        pytest.skip("needs dciodvfy (dicom3tools)")
    if not path.exists():
        pytest.skip("needs dicom/files of the measuring data ($EDGE_ASSETS)")
    done = masked(path, tmp_path / "out").path
    assert _errors(done) - _errors(path) == set()


def _errors(path: Path) -> set[str]:
    """What is wrong, without the values."""
    said = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, errors="replace").stderr
    return {re.sub(r"<[^>]*>|= .*|\d+", "#", line) for line in said.splitlines() if line.startswith("Error")}


def test_a_copy_is_whole_or_not_there(tmp_path: Path) -> None:
    path = dicoms.write(tmp_path / "a.dcm", noise((2, 32, 64)), BitsStored=12)
    (tmp_path / "file").touch()
    with pytest.raises(RuntimeFault, match="cannot write"):
        masked(path, tmp_path / "file" / "out")
    path.write_bytes(path.read_bytes()[:-9000])
    with pytest.raises(InputError):
        masked(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_object_without_a_uid_gets_one_of_its_content(tmp_path: Path) -> None:
    path = dicoms.write(tmp_path / "a.dcm", noise((32, 64)))
    ds = pydicom.dcmread(path)
    del ds.SOPInstanceUID
    ds.save_as(path)
    done = masked(path, tmp_path / "out").path
    assert re.fullmatch(r"2\.25\.\d+", str(pydicom.dcmread(done).SOPInstanceUID))
    assert masked(path, tmp_path / "out").path == done


def test_a_long_cine_is_not_in_memory_whole(tmp_path: Path) -> None:
    path = dicoms.write(tmp_path / "a.dcm", np.zeros((128, 512, 512), np.uint16))
    tracemalloc.start()
    masked(path, tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 64e6 and peak < 24e6


# --------------------------------------------------------------------------- the model, the command, the run


def with_text(
    path: Path, text: str = "JOHN DOE 12.04.1951", size: tuple[int, int] = (480, 640), **about: Any
) -> Path:
    """A dim ramp with a bright line of text in 12 bits."""
    stored = (400 * spread(size)).astype(np.uint16)
    cv2.putText(stored, text, (30, size[0] - 60), cv2.FONT_HERSHEY_SIMPLEX, 1.0, 3000, 2, cv2.LINE_AA)
    uids = {"StudyInstanceUID": f"{ROOT}1", "SeriesInstanceUID": f"{ROOT}2"}
    return dicoms.write(path, stored, BitsStored=12, **{**uids, **about})


@pytest.fixture(scope="module")
def finder() -> TextFinder:
    return TextFinder()


@pytest.mark.parametrize("size", [(480, 640), (1500, 2000)])
def test_the_model_finds_text_also_where_it_is_small_in_a_large_picture(
    size: tuple[int, int], finder: TextFinder, tmp_path: Path
) -> None:
    path = with_text(tmp_path / "a.dcm", size=size)
    done = mask(path, tmp_path / "out", finder, NAMES)
    assert done.text == (True,)
    after, before = open_dicom(done.path).stored(0), open_dicom(path).stored(0)
    letters = before >= 1500
    assert letters.sum() > 1000 and (after[letters] < 500).mean() > 0.99
    assert (after[: size[0] // 2] == before[: size[0] // 2]).all()


def test_tiles_cover_a_picture_and_overlap() -> None:
    for length, tile in ((640, 640), (641, 640), (1000, 480), (3000, 480)):
        starts = _starts(length, tile)
        assert starts[0] == 0 and starts[-1] + tile >= length
        assert all(b - a <= 0.8 * tile for a, b in pairwise(starts))


def test_a_model_that_finds_no_text_is_refused() -> None:
    with pytest.raises(UsageError, match="finds no text"):
        TextFinder(Path("yolox_nano"))


def test_the_command_masks_a_folder_and_names_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    with_text(folder / "Goethe.dcm")
    dicoms.write(folder / "Herder.dcm", (400 * spread((480, 640))).astype(np.uint16), BitsStored=12)
    (folder / "Schiller.dcm").write_bytes((folder / "Goethe.dcm").read_bytes()[:-9000])
    assert main(["dicom", "mask", str(folder), "--out", str(out), "--json"]) == 4
    said = capsys.readouterr()
    assert [json.loads(text)["frames_with_text"] for text in said.out.splitlines()] == [1, 0]
    assert sorted(json.loads(text)["file"] for text in said.out.splitlines()) == sorted(
        p.name for p in out.iterdir()
    )
    assert "file 3 of 3" in said.err and "Schiller" not in said.err + said.out


def stream(
    tmp_path: Path, settings: str, source: Path | str, *words: str
) -> tuple[int, list[dict[str, Any]]]:
    config = tmp_path / "stream.toml"
    config.write_text(f"[engine]\nbackend = 'null'\n[[feeds]]\nsource = '{source}'\n{settings}\n")
    lines = tmp_path / "r.jsonl"
    code = main(["run", "--config", str(config), "--sink", f"jsonl:{lines}", *words])
    return code, [json.loads(x) for x in lines.read_text().splitlines()] if lines.exists() else []


def test_frames_with_text_are_flagged(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    with_text(folder / "1.dcm", InstanceNumber=1)
    with_text(folder / "2.dcm", "", InstanceNumber=2)
    code, lines = stream(tmp_path, "burned_in = 'flag'", folder)
    assert code == 0 and [x["flags"] for x in lines] == [["burned_in_text"], []]


def test_masked_copies_come_under_the_pseudonyms_of_the_result_lines(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "masked"
    folder.mkdir()
    with_text(folder / "1.dcm")
    code, lines = stream(tmp_path, f"burned_in = 'mask'\nmasked = '{out}'", folder)
    assert code == 0 and [x["flags"] for x in lines] == [["burned_in_text"]]
    assert [path.stem for path in out.iterdir()] == [lines[0]["source_meta"]["sop_instance_uid"]]


def test_a_copy_that_cannot_be_written_costs_no_result(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "file").touch()
    with_text(tmp_path / "in" / "1.dcm")
    code, lines = stream(tmp_path, f"burned_in = 'mask'\nmasked = '{tmp_path}/file/x'", tmp_path / "in")
    assert code == 5 and [x["flags"] for x in lines] == [["burned_in_unchecked"]]


@pytest.mark.parametrize(
    ("settings", "source", "why"),
    [
        ("burned_in = 'mask'", "in", "goes with"),
        ("masked = 'x'", "in", "goes with"),
        ("burned_in = 'mask'\nmasked = 'x'", "test:text?frames=1", "DICOM objects"),
        ("burned_in = 'mask'\nmasked = '{0}/in/x'", "in", "inside the source"),
    ],
)
def test_settings_that_make_no_sense_are_errors_before_the_run(
    settings: str, source: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    with_text(tmp_path / "in" / "1.dcm")
    place = source if ":" in source else tmp_path / source
    assert stream(tmp_path, settings.format(tmp_path), place)[0] == 2
    assert why in capsys.readouterr().err
