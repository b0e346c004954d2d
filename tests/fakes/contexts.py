"""PyCUDA's contexts, and what becomes of an object whose context is gone or belongs to another thread."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from fakes.errors import Error, failure

if TYPE_CHECKING:
    from fakes.cuda import FakeCuda


class Context:
    """A retained primary context. It belongs to the thread that retained it.

    PyCUDA keeps a stack of its own in each thread (`FakeCuda.stacks`), of which only the top is on the
    driver's (`FakeCuda.current`). Source: PyCUDA 2026.1, src/cpp/cuda.hpp, `context` and `primary_context`.
    """

    cuda: FakeCuda

    def __init__(self) -> None:
        self.epoch, self.valid = self.cuda.epoch, True
        self.thread = threading.get_ident()

    def push(self) -> None:
        self._leave_current()
        self.cuda.push_current(self.epoch)
        self._stack().append(self)

    @classmethod
    def pop(cls) -> None:
        """A dead context cannot be popped: the driver's call comes first, and it reports the error."""
        cls._leave_current()
        if cls.top() is None:
            raise failure("context::pop", "INVALID_CONTEXT", "cannot pop non-current context")
        cls._stack().pop()
        cls._return_to_top()

    def detach(self) -> None:
        """Release it; with the last one all that lives in it ends.

        What is on the driver's stack stays there: releasing a primary context pops nothing (CUDA driver API,
        cuDevicePrimaryCtxRelease). One that is not current even comes to lie there.
        """
        if not self.valid:
            raise failure("context::detach", "INVALID_CONTEXT", "cannot detach from invalid context")
        active = self.active
        if not active and self.thread != threading.get_ident():
            self.valid = False
            return  # PyCUDA gives up on it without a word
        with suppress(Error):  # clean-up calls that fail are only printed
            if not active:
                self.cuda.push_current(self.epoch)
            self.cuda.call("cuDevicePrimaryCtxRelease", context=False)
        self._release()
        self.valid = False
        if active:
            self._return_to_top()

    def _release(self) -> None:
        self.cuda.retained -= 1
        if not self.cuda.retained and self.epoch == self.cuda.epoch:
            for text in self.cuda.leaks() if not self.cuda.sticky else []:
                if "was not freed" in text:
                    self.cuda.report(f"{text} before its context was released")
            self.cuda.end_context()

    @classmethod
    def _stack(cls) -> list[Context]:
        stack: list[Context] = cls.cuda.stacks.setdefault(threading.get_ident(), [])
        return stack

    @classmethod
    def top(cls) -> Context | None:
        """The one PyCUDA takes for current; those that were detached are dropped on the way to it."""
        stack = cls._stack()
        while stack and not stack[-1].valid:
            stack.pop()
        return stack[-1] if stack else None

    @classmethod
    def _leave_current(cls) -> None:
        if cls._stack():
            cls.cuda.pop_current()

    @classmethod
    def _return_to_top(cls) -> None:
        if (top := cls.top()) is not None:
            cls.cuda.push_current(top.epoch)

    @property
    def active(self) -> bool:
        return self.top() is self

    def __del__(self) -> None:
        if self.valid:
            self.detach()


class Dependent:
    """What lives in the context that was current when it was made."""

    context: Context

    def _acquire(self, cuda: FakeCuda) -> None:
        context = cuda.driver.Context.top()
        if context is None:
            detail = "no currently active context?"
            raise failure("explicit_context_dependent", "INVALID_CONTEXT", detail)
        self.context = context

    def _may_destroy(self, what: str) -> bool:
        """Whether PyCUDA makes the call that destroys it.

        With its context detached, or in another thread than the context's, it does not.
        """
        context = getattr(self, "context", None)
        if context is None or not context.valid or context.epoch != context.cuda.epoch:
            return False
        if not context.active and context.thread != threading.get_ident():
            context.cuda.report(f"{what} ended in a thread without its context: PyCUDA leaks it")
            return False
        return not context.cuda.sticky
