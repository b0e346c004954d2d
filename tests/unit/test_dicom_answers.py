"""What all answers have in common: whose they are, that they are the same again, what a PACS may rely on."""

from __future__ import annotations

import io
from datetime import datetime, timezone

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
pytest.importorskip("highdicom", reason="the extra 'pacs' is not installed")

from edge.dicom.answers import KINDS, Found, build, build_all  # noqa: E402
from edge.dicom.answers.uids import instance_uid  # noqa: E402
from edge.errors import InputError, UsageError  # noqa: E402
from tests.answers import KEY, STUDY, boxes, classes, errors, inference, mask, source, written  # noqa: E402

GREY = np.arange(64 * 48, dtype=np.uint16).reshape(48, 64)

KINDS_OF = {"sr": boxes, "seg": mask, "sc": boxes, "gsps": boxes, "ko": boxes}
"""A payload that an answer of the kind fits."""


@pytest.fixture
def image(tmp_path):
    """One grey picture, 64 wide, 48 high."""
    return source(tmp_path / "image.dcm", GREY, WindowCenter=1500, WindowWidth=3000)


def one(kind, path, **others):
    (answer,) = build(kind, inference([Found(path, 0, KINDS_OF[kind](64, 48))], **others))
    return pydicom.dcmread(io.BytesIO(written(answer)))


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_of_the_source_study_and_of_a_series_of_its_own(kind, image):
    answer = one(kind, image)
    assert (answer.StudyInstanceUID, answer.PatientID, answer.AccessionNumber) == ("1.2.8", "12345", "ACC7")
    assert answer.PatientName == "DOE^JOHN"
    series = {one(other, image).SeriesInstanceUID for other in KINDS}
    assert len(series | {STUDY["SeriesInstanceUID"]}) == len(KINDS) + 1
    assert answer.file_meta.MediaStorageSOPInstanceUID == answer.SOPInstanceUID


@pytest.mark.parametrize("kind", KINDS)
def test_made_again_it_is_the_same_object_byte_for_byte(kind, image):
    first, again = (
        written(build(kind, inference([Found(image, 0, KINDS_OF[kind](64, 48))]))[0]) for _ in "12"
    )
    assert first == again
    other = one(kind, image, key="6" * 32)
    assert other.SOPInstanceUID != one(kind, image).SOPInstanceUID
    assert other.SeriesInstanceUID != one(kind, image).SeriesInstanceUID


@pytest.mark.parametrize("kind", KINDS)
def test_no_time_of_the_making_is_in_it(kind, image):
    text = str(one(kind, image))
    assert datetime.now().strftime("%Y%m%d") not in text
    assert one(kind, image).InstanceCreationDate == "20010203"


def test_an_answer_bears_the_moment_of_the_inference_on_the_clock_of_the_source(tmp_path):
    path = source(tmp_path / "east.dcm", GREY, TimezoneOffsetFromUTC="+0900")
    moment = datetime(2026, 1, 31, 20, 30, 15, tzinfo=timezone.utc)
    answer = one("sr", path, moment=moment)
    assert (answer.ContentDate, answer.ContentTime) == ("20260201", "053015")
    assert answer.TimezoneOffsetFromUTC == "+0900"
    assert answer.StudyDate == "20010203"


def test_a_source_that_knows_no_time_gives_that_of_its_arrival(tmp_path):
    path = source(tmp_path / "timeless.dcm", GREY, StudyDate="", StudyTime="")
    arrival = datetime.fromtimestamp(path.stat().st_mtime)
    assert one("sr", path).ContentDate == arrival.strftime("%Y%m%d")
    assert one("sr", path).StudyDate == ""


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_that_lacks_what_it_must_have_gets_a_valid_answer(kind, tmp_path):
    path = source(tmp_path / "bare.dcm", GREY)
    bare = pydicom.dcmread(path)
    for keyword in (*STUDY, "PatientName", "PatientID"):
        del bare[keyword]
    bare.save_as(path)
    (answer,) = build(kind, inference([Found(path, 0, KINDS_OF[kind](64, 48))]))
    assert errors(answer, tmp_path) == []
    back = pydicom.dcmread(io.BytesIO(written(answer)))
    assert back.StudyInstanceUID.is_valid and back.PatientID == back.StudyID == ""


def test_all_kinds_of_answers_to_a_source_without_a_study_are_of_one_study(tmp_path):
    path = source(tmp_path / "bare.dcm", GREY, StudyInstanceUID="")
    assert len({one(kind, path).StudyInstanceUID for kind in KINDS}) == 1


def test_values_of_old_or_wrong_form_are_mended_or_left_empty(tmp_path):
    wrong = {"PatientSex": "X", "PatientAge": "42", "PatientBirthDate": "1960.01.02", "StudyTime": "15:18:59"}
    path = source(tmp_path / "wrong.dcm", GREY)
    text = pydicom.dcmread(path)
    for keyword, value in wrong.items():
        tag = pydicom.datadict.tag_for_keyword(keyword)
        vr = pydicom.datadict.dictionary_VR(tag)
        raw = value.encode() + b" " * (len(value) % 2)
        text[tag] = pydicom.dataelem.RawDataElement(
            pydicom.tag.Tag(tag), vr, len(raw), raw, 0, False, True, True, None
        )
    text.save_as(path)
    (answer,) = build("sr", inference([Found(path, 0, classes(64, 48))]))
    assert errors(answer, tmp_path) == []
    assert (answer.PatientBirthDate, answer.StudyTime) == ("19600102", "151859")
    assert not answer.PatientSex and "PatientAge" not in answer


def test_an_answer_to_a_de_identified_source_says_so(tmp_path):
    path = source(tmp_path / "clean.dcm", GREY, PatientIdentityRemoved="YES")
    (answer,) = build("sr", inference([Found(path, 0, classes(64, 48))]))
    assert answer.PatientIdentityRemoved == "YES"
    assert errors(answer, tmp_path) == []


def test_objects_of_two_studies_are_not_answered_together(tmp_path):
    paths = [source(tmp_path / f"{n}.dcm", GREY, StudyInstanceUID=f"1.2.{n}") for n in (3, 4)]
    with pytest.raises(InputError, match="several studies"):
        build("sr", inference([Found(path, 0, classes(64, 48)) for path in paths]))


def test_an_object_without_an_identity_cannot_be_answered(tmp_path):
    path = source(tmp_path / "nobody.dcm", GREY)
    nobody = pydicom.dcmread(path)
    del nobody.SOPInstanceUID, nobody.file_meta.MediaStorageSOPInstanceUID
    nobody.save_as(path, enforce_file_format=False)
    with pytest.raises(InputError, match="no answer can refer to it"):
        build("sr", inference([Found(path, 0, classes(64, 48))]))


def test_neither_log_nor_error_tells_the_patient(tmp_path, caplog):
    path = source(tmp_path / "odd.dcm", GREY, PatientName="ODDNAME", PatientID="ODDID")
    odd = pydicom.dcmread(path)
    odd.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    odd.save_as(path)
    with caplog.at_level(0):
        build_all(KINDS, inference([Found(path, 0, boxes(64, 48))]))
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(InputError) as e:
            build_all(KINDS, inference([Found(path, 0, boxes(64, 48))]))
    assert "ODD" not in caplog.text and "ODD" not in str(e.value)


def test_no_frames_give_no_answers():
    assert build_all(KINDS, inference([])) == {kind: [] for kind in KINDS}


def test_uids_stay_the_same_from_version_to_version():
    assert instance_uid(KEY, "sr", 1) == "2.25.2423246924596917579294791856168562729"


def test_an_unknown_kind_is_named():
    with pytest.raises(UsageError, match="'srr'"):
        build("srr", inference([]))


def test_every_answer_of_a_series_has_a_number_of_its_own(tmp_path):
    paths = [source(tmp_path / f"{n}.dcm", GREY) for n in range(3)]
    answers = build("sc", inference([Found(path, 0, classes(64, 48)) for path in paths]))
    assert [answer.InstanceNumber for answer in answers] == [1, 2, 3]
    assert len({answer.SOPInstanceUID for answer in answers}) == 3
    assert len({answer.SeriesInstanceUID for answer in answers}) == 1
