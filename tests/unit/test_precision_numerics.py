"""Quantization arithmetic against references written from the definitions, and against ONNX Runtime."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge.precision import numerics

FP8 = ml_dtypes.float8_e4m3fn


def values(limit: float = 1e6) -> st.SearchStrategy[NDArray[np.float32]]:
    number = st.floats(-limit, limit, width=32)
    return st.lists(number, min_size=1, max_size=40).map(lambda v: np.array(v, np.float32))


scales = st.floats(2.0**-20, 2.0**10, width=32).map(np.float32)


def e4m3_values() -> dict[int, Fraction]:
    """Code → value of every finite E4M3FN number: 4 exponent bits with bias 7, 3 bits of mantissa."""
    found = {}
    for code in range(256):
        sign, exponent, mantissa = -1 if code & 0x80 else 1, code >> 3 & 15, code & 7
        if code & 0x7F == 0x7F:
            continue  # NaN
        if exponent == 0:
            found[code] = sign * Fraction(mantissa, 8) * Fraction(1, 64)
        else:
            found[code] = sign * (1 + Fraction(mantissa, 8)) * Fraction(2) ** (exponent - 7)
    return found


E4M3 = e4m3_values()
MAGNITUDES = sorted({abs(value) for value in E4M3.values()})


def nearest_e4m3(x: Fraction) -> Fraction:
    """The nearest value; of two equally near the one with an even mantissa; saturated."""
    magnitude = min(abs(x), Fraction(448))
    index = min(range(len(MAGNITUDES)), key=lambda i: (abs(MAGNITUDES[i] - magnitude), i % 2))
    return MAGNITUDES[index] if x >= 0 else -MAGNITUDES[index]


class TestInt8:
    @given(values(), scales)
    def test_it_is_round_half_even_of_the_float32_quotient_saturated(
        self, x: NDArray[np.float32], scale: np.float32
    ) -> None:
        exact = [round(Fraction(float(v))) for v in (x / scale)]  # Python rounds fractions half to even
        assert numerics.quantize_int8(x, scale).tolist() == [min(max(v, -128), 127) for v in exact]

    def test_ties_go_to_the_even_neighbour(self) -> None:
        ties = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 126.5], np.float32)
        assert numerics.quantize_int8(ties, np.float32(1)).tolist() == [-2, -2, 0, 0, 2, 2, 126]

    def test_what_is_out_of_range_saturates(self) -> None:
        x = np.array([-1e30, -128.5, 127.5, 1e30], np.float32)
        assert numerics.quantize_int8(x, np.float32(1)).tolist() == [-128, -128, 127, 127]
        assert numerics.quantize_weight(x, np.float32(1), "int8").tolist() == [-127, -127, 127, 127]

    @given(values(100), scales)
    def test_an_error_within_range_is_at_most_half_a_step(
        self, x: NDArray[np.float32], scale: np.float32
    ) -> None:
        inside = np.abs(x) <= 127 * scale
        error = np.abs(numerics.fake_quantize(x, scale, "int8").astype(np.float64) - x)[inside]
        assert (error <= 0.5 * float(scale) * (1 + 1e-5)).all()


class TestUint8:
    @given(values(), scales, st.integers(0, 255))
    def test_the_zero_point_is_added_after_rounding(
        self, x: NDArray[np.float32], scale: np.float32, zero: int
    ) -> None:
        exact = [round(Fraction(float(v))) + zero for v in (x / scale)]
        assert numerics.quantize_u8(x, scale, zero).tolist() == [min(max(v, 0), 255) for v in exact]

    def test_ties_are_even_before_an_odd_zero_point(self) -> None:
        ties = np.array([-0.5, 0.5, 1.5, 2.5], np.float32)
        assert numerics.quantize_u8(ties, np.float32(1), 7).tolist() == [7, 7, 9, 9]


class TestFp8:
    def test_the_codes_are_those_of_the_definition(self) -> None:
        stored = np.arange(256, dtype=np.uint8).view(FP8).astype(np.float64)
        assert {c: Fraction(v) for c, v in enumerate(stored.tolist()) if not np.isnan(v)} == E4M3
        assert len(E4M3) == 254
        assert max(E4M3.values()) == numerics.FP8_MAX

    def test_every_value_maps_to_itself(self) -> None:
        codes = np.array(sorted(E4M3), np.uint8)
        x = codes.view(FP8).astype(np.float32)
        assert np.array_equal(numerics.quantize_fp8(x, np.float32(1)).view(np.uint8), codes)

    def test_midpoints_go_to_the_even_mantissa(self) -> None:
        ties = [(a + b) / 2 for a, b in pairwise(MAGNITUDES)]
        x = np.array([float(t) for t in ties], np.float32)
        found = numerics.quantize_fp8(x, np.float32(1)).astype(np.float64)
        assert [Fraction(v) for v in found.tolist()] == [nearest_e4m3(t) for t in ties]

    @given(values(2000))
    def test_it_is_the_nearest_value(self, x: NDArray[np.float32]) -> None:
        found = numerics.quantize_fp8(x, np.float32(1)).astype(np.float64)
        assert [Fraction(v) for v in found.tolist()] == [nearest_e4m3(Fraction(float(v))) for v in x]

    @given(st.floats(448, 2.0**127, width=32))
    def test_beyond_448_it_saturates_instead_of_becoming_nan(self, x: float) -> None:
        found = numerics.quantize_fp8(np.array([x, -x], np.float32), np.float32(1)).astype(np.float32)
        assert found.tolist() == [448, -448]

    def test_small_numbers_are_subnormal_then_zero_with_their_sign(self) -> None:
        smallest = 2.0**-9
        x = np.array([smallest, 3 * smallest, smallest / 2, -smallest / 2, -0.0, smallest * 0.51], np.float32)
        found = numerics.quantize_fp8(x, np.float32(1)).astype(np.float32)
        assert found.tolist() == [smallest, 3 * smallest, 0, 0, 0, smallest]
        assert np.signbit(found).tolist() == [False, False, False, True, True, False]

    def test_nan_stays_nan(self) -> None:
        assert np.isnan(numerics.quantize_fp8(np.array([np.nan]), np.float32(1)).astype(np.float32)).all()


class TestBf16:
    @given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=60))
    def test_it_rounds_the_lower_16_bits_half_to_even(self, patterns: list[int]) -> None:
        bits = np.array(patterns, np.uint32)
        x = bits.view(np.float32)
        finite = np.isfinite(x)
        bits, x = bits[finite], x[finite]
        expected = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
        assert np.array_equal(numerics.round_bf16(x).view(np.uint32), expected)

    def test_fp16_becomes_infinite_beyond_65504(self) -> None:
        x = np.array([65504, 65519, 65520, -1e9], np.float32)
        assert numerics.round_fp16(x).tolist() == [65504, 65504, np.inf, -np.inf]


class TestScales:
    @pytest.mark.parametrize(("shape", "axis"), [((4, 3, 3, 3), 0), ((8, 4), 1), ((8, 4), 0)])
    @pytest.mark.parametrize("kind", ["int8", "fp8"])
    def test_each_output_channel_maps_its_peak_to_the_largest_value(
        self, shape: tuple[int, ...], axis: int, kind: Any
    ) -> None:
        w = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        found = numerics.weight_scales(w, axis, kind)
        channels = np.moveaxis(w, axis, 0).reshape(shape[axis], -1)
        for scale, channel in zip(found, channels, strict=True):
            assert scale == np.abs(channel).max() / np.float32({"int8": 127, "fp8": 448}[kind])
            stored = numerics.quantize_weight(channel, scale, kind).astype(np.float32)
            assert np.abs(stored).max() == numerics.QMAX[kind]

    def test_a_channel_of_zeros_gets_scale_one(self) -> None:
        w = np.zeros((2, 3), np.float32)
        w[1] = 127
        assert numerics.weight_scales(w, 0, "int8").tolist() == [1, 1]
        assert numerics.weight_scales(np.zeros((1, 2)), 0, "fp8").tolist() == [1]

    @given(st.floats(2.0**-126, 2.0**100, width=32))
    def test_a_stored_scale_is_a_bf16_value_close_by(self, scale: float) -> None:
        stored = numerics.storable_scale(np.float32(scale), "bf16")
        assert np.array_equal(stored.astype(ml_dtypes.bfloat16).astype(np.float32), stored)
        assert abs(float(stored) / scale - 1) <= 2**-8
        assert numerics.storable_scale(np.float32(scale), "fp32") == np.float32(scale)

    @pytest.mark.parametrize(
        ("scale", "fits"),
        [
            (0.5, True),
            (2.0**-24, True),  # the smallest subnormal
            (2.0**-25, False),  # would become zero
            (65504, True),
            (65536, False),  # would become infinite
            (1 + 2**-11, False),  # would be rounded
        ],
    )
    def test_fits_fp16_says_whether_nothing_is_lost(self, scale: float, fits: bool) -> None:
        assert numerics.fits_fp16(np.float32(scale)) is fits
        assert numerics.fits_fp16(np.array([0.25, scale], np.float32)) is fits


def session(code: int, scale: np.float32, zero: int) -> ort.InferenceSession:
    """x → QuantizeLinear → DequantizeLinear, as the runtime computes it without its own Q/DQ passes."""
    dtype = numerics.NUMPY[numerics.PRECISION[code]]
    constants = [
        numpy_helper.from_array(np.array(scale, np.float32), "scale"),
        numpy_helper.from_array(np.array(zero).astype(dtype), "zero"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    vector = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "q", vector[:1], vector[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("scale", [np.float32(1), np.float32(0.0371), np.float32(2.0**-7)])
@pytest.mark.parametrize(("kind", "zero"), [("int8", 0), ("uint8", 113), ("fp8", 0)])
def test_onnx_runtime_computes_the_same_bits(kind: str, zero: int, scale: np.float32) -> None:
    random = np.random.default_rng(7)
    ties = np.arange(-300, 300, dtype=np.float32) / 2 * scale
    x = np.concatenate([random.normal(0, 60, 4000).astype(np.float32) * scale, ties, np.float32([0, -0.0])])
    if kind == "uint8":
        q = numerics.quantize_u8(x, scale, zero)
        expected = (q.astype(np.float32) - np.float32(zero)) * scale
    else:
        expected = numerics.fake_quantize(x, scale, kind)  # type: ignore[arg-type]
    (found,) = session(numerics.ONNX[kind], scale, zero).run(None, {"x": x})
    assert np.array_equal(found, expected)
    if kind == "fp8":  # the only one of them with a negative zero
        assert np.array_equal(np.signbit(found), np.signbit(expected))


@settings(max_examples=30)
@given(values(500))
def test_onnx_runtime_agrees_on_arbitrary_fp8_input(x: NDArray[np.float32]) -> None:
    (found,) = FP8_SESSION.run(None, {"x": x})
    assert np.array_equal(found, numerics.fake_quantize(x, np.float32(0.5), "fp8"))


FP8_SESSION = session(numerics.ONNX["fp8"], np.float32(0.5), 0)
