"""Calibration: what is seen does not depend on order or grouping, and its memory does not grow."""

from __future__ import annotations

from pathlib import Path

import graphs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.errors import InputError, ModelError
from edge.precision import calibrate as module
from edge.precision import numerics
from edge.precision.calibrate import Calibration, calibrate, fingerprint
from edge.precision.histogram import BINS, Histogram
from edge.precision.placement import observed_tensors
from edge.precision.ranges import affine, choose
from edge.precision.sessions import observer

number = st.floats(-(2.0**60), 2.0**60, width=32).map(lambda v: v if abs(v) > 2.0**-50 else 0.0)
"""Ratios below 2^110: scaled to the larger, the smaller does not underflow."""
arrays = st.lists(number, min_size=1, max_size=30).map(lambda v: np.array(v, np.float32))


def histogram(*parts: NDArray[np.float32]) -> Histogram:
    h = Histogram()
    for part in parts:
        h.add(part)
    return h


def normal(size: int = 20_000, scale: float = 1.0, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, scale, size).astype(np.float32)


class TestHistogram:
    @given(arrays, st.randoms())
    def test_order_and_grouping_do_not_matter(self, x: NDArray[np.float32], random: object) -> None:
        at_once = histogram(x)
        shuffled = list(x)
        random.shuffle(shuffled)  # type: ignore[attr-defined]
        one_by_one = histogram(*(np.array([v]) for v in shuffled))
        assert one_by_one.exponent == at_once.exponent
        assert np.array_equal(one_by_one.counts, at_once.counts)
        assert (one_by_one.low, one_by_one.high) == (at_once.low, at_once.high)

    @given(arrays)
    def test_doubling_the_edge_counts_as_if_it_had_been_known(self, x: NDArray[np.float32]) -> None:
        h = histogram(*(np.array([v]) for v in x))
        width = 2.0**h.exponent / BINS
        expected = np.zeros(2 * BINS, np.int64)
        for v in x.astype(np.float64):
            expected[int(np.floor(v / width)) + BINS] += 1  # by a power of two: exact
        assert np.array_equal(h.counts, expected)

    @given(arrays)
    def test_nothing_is_lost_and_the_extremes_are_exact(self, x: NDArray[np.float32]) -> None:
        h = histogram(x)
        assert h.counts.sum() == x.size
        assert (h.low, h.high) == (x.min(), x.max())

    def test_a_value_on_the_edge_is_inside(self) -> None:
        for v in (1.0, -1.0, 0.5, -0.25):
            assert histogram(np.array([v], np.float32)).counts.sum() == 1

    def test_zeros_leave_the_resolution_of_small_values_alone(self) -> None:
        small = normal(scale=1e-4)
        zeros = np.zeros(100, np.float32)
        for h in (histogram(zeros, small), histogram(small, zeros)):
            assert h.exponent == histogram(small).exponent
            assert np.count_nonzero(h.counts) > 500

    @pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e30, 3e38])
    def test_the_whole_range_of_float32_fits(self, scale: float) -> None:
        x = np.array([scale, -scale, 0], np.float32)
        assert histogram(x).counts.sum() == 3
        assert choose(histogram(x)).high == np.float32(scale)


class TestChoose:
    def test_a_bell_is_clipped_where_the_error_is_least(self) -> None:
        x = normal(200_000)
        found = choose(histogram(x))

        def error(threshold: float) -> float:
            scale = np.float32(threshold / 127)
            return float(np.square(numerics.fake_quantize(x, scale, "int8").astype(np.float64) - x).mean())

        peak = float(np.abs(x).max())
        best = min(error(t) for t in np.linspace(peak / 16, peak, 400))
        assert found.int8 < peak
        assert error(found.int8) <= 1.03 * best

    def test_one_outlier_does_not_take_the_resolution_of_the_rest(self) -> None:
        x = np.append(normal(100_000), np.float32(100))
        found = choose(histogram(x))
        assert found.high == 100
        assert found.int8 < 75  # the squared error is least near 60

    def test_uint8_covers_both_sides_and_holds_zero(self) -> None:
        swish = (lambda x: x / (1 + np.exp(-x)))(normal(50_000, 3)).astype(np.float32)
        low, high = choose(histogram(swish)).u8
        assert low == pytest.approx(swish.min(), rel=1e-6)  # its short tail is kept whole
        assert 0 < high <= swish.max()
        low, high = choose(histogram(np.abs(normal()) + 1)).u8
        assert low == 0

    def test_a_tensor_of_zeros_is_dead(self) -> None:
        assert choose(histogram(np.zeros(10, np.float32))).dead
        assert not choose(histogram(np.array([0, 1e-30], np.float32))).dead

    @pytest.mark.parametrize("value", [3.0, -3.0])
    def test_a_constant_is_representable(self, value: float) -> None:
        found = choose(histogram(np.full(10, value, np.float32)))
        for kind, threshold in (("int8", found.int8), ("fp8", found.fp8)):
            scale = np.float32(threshold / numerics.QMAX[kind])
            back = numerics.fake_quantize(np.float32([value]), scale, kind)  # type: ignore[arg-type]
            assert back[0] == pytest.approx(value, rel=0.04)


class TestAffine:
    @given(st.floats(-1e4, 0), st.floats(0, 1e4))
    def test_real_zero_is_a_level_of_its_own(self, low: float, high: float) -> None:
        scale, zero = affine(low, high)
        assert scale > 0 and 0 <= zero <= 255
        assert numerics.quantize_u8(np.zeros(1), scale, zero)[0] == zero

    def test_the_ends_map_to_the_ends(self) -> None:
        assert affine(0.0, 255.0) == (np.float32(1), 0)
        assert affine(-255.0, 0.0) == (np.float32(1), 255)
        assert affine(-127.5, 127.5) == (np.float32(1), 128)  # 127.5, half to even


class TestCalibrate:
    def test_every_tensor_gets_its_exact_extremes(self) -> None:
        index = graphs.graph(graphs.residual())
        tensors, samples = observed_tensors(index), graphs.feeds(3)
        found = calibrate(index.model, tensors, samples, 3, "hash")
        run = observer(index.model, tensors)
        seen = [run(feeds) for feeds in samples]
        assert list(found.ranges) == tensors
        assert found.samples == 3
        for name, r in found.ranges.items():
            assert (r.low, r.high) == (min(s[name].min() for s in seen), max(s[name].max() for s in seen))

    def test_the_order_of_samples_does_not_matter(self) -> None:
        index = graphs.graph(graphs.depthwise_swish())
        tensors, samples = observed_tensors(index), graphs.feeds(4)
        forward = calibrate(index.model, tensors, samples, 4, "hash")
        backward = calibrate(index.model, tensors, samples[::-1], 4, "hash")
        assert forward == backward

    def test_memory_is_one_histogram_a_tensor_however_many_samples(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = []

        class Counted(Histogram):
            def __init__(self) -> None:
                super().__init__()
                made.append(self)

        monkeypatch.setattr(module, "Histogram", Counted)
        index = graphs.graph(graphs.classifier())
        tensors = observed_tensors(index)
        samples = graphs.feeds(2) * 10
        alive = 0
        done = []

        def one_at_a_time() -> object:
            nonlocal alive
            for sample in samples:
                alive += 1
                assert alive == 1
                yield sample
                alive -= 1

        calibrate(index.model, tensors, one_at_a_time(), 20, "hash", lambda n, of: done.append((n, of)))  # type: ignore[arg-type]
        assert len(made) == len(tensors)
        assert all(h.counts.nbytes == 2 * BINS * 8 for h in made)
        assert done == [(n, 20) for n in range(1, 21)]

    def test_progress_hears_every_sample_and_no_sample_is_an_error(self) -> None:
        index = graphs.graph(graphs.residual())
        with pytest.raises(InputError, match="no calibration sample"):
            calibrate(index.model, observed_tensors(index), [], 0, "hash")

    def test_nan_is_refused_with_the_name_of_the_tensor(self) -> None:
        index = graphs.graph(graphs.logarithm())
        with pytest.raises(ModelError, match=r"'log\.out' holds NaN or infinity for calibration sample 0"):
            calibrate(index.model, observed_tensors(index), graphs.feeds(1), 1, "hash")

    def test_infinity_in_the_input_is_refused(self) -> None:
        index = graphs.graph(graphs.residual())
        bad = {"image": np.full((1, *graphs.SHAPE), np.inf, np.float32)}
        with pytest.raises(ModelError, match="'image' holds NaN or infinity for calibration sample 1"):
            calibrate(index.model, observed_tensors(index), [*graphs.feeds(1), bad], 2, "hash")

    def test_a_black_set_makes_the_input_dead(self) -> None:
        index = graphs.graph(graphs.residual())
        black = {"image": np.zeros((1, *graphs.SHAPE), np.float32)}
        assert calibrate(index.model, observed_tensors(index), [black], 1, "hash").ranges["image"].dead


class TestCache:
    @pytest.fixture
    def found(self) -> Calibration:
        return graphs.calibrated(graphs.graph(graphs.residual()))

    def test_what_was_saved_is_loaded_bit_for_bit(self, found: Calibration, tmp_path: Path) -> None:
        path = tmp_path / "deep" / "cache.npz"
        found.save(path)
        assert Calibration.load(path, found.sha256) == found
        assert [p.name for p in path.parent.iterdir()] == ["cache.npz"]

    def test_another_hash_is_not_accepted(self, found: Calibration, tmp_path: Path) -> None:
        found.save(tmp_path / "cache.npz")
        assert Calibration.load(tmp_path / "cache.npz", "1" * 64) is None

    @pytest.mark.parametrize("size", [0, 1, 30, 500, -1])
    def test_a_damaged_file_is_measured_again(self, found: Calibration, tmp_path: Path, size: int) -> None:
        path = tmp_path / "cache.npz"
        found.save(path)
        path.write_bytes(path.read_bytes()[:size])
        assert Calibration.load(path, found.sha256) is None

    def test_garbage_and_absence_are_no_cache(self, tmp_path: Path) -> None:
        (tmp_path / "cache.npz").write_bytes(b"not a cache")
        assert Calibration.load(tmp_path / "cache.npz", "0") is None
        assert Calibration.load(tmp_path / "absent.npz", "0") is None

    def test_flipped_bits_are_noticed(self, found: Calibration, tmp_path: Path) -> None:
        path = tmp_path / "cache.npz"
        found.save(path)
        data = bytearray(path.read_bytes())
        data[-600] ^= 0xFF  # in the table of ranges
        path.write_bytes(data)
        assert Calibration.load(path, found.sha256) in (None, found)


def test_the_fingerprint_is_of_the_set_of_files_and_of_the_settings(tmp_path: Path) -> None:
    a, b = tmp_path / "a.jpg", tmp_path / "b.jpg"
    a.write_bytes(b"1")
    b.write_bytes(b"2")
    known = fingerprint("graph", [a, b], "settings")
    assert fingerprint("graph", [b, a], "settings") == known
    others = [
        fingerprint("graph2", [a, b], "settings"),
        fingerprint("graph", [a, b], "settings2"),
        fingerprint("graph", [a], "settings"),
    ]
    b.write_bytes(b"3")
    others.append(fingerprint("graph", [a, b], "settings"))
    assert len({known, *others}) == 5
