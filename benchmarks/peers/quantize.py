"""One graph quantized by another tool with its defaults: `precision.py` runs this as a process of its own.

    python quantize.py PEER GRAPH SAMPLES OUT

Needs numpy, onnx and the tool alone: ModelOpt wants an environment of its own. SAMPLES is an .npz that holds
each input of the graph, stacked over pictures.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from typing import Any

MOST_MEMORY = 12 << 30
"""Bytes of private memory a tool may take: more fails instead of making the machine swap."""
FIRST_OPSET, NEWER_OPSET = 13, 17
"""Per-channel Q/DQ came with the first; an older graph is converted to the other."""


def with_modelopt(source: str, samples: Mapping[str, Any], out: str, kind: str, method: str) -> None:
    from modelopt.onnx.quantization import quantize

    quantize(
        source,
        quantize_mode=kind,
        calibration_data=dict(samples),
        calibration_method=method,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=out,
        log_level="ERROR",
    )


def with_onnxruntime(source: str, samples: Mapping[str, Any], out: str, kind: str, method: str) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Samples(CalibrationDataReader):
        def __init__(self) -> None:
            count = len(next(iter(samples.values())))
            self.left = iter([{name: a[i : i + 1] for name, a in samples.items()} for i in range(count)])

        def get_next(self) -> Mapping[str, Any] | None:
            return next(self.left, None)

    prepared, model = f"{out}.prepared", onnx.load(source)
    if next(o.version for o in model.opset_import if not o.domain) < FIRST_OPSET:
        model = onnx.version_converter.convert_version(model, NEWER_OPSET)
    onnx.save(model, prepared)
    quant_pre_process(prepared, prepared, skip_symbolic_shape=True)  # that one wants sympy
    quantize_static(
        prepared,
        out,
        Samples(),
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method={"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile}[
            method
        ],
        op_types_to_quantize=["Conv", "Gemm", "MatMul", "Add"],
        extra_options={"ActivationSymmetric": True, "CalibTensorRangeSymmetric": True},
    )


def main() -> None:
    import numpy as np

    peer, source, samples, out = sys.argv[1:5]
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
    tool, kind, method = peer.split("-")
    with np.load(samples) as arrays:
        given = {name: arrays[name] for name in arrays.files}
    {"ort": with_onnxruntime, "modelopt": with_modelopt}[tool](source, given, out, kind, method)


if __name__ == "__main__":
    main()
