"""The store that keeps the lease: every endpoint of it answers, is of one cluster, fresh enough and fast enough for the
lease's time, and lets this region write; and what it says of the strand fits to what the region has.

Guarantee: nothing is claimed, granted or written. That the region may write is asked by a transaction whose condition
cannot hold: etcd checks the right to it first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import trio

from replicator.cluster.leases.base import LeaseView, boot_seconds
from replicator.cluster.leases.etcd import EtcdLease
from replicator.cluster.leases.etcd.answers import number, read_header
from replicator.cluster.leases.etcd.gateway import Gateway
from replicator.cluster.leases.etcd.member import EtcdMember, garbled
from replicator.cluster.leases.etcd.options import EtcdOptions
from replicator.cluster.leases.etcd.transactions import EtcdKeys
from replicator.cluster.leases.record import BootMoment, boot_id, lock_file, read_kept
from replicator.config import Config, StaticLeaseSettings
from replicator.config import EtcdLeaseSettings as EtcdSection
from replicator.config.finding import Finding, failed
from replicator.errors import Halted, ReplicatorError
from replicator.format.position import Position
from replicator.ops.preflight.listener import is_local
from replicator.ops.preflight.machine import nearest
from replicator.runtime import wiring

SLOW_SHARE = 0.1  # of the lease's time, for one answer
ANSWER_SECONDS_AT_LEAST = 3.0  # connections are new here
# Before these an etcd leader that had been stopped could end leases that its successor had renewed.
_LEASES_ARE_SAFE = {(3, 4): 31, (3, 5): 13}
_OLDEST = (3, 4)


class _MemberStatus(NamedTuple):
    """What a member of etcd says of itself, and in how many seconds it answered."""

    endpoint: str
    cluster_id: int
    has_leader: bool
    version: str
    seconds: float


def check_lease(config: Config, head: Position) -> Iterator[Finding]:
    """Everything about ``[lease]``; ``head`` is the end of the region's own journal. Blocks."""
    strand = config.region.strand
    match config.lease:
        case EtcdSection() as lease:
            yield from trio.run(_check_etcd, wiring.etcd_options(lease), strand, head)
        case StaticLeaseSettings(path=path):
            yield from _check_static(path, config.region.files.lease, strand, head)


# -- etcd -------------------------------------------------------------------------------------------------------------


async def _check_etcd(options: EtcdOptions, strand: str, head: Position) -> list[Finding]:
    statuses: list[_MemberStatus] = []
    faults: list[ReplicatorError] = []

    async def ask(endpoint: str) -> None:
        try:
            statuses.append(await _status(dataclasses.replace(options, endpoints=(endpoint,))))
        except ReplicatorError as error:
            faults.append(error)

    async with trio.open_nursery() as nursery:
        for endpoint in options.endpoints:
            nursery.start_soon(ask, endpoint)
    findings = [*_encryption(options), *_members(options, statuses, faults)]
    if statuses:
        findings += await _check_rights(options, strand, head)
    return findings


async def _status(options: EtcdOptions) -> _MemberStatus:
    (endpoint,) = options.endpoints

    async def measure(member: EtcdMember) -> _MemberStatus:
        await member.call("/v3/maintenance/status", {})  # opens the connection: that takes its own time
        begun = time.monotonic()
        answer = await member.call("/v3/maintenance/status", {})
        seconds = time.monotonic() - begun
        with garbled(endpoint):
            header = read_header(answer["header"])
            has_leader = number(answer.get("leader")) != 0
            return _MemberStatus(endpoint, header.cluster_id, has_leader, str(answer["version"])[:40], seconds)

    async with contextlib.aclosing(_patient(options)) as gateway:
        return await gateway.ask(measure)


def _patient(options: EtcdOptions) -> Gateway:
    """A gateway that waits longer than a renewal may: a slow member is to be told of, not to time out."""
    return Gateway(options, max(options.budget_seconds, ANSWER_SECONDS_AT_LEAST))


def _members(options: EtcdOptions, statuses: list[_MemberStatus], faults: list[ReplicatorError]) -> Iterator[Finding]:
    # One member that is away is to be known; that none answers stops the start.
    for fault in faults:
        finding = failed(fault)
        is_halted = isinstance(fault, Halted)
        yield finding if is_halted or not statuses else dataclasses.replace(finding, level="warn")
    for member in statuses:
        place = f"[lease] {member.endpoint}: etcd {member.version}"
        if not member.has_leader:
            yield Finding("fail", f"{place} has no leader", "bring a majority of its members up")
        elif _is_old(member.version):
            what = f"{place} may end a lease that was renewed, after its leader was stopped or its disk was slow"
            yield Finding("warn", what, "use 3.4.31, 3.5.13, 3.6 or newer")
        elif member.seconds > options.ttl_seconds * SLOW_SHARE:
            what = f"{place} takes {member.seconds:.2f} s to answer, of a lease of {options.ttl_seconds} s"
            yield Finding("warn", what, "set [lease] ttl higher, or use members that are nearer")
        else:
            yield Finding("ok", f"{place} answers in {member.seconds * 1000:.0f} ms")
    if len({member.cluster_id for member in statuses}) > 1:
        where = ", ".join(f"{member.endpoint} of {member.cluster_id:x}" for member in statuses)
        what = f"[lease] endpoints are of different clusters: {where}"
        yield Finding("fail", what, "name the members of one cluster: each would give the lease away")


def _is_old(version: str) -> bool:
    try:
        major, minor, patch = (int(part) for part in version.split("-")[0].split(".")[:3])
    except ValueError:
        return False  # another server that speaks etcd's protocol
    return (major, minor) < _OLDEST or patch < _LEASES_ARE_SAFE.get((major, minor), 0)


async def _check_rights(options: EtcdOptions, strand: str, head: Position) -> list[Finding]:
    keys = EtcdKeys(options.prefix, strand)
    lease = EtcdLease(options, strand)
    try:
        async with contextlib.aclosing(_patient(options)) as gateway:
            await gateway.ask(lambda member: member.call("/v3/kv/txn", keys.never()))
        async with contextlib.aclosing(lease):
            return list(_view(await lease.look(), f"[lease] {keys.place}", strand, head))
    except ReplicatorError as error:
        return [failed(error)]


def _encryption(options: EtcdOptions) -> Iterator[Finding]:
    for endpoint in options.endpoints:
        url = urllib.parse.urlsplit(endpoint)
        if url.scheme == "http" and not is_local(url.hostname or ""):
            what = f"[lease] {endpoint}: {'the password travels' if options.user else 'claims travel'} unencrypted"
            yield Finding("warn", what, "use https, or a private network: whoever reaches etcd decides who is primary")


# -- a file -----------------------------------------------------------------------------------------------------------


def _check_static(shared: Path | None, own: Path, strand: str, head: Position) -> Iterator[Finding]:
    path = shared or own
    place = f"[lease] path = {path}" if shared else f"[lease] by hand, in {path}"
    there = nearest(path.parent)
    locks = [file for file in (path, lock_file(path)) if file.exists()]
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        yield Finding("fail", f"{place}: {there} cannot be written", "give the sidecar's user the right to")
    elif closed := [file.name for file in locks if not os.access(file, os.R_OK | os.W_OK)]:
        cure = "give them to the user that the sidecars run as"
        yield Finding("fail", f"{place}: files that cannot be written: {', '.join(closed)}", cure)
    else:
        yield from _check_record(path, place, strand, head)
    if shared and not boot_id():
        what = f"{place}: a lease may outlast a restart of this machine, by its ttl at most"
        yield Finding("warn", what, "nothing, if that is short enough")
    if not shared:
        what = f"{place}: nobody but a person keeps two regions from being primary"
        yield Finding("warn", what, 'use kind = "etcd", or on one machine a path that all its sidecars are given')


def _check_record(path: Path, place: str, strand: str, head: Position) -> Iterator[Finding]:
    try:
        record = read_kept(path, strand)
    except OSError as error:
        yield Finding("fail", f"{place}: it cannot be read: {error.strerror}", "let the sidecar's user read it")
    except ReplicatorError as error:
        yield failed(error)
    else:
        yield from _view(record.view(BootMoment(boot_id(), boot_seconds())), place, strand, head)


def _view(view: LeaseView, place: str, strand: str, head: Position) -> Iterator[Finding]:
    who = f"{view.holder.region} holds it in epoch {view.holder.epoch}" if view.holder else "nobody holds it"
    if 0 < view.epoch < head.epoch:
        what = f"{place}: the highest epoch granted is {view.epoch}, the journal of {strand} is in {head.epoch}"
        cure = "find out whether the store was set back or is another one; the next claim must be above both"
        yield Finding("warn", what, cure)
    else:
        yield Finding("ok", f"{place} can be used; {who}, epochs up to {view.epoch} were granted")
