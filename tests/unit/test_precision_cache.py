"""Sensitivity on disk: what was saved comes back, and nothing that is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from edge.precision import cache
from edge.precision.compensation import Compensation, StoredWeight
from edge.precision.sensitivity import GroupNoise, Sensitivity, Tried


def measured() -> Sensitivity:
    random = np.random.default_rng(0)
    int8 = random.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
    fp8 = random.normal(0, 10, (8, 16)).astype(ml_dtypes.float8_e4m3fn)
    int4 = random.integers(-8, 8, (64, 5)).astype(ml_dtypes.int4)
    weights = {
        ("conv.weight", 0, "int8"): StoredWeight(int8, np.float32([1, 2, 3, 4]), 0),
        ("matrix", 1, "fp8"): StoredWeight(fp8, np.ones(16, np.float32), 1),
        ("matrix", 1, "w4a16"): StoredWeight(int4, np.full((2, 5), 0.5, np.float32), 0, 32),
    }
    biases = {("conv", "int8"): np.float32([0.1, -0.2, 0, 5])}
    groups = {
        "conv": GroupNoise(1e-5, 31.5, 30.0, 0.125, True),
        "größe/naïve": GroupNoise(0.0, None, None, None, False, estimated=True),
    }
    tried = {"image": (Tried("mse", 0.9, 1e-3), Tried("max", 1.0, 2e-3)), "x": ()}
    return Sensitivity("int8", 6, groups, tried, Compensation(weights, biases))


def same(a: Sensitivity, b: Sensitivity) -> bool:
    return (
        (a.kind, a.samples, a.groups, a.tried) == (b.kind, b.samples, b.groups, b.tried)
        and list(a.compensation.weights) == list(b.compensation.weights)
        and all(
            (v.axis, v.block, v.values.dtype) == (w.axis, w.block, w.values.dtype)
            and np.array_equal(v.dequantized(), w.dequantized())
            and np.array_equal(v.scales, w.scales)
            for v, w in zip(a.compensation.weights.values(), b.compensation.weights.values(), strict=True)
        )
        and list(a.compensation.biases) == list(b.compensation.biases)
        and all(
            np.array_equal(a.compensation.biases[k], b.compensation.biases[k]) for k in a.compensation.biases
        )
    )


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "int8.npz"
    cache.save(measured(), path)
    found = cache.load(path)
    assert found is not None and same(found, measured())
    assert [p.name for p in path.parent.iterdir()] == ["int8.npz"]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "int8.npz"
    cache.save(measured(), path)

    def fail(file: Path, **arrays: object) -> None:
        file.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="no space"):
        cache.save(measured(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["int8.npz"]
    assert cache.load(path) is not None


def test_nothing_and_garbage_are_no_cache(tmp_path: Path) -> None:
    assert cache.load(tmp_path / "absent.npz") is None
    (tmp_path / "text.npz").write_text("nothing of the kind")
    assert cache.load(tmp_path / "text.npz") is None


@pytest.mark.parametrize("size", [0, 1, 40, 700, -1, -30])
def test_a_file_that_broke_off_is_measured_again(size: int, tmp_path: Path) -> None:
    path = tmp_path / "int8.npz"
    cache.save(measured(), path)
    path.write_bytes(path.read_bytes()[:size])
    assert cache.load(path) is None


def test_flipped_bits_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "int8.npz"
    cache.save(measured(), path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        found = cache.load(path)
        assert found is None or same(found, measured())


@pytest.mark.parametrize("change", ["version", "groups", "weights", "list"])
def test_another_layout_is_measured_again(change: str, tmp_path: Path) -> None:
    path = tmp_path / "int8.npz"
    cache.save(measured(), path)
    with np.load(path) as stored:
        arrays = dict(stored)
    about = json.loads(str(arrays["about"]))
    if change == "version":
        about["version"] += 1
    elif change == "groups":
        about["groups"]["conv"]["unheard of"] = 1
    elif change == "weights":
        about["weights"][0][1] = "int5"
    else:
        about = [about]
    arrays["about"] = np.array(json.dumps(about))
    np.savez_compressed(path, **arrays)
    assert cache.load(path) is None


def test_nothing_in_it_is_ever_executed(tmp_path: Path) -> None:
    path = tmp_path / "int8.npz"
    np.savez(path, about=np.array([{"version": cache.VERSION}], dtype=object))
    assert cache.load(path) is None
