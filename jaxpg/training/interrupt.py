"""Ctrl-C as a request, so that a run ends between two blocks with its state whole."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["Interrupt", "interruptible"]


class Interrupt:
    """Whether Ctrl-C has been pressed since the run began."""

    requested = False


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupt]:
    """The first Ctrl-C sets `requested`; the second raises KeyboardInterrupt at once, as does any afterwards.

    A KeyboardInterrupt raised wherever the program happens to stand may be lost: Python drops what is raised in a
    finalizer or in a callback of the garbage collector, and JAX has both. Outside the main thread, where no signal
    arrives, nothing is changed.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = signal.getsignal(signal.SIGINT)

    def handle(signum: int, frame: Any) -> None:
        if interrupt.requested:
            raise KeyboardInterrupt
        interrupt.requested = True

    signal.signal(signal.SIGINT, handle)
    try:
        yield interrupt
    finally:
        # A handler that was not set from Python cannot be set again; the interpreter's own is the next best.
        signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)
