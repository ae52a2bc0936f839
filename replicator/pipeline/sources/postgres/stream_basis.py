"""What the stream rests on in the catalogs: the publication's rows, and which tables are not logged.

pgoutput reads the catalogs as they were at each place of the log. From the commit of a statement on that alters or
drops the publication it leaves changes out, without a word; everything that committed before is there. So a place of
the log may be acknowledged only if a look that began after it had arrived finds everything as it was.

Guarantee: ``BasisWatch.check`` returns only if no such statement stood in the log when it was called. A row is known by
its version (oid and xmin), so a change that was put back is found, too, also after a restart: versions are noted beside
the journal. A statement whose commit is in the log but not yet visible (it waits for a standby, perhaps for us) has
left its number in the rows that it changes (xmax): until its transaction has ended nothing is vouched for.

Not found: a table that is set UNLOGGED and LOGGED again between two looks; ``logged_tables`` refuses that. A published
table that is taken out of the publication, altered and put back by one transaction that waits for us is found only once
that transaction has ended.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import trio

from replicator.errors import Halted, Unavailable
from replicator.pipeline.sources.base import Sink
from replicator.pipeline.sources.postgres.open_transactions import HeldUp, OpenTransaction, open_transactions
from replicator.pipeline.sources.postgres.options import IGNORED_NAMESPACE, PostgresOptions
from replicator.pipeline.sources.postgres.publication import check_publication
from replicator.pipeline.sources.postgres.slot import new_copy
from replicator.postgres.session import Connection, Worker

BASIS_NOTE = "postgres.basis"
UNLOGGED_NOTE = "postgres.unlogged"
HELD_UP = "acknowledging, until it is known whether the publication is changed,"
LOOK_AGAIN_SECONDS = 0.05
READER_SECONDS = 5.0
SCHEMAS_SINCE = 150000  # FOR TABLES IN SCHEMA

_XIDS = 1 << 32

# A member that is being dropped together with its table is no change of what is published: the same transaction then
# has its number in the table's row.
_LOOK = """
WITH p AS (SELECT oid, xmin, xmax FROM pg_publication WHERE pubname = %s)
SELECT 'publication', '', oid || ':' || xmin, xmax::text FROM p
 UNION ALL
SELECT 'member', 'table ' || r.prrelid, r.oid || ':' || r.xmin,
       CASE WHEN c.xmax = r.xmax THEN '0' ELSE r.xmax::text END
  FROM pg_publication_rel r JOIN p ON p.oid = r.prpubid LEFT JOIN pg_class c ON c.oid = r.prrelid
 UNION ALL
SELECT 'unlogged', c.oid::text, '', '0' FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relpersistence = 'u' AND c.relkind = 'r' AND n.nspname <> %s
 UNION ALL
SELECT 'reader', s.active_pid::text, '', '0' FROM pg_replication_slots s WHERE s.slot_name = %s
"""
_LOOK_SCHEMAS = """
 UNION ALL
SELECT 'member', 'schema ' || s.pnnspid, s.oid || ':' || s.xmin, s.xmax::text
  FROM pg_publication_namespace s JOIN p ON p.oid = s.pnpubid
"""


class StreamBasis(NamedTuple):
    """The versions of the publication's row (empty: there is none) and of its members' by what they publish."""

    publication: str
    members: Mapping[str, str]


class BasisLook(NamedTuple):
    """One look: the ``basis``, the oids of the ``unlogged`` tables, the process that reads the slot; the numbers of
    transactions that are ``changing`` it, and of others that ``ended`` and have touched its rows, if only to lock
    them."""

    basis: StreamBasis
    unlogged: frozenset[int]
    reader: int | None
    changing: frozenset[int]
    ended: frozenset[int]


def look(connection: Connection, options: PostgresOptions) -> BasisLook:
    """Look once."""
    query = _LOOK + (_LOOK_SCHEMAS if connection.info.server_version >= SCHEMAS_SINCE else "")
    publication, reader = "", None
    members: dict[str, str] = {}
    unlogged: set[int] = set()
    touched: set[int] = set()
    rows = connection.execute(query.encode(), (options.publication, IGNORED_NAMESPACE, options.slot))
    for kind, key, version, xmax in rows:
        touched.add(int(xmax))
        if kind == "publication":
            publication = version
        elif kind == "member":
            members[key] = version
        elif kind == "unlogged":
            unlogged.add(int(key))
        elif key is not None:
            reader = int(key)
    changing, ended = _parted(connection, touched - {0})
    return BasisLook(StreamBasis(publication, members), frozenset(unlogged), reader, changing, ended)


def read_basis(connection: Connection, options: PostgresOptions) -> StreamBasis:
    """The basis as it is visible now."""
    return look(connection, options).basis


def _parted(connection: Connection, xids: Iterable[int]) -> tuple[frozenset[int], frozenset[int]]:
    """Those of these transactions that have not ended, and those that committed; one that was undone is neither."""
    changing, ended = set(), set()
    for xid in xids:
        row = connection.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text").fetchone()
        assert row is not None
        last = int(row[0]) - 1
        behind = (last - xid) % _XIDS  # rows hold 32 bits of a number that has 64
        if behind >= _XIDS // 2 or behind >= last:
            changing.add(xid)  # younger than the snapshot
            continue
        status = connection.execute("SELECT pg_xact_status(%s::text::xid8)", (last - behind,)).fetchone()
        if status == ("in progress",):
            changing.add(xid)
        elif status == ("committed",):
            ended.add(xid)
    return frozenset(changing), frozenset(ended)


def pack_basis(basis: StreamBasis) -> str:
    """As a note."""
    return json.dumps({"publication": basis.publication, "members": dict(basis.members)}, sort_keys=True)


def noted_basis(notes: Mapping[str, str]) -> StreamBasis | None:
    """What is noted; None if nothing is. Raises Halted if it cannot be read."""
    text = notes.get(BASIS_NOTE)
    if text is None:
        return None
    try:
        fields = json.loads(text)
        return StreamBasis(
            str(fields["publication"]), {str(key): str(value) for key, value in fields["members"].items()}
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        place = f"journal, note {BASIS_NOTE}"
        cure = "make this region anew: replicator bootstrap CONFIG --replace"
        raise Halted("bad_note", f"it cannot be read: {error!r}", place=place, cure=cure) from error


def changed_rows(noted: StreamBasis, now: StreamBasis) -> list[str]:
    """The members whose rows are not those that were noted: altered, or gone. Raises nothing. Pure."""
    return [key for key, version in noted.members.items() if now.members.get(key) != version]


class BasisWatch:
    """Looks at what a stream rests on, for as long as the stream runs. ``reader`` is the process that streams, once
    there is one; ``followed`` are the oids of the tables whose rows the journal has."""

    def __init__(
        self,
        options: PostgresOptions,
        worker: Worker,
        sink: Sink,
        notes: Mapping[str, str],
        followed: Collection[int],
    ) -> None:
        self.reader: int | None = None
        self._options = options
        self._worker = worker
        self._sink = sink
        self._noted = noted_basis(notes)
        self._unlogged = frozenset(json.loads(notes.get(UNLOGGED_NOTE, "[]")))
        self._followed = followed
        self._held_up = HeldUp()

    @property
    def held_up(self) -> str | None:
        """Which transaction keeps ``check`` waiting; None if none does."""
        return self._held_up.text

    async def begin(self) -> None:
        """Note what is there now, whatever was noted: the stream is about to begin."""
        await self._note((await self._worker.call(look, self._options)).basis)

    async def look(self) -> BasisLook:
        """Look once; a change that is not visible yet is not seen. Raises Halted if something is not as noted."""
        found = await self._worker.call(look, self._options)
        await self._judge(found)
        return found

    async def check(self) -> None:
        """Return if everything is as it was noted, and no transaction is changing it. Raises Halted if it is not,
        Unavailable if these are not the catalogs of the server that streams."""
        until = trio.current_time() + READER_SECONDS
        ended: frozenset[int] = frozenset()
        while True:
            found = await self.look()
            is_reader = self.reader is None or found.reader == self.reader
            if not is_reader and trio.current_time() >= until:  # not at once: a stream that ends says itself why
                raise self._split()
            # One that ended may have done so only behind the look, which did not see what it changed; the next one
            # does. A row that is still the same then was only locked.
            if is_reader and not found.changing and found.ended <= ended:
                self._held_up.by(None, HELD_UP, trio.current_time())
                return
            if found.ended <= ended:
                if found.changing:
                    held_by = await self._worker.call(_changing, found.changing, self._options)
                    self._held_up.by(held_by, HELD_UP, trio.current_time())
                await trio.sleep(LOOK_AGAIN_SECONDS)
            ended = found.ended

    def _split(self) -> Unavailable:
        return Unavailable(
            "split_connection",
            "the session that looks at the catalogs does not see who streams: it may have reached another server",
            place=self._worker.place,
            cure="let the dsn name one server; it is tried again by itself",
        )

    async def _judge(self, found: BasisLook) -> None:
        noted = self._noted
        if noted is None:
            if found.basis.publication:  # none: what is checked next says so
                await self._note(found.basis)
        elif found.basis != noted:
            if found.basis.publication != noted.publication:
                raise publication_changed(self._options, bool(found.basis.publication))
            await self._worker.call(self._refuse_changed, changed_rows(noted, found.basis))
            if set(found.basis.members) - set(noted.members):
                await self._worker.call(check_publication, self._options)
            await self._note(found.basis)
        if self._options.tables is None and (found.unlogged or self._unlogged):
            await self._judge_unlogged(found.unlogged)

    async def _note(self, basis: StreamBasis) -> None:
        await self._sink.note(BASIS_NOTE, pack_basis(basis))
        self._noted = basis

    def _refuse_changed(self, connection: Connection, members: list[str]) -> None:
        """Raise Halted if one of these members is gone or altered; one that went with its table is no matter."""
        for member in members:
            kind, oid = member.split()
            catalog = "pg_class" if kind == "table" else "pg_namespace"
            query = f"SELECT FROM {catalog} WHERE oid = %s".encode()
            if connection.execute(query, (int(oid),)).fetchone() is not None:
                raise publication_changed(self._options, True)

    async def _judge_unlogged(self, unlogged: frozenset[int]) -> None:
        """Rows that come into a table while it is not logged come into no stream. What was seen is noted first, so that
        the table is known also once it is logged again."""
        if not unlogged <= self._unlogged:
            await self._note_unlogged(self._unlogged | unlogged)
        gone = await self._worker.call(_refuse_unlogged, self._unlogged, self._followed, self._options)
        if gone:
            await self._note_unlogged(self._unlogged - gone)

    async def _note_unlogged(self, oids: frozenset[int]) -> None:
        await self._sink.note(UNLOGGED_NOTE, json.dumps(sorted(oids)))
        self._unlogged = oids


def _changing(connection: Connection, xids: frozenset[int], options: PostgresOptions) -> OpenTransaction | None:
    """Who changes it. Raises Halted if that has committed, and is only waiting for a standby to confirm it."""
    waiting = connection.execute(
        "SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND backend_xid::text = ANY(%s)",
        ([str(xid) for xid in xids],),
    ).fetchone()
    if waiting is not None:
        raise publication_changed(options, True)
    return next((one for one in open_transactions(connection) if one.xid in xids), None)


def _refuse_unlogged(
    connection: Connection, seen: frozenset[int], followed: Collection[int], options: PostgresOptions
) -> frozenset[int]:
    """Raise Halted if a table that was seen unlogged should be in the stream; gives those that are gone."""
    rows = connection.execute(
        "SELECT c.oid::int8, n.nspname || '.' || c.relname, c.relpersistence = 'u' FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY(%s::oid[])",
        (list(seen),),
    ).fetchall()
    for oid, label, unlogged in rows:
        if unlogged and oid in followed:
            raise Halted(
                "not_logged",
                "the table was set UNLOGGED: what is written to it is in no stream",
                place=f"table {label}",
                cure=f"ALTER TABLE {label} SET LOGGED; then {new_copy(options)}",
            )
        if not unlogged:
            raise Halted(
                "not_logged",
                "the table was UNLOGGED for a time: rows that it got then are in no stream",
                place=f"table {label}",
                cure=new_copy(options),
            )
    return seen - {oid for oid, _, _ in rows}


def publication_changed(options: PostgresOptions, exists: bool) -> Halted:
    """The error for a publication that is not the one that was followed so far."""
    what = "it was altered, or dropped and made again, or is being so" if exists else "it was dropped"
    return Halted(
        "publication_changed",
        f"{what}: changes that were committed since may be missing from the stream, and none of them was acknowledged",
        place=f"publication {options.publication}",
        cure=new_copy(options),
    )
