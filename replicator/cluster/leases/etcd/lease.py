"""The lease of one strand in etcd v3.

    <prefix>/<strand>/leader   {"region": "paris", "epoch": 3}, attached to an etcd lease: goes when that one ends
    <prefix>/<strand>/epoch    3, the highest that was ever granted: stays

A claim is one transaction: if the leader's key is not there (or is of the revision that the claimant may replace) and
the epoch's key is as it was looked at, write both. The revision that wrote the leader's key is the holder's token. The
key that is written with another etcd lease is detached from the earlier one: what becomes of the former holder's lease
then, ending or revoked, does not touch it.

Why a renewal is two requests: etcd's leader renews a lease from its own memory. A leader that was stopped for a while
does so, too, before it learns that it has been deposed; the time would then count for nothing. So a renewal is followed
by a read that takes a quorum, from the same member in the same term: the leader that renewed was still the leader.

Each request may arrive twice (see ``gateway``): the id of an etcd lease is drawn here, a transaction that has been done
finds its own lease at the key.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio

from replicator.cluster.leases.base import Clock, Grant, Holder, LeaseLost, LeaseView, boot_seconds, may_claim
from replicator.cluster.leases.etcd.answers import ResponseHeader, StrandRecord, number, read_header, read_seen
from replicator.cluster.leases.etcd.gateway import Gateway
from replicator.cluster.leases.etcd.member import FAILED_PRECONDITION, NOT_FOUND, EtcdMember, EtcdRefusal, garbled
from replicator.cluster.leases.etcd.options import EtcdOptions
from replicator.cluster.leases.etcd.transactions import EtcdKeys
from replicator.errors import ReplicatorError, Unavailable

TRIES = 3  # of a step that another one of ours, or an election in etcd, has overtaken
REVOKE_SECONDS = 0.2

T = TypeVar("T")


class EtcdLease:
    """The lease of one strand in etcd (see ``Lease``)."""

    def __init__(self, options: EtcdOptions, strand: str, clock: Clock = boot_seconds) -> None:
        self._options = options
        self._strand = strand
        self._clock = clock
        self._gateway = Gateway(options)
        self._keys = EtcdKeys(options.prefix, strand)

    @property
    def ttl_seconds(self) -> float:
        return self._options.ttl_seconds

    @property
    def exclusive(self) -> bool:
        return True

    async def look(self) -> LeaseView:
        return (await self._ask(self._look)).view

    async def check(self) -> None:
        await self._ask(lambda member: member.call("/v3/kv/txn", self._keys.never()))

    async def claim(self, region: str, epoch: int, instead_of: Holder | None = None) -> Grant:
        # The time is read, and the id drawn, once for all members that may be asked: the answer of any of them is safe.
        asked_at, lease_id = self._clock(), secrets.randbelow(2**62) + 1
        wanted = Grant(self._strand, region, epoch, "", str(lease_id), asked_at, self.ttl_seconds)
        return await self._ask(lambda member: self._claim(member, wanted, instead_of))

    async def renew(self, grant: Grant) -> Grant:
        asked = dataclasses.replace(grant, asked_at=self._clock())
        return await self._ask(lambda member: self._renew(member, asked))

    async def keep_mine(self, grant: Grant) -> Grant:
        return await self._ask(lambda member: self._keep_mine(member, grant))

    async def release(self, grant: Grant) -> None:
        await self._ask(lambda member: self._revoke(member, grant.lease_id))

    async def aclose(self) -> None:
        await self._gateway.aclose()

    async def _ask(self, step: Callable[[EtcdMember], Awaitable[T]]) -> T:
        try:
            return await self._gateway.ask(step)
        except EtcdRefusal as refusal:  # for a reason that no step knows
            cure = "look at etcd's log"
            raise Unavailable(refusal.reason, refusal.message, place=refusal.place, cure=cure) from refusal

    # -- one step at one member ---------------------------------------------------------------------------------------

    async def _look(self, member: EtcdMember) -> StrandRecord:
        answer = await member.call("/v3/kv/range", self._keys.look())
        with garbled(member.endpoint):
            answer = self._keys.looked(answer)
        return self._record(answer, member)

    async def _claim(self, member: EtcdMember, wanted: Grant, instead_of: Holder | None) -> Grant:
        record = await self._look(member)
        if record.view.holder is not None and record.view.holder[:2] == (wanted.region, wanted.epoch):
            # An earlier claim whose answer was lost; ours by name, so the time is what is left to prove.
            return await self._renew(member, dataclasses.replace(wanted, lease_id=str(record.lease_id)))
        may_claim(record.view, wanted.region, wanted.epoch, instead_of, self._keys.place)
        # The etcd lease comes first, for the key has to be attached to it in the transaction that writes it.
        granted = dataclasses.replace(wanted, ttl_seconds=await self._grant(member, wanted.lease_id))
        try:
            answer = await member.call("/v3/kv/txn", self._keys.claim(record, wanted))
        except EtcdRefusal as refusal:
            message = f"the etcd lease ended before the claim was through: {refusal.message}"
            raise Unavailable("lease_store_slow", message, place=member.endpoint, cure="check etcd's disk") from refusal
        if answer.get("succeeded"):
            return dataclasses.replace(granted, token=self._revision(answer, member))
        record = self._record(answer, member)
        if (mine := _mine(record, wanted)) is not None:  # this request has arrived before, by another member
            return dataclasses.replace(granted, token=mine.token)
        await self._try_to_revoke(member, wanted.lease_id)  # nothing is attached to it
        raise self._lost(wanted, record)

    async def _renew(self, member: EtcdMember, asked: Grant) -> Grant:
        for _ in range(TRIES):
            renewed, ttl_seconds = await self._keep_alive(member, asked.lease_id)
            record = await self._look(member)  # takes a quorum: only now is it known that the renewal counts
            mine = _mine(record, asked)
            if mine is None:
                if str(record.lease_id) != asked.lease_id:
                    await self._try_to_revoke(member, asked.lease_id)  # it has no key any more
                raise self._lost(asked, record)
            proven = (renewed.member_id, renewed.term) == (record.header.member_id, record.header.term)
            # Anything else: an election came between, or a balancer asked two members. The time is not believed.
            if proven and ttl_seconds > 0:
                return dataclasses.replace(asked, token=mine.token, ttl_seconds=ttl_seconds)
        message = "its members do not agree on a leader for long enough to renew the lease"
        cure = "look at etcd's health; a balancer in front of it must keep a connection at one member"
        raise Unavailable("lease_store_unsettled", message, place=member.endpoint, cure=cure)

    async def _keep_mine(self, member: EtcdMember, grant: Grant) -> Grant:
        token = grant.token
        for _ in range(TRIES):
            try:
                answer = await member.call("/v3/kv/txn", self._keys.keep(token, grant))
            except EtcdRefusal:  # the etcd lease is gone, and the key with it
                raise self._lost(grant, await self._look(member)) from None
            if answer.get("succeeded"):
                return dataclasses.replace(grant, token=self._revision(answer, member))
            record = self._record(answer, member)
            mine = _mine(record, grant)
            if mine is None:
                raise self._lost(grant, record)
            token = mine.token  # of an earlier keep_mine whose answer was lost; somebody may have seen that one, too
        raise Unavailable("lease_store_unsettled", "the holder's key changes all the time", place=member.endpoint)

    # -- requests -----------------------------------------------------------------------------------------------------

    async def _grant(self, member: EtcdMember, lease_id: str) -> float:
        """Make the etcd lease; how long it is. etcd may give more than was asked for."""
        try:
            answer = await member.call("/v3/lease/grant", {"ID": lease_id, "TTL": self._options.ttl_seconds})
        except EtcdRefusal as refusal:
            if refusal.code == FAILED_PRECONDITION:  # it is there: this request has arrived before
                return self.ttl_seconds  # what was asked for, the least that it can have
            raise
        with garbled(member.endpoint):
            return _ttl(answer)

    async def _keep_alive(self, member: EtcdMember, lease_id: str) -> tuple[ResponseHeader, float]:
        """Renew the etcd lease: who answered, and its time; 0 if there is none."""
        answer = await member.call("/v3/lease/keepalive", {"ID": lease_id})
        with garbled(member.endpoint):
            result = answer["result"]
            return read_header(result["header"]), float(number(result.get("TTL")))

    async def _revoke(self, member: EtcdMember, lease_id: str) -> None:
        """End the etcd lease, and what is attached to it."""
        try:
            await member.call("/v3/lease/revoke", {"ID": lease_id})
        except EtcdRefusal as refusal:
            if refusal.code != NOT_FOUND:
                raise

    async def _try_to_revoke(self, member: EtcdMember, lease_id: str) -> None:
        """Revoke what nobody needs any more; that it fails does no harm, for it ends by itself, too."""
        with trio.move_on_after(REVOKE_SECONDS), contextlib.suppress(ReplicatorError):
            await self._revoke(member, lease_id)

    def _record(self, answer: dict[str, Any], member: EtcdMember) -> StrandRecord:
        with garbled(member.endpoint):
            return read_seen(answer, self._keys.place)

    def _revision(self, answer: dict[str, Any], member: EtcdMember) -> str:
        with garbled(member.endpoint):
            return str(read_header(answer["header"]).revision)

    def _lost(self, grant: Grant, record: StrandRecord) -> LeaseLost:
        holder = record.view.holder
        who = f"{holder.region} holds it in epoch {holder.epoch}" if holder else "nobody holds it"
        return LeaseLost(
            f"{grant.region} does not hold the lease in epoch {grant.epoch}: {who}", record.view, place=self._keys.place
        )


def _mine(record: StrandRecord, grant: Grant) -> Holder | None:
    """The holder, if it is by this grant: by the etcd lease at the key, whose id nobody else has drawn."""
    holder = record.view.holder
    if holder is None or str(record.lease_id) != grant.lease_id or holder[:2] != (grant.region, grant.epoch):
        return None
    return holder


def _ttl(answer: dict[str, Any]) -> float:
    ttl_seconds = number(answer.get("TTL"))
    if ttl_seconds <= 0:
        raise ValueError("a lease without time")
    return float(ttl_seconds)
