"""The network of brain tissues on a real series, from its files to labels on its slices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge import config
from edge.config import load_model
from edge.stream.volumes import segmented

pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")

from tests.volumes import volume_network

T1 = config.assets() / "dicom" / "t1_series"


@pytest.mark.slow
@pytest.mark.skipif(not T1.is_dir(), reason=f"no measuring data: {T1} is absent")
def test_a_real_brain_is_segmented_on_its_own_slices() -> None:
    """Takes half a minute and 3 GiB."""
    network = volume_network(load_model(Path("meshnet_t1_tissue")))
    found = segmented(list(T1.glob("*.dcm")), network)
    network.close()
    assert 650 < found.ml[1] < 850 and 450 < found.ml[2] < 650  # ml of white and of grey matter
    volume = found.placement.volume
    labels, values = np.stack(found.on_slices().labels), volume.values()
    white, grey = (values[labels == label] for label in (1, 2))
    assert np.median(white) > 1.15 * np.median(grey) > 1.5 * np.median(values[labels == 0])
    inside = volume.affine @ [*np.argwhere(labels > 0).mean(0), 1]
    head = volume.affine @ [*np.argwhere(values > 40).mean(0), 1]
    assert abs(inside[0] - head[0]) < 5 and inside[2] > head[2]  # in the middle, above face and neck
