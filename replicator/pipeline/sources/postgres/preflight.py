"""Preflight: everything that the PostgreSQL source will need, looked at before it starts.

Guarantee: read-only transactions and no replication command that leaves something behind, so it changes nothing. Each
problem is named with its cure. What cannot be looked at is a finding too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from replicator.config.finding import Finding, failed
from replicator.errors import Halted, ReplicatorError
from replicator.format.evolution import RESYNC
from replicator.pipeline.sources.postgres.initial import SLOT_NOTE
from replicator.pipeline.sources.postgres.logged_tables import TRIGGER, is_kept
from replicator.pipeline.sources.postgres.open_transactions import holding_slot, open_transactions
from replicator.pipeline.sources.postgres.options import IGNORED_NAMESPACE, PostgresOptions
from replicator.pipeline.sources.postgres.publication import GENERATED_SINCE, check_publication, check_tables
from replicator.pipeline.sources.postgres.session import session
from replicator.pipeline.sources.postgres.slot import (
    FAILOVER_SINCE,
    PLUGIN,
    check_failover,
    check_identity,
    foreign_cure,
    identify,
    loss_of,
    read_slot,
)
from replicator.pipeline.sources.postgres.standby import check as check_standby
from replicator.postgres.catalog import TableFacts, read_tables, table_oid
from replicator.postgres.session import OLDEST_VERSION, Connection, place_of
from replicator.postgres.settings import READ_ONLY


def preflight(options: PostgresOptions) -> list[Finding]:
    """Look at the server, the role and the tables; blocks. Raises nothing of the world's: that is a finding."""
    findings: list[Finding] = []
    try:
        with session(options, READ_ONLY) as connection:
            findings.append(Finding("ok", f"{place_of(options.dsn)} is reachable"))
            for check in _CHECKS:
                findings += check(connection, options)
    except ReplicatorError as error:
        findings.append(failed(error))
        return findings
    try:
        with session(options, replication=True) as replication:
            identify(replication)
        findings.append(Finding("ok", "the role may replicate"))
    except ReplicatorError as error:
        findings.append(failed(error))
    return findings


def check_noted(options: PostgresOptions, notes: dict[str, str]) -> Iterator[Finding]:
    """Whether the server is the one that the journal was made from, and the slot one that it created. Blocks."""
    try:
        with session(options, READ_ONLY) as connection:
            slot = read_slot(connection, options.slot)
            if slot is not None and notes.get(SLOT_NOTE) != options.slot:
                what = f"slot {options.slot} exists, and this region's journal did not create it: it may be another's"
                yield Finding("fail", what, foreign_cure(slot, options.slot))
        with session(options, replication=True) as replication:
            check_identity(identify(replication), notes)
    except Halted as error:
        if error.reason == "other_database":
            yield failed(error)
    except ReplicatorError:
        return  # which is told with the rest


def _one(connection: Connection, query: str, *values: Any) -> Any:
    row = connection.execute(query.encode(), values).fetchone()
    assert row is not None
    return row if len(row) > 1 else row[0]


def _server(connection: Connection, options: PostgresOptions) -> Iterator[Finding]:
    version = connection.info.server_version
    if version < OLDEST_VERSION:
        yield Finding("fail", f"the server has version {version // 10000}", "use PostgreSQL 14 or newer")
    else:
        yield Finding("ok", f"the server has version {version // 10000}")
    level = _one(connection, "SELECT current_setting('wal_level')")
    if level == "logical":
        yield Finding("ok", "wal_level is logical")
    else:
        yield Finding("fail", f"wal_level is {level}", "ALTER SYSTEM SET wal_level = logical; then restart the server")
    if options.failover:
        try:
            check_failover(connection)
        except ReplicatorError as error:
            yield failed(error)
    if _one(connection, "SELECT pg_is_in_recovery()"):
        yield Finding("fail", "the server is a standby", "connect to the primary")
    limit = _one(connection, "SELECT current_setting('max_slot_wal_keep_size')")
    if limit == "-1":
        yield Finding(
            "warn",
            "max_slot_wal_keep_size is unlimited: while this sidecar is down, the server's disk can fill up",
            "set max_slot_wal_keep_size to what the disk can spare; a slot beyond it is lost and needs a new copy",
        )
    else:
        yield Finding("ok", f"max_slot_wal_keep_size is {limit}: a slot that falls behind further is lost")


def _timeouts(connection: Connection, options: PostgresOptions) -> Iterator[Finding]:
    """A slot that nobody reads for a while is lost, where the server is set to that."""
    limit = _one(connection, "SELECT coalesce(current_setting('idle_replication_slot_timeout', true), '0')")
    if limit not in ("0", "0s"):
        yield Finding(
            "warn",
            f"idle_replication_slot_timeout is {limit}: while this sidecar is down for longer, its slot is lost",
            "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf()",
        )


def _contents(connection: Connection, options: PostgresOptions) -> Iterator[Finding]:
    """What the database has that is not carried, or not as it is."""
    if _one(connection, "SELECT current_setting('server_encoding')") == "SQL_ASCII":
        yield Finding(
            "warn",
            "the database's encoding is SQL_ASCII: a text that is not UTF-8 halts the source",
            "load it into a database with ENCODING 'UTF8'",
        )
    if _one(connection, "SELECT count(*) FROM pg_largeobject_metadata"):
        yield Finding(
            "warn", "the database has large objects, which are not carried", "keep such contents in a bytea column"
        )


def _room(connection: Connection, options: PostgresOptions) -> Iterator[Finding]:
    slot = read_slot(connection, options.slot)
    if slot is None:
        slots, used = _one(
            connection,
            "SELECT current_setting('max_replication_slots')::int, (SELECT count(*) FROM pg_replication_slots)",
        )
        if used >= slots:
            yield Finding(
                "fail", f"all {slots} replication slots are in use", "raise max_replication_slots, or drop one"
            )
        else:
            yield Finding("ok", f"{slots - used} of {slots} replication slots are free")
    elif slot.plugin != PLUGIN:
        yield Finding("fail", f"slot {options.slot} belongs to something else", "name another slot")
    elif slot.database != (database := _one(connection, "SELECT current_database()")):
        what = f"slot {options.slot} is of database {slot.database}, not of {database}"
        yield Finding("fail", what, "name another [source] slot: another sidecar may read this one")
    elif loss := loss_of(slot):
        yield Finding("fail", f"slot {options.slot} is lost: {loss[0]}", f"{RESYNC}; {loss[1]}")
    elif options.failover and not slot.failover and connection.info.server_version >= FAILOVER_SINCE:
        cure = (
            f"with the sidecar stopped, in a replication session: ALTER_REPLICATION_SLOT {options.slot} (FAILOVER true)"
        )
        yield Finding("warn", f"slot {options.slot} is not kept by physical standbys", cure)
    else:
        yield Finding("ok", f"slot {options.slot} exists{', and is in use' if slot.active else ''}")
    senders, sending = _one(
        connection,
        "SELECT current_setting('max_wal_senders')::int, (SELECT count(*) FROM pg_stat_activity"
        " WHERE backend_type = 'walsender')",
    )
    if sending >= senders:
        yield Finding("fail", f"all {senders} WAL senders are in use", "raise max_wal_senders and restart the server")
    else:
        yield Finding("ok", f"{senders - sending} of {senders} WAL senders are free")


def _transactions(connection: Connection, options: PostgresOptions) -> Iterator[Finding]:
    """Who holds the slot up: a new one waits for every transaction, one that is there keeps log for old ones."""
    slot = read_slot(connection, options.slot)
    is_new = slot is None or not slot.confirmed  # one that is being made has no place yet
    oldest = next(iter(open_transactions(connection)), None) if is_new else holding_slot(connection)
    if oldest is not None:
        what = "the first copy" if is_new else "the log that the server keeps for us"
        yield Finding("warn", f"{what} is held up by {oldest}", oldest.end)


def _logged(connection: Connection, options: PostgresOptions) -> Iterator[Finding]:
    """Whether a table can become unlogged, and logged again, without being seen."""
    is_super = _one(connection, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
    exists = _one(connection, "SELECT count(*) FROM pg_event_trigger WHERE evtname = %s", TRIGGER)
    if is_kept(connection, options) or (is_super and not exists):
        yield Finding("ok", "the tables that are followed stay logged")
    elif exists:
        what = f"event trigger {TRIGGER} is switched off: that a table does not stay logged may go unseen"
        yield Finding("warn", what, f"ALTER EVENT TRIGGER {TRIGGER} ENABLE ALWAYS")
    else:
        what = "the role may not create an event trigger: that a table does not stay logged may go unseen"
        yield Finding("warn", what, "list the tables in the configuration, or make the role a superuser")


def _role(connection: Connection, options: PostgresOptions) -> Iterator[Finding]:
    superuser, replicates, creates = _one(
        connection,
        "SELECT rolsuper, rolreplication, has_database_privilege(current_database(), 'CREATE') FROM pg_roles"
        " WHERE rolname = current_user",
    )
    if not (superuser or replicates):
        yield Finding("fail", "the role may not replicate", "ALTER ROLE … REPLICATION")
    exists = _one(connection, "SELECT count(*) FROM pg_publication WHERE pubname = %s", options.publication)
    if exists:
        try:
            check_publication(connection, options, starting=True)
            yield Finding("ok", f"publication {options.publication} publishes what is configured")
        except ReplicatorError as error:
            yield failed(error)
    elif superuser or (creates and options.tables is not None):
        yield Finding("ok", f"the role may create publication {options.publication}")
    elif options.tables is None:
        yield Finding(
            "fail",
            "only a superuser can publish all tables",
            "list the tables, or let a superuser create the publication",
        )
    else:
        yield Finding("fail", "the role may not create a publication", "GRANT CREATE ON DATABASE … TO the role")


def _oids(connection: Connection, options: PostgresOptions) -> list[int]:
    """The configured tables that exist, or all that a publication of all tables would have."""
    names = options.table_names
    if names is not None:
        return [oid for name in names if (oid := table_oid(connection, name)) is not None]
    rows = connection.execute(
        "SELECT c.oid::int8 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'"
        " AND n.nspname NOT IN ('pg_catalog', 'information_schema', %s) ORDER BY n.nspname, c.relname",
        (IGNORED_NAMESPACE,),
    )
    return [row[0] for row in rows]


def _tables(connection: Connection, options: PostgresOptions) -> Iterator[Finding]:
    try:
        check_tables(connection, options)
    except ReplicatorError as error:
        yield failed(error)
    tables = read_tables(connection, _oids(connection, options))
    if not tables:
        yield Finding("warn", "there is no table to follow", "create tables, or check the configuration")
    for table in tables:
        yield from _table(connection, table, options)
    if any(table.kind == "p" for table in tables):
        yield Finding(
            "warn",
            "TRUNCATE, DROP, ATTACH and DETACH of a single partition are not in PostgreSQL's change stream",
            "use DELETE for a partition's rows",
        )


def _sequences(connection: Connection, options: PostgresOptions) -> Iterator[Finding]:
    rows = connection.execute(
        "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind = 'S' AND n.nspname IN (SELECT p.nspname FROM pg_class t JOIN pg_namespace p"
        " ON p.oid = t.relnamespace WHERE t.oid = ANY(%s::oid[]))"
        " AND CASE c.relkind WHEN 'S' THEN NOT has_sequence_privilege(c.oid, 'SELECT, USAGE') END ORDER BY 1",
        (_oids(connection, options),),
    )
    for (label,) in rows:
        yield Finding("fail", f"sequence {label}: the role may not read it", f"GRANT SELECT ON SEQUENCE {label}")


def _table(connection: Connection, table: TableFacts, options: PostgresOptions) -> Iterator[Finding]:
    label = ".".join(table.name)
    owner, select = _one(
        connection, "SELECT pg_has_role(relowner, 'USAGE'), has_table_privilege(oid, 'SELECT') FROM pg_class"
        " WHERE oid = %s", table.oid
    )  # fmt: skip
    published = _one(connection, "SELECT count(*) FROM pg_publication WHERE pubname = %s", options.publication)
    if not select:
        yield Finding("fail", f"table {label}: the role may not read it", f"GRANT SELECT ON {label}")
    if not owner and not published:
        yield Finding("fail", f"table {label}: only its owner can publish it", "let its owner create the publication")
    yield _key_finding(table, label)
    named, explicit = options.user_column_of(table.name)
    if explicit and named not in {a.name for a in table.attributes if not a.dropped}:
        yield Finding("fail", f"table {label}: there is no column {named}", "correct its user column")
    for attribute in table.attributes:
        if attribute.type in ("xml", "xml[]"):
            yield Finding(
                "warn",
                f"table {label}: column {attribute.name} is xml, which PostgreSQL prints without its declaration and"
                " without a newline at its beginning: so it is carried and compared",
                "use text where each byte counts",
            )
        stored = attribute.generated == "s" and connection.info.server_version >= GENERATED_SINCE
        if attribute.generated and not attribute.dropped and not stored:
            yield Finding(
                "warn",
                f"table {label}: generated column {attribute.name} is not carried",
                "nothing, if replicas can do without; a stored one is carried from PostgreSQL 18 on",
            )


def _key_finding(table: TableFacts, label: str) -> Finding:
    cure = (
        "nothing while rows are only inserted; otherwise add a primary key, or NOT NULL and a unique index and"
        f" ALTER TABLE {label} REPLICA IDENTITY USING INDEX that index; not REPLICA IDENTITY FULL: PostgreSQL"
        " then takes updates and deletes, and they halt all regions"
    )
    if table.identity == "i" and table.identity_key:
        return Finding("ok", f"table {label}: keyed on {', '.join(table.identity_key)} (REPLICA IDENTITY USING INDEX)")
    if table.identity == "f":
        if table.key:
            return Finding("ok", f"table {label}: keyed on {', '.join(table.key)} (REPLICA IDENTITY FULL)")
        what = f"table {label}: no key, append-only, and REPLICA IDENTITY FULL: an update or delete halts all regions"
        return Finding("warn", what, cure)
    if table.identity == "n" and table.key:
        cure = f"ALTER TABLE {label} REPLICA IDENTITY DEFAULT"
        return Finding("warn", f"table {label}: REPLICA IDENTITY NOTHING: its updates and deletes will fail", cure)
    if table.key and not table.key_deferrable:
        return Finding("ok", f"table {label}: keyed on {', '.join(table.key)}")
    why = "its primary key is deferrable" if table.key else "no primary key"
    return Finding(
        "warn",
        f"table {label}: {why}, append-only; once published, PostgreSQL refuses updates and deletes of it",
        cure,
    )


_CHECKS: tuple[Callable[[Connection, PostgresOptions], Iterator[Finding]], ...] = (
    _server,
    _timeouts,
    _room,
    _transactions,
    _logged,
    _role,
    _tables,
    _contents,
    _sequences,
    check_standby,
)
