"""All that a region will need, looked at in the order in which ``run`` needs it.

Guarantee: nothing is created, changed or held: no file, no directory, no table, slot or publication. A sidecar that
runs meanwhile is not disturbed.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import trio

from replicator.config import (
    Config,
    EmbeddedSourceSettings,
    PostgresReplicaSettings,
    PostgresSourceSettings,
    SqliteReplicaSettings,
)
from replicator.config.finding import Finding, failed
from replicator.errors import Rejected, ReplicatorError
from replicator.format.position import genesis
from replicator.ledger.tables import check_declaration, definition_of
from replicator.ops.preflight.cluster import check_cluster
from replicator.ops.preflight.feed import check_feed
from replicator.ops.preflight.lease import check_lease
from replicator.ops.preflight.listener import check_listener
from replicator.ops.preflight.machine import check_data_dir, check_versions, is_running
from replicator.ops.preflight.stored_region import StoredRegion, read_stored
from replicator.pipeline.replicas.postgres import check as postgres_check
from replicator.pipeline.replicas.sqlite import check as sqlite_check
from replicator.pipeline.sources.postgres.preflight import check_noted
from replicator.runtime import wiring


def check_region(config: Config) -> list[Finding]:
    """Everything that ``run`` will need with this configuration. Blocks; not for within trio."""
    findings = [
        *check_versions(),
        *check_data_dir(config),
        *check_listener(wiring.listen(config), running=is_running(config.region.files), host=_host(config)),
    ]
    try:
        stored = read_stored(config)
        if stored.head.sequence:
            findings.append(Finding("ok", f"{config.region.files.journal} ends at sequence {stored.head.sequence:,}"))
    except ReplicatorError as error:
        findings.append(failed(error))
        stored = StoredRegion(genesis(config.region.strand))
    findings += [*_check_role(config, stored), *check_lease(config, stored.head)]
    return findings if config.cluster is None else [*findings, *check_cluster(config, config.cluster, stored)]


def _host(config: Config) -> str | None:
    """The name under which the other regions ask this one over TLS, if they do."""
    url = urllib.parse.urlsplit("" if config.cluster is None else config.cluster.regions.get(config.region.name, ""))
    return url.hostname if url.scheme == "https" else None


def _check_role(config: Config, stored: StoredRegion) -> Iterator[Finding]:
    captured = wiring.captured_ledger(config)
    if captured is not None:
        yield from captured.preflight()
        if isinstance(config.source, PostgresSourceSettings):
            yield from check_noted(wiring.postgres_options(config.source), dict(stored.notes))
    elif isinstance(config.source, EmbeddedSourceSettings):
        yield from _check_tables(config.source, stored)
        assert config.state_path is not None
        yield from _check_sqlite(config, config.state_path, stored)
    match config.replica:
        case PostgresReplicaSettings() as replica:
            yield from postgres_check.preflight(replica.conninfo(), stored.definitions)
        case SqliteReplicaSettings(path=path):
            yield from _check_sqlite(config, path, stored)
    followed = wiring.upstream(config, None)
    if followed is not None:
        yield from trio.run(check_feed, followed, stored.head)


def _check_sqlite(config: Config, path: Path, stored: StoredRegion) -> Iterator[Finding]:
    """The file of a SQLite database, unless its directory is one that the start makes: that was looked at already."""
    made = (config.region.data_dir, *config.region.data_dir.parents)
    if path.parent.exists() or path.parent not in made:
        yield from sqlite_check.preflight(path, stored.definitions)


def _check_tables(source: EmbeddedSourceSettings, stored: StoredRegion) -> Iterator[Finding]:
    """The declared tables are possible, and those that the ledger has already are as declared."""
    there = {definition.label.lower(): definition for definition in stored.definitions}
    for declaration in wiring.declarations(source):
        try:
            check_declaration(declaration)
        except Rejected as refusal:
            yield Finding("fail", f"[[source.tables]] {declaration.name}: {refusal.message}", "declare it otherwise")
            continue
        stored_definition = there.get(declaration.name.lower())
        if stored_definition is None:
            yield Finding("ok", f"table {declaration.name} can be made")
        elif stored_definition == definition_of(declaration):
            yield Finding("ok", f"table {declaration.name} is as declared")
        else:
            what = f"[[source.tables]] {declaration.name}: it is there with another key, user field or spelling"
            yield Finding("fail", what, "declare it as it is; for another key, declare another table")
