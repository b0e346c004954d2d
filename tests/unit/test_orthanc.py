"""The PACS that other tests trust: what it is given, it has, also after it was killed."""

import pytest

pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
pytest.importorskip("pynetdicom", reason="the extra 'pacs' is not installed")
from tests.orthanc import AET, orthanc
from tests.pacs import association, ct_slice, store


def test_it_keeps_what_it_is_sent(tmp_path):
    with orthanc(tmp_path) as pacs:
        with association(pacs.port, called=AET) as sent:
            assert store(sent, ct_slice(1)) == 0
        assert pacs.uids() == ["1.2.3.1"]
        assert pacs.datasets()[0].PatientName == "Secret^Jane"
        assert pacs.get("dicom-web/studies") and pacs.process.poll() is None
    with orthanc(tmp_path) as again:
        assert again.uids() == ["1.2.3.1"]
