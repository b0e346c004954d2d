"""Key object selection: the frames in which something was found (PS3.3 A.35.4, PS3.16 TID 2010)."""

from __future__ import annotations

from typing import Any

from edge.dicom.answers import codes
from edge.dicom.answers.dress import blank, dress, evidence
from edge.dicom.answers.finding import Inference
from edge.dicom.answers.observation import observe
from edge.dicom.answers.report import observer
from edge.dicom.answers.source import Source, Sources

KIND = "ko"

KEY_OBJECT_SELECTION = "1.2.840.10008.5.1.4.1.1.88.59"


def build(inference: Inference, sources: Sources) -> list[Any]:
    """One selection; none where nothing was found at a place."""
    from highdicom.ko import KeyObjectSelection

    chosen: dict[Source, list[int]] = {}
    for found in inference.found:
        source = sources[found.path]
        if observe(found.payload, source.columns, source.rows).positive:
            chosen.setdefault(source, []).append(found.frame)
    if not chosen:
        return []
    selection = KeyObjectSelection(
        document_title=codes.code("113000", "DCM", "Of Interest"),
        referenced_objects=[_image(source) for source in chosen],
        observer_device_context=observer(inference),
        description=codes.text(f"Frames in which {inference.engine.model} found something"),
    )
    answer = blank(KEY_OBJECT_SELECTION, "KO")
    answer.update(selection[0])
    images = [item for item in answer.ContentSequence if item.ValueType == "IMAGE"]
    for item, (source, frames) in zip(images, chosen.items(), strict=True):
        item.ReferencedSOPSequence = [source.reference(frames)]
    answer.ReferencedPerformedProcedureStepSequence = []
    answer.CurrentRequestedProcedureEvidenceSequence = [evidence(chosen)]
    return [dress(answer, KIND, 1, inference, sources)]


def _image(source: Source) -> Any:
    """What highdicom takes for an image."""
    from pydicom import Dataset

    item = Dataset()
    item.SOPClassUID, item.SOPInstanceUID = source.sop_class, source.instance
    item.Rows, item.Columns = source.rows, source.columns
    return item
