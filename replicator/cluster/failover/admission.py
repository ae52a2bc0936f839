"""Writes that come while the lead is on its way to another region wait for it, for a moment.

Guarantee: a write is held only before the ledger sees it, for a bounded time, and so many at most; then it is answered
as ever: taken, sent on to the region that is open by now, or told to come again, as is one that was let in a moment
before the change. So a client that waits a whole second before it comes again is not kept waiting for a change that
took a quarter of one.
"""

from __future__ import annotations

import trio
from starlette.types import Scope

from replicator.cluster.decisions.states import RoleState
from replicator.cluster.failover.membership import Membership
from replicator.errors import NotPrimary

HOLD_SECONDS = 1.5
HELD_LIMIT = 2_000
LOOK_SECONDS = 0.02
WRITES = frozenset({"POST", "PUT"})
PATHS = ("/v1/transactions", "/v1/tables/")
_ON_ITS_WAY = frozenset(
    {RoleState.CLAIMING, RoleState.FENCING, RoleState.DRAINING, RoleState.PROMOTING, RoleState.DEMOTING}
)
_GONE = frozenset({RoleState.DEMOTED, RoleState.REJOINING})


class Admission:
    """Holds the writes that come to one region."""

    def __init__(self, member: Membership) -> None:
        self._member = member
        self._held = 0

    async def __call__(self, scope: Scope) -> None:
        """Return when the request is to be answered. Raises NotPrimary if another region is open."""
        if scope["method"] not in WRITES or not scope["path"].startswith(PATHS) or self._held >= HELD_LIMIT:
            return
        self._held += 1
        try:
            with trio.move_on_after(HOLD_SECONDS):
                while self._is_moving():
                    self._refuse_if_open_elsewhere()
                    await trio.sleep(LOOK_SECONDS)
        finally:
            self._held -= 1

    def _is_moving(self) -> bool:
        member = self._member
        state, primary = member.memory.state, member.region.flow.primary
        opens = state is RoleState.PRIMARY and not member.lease.is_open and member.lease.usable_until is not None
        begins = state is RoleState.PRIMARY and primary is not None and not primary.accepts_writes
        left = state in _GONE and member.memory.handed_to != ""
        return state in _ON_ITS_WAY or opens or begins or left

    def _refuse_if_open_elsewhere(self) -> None:
        member, view = self._member, self._member.lease_view()
        if view is None or view.holder is None:
            return
        heard = member.peers.heard.get(view.holder.region)
        if heard is not None and heard.report.open and heard.report.led >= view.holder.epoch:
            raise NotPrimary("this region does not lead any more", member.url_of(view.holder.region))
