"""What would be lost with this primary at this moment: the blocks that no other region has, and their amounts.

Guarantee: ``blocks`` is exact to the last report that came in, and is never too small. Amounts are those of all blocks
up to a position that follows the journal's end within a second or so; blocks behind it count as *unknown* changes, and
so does what ``amounts`` cannot know.

What a region said before this primary was started counts until it says something else. Before any region has said
anything no block is read for its amounts: all of them are unknown.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

import trio

from replicator.cluster.failover.amount_reader import AmountReader, PriorRows
from replicator.cluster.failover.amounts import AmountRule
from replicator.errors import ReplicatorError
from replicator.storage.journal.head import JournalHead
from replicator.storage.journal.store import Journal

LOOK_SECONDS = 0.5

log = logging.getLogger("replicator")


class AtRiskView(NamedTuple):
    """What would be lost now: so many blocks, the amounts by table and currency, and changes of unknown amount."""

    blocks: int
    amounts: Mapping[tuple[str, str], Decimal]
    unknown: int


class AtRisk:
    """Of one strand, for one time as its primary. ``regions`` are those that count; None: all that follow.
    ``reports`` is what regions are remembered to have."""

    def __init__(
        self,
        journal: Journal,
        journal_head: JournalHead,
        rules: Sequence[AmountRule] = (),
        rows: PriorRows | None = None,
        regions: frozenset[str] | None = None,
        reports: Mapping[str, int] | None = None,
    ) -> None:
        self._journal_head = journal_head
        self._regions = regions
        self._reports: dict[str, int] = {}
        # A region may have reported blocks of a chain that this one is not: nobody has more of this one than its end.
        for region, sequence in (reports or {}).items():
            self.reported(region, min(sequence, journal_head.position.sequence))
        self._reading = AmountReader(journal, journal_head.position.strand, rules, rows) if rules else None

    def reported(self, region: str, sequence: int) -> None:
        """A region says that it has everything up to ``sequence`` durably."""
        if self._regions is None or region in self._regions:
            self._reports[region] = sequence  # not the greatest: a region that was made anew has less than before

    @property
    def received(self) -> int:
        """The most that any other region has; 0 if nobody has said anything."""
        return max(self._reports.values(), default=0)

    def view(self) -> AtRiskView:
        """What would be lost now."""
        blocks = max(self._journal_head.position.sequence - self.received, 0)
        if self._reading is None or not blocks:
            return AtRiskView(blocks, {}, 0)
        # The reading lags behind: it may count what others have received since, which is too much, never too little.
        totals = self._reading.totals
        behind = max(self._journal_head.position.sequence - max(totals.until, self.received), 0)
        return AtRiskView(blocks, totals.amounts, totals.unknown + behind)

    async def run(self) -> None:
        """Follow the journal's end; for ever."""
        if self._reading is None:
            await trio.sleep_forever()
        while True:
            await trio.sleep(LOOK_SECONDS)
            if not self._reports:
                continue
            try:
                await trio.to_thread.run_sync(self._reading.look, self.received, self._journal_head.position.sequence)
            except ReplicatorError as error:  # whoever owns the file that is named shows it; the blocks are unknown
                log.warning("amounts at risk are not known for now: %s", error)
