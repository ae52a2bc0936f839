"""From the settle buffer into the journal: what was released becomes durable there, in order and linked.

Guarantee: an entry leaves the spool only when its block is durable in the journal. What an operator's waiver has left a
hole in front of is never written: it cannot be linked to the block before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import trio

from replicator.errors import Corrupt, Halted
from replicator.format.block import Header
from replicator.pipeline.feed.base import BlockStore
from replicator.pipeline.feed.decoded_blocks import DecodedBlocks
from replicator.pipeline.feed.notices import behind_waiver
from replicator.storage.journal.head import JournalHead
from settle_buffer.entry import Entry, body_of
from settle_buffer.events import Certificate, Correction
from settle_buffer.loop import Delivery, Settler

MERGED_ENTRIES = 10_000


class JournalWriter:
    """Writes what one settle buffer releases. ``on_settled`` hears the last header of each group; ``give_up`` why
    nothing more can be written, ever."""

    def __init__(
        self,
        settler: Settler,
        store: BlockStore,
        journal_head: JournalHead,
        decoded: DecodedBlocks,
        on_settled: Callable[[Header], None],
        give_up: Callable[[Halted], None],
    ) -> None:
        self._settler = settler
        self._store = store
        self._journal_head = journal_head
        self._strand = journal_head.position.strand
        self._decoded = decoded
        self._on_settled = on_settled
        self._give_up = give_up

    async def run(self) -> None:
        """Write, for ever. Raises what the journal raises, Halted for a correction, Corrupt for an unexplained hole."""
        async for delivery in self._settler.releases:
            entries = list(_released(delivery))
            self._merge_waiting(entries)
            before = self._journal_head.position.sequence
            # Sequences only grow: if the last one is as far off as there are entries, none is missing in between.
            if entries[-1].sequence == before + len(entries):
                await self._write(entries)
            else:
                await self._write_up_to_hole(entries, before)

    def _merge_waiting(self, entries: list[Entry]) -> None:
        """Add what was released meanwhile, so that one group commit serves it all."""
        while len(entries) < MERGED_ENTRIES:
            try:
                delivery = self._settler.releases.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                return
            entries.extend(_released(delivery))

    async def _write(self, entries: Sequence[Entry]) -> None:
        blocks = [self._decoded.take(entry) for entry in entries]
        frames = list(map(body_of, entries))
        with trio.CancelScope(shield=True):  # a commit under way is seen through: its outcome must be known
            head = await trio.to_thread.run_sync(self._store.accept, self._strand, blocks, frames)
        self._journal_head.moved(head, blocks[-1].header.committed_at)
        self._on_settled(blocks[-1].header)
        # Last: the spool may forget the entries from here on.
        await self._settler.acknowledge(self._strand, head.sequence)

    async def _write_up_to_hole(self, entries: Sequence[Entry], before: int) -> None:
        """Only a waiver makes a hole. What lies behind it cannot be linked: stay there, with the reason shown."""
        linked = [entry for sequence, entry in enumerate(entries, before + 1) if entry.sequence == sequence]
        if linked:
            await self._write(linked)
        missing = before + len(linked) + 1
        self._give_up(behind_waiver(_waiver_of(await self._settler.certificates(), missing)))
        # Not raised: the settle buffer must go on, for people ask it for its certificates and late blocks.
        await trio.sleep_forever()


def _released(delivery: Delivery) -> Sequence[Entry]:
    """The entries of a release. A correction asks for what a chain cannot do: derive again what is settled."""
    if isinstance(delivery, Correction):
        message = f"block {delivery.entry.sequence} came behind what was settled, and is to be corrected"
        cure = "set [settle] late to halt or quarantine"
        raise Halted("late", message, place=f"strand {delivery.entry.strand}", cure=cure)
    return delivery.entries


def _waiver_of(certificates: Iterable[Certificate], sequence: int) -> Certificate:
    """The waiver that let the settle buffer pass over a sequence. Raises Corrupt if nobody gave one."""
    for certificate in certificates:
        if certificate.how == "waived" and certificate.first <= sequence <= certificate.last:
            return certificate
    cure = "stop the sidecar, keep its spool aside for a report, and start it: the feed is read again"
    raise Corrupt("broken_sequence", f"the settle buffer passed over sequence {sequence}", cure=cure)
