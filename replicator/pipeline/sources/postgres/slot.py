"""The replication slot: created with an exported snapshot, checked before every start, dropped only if it is ours.

Guarantee: streaming starts only at a slot that still holds everything behind our position. A slot that is gone, lost,
ahead of us, of another kind or of another database halts with that reason.
"""

from __future__ import annotations

from typing import NamedTuple

import psycopg

from replicator.errors import Halted, Unavailable
from replicator.format.evolution import RESYNC
from replicator.pipeline.sources.postgres.open_transactions import open_transactions, waits_for
from replicator.pipeline.sources.postgres.options import PostgresOptions
from replicator.postgres.errors import LOGICAL, STANDBY
from replicator.postgres.lsn import lsn_text, parse_lsn
from replicator.postgres.quoting import literal
from replicator.postgres.session import Connection

PLUGIN = "pgoutput"
FAILOVER_SINCE = 170000  # slots tell why they were invalidated, and can be kept by physical standbys
PARENTHESES_SINCE = 150000  # options of CREATE_REPLICATION_SLOT are written in parentheses


def new_copy(options: PostgresOptions) -> str:
    """What a person does where nothing but a new copy of everything helps."""
    # A new slot waits for the commits that are open, and those would wait for it.
    let_go = "ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf(); " if options.synchronous else ""
    return (
        "stop the sidecar and move its data directory away; in the database:"
        f" {let_go}SELECT pg_drop_replication_slot({literal(options.slot)}); then start the sidecar, which copies"
        " everything anew, and make each other region anew: replicator bootstrap CONFIG --replace; in a cluster"
        " instead: stop the sidecar, and once another region leads make this one anew: replicator bootstrap CONFIG"
        " --replace, which tells of rows that only this region may have"
    )


class Identity(NamedTuple):
    """Which server and database this is, as the server says."""

    system: str
    timeline: int
    database: str


class Slot(NamedTuple):
    """A slot as pg_replication_slots shows it; LSNs as numbers."""

    plugin: str | None
    database: str | None
    active: bool
    wal_status: str | None
    confirmed: int
    retained_bytes: int | None
    safe_bytes: int | None
    invalid: str | None = None  # why it was invalidated, from PostgreSQL 17 on; else empty
    failover: bool = False  # whether physical standbys keep it, from PostgreSQL 17 on


# Why a server invalidates a slot (``invalidation_reason``), and what keeps the next one from it.
_LOSSES = {
    "": ("the server removed log that was still needed", "raise max_slot_wal_keep_size"),
    "wal_removed": ("the server removed log that was still needed", "raise max_slot_wal_keep_size"),
    "idle_timeout": (
        "nobody read it for longer than idle_replication_slot_timeout",
        "set idle_replication_slot_timeout to 0, or to longer than this sidecar may be down",
    ),
    "rows_removed": ("the server removed rows of its catalogs that reading needs", "read it on a primary only"),
    "wal_level_insufficient": ("wal_level was too low for it", "leave wal_level at logical"),
}


def loss_of(slot: Slot) -> tuple[str, str] | None:
    """Why the slot cannot be read any more, and what keeps the next one from it; None if it can."""
    if slot.wal_status != "lost" and not slot.invalid:
        return None
    message, cure = _LOSSES.get(slot.invalid or "", (f"the server invalidated it: {slot.invalid}", _LOSSES[""][1]))
    return message, cure


def identify(replication: Connection) -> Identity:
    """IDENTIFY_SYSTEM on a replication connection."""
    row = replication.execute("IDENTIFY_SYSTEM").fetchone()
    assert row is not None
    return Identity(str(row[0]), int(row[1]), str(row[3]))


def check_server(connection: Connection) -> None:
    """Raise Unavailable while the server cannot be a primary's: it is a standby, recovers, or keeps too little log."""
    row = connection.execute("SELECT pg_is_in_recovery(), current_setting('wal_level')").fetchone()
    assert row is not None
    recovering, level = str(row[0]) in ("t", "True"), str(row[1])
    place = f"PostgreSQL {connection.info.host}:{connection.info.port}"
    if recovering:
        message = "recovery is in progress: the server is a standby, or is being restored"
        raise Unavailable("server_in_recovery", message, place=place, cure=STANDBY)
    if level != "logical":
        raise Unavailable("wal_level", f"wal_level is {level}", place=place, cure=LOGICAL)


def read_slot(connection: Connection, name: str) -> Slot | None:
    """The slot; None if there is none of that name."""
    more = "invalidation_reason, failover" if connection.info.server_version >= FAILOVER_SINCE else "NULL, false"
    row = connection.execute(
        "SELECT plugin, database, active, wal_status, confirmed_flush_lsn::text,"
        f" pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::int8, safe_wal_size, {more}"
        " FROM pg_replication_slots WHERE slot_name = %s".encode(),
        (name,),
    ).fetchone()
    if row is None:
        return None
    confirmed = parse_lsn(row[4]) if row[4] else 0
    return Slot(row[0], row[1], row[2], row[3], confirmed, row[5], row[6], row[7], row[8])


def written_lsn(connection: Connection) -> int:
    """The place up to which the server's log is written."""
    row = connection.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
    assert row is not None
    return parse_lsn(row[0])


def create_slot(
    replication: Connection, name: str, *, failover: bool = False, temporary: bool = False
) -> tuple[int, str]:
    """Create the slot; gives its consistent point and the name of the snapshot of exactly that point.

    The snapshot can be taken over by another connection until this one does something else. Waits for transactions
    that are open. Raises Unavailable, naming the oldest, if that takes longer than the session's settings allow.
    ``failover``: physical standbys keep it, too, so that it outlives a failover to one of them. ``temporary``: it goes
    with its session.
    """
    command = 'CREATE_REPLICATION_SLOT "{}" {}LOGICAL pgoutput {}'
    parentheses = replication.info.server_version >= PARENTHESES_SINCE
    how = "(SNAPSHOT 'export')" if parentheses else "EXPORT_SNAPSHOT"
    if failover:
        check_failover(replication)
        how = "(SNAPSHOT 'export', FAILOVER true)"
    try:
        row = replication.execute(command.format(name, "TEMPORARY " if temporary else "", how).encode()).fetchone()
    except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled) as error:
        held_by = open_transactions(replication)
        if held_by:
            raise waits_for(held_by[0], name) from error
        raise
    assert row is not None
    return parse_lsn(row[1]), str(row[2])


def check_failover(connection: Connection) -> None:
    """Raise Halted if the server's standbys cannot keep slots."""
    if connection.info.server_version < FAILOVER_SINCE:
        raise Halted(
            "no_failover_slots",
            f"the server has version {connection.info.server_version // 10000}: its standbys keep no slots",
            place="[source] slot_failover",
            cure="take slot_failover out of the configuration, or use PostgreSQL 17 or newer",
        )


def drop_own_slot(connection: Connection, name: str, *, ours: bool) -> None:
    """Drop the slot of a copy that did not come to its end; nothing if there is none.

    Raises Halted if it is not ours, Unavailable while it is in use.
    """
    slot = read_slot(connection, name)
    if slot is None:
        return
    if not ours:
        raise Halted(
            "slot_foreign",
            "the slot exists and this journal did not create it",
            place=f"slot {name}",
            cure=foreign_cure(slot, name),
        )
    if slot.active:
        raise _active(name)
    connection.execute("SELECT pg_drop_replication_slot(%s)", [name])


def check_resume(slot: Slot | None, name: str, position: int, written: int, identity: Identity) -> int:
    """Raise Halted or Unavailable unless reading can go on at ``position``; gives where the slot stands. Pure."""
    place = f"slot {name}"
    if slot is None:
        raise Halted("slot_missing", "the slot does not exist any more", place=place, cure=RESYNC)
    if slot.plugin != PLUGIN:
        message = f"the slot is now one of {slot.plugin or 'physical replication'}"
        raise Halted(
            "slot_foreign", message, place=place, cure=f"name another slot in the configuration, then {RESYNC}"
        )
    if slot.database != identity.database:
        raise Halted("other_database", f"the slot belongs to {slot.database}", place=place, cure="correct the dsn")
    loss = loss_of(slot)
    if loss is not None:
        raise Halted("slot_lost", loss[0], place=place, cure=f"{RESYNC}; {loss[1]}")
    if slot.confirmed > position:
        message = f"the slot stands at {lsn_text(slot.confirmed)}, ahead of the journal's {lsn_text(position)}"
        raise Halted("slot_ahead", message, place=place, cure=RESYNC)
    if written < position:
        message = (
            f"its log ends at {lsn_text(written)}, before the journal's {lsn_text(position)}: it lost transactions"
        )
        raise Halted("server_behind", message, place=f"database {identity.database}", cure=RESYNC)
    if slot.active:
        raise _active(name)
    return slot.confirmed


def foreign_cure(slot: Slot, name: str) -> str:
    """Names first what harms nobody: the slot may be another sidecar's, of this database or of another one."""
    drop = f"only if nobody reads it any more: SELECT pg_drop_replication_slot('{name}')"
    return (
        f"name another [source] slot in the configuration: this one is of database {slot.database or '(none)'}; {drop}"
    )


def _active(name: str) -> Unavailable:
    return Unavailable(
        "slot_active", "another process reads the slot", place=f"slot {name}", cure="stop the other sidecar, or wait"
    )


def read_forks(replication: Connection, timeline: int) -> dict[int, int]:
    """Where each older timeline was left on the way to this one. Timeline 1 has no history."""
    if timeline == 1:
        return {}
    row = replication.execute(f"TIMELINE_HISTORY {timeline}".encode()).fetchone()
    assert row is not None
    content = row[1] if isinstance(row[1], bytes) else str(row[1]).encode()
    return parse_forks(content.decode(errors="replace"))


def parse_forks(history: str) -> dict[int, int]:
    """Read a timeline history file: lines of timeline, place where it was left, reason."""
    forks = {}
    for line in history.splitlines():
        fields = line.split("\t")
        if len(fields) >= 2 and fields[0].strip().isdecimal():
            forks[int(fields[0])] = parse_lsn(fields[1].strip())
    return forks


def check_timeline(forks: dict[int, int], noted: str | None, position: int) -> None:
    """Raise Halted if the server left our timeline before our position: it never had what we hold. Pure."""
    fork = forks.get(int(noted)) if noted and noted.isdecimal() else None
    if fork is not None and fork < position:
        raise Halted(
            "timeline_forked",
            f"the server was promoted or restored at {lsn_text(fork)}, before the journal's {lsn_text(position)}",
            place=f"timeline {noted}",
            cure=RESYNC,
        )


def check_identity(identity: Identity, notes: dict[str, str]) -> None:
    """Raise Halted if this is another server or database than the one that the journal was begun with. Pure."""
    for key, now in (("postgres.system", identity.system), ("postgres.database", identity.database)):
        then = notes.get(key)
        if then is not None and then != now:
            raise Halted(
                "other_database",
                f"the journal was begun with {key.removeprefix('postgres.')} {then}, this is {now}",
                place=f"database {identity.database}",
                cure="correct the dsn; if the server was upgraded with pg_upgrade or set up anew: stop the sidecar and"
                " move its data directory away; it then copies everything anew, and each other region is made anew:"
                " replicator bootstrap CONFIG --replace",
            )
