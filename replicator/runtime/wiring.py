"""Concrete parts for a configuration, in the order of the flow: what a ``kind`` in it means, and its units.

Guarantee: building a part opens nothing; what can fail fails when the part is started, where its stage is supervised.
How to add a source, a replica or a lease is in ``CONTRIBUTING.md``; of the running sidecar only this file changes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

from replicator.cluster.decisions.loss import LossBudget
from replicator.cluster.decisions.model import FailoverRules
from replicator.cluster.failover.amounts import AmountRule
from replicator.cluster.leases import etcd as etcd_lease
from replicator.cluster.leases import static as static_lease
from replicator.cluster.leases.base import Lease
from replicator.config import (
    Config,
    EmbeddedSourceSettings,
    EtcdLeaseSettings,
    FollowSettings,
    PostgresReplicaSettings,
    PostgresSourceSettings,
    SqliteReplicaSettings,
    StaticLeaseSettings,
)
from replicator.errors import Halted
from replicator.format.definition import Definition
from replicator.ledger.commit import LedgerOptions
from replicator.ledger.request import RequestLimits
from replicator.ledger.tables import TableDeclaration
from replicator.pipeline.acknowledge import AcknowledgeRule
from replicator.pipeline.feed.client import Upstream
from replicator.pipeline.replay.quarantine import QuarantinePolicy
from replicator.pipeline.replicas import postgres as postgres_replica
from replicator.pipeline.replicas import sqlite as sqlite_replica
from replicator.pipeline.replicas.base import Reader, Replica
from replicator.pipeline.replicas.postgres.durable import PostgresDurable
from replicator.pipeline.replicas.sqlite.durable import REQUESTS, SqliteDurable
from replicator.pipeline.sources import postgres as postgres_source
from replicator.pipeline.sources.base import CapturedLedger
from replicator.storage.damage import FileDamage
from replicator.storage.journal.history import HistoryIndex
from replicator.storage.journal.retention import RetentionPolicy as JournalPolicy
from replicator.transport.endpoint import Endpoint
from replicator.transport.server import Listen
from replicator.verify.checkpoints import Cadence
from replicator.verify.scrub import ScrubPlan
from replicator.verify.watch import WatchPlan
from settle_buffer.config import AutoWindow, SettleConfig

MICROSECONDS = 1_000_000

# -- the primary's ledger, captured from a database or embedded -------------------------------------------------------
# A primary's blocks come from another program's ledger, which a source captures, or from the embedded one.


def captured_ledger(config: Config) -> CapturedLedger | None:
    """The primary's ledger, if another program keeps it; None for the embedded one, and for a replica."""
    match config.source:
        case PostgresSourceSettings() as source:
            synchronous = config.failover.acknowledge > 0
            return postgres_source.PostgresLedger(postgres_options(source, synchronous=synchronous))
        case _:
            return None


def postgres_options(source: PostgresSourceSettings, *, synchronous: bool = False) -> postgres_source.PostgresOptions:
    """A PostgreSQL source's options. ``synchronous``: its commits wait for other regions."""
    return postgres_source.PostgresOptions(
        dsn=source.conninfo(),
        slot=source.slot,
        failover=source.slot_failover,
        publication=source.publication,
        tables=source.tables,
        user_column=source.user_column,
        user_columns=source.user_columns,
        heartbeat_seconds=source.heartbeat_seconds,
        sequence_seconds=source.sequences_seconds,
        synchronous=synchronous,
    )


def ledger_options(
    config: Config,
    source: EmbeddedSourceSettings,
    past: HistoryIndex | None = None,
    on_damage: Callable[[Path, Halted], None] = lambda file, error: None,
) -> LedgerOptions:
    """The embedded ledger's files and limits. ``past``, if it is kept, speaks against files that lost rows."""
    assert config.state_path is not None
    limits = RequestLimits(source.limits.document_bytes, source.limits.request_bytes, source.limits.statements)
    requests = config.region.files.requests
    return LedgerOptions(
        config.state_path,
        requests,
        limits,
        source.idempotency_retention_seconds,
        past=past if config.replay.history else None,
        on_damage=on_damage,
    )


def declarations(source: EmbeddedSourceSettings) -> tuple[TableDeclaration, ...]:
    """The tables that the configuration declares."""
    return tuple(TableDeclaration(table.name, table.key, table.key_types, table.user) for table in source.tables)


# -- whose writers wait, and what is at risk meanwhile ----------------------------------------------------------------
# What a primary's writers wait for, and what of theirs is summed up until other regions have it.


def acknowledge_rule(config: Config, regions: frozenset[str] | None = None) -> AcknowledgeRule | None:
    """How many other regions must have a block before its writer is answered; None if none must. ``regions`` are those
    that count; None: all that follow."""
    failover = config.failover
    if not failover.acknowledge:
        return None
    return AcknowledgeRule(
        failover.acknowledge,
        failover.missing,
        failover.degrade_after_seconds,
        failover.acknowledge_timeout_seconds,
        regions,
    )


def amount_rules(config: Config) -> tuple[AmountRule, ...]:
    """The amounts that are summed up while they are at risk."""
    return tuple(
        AmountRule(amount.table, amount.column, amount.currency, amount.currency_column)
        for amount in config.failover.amounts
    )


# -- the journal ------------------------------------------------------------------------------------------------------
# How long blocks are kept by policy, and what of this region would still need them after a loss of power.


def retention(config: Config) -> JournalPolicy:
    """How much of the journal is kept."""
    journal = config.journal
    # Blocks bear µs, so the policy counts in them.
    age = None if journal.keep_age_seconds is None else _us(journal.keep_age_seconds)
    return JournalPolicy(age, journal.keep_bytes, journal.budget_bytes)


def durable(config: Config) -> list[tuple[str, Callable[[], int]]]:
    """What the region builds from its journal, and how to ask up to where that is on disk."""
    strand = config.region.strand
    if config.region.role == "replica":
        match config.replica:
            case SqliteReplicaSettings(path=path):
                return [("its own replica", SqliteDurable(path, strand).sequence)]
            case PostgresReplicaSettings() as postgres:
                return [("its own replica", PostgresDurable(postgres.conninfo(), strand).sequence)]
    if config.state_path is None:
        return []
    requests = SqliteDurable(config.region.files.requests, strand, REQUESTS)
    return [
        ("its own ledger's state", SqliteDurable(config.state_path, strand).sequence),
        ("its own ledger's requests", requests.sequence),
    ]


# -- following another region -----------------------------------------------------------------------------------------
# Whom a replica region follows, and how what comes from there settles into order.


def upstream(config: Config, url: str | None, id_: str = "") -> Upstream | None:
    """The region at ``url``, or else the one that the configuration names, as a replica region follows it. ``id_`` is
    this region's own (``identity``)."""
    follow = config.follow or FollowSettings()
    url = url or follow.primary
    if url is None:
        return None
    token, ca, cluster = follow.token, follow.ca, config.cluster
    token_key, ca_key = "[follow] token", "[follow] ca ="
    if cluster is not None and token is None:
        token, token_key = cluster.token, "[cluster] token"
    if cluster is not None and ca is None:
        ca, ca_key = cluster.ca, "[cluster] ca ="
    return Upstream(
        url,
        config.region.name,
        token.reveal() if token else None,
        ca,
        follow.idle_timeout_seconds,
        token_key=token_key,
        ca_key=ca_key,
        id=id_,
    )


def settle_config(config: Config) -> SettleConfig:
    """How entries settle."""
    settle = config.settle
    window: int | AutoWindow
    if settle.window_seconds == "auto":
        window = AutoWindow(settle.window_miss, _us(settle.window_min_seconds), _us(settle.window_max_seconds))
    else:
        window = _us(settle.window_seconds)
    return SettleConfig(
        window_us=window,
        request_every_us=_us(settle.gap_repeat_seconds),
        expire_after_us=_us(settle.gap_expires_seconds),
        late=settle.late,
        remembered=settle.remembered,
        entries_limit=settle.max_entries,
        bytes_limit=settle.max_bytes,
        gaps_limit=settle.max_gaps,
        age_limit_us=_us(settle.max_age_seconds),
        resident_entries=settle.memory_entries,
        resident_bytes=settle.memory_bytes,
        straight=True,
    )


# -- the replica, and reading -----------------------------------------------------------------------------------------
# Where blocks are applied, and where every region reads what was written.


def replay_policy(config: Config) -> QuarantinePolicy:
    """What becomes of a statement that the replica refuses."""
    return QuarantinePolicy(config.replay.on_error == "quarantine", config.replay.quarantine_limit)


def replica(config: Config, recognise: Callable[[str, str], None] | None = None) -> Replica:
    """The writing side of the region's copy. ``recognise`` is asked before a database is written to (PostgreSQL)."""
    match config.replica:
        case SqliteReplicaSettings(path=path):
            return sqlite_replica.SqliteReplica(path)
        case PostgresReplicaSettings() as postgres:
            return postgres_replica.PostgresReplica(postgres.conninfo(), recognise)
        case None:
            raise AssertionError("a replica region has a replica")


def reader(
    config: Config,
    definitions: Callable[[], dict[int, Definition]],
    *,
    locking: bool = False,
    damage: FileDamage | None = None,
) -> Callable[[], Reader]:
    """Opens the reading side of the region's ledger: its replica, or the primary's own database. ``locking``: a
    moment's tables then stay as they are (PostgreSQL). ``damage`` is told of a file that is damaged (SQLite), and
    asked."""
    if config.region.role == "replica":
        match config.replica:
            case SqliteReplicaSettings(path=path):
                return lambda: sqlite_replica.SqliteReader(path, damage)
            case PostgresReplicaSettings() as postgres:
                return lambda: postgres_replica.PostgresReader(postgres.conninfo(), locking=locking)
    captured = captured_ledger(config)
    if captured is not None:
        return lambda: captured.open_reader(definitions(), locking=locking)
    state = config.state_path
    assert state is not None
    return lambda: sqlite_replica.SqliteReader(state, damage)


def derived_file(config: Config) -> Path | None:
    """The file of this region's tables, made from its journal; None if they are in a database."""
    if config.region.role == "replica":
        return config.replica.path if isinstance(config.replica, SqliteReplicaSettings) else None
    return config.state_path


def requests_kept_us(config: Config) -> int:
    """How long an embedded ledger remembers idempotency keys, µs."""
    return _us(config.source.idempotency_retention_seconds) if isinstance(config.source, EmbeddedSourceSettings) else 0


# -- verification -----------------------------------------------------------------------------------------------------
# What a replica is compared with, and how often.


def primary_endpoint(config: Config, url: str | None) -> Endpoint | None:
    """The primary that a replica region is compared with: the one at ``url``, or else the one that is configured."""
    primary = upstream(config, url)
    return None if primary is None else dataclasses.replace(primary.endpoint, name="primary")


def watch_plan(config: Config) -> WatchPlan:
    """How a replica is watched."""
    verify = config.verify
    cadence = Cadence(verify.checkpoint_seconds, verify.checkpoint_blocks, verify.share)
    scrub = ScrubPlan(verify.scrub_seconds, verify.scrub_rows)
    return WatchPlan(cadence if verify.checkpoints else None, scrub if verify.scrubs else None)


# -- failover ---------------------------------------------------------------------------------------------------------
# Who may be primary, by which rules that changes, and which tables are fenced meanwhile.


def lease(config: Config, strand: str) -> Lease:
    """The right to be primary of the strand. Without ``path`` a static one is by hand, in the region's directory."""
    match config.lease:
        case EtcdLeaseSettings() as etcd:
            return etcd_lease.EtcdLease(etcd_options(etcd), strand)
        case StaticLeaseSettings(path=path, ttl_seconds=ttl):
            own = config.region.files.lease
            return static_lease.StaticLease(path or own, strand, ttl if path else math.inf)
        case None:
            raise AssertionError("a region that takes part in failover has a lease")


def etcd_options(lease: EtcdLeaseSettings) -> etcd_lease.EtcdOptions:
    """How to reach the cluster that keeps the lease."""
    password = lease.password.reveal() if lease.password else None
    tls = (lease.ca, lease.certificate, lease.key)
    return etcd_lease.EtcdOptions(lease.endpoints, round(lease.ttl_seconds), lease.prefix, lease.user, password, *tls)


def rules(config: Config) -> FailoverRules:
    """How a region of a cluster behaves."""
    failover, cluster = config.failover, config.cluster
    assert cluster is not None
    # A static lease without a path of its own is a file that no other region sees: it says who leads, but keeps nobody
    # else from leading. The rules then ask for every region's promise, or a person's word that the primary is fenced.
    exclusive = not isinstance(config.lease, StaticLeaseSettings) or config.lease.path is not None
    return FailoverRules(
        me=config.region.name,
        regions=tuple(cluster.regions),
        mode=failover.mode,
        acknowledge=failover.acknowledge,
        exclusive=exclusive,
        suspect_seconds=failover.suspect_seconds,
        quiet_seconds=failover.quiet_seconds,
        stand_seconds=failover.stand_seconds,
        promise_seconds=failover.promise_seconds,
        verify_seconds=failover.verify_seconds,
        step_seconds=failover.step_seconds,
        max_lost_blocks=failover.max_lost_blocks,
        max_lost_amounts={table: float(limit) for table, limit in loss_budget(config).amounts.items()},
        rejoin=failover.rejoin,
    )


def loss_budget(config: Config) -> LossBudget:
    """What a promotion may lose."""
    limits = {amount.table: amount.limit for amount in config.failover.amounts if amount.limit is not None}
    return LossBudget(config.failover.max_lost_blocks, limits)


def fenced_tables(source: PostgresSourceSettings) -> list[tuple[str, str]] | None:
    """The tables that applications write to only in the primary region; None: all of the database."""
    if source.tables is None:
        return None
    return [
        (schema, name) if dot else ("public", schema) for schema, dot, name in (t.partition(".") for t in source.tables)
    ]


# -- HTTP -------------------------------------------------------------------------------------------------------------
# Where other regions, applications and operators reach this one.


def listen(config: Config) -> Listen:
    """Where the HTTP server listens."""
    http = config.http
    return Listen(
        http.listen.host, http.listen.port, http.certificate, http.key, http.token.reveal() if http.token else None
    )


# -- units ------------------------------------------------------------------------------------------------------------
# Durations as the parts count them.


def _us(seconds: float) -> int:
    """Microseconds, at least one: what is configured above zero must not be rounded to *never* or *at once*."""
    return max(1, round(seconds * MICROSECONDS))
