"""A multi-frame file that is run from its first to its last frame is never in memory whole."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from dicom_memory import KINDS, run

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")


@pytest.mark.parametrize(("kind", "frames"), [("uncompressed", 150), ("jpeg_baseline", 300)])
def test_a_big_file_takes_hardly_more_memory_than_a_small_one(tmp_path, kind, frames):
    small = run(KINDS[kind](tmp_path / "small.dcm", 8))  # which starts as many decoders
    big = KINDS[kind](tmp_path / "big.dcm", frames)
    found = run(big)
    assert found["delivered"] == frames and big.stat().st_size > 100e6
    assert found["mb"] - small["mb"] < 60
