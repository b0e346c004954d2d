"""What the spool reads of a header: three UIDs, and no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.config import assets
from edge.dicom.identity import identify
from edge.errors import InputError

pydicom = pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")


def written(path: Path, syntax: str, **values: str) -> Path:
    dataset = pydicom.Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.4", "1.2.5"
    dataset.AdditionalPatientHistory = "x" * 3000  # longer than anything that is read
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


@pytest.mark.parametrize("syntax", ["1.2", "1.2.1", "1.2.2", "1.2.1.99"])
def test_every_encoding_is_read(tmp_path, syntax):
    assert identify(written(tmp_path / "a.dcm", f"1.2.840.10008.{syntax}")) == ("1.2.3", "1.2.4", "1.2.5")


def test_what_is_absent_is_empty(tmp_path):
    path = written(tmp_path / "a.dcm", "1.2.840.10008.1.2.1")
    dataset = pydicom.dcmread(path)
    del dataset.SeriesInstanceUID
    dataset.save_as(path)
    assert identify(path) == ("1.2.3", "1.2.4", "")


def test_a_damaged_file_is_an_input_error_that_quotes_nothing(tmp_path):
    path = written(tmp_path / "a.dcm", "1.2.840.10008.1.2.1.99")
    meta = pydicom.filereader.read_file_meta_info(path).FileMetaInformationGroupLength
    path.write_bytes(path.read_bytes()[: 144 + meta] + b"Doe^Jane" * 50)
    with pytest.raises(InputError) as caught:
        identify(path)
    assert "Doe" not in str(caught.value)


def test_a_file_that_is_gone_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        identify(tmp_path / "gone.dcm")


@pytest.mark.filterwarnings("ignore:Invalid value")
def test_real_files_give_what_pydicom_gives():
    files = sorted((assets() / "dicom" / "files").glob("*.dcm"))
    if not files:
        pytest.skip("the DICOM files of the assets are absent")
    for path in files:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        expected = [dataset.get(k, "") for k in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")]
        assert list(identify(path)) == [str(value) for value in expected], path.name
