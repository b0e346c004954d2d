"""Key object selection: the frames in which something was found (PS3.3 A.35.4, PS3.16 TID 2010)."""

from __future__ import annotations

from typing import Any

from edge.dicom.answers import codes
from edge.dicom.answers.dress import dress, identity
from edge.dicom.answers.finding import Inference
from edge.dicom.answers.observation import observe
from edge.dicom.answers.report import observer
from edge.dicom.answers.source import Source, Sources

KIND = "ko"


def build(inference: Inference, sources: Sources) -> list[Any]:
    """One selection; none where nothing was found at a place."""
    from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument

    chosen: dict[str, tuple[Source, list[int]]] = {}
    for found in inference.found:
        source = sources[found.path]
        if observe(found.payload, source.columns, source.rows).positive:
            chosen.setdefault(source.instance, (source, []))[1].append(found.frame)
    if not chosen:
        return []
    images = [source.evidence for source, _ in chosen.values()]
    selection = KeyObjectSelection(
        document_title=codes.code("113000", "DCM", "Of Interest"),
        referenced_objects=images,
        observer_device_context=observer(inference),
        description=codes.text(f"Frames in which {inference.engine.model} found something"),
    )
    answer = KeyObjectSelectionDocument(evidence=images, content=selection, **identity(inference, KIND, 1))
    for item in answer.ContentSequence:
        if item.ValueType == "IMAGE":
            reference = item.ReferencedSOPSequence[0]
            source, frames = chosen[reference.ReferencedSOPInstanceUID]
            if numbers := source.numbers(*frames):
                reference.ReferencedFrameNumber = numbers
    return [dress(answer, KIND, 1, inference, sources)]
