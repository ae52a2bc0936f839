"""What Ctrl-C does while nobody listens for it: it ends the process, at once and silently.

Python's own way, an exception between any two instructions, is a traceback in the middle of an import, or is swallowed
by it: then the process goes on as if nobody had asked. Where SIGINT is ignored, or somebody else's, it stays so.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


def end_at_interrupts() -> bool:
    """Let SIGINT end the process from here on; whether that was for us to say."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return False
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return True


def raise_at_interrupts() -> None:
    """Let SIGINT be Python's exception again, if ``end_at_interrupts`` has changed that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def ending_at_interrupts() -> Iterator[None]:
    """Let SIGINT end the process while the context lasts."""
    is_ours = end_at_interrupts()
    try:
        yield
    finally:
        if is_ours:
            raise_at_interrupts()
