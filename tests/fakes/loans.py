"""Host memory that the device works on, and that the host must leave alone until it knows the work is done.

The simulator does not see what the host reads and writes. So it makes every early touch visible:

- A source is compared with what it was when the work was enqueued: when it is read, and again when the host
  learns that the work has ended. Whoever refills a buffer too early is caught, however fast the copy was.
- A destination holds poison from the moment the work is enqueued until the host learns that it has ended;
  only then are the bytes delivered. Whoever reads too early reads poison, however fast the copy was.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable

from fakes.memory import POISON, Block, Bytes
from fakes.order import Access, Clock


class Loan:
    """Bytes of host memory that one operation reads or writes.

    Attributes:
        access: which bytes, and whose they are.
        digest: of a source, as it was when the work was enqueued; None while nothing is known of it.
        result: of a destination, what the work wrote; None until it has run.
        poisoned: whether the destination holds poison now.
    """

    def __init__(self, block: Block, access: Access) -> None:
        self.block, self.access = block, access
        self.digest: int | None = None
        self.result: Bytes | None = None
        self.poisoned = False

    @property
    def data(self) -> Bytes:
        return self.block.data[self.access.start : self.access.end]

    def overlaps(self, other: Loan) -> bool:
        a, b = self.access, other.access
        return self.block is other.block and a.start < b.end and b.start < a.end


class Loans:
    """All that is lent. The caller holds the device's lock.

    Args:
        report: takes each violation.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._open: list[Loan] = []

    def lend(self, block: Block, access: Access) -> Loan:
        """At the moment the work is enqueued."""
        loan = Loan(block, access)
        busy = any(loan.overlaps(other) for other in self._open)
        if access.write:
            if not busy:  # earlier work has still to read, or to deliver
                self._poison(loan)
        elif not any(loan.overlaps(other) and other.access.write for other in self._open):
            loan.digest = _digest(loan.data)
        self._open.append(loan)
        return loan

    def begin(self, loans: Iterable[Loan]) -> None:
        """When the work starts: earlier work's bytes are there now, and sources are what they were."""
        for loan in loans:
            for other in self._before(loan):
                if other.access.write or loan.access.write:
                    self._close(other)
            if loan.access.write:
                self._poison(loan)
            else:
                self._compare(loan)

    def end(self, loans: Iterable[Loan]) -> None:
        """When the work has run: what it wrote is kept back."""
        for loan in loans:
            if loan.access.write and loan.block.alive:
                loan.result = loan.data.copy()
                loan.data.fill(POISON)

    def settle(self, clock: Clock) -> None:
        """The host knows this clock: what has ended is its own again."""
        for loan in [loan for loan in self._open if loan.access.ended(clock)]:
            self._close(loan)

    def drop(self, block: Block | None = None) -> None:
        """Forget what is lent of a block that is gone; of all blocks without one."""
        self._open = [loan for loan in self._open if block is not None and loan.block is not block]

    def _before(self, loan: Loan) -> list[Loan]:
        """What other operations were lent of the same bytes earlier; they have run, or there is a race."""
        earlier = self._open[: self._open.index(loan)] if loan in self._open else []
        return [other for other in earlier if other.overlaps(loan) and not _same_work(other, loan)]

    def _close(self, loan: Loan) -> None:
        self._open.remove(loan)
        if not loan.block.alive:
            return
        if not loan.access.write:
            self._compare(loan)
        elif loan.result is not None:
            self._check_untouched(loan)
            loan.data[:] = loan.result

    def _poison(self, loan: Loan) -> None:
        if loan.poisoned:
            self._check_untouched(loan)
        loan.data.fill(POISON)
        loan.poisoned = True

    def _check_untouched(self, loan: Loan) -> None:
        if not (loan.data == POISON).all():
            self._report(f"the host wrote into {loan.block.label} while {loan.access.label} was filling it")

    def _compare(self, loan: Loan) -> None:
        if loan.digest is not None and _digest(loan.data) != loan.digest:
            self._report(f"the host changed {loan.block.label} while {loan.access.label} was reading it")
            loan.digest = None  # said once


def _same_work(a: Loan, b: Loan) -> bool:
    return (a.access.stream, a.access.time) == (b.access.stream, b.access.time)


def _digest(data: Bytes) -> int:
    return zlib.crc32(data.data)
