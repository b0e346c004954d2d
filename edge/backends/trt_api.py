"""What the project uses of the TensorRT Python API, and in what TensorRT and TensorRT-RTX differ.

Differences between the two and between their versions live in `_ROWS` and nowhere else: code asks a
`Capabilities` and never compares names or versions. `API` lists every attribute that is used; the tests
compare it with the source, with the installed TensorRT-RTX and with tables of other versions, so that a
renamed call is found before an engine is loaded in the field.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from edge.errors import RuntimeFault, missing_package

PACKAGES: Mapping[str, tuple[str, str]] = {
    "tensorrt_rtx": ("tensorrt-rtx", "rtx"),
    "tensorrt": ("tensorrt", "trt"),
}
"""Module → package and the extra that brings it."""


def runtime_module(name: str) -> ModuleType:
    """Import `tensorrt` or `tensorrt_rtx`.

    Raises:
        MissingPackage: it is not installed.
        RuntimeFault: it is, but a library that it needs is missing or of another version.
    """
    package, extra = PACKAGES[name]
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as e:
        if isinstance(e, ModuleNotFoundError) and e.name == name:
            raise missing_package(package, extra, "a TensorRT engine") from e
        raise RuntimeFault(
            f"the package '{package}' is installed, but cannot be imported",
            str(e),
            f"pip install --force-reinstall {package}; libraries installed otherwise have to be found "
            "through LD_LIBRARY_PATH",
        ) from e


# ---------------------------------------------------------------------- differences


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one version of TensorRT or TensorRT-RTX can do and asks for.

    Common to all that are supported, so not listed: strongly typed networks, optimization profiles, progress
    monitors, workspace limits, the engine inspector, `device_memory_size_v2`, `execute_async_v3`.

    Attributes:
        product: its name in messages.
        ahead_of_time: compiles for a compute capability that is named, without a GPU.
        strongly_typed_flag: a network is strongly typed on request only.
        timing_cache: times kernels while it builds, and keeps what it measured.
        runtime_cache: compiles the last step when an engine is loaded, and can keep that.
        kernel_strategy: for open sizes, compiles kernels of the size at hand when told to, at once or later.
        cuda_graph_strategy: captures CUDA graphs by itself, if told to.
        plugins: comes with the plugin library (EfficientNMS_TRT).
        same_version: loads only engines that were built by exactly this version.
        min_cuda: CUDA version that the driver has to support at least (`cuDriverGetVersion`), for packages
            of the oldest CUDA there are; `least_cuda` knows what is installed.
    """

    product: str
    ahead_of_time: bool = False
    strongly_typed_flag: bool = True
    timing_cache: bool = True
    runtime_cache: bool = False
    kernel_strategy: bool = False
    cuda_graph_strategy: bool = False
    plugins: bool = True
    same_version: bool = True
    min_cuda: tuple[int, int] = (12, 0)


@dataclass(frozen=True, slots=True)
class _Row:
    """From version `since` of `module` on, these capabilities differ from the row's before."""

    module: str
    since: tuple[int, int]
    changes: Mapping[str, Any]


_ROWS = (
    # CUDA 12.x drivers by minor-version compatibility: TensorRT 10 support matrix.
    _Row("tensorrt", (10, 3), {"product": "TensorRT"}),
    # The flag is still there and ignored: docstring of NetworkDefinitionCreationFlag.STRONGLY_TYPED.
    # Driver r535 or newer for packages of CUDA 12: prerequisites of TensorRT 11.4.
    _Row("tensorrt", (11, 0), {"strongly_typed_flag": False, "min_cuda": (12, 2)}),
    # Timing caches have no effect and make it ask for a GPU: release notes of TensorRT-RTX 1.1. No
    # EfficientNMS in its plugin registry [measured, 1.7.1].
    _Row(
        "tensorrt_rtx",
        (1, 0),
        {
            "product": "TensorRT-RTX",
            "ahead_of_time": True,
            "timing_cache": False,
            "runtime_cache": True,
            "plugins": False,
        },
    ),
    # CUDA graphs: release notes of TensorRT-RTX 1.2. The kernel strategy is in the C++ API of 1.0 too, but it
    # is not known whether Python had it then; without it engines work, and switch kernels while they run.
    _Row("tensorrt_rtx", (1, 2), {"cuda_graph_strategy": True, "kernel_strategy": True}),
)
"""The differences, oldest version of a module first."""


def capabilities(module: str, version: str) -> Capabilities:
    """What `version` ("10.3.0") of `module` ("tensorrt", "tensorrt_rtx") can do.

    A version newer than the last row is taken to be like it.

    Raises:
        RuntimeFault: it is older than any that is supported.
    """
    rows = [row for row in _ROWS if row.module == module and row.since <= minor(version)]
    if not rows:
        package = PACKAGES[module][0]
        oldest = next(row for row in _ROWS if row.module == module)
        least = ".".join(map(str, oldest.since))
        raise RuntimeFault(
            f"{oldest.changes['product']} {version} is too old",
            f"strongly typed networks with fp8 and bf16 need {least} or newer",
            f"pip install '{package}>={least}', on a Jetson install JetPack 6.2 or newer",
        )
    found = Capabilities(product="")
    for row in rows:
        found = replace(found, **row.changes)
    return found


def check_driver(module: str, version: str, has: tuple[int, int]) -> None:
    """Refuse a driver that `version` of `module` cannot work with.

    Args:
        has: the newest CUDA that the driver supports.

    Raises:
        RuntimeFault: it is too old.
    """
    found = capabilities(module, version)
    needs = least_cuda(module, found)
    if has < needs:
        raise RuntimeFault(
            f"the NVIDIA driver is too old for {found.product} {version}",
            "it supports CUDA {}.{}, CUDA {}.{} is needed".format(*has, *needs),
            f"update the driver, or install what fits it: pip install {PACKAGES[module][0]}-cu{has[0]}",
        )


def least_cuda(module: str, found: Capabilities) -> tuple[int, int]:
    """CUDA version that the driver has to support at least for the packages that are installed.

    Wheels name their CUDA (tensorrt_cu13), and those of CUDA 13 need r580 or newer (prerequisites of TensorRT
    11.4); within a major version any driver will do (CUDA's minor-version compatibility).
    """
    pattern = re.compile(rf"{module}_cu(\d+)")
    names = (str(d.metadata["Name"]).replace("-", "_").lower() for d in importlib.metadata.distributions())
    wheels = [int(match[1]) for name in names if (match := pattern.fullmatch(name))]
    return max(found.min_cuda, (min(wheels, default=0), 0))


def minor(version: str) -> tuple[int, int]:
    """ "10.13.3.9.post1" → (10, 13)."""
    numbers = [int(n) for n in re.findall(r"\d+", version)[:2]]
    return (numbers[0] if numbers else 0, numbers[1] if len(numbers) > 1 else 0)


# ---------------------------------------------------------------------- what is used

_COMPILING = """
    Builder Builder.create_network Builder.create_builder_config Builder.create_optimization_profile
    Builder.build_serialized_network
    INetworkDefinition.num_layers INetworkDefinition.get_layer
    ILayer.name ILayer.type ILayer.metadata ILayer.num_inputs ILayer.num_outputs ILayer.get_input
    ILayer.get_output LayerType.name ITensor.name ITensor.dtype DataType.name
    OnnxParser OnnxParser.parse OnnxParser.num_errors OnnxParser.get_error
    ParserError.node_name ParserError.node_operator ParserError.desc ParserError.code ParserError.file
    ParserError.line ErrorCode.name
    IBuilderConfig.progress_monitor IBuilderConfig.profiling_verbosity IBuilderConfig.set_memory_pool_limit
    IBuilderConfig.add_optimization_profile IOptimizationProfile.set_shape
    MemoryPoolType MemoryPoolType.WORKSPACE ProfilingVerbosity ProfilingVerbosity.DETAILED
    IProgressMonitor IProgressMonitor.phase_start IProgressMonitor.step_complete IProgressMonitor.phase_finish
    ILogger ILogger.log ILogger.Severity.ERROR ILogger.Severity.INTERNAL_ERROR
    ILogger.Severity.WARNING
    ICudaEngine.create_engine_inspector EngineInspector.get_engine_information
    LayerInformationFormat LayerInformationFormat.JSON
"""

_RUNNING = """
    Runtime Runtime.deserialize_cuda_engine
    ICudaEngine.num_io_tensors ICudaEngine.get_tensor_name ICudaEngine.get_tensor_mode
    ICudaEngine.get_tensor_dtype ICudaEngine.get_tensor_shape ICudaEngine.get_tensor_profile_shape
    ICudaEngine.device_memory_size_v2 ICudaEngine.create_execution_context
    TensorIOMode TensorIOMode.INPUT
    IExecutionContext.set_tensor_address IExecutionContext.set_input_shape IExecutionContext.get_tensor_shape
    IExecutionContext.execute_async_v3 IExecutionContext.profiler
    IProfiler IProfiler.report_layer_time
"""

_GATED = {
    "ahead_of_time": """
        IBuilderConfig.num_compute_capabilities IBuilderConfig.set_compute_capability
        ComputeCapability ComputeCapability.CURRENT""",
    "strongly_typed_flag": """
        NetworkDefinitionCreationFlag NetworkDefinitionCreationFlag.STRONGLY_TYPED""",
    "timing_cache": """
        IBuilderConfig.create_timing_cache IBuilderConfig.set_timing_cache IBuilderConfig.get_timing_cache
        ITimingCache.serialize""",
    "runtime_cache": """
        ICudaEngine.create_runtime_config IRuntimeConfig.create_runtime_cache IRuntimeConfig.set_runtime_cache
        IRuntimeCache.serialize IRuntimeCache.deserialize""",
    "kernel_strategy": """
        IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy
        DynamicShapesKernelSpecializationStrategy DynamicShapesKernelSpecializationStrategy.EAGER""",
    "cuda_graph_strategy": """
        IRuntimeConfig.cuda_graph_strategy CudaGraphStrategy CudaGraphStrategy.WHOLE_GRAPH_CAPTURE""",
    "plugins": """
        init_libnvinfer_plugins""",
}

API: Mapping[str, str] = dict.fromkeys((_COMPILING + _RUNNING).split(), "") | {
    name: gate for gate, names in _GATED.items() for name in names.split()
}
"""Every attribute that is used, "Class.attribute" → the capability it belongs to ("": it is always there)."""


def used(found: Capabilities) -> frozenset[str]:
    """The names of `API` that a TensorRT with these capabilities is asked for."""
    return frozenset(name for name, gate in API.items() if not gate or getattr(found, gate))
