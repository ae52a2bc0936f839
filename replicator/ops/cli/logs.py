"""Where a long-running verb logs to: standard error, a line an event, times in UTC."""

from __future__ import annotations

import logging
import time


def log_to_stderr(*, verbose: bool = False) -> None:
    """Set the process' logging up, once. Libraries say only what is a warning."""
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("replicator").setLevel(logging.DEBUG if verbose else logging.INFO)
