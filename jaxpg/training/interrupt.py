"""Ctrl-C and SIGTERM as requests, so that a run ends between two blocks with its state whole."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["Interrupt", "interruptible"]


class Interrupt:
    """The signal that asked the run to end: None, signal.SIGINT (Ctrl-C) or signal.SIGTERM."""

    signal: int | None = None

    @property
    def requested(self) -> bool:
        """Whether the run has been asked to end."""
        return self.signal is not None


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupt]:
    """The first Ctrl-C or SIGTERM is a request; a Ctrl-C after it raises KeyboardInterrupt at once.

    SIGTERM stays a request however often it comes: launchers send it to a process and to its group. Who does not want
    to wait sends SIGKILL.

    A KeyboardInterrupt raised wherever the program happens to stand may be lost: Python drops what is raised in a
    finalizer or in a callback of the garbage collector, and JAX has both. Outside the main thread, where no signal
    arrives, nothing is changed.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def handle(signum: int, frame: Any) -> None:
        if interrupt.requested and signum == signal.SIGINT:
            raise KeyboardInterrupt
        interrupt.signal = interrupt.signal or signum

    # A handler that was not set from Python cannot be set again; the interpreter's own is the next best.
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {signum: signal.getsignal(signum) for signum in defaults}
    try:
        for signum in defaults:
            signal.signal(signum, handle)
        yield interrupt
    finally:
        for signum, handler in before.items():
            signal.signal(signum, defaults[signum] if handler is None else handler)
