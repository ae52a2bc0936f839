"""Is the primary lost? Two signals that fail independently: its lease, and who still hears it.

Guarantee: *red* takes both. A lease store that is away says nothing of the primary: without it nobody is promoted. One
region whose own line is cut does not call a primary lost that its peers still hear. A primary that says itself that it
cannot write is not heard, however alive it is: its database is gone, say, or its own line to the lease store.

    green    the lease is held, and the primary is heard
    yellow   one of the two is bad, or cannot be known
    red      the lease is held by nobody, and no region that answers hears the primary

Pure. A level is a function of what is seen; what keeps it from flapping is that the lease itself ends only after its
ttl, and that ``suspect_seconds`` is several heartbeats long.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from replicator.cluster.decisions.model import FailoverRules, HeardReport, Observation
from replicator.cluster.decisions.states import RoleState

_WRITES = (RoleState.PRIMARY, RoleState.DEMOTING, RoleState.PROMOTING)


class Level(enum.StrEnum):
    """How sure it is that the primary is lost."""

    GREEN = "green"
    YELLOW = "yellow"
    RED = "red"


class Signals(NamedTuple):
    """The level, and each region's view: the region's name, and how long ago it heard the primary (None: never)."""

    level: Level
    why: str
    views: dict[str, float | None]


def signals(seen: Observation, rules: FailoverRules) -> Signals:
    """Both signals together."""
    views = {rules.me: seen.me.heard_seconds}
    views |= {name: report.heard_seconds for name, report in seen.fresh(rules).items()}
    heard = [name for name, ago in views.items() if ago is not None and ago < rules.suspect_seconds]
    writes = [name for name, report in seen.fresh(rules).items() if report.state is RoleState.PRIMARY and report.open]
    if seen.lease is None:
        return Signals(Level.YELLOW, "the lease store does not answer", views)
    held = seen.lease.holder is not None
    if held and heard:
        return Signals(Level.GREEN, "", views)
    if held:
        return Signals(Level.YELLOW, "the lease is held, but no region hears its holder", views)
    if heard or writes:
        names = ", ".join(sorted({*heard, *writes}))
        return Signals(Level.YELLOW, f"nobody holds the lease, but the primary is heard by {names}", views)
    if rules.exclusive and seen.lease_seconds < rules.report_seconds:
        # Whoever led when it went away finds it again at the same moment, and is to be heard of first.
        return Signals(Level.YELLOW, "the lease store has only just answered", views)
    return Signals(Level.RED, "nobody holds the lease, and no region that answers hears the primary", views)


def heard_seconds(feed_seconds: float | None, followed: HeardReport | None, now: float) -> float | None:
    """How long ago the region that is followed was heard as one that may write; None: it is known that it may not.

    ``feed_seconds`` is how long ago its feed was heard, None without a feed. The feed alone does not tell: whose
    database is gone, or who is cut off from the lease store, may still be sending it. So its last report counts: that
    it is open, or able to be in a moment; and that report's age, if it is older.
    """
    if followed is None or feed_seconds is None:
        return feed_seconds
    report = followed.report
    if report.state not in _WRITES or not (report.open or report.able):
        return None
    return max(feed_seconds, now - followed.at)
