"""DICOM files as pictures: header checks, lazy frames, and the display pipeline of PS3.3 and PS3.4."""

from edge.dicom.pixels import DicomImage, open_dicom
from edge.dicom.timing import frame_times

__all__ = ["DicomImage", "frame_times", "open_dicom"]
