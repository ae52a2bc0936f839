"""A primary that stops, with nobody to hand over to: it closes, and gives its lease back.

Guarantee: the lease is given back only once the fence says that it is closed. What has been committed by then is
captured and sent to who follows, for a moment: whoever leads next has it, or knows of it.
"""

from __future__ import annotations

import logging

import trio

from replicator.cluster.failover.membership import Membership
from replicator.cluster.failover.observe import is_captured
from replicator.errors import ReplicatorError, Unavailable

REST_SECONDS = 1.0
LOOK_SECONDS = 0.02
RETRY_AFTER_SECONDS = 1

log = logging.getLogger("replicator")


async def give_up(member: Membership) -> None:
    """Nobody decides any more. Never raises: what could not be done ends with the lease."""
    lease = member.lease
    lease.unable = Unavailable("stopping", "its sidecar is told to stop", place=f"region {member.rules.me}")
    try:
        if lease.is_open:
            await lease.close(None, retry_after=RETRY_AFTER_SECONDS)
        with trio.move_on_after(REST_SECONDS):
            while not (await is_captured(member) and _is_sent(member)):  # noqa: ASYNC110  # others' words set no event
                await trio.sleep(LOOK_SECONDS)
        await lease.release()
        log.warning("%s: closed, and the lease is given back: there was no region to hand over to", member.rules.me)
    except ReplicatorError as error:
        log.warning("%s: the lease ends by itself: %s", member.rules.me, error)


def _is_sent(member: Membership) -> bool:
    """Whether somebody has all that is in the journal, as far as anybody has said anything."""
    at_risk = member.region.at_risk
    return at_risk is None or at_risk.view().blocks == 0
