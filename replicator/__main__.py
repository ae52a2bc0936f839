"""``python -m replicator`` is ``replicator``: the command line, from its first import on."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line."""
    # An interrupt in the middle of an import would be a traceback, or be swallowed by it.
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not where it is ignored
    if is_ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from replicator.ops.cli import main as command_line

    if is_ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command_line()


if __name__ == "__main__":
    main()
