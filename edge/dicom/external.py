"""12-bit JPEG through `dcmdjpeg` of dcmtk or `gdcmconv` of GDCM, frame by frame, as a plug-in of pydicom.

The tool gets a file with the compressed frame and the numbers needed to decode it, nothing of the patient.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"

DECODER_DEPENDENCIES = {JPEG_EXTENDED: ("dcmdjpeg or gdcmconv",)}
"""pydicom asks its plug-ins for this name."""

TOOLS = {"dcmdjpeg": ("dcmdjpeg", "--quiet"), "gdcmconv": ("gdcmconv", "--raw")}

SECONDS = 60
"""A frame that takes longer is given up."""


def is_available(uid: str) -> bool:
    return uid == JPEG_EXTENDED and _command() is not None


def register() -> None:
    """Make pydicom use it after its own decoders, which fail on 12 bits; harmless when called again."""
    from pydicom.pixels.decoders.base import get_decoder

    decoder = get_decoder(JPEG_EXTENDED)
    if is_available(JPEG_EXTENDED) and "external" not in decoder.available_plugins:
        decoder.add_plugin("external", (__name__, "_decode_frame"))


def _command() -> tuple[str, ...] | None:
    return next((words for tool, words in TOOLS.items() if shutil.which(tool)), None)


def _decode_frame(encoded: bytes, runner: Any) -> bytes:
    """Called by pydicom with a frame and a DecodeRunner; returns the samples, little endian."""
    import pydicom
    from pydicom.encaps import encapsulate
    from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

    command = _command()
    if command is None:
        raise RuntimeError("neither dcmdjpeg nor gdcmconv is installed")
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = runner.transfer_syntax
    ds.SOPClassUID, ds.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    ds.Rows, ds.Columns, ds.SamplesPerPixel = runner.rows, runner.columns, runner.samples_per_pixel
    ds.PhotometricInterpretation = str(runner.photometric_interpretation)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = (
        runner.bits_allocated,
        runner.bits_stored,
        runner.bits_stored - 1,
    )
    ds.PixelRepresentation = runner.pixel_representation
    ds.PixelData = encapsulate([encoded], has_bot=False)
    ds["PixelData"].is_undefined_length = True
    with TemporaryDirectory(prefix="edge-") as folder:
        source, target = Path(folder) / "in.dcm", Path(folder) / "out.dcm"
        ds.save_as(source, enforce_file_format=True)
        done = subprocess.run(
            [*command, str(source), str(target)], capture_output=True, timeout=SECONDS, check=False
        )
        if done.returncode or not target.exists():
            raise RuntimeError(f"{command[0]} ended with exit code {done.returncode}")
        return bytes(pydicom.dcmread(target).PixelData)[: int(runner.frame_length(unit="bytes"))]
