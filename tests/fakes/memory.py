"""Memory of the device and page-locked memory of the host, as blocks of real bytes at real addresses.

Fresh memory holds 0xCD (−4.3e8 as float32), freed memory 0xDD, and there are guard bytes on both sides. Freed
blocks are kept: an address is never used twice, so that whoever still has an old one is found out.
"""

from __future__ import annotations

import bisect
import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fakes.order import Access

Bytes = NDArray[np.uint8]

POISON, FREED, GUARD = 0xCD, 0xDD, 0xFB
_MARGIN = 256
"""Guard bytes on each side; also the alignment, which is cuMemAlloc's."""


class Resource:
    """Something that operations use, and that two must not use at once without an order."""

    def __init__(self, label: str) -> None:
        self.label, self.alive = label, True
        self.accesses: list[Access] = []
        """Those that the host does not know to have ended."""


class Block(Resource):
    """Bytes at an address.

    Attributes:
        kind: "device", "pinned" or "registered" (ordinary memory that was page-locked afterwards).
        mapped: host memory that the device can address.
        undefined: which bytes of device memory nothing has written yet; None for host memory, which the host
            writes unseen.
    """

    def __init__(self, kind: str, data: Bytes, label: str, mapped: bool = False) -> None:
        super().__init__(label)
        self.kind, self.data, self.mapped = kind, data, mapped
        self.address, self.nbytes = int(data.ctypes.data), data.nbytes
        self.undefined = np.ones(self.nbytes, bool) if kind == "device" else None
        self._guards: tuple[Bytes, Bytes] | None = None
        self._watched = False

    @property
    def on_host(self) -> bool:
        return self.kind != "device"

    @property
    def addressable(self) -> bool:
        """Whether a kernel may read and write it."""
        return self.mapped or not self.on_host

    @classmethod
    def fresh(cls, kind: str, nbytes: int, label: str, mapped: bool = False) -> Block:
        """A block of its own memory, poisoned."""
        whole = np.full(nbytes + 3 * _MARGIN, GUARD, np.uint8)
        start = _MARGIN + -whole.ctypes.data % _MARGIN
        block = cls(kind, whole[start : start + nbytes], label, mapped)
        block._guards = whole[:start], whole[start + nbytes :]
        block.data.fill(POISON)
        return block

    @classmethod
    def at(cls, address: int, nbytes: int, label: str) -> Block:
        """Memory that the host has already."""
        data = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
        return cls("registered", data, label, mapped=True)

    def retire(self, in_use: bool = False) -> None:
        """Mark it as freed; its bytes stay, to be watched unless something still works on them."""
        self.alive = False
        self._watched = self._guards is not None and not in_use
        if self._watched:
            self.data.fill(FREED)

    def damage(self) -> str:
        """What was written where nothing may be written."""
        if self._guards is None:
            return ""
        if not all((guard == GUARD).all() for guard in self._guards):
            return f"{self.label}: something was written beyond its ends"
        if self._watched and not (self.data == FREED).all():
            return f"{self.label}: something was written into it after it was freed"
        return ""


class Memory:
    """All blocks, found by address."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._blocks: list[Block] = []

    def __iter__(self) -> Any:
        return iter(self._blocks)

    def add(self, block: Block) -> None:
        index = bisect.bisect_left(self._starts, block.address)
        self._starts.insert(index, block.address)
        self._blocks.insert(index, block)

    def remove(self, block: Block) -> None:
        """Forget registered memory, whose address belongs to the host."""
        index = self._blocks.index(block)
        del self._starts[index], self._blocks[index]

    def find(self, address: int, nbytes: int = 1) -> Block | None:
        """The block that holds all of these bytes, alive or not."""
        index = bisect.bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        block = self._blocks[index]
        return block if address + nbytes <= block.address + block.nbytes else None
