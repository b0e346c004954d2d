"""No patient in what a run tells: marked identifiers go into files, and every output is searched for them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom")
import dicoms

from edge.cli import main
from edge.errors import InputError
from edge.privacy import Privacy, Pseudonyms, default_key, read_key

ROOT = "1.3.6.1.4.1.55555.77."
PATIENTS = [  # character sets as hospitals use them (PS3.5 6.1.2.5, annexes H to K)
    (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ("GB18030", "Wang^XiaoDong=王^小东"),
    (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    ("ISO_IR 126", "Διονυσιος"),
    ("ISO_IR 192", "Łukasz^Żółć"),
]
MARKS = {
    "PatientID": "PID-7700881",
    "PatientBirthDate": "19340417",
    "AccessionNumber": "ACC-55091",
    "OtherPatientIDs": "OTHER-4711",
    "ReferringPhysicianName": "Hippokrates^Kos",
    "InstitutionName": "Charite-Mark",
    "StudyDescription": "Husten-Mark",
    "StudyDate": "20231109",
    "PatientComments": "Nachbar-Mark",
    "StudyID": "SID-90210",
}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Five objects of five patients in files that are named after them, and a sixth that is broken."""
    folder = tmp_path / "in" / "Goethe^Johann 1749-08-28"
    folder.mkdir(parents=True)
    for i, (charset, name) in enumerate(PATIENTS):
        uids = {
            "StudyInstanceUID": f"{ROOT}1",
            "SeriesInstanceUID": f"{ROOT}1.{i}",
            "SOPInstanceUID": f"{ROOT}1.{i}.7",
        }
        picture = np.full((64, 64), 30 * i, np.uint8)
        about = {"SpecificCharacterSet": charset, "PatientName": name, "Modality": "US", **MARKS, **uids}
        dicoms.write(folder / f"{name.split('=')[-1]}.dcm", picture, **about)
    broken = folder / "Schiller: Friedrich.dcm"
    broken.write_bytes((folder / "Διονυσιος.dcm").read_bytes()[:-2000])
    return folder


def marks(study: Path) -> set[str]:
    """What must not be found: names in all their parts and scripts, identifiers, UIDs, names of files."""
    parts = {part for _, name in PATIENTS for part in re.split(r"[\^=]", name)}
    files = {path.stem for path in study.iterdir()} | {"Schiller", "Friedrich", "Goethe", "Johann"}
    values = {part for value in MARKS.values() for part in value.split("^")}
    return parts | values | files | {ROOT}


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    caplog.set_level(logging.DEBUG)
    yield caplog


def run(study: Path, out: Path, *words: str) -> int:
    sinks = [f"jsonl:{out}/r.jsonl", f"triage:{out}/t.html", f"triage:{out}/t.json", f"video:{out}/v.avi"]
    given = [word for sink in sinks for word in ("--sink", sink)]
    given += ["--source", str(study), "--summary", f"{out}/s.json", "--json", *words]
    return main(["run", "--backend", "null", *given])


def outputs(out: Path) -> str:
    """All texts that a run has left, and the names of its files."""
    files = sorted(path for path in out.rglob("*") if path.is_file())
    texts = [path.read_text(encoding="utf-8") for path in files if path.suffix != ".avi"]
    return "\n".join([*(str(path) for path in files), *texts])


@pytest.mark.parametrize("mode", [None, "pseudonym", "full"])
def test_nothing_that_a_run_tells_holds_an_identifier(
    mode: str | None,
    study: Path,
    tmp_path: Path,
    said: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run(study, tmp_path / "out", *(["--privacy", mode] if mode else [])) == 5  # a file is broken
    printed = capfd.readouterr()
    everything = "\n".join([outputs(tmp_path / "out"), printed.out, printed.err, said.text])
    decoded = everything.encode().decode("unicode_escape", "ignore") + everything
    assert {mark for mark in marks(study) if mark in decoded} == set()
    assert re.search(r"failed: file-[0-9a-f]{8} claims", everything)  # the broken one is told of
    lines = [json.loads(line) for line in (tmp_path / "out/r.jsonl").read_text().splitlines()]
    assert len(lines) == 5 and {line["feed"] for line in lines} == {"dicom"}
    assert all(line["source_meta"]["sop_instance_uid"].startswith("2.25.") for line in lines)
    assert {line["source_meta"]["modality"] for line in lines} == {"US"}
    assert len({line["source_meta"]["study_instance_uid"] for line in lines}) == 1


@pytest.mark.parametrize("mode", ["pseudonym"])
def test_a_watched_folder_tells_no_identifier_either(
    mode: str,
    study: Path,
    tmp_path: Path,
    said: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    no_sync: None,
) -> None:
    source, out = f"dicom:{study}?watch=1&settle=0.01&spool={tmp_path}/spool", tmp_path / "out"
    sinks = ["--sink", f"jsonl:{out}/r.jsonl", "--sink", f"triage:{out}/t.html"]
    given = ["--source", source, *sinks, "--summary", f"{out}/s.json", "--frames", "5", "--privacy", mode]
    main(["run", "--backend", "null", *given])
    assert main(["worklist", f"{tmp_path}/spool", "--json"]) == 0
    printed = capfd.readouterr()
    names = "\n".join(str(path) for path in (tmp_path / "spool").rglob("*"))
    everything = "\n".join([outputs(out), printed.out, printed.err, said.text, names])
    decoded = everything.encode().decode("unicode_escape", "ignore") + everything
    assert {mark for mark in marks(study) if mark in decoded} == set()
    lines = [json.loads(line) for line in (out / "r.jsonl").read_text().splitlines()]
    assert len(lines) >= 4 and all(x["source_meta"]["study_instance_uid"].startswith("2.25.") for x in lines)


def test_without_privacy_all_is_told_as_it_is(
    study: Path, tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    run(study, tmp_path / "out", "--privacy", "none")
    lines = [json.loads(line) for line in (tmp_path / "out/r.jsonl").read_text().splitlines()]
    assert {line["source_meta"]["study_instance_uid"] for line in lines} == {f"{ROOT}1"}
    assert {line["source_meta"]["file"] for line in lines} < {path.name for path in study.iterdir()}
    assert json.loads((tmp_path / "out/s.json").read_text())["feeds"][0]["source"] == str(study)
    assert "Schiller: Friedrich.dcm" in said.text
    assert "PID-7700881" not in outputs(tmp_path / "out")  # what the header says is not even read


def test_the_only_file_of_a_folder_is_not_named_when_it_cannot_be_read(
    study: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for path in study.iterdir():
        if "Schiller" not in path.name:
            path.unlink()
    assert main(["run", "--backend", "null", "--source", str(study), "--sink", "null:"]) == 4
    assert "Schiller" not in capfd.readouterr().err


def uids(out: Path) -> list[str]:
    return [
        json.loads(x)["source_meta"]["sop_instance_uid"] for x in (out / "r.jsonl").read_text().splitlines()
    ]


def test_pseudonyms_stay_the_same_under_a_key_and_change_with_it(study: Path, tmp_path: Path) -> None:
    for name, key in (("a", "one"), ("b", "one"), ("c", "two")):
        run(study, tmp_path / name, "--privacy-key", str(tmp_path / key))
    assert uids(tmp_path / "a") == uids(tmp_path / "b") != uids(tmp_path / "c")


def test_full_privacy_cannot_be_linked_from_run_to_run(study: Path, tmp_path: Path) -> None:
    for name in "ab":
        run(study, tmp_path / name, "--privacy", "full")
    assert set(uids(tmp_path / "a")).isdisjoint(uids(tmp_path / "b"))


def test_a_pseudonym_is_a_valid_uid_and_one_for_each_uid() -> None:
    made = Pseudonyms(b"k" * 32)
    found = [made.uid(f"1.2.3.{i}") for i in range(500)]
    assert len(set(found)) == 500
    assert all(re.fullmatch(r"2\.25\.[1-9]\d*", uid) and len(uid) <= 64 for uid in found)
    assert made.uid("1.2.3.1") == Pseudonyms(b"k" * 32).uid("1.2.3.1") == found[1]


def test_only_what_is_known_to_be_harmless_is_told(tmp_path: Path) -> None:
    meta: dict[str, Any] = {
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "sop_class_uid": "1.2.3.DOE",
        "frame_number": 2,
        "file": "DOE.dcm",
        "something_new": "DOE",
    }
    shown = Privacy("pseudonym", tmp_path / "key").meta(meta)
    assert set(shown) == {"transfer_syntax_uid", "sop_class_uid", "frame_number"}
    assert "DOE" not in str(shown)


def test_pictures_that_are_not_dicom_keep_their_names() -> None:
    meta = {"file": "gate.png"}
    assert Privacy("full").meta(meta) is meta


def test_a_run_without_dicom_makes_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    assert main(["run", "--backend", "null", "--source", "test:text?frames=2", "--sink", "null:"]) == 0
    assert not (tmp_path / "settings").exists()


def test_the_key_is_made_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    key = read_key(default_key())
    assert len(key) >= 32 and read_key(default_key()) == key
    assert default_key().stat().st_mode & 0o777 == 0o600
    assert [path.name for path in default_key().parent.iterdir()] == ["pseudonym.key"]


@pytest.mark.parametrize(
    ("data", "mode", "why"), [(b"x" * 64, 0o644, "no secret"), (b"short", 0o600, "too short")]
)
def test_a_key_that_is_none_is_refused(data: bytes, mode: int, why: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(data)
    path.chmod(mode)
    with pytest.raises(InputError, match=why):
        read_key(path)


def test_a_key_that_cannot_be_made_is_an_error_before_the_run(study: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert run(study, tmp_path / "out", "--privacy-key", str(tmp_path / "file" / "key")) == 4
    assert not (tmp_path / "out" / "r.jsonl").exists()
