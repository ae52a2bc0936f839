"""What a check of the configured world tells an operator before the start.

Every layer that adapts something outside (sources, replicas, fences, leases) checks it by itself and returns findings;
``ops/preflight`` asks them all. A check changes nothing and names a cure for all that is not ok; what cannot be looked
at is a finding, too.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from replicator.errors import ReplicatorError, Unavailable

Level = Literal["ok", "warn", "fail"]


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``fail`` stops a start, ``warn`` is what an operator should know; ``cure`` is empty
    only for ``ok``."""

    level: Level
    what: str
    cure: str = ""


def failed(error: ReplicatorError) -> Finding:
    """An error as a finding."""
    place = f"{error.place}: " if error.place else ""
    cure = error.cure or "see the message"
    if isinstance(error, Unavailable) and error.reason.endswith("_unreachable"):
        # The error's own cure is for a running stage, which waits; a person who starts one has to act.
        cure = "start it, or correct its address in the configuration; see that nothing between blocks the way"
    return Finding("fail", f"{place}{error.message} [{error.reason}]", cure)
