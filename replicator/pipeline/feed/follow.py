"""Following another region: feed → settle buffer → this region's journal.

Guarantee: a block is *received* only when it is durable in the spool, leaves the spool only when it is durable in the
journal, and reaches the journal only in order and linked. A connection that breaks, repeats, reorders or leaves out
changes nothing of that: what is missing is asked for again, what came twice is dropped, what contradicts halts.

    connection ─▶ proven frames ─▶ spool (durable: received) ─▶ order, gaps ─▶ journal (durable: settled) ─▶ trim
                  a large block's parts go to the journal's staging before their block is spooled

``intake`` is the way into the spool, ``journal_writer`` the way out of it; here is whom to follow, and what a gap, a
contradiction or a refusal means. What is durable in the journal is reported back (``reports``): the other region keeps
its own journal for us up to there, and its writers may wait for it.

A feed that answers *diverged* is searched for the first sequence at which the chains part, and the strand halts there.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path

import trio

from replicator.errors import Halted, Rejected, ReplicatorError, Unavailable
from replicator.format.wire import NAME_TAKEN, Heartbeat
from replicator.pipeline.feed.base import BlockStore, FeedListener
from replicator.pipeline.feed.client import FeedClient, Upstream
from replicator.pipeline.feed.decoded_blocks import DecodedBlocks
from replicator.pipeline.feed.forks import first_difference
from replicator.pipeline.feed.intake import FeedIntake
from replicator.pipeline.feed.interventions import Interventions
from replicator.pipeline.feed.journal_writer import JournalWriter
from replicator.pipeline.feed.notices import GapCounts, conflict_text, late_text, notice, refused, stopped
from replicator.pipeline.feed.reports import report_for_ever
from replicator.pipeline.feed.stream_tracker import StreamTracker
from replicator.storage.journal.head import JournalHead
from replicator.supervise import Backoff, first_cause, supervise
from replicator.transport.answer import FOREIGN
from settle_buffer.config import SettleConfig
from settle_buffer.errors import SettleError, SpoolUnavailable
from settle_buffer.events import Conflict, Event, GapRequest, Late, SpoolSetAside, Stopped
from settle_buffer.loop import Settler
from settle_buffer.status import Status

log = logging.getLogger("replicator")

GAP_REQUESTS = 64  # waiting to be asked for; beyond that the settle buffer asks again by itself


class Follower:
    """Follows one strand of one upstream, which may change; without one, what has arrived settles all the same.

    For status and operators: ``interventions`` is what a person may decide, ``gap_counts`` what became of gaps.
    ``heard_at`` is trio's clock at the last heartbeat of the upstream that is followed (None: none yet), ``heard_head``
    the greatest sequence that any heartbeat named. ``spool_set_aside`` is where a damaged spool was put, ``halted`` why
    nothing more is settled.
    """

    def __init__(
        self,
        upstream: Upstream | None,
        config: SettleConfig,
        spool: Path,
        store: BlockStore,
        journal_head: JournalHead,
        listener: FeedListener,
        backoff: Callable[[], Backoff] = lambda: Backoff(0.2, 15.0, random.Random()),
    ) -> None:
        self._upstream = upstream
        self._config = config
        self._spool = spool
        self._store = store
        self._journal_head = journal_head
        self._strand = journal_head.position.strand
        self._listener = listener
        self._backoff = backoff
        self._settler = self._new_settler()
        self._decoded = DecodedBlocks()
        self._is_recovered = False  # what was in the spool at the start is known
        self._fed_by: Upstream | None = None  # of whom something may still be arriving
        self._upstream_changed = trio.Event()
        self._feeding = trio.CancelScope()
        self._contradiction = ""  # what was said before the settle buffer stopped
        self._final_halt: Halted | None = None  # one that no decision takes back, save making the region anew
        self.interventions = Interventions(self._strand, lambda: self._settler, self._resumed)
        self.gap_counts = GapCounts()
        self.heard_at: float | None = None
        self.heard_head = 0
        self.spool_set_aside = ""
        self.halted: Halted | None = None

    @property
    def strand(self) -> str:
        """The strand that is followed."""
        return self._strand

    @property
    def upstream_url(self) -> str:
        """The address of the region that is followed; empty if none is."""
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
        if not self._is_recovered or self._fed_by not in (None, self._upstream):
            return False
        return self._settler.buffer.strand(self._strand).released <= self._journal_head.position.sequence

    def status(self) -> Status:
        """What the settle buffer holds, waits for and why."""
        return self._settler.status()

    async def run_once(self) -> None:
        """Follow until something is raised that the settle buffer or the journal cannot go on with."""
        self._is_recovered = False
        # A settler that has raised is spent, and what it held in memory with it: the spool and the journal tell anew.
        self._settler = settler = self._new_settler()
        self._decoded = DecodedBlocks()
        self.halted = self._final_halt = None
        head = self._journal_head.position
        settler.start(self._strand, head.sequence, head.hash)
        self._gaps, gaps = trio.open_memory_channel[GapRequest](GAP_REQUESTS)
        writer = JournalWriter(
            settler, self._store, self._journal_head, self._decoded, self._listener.settled, self._halt_for_good
        )
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(writer.run)  # first: recovery goes on only as fast as what it releases is written
                await nursery.start(settler.run)
                self._is_recovered = True
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
        try:
            with trio.CancelScope() as self._feeding:
                async with FeedClient(upstream) as client, trio.open_nursery() as nursery:
                    intake = self._intake(upstream)
                    nursery.start_soon(self._fill_gaps, client, intake, gaps)
                    nursery.start_soon(report_for_ever, client, self._journal_head)
                    trouble = self._listener.feed
                    await supervise("feed", lambda: self._connect_once(client, intake), trouble, self._backoff())
        finally:
            self._fed_by = None

    def _intake(self, upstream: Upstream) -> FeedIntake:
        return FeedIntake(
            upstream.url,
            self._settler,
            self._store,
            self._journal_head,
            self._decoded,
            self._listener,
            self._on_heartbeat,
        )

    def _new_settler(self) -> Settler:
        return Settler(self._config, self._spool, notify=self._on_event)

    async def _connect_once(self, client: FeedClient, intake: FeedIntake) -> None:
        # The stream is asked for behind the journal's end. What recovery released is on its way there: let it arrive,
        # or all of it would be sent again.
        released = self._settler.buffer.strand(self._strand).released
        await self._journal_head.beyond(released - 1)
        try:
            async with client.stream(self._strand, self._journal_head.position) as frames:
                await intake.take_all(frames, StreamTracker())
        except Rejected as refusal:
            raise await self._explained(client, refusal) from refusal
        raise Unavailable(
            "feed_closed", "the other region closed the stream", place=self.upstream_url, cure="it is opened again"
        )

    async def _fill_gaps(
        self, client: FeedClient, intake: FeedIntake, gaps: trio.MemoryReceiveChannel[GapRequest]
    ) -> None:
        """Ask for what is missing. What fails is asked for again: the gap stays open and says so."""
        async for gap in gaps:  # the channel stays open when this ends: what waits in it is asked of the next upstream
            try:
                async with client.range(self._strand, gap.first, gap.last) as frames:
                    await intake.take_all(frames)
            except* (Unavailable, Rejected) as group:
                cause = first_cause(group)
                if isinstance(cause, Rejected) and cause.reason == "pruned":
                    raise await self._explained(client, cause) from cause  # it will never come from there
                log.warning("gap %d to %d is not filled yet: %s", gap.first, gap.last, cause)

    def _on_heartbeat(self, heartbeat: Heartbeat, at: float) -> None:
        self.heard_at = trio.current_time()
        self.heard_head = max(self.heard_head, heartbeat.position.sequence)
        self._listener.heard(heartbeat, at)

    # -- what stops the strand, and what lets it go on

    def _halt(self, halt: Halted) -> None:
        """Settle nothing more, and show why; the rest goes on."""
        log.error("settle halted: %s", halt)
        self.halted = halt
        self._listener.settle.halt(halt)

    def _halt_for_good(self, halt: Halted) -> None:
        self._final_halt = halt
        self._halt(halt)

    def _resumed(self) -> Halted | None:
        """A person has let the settle buffer go on; what halts the strand yet."""
        self.halted = self._final_halt
        if self.halted is None:
            self._listener.resumed()
        else:
            self._listener.settle.halt(self.halted)
        return self.halted

    def _on_event(self, event: Event) -> None:
        """What the settle buffer says; it must not wait here."""
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

    async def _explained(self, client: FeedClient, refusal: Rejected) -> Halted | Unavailable:
        """What the other region's refusal means here: all that are a sidecar's own need a person."""
        if refusal.reason in (FOREIGN, NAME_TAKEN):  # of a balancer, say, while it knows no sidecar; or it may go again
            return Unavailable(refusal.reason, refusal.message, place=refusal.place, cure=refusal.cure)
        sequence = self._journal_head.position.sequence
        fork = await self._first_difference(client, sequence) if refusal.reason == "diverged" else None
        return refused(refusal, sequence, fork, f"{self.upstream_url}, strand {self._strand}")

    async def _first_difference(self, client: FeedClient, differs: int) -> int:
        """The first sequence at which the chains hold different hashes."""

        async def same(sequence: int) -> bool:
            mine = await trio.to_thread.run_sync(self._store.position_at, self._strand, sequence)
            theirs = await client.position(self._strand, sequence)
            return mine is not None and theirs is not None and mine.hash == theirs.hash

        return await first_difference(same, self._store.base(self._strand).sequence, differs)


def _translated(group: BaseExceptionGroup[SettleError], spool: Path) -> ReplicatorError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, SettleError)
    kind = Unavailable if isinstance(error, SpoolUnavailable) else Halted
    return kind(error.reason, error.message, place=error.place or str(spool), cure=error.cure)
