"""An engine that needs no TensorRT: one kernel, as long as it is told to be, whose result proves its input.

It goes through the same slots as any other engine, so copies, preprocessing, streams, events, CUDA graphs and
their overlap can be checked on a machine with nothing but a driver, PyCUDA and a compiler.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge.backends import EngineOptions
from edge.config import InputConfig
from edge.cuda import kernels
from edge.cuda.device import Device, Stream, open_device
from edge.cuda.engine import DeviceEngine
from edge.errors import EdgeError, MissingPackage, RuntimeFault
from edge.types import Array, Image, TensorSpec

SOURCE = Path(__file__).with_name("load.cu")
ENTRY = "synthetic_load"
ARGUMENTS = "PPiiiI"
BLOCK = 128
_MULTIPLIER, _STEP, _WORD = 1664525, 1013904223, 1 << 32


def on_processor(tensors: Array, out_words: int, rounds: int) -> Array:
    """What the kernel makes of tensors, batch first: batch × `out_words`."""
    words = np.ascontiguousarray(tensors).view(np.uint32).reshape(len(tensors), -1)
    missing = -words.shape[1] % out_words
    columns = np.pad(words, ((0, 0), (0, missing))).reshape(len(tensors), -1, out_words)
    value = np.bitwise_xor.reduce(columns, axis=1).astype(np.uint64)
    factor, offset = jump(rounds)
    return np.asarray((value * factor + offset) % _WORD, np.uint32)


def jump(rounds: int) -> tuple[int, int]:
    """Factor and offset of so many steps of the generator at once, by repeated squaring."""
    factor, offset, step, add = 1, 0, _MULTIPLIER, _STEP
    while rounds:
        if rounds & 1:
            factor, offset = factor * step % _WORD, (offset * step + add) % _WORD
        step, add = step * step % _WORD, (add * step + add) % _WORD
        rounds >>= 1
    return factor, offset


def load_kernel(device: Device) -> Any:
    """PyCUDA's `prepared_async_call` of the kernel.

    Raises:
        MissingPackage: there is neither nvcc nor NVRTC.
        RuntimeFault: no compiler can compile it, or the driver does not take it.
    """
    images, problems = compiled("sm_{}{}".format(*device.compute_capability))
    said = list(problems)
    for image in images:
        try:
            module = device.module(image)
        except RuntimeFault as e:  # of a newer CUDA than the driver's, for example
            said.append(str(e))
            continue
        function = module.get_function(ENTRY)
        function.prepare(tuple(ARGUMENTS))
        return function.prepared_async_call
    kind: type[EdgeError] = RuntimeFault if images else MissingPackage
    raise kind("there is no kernel for the synthetic engine", "; ".join(said), "install the CUDA toolkit")


@functools.cache
def compiled(architecture: str) -> tuple[tuple[bytes, ...], tuple[str, ...]]:
    """What each compiler of this machine makes of the kernel, and what the others say."""
    problems: list[str] = []
    images: list[bytes] = []
    for compiler in kernels.compilers(problems):
        try:
            images.append(compiler.compile(SOURCE.read_text(encoding="utf-8"), architecture))
        except RuntimeFault as e:
            problems.append(str(e))
    return tuple(images), tuple(problems)


class SyntheticEngine(DeviceEngine):
    """As long as `rounds` says; see `edge.backends.Engine`.

    Args:
        picture: how pictures become its input.
    """

    def __init__(self, options: EngineOptions, picture: InputConfig, rounds: int) -> None:
        super().__init__(open_device(options.gpu), Path("synthetic"), options)
        self.rounds = rounds
        try:
            self.launch: Any = load_kernel(self.device)
            shape = (options.batch, picture.channels, *picture.size)
            self.in_words = int(np.prod(shape[1:]))
            self.out_words = max(1, picture.size[0] * picture.size[1] // 16)
            inputs = (TensorSpec("image", "float32", shape),)
            outputs = (TensorSpec("words", "uint32", (options.batch, self.out_words)),)
            self._ready(inputs, outputs, options.batch)
        except BaseException:
            self.device.close()
            raise

    def _executor(self) -> KernelExecutor:
        return KernelExecutor(self)

    def _release(self) -> None:
        self.launch = None  # the module goes with its function, before their context


class KernelExecutor:
    """One launch for a batch; see `edge.cuda.assembly.Bindable`."""

    def __init__(self, owner: SyntheticEngine) -> None:
        self.capturable = owner.options.graphs
        self._owner = owner
        self._addresses: dict[str, int] = {}
        self._rows = 0

    def resize(self, rows: int) -> None:
        self._rows = rows

    def tensors(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        return self._owner.inputs, self._owner.outputs

    def bind(self, name: str, address: int) -> None:
        self._addresses[name] = address

    def enqueue(self, stream: Stream) -> None:
        owner, at = self._owner, self._addresses
        sizes = (self._rows, owner.in_words, owner.out_words, owner.rounds)
        grid = (-(-self._rows * owner.out_words // BLOCK), 1)
        owner.launch(grid, (BLOCK, 1, 1), stream.raw, at["image"], at["words"], *sizes)

    def free(self) -> None:
        self._addresses.clear()


@dataclass(frozen=True, slots=True)
class Finding:
    """All words of a picture's output in one."""

    word: int

    def to_json(self) -> dict[str, Any]:
        return {"word": self.word}

    def found(self) -> dict[str, float]:
        return {}

    def draw(self, image: Image) -> Image:
        return np.array(image)


class Digest:
    """The task of the synthetic engine: its findings differ wherever its inputs do."""

    kind, metric = "synthetic", ""

    def postprocess(self, outputs: Mapping[str, Array], index: int, placement: Any) -> Finding:
        return Finding(int(np.bitwise_xor.reduce(outputs["words"][index])))


def rounds_for(seconds: float, options: EngineOptions, picture: InputConfig) -> int:
    """How many rounds take so long on this GPU, at its present clocks."""
    rounds = 2000
    for _ in range(3):  # the clocks rise while it works
        engine = SyntheticEngine(options, picture, rounds)
        try:
            slot = engine.tensor_slot()
            slot.repeat(20)
            slot.wait()
            took = (slot.spans["execute"][1] - slot.spans["execute"][0]) / 20
        finally:
            engine.close()
        rounds = int(min(max(rounds * seconds / max(took, 1e-7), 100), 50_000_000))
    return rounds
