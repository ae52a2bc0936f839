"""What a region's part in failover means, as JSON and in words. Pure; ``cluster/failover/status.py`` has the values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from replicator.cluster.failover.status import FailoverView, MemberView
from replicator.errors import ReplicatorError, Unavailable

_CAN_BE_PROMOTED = frozenset({"following", "suspecting", "demoted"})
ORPHANS_CURE = "replicator orphans shows them; what is clean can be re-applied, and a person settles the rest"

# A region in these holds rows that may be undone, or belong to nobody's term: it is for no reader.
_NOT_READY = {
    "demoted": ("demoted", "it does not lead any more, and follows nobody yet"),
    "rejoining": ("rejoining", "it is coming back as a replica"),
    "halted": ("role_halted", "it could not come back as a replica"),
}
_CURES = {
    "demoted": "it follows again by itself once there is a primary",
    "rejoining": "wait; replicator rejoin if it waits for a person",
    "halted": "cure what it names, then replicator rejoin",
}


def unready(view: FailoverView) -> ReplicatorError | None:
    """Why a region is not ready because of its role, or None."""
    found = _NOT_READY.get(view.own.state)
    if found is None:
        return None
    reason, message = found
    message += f": {view.why}" if view.why else ""
    return Unavailable(reason, message, place=f"region {view.own.region}", cure=_CURES[view.own.state])


def is_promotable(member: MemberView) -> bool:
    """Whether it leads, or could be promoted now."""
    return member.leads or (member.state in _CAN_BE_PROMOTED and not not_promotable(member))


def not_promotable(member: MemberView) -> str:
    """The one reason why a region could not be promoted now; empty if it could, or leads."""
    if not member.state:
        return "it has not answered yet"
    if member.is_silent:
        return f"it has not answered for {member.seen_age_seconds:.0f} s"
    if member.leads or member.blocked:
        return member.blocked
    return "" if member.state in _CAN_BE_PROMOTED else f"it is {member.state}"


def promotable_text(member: MemberView) -> str:
    """The same in one word or the reason."""
    return "leads" if member.leads else not_promotable(member) or "yes"


def lease_text(view: FailoverView) -> str:
    """Who may be primary, and for how long yet."""
    if not view.is_lease_known:
        return f"its store does not answer: {view.lease_trouble}" if view.lease_trouble else "not known yet"
    if view.holder is None:
        return "held by nobody"
    text = f"held by {view.holder} in epoch {view.holder_epoch}"
    left = view.lease_remaining_seconds
    return text if left is None else f"{text}, for {left:.1f} s without renewal"


def lost_text(view: FailoverView) -> str:
    """What would be lost if the primary were gone now."""
    words = [f"{view.lost_blocks:,} blocks"]
    words += [f"{amount:,.2f} of {name.strip()}" for name, amount in sorted(view.lost_amounts.items())]
    words += [f"{view.lost_unknown:,} changes of unknown amount"] if view.lost_unknown else []
    return ", ".join(words) + (f"; that refuses a promotion: {view.refused}" if view.refused else "")


def orphans_text(count: int) -> str:
    """How much is sealed and waits for a person."""
    which = "1 transaction that only this region had is" if count == 1 else f"{count:,} that only this region had are"
    return f"{which} sealed and not handled"


def failover_json(view: FailoverView) -> dict[str, Any]:
    """All of it."""
    own = view.own
    return {
        "state": own.state,
        "epoch": own.report.epoch,
        "promised": view.promised,
        "mode": view.mode,
        "fence_open": own.report.open,
        "why": view.why,
        "primary": {"level": view.level, "why": view.level_why},
        "lease": {
            "known": view.is_lease_known,
            "holder": view.holder,
            "epoch": view.holder_epoch,
            "remaining_seconds": view.lease_remaining_seconds,
            "trouble": view.lease_trouble or None,
            "summary": lease_text(view),
        },
        "order": {"what": view.order, "seconds": view.order_seconds} if view.order else None,
        "would_lose": {
            "blocks": view.lost_blocks,
            "amounts": dict(view.lost_amounts),
            "unknown": view.lost_unknown,
            "refused": view.refused or None,
            "summary": lost_text(view),
        },
        "orphaned_transactions": view.orphaned,
        "regions": [member_json(member) for member in sorted_members(view)],
    }


def member_json(member: MemberView) -> dict[str, Any]:
    """A region of the cluster."""
    return {
        "region": member.region,
        "url": member.url,
        "state": member.state or None,
        "epoch": member.report.epoch,
        "sequence": member.report.sequence,
        "applied": member.report.applied,
        "verified": member.report.verified,
        "fence_open": member.report.open,
        "promotable": is_promotable(member),
        "blocked": not_promotable(member) or None,
        "seen_age_seconds": round(member.seen_age_seconds, 3),
        "summary": promotable_text(member),
    }


def sorted_members(view: FailoverView) -> list[MemberView]:
    """Every region of the cluster, by name."""
    return sorted((view.own, *view.peers), key=lambda member: member.region)


def members_json(view: FailoverView, own: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The members for ``/cluster``; ``own`` is what is known of this region beside it."""
    head = max((member.report.sequence for member in (view.own, *view.peers) if member.leads), default=None)
    return [
        {
            "name": member.region,
            "role": "primary" if member.leads else "replica",
            **member_json(member),
            "behind_blocks": None if head is None or member.is_silent else max(head - member.report.applied, 0),
            **(own if member is view.own else {}),
        }
        for member in sorted_members(view)
    ]
