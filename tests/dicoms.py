"""Small DICOM files for tests."""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, generate_uid


def item(**elements) -> Dataset:
    """A data set of these elements, such as an item of a sequence."""
    ds = Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def write(path: Path, stored, syntax=ExplicitVRLittleEndian, encoded=None, **elements) -> Path:
    """A file of these stored values: rows × columns, or frames × rows × columns.

    Args:
        encoded: the frames in the form of a compressed syntax; `stored` then gives their size alone.
        elements: what the header says, over what follows from the values.
    """
    stored = np.asarray(stored)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    ds.PatientName, ds.PatientID = "DOE^JOHN", "12345"
    frames = stored if stored.ndim == 3 else stored[None]
    ds.Rows, ds.Columns = frames.shape[1:3]
    if len(frames) > 1:
        ds.NumberOfFrames = len(frames)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = stored.itemsize * 8
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    ds.HighBit = elements.get("HighBit", ds.BitsStored - 1)
    data = stored.tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2) if encoded is None else encapsulate(encoded, has_bot=False)
    ds["PixelData"].VR = "OW" if encoded is None else "OB"
    ds["PixelData"].is_undefined_length = encoded is not None
    ds.save_as(path, enforce_file_format=True)
    return path
