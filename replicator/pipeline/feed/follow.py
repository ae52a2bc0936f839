"""Following another region: feed → settle buffer → this region's journal.

Guarantee: a block is *received* only when it is durable in the spool, leaves the spool only when it is durable in the
journal, and reaches the journal only in order and linked. A connection that breaks, repeats, reorders or leaves out
changes nothing of that: what is missing is asked for again, what came twice is dropped, what contradicts halts.

    connection ─▶ proven frames ─▶ spool (durable: received) ─▶ order, gaps ─▶ journal (durable: settled) ─▶ trim
                  a large block's parts go to the journal's staging before their block is spooled

What is durable in the journal is reported back (``reporting``): the other region keeps its own journal for us up to
there, and its writers may wait for it.

A feed that answers *diverged* is searched for the first sequence at which the chains part, and the strand halts there.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import trio

from replicator.errors import Corrupt, Halted, Rejected, ReplicatorError, Unavailable
from replicator.format.block import Block, BlockPart, Header
from replicator.format.position import Position
from replicator.format.wire import DefinitionFrame, End, Frame, Heartbeat, StagedPart, pack_blocks, unpack_page
from replicator.pipeline.feed.client import FeedClient, Frames, Upstream
from replicator.pipeline.feed.forks import first_difference
from replicator.pipeline.feed.interventions import Interventions
from replicator.pipeline.feed.notices import GapCounts, behind_waiver, conflict_text, late_text, notice, stopped
from replicator.pipeline.feed.reports import report_for_ever
from replicator.pipeline.feed.stream_tracker import StreamTracker
from replicator.storage.journal.head import JournalHead
from replicator.supervise import Backoff, Trouble, first_cause, supervise
from settle_buffer.config import SettleConfig
from settle_buffer.entry import Entry, body_of
from settle_buffer.errors import SettleError, SpoolUnavailable
from settle_buffer.events import Certificate, Conflict, Correction, Event, GapRequest, Late, SpoolSetAside, Stopped
from settle_buffer.loop import Delivery, Settler
from settle_buffer.status import Status

log = logging.getLogger("replicator")

READ_AHEAD_BATCHES = 32  # of up to 64 KB each, what the connection gives at once
DECODED_BLOCKS = 20_000
MERGED_ENTRIES = 10_000
GAP_REQUESTS = 64  # waiting to be asked for; beyond that the settle buffer asks again by itself
CLOCK_SECONDS = 0.5  # while blocks come, heartbeats are passed on at most this often


BOOTSTRAP_CURE = (
    "stop this sidecar; replicator bootstrap CONFIG --replace takes a consistent copy from a region that has everything"
    " and goes on from there (--plan shows what it would do); what is here now is set aside, not lost"
)


class BlockStore(Protocol):
    """Where settled blocks go: the region's journal."""

    def head(self, strand: str) -> Position: ...
    def position_at(self, strand: str, sequence: int) -> Position | None: ...
    def base(self, strand: str) -> Position: ...
    def stage(self, strand: str, parts: Sequence[tuple[int, int, BlockPart]]) -> None: ...
    def accept(self, strand: str, blocks: Sequence[Block], frames: Sequence[bytes]) -> Position: ...


class FeedListener(Protocol):
    """Who hears how the following goes. Called from the trio thread, quickly."""

    @property
    def feed(self) -> Trouble: ...
    @property
    def settle(self) -> Trouble: ...

    def heard(self, heartbeat: Heartbeat) -> None: ...
    def staged(self) -> None: ...
    def received(self, last: Header) -> None: ...
    def settled(self, last: Header) -> None: ...
    def resumed(self) -> None: ...


class Follower:
    """Follows one strand of one upstream, which may change; without one, what has arrived settles all the same."""

    def __init__(
        self,
        upstream: Upstream | None,
        config: SettleConfig,
        spool: Path,
        store: BlockStore,
        tail: JournalHead,
        listener: FeedListener,
        backoff: Callable[[], Backoff] = lambda: Backoff(0.2, 15.0, random.Random()),
    ) -> None:
        self._upstream = upstream
        self._config = config
        self._spool = spool
        self._store = store
        self._tail = tail
        self._strand = tail.head.strand
        self._listener = listener
        self._backoff = backoff
        self._settler = self._new_settler()
        self._runs = False  # what was in the spool at the start is known
        self._fed_by: Upstream | None = None
        self._upstream_changed = trio.Event()
        self._feeding = trio.CancelScope()
        self._decoded: dict[bytes, Block] = {}  # by hash: what was proven on arrival and is still on its way
        self._contradiction = ""
        self._clock_at = 0.0
        self.interventions = Interventions(self._strand, lambda: self._settler, self._resumed)
        self.gap_counts = GapCounts()
        self.heard_at: float | None = None  # trio's clock, of the last heartbeat; and the head that it told
        self.heard_head = 0
        self.spool_set_aside = ""  # where a damaged spool was put
        self.halted: Halted | None = None  # why nothing more is settled
        self._given_up: Halted | None = None  # a halt that no decision takes back, save making the region anew

    @property
    def strand(self) -> str:
        """The strand that is followed."""
        return self._strand

    @property
    def upstream_url(self) -> str:
        """Whom it follows; empty: nobody."""
        return "" if self._upstream is None else self._upstream.url

    def follow(self, upstream: Upstream | None) -> None:
        """Follow another region from now on, or nobody. What has arrived stays, whoever sent it: it proves itself."""
        if upstream == self._upstream:
            return
        self._upstream = upstream
        self.heard_at = None
        self._upstream_changed.set()
        self._upstream_changed = trio.Event()
        self._feeding.cancel()

    @property
    def is_drained(self) -> bool:
        """Whether all that has arrived in order is in the journal, and nothing of an upstream before this one is still
        arriving."""
        if not self._runs or self._fed_by not in (None, self._upstream):
            return False
        return self._settler.buffer.strand(self._strand).released <= self._tail.head.sequence

    def status(self) -> Status:
        """What the settle buffer holds, waits for and why."""
        return self._settler.status()

    async def run_once(self) -> None:
        """Follow until something is raised that the settle buffer or the journal cannot go on with."""
        self._runs = False
        self._settler = settler = self._new_settler()
        self._decoded.clear()
        self.halted = self._given_up = None
        head = self._tail.head
        settler.start(self._strand, head.sequence, head.hash)
        self._gaps, gaps = trio.open_memory_channel[GapRequest](GAP_REQUESTS)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._store_released, settler)
                await nursery.start(settler.run)
                self._runs = True
                while True:
                    await self._feed_from(await self._some_upstream(), gaps)
        except* SettleError as group:
            raise _translated(group, self._spool) from group

    async def _some_upstream(self) -> Upstream:
        while self._upstream is None:
            await self._upstream_changed.wait()
        return self._upstream

    async def _feed_from(self, upstream: Upstream, gaps: trio.MemoryReceiveChannel[GapRequest]) -> None:
        """Take what this upstream sends; returns when another one is to be followed."""
        self._fed_by = upstream
        with trio.CancelScope() as self._feeding:
            async with FeedClient(upstream) as client, trio.open_nursery() as nursery:
                nursery.start_soon(self._fill_gaps, client, gaps)
                nursery.start_soon(report_for_ever, client, self._tail)
                await supervise("feed", lambda: self._connect_once(client), self._listener.feed, self._backoff())
        self._fed_by = None

    def _new_settler(self) -> Settler:
        return Settler(self._config, self._spool, notify=self._on_event)

    # -- feed → spool

    async def _connect_once(self, client: FeedClient) -> None:
        released = self._settler.buffer.strand(self._strand).released
        await self._tail.beyond(released - 1)  # what recovery released is in the journal: its hash is known
        try:
            async with client.stream(self._strand, self._tail.head) as frames:
                await self._take_all(frames, StreamTracker())
        except Rejected as refusal:
            raise await self._explained(client, refusal) from refusal
        raise Unavailable(
            "feed_closed", "the other region closed the stream", place=self.upstream_url, cure="it is opened again"
        )

    async def _take_all(self, frames: Frames, sent: StreamTracker | None = None) -> None:
        """Read ahead while the spool writes, so that one fsync serves all that came meanwhile."""
        send, receive = trio.open_memory_channel[list[Frame]](READ_AHEAD_BATCHES)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_read_into, frames.batches(), send)
            async with receive:
                async for batch in receive:
                    _take_waiting(receive, batch)
                    await self._take(batch)
                    if sent is not None:
                        await self._hear(batch, sent.up_to(batch))

    async def _take(self, batch: Sequence[Frame]) -> None:
        blocks = [frame for frame in batch if type(frame) is Block]
        if len(blocks) < len(batch):
            await self._take_others([frame for frame in batch if type(frame) is not Block])
        if blocks:
            await self._settler.put(self._entries(blocks))
            self._listener.received(blocks[-1].header)
        heartbeats = [frame for frame in batch if type(frame) is Heartbeat]
        if heartbeats and heartbeats[-1].position.strand == self._strand:
            self.heard_at = trio.current_time()
            self.heard_head = max(self.heard_head, heartbeats[-1].position.sequence)
            self._listener.heard(heartbeats[-1])

    async def _hear(self, batch: Sequence[Frame], sent: int | None) -> None:
        """Tell the settle buffer the feed's clock, and up to where everything has been sent."""
        beat = batch[-1]
        if type(beat) is not Heartbeat or beat.position.strand != self._strand:
            return
        if sent is not None or trio.current_time() >= self._clock_at:
            self._clock_at = trio.current_time() + CLOCK_SECONDS
            await self._settler.heartbeat(self._strand, beat.now, sequence=sent)

    async def _take_others(self, frames: Iterable[Frame]) -> None:
        """Parts are made durable before the block that they belong to is spooled."""
        parts: list[StagedPart] = []
        for frame in frames:
            match frame:
                case StagedPart():
                    parts.append(frame)
                case Block() | Heartbeat() | DefinitionFrame() | End():
                    pass  # definitions and ends are sent only to who starts from a time, or asked for an end
        if parts:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._store.stage, self._strand, parts)
            self._listener.staged()

    def _entries(self, blocks: Sequence[Block]) -> list[Entry]:
        strand = self._strand
        headers = [block.header for block in blocks]
        for header in headers:
            if header.strand != strand:
                message = f"a block of strand {header.strand!r} came in the stream of {strand!r}"
                cure = "check [region] strand on both sides"
                raise Corrupt("other_strand", message, place=self.upstream_url, cure=cure)
        if len(self._decoded) < DECODED_BLOCKS:
            self._decoded.update((block.hash, block) for block in blocks)
        return [
            Entry(strand, header.sequence, header.committed_at, block.hash, header.previous, frame)
            for header, block, frame in zip(headers, blocks, pack_blocks(blocks), strict=True)
        ]

    async def _fill_gaps(self, client: FeedClient, gaps: trio.MemoryReceiveChannel[GapRequest]) -> None:
        """Ask for what is missing. What fails is asked for again: the gap stays open and says so."""
        async for gap in gaps:
            try:
                async with client.range(self._strand, gap.first, gap.last) as frames:
                    await self._take_all(frames)
            except* (Unavailable, Rejected) as group:
                cause = first_cause(group)
                if isinstance(cause, Rejected) and cause.reason == "pruned":
                    raise await self._explained(client, cause) from cause  # it will never come from there
                log.warning("gap %d to %d is not filled yet: %s", gap.first, gap.last, cause)

    # -- spool → journal

    async def _store_released(self, settler: Settler) -> None:
        async for delivery in settler.releases:
            entries = list(_released(delivery))
            _take_released(settler, entries)
            before = self._tail.head.sequence
            if entries[-1].sequence == before + len(entries):
                await self._store_entries(settler, entries)
            else:
                await self._store_up_to_hole(settler, entries, before)

    async def _store_entries(self, settler: Settler, entries: Sequence[Entry]) -> None:
        known = self._decoded
        blocks = [known.pop(e.digest) if e.digest in known else _decode(e) for e in entries]
        frames = list(map(body_of, entries))
        with trio.CancelScope(shield=True):
            head = await trio.to_thread.run_sync(self._store.accept, self._strand, blocks, frames)
        self._tail.moved(head, blocks[-1].header.committed_at)
        self._listener.settled(blocks[-1].header)
        await settler.acknowledge(self._strand, head.sequence)

    async def _store_up_to_hole(self, settler: Settler, entries: Sequence[Entry], before: int) -> None:
        """Only a waiver makes a hole. What lies behind it cannot be linked: stay there, with the reason shown."""
        linked = [entry for place, entry in enumerate(entries, before + 1) if entry.sequence == place]
        if linked:
            await self._store_entries(settler, linked)
        missing = before + len(linked) + 1
        self._given_up = behind_waiver(_waiver_of(await settler.certificates(), missing))
        self._halt(self._given_up)
        await trio.sleep_forever()

    def _halt(self, halt: Halted) -> None:
        """Settle nothing more, and show why; the rest goes on."""
        log.error("settle halted: %s", halt)
        self.halted = halt
        self._listener.settle.halt(halt)

    def _resumed(self) -> Halted | None:
        """A person has let the settle buffer go on; what halts the strand yet."""
        self.halted = self._given_up
        if self.halted is None:
            self._listener.resumed()
        else:
            self._listener.settle.halt(self.halted)
        return self.halted

    # -- what the settle buffer says

    def _on_event(self, event: Event) -> None:
        self.gap_counts.add(event)
        level, words = notice(event)
        log.log(level, "strand %s: %s", self._strand, words)
        match event:
            case GapRequest():
                try:
                    self._gaps.send_nowait(event)
                except trio.WouldBlock:
                    log.info("gap %d to %d waits: many are asked for already", event.first, event.last)
            case Conflict():
                self._contradiction = conflict_text(event)
            case Late():
                self._contradiction = late_text(event)
            case Stopped():
                self._halt(stopped(event, self._contradiction))
            case SpoolSetAside(path):
                self.spool_set_aside = path

    # -- refusals

    async def _explained(self, client: FeedClient, refusal: Rejected) -> ReplicatorError:
        """What the other region's refusal means here: all of them need a person."""
        mine = self._tail.head
        place = f"{self.upstream_url}, strand {self._strand}"
        match refusal.reason:
            case "diverged":
                fork = await self._first_difference(client, mine.sequence)
                message = (
                    f"diverged at sequence {fork}: this region and the primary hold different blocks from there on"
                )
                cure = "find out which history is right before anything else; then resync the other region"
                return Halted("diverged", message, place=place, cure=cure)
            case "ahead":
                message = f"this region is at sequence {mine.sequence}; {refusal.message}"
                cure = "the primary was set back, or it is another one: find out before anything else"
                return Halted("ahead_of_primary", message, place=place, cure=cure)
            case "pruned":
                message = f"this region needs the block behind sequence {mine.sequence}; {refusal.message}"
                return Halted("pruned", message, place=place, cure=BOOTSTRAP_CURE)
            case reason:
                return Halted(reason, refusal.message, place=place, cure="check [follow] and the primary's version")

    async def _first_difference(self, client: FeedClient, differs: int) -> int:
        """The first sequence at which the chains hold different hashes."""

        async def same(sequence: int) -> bool:
            mine = await trio.to_thread.run_sync(self._store.position_at, self._strand, sequence)
            theirs = await client.position(self._strand, sequence)
            return mine is not None and theirs is not None and mine.hash == theirs.hash

        return await first_difference(same, self._store.base(self._strand).sequence, differs)


async def _read_into(batches: AsyncIterator[list[Frame]], send: trio.MemorySendChannel[list[Frame]]) -> None:
    async with send:
        with contextlib.suppress(trio.BrokenResourceError):  # who takes them has stopped, and says why
            async for batch in batches:
                await send.send(batch)


def _take_waiting(receive: trio.MemoryReceiveChannel[list[Frame]], batch: list[Frame]) -> None:
    while True:
        try:
            batch.extend(receive.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            return


def _take_released(settler: Settler, entries: list[Entry]) -> None:
    """Add what was released meanwhile, so that one group commit serves it all."""
    while len(entries) < MERGED_ENTRIES:
        try:
            release = settler.releases.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel):
            return
        entries.extend(_released(release))


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


def _decode(entry: Entry) -> Block:
    """The block of an entry that came back from the spool."""
    (block,) = unpack_page(entry.body)
    return block


def _translated(group: BaseExceptionGroup[SettleError], spool: Path) -> ReplicatorError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, SettleError)
    kind = Unavailable if isinstance(error, SpoolUnavailable) else Halted
    return kind(error.reason, error.message, place=error.place or str(spool), cure=error.cure)
