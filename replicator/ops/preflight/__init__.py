"""Preflight: everything that ``run`` will need, looked at before the start.

Guarantee asked of every check that returns findings: it changes nothing, and it names a cure for all that is not ok.
Nothing of the world's is raised: what cannot be looked at is a finding, too.

Where to look: ``look`` (which checks a region needs), ``machine`` (versions, directory, disk), ``listening`` (address,
TLS), ``following`` (the primary's feed), ``lease`` (who may be primary), ``cluster`` (the other regions of it, and
whether this one could take over), ``stored`` (what the region has already). The databases' own checks are with their
sources and replicas.
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
    """An error as a finding. Nothing waits here, so what would be waited for later has another cure now."""
    place = f"{error.place}: " if error.place else ""
    cure = error.cure or "see the message"
    if isinstance(error, Unavailable) and error.reason.endswith("_unreachable"):
        cure = "start it, or correct its address in the configuration; see that nothing between blocks the way"
    return Finding("fail", f"{place}{error.message} [{error.reason}]", cure)
