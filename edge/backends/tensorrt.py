"""TensorRT and TensorRT-RTX: one backend, given the module that implements it.

What is checked before a byte reaches the deserializer is here; the engine itself is in `trt_engine`, what a
slot does in which order in `edge.cuda.slot`, and what differs between versions in `trt_api`.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from edge.backends import EngineOptions, Expectation, engine_file
from edge.backends.trt_api import PACKAGES, Capabilities, capabilities, check_driver, runtime_module
from edge.errors import RuntimeFault, StoreError

if TYPE_CHECKING:
    from edge.backends.trt_engine import TensorRTEngine
    from edge.cuda.device import Device
    from edge.machine import Machine


class TensorRTBackend:
    """Loads engines with the module `tensorrt` or `tensorrt_rtx`."""

    def __init__(self, module: str) -> None:
        self.module = module

    def load(self, path: Path, options: EngineOptions) -> TensorRTEngine:
        """Check the file, then deserialize it on the GPU.

        Raises:
            MissingPackage: TensorRT or PyCUDA is not installed.
            StoreError: the file is not what `options.expected` says, or was compiled by another version.
            RuntimeFault: no driver or GPU, or TensorRT refuses the file.
            OutOfDeviceMemory: it does not fit.
        """
        content = engine_file.read(path, options.expected)
        trt = runtime_module(self.module)
        caps = capabilities(self.module, trt.__version__)
        self._check_version(path, trt.__version__, caps, options.expected)
        from edge.backends.trt_engine import TensorRTEngine
        from edge.cuda.device import open_device

        device = open_device(_gpu(options))
        try:
            check_driver(self.module, trt.__version__, device.driver_cuda)
            _check_gpu(path, device, options.expected)
            return TensorRTEngine(trt, caps, device, content, path, options)
        except BaseException:
            device.close()
            raise

    def _check_version(
        self, path: Path, version: str, caps: Capabilities, expected: Expectation | None
    ) -> None:
        """A plan of full TensorRT runs on the version that made it; TensorRT-RTX checks its own engines."""
        name, built = expected.builder if expected else ("", "")
        if caps.same_version and name == self.module and built not in ("", version):
            raise StoreError(
                f"the engine {path} was compiled by {caps.product} {built}",
                f"this is {version}, and a plan runs on the version that made it",
                "compile it again here: build_engines.py --targets local",
            )

    def unavailable(self, machine: Machine) -> str:
        missing = [name for name in (PACKAGES[self.module][0], "pycuda") if name not in machine.packages]
        if not machine.gpus:
            return "no NVIDIA GPU"
        return f"{' and '.join(missing)} not installed" if missing else ""


tensorrt = TensorRTBackend("tensorrt")
tensorrt_rtx = TensorRTBackend("tensorrt_rtx")


def _gpu(options: EngineOptions) -> int:
    """The GPU that was asked for, else the first one that the engine was compiled for."""
    from edge.cuda.device import find_gpu

    wanted = options.expected.compute_capability if options.expected else None
    if options.gpu is not None or wanted is None:
        return options.gpu or 0
    with suppress(RuntimeFault):  # there is none: `_check_gpu` says what there is instead
        return find_gpu(wanted)
    return 0


def _check_gpu(path: Path, device: Device, expected: Expectation | None) -> None:
    wanted = expected.compute_capability if expected else None
    if wanted is not None and wanted != device.compute_capability:
        raise StoreError(
            f"the engine {path} was compiled for compute capability {wanted[0]}.{wanted[1]}",
            f"{device.name} has {device.compute_capability[0]}.{device.compute_capability[1]}",
            "build one for this GPU: build_engines.py --targets local",
        )
