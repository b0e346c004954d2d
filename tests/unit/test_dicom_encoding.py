"""What the receiver encodes by hand is what pydicom and pynetdicom encode."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

pydicom = pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
pytest.importorskip("pynetdicom", reason="the extra 'pacs' is not installed")

from edge.dicom.receiving.encoding import (  # noqa: E402
    IMPLEMENTATION_CLASS,
    IMPLEMENTATION_VERSION,
    file_meta,
    store_response,
)

uids = st.from_regex(r"\A(0|[1-9][0-9]{0,6})(\.(0|[1-9][0-9]{0,6})){1,7}\Z")


@given(uids, uids, uids, st.sampled_from(["", "CT", "STORE"]))
def test_file_meta_is_what_pydicom_writes(sop_class, uid, syntax, sender):
    meta = pydicom.dataset.FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, uid
    meta.TransferSyntaxUID, meta.ImplementationClassUID = syntax, IMPLEMENTATION_CLASS
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    if sender:
        meta.SourceApplicationEntityTitle = sender
    buffer = io.BytesIO()
    pydicom.filewriter.write_file_meta_info(buffer, meta)
    assert file_meta(sop_class, uid, syntax, sender) == bytes(128) + b"DICM" + buffer.getvalue()


@given(uids, uids, st.integers(1, 65535), st.sampled_from([0x0000, 0xA700, 0xC000]))
def test_a_response_is_what_pynetdicom_sends(sop_class, uid, message, status):
    from pynetdicom.dimse_messages import C_STORE_RSP
    from pynetdicom.dimse_primitives import C_STORE

    response = C_STORE()
    response.MessageIDBeingRespondedTo, response.Status = message, status
    response.AffectedSOPClassUID, response.AffectedSOPInstanceUID = sop_class, uid
    theirs = C_STORE_RSP()
    theirs.primitive_to_message(response)
    (data,) = theirs.encode_msg(1, 16384)
    assert data.presentation_data_value_list == [(1, b"\3" + store_response(sop_class, uid, message, status))]
