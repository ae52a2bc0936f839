"""From the connection into the spool: the frames of one upstream.

Guarantee: a block is spooled only when the parts that it consists of are durable in the journal's staging, and is
called *received* only when it is durable in the spool. Reading goes on while the spool writes, so one fsync serves all
that came meanwhile; memory is bounded by ``READ_AHEAD_BATCHES``.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

import trio

from replicator.errors import Halted
from replicator.format.block import Block
from replicator.format.wire import Frame, Heartbeat, StagedPart, pack_blocks
from replicator.pipeline.feed.base import BlockStore, FeedListener
from replicator.pipeline.feed.client import Frames
from replicator.pipeline.feed.decoded_blocks import DecodedBlocks
from replicator.pipeline.feed.stream_tracker import StreamTracker
from replicator.storage.journal.head import JournalHead
from settle_buffer.entry import Entry
from settle_buffer.loop import Settler

READ_AHEAD_BATCHES = 32  # of up to 64 KB each, what the connection gives at once
CLOCK_SECONDS = 0.5  # while blocks come, heartbeats are passed on at most this often


class FeedIntake:
    """Takes what one upstream sends. ``url`` names it in errors; ``decoded`` gets the blocks that are on their way to
    the journal, whose end is ``journal_head``; ``on_heartbeat`` hears the last heartbeat of each batch, and when it
    arrived on trio's clock."""

    def __init__(
        self,
        url: str,
        settler: Settler,
        store: BlockStore,
        journal_head: JournalHead,
        decoded: DecodedBlocks,
        listener: FeedListener,
        on_heartbeat: Callable[[Heartbeat, float], None],
    ) -> None:
        self._url = url
        self._settler = settler
        self._store = store
        self._journal_head = journal_head
        self._strand = journal_head.position.strand
        self._decoded = decoded
        self._listener = listener
        self._on_heartbeat = on_heartbeat
        self._clock_at = 0.0

    async def take_all(self, frames: Frames, tracker: StreamTracker | None = None) -> None:
        """Take the frames of a connection until it closes. The ``tracker`` of a stream tells up to where the upstream
        has sent everything; the blocks of a range that was asked for tell nothing of the kind.

        Raises Unavailable, or what the spool and the journal raise.
        """
        send, receive = trio.open_memory_channel[_Arrival](READ_AHEAD_BATCHES)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_read_into, frames.batches(), send)
            async with receive:
                async for first in receive:
                    arrivals = [first, *_waiting(receive)]
                    batch = [frame for arrival in arrivals for frame in arrival.frames]
                    await self._take(batch)
                    self._hear(arrivals)
                    if tracker is not None:
                        await self._pass_clock(batch, tracker.up_to(batch))

    async def _take(self, batch: Sequence[Frame]) -> None:
        blocks = [frame for frame in batch if type(frame) is Block]
        if len(blocks) < len(batch):
            # First of all: a block that is in the spool may be released at once, and its parts must be there then.
            await self._stage([frame for frame in batch if type(frame) is StagedPart])
        if blocks:
            await self._settler.put(self._entries(blocks))
            self._listener.received(blocks[-1].header)

    def _hear(self, arrivals: Sequence[_Arrival]) -> None:
        # What a heartbeat says is as old as its arrival, however long the blocks before it waited for the spool.
        heard = [(frame, arrival.at) for arrival in arrivals for frame in arrival.frames if type(frame) is Heartbeat]
        if heard and heard[-1][0].position.strand == self._strand:
            self._on_heartbeat(*heard[-1])

    async def _stage(self, parts: Sequence[StagedPart]) -> None:
        if parts:
            with trio.CancelScope(shield=True):  # a write in a thread is seen through: its outcome must be known
                await trio.to_thread.run_sync(self._store.stage, self._strand, parts)
            self._listener.staged()

    def _entries(self, blocks: Sequence[Block]) -> list[Entry]:
        strand = self._strand
        headers = [block.header for block in blocks]
        for header in headers:
            if header.strand != strand:
                message = f"a block of strand {header.strand!r} came in the stream of {strand!r}"
                cure = "check [region] strand on both sides"
                raise Halted("other_strand", message, place=self._url, cure=cure)
        # What the journal has came twice and is dropped: nobody would ever take it from here.
        head = self._journal_head.position.sequence
        self._decoded.add(block for block in blocks if block.header.sequence > head)
        return [
            Entry(strand, header.sequence, header.committed_at, block.hash, header.previous, frame)
            for header, block, frame in zip(headers, blocks, pack_blocks(blocks), strict=True)
        ]

    async def _pass_clock(self, batch: Sequence[Frame], sent: int | None) -> None:
        """Tell the settle buffer the feed's clock, and up to where everything has been sent, if that is known."""
        beat = batch[-1]
        if type(beat) is not Heartbeat or beat.position.strand != self._strand:
            return
        # The clock alone costs the settle buffer's lock: now and then is enough. What was sent closes gaps: never late.
        if sent is not None or trio.current_time() >= self._clock_at:
            self._clock_at = trio.current_time() + CLOCK_SECONDS
            await self._settler.heartbeat(self._strand, beat.now, sequence=sent)


class _Arrival(NamedTuple):
    """Frames that arrived together, and when."""

    at: float
    frames: list[Frame]


async def _read_into(batches: AsyncIterator[list[Frame]], send: trio.MemorySendChannel[_Arrival]) -> None:
    async with send:
        with contextlib.suppress(trio.BrokenResourceError):  # who takes them has stopped, and says why
            async for batch in batches:
                await send.send(_Arrival(trio.current_time(), batch))


def _waiting(receive: trio.MemoryReceiveChannel[_Arrival]) -> list[_Arrival]:
    """What waits already. It ends: the reader is another task, which cannot send meanwhile."""
    arrivals = []
    while True:
        try:
            arrivals.append(receive.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            return arrivals
