"""Exact moments of a PostgreSQL primary: a snapshot of its database, and the block that it belongs to.

Guarantee: the rows that the reader shows are those of all blocks up to the position, and of no other. The snapshot says
which transactions it sees; once the journal holds everything that was written before, the blocks tell whether those are
a prefix of the chain. If not (PostgreSQL may show a later commit before an earlier one), another snapshot is taken.
"""

from __future__ import annotations

import contextlib

import trio

from replicator.errors import Rejected
from replicator.format.definition import Definition
from replicator.format.position import Position
from replicator.pipeline.replicas.moments import Moment
from replicator.pipeline.replicas.postgres.reader import PostgresReader
from replicator.pipeline.sources.base import Captured, SourceReport
from replicator.pipeline.sources.postgres.chain_start import read_begins
from replicator.pipeline.sources.postgres.snapshot import TransactionSnapshot, last_visible, parse_snapshot
from replicator.postgres.lsn import parse_lsn

ATTEMPTS = 20
REACH_SECONDS = 30.0
POLL_SECONDS = 0.02
LOOK_BACK_BLOCKS = 5_000


class PostgresMoments:
    """See ``pipeline.replicas.moments.Moments``. With ``locking`` the moment's tables stay as they are while it is
    held."""

    def __init__(
        self,
        dsn: str,
        publication: str,
        captured: Captured,
        report: SourceReport,
        *,
        locking: bool = False,
    ) -> None:
        self._publication = publication
        self._locking = locking
        self._dsn = dsn
        self._journal, self._head, self._stored_so_far = captured
        self._strand = captured.head.position.strand
        self._report = report

    async def pause(self, seconds: float) -> Position:
        """A primary does not stop for a comparison; gives the journal's end."""
        return self._head.position

    def release(self) -> None:
        """There is nothing to release."""

    async def fix(self, at: int | None) -> Moment:
        """The moment of now; a primary's past cannot be asked for."""
        if at is not None:
            raise Rejected("moment_passed", "a primary shows its present only", status=409, place="verify")
        for _ in range(ATTEMPTS):
            moment = await self._try()
            if moment is not None:
                return moment
        raise Rejected(
            "no_moment",
            f"none of {ATTEMPTS} snapshots belonged to one block",
            status=503,
            retry_after=1,
            place="verify",
            cure="try again; a transaction that waits for a synchronous standby may be in the way",
        )

    async def _try(self) -> Moment | None:
        with contextlib.ExitStack() as undo:
            locked = await trio.to_thread.run_sync(self._journal.definitions, self._strand) if self._locking else {}
            reader = await trio.to_thread.run_sync(self._open, locked)
            undo.callback(reader.close)
            snapshot = await trio.to_thread.run_sync(_fix, reader)
            await self._reach(snapshot.lsn)
            position = await trio.to_thread.run_sync(self._position_of, snapshot)
            if position is not None:
                definitions = await trio.to_thread.run_sync(self._journal.definitions, self._strand, position.sequence)
                if self._locking and not _names(definitions) <= _names(locked):
                    return None  # a table was defined just now: it is not locked
                await trio.to_thread.run_sync(reader.read_by, definitions, self._publication)
                undo.pop_all()  # from here on the reader is the caller's
                return Moment(position, reader)
            return None

    def _open(self, definitions: dict[int, Definition]) -> PostgresReader:
        return PostgresReader(self._dsn, definitions, locking=self._locking)

    async def _reach(self, lsn: int) -> None:
        """Wait until the journal holds everything that the log held at ``lsn``."""
        with trio.move_on_after(REACH_SECONDS) as waiting:
            while True:  # the report is a plain record that the source keeps current: it is looked at, it does not call
                if self._report.seen is not None and parse_lsn(self._report.seen) >= lsn:
                    break
                await trio.sleep(POLL_SECONDS)
            await self._stored_so_far()
        if waiting.cancelled_caught:
            message = f"the source did not reach the log's end within {REACH_SECONDS:.0f} s"
            raise Rejected("not_reached", message, status=503, retry_after=5, place="verify", cure="see the status")

    def _position_of(self, snapshot: TransactionSnapshot) -> Position | None:
        last = self._last_visible(snapshot)
        return None if last is None else self._journal.position_at(self._strand, last)

    def _last_visible(self, snapshot: TransactionSnapshot) -> int | None:
        """Look back as far as the first block that is surely visible."""
        head = self._journal.head(self._strand).sequence
        begins = read_begins(self._journal.notes())
        begun = begins.sequence if begins else 0  # up to there other servers numbered the transactions; all is visible
        back = LOOK_BACK_BLOCKS
        while True:
            after = max(head - back, self._journal.base(self._strand).sequence, begun)
            blocks = [
                (block.header.sequence, block.header.txid)
                for block in self._journal.blocks(self._strand, after, 1 << 40)
                if block.header.sequence <= head
            ]
            last = last_visible(snapshot, blocks)
            if begun and after == begun:
                return last if blocks else begun
            base = self._journal.base(self._strand).sequence
            if base and after <= base and (not blocks or last is None or last < blocks[0][0]):
                return None  # what is surely visible was pruned: nothing proves that the rest of it is
            if after == 0 or not blocks or last is None or last >= blocks[0][0] or back >= head:
                return last
            back *= 4


def _names(definitions: dict[int, Definition]) -> set[tuple[str, str]]:
    return {definition.name for definition in definitions.values()}


def _fix(reader: PostgresReader) -> TransactionSnapshot:
    reader.snapshot()
    visible, lsn = reader.visible()
    return parse_snapshot(visible, parse_lsn(lsn))
