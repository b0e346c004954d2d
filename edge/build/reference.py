"""A few held-out samples with their fp32 results, small enough to travel with an engine to its device.

A pixel is kept as the byte it was before the value table (`edge.preprocess.value_table`): a picture takes a
quarter of its tensor's size and comes back exactly.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.config import InputConfig
from edge.errors import InputError
from edge.preprocess import value_table
from edge.types import Array

REFERENCE = "reference.npz"
COUNT = 4
"""As many samples travel, if they are not too large."""
LIMIT_BYTES = 16 << 20
"""All samples together, before compression; one sample may be larger."""
LOAD_LIMIT_BYTES = 1 << 30
"""Nothing larger is unpacked, whatever a file claims."""

Outputs = Mapping[str, Array]
Sample = tuple[dict[str, Array], dict[str, Array]]
"""The engine's inputs and the fp32 outputs, batch of one."""


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceSamples:
    """Samples in name order.

    Attributes:
        input_name: the network's picture input.
        pixels: N × C × H × W: uint8 values before the value table, or float32 tensors as they are where the
            input does not come through the table.
        outputs: name → N × (shape of the output for one sample, its batch of one included), float32.
    """

    input_name: str
    pixels: Array
    outputs: Mapping[str, Array]

    def __len__(self) -> int:
        return len(self.pixels)

    def samples(self, config: InputConfig) -> Iterator[Sample]:
        """Each sample as the engine reads it, and what fp32 made of it."""
        table = value_table(config)
        for index, pixels in enumerate(self.pixels):
            tensor = pixels if pixels.dtype != np.uint8 else _looked_up(table, pixels)
            yield {self.input_name: tensor[None]}, {name: all[index] for name, all in self.outputs.items()}

    def save(self, path: Path) -> None:
        """Write the file; the same samples give the same bytes."""
        names = np.array([self.input_name, *self.outputs], np.str_)
        arrays: dict[str, Any] = {"input": self.pixels, "names": names}
        arrays |= {f"output_{index}": value for index, value in enumerate(self.outputs.values())}
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays)


def take(cases: Iterable[tuple[Outputs, Outputs]], config: InputConfig) -> ReferenceSamples:
    """The first samples, as many as fit.

    Args:
        cases: feeds and fp32 outputs, each with a batch of one; the picture is the only feed.
    """
    table = value_table(config)
    chosen: list[tuple[Array, Outputs]] = []
    name, room = "", LIMIT_BYTES
    for feeds, outputs in cases:
        ((name, tensor),) = feeds.items()
        pixels = _before_table(table, tensor[0])
        outputs = {n: np.asarray(value, np.float32) for n, value in outputs.items()}
        room -= pixels.nbytes + sum(value.nbytes for value in outputs.values())
        if chosen and (room < 0 or pixels.dtype != chosen[0][0].dtype):
            break
        chosen.append((pixels, outputs))
        if len(chosen) == COUNT:
            break
    stacked = {n: np.stack([outputs[n] for _, outputs in chosen]) for n in chosen[0][1]}
    return ReferenceSamples(name, np.stack([pixels for pixels, _ in chosen]), stacked)


def _before_table(table: NDArray[np.float32], tensor: Array) -> Array:
    """C × H × W network values → the bytes that the table maps to them; the values where there are none."""
    pixels = np.empty(tensor.shape, np.uint8)
    for values, plane, out in zip(table, tensor, pixels, strict=True):
        order = np.argsort(values, kind="stable")
        found = np.searchsorted(values, plane, sorter=order)
        out[...] = order[np.minimum(found, len(order) - 1)]
    return pixels if np.array_equal(_looked_up(table, pixels), tensor) else tensor.astype(np.float32)


def _looked_up(table: NDArray[np.float32], pixels: Array) -> Array:
    return np.stack([values[plane] for values, plane in zip(table, pixels, strict=True)])


def load(path: Path, config: InputConfig, outputs: Iterable[str]) -> ReferenceSamples:
    """The samples in a file, checked against the engine they are to judge.

    Args:
        config: the engine's input.
        outputs: names of its outputs, all of which the file has to hold.

    Raises:
        InputError: it cannot be read, is damaged, or is another engine's.
    """
    try:
        _refuse_large(path)
        with np.load(path, allow_pickle=False) as stored:
            found = _from_arrays({name: stored[name] for name in stored.files})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, MemoryError) as e:
        raise _unusable(path, str(e) or type(e).__name__) from e
    problem = _mismatch(found, config, set(outputs))
    if problem:
        raise _unusable(path, problem)
    return found


def _refuse_large(path: Path) -> None:
    """Raise ValueError if unpacking would take more memory than any reference needs."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                shape, dtype = _header(file)
            claimed = int(np.prod([float(size) for size in shape])) * dtype.itemsize
            if max(claimed, member.file_size) > LOAD_LIMIT_BYTES or claimed > member.file_size:
                raise ValueError(f"{member.filename} claims {claimed} bytes and holds {member.file_size}")


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type that an .npy file claims."""
    if (version := np.lib.format.read_magic(file)) != (1, 0):
        raise ValueError(f"an array of format {version}")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return shape, dtype


def _from_arrays(arrays: Mapping[str, Array]) -> ReferenceSamples:
    input_name, *names = (str(name) for name in arrays["names"])
    return ReferenceSamples(
        input_name, arrays["input"], {name: arrays[f"output_{i}"] for i, name in enumerate(names)}
    )


def _mismatch(found: ReferenceSamples, config: InputConfig, outputs: set[str]) -> str:
    """Why these samples are not for an engine with this input and these outputs; "" if they are."""
    wanted = (config.channels, *config.size)
    if found.pixels.shape[1:] != wanted or found.pixels.dtype not in (np.uint8, np.float32):
        return f"its pictures are {found.pixels.dtype} {list(found.pixels.shape[1:])}, not {list(wanted)}"
    if not len(found):
        return "it holds no sample"
    if set(found.outputs) != outputs:
        return f"it has the outputs {', '.join(found.outputs)}, the engine has {', '.join(sorted(outputs))}"
    for name, value in found.outputs.items():
        if value.dtype != np.float32 or len(value) != len(found) or not np.isfinite(value).all():
            return f"output '{name}' is not {len(found)} finite float32 results"
    return ""


def _unusable(path: Path, why: str) -> InputError:
    return InputError(
        f"the reference results in {path.name} cannot be used", why, "get the bundle again from its builder"
    )
