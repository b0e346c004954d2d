"""One series through an engine without a run: what a feed of it would give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge.dicom.volume import open_volume
from edge.errors import UsageError
from edge.stream.network import Network
from edge.tasks.segment_volume import Segmentation

if TYPE_CHECKING:
    from edge.dicom.answers.finding import LabelVolume


def segment_series(paths: Sequence[Path], network: Network) -> LabelVolume:
    """The labels of a series, on its slices along the normal.

    Args:
        paths: its files, in any order, or its one multi-frame file.
        network: nothing else may use it meanwhile.

    Raises:
        UsageError: the network gives no labels of volumes.
        InputError: the slices make no volume, or cannot be read.
        RuntimeFault: the engine fails.
    """
    return segmented(paths, network).on_slices()


def segmented(paths: Sequence[Path], network: Network) -> Segmentation:
    """What the network finds in a series; raises as `segment_series`."""
    if network.preprocess is None or network.task is None or network.task.kind != "segment_volume":
        raise UsageError(f"model '{network.id.model}'", "it segments no volumes", "choose one that does")
    slot = network.slots()[0]
    placement = network.preprocess.into(open_volume(paths), slot.inputs[network.input_name][0])
    slot.submit()
    found = network.interpret(slot.wait(), placement)
    assert isinstance(found, Segmentation)
    return found
