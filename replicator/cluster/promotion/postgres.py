"""READ FIRST: the role of a region whose ledger is in PostgreSQL, and its changes.

    replica ── promote ─▶ primary          fence closed, replay stopped, the journal applied to its head
    replica, a promotion was begun ── withdraw ─▶ replica                                          fence closed
    primary ── capture_rest ─▶ (others undo what nobody received) ── adopt ─▶ replica          fence closed

Guarantee: see the package. Who calls stops replay, or the source, first: ``promote`` and ``adopt`` refuse with
Unavailable (``replica_in_use``) while somebody replays. They write with the setting ``replicator.writer`` on, which a
fence in the database lets pass.

What cannot be carried to a promoted database, because no block has it: defaults other than a sequence's next number,
NOT NULL outside the key, checks, foreign keys, secondary and unique indexes, triggers, views, grants, expressions of
generated columns, GENERATED ALWAYS, a sequence's bounds, cycle and cache. Whoever migrates the primary's schema applies
the same migrations to every region that may lead.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

import trio

from replicator.cluster.promotion.adopt import Adoption
from replicator.cluster.promotion.promote import Promotion
from replicator.cluster.promotion.readiness import reasons
from replicator.cluster.promotion.remaining_log import capture_rest
from replicator.cluster.promotion.sequence_values import reserve_of
from replicator.cluster.promotion.table_roles import adopted_at
from replicator.format.block import Block
from replicator.format.position import Position
from replicator.pipeline.sources.postgres.options import PostgresOptions
from replicator.pipeline.sources.postgres.session import session
from replicator.postgres.settings import READ_ONLY
from replicator.storage.journal.head import JournalHead
from replicator.storage.journal.store import Journal


class PostgresRole:
    """One region's. ``dsn`` is the replica's, whose role owns the tables; ``options`` are the source's, whose role
    replicates. ``reserve`` is how many numbers sequences leave out; by default it follows from how often they are
    read (``sequence_values``)."""

    def __init__(
        self,
        dsn: str,
        journal: Journal,
        strand: str,
        options: PostgresOptions,
        *,
        reserve: int | None = None,
        on_step: Callable[[str], None] = lambda where: None,
    ) -> None:
        self._dsn = dsn
        self._journal = journal
        self._strand = strand
        self._options = options
        self._reserve = reserve_of(options.sequence_seconds) if reserve is None else reserve
        self._on_step = on_step

    def promote(self, epoch: int, now_us: int | None = None, *, exact: bool = False) -> Position:
        """Make the database the primary's in ``epoch``; gives the chain's head, a block of that epoch. Blocks.

        ``exact``: the change is planned, and the last values of the sequences came with the old primary's last block
        (``capture_rest`` with ``sequences``), so that no numbers are left out.
        """
        now_us = time.time_ns() // 1000 if now_us is None else now_us
        reserve = 0 if exact else self._reserve
        Promotion(self._dsn, self._options, self._journal, self._strand, reserve, self._on_step).run(epoch, now_us)
        return self._journal.head(self._strand)

    def adopt(self, position: Position) -> None:
        """Make the database a replica's at ``position``. Blocks."""
        Adoption(self._dsn, self._options, self._journal, self._strand, self._on_step).run(position)

    def withdraw(self) -> None:
        """Take back what a promotion that was given up has begun; the fence was never opened. Nothing to do, which is
        seen in the journal, if there was none. Blocks."""
        Adoption(self._dsn, self._options, self._journal, self._strand, self._on_step).withdraw()

    def has_led(self) -> bool:
        """Whether applications may have written to it since its promotion, or its beginning as the primary. Blocks."""
        return Adoption(self._dsn, self._options, self._journal, self._strand, self._on_step).has_led()

    def abandon(self) -> bool:
        """What is left of a primary goes, slot and publication, for the rows are to be replaced; whether there was
        anything. Blocks."""
        return Adoption(self._dsn, self._options, self._journal, self._strand, self._on_step).abandon()

    def readiness(self) -> list[str]:
        """Why this region cannot be promoted, each with its cure; empty if it can. Changes nothing. Blocks."""
        return reasons(self._dsn, self._options, self._journal, self._strand)

    async def capture_rest(
        self,
        journal_head: JournalHead,
        seconds: float,
        on_stored: Callable[[Sequence[Block]], None] = lambda blocks: None,
        *,
        sequences: bool = False,
    ) -> None:
        """Bring what the slot still holds into the journal, under the chain's epoch; with ``sequences`` a last reading
        of their values, too, for a planned change. Async."""
        # A database that was taken as a replica has nothing left that is its own, and its slot may be gone already.
        if not await trio.to_thread.run_sync(self._is_adopted):
            await capture_rest(self._options, self._journal, journal_head, seconds, on_stored, sequences=sequences)

    def _is_adopted(self) -> bool:
        with session(dataclasses.replace(self._options, dsn=self._dsn), READ_ONLY) as connection:
            return adopted_at(connection, self._strand) is not None
