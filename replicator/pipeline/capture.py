"""Capture: a source's drafts become durable blocks.

Guarantee: the source hears ``acknowledge`` only for what is durable in the journal, in order, and, where other regions
have to have it first, only for what is ``released``. What arrives while a group commit is under way joins the next one,
so the fsyncs follow the load and nobody waits for a timer. Memory is bounded by ``QUEUE_BATCHES`` batches: a slow disk
makes ``send`` wait, and through it the source's ledger.

The sink lives for one run of the source. A commit under way is seen through when a run ends; what still waited, or was
arriving in parts, is dropped, and the next run gets it again: it begins at the journal's end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import trio

from replicator.format.block import Block, BlockPart, Draft, Header
from replicator.pipeline.acknowledge.confirmations import ConfirmationQueue
from replicator.pipeline.first_copy import last_captured
from replicator.pipeline.sources.base import Source, SourceState
from replicator.storage.journal.head import JournalHead
from replicator.storage.journal.store import Journal

QUEUE_BATCHES = 4
GROUP_ITEMS = 4_000  # more in one go would let the stages behind stand idle, and then work alone

Item = BlockPart | Draft


class ReleaseGate(Protocol):
    """Says up to where the source may be told that its blocks are safe, by calling ``on_released``."""

    on_released: Callable[[int], None]

    def stored(self, sequence: int) -> None:
        """Everything up to ``sequence`` is durable here."""


class Capture:
    """Runs a source into a strand of the journal. ``on_stored`` hears of each group commit's blocks; with ``releases``
    the source is told of a block when it is released, else when it is durable."""

    def __init__(
        self,
        source: Source,
        journal: Journal,
        journal_head: JournalHead,
        epoch: int,
        on_stored: Callable[[Sequence[Block]], None],
        releases: ReleaseGate | None = None,
    ) -> None:
        self._source = source
        self._journal = journal
        self._journal_head = journal_head
        self._strand = journal_head.position.strand
        self._epoch = epoch
        self._on_stored = on_stored
        self._releases = releases
        self._confirmations = ConfirmationQueue()
        if releases is not None:
            releases.on_released = lambda sequence: self._acknowledge(self._confirmations.release(sequence))
        self._received_items = 0
        self._stored_items = 0
        self._items_stored = trio.Event()
        self._complete_at: float | None = None
        self._completing: tuple[int, float] | None = None  # once so many items are stored, that time is complete

    def complete_at(self) -> float | None:
        """Everything that the ledger committed before this time (trio's clock) is durable in the journal."""
        handed_over_at = self._source.report.handed_over_at
        if self._completing is None and handed_over_at is not None:
            self._completing = self._received_items, handed_over_at
        if self._completing is not None and self._stored_items >= self._completing[0]:
            self._complete_at, self._completing = self._completing[1], None
        return self._complete_at

    async def stored_so_far(self) -> None:
        """Return once everything that the source has handed over by now is durable."""
        received = self._received_items
        while self._stored_items < received:
            await self._items_stored.wait()

    async def run_once(self) -> None:
        """One run of the source, from the journal's end. Raises what the source or the journal raises."""
        state = await trio.to_thread.run_sync(self._begin)
        # Whoever waits in ``stored_so_far`` since the run before is not let go early: what that run lost comes again
        # first, so the count that he waits for is reached no sooner than the items that he means.
        self._received_items = self._stored_items = 0
        # What the run before had handed over may have been lost on its way to the journal.
        self._source.report.handed_over_at = self._completing = None
        if self._releases is not None:
            # Of a chain that another server wrote this server knows no place: confirming one would let go commits that
            # nobody has, and log that nobody read.
            begin = self._source.origin_of(state)
            self._acknowledge(self._confirmations.begin(self._journal_head.position.sequence, begin))
            self._releases.stored(self._journal_head.position.sequence)
        send, receive = trio.open_memory_channel[list[Item]](QUEUE_BATCHES)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._store_all, receive)
            async with send:
                await self._source.run(state, _QueueSink(send, self._journal, self._count))

    def _count(self, items: int) -> None:
        self._received_items += items

    def _begin(self) -> SourceState:
        self._journal.discard_arriving(self._strand)  # parts of a large block whose end never came: it comes as a whole
        last = last_captured(self._journal, self._strand)
        return SourceState(
            origin=last.origin if last else None,
            relations=self._journal.definitions(self._strand),
            notes=self._journal.notes(),
            sequence=last.sequence if last else 0,
            headers=self._headers,
        )

    def _headers(self) -> Iterator[Header]:
        """The headers of the journal's blocks, the last one first."""
        sequence, base = self._journal.head(self._strand).sequence, self._journal.base(self._strand).sequence
        while sequence > base and (blocks := self._journal.around(self._strand, sequence)):
            yield from (block.header for block in reversed(blocks) if block.header.sequence <= sequence)
            sequence = blocks[0].header.sequence - 1

    async def _store_all(self, receive: trio.MemoryReceiveChannel[list[Item]]) -> None:
        async with receive:
            async for items in receive:
                _take_waiting(receive, items)
                with trio.CancelScope(shield=True):  # a commit under way is seen through: its outcome must be known
                    blocks = await trio.to_thread.run_sync(self._journal.append, self._strand, items, self._epoch)
                self._stored_items += len(items)
                self._items_stored.set()
                self._items_stored = trio.Event()
                self.complete_at()  # seldom is everything stored; so it is looked for whenever something was
                if blocks:  # none, as long as only parts of a large block came
                    self._journal_head.moved(blocks[-1].position, blocks[-1].header.committed_at)
                    self._source.report.stored = blocks[-1].header.origin
                    self._on_stored(blocks)
                    self._confirm(blocks)

    def _confirm(self, blocks: Sequence[Block]) -> None:
        """Tell the source what its ledger may forget by now."""
        if self._releases is None:
            self._acknowledge(blocks[-1].header.origin)
            return
        self._acknowledge(self._confirmations.add([(b.header.sequence, b.header.origin) for b in blocks]))
        self._releases.stored(blocks[-1].header.sequence)

    def _acknowledge(self, origin: str | None) -> None:
        if origin is not None:
            self._source.acknowledge(origin)


def _take_waiting(receive: trio.MemoryReceiveChannel[list[Item]], items: list[Item]) -> None:
    """Add what waits already, so that one fsync serves it all."""
    while len(items) < GROUP_ITEMS:
        try:
            items.extend(receive.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            return


class _QueueSink:
    """The sink that a source sends to; ``count`` hears of items before they wait for room in the queue."""

    def __init__(
        self, channel: trio.MemorySendChannel[list[Item]], journal: Journal, count: Callable[[int], None]
    ) -> None:
        self._channel = channel
        self._journal = journal
        self._count = count

    async def send(self, items: Sequence[Item]) -> None:
        self._count(len(items))
        await self._channel.send(list(items))

    async def note(self, key: str, value: str) -> None:
        await trio.to_thread.run_sync(self._journal.set_note, key, value)
