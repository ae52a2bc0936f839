"""The two kinds of ledger that change their role: the embedded one, and a PostgreSQL database."""

from __future__ import annotations

from collections.abc import Collection

import trio

from replicator.cluster.failover.region import RoleAdapter
from replicator.cluster.fencing.base import Fence
from replicator.cluster.fencing.postgres import PostgresFence
from replicator.cluster.promotion.postgres import PostgresRole
from replicator.config import EmbeddedSourceSettings, PostgresReplicaSettings, PostgresSourceSettings
from replicator.config.roles import in_role, replica_of, source_of
from replicator.format.definition import Definition
from replicator.format.position import Position
from replicator.pipeline.first_copy import has_first_copy
from replicator.pipeline.replicas.base import Replica
from replicator.pipeline.sources.postgres import PostgresSource
from replicator.pipeline.sources.postgres.options import HEARTBEAT_PREFIX, PostgresOptions
from replicator.pipeline.sources.postgres.session import session
from replicator.pipeline.sources.postgres.slot import written_lsn
from replicator.postgres.catalog import TableName, table_oid
from replicator.postgres.lsn import parse_lsn
from replicator.postgres.quoting import quoted
from replicator.postgres.session import Connection
from replicator.runtime import wiring
from replicator.runtime.context import RegionContext
from replicator.runtime.identity import DatabaseNote
from replicator.runtime.primary_pipeline import CapturedPrimaryPipeline
from replicator.runtime.role_runner import RoleRunner

REST_SECONDS = 30.0  # for what the slot still holds once the old primary is gone
CALLS_A_TTL, CALL_SECONDS_AT_MOST = 3, 5.0  # a fence that does not answer must not cost the lease by itself
SEQUENCES_SECONDS = 1.0
COUNTED_KEYS = 10_000


def role_adapter(context: RegionContext, runner: RoleRunner) -> RoleAdapter:
    """The adapter of this region's ledger. Opens nothing."""
    source = source_of(context.config)
    if isinstance(source, PostgresSourceSettings):
        return PostgresRoleAdapter(context, source, runner)
    assert context.gate is not None
    assert isinstance(source, EmbeddedSourceSettings)
    return EmbeddedRoleAdapter(context, context.gate)


class EmbeddedRoleAdapter:
    """The embedded ledger: its state is a replica's, to the byte, and only its own process writes to it."""

    def __init__(self, context: RegionContext, fence: Fence) -> None:
        self.fence = fence
        self._context = context

    def is_whole(self, at: int | None = None) -> bool:
        """It begins empty: its chain is all that there ever was."""
        return True

    def count_rows(self, tables: Collection[str]) -> dict[str, int]:
        """By the state that stands on the journal."""
        replica = wiring.replica(in_role(self._context.config, "replica", 1), DatabaseNote(self._context.data_dir))
        replica.open()
        try:
            known = {each.label: each for each in replica.definitions(self._context.strand).values()}
            return {label: _count_keys(replica, known[label]) for label in tables if label in known}
        finally:
            replica.close()

    async def unfit(self) -> str:
        """A replica of another kind of ledger has tables that the embedded one could not write to."""
        definitions = self._context.journal.definitions(self._context.strand).values()
        foreign = sorted(definition.label for definition in definitions if not definition.documents)
        await trio.lowlevel.checkpoint()
        return f"table {foreign[0]} is no embedded ledger's: a PostgreSQL region can be promoted" if foreign else ""

    async def promote(self, epoch: int, *, planned: bool) -> None:
        """Nothing is to be changed."""
        await trio.lowlevel.checkpoint()

    def withdraw(self) -> None:
        """A promotion changes nothing."""

    async def is_captured(self, closing: float) -> bool:
        """A commit is the journal's append."""
        await trio.lowlevel.checkpoint()
        return True

    async def capture_rest(self) -> None:
        """Nothing was committed that is not in the journal."""
        await trio.lowlevel.checkpoint()

    async def adopt(self, position: Position) -> None:
        """Nothing is to be changed."""
        await trio.lowlevel.checkpoint()


class PostgresRoleAdapter:
    """A PostgreSQL database."""

    def __init__(self, context: RegionContext, source: PostgresSourceSettings, runner: RoleRunner) -> None:
        replica = replica_of(context.config)
        assert isinstance(replica, PostgresReplicaSettings)
        options = wiring.postgres_options(source)
        assert context.config.lease is not None
        seconds = min(context.config.lease.ttl_seconds / CALLS_A_TTL, CALL_SECONDS_AT_MOST)
        self.fence: Fence = PostgresFence(source.conninfo(), wiring.fenced_tables(source), call_seconds=seconds)
        self._context, self._options, self._runner = context, options, runner
        self._closed: tuple[float, int] | None = None  # which closing, and where the log ended behind it
        self._role = PostgresRole(replica.conninfo(), context.journal, context.strand, options)

    def is_whole(self, at: int | None = None) -> bool:
        """Whether the journal holds the first copy of the tables."""
        return has_first_copy(self._context.journal, self._context.strand, at)

    def count_rows(self, tables: Collection[str]) -> dict[str, int]:
        """By the tables themselves, whether they are a primary's or a replica's."""
        definitions = self._context.journal.definitions(self._context.strand).values()
        names = {each.label: each.name for each in definitions if each.label in tables}
        with session(self._options) as connection:
            return {label: rows for label, name in names.items() if (rows := _count(connection, name)) is not None}

    async def unfit(self) -> str:
        """The one reason why this database could not be a primary's."""
        reasons = await trio.to_thread.run_sync(self._role.readiness)
        return reasons[0] if reasons else ""

    async def promote(self, epoch: int, *, planned: bool) -> None:
        """Sequences, publication, slot, and the place in the server's log where the chain goes on."""
        await trio.to_thread.run_sync(lambda: self._role.promote(epoch, exact=planned))

    def withdraw(self) -> None:
        """Places of rows, slot and publication are a replica's again."""
        self._role.withdraw()

    async def is_captured(self, closing: float) -> bool:
        """Whether the log's end, which does not move for applications any more, has been seen and stored; and the last
        values of the sequences, so that no block comes behind it."""
        pipeline = self._runner.pipeline
        if not isinstance(pipeline, CapturedPrimaryPipeline) or not isinstance(pipeline.source, PostgresSource):
            return False
        source = pipeline.source
        if self._closed is None or self._closed[0] != closing:
            # In this order: a value that moves behind the log's end would make a block that nobody waits for.
            with trio.move_on_after(SEQUENCES_SECONDS) as waiting:
                await source.read_sequences()
            if waiting.cancelled_caught:
                return False
            self._closed = closing, await trio.to_thread.run_sync(_end_of_log, self._options)
        if source.report.seen is None or parse_lsn(source.report.seen) < self._closed[1]:
            return False
        with trio.move_on_after(SEQUENCES_SECONDS) as waiting:
            await source.vouched_for(
                self._closed[1]
            )  # a publication that was changed has left commits out of what is seen
        if waiting.cancelled_caught:
            return False
        await pipeline.capture.stored_so_far()  # seen is not stored: the last drafts may still be on their way
        return True

    async def capture_rest(self) -> None:
        """Read what the slot still holds, to the log's end."""
        await self._role.capture_rest(self._context.journal_head, REST_SECONDS)

    async def adopt(self, position: Position) -> None:
        """Give the database a replica's bookkeeping, and take the primary's away."""
        await trio.to_thread.run_sync(self._role.adopt, position)


def _count(connection: Connection, name: TableName) -> int | None:
    """How many rows a table has; None if it is not there."""
    if table_oid(connection, name) is None:
        return None
    row = connection.execute(f"SELECT count(*) FROM {quoted(*name)}".encode()).fetchone()
    return None if row is None else int(row[0])


def _count_keys(replica: Replica, definition: Definition) -> int:
    number, after = 0, None
    while keys := replica.stored_keys(definition, after, COUNTED_KEYS):
        number, after = number + len(keys), keys[-1]
    return number


def _end_of_log(options: PostgresOptions) -> int:
    """Where the log ends; behind it goes a sign of life, so that whoever reads the log soon knows to be beyond."""
    with session(options) as connection:
        end = written_lsn(connection)
        # The message alone would be written when the server gets to it; the commit of a transaction with a number is.
        message = "SELECT pg_logical_emit_message(false, %s, %s::text), pg_current_xact_id()"
        connection.execute(message, (HEARTBEAT_PREFIX, options.slot))
        return end
