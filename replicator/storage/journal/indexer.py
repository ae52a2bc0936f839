"""Keeping the history index behind what readers see, when there is time for it.

Guarantee: the index is never left behind altogether, and never in the way: beside a catch-up (of the journal with its
source, of the replica with the journal, of a follower with the feed) it takes a twentieth of the time. A full disk is
waited for, a damaged index is set aside and begun anew; whoever asks for history is told meanwhile that it is behind.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from replicator.errors import Halted, Unavailable
from replicator.storage.journal.head import JournalHead
from replicator.storage.journal.history import BEGINNING, HistoryIndex, Place
from replicator.supervise import Backoff

LOOK_SECONDS = 0.05
SWEEP_SECONDS = 10.0
DOUBT_SECONDS = 1.0
REST_LIMIT_SECONDS = 5.0  # also if a step took long because it had to wait for the disk
RESTS = 19  # times as long as the step before
BUSY_BLOCKS = 250  # that came during one step and look

log = logging.getLogger("replicator")


class HistoryIndexer:
    """Follows ``visible``, how far readers see, of the journal that ends at ``journal_head``. ``slowest_follower``
    gives the sequence that the slowest reader of the feed is at."""

    def __init__(
        self,
        index: HistoryIndex,
        journal_head: JournalHead,
        visible: JournalHead,
        slowest_follower: Callable[[], int],
        backoff: Callable[[], Backoff],
    ) -> None:
        self._index = index
        self._journal_head = journal_head
        self._visible = visible
        self._slowest_follower = slowest_follower
        self._backoff = backoff

    async def run(self) -> None:
        """Index, for ever."""
        strand, visible = self._journal_head.position.strand, self._visible
        indexed = await self._until_it_can(self._index.indexed, strand)
        while True:
            with trio.move_on_after(DOUBT_SECONDS):  # somebody may find it damaged while nothing is written
                await visible.beyond(indexed)
            if visible.position.sequence <= indexed and not self._index.is_doubted:
                continue
            head, began = self._journal_head.position.sequence, trio.current_time()
            indexed = await self._until_it_can(self._index.step, strand, visible.position.sequence)
            took = trio.current_time() - began
            await trio.sleep(LOOK_SECONDS)  # what comes meanwhile is indexed together: a step costs a commit
            if self._is_busy(head):
                await trio.sleep(min(took * RESTS, REST_LIMIT_SECONDS))

    def _is_busy(self, head_before: int) -> bool:
        """Whether somebody catches up."""
        head = self._journal_head.position.sequence
        behind = head - min(head_before, self._slowest_follower())
        return self._visible.position.sequence < head or behind > BUSY_BLOCKS

    async def sweep(self) -> None:
        """Remove what names pruned blocks, for ever: a pass once a quarter of what is kept has been pruned since."""
        strand, swept = self._journal_head.position.strand, 0
        while True:
            await trio.sleep(SWEEP_SECONDS)
            base = await self._until_it_can(self._index.begins_behind, strand)
            if base - swept > (self._journal_head.position.sequence - base) // 4:
                await self._pass(strand)
                swept = base

    async def _pass(self, strand: str) -> None:
        place: Place | None = BEGINNING
        while place is not None:
            began = trio.current_time()
            try:
                place = await trio.to_thread.run_sync(self._index.sweep, strand, place)
            except (Unavailable, Halted) as error:  # the writer says what is to be done about it
                log.debug("the history index is not swept: %s", error)
                return
            await trio.sleep(min((trio.current_time() - began) * RESTS, REST_LIMIT_SECONDS))

    async def _until_it_can(self, look: Callable[..., int], *arguments: object) -> int:
        """What ``look`` gives, however long it takes until it can."""
        backoff = self._backoff()
        while True:
            try:
                return await trio.to_thread.run_sync(look, *arguments)
            except Unavailable as error:
                log.warning("history waits: %s", error)
            except Halted as error:
                if error.place != str(self._index.path):  # the journal's damage: an index of it is no cure
                    log.error("history halted: %s", error)
                    await trio.sleep_forever()
                aside = await trio.to_thread.run_sync(self._index.begin_anew)
                log.error("history is indexed again, the damaged file is %s: %s", aside, error)
            await trio.sleep(backoff.next())
