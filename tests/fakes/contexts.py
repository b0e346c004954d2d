"""PyCUDA's contexts, and what becomes of an object whose context is gone or belongs to another thread."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from fakes.errors import failure

if TYPE_CHECKING:
    from fakes.cuda import FakeCuda


class Context:
    """A retained primary context. It belongs to the thread that retained it."""

    cuda: FakeCuda

    def __init__(self) -> None:
        self.epoch, self.valid = self.cuda.epoch, True
        self.thread = threading.get_ident()

    def push(self) -> None:
        self.cuda.call("cuCtxPushCurrent", context=False)
        self.cuda.stacks.setdefault(threading.get_ident(), []).append(self)

    @classmethod
    def pop(cls) -> None:
        stack = cls.cuda.stacks.get(threading.get_ident())
        if not stack:
            raise failure("context::pop", "INVALID_CONTEXT", "cannot pop non-current context")
        stack.pop()

    def detach(self) -> None:
        """Release it; with the last one all that lives in it ends."""
        if not self.valid:
            raise failure("context::detach", "INVALID_CONTEXT", "cannot detach from invalid context")
        self.valid = False
        if self.active:
            self.cuda.stacks[threading.get_ident()].pop()
        elif self.thread != threading.get_ident():
            return  # PyCUDA gives up on it without a word
        self.cuda.retained -= 1
        if not self.cuda.retained and self.epoch == self.cuda.epoch:
            for text in self.cuda.leaks() if not self.cuda.sticky else []:
                if "was not freed" in text:
                    self.cuda.report(f"{text} before its context was released")
            self.cuda.end_context()

    @property
    def active(self) -> bool:
        stack = self.cuda.stacks.get(threading.get_ident())
        return stack is not None and stack[-1:] == [self]

    def __del__(self) -> None:
        if self.valid:
            self.detach()


class Dependent:
    """What lives in the context that was current when it was made."""

    context: Context

    def _acquire(self, cuda: FakeCuda) -> None:
        stack = cuda.stacks.get(threading.get_ident())
        if not stack:
            detail = "no currently active context?"
            raise failure("explicit_context_dependent", "INVALID_CONTEXT", detail)
        self.context = stack[-1]

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
