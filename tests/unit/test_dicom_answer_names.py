"""Names in the character sets of the world come back from an answer as they went in."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
pytest.importorskip("highdicom", reason="the extra 'pacs' is not installed")

from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian  # noqa: E402

from edge.dicom.answers import KINDS, Found, build  # noqa: E402
from tests.answers import boxes, errors, inference, mask, source, written  # noqa: E402

PATIENT_NAME, STUDY_DESCRIPTION = 0x00100010, 0x00081030

NAMES = {
    "japanese": (
        ["", "ISO 2022 IR 87"],
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        "山田^太郎",
    ),
    "korean": (
        ["", "ISO 2022 IR 149"],
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        "洪^吉洞",
    ),
    "chinese gb18030": (["GB18030"], b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab", "王^小东"),
    "chinese gb2312": (
        ["", "ISO 2022 IR 58"],
        b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab",
        "张^小东",
    ),
    "chinese utf-8": (["ISO_IR 192"], "Wang^XiaoDong=王^小東".encode(), "王^小東"),
    "greek": (["ISO_IR 126"], "Διονυσίου^Ελένη".encode("iso8859-7"), "Διονυσίου^Ελένη"),
}
"""Character sets, bytes as in the examples of PS3.5 H, I, J and K, and a part of the name."""

SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)

PAYLOAD = {"sr": boxes, "seg": mask, "sc": boxes, "gsps": boxes, "ko": boxes}


def named(path, charsets, name, syntax=ExplicitVRLittleEndian):
    """A source with these bytes for a name and a study description."""
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    ds = pydicom.dcmread(source(path, np.zeros((48, 64), np.uint16)))
    list(ds)  # read all numbers: they are written in another order of bytes
    if charsets:
        ds.SpecificCharacterSet = charsets if len(charsets) > 1 else charsets[0]
    little, implicit = syntax != ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
    for tag, vr in ((PATIENT_NAME, "PN"), (STUDY_DESCRIPTION, "LO")):
        value = name.split(b"=")[-2 if b"=" in name else 0] if vr == "LO" else name
        value += b" " * (len(value) % 2)
        ds[tag] = RawDataElement(Tag(tag), vr, len(value), value, 0, implicit, little, True, None)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.set_original_encoding(implicit, little, ds._character_set)
    ds.save_as(path, enforce_file_format=True, implicit_vr=implicit, little_endian=little)
    return path


def element(file, tag):
    """The bytes of an element of a written answer."""
    return pydicom.dcmread(io.BytesIO(file)).get_item(tag).value


def text(ds):
    """The name as pydicom reads it, without the escape sequences that it leaves in GB 2312."""
    return re.sub(r"\x1b\$\)A", "", str(ds.PatientName))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("language", NAMES)
def test_a_name_is_kept_byte_for_byte(language, kind, tmp_path):
    charsets, name, part = NAMES[language]
    path = named(tmp_path / "named.dcm", charsets, name)
    (answer,) = build(kind, inference([Found(path, 0, PAYLOAD[kind](64, 48))]))
    file = written(answer)
    assert element(file, PATIENT_NAME).rstrip() == name
    assert element(file, STUDY_DESCRIPTION) == pydicom.dcmread(path).get_item(STUDY_DESCRIPTION).value
    back = pydicom.dcmread(io.BytesIO(file))
    assert list(np.atleast_1d(back.SpecificCharacterSet)) == charsets
    assert part in text(back)


@pytest.mark.parametrize("language", NAMES)
def test_a_report_with_such_a_name_is_valid(language, tmp_path):
    charsets, name, _ = NAMES[language]
    path = named(tmp_path / "named.dcm", charsets, name)
    (answer,) = build("sr", inference([Found(path, 0, boxes(64, 48))]))
    assert errors(answer, tmp_path) == []


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
def test_whatever_the_encoding_of_the_source(syntax, tmp_path):
    charsets, name, part = NAMES["japanese"]
    path = named(tmp_path / "named.dcm", charsets, name, syntax)
    (answer,) = build("sr", inference([Found(path, 0, boxes(64, 48))]))
    assert element(written(answer), PATIENT_NAME).rstrip() == name
    assert part in str(answer.PatientName)


@pytest.mark.parametrize("language", NAMES)
def test_beside_a_class_that_the_character_set_has_no_letters_for_all_is_unicode(language, tmp_path):
    charsets, name, part = NAMES[language]
    path = named(tmp_path / "named.dcm", charsets, name)
    (answer,) = build("seg", inference([Found(path, 0, mask(64, 48, "Läsion 結節"))]))
    back = pydicom.dcmread(io.BytesIO(written(answer)))
    assert back.SpecificCharacterSet == "ISO_IR 192"
    assert str(back.PatientName) == text(pydicom.dcmread(path))
    assert part in str(back.PatientName)
    assert back.SegmentSequence[0].SegmentLabel == "Läsion 結節"
    assert errors(answer, tmp_path) == []


@pytest.mark.parametrize("charsets", [[], ["ISO_IR 192"]], ids=["none", "utf-8"])
def test_bytes_that_are_no_text_in_the_character_set_are_kept_too(charsets, tmp_path):
    name = b"M\xfcller^J\xf6rg"
    path = named(tmp_path / "named.dcm", charsets, name)
    (answer,) = build("sr", inference([Found(path, 0, boxes(64, 48))]))
    assert element(written(answer), PATIENT_NAME).rstrip() == name
