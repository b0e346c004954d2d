"""Small series and a small network that reads volumes."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from pydicom.uid import generate_uid

from edge import tasks
from edge.backends import EngineOptions, backend
from edge.config import ModelConfig
from edge.graph import prepare, read, serialize
from edge.preprocess import preparation
from edge.stream.network import Network
from edge.types import EngineId
from tests.dicoms import item, write

SERIES, STUDY, PLACE = (generate_uid(entropy_srcs=[name]) for name in ("series", "study", "place"))
AXIAL = (1, 0, 0, 0, 1, 0)


def write_series(
    folder: Path,
    values: Any,
    axes: Any = AXIAL,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    origin: Any = (0, 0, 0),
    **elements: Any,
) -> list[Path]:
    """A file a slice, in an order that says nothing.

    Args:
        values: slices × rows × columns.
        spacing: between slices, rows and columns.
        origin: of the first slice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    normal = np.cross(axes[:3], axes[3:])
    paths = []
    for index, plane in enumerate(np.asarray(values)):
        geometry = {
            "SeriesInstanceUID": SERIES,
            "StudyInstanceUID": STUDY,
            "FrameOfReferenceUID": PLACE,
            "Modality": "MR",
            "ImagePositionPatient": list(np.round(np.asarray(origin) + index * spacing[0] * normal, 9)),
            "ImageOrientationPatient": list(np.round(axes, 9)),
            "PixelSpacing": list(spacing[1:]),
        }
        name = f"{(index * 7) % len(values):03d}-{index}.dcm"
        paths.append(write(folder / name, plane, **{**geometry, **elements}))
    return sorted(paths)


def write_enhanced(path: Path, values: Any, spacing: tuple[float, float, float], order: list[int]) -> Path:
    """One multi-frame file; its frame i is slice `order[i]`."""
    values = np.asarray(values)
    frames = [
        item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, spacing[0] * index])]) for index in order
    ]
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=list(AXIAL))],
        PixelMeasuresSequence=[item(PixelSpacing=list(spacing[1:]))],
        PixelValueTransformationSequence=[item(RescaleSlope=2, RescaleIntercept=-5)],
    )
    return write(
        path,
        values[order],
        SeriesInstanceUID=SERIES,
        FrameOfReferenceUID=PLACE,
        PerFrameFunctionalGroupsSequence=frames,
        SharedFunctionalGroupsSequence=[shared],
    )


def volume_graph(path: Path, size: int | str = 16) -> Path:
    """A 3×3×3 mean, and three classes by its brightness: below 0.3, from there to 0.7, above."""
    mean = np.full((1, 1, 3, 3, 3), 1 / 27, np.float32)
    slopes = np.float32([0, 20, 40]).reshape(3, 1, 1, 1, 1)
    offsets = np.float32([0, -20 * 0.3, -20 * 0.3 - 20 * 0.7])
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["volume", "mean"], ["smooth"], pads=[1] * 6, name="smooth"),
            helper.make_node("Conv", ["smooth", "slopes", "offsets"], ["logits"], name="classes"),
        ],
        "tiny",
        [helper.make_tensor_value_info("volume", TensorProto.FLOAT, [1, 1, size, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3, size, size, size])],
        [
            numpy_helper.from_array(value, name)
            for name, value in (("mean", mean), ("slopes", slopes), ("offsets", offsets))
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def volume_config(graph: Path, series: Path, size: int = 16, **changes: Any) -> ModelConfig:
    return ModelConfig.model_validate(
        {
            "name": "tiny_volume",
            "onnx": graph,
            "input": {
                "size": (size, size),
                "channels": 1,
                "volume": {"depth": size, "orientation": "LIA", "quantiles": (0.0, 1.0)},
            },
            "task": {"kind": "segment_volume", "labels": ("background", "grey", "white")},
            "calibration": {"images": series},
            **changes,
        }
    )


def volume_network(config: ModelConfig, threads: int = 2) -> Network:
    """The config's graph as the runner sees it."""
    graph = serialize(prepare(read(config.onnx), None, config.input.shape))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "engine.onnx"
        path.write_bytes(graph)
        engine = backend("onnxruntime").load(path, EngineOptions(threads=threads))
    id = EngineId(config.name, "cpu", "fast", "k0")
    task = tasks.create(config)
    return Network(id, engine, preparation(config.input), task, engine.inputs[0].name, slots=1)


def ball(size: int = 16) -> Any:
    """A bright ball in a grey one, off the centre so that every mirror image is another one; int16."""
    z, y, x = np.indices((size, size, size))
    distance = np.sqrt((z - 6) ** 2 + (y - 8) ** 2 + (x - 9) ** 2)
    return np.int16(np.where(distance < 3, 1000, np.where(distance < 5.5, 500, 0)))
