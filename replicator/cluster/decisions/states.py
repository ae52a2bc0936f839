"""The states of a region in a strand, and every way from one to another.

Guarantee: a region changes its state only along a row of ``TABLE``; an event that its state does not know raises and
changes nothing. The table is the whole truth: the documents' diagram is drawn from it (``docs/generate/states.py``).

Who may write: only a region in ``primary``, and only while its lease is usable. ``demoting`` is a primary that has
closed its fence and can open it again; ``demoted`` is one that has given up its term, and whose last blocks may be
orphans. Everything between ``claiming`` and ``promoting`` holds the lease and is fenced.

Pure: no clock, no I/O. What is decided in each state is in ``decide``.
"""

from __future__ import annotations

import enum


class RoleState(enum.StrEnum):
    """What a region is in a strand."""

    FOLLOWING = "following"
    SUSPECTING = "suspecting"
    CLAIMING = "claiming"
    FENCING = "fencing"
    DRAINING = "draining"
    PROMOTING = "promoting"
    PRIMARY = "primary"
    DEMOTING = "demoting"
    DEMOTED = "demoted"
    REJOINING = "rejoining"
    PAUSED = "paused"
    HALTED = "halted"


class RoleEvent(enum.StrEnum):
    """What moves a region from one state to another."""

    SUSPECT = "the primary is lost by both signals"
    CLEAR = "the primary is there again"
    STAND = "this region is to lead"
    GRANTED = "the lease is ours"
    LOST = "the lease is not ours"
    FENCED = "nobody takes an older epoch any more"
    DRAINED = "all that was received is applied and verified"
    REFUSED = "more would be lost than is allowed"
    PROMOTED = "writes are open"
    HAND_OVER = "a planned switchover"
    REOPEN = "the switchover is called off"
    HANDED_OVER = "the target holds the lease"
    EXPIRED = "the lease could not be renewed"
    SUPERSEDED = "a newer epoch is known"
    RETURN = "nothing was written in the claimed epoch"
    DIVERGED = "this chain is not the primary's"
    REJOIN = "there is a primary to follow"
    REWOUND = "this chain is the primary's again"
    PAUSE = "an operator pauses it"
    RESUME = "an operator resumes it"
    HALT = "a person is needed"


_S, _E = RoleState, RoleEvent

TABLE: dict[tuple[RoleState, RoleEvent], RoleState] = {
    (_S.FOLLOWING, _E.SUSPECT): _S.SUSPECTING,
    (_S.FOLLOWING, _E.STAND): _S.CLAIMING,
    (_S.FOLLOWING, _E.DIVERGED): _S.REJOINING,
    (_S.FOLLOWING, _E.PAUSE): _S.PAUSED,
    (_S.SUSPECTING, _E.CLEAR): _S.FOLLOWING,
    (_S.SUSPECTING, _E.STAND): _S.CLAIMING,
    (_S.SUSPECTING, _E.PAUSE): _S.PAUSED,
    (_S.CLAIMING, _E.GRANTED): _S.FENCING,
    (_S.CLAIMING, _E.LOST): _S.DEMOTED,
    (_S.FENCING, _E.FENCED): _S.DRAINING,
    (_S.FENCING, _E.REFUSED): _S.DEMOTED,
    (_S.FENCING, _E.LOST): _S.DEMOTED,
    (_S.DRAINING, _E.DRAINED): _S.PROMOTING,
    (_S.DRAINING, _E.REFUSED): _S.DEMOTED,
    (_S.DRAINING, _E.LOST): _S.DEMOTED,
    (_S.PROMOTING, _E.PROMOTED): _S.PRIMARY,
    (_S.PROMOTING, _E.LOST): _S.DEMOTED,
    (_S.PRIMARY, _E.HAND_OVER): _S.DEMOTING,
    (_S.PRIMARY, _E.EXPIRED): _S.DEMOTED,
    (_S.PRIMARY, _E.SUPERSEDED): _S.DEMOTED,
    (_S.DEMOTING, _E.REOPEN): _S.PRIMARY,
    (_S.DEMOTING, _E.HANDED_OVER): _S.DEMOTED,
    (_S.DEMOTING, _E.EXPIRED): _S.DEMOTED,
    (_S.DEMOTING, _E.SUPERSEDED): _S.DEMOTED,
    (_S.DEMOTED, _E.STAND): _S.CLAIMING,
    (_S.DEMOTED, _E.RETURN): _S.FOLLOWING,
    (_S.DEMOTED, _E.REJOIN): _S.REJOINING,
    (_S.REJOINING, _E.REWOUND): _S.FOLLOWING,
    (_S.REJOINING, _E.LOST): _S.DEMOTED,
    (_S.REJOINING, _E.HALT): _S.HALTED,
    (_S.PAUSED, _E.RESUME): _S.FOLLOWING,
    (_S.PAUSED, _E.DIVERGED): _S.REJOINING,
    (_S.HALTED, _E.RESUME): _S.REJOINING,
}

LEADING = frozenset(
    {
        RoleState.CLAIMING,
        RoleState.FENCING,
        RoleState.DRAINING,
        RoleState.PROMOTING,
        RoleState.PRIMARY,
        RoleState.DEMOTING,
    }
)
FOLLOWS = frozenset({RoleState.FOLLOWING, RoleState.SUSPECTING, RoleState.PAUSED})
SETTLED = frozenset(
    {RoleState.PRIMARY, RoleState.FOLLOWING, RoleState.PAUSED, RoleState.HALTED}
)  # peers are looked at seldom

# What follows from an event beside the new state: an order has been carried out, or has failed, and must not move this
# region once more; the way back begins.
ENDS_ORDERS = frozenset(
    {
        RoleEvent.LOST,
        RoleEvent.REFUSED,
        RoleEvent.PROMOTED,
        RoleEvent.REOPEN,
        RoleEvent.HANDED_OVER,
        RoleEvent.EXPIRED,
        RoleEvent.REWOUND,
        RoleEvent.HALT,
        RoleEvent.RESUME,
    }
)
BEGINS_RETURN = frozenset({RoleEvent.DIVERGED, RoleEvent.REJOIN, RoleEvent.RESUME})


class IllegalEvent(AssertionError):
    """An event that the state does not know: a fault of ours."""


def moved(state: RoleState, event: RoleEvent) -> RoleState:
    """The state after ``event``. Raises IllegalEvent; then nothing is to change."""
    try:
        return TABLE[state, event]
    except KeyError:
        raise IllegalEvent(f"{state.value} knows no {event.name}") from None
