"""What must hold between the keys of a configuration. Pure, but for asking whether a named file is there."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from psycopg import conninfo

from replicator.config.locate import Path as KeyPath
from replicator.config.models import (
    ClusterSettings,
    Config,
    EmbeddedSourceSettings,
    EtcdLeaseSettings,
    FailoverSettings,
    FollowSettings,
    HttpSettings,
    JournalSettings,
    LeaseTimesSettings,
    PostgresReplicaSettings,
    PostgresSourceSettings,
    SettleSettings,
    SqliteReplicaSettings,
    StaticLeaseSettings,
)
from replicator.config.units import Secret

RESERVED_FIELDS = {"document", "version"}


class Problem(NamedTuple):
    """What is wrong at a key, and what cures it."""

    path: KeyPath
    message: str
    cure: str


def problems(config: Config) -> Iterator[Problem]:
    """Everything that does not fit together."""
    if config.cluster is None:
        yield from _role(config)
    else:
        yield from _cluster(config, config.cluster)
    yield from _http(config.http)
    if config.follow is not None:
        yield from _follow(config.follow)
    yield from _settle(config.settle)
    yield from _journal(config.journal)
    if isinstance(config.source, EmbeddedSourceSettings):
        yield from _embedded(config.source)
    if isinstance(config.source, PostgresSourceSettings):
        yield from _postgres(config.source)
    yield from _failover(config.failover)
    yield from _own_files(config)
    match config.lease:
        case EtcdLeaseSettings() as lease:
            yield from _etcd(lease)
            yield from _times(lease)
        case StaticLeaseSettings(path=path) as lease if path is not None:
            yield from _times(lease)
            if path in (config.region.files.journal, config.region.files.spool, config.state_path):
                yield Problem(("lease", "path"), "this file is the sidecar's own", "name another file")


def _cluster(config: Config, cluster: ClusterSettings) -> Iterator[Problem]:
    """A region of a cluster has one ledger for both roles, named once, or twice alike."""
    yield from _file_is_there(("cluster", "ca"), cluster.ca)
    yield from _token_fits(("cluster", "token"), cluster.token)
    if config.region.name not in cluster.regions:
        cure = "add this region's own name, with the address at which the others reach it"
        yield Problem(("cluster", "regions"), f"{config.region.name!r} is not among the regions", cure)
    if config.source is None and config.replica is None:
        yield Problem(("region", "role"), "a region has a [source] or a [replica]", "add the one that fits its role")
    if config.source is not None and config.replica is not None and not _same_ledger(config):
        message = "[source] and [replica] name different ledgers: a region of a cluster keeps one, whatever its role"
        yield Problem(("replica",), message, "remove one of the two sections, or let both name the same database")
    if config.lease is None:
        cure = 'add a [lease] section; kind = "etcd", or "static" for one machine'
        yield Problem(("cluster",), "regions that may take over need a lease", cure)
    if config.follow is not None and config.follow.primary is not None:
        yield Problem(("follow", "primary"), "in a cluster the primary is who holds the lease", "remove it")
    yield from _peers(config, cluster)
    yield from _taking_over(config, cluster)


def _peers(config: Config, cluster: ClusterSettings) -> Iterator[Problem]:
    """How the regions reach each other: with one token, which each of them asks for."""
    if cluster.ca is not None and any(url.startswith("http:") for url in cluster.regions.values()):
        yield Problem(("cluster", "ca"), "ca is for https addresses", "use https in regions, or remove ca")
    if len(set(cluster.regions.values())) != len(cluster.regions):
        yield Problem(("cluster", "regions"), "two regions have one address", "give each region its own")
    asked, given = config.http.token, cluster.token
    if asked is not None and (given is None or given.reveal() != asked.reveal()):
        message = "the regions give each other one token, and this region's [http] token is another"
        yield Problem(("cluster", "token"), message, "set [http] token and [cluster] token alike, in every region")


def _taking_over(config: Config, cluster: ClusterSettings) -> Iterator[Problem]:
    """Times and numbers that must fit to each other before a region can take over from another."""
    failover, lease, others = config.failover, config.lease, len(cluster.regions) - 1
    if failover.acknowledge > others:
        message = f"writers would wait for {failover.acknowledge} other regions for ever: there are {others}"
        yield Problem(("failover", "acknowledge"), message, f"set it to {others} at most, or add regions")
    if failover.mode == "automatic" and isinstance(lease, StaticLeaseSettings) and lease.path is None:
        message = "without a shared lease nothing keeps two regions from leading at once"
        cure = 'use [lease] kind = "etcd", or path on one machine; else mode = "manual"'
        yield Problem(("failover", "mode"), message, cure)
    has_end = isinstance(lease, EtcdLeaseSettings) or (
        isinstance(lease, StaticLeaseSettings) and lease.path is not None
    )
    if lease is not None and has_end and failover.suspect_seconds > lease.ttl_seconds:
        message = f"a primary would count as heard for longer than its lease of {lease.ttl_seconds:g} s lasts"
        yield Problem(("failover", "suspect"), message, "set it to [lease] ttl at most")
    degrades = failover.acknowledge and failover.missing == "degrade"
    if lease is not None and has_end and degrades and failover.degrade_after_seconds < lease.ttl_seconds:
        message = "a primary that is cut off would answer without other regions before it knows that it lost the lease"
        yield Problem(("failover", "degrade_after"), message, "set it to [lease] ttl at least")
    if failover.verify_seconds >= failover.switchover_seconds:
        message = "a switchover would be called off while its last blocks are still being verified"
        yield Problem(("failover", "switchover"), message, "set it above verify")
    if failover.promise_seconds > failover.step_seconds:
        message = "a promotion would be given up while it still waits for those who do not answer"
        yield Problem(("failover", "step"), message, "set it above promise")


def _same_ledger(config: Config) -> bool:
    match config.source, config.replica:
        case EmbeddedSourceSettings(), SqliteReplicaSettings(path=path):
            return config.state_path == path
        case PostgresSourceSettings() as source, PostgresReplicaSettings() as replica:
            fields = [conninfo.conninfo_to_dict(settings.conninfo()) for settings in (source, replica)]
            return all(fields[0].get(key) == fields[1].get(key) for key in ("host", "hostaddr", "port", "dbname"))
        case _:
            return False


def _role(config: Config) -> Iterator[Problem]:
    role = ("region", "role")
    if config.region.role == "primary":
        if config.source is None:
            yield Problem(role, "a primary has a [source]", "add one, or set role to replica")
        if config.follow is not None:
            yield Problem(("follow",), "a primary follows nobody", "remove [follow], or set role to replica")
        if config.replica is not None:
            yield Problem(("replica",), "a primary's ledger is its [source]", "remove [replica]")
        return
    if config.follow is None or config.follow.primary is None:
        yield Problem(role, "a replica needs a [follow] section", "add it, with the primary's address")
    if config.replica is None:
        yield Problem(role, "a replica needs a [replica] section", 'add it, with kind = "sqlite" or "postgres"')
    if config.source is not None:
        yield Problem(("source",), "a replica has no [source]", "remove it, or set role to primary")


def _http(http: HttpSettings) -> Iterator[Problem]:
    if (http.certificate is None) != (http.key is None):
        name, missing = ("certificate", "key") if http.key is None else ("key", "certificate")
        yield Problem(("http", name), f"{name} is set and {missing} is not", f"set {missing}, or remove {name}")
    yield from _file_is_there(("http", "certificate"), http.certificate)
    yield from _file_is_there(("http", "key"), http.key)
    yield from _token_fits(("http", "token"), http.token)
    if not http.public_status and http.token is None:
        yield Problem(("http", "public_status"), "nobody could see the status without a token", "set [http] token")


def _follow(follow: FollowSettings) -> Iterator[Problem]:
    yield from _file_is_there(("follow", "ca"), follow.ca)
    yield from _token_fits(("follow", "token"), follow.token)
    if follow.ca is not None and (follow.primary or "").startswith("http:"):
        yield Problem(("follow", "ca"), "ca is for an https address", "use https in primary, or remove ca")
    if follow.reconnect_min_seconds > follow.reconnect_max_seconds:
        yield Problem(("follow", "reconnect_min"), "reconnect_min is above reconnect_max", "set it lower")


def _settle(settle: SettleSettings) -> Iterator[Problem]:
    if settle.window_min_seconds > settle.window_max_seconds:
        yield Problem(("settle", "window_min"), "window_min is above window_max", "set it lower")


def _journal(journal: JournalSettings) -> Iterator[Problem]:
    if journal.budget_bytes is not None and journal.budget_bytes < (journal.keep_bytes or 0):
        cure = "let the budget be above what is kept anyway"
        yield Problem(("journal", "budget_bytes"), "budget_bytes is below keep_bytes", cure)


def _failover(failover: FailoverSettings) -> Iterator[Problem]:
    tables: set[str] = set()
    for number, amount in enumerate(failover.amounts):
        place = ("failover", "amounts", number)
        if amount.table in tables:
            yield Problem((*place, "table"), f"the table {amount.table!r} has an amount already", "remove one of them")
        tables.add(amount.table)
        if amount.currency and amount.currency_column is not None:
            yield Problem((*place, "currency"), "currency and currency_column are both set", "remove one of them")


def _embedded(source: EmbeddedSourceSettings) -> Iterator[Problem]:
    names: set[str] = set()
    for number, table in enumerate(source.tables):
        place = ("source", "tables", number)
        if table.name in names:
            yield Problem((*place, "name"), f"the table {table.name!r} is declared twice", "remove one of them")
        names.add(table.name)
        if len(set(table.key)) != len(table.key):
            yield Problem((*place, "key"), "a field is named twice in the key", "name each field once")
        if len(table.key_type) not in (1, len(table.key)):
            cure = "give one type for all fields of the key, or one for each"
            yield Problem((*place, "key_type"), "key_type and key differ in number", cure)
        if reserved := RESERVED_FIELDS & {*table.key, table.user}:
            message = f"{min(map(str, reserved))!r} is a column of every table of the embedded ledger"
            yield Problem((*place, "key"), message, "use another field as key or user")


def _postgres(source: PostgresSourceSettings) -> Iterator[Problem]:
    if source.tables is None:
        return
    for name in source.user_columns:
        if name not in source.tables:
            near = difflib.get_close_matches(name, source.tables, 1)
            cure = f"did you mean {near[0]!r}?" if near else "add it to tables, or remove it here"
            yield Problem(("source", "user_columns", name), f"the table {name!r} is not among tables", cure)


def _own_files(config: Config) -> Iterator[Problem]:
    own = {config.region.files.journal, config.region.files.spool}
    cure = "choose a file of its own"
    if isinstance(config.replica, SqliteReplicaSettings) and config.replica.path in own:
        yield Problem(("replica", "path"), "this file is the sidecar's own", cure)
    if config.state_path in own:
        yield Problem(("source", "state"), "this file is the sidecar's own", cure)


def _times(lease: LeaseTimesSettings) -> Iterator[Problem]:
    """Half of a lease is left for working: a holder that has to stop sooner than it can renew never works."""
    usable = lease.ttl_seconds * (1 - lease.clock_error) - lease.margin_seconds
    if usable < lease.ttl_seconds / 2:
        message = f"of {lease.ttl_seconds:g} s only {max(usable, 0):.3g} s would be left behind clock_error and margin"
        yield Problem(("lease", "ttl"), message, "set ttl higher, or margin lower: at least half must be left")


def _etcd(lease: EtcdLeaseSettings) -> Iterator[Problem]:
    if lease.ttl_seconds != round(lease.ttl_seconds):
        yield Problem(("lease", "ttl"), "etcd counts in whole seconds", f'set it to "{round(lease.ttl_seconds) or 1}s"')
    if len(set(lease.endpoints)) != len(lease.endpoints):
        yield Problem(("lease", "endpoints"), "an endpoint is named twice", "name each once")
    for name, needed in (("user", "password"), ("password", "user"), ("certificate", "key"), ("key", "certificate")):
        if getattr(lease, name) is not None and getattr(lease, needed) is None:
            yield Problem(("lease", name), f"{name} is set and {needed} is not", f"set {needed}, or remove {name}")
    for name in ("ca", "certificate", "key"):
        file = getattr(lease, name)
        yield from _file_is_there(("lease", name), file)
        if file is not None and any(endpoint.startswith("http:") for endpoint in lease.endpoints):
            yield Problem(("lease", name), f"{name} is for https endpoints", f"use https, or remove {name}")


def _file_is_there(path: KeyPath, file: Path | None) -> Iterator[Problem]:
    if file is not None and not file.is_file():
        yield Problem(path, f"there is no file {file}", "create it, or correct the path")


def _token_fits(path: KeyPath, token: Secret | None) -> Iterator[Problem]:
    if token is not None and not all("!" <= character <= "~" for character in token.reveal()):
        yield Problem(path, "a token is printable ASCII without spaces", "make another token")
