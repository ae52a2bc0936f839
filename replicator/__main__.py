"""``python -m replicator`` is ``replicator``: the command line, from its first import on."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line."""
    # Before anything of ours is imported, and until the verb is (``ops/interrupts`` says why).
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from replicator.ops.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
