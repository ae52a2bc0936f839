"""``python -m replicator`` is ``replicator``."""

from replicator.ops.cli import main

main()
