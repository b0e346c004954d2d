"""Compiling a graph with TensorRT or TensorRT-RTX.

Networks are strongly typed: the graph holds every precision, the builder chooses kernels only. TensorRT-RTX
compiles for a named compute capability on any x86-64 machine, without a GPU or driver.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from edge.backends.trt_api import runtime_module
from edge.errors import ModelError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A serialized engine and what the compiler said."""

    engine: bytes
    version: str
    warnings: tuple[str, ...]


def compile_ahead_of_time(graph: bytes, capability: tuple[int, int]) -> Compiled:
    """Compile for a GPU that is not here, with TensorRT-RTX.

    Args:
        graph: serialized ONNX of fixed shapes, its precisions written in (`edge.build.rewrite`).
        capability: CUDA compute capability, for example (8, 9).

    Raises:
        MissingPackage: tensorrt-rtx is not installed.
        ModelError: the parser or the compiler refuses the graph; the message names the node.
    """
    trt = runtime_module("tensorrt_rtx")
    recorder = _recorder(trt)
    builder = trt.Builder(recorder)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, recorder)
    if not parser.parse(graph):
        raise _parse_error(parser)
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(_capability(trt, capability), 0)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ModelError(
            f"TensorRT-RTX cannot compile the graph for compute capability {capability[0]}.{capability[1]}",
            "; ".join(recorder.errors[-3:]) or "the compiler gave no reason",
            "the node it names may need the carrier's precision",
        )
    return Compiled(bytes(engine), str(trt.__version__), tuple(dict.fromkeys(recorder.warnings)))


def _recorder(trt: ModuleType) -> Any:
    class Recorder(trt.ILogger):  # type: ignore[misc,name-defined]  # the class exists at run time only
        """Keeps what the compiler says, for the error message and the manifest."""

        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)
            elif severity == trt.ILogger.Severity.WARNING:
                self.warnings.append(message)
            log.debug("%s: %s", severity, message)

    return Recorder()


def _capability(trt: ModuleType, capability: tuple[int, int]) -> Any:
    name = f"SM{capability[0]}{capability[1]}"
    known = trt.ComputeCapability.__members__
    if name not in known:
        raise ModelError(
            f"TensorRT-RTX {trt.__version__} has no target {name}",
            f"it compiles for {', '.join(n for n in known if n.startswith('SM'))}",
            "compile on the device with full TensorRT instead: the builder makes a bundle for that",
        )
    return known[name]


def _parse_error(parser: Any) -> ModelError:
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    said = [f"node '{e.node_name()}' ({e.node_operator()}): {e.desc()}" for e in errors]
    return ModelError(
        "TensorRT-RTX cannot read the graph",
        "; ".join(said[:5]) or "its parser gave no reason",
        "replace the operator it names, or export with another opset",
    )
