"""Cleaning up behind drills that were killed, before another one begins."""

from __future__ import annotations

from pathlib import Path

import trio

from replicator.drills import faults
from replicator.drills.notes import leftovers


def clean_up(directory: Path) -> list[str]:
    """Undo what killed drills have left; what could not be undone. Raises Unavailable while another drill lives."""
    wrong: list[str] = []
    with leftovers(directory) as found:
        for leftover in found:
            wrong += trio.run(faults.undo_leftover, leftover)
    return wrong
