"""The PostgreSQL source: READ FIRST. Connects, copies or checks where to go on, then tails.

Guarantee: every committed transaction of the published tables becomes one block, in commit order, from one consistent
copy on. It never starts silently: a slot, server or table that cannot lead on from the journal's end halts.

The parts, in the order of the flow: ``session``, ``publication``, ``slot``, ``initial`` (the copy), ``wal_reader`` over
``stream`` (bytes), ``pgoutput`` (messages to drafts, pure), ``relations`` with ``definitions`` (pure).

Non-goals: TRUNCATE of a single partition, DROP, ATTACH and DETACH are not in PostgreSQL's change stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from replicator.errors import Halted, Unavailable
from replicator.format.block import Header
from replicator.pipeline.sources.base import Sink, SourceReport, SourceState
from replicator.pipeline.sources.postgres.chain_start import origin_here, read_begins
from replicator.pipeline.sources.postgres.copy import large_values, too_large
from replicator.pipeline.sources.postgres.definitions import can_be_binary
from replicator.pipeline.sources.postgres.initial import InitialCopy
from replicator.pipeline.sources.postgres.logged_tables import keep_logged
from replicator.pipeline.sources.postgres.options import PostgresOptions
from replicator.pipeline.sources.postgres.publication import (
    Publication,
    check_publication,
    ensure_publication,
    has_publication,
    published_oids,
)
from replicator.pipeline.sources.postgres.recopy import RecopyRequest, TableRecopy, read_request
from replicator.pipeline.sources.postgres.relations import RelationCache, TextFormatNeeded
from replicator.pipeline.sources.postgres.reread import Reread, reread
from replicator.pipeline.sources.postgres.session import database, opened
from replicator.pipeline.sources.postgres.slot import (
    Identity,
    check_identity,
    check_resume,
    check_server,
    check_timeline,
    identify,
    new_copy,
    read_forks,
    read_slot,
    written_lsn,
)
from replicator.pipeline.sources.postgres.stream import ReplicationStream
from replicator.pipeline.sources.postgres.stream_basis import BasisWatch
from replicator.pipeline.sources.postgres.wal_reader import (
    IDLE_NOTE,
    LOOK_SECONDS,
    SequenceReadings,
    StoredProgress,
    WalReader,
    WalReaderContext,
)
from replicator.postgres.catalog import TableFacts, read_tables
from replicator.postgres.lsn import lsn_text, parse_lsn
from replicator.postgres.quoting import literal, quoted
from replicator.postgres.session import OLDEST_VERSION, Connection, Worker, place_of

SYSTEM_NOTE = "postgres.system"
DATABASE_NOTE = "postgres.database"
TIMELINE_NOTE = "postgres.timeline"
PUBLICATION_NOTE = "postgres.publication"  # the publication that we made
CAPTURED_NOTE = "postgres.captured"  # where the log ended when all of it was in the journal; empty once it is read on


class PostgresSource:
    """A ledger in PostgreSQL 14 or newer, read by logical replication."""

    def __init__(self, options: PostgresOptions) -> None:
        self.report = SourceReport("postgres")
        self._options = options
        self._progress = StoredProgress()
        self._readings = SequenceReadings()
        self._text_only = False
        self._resume_at = 0

    def origin_of(self, state: SourceState) -> str | None:
        """The place in this server's log that the journal's end stands for."""
        return origin_here(state.notes, state.sequence, state.origin)

    def acknowledge(self, origin: str) -> None:
        """Everything up to ``origin`` is durable, wherever it has to be."""
        self._progress.acknowledge(parse_lsn(origin))

    async def vouched_for(self, lsn: int) -> None:
        """Return when nothing up to there can have been left out of the stream; only while it runs."""
        await self._progress.vouched_for(lsn)

    async def read_sequences(self) -> None:
        """Return when the sequences' values of now are handed over, if they are read at all; only while it runs."""
        if self._options.sequence_seconds:
            await self._readings.now()

    async def run(self, state: SourceState, sink: Sink) -> None:
        """Send everything after ``state.origin``, for ever. Raises Unavailable or Halted."""
        self.report.phase = "connecting"
        if state.notes.get(CAPTURED_NOTE):
            await sink.note(CAPTURED_NOTE, "")
        noted = self.origin_of(state)
        origin = _noted_lsn(noted, "origin")
        if not self._options.synchronous:  # else it may not yet be durable everywhere where it has to be
            self._progress.acknowledged = origin
        self._progress.idle = _noted_lsn(state.notes.get(IDLE_NOTE), IDLE_NOTE) if noted else 0
        relations = RelationCache(state, sink, self._options)
        async with opened(self._options) as sql, opened(self._options) as looks:
            basis = BasisWatch(self._options, looks, sink, state.notes, relations.followed)
            if noted is None:
                origin = await self._copy(state, sink, sql, relations, basis)
            start = max(origin, self._progress.idle)
            headers = state.headers
            request = read_request(state.notes)
            if noted is not None and request is not None:
                await self._recopy(request, state, sink, sql, relations, start, origin)
            while True:
                try:
                    await self._read_wal(state, sink, sql, relations, basis, start, origin, headers)
                except TextFormatNeeded:
                    headers = list[Header]  # nothing again: what was sent may not be in the journal yet
                    self._text_only = True
                    origin = max(origin, self._resume_at)
                    start = max(origin, self._progress.idle)  # what the server was told to forget held nothing for us

    async def _copy(
        self, state: SourceState, sink: Sink, sql: Worker, relations: RelationCache, basis: BasisWatch
    ) -> int:
        async with opened(self._options, replication=True) as replication:
            identity = await replication.call(self._identify)
            check_identity(identity, state.notes)
            await sink.note(SYSTEM_NOTE, identity.system)
            await sink.note(DATABASE_NOTE, identity.database)
            await sink.note(TIMELINE_NOTE, str(identity.timeline))
            if not await sql.call(has_publication, self._options):
                await sink.note(PUBLICATION_NOTE, self._options.publication)
            publication = await sql.call(ensure_publication, self._options)
            await sql.call(keep_logged, self._options)
            await basis.begin()  # before the slot: a change behind its first place is then one
            copy = InitialCopy(self._options, sql, replication, relations, sink, self.report)
            return parse_lsn(await copy.run(state.notes, publication, text_only=self._text_only))

    async def _recopy(
        self,
        request: RecopyRequest,
        state: SourceState,
        sink: Sink,
        sql: Worker,
        relations: RelationCache,
        start: int,
        origin: int,
    ) -> None:
        # What a stream must be sure of comes first: a copy of a stranger's table would replace the ledger's everywhere.
        async with opened(self._options, replication=True) as replication:
            identity = await replication.call(self._identify)
            check_identity(identity, state.notes)
            await self._check_timeline(state, sink, replication, identity, start)
        publication, *_ = await sql.call(self._check, start, identity)
        recopy = TableRecopy(self._options, sql, relations, sink, self.report, state.headers)
        await recopy.run(request, publication, origin, text_only=self._text_only)

    async def _read_wal(
        self,
        state: SourceState,
        sink: Sink,
        sql: Worker,
        relations: RelationCache,
        basis: BasisWatch,
        start: int,
        origin: int,
        headers: Callable[[], Iterable[Header]],
    ) -> None:
        """Stream from ``start`` on, where ``origin`` is that of the last block; of the blocks of ``headers`` the last
        ones come again, where the server still has them."""
        async with opened(self._options, replication=True) as replication:
            identity = await replication.call(self._identify)
            check_identity(identity, state.notes)
            await self._check_timeline(state, sink, replication, identity, start)
            basis.reader = None
            await basis.look()
            await sql.call(keep_logged, self._options)
            publication, tables, lsn, confirmed = await sql.call(self._check, start, identity)
            again = await trio.to_thread.run_sync(self._reread, state.notes, headers, start, confirmed)
            relations.begin_session(tables, lsn, publication)
            binary = not self._text_only and can_be_binary(tables, generated=publication.generated)
            stream = ReplicationStream(replication.connection, database(self._options))
            await stream.start(self._start_command(again.since, binary=binary))
            basis.reader = replication.connection.info.backend_pid
            # Nothing is acknowledged of a log that is not proven: it would move the slot of a server that was set back.
            self._progress.vouched = min(confirmed, start)
            self.report.phase = "streaming"
            context = WalReaderContext(
                self._options, stream, sql, relations, sink, self.report, self._progress, self._readings, basis
            )
            reader = WalReader(context, start, origin, binary=binary, reread=again)
            try:
                await reader.run()
            except Halted as error:
                # Up to PostgreSQL 17 the server ends a stream that comes to where its publication is gone.
                if error.reason == "missing_object":
                    basis.reader = None
                    with trio.move_on_after(LOOK_SECONDS):
                        await basis.check()
                if error.reason == "value_too_large":
                    found = await sql.call(large_values, self._options.publication)
                    raise too_large(error, found or "a row of the published tables") from error
                raise
            except TextFormatNeeded:
                self._text_only = True
                self._resume_at = reader.sent
                if reader.parted:
                    raise Unavailable(
                        "format_changed",
                        "a large transaction has to be read again in another form",
                        place=replication.place,
                        cure="it is tried again by itself",
                    ) from None
                raise

    async def _check_timeline(
        self, state: SourceState, sink: Sink, replication: Worker, identity: Identity, start: int
    ) -> None:
        if state.notes.get(TIMELINE_NOTE) == str(identity.timeline):
            return
        check_timeline(await replication.call(read_forks, identity.timeline), state.notes.get(TIMELINE_NOTE), start)
        await sink.note(TIMELINE_NOTE, str(identity.timeline))

    def _identify(self, replication: Connection) -> Identity:
        if replication.info.server_version < OLDEST_VERSION:
            raise Halted(
                "server_too_old",
                f"the server has version {replication.info.server_version // 10000}",
                place=place_of(self._options.dsn),
                cure="PostgreSQL 14 or newer is needed",
            )
        check_server(replication)
        return identify(replication)

    def _check(
        self, connection: Connection, start: int, identity: Identity
    ) -> tuple[Publication, list[TableFacts], int, int]:
        """Everything that must hold before streaming; the tables, where the log ended before they were read, and where
        the slot stands."""
        lsn = written_lsn(connection)
        confirmed = check_resume(read_slot(connection, self._options.slot), self._options.slot, start, lsn, identity)
        publication = check_publication(connection, self._options)
        tables = read_tables(connection, published_oids(connection, self._options.publication))
        return publication, tables, lsn, confirmed

    def _reread(
        self, notes: dict[str, str], headers: Callable[[], Iterable[Header]], start: int, confirmed: int
    ) -> Reread:
        return reread(headers(), read_begins(notes), start, confirmed, new_copy(self._options))

    def _start_command(self, start: int, *, binary: bool) -> str:
        names = literal(quoted(self._options.publication))
        options = f"proto_version '1', publication_names {names}, messages 'true'"
        if binary:
            options += ", binary 'true'"
        return f"START_REPLICATION SLOT {quoted(self._options.slot)} LOGICAL {lsn_text(start)} ({options})"


def _noted_lsn(text: str | None, what: str) -> int:
    """An LSN that the journal keeps. Raises Halted if it is none: then it is another kind of source's journal."""
    try:
        return parse_lsn(text) if text else 0
    except ValueError as error:
        raise Halted("other_source", str(error), place=f"journal, {what}", cure="check the source's kind") from error
