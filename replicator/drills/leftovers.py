"""Cleaning up behind drills that were killed, before another one begins."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import trio

from replicator.drills import faults
from replicator.drills.fork import discard
from replicator.drills.notes import Leftover, leftovers
from replicator.errors import ReplicatorError

log = logging.getLogger("replicator.drills")


def clean_up(directory: Path, servers: Sequence[str] = ()) -> list[str]:
    """Undo what killed drills have left; what could not be undone. ``servers`` are dsns whose passwords may be needed.
    Raises Unavailable while another drill lives."""
    wrong: list[str] = []
    with leftovers(directory) as found:
        for leftover in found:
            if "fork" in leftover.fields:
                wrong += _discard(leftover, servers)
            else:
                wrong += trio.run(faults.undo_leftover, leftover)
    return wrong


def _discard(leftover: Leftover, servers: Sequence[str]) -> list[str]:
    log.warning("a rehearsal was killed (%s): its fork is thrown away", leftover.path.name)
    try:
        discard(leftover.fields["fork"], servers)
    except (ReplicatorError, KeyError, TypeError) as error:
        return [f"{leftover.path}: {error}"]
    leftover.clear()
    return []
