"""Resync: everything that was touched since a time is set to what the journal says, while replication goes on.

Guarantee: each key is written with its state at exactly the position where replay stands at that moment, in one
transaction of whole keys, so no reader ever sees a key go back in time. It ends with every key of the span as the
journal has it, save those whose row the journal cannot tell (counted). Killed at any instant it goes on where it was.

Three steps. *Scan*: the blocks of the span tell which keys were touched, and where last; that goes to the worklist.
*Sweep*: of a table that was truncated in the span, rows that the replica holds and nothing has touched since must go.
*Rewrite*: in the order of the journal, so that each page is read once, some keys at a time between two steps of replay.
What replay does meanwhile moves the place of a key that waits; keys touched for the first time need no rewriting, for
replay itself writes them. So the work only shrinks, however busy the ledger is.

A plan does the same without writing.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from replicator.errors import Halted, Rejected, ReplicatorError, Unavailable
from replicator.format.position import MAX_SEQUENCE
from replicator.pipeline.replay.loop import ReplayLoop
from replicator.pipeline.replicas.base import Replica
from replicator.storage.journal.head import JournalHead
from replicator.storage.journal.store import Journal
from replicator.supervise import Backoff
from replicator.verify.repair.compare_and_set import ComparedKey, compare, write
from replicator.verify.repair.expected_row import ExpectedRow, ExpectedRows, TableVersions
from replicator.verify.repair.resync_job import ResyncJob, ResyncRequest
from replicator.verify.repair.worklist import PendingKey, Worklist
from replicator.verify.repair.worklist_filler import SAMPLE_KEYS, WorklistFiller

CHUNK_KEYS = 500
CHUNK_BYTES = 2 << 20
NEAR_BLOCKS = 2000  # that may be scanned while replay waits
SWEEP_KEYS = 2000
log = logging.getLogger("replicator")

BEHIND, FAR, MORE, FINISHED = "behind", "far", "more", "finished"


class Resync:
    """The resyncs of one strand in one region, one at a time. ``path`` is the worklist's file."""

    def __init__(
        self,
        path: Path,
        journal: Journal,
        expected_rows: ExpectedRows,
        replay: ReplayLoop,
        applied: JournalHead,
        strand: str,
        backoff: Callable[[], Backoff],
    ) -> None:
        self._work = Worklist(path)
        self._journal = journal
        self._expected_rows = expected_rows
        self._replay = replay
        self._applied = applied
        self._strand = strand
        self._backoff = backoff
        self._job_begun = trio.Event()
        self._job_ended = trio.Event()
        self._is_cancelled = False
        self._filler = WorklistFiller(self._work, journal, strand)
        self._swept_up_to: dict[str, bytes] = {}  # the last key of each table; begun anew in each life
        self._starting = trio.Lock()
        self.job: ResyncJob | None = None
        self._is_open = False

    # -- what an operator asks

    def needs(self) -> int:
        """The sequence behind which blocks are needed; beyond every block if no resync is under way."""
        return self.job.first if self.job is not None and self.job.is_active else MAX_SEQUENCE

    async def start(self, request: ResyncRequest) -> ResyncJob:
        """Begin; durable on return. Raises Rejected."""
        async with self._starting:  # two that ask at once must not both find nothing under way
            if not self._is_open:
                raise Unavailable("starting", "the sidecar is starting", place="resync", cure="ask again in a moment")
            if self.job is not None and self.job.is_active:
                raise Rejected(
                    "under_way", "a resync is under way", status=409, place="resync", cure="cancel it, or wait"
                )
            job = await trio.to_thread.run_sync(self._new_job, request)
            await trio.to_thread.run_sync(self._work.begin_anew, dataclasses.asdict(job))
            self._is_cancelled = False
            self._begin(job)
            log.warning("resync of what was touched behind sequence %d, asked for by %s", job.first, job.who)
            return job

    def _new_job(self, request: ResyncRequest) -> ResyncJob:
        first = self._journal.sequence_before(self._strand, request.since)
        base = self._journal.base(self._strand).sequence
        if base and first == base:
            raise Rejected(
                "before_the_journal",
                f"the journal begins behind sequence {base}: what was touched before that is not in it",
                status=409,
                place="from",
                cure="name a later time, or make the region anew",
            )
        last = self._journal.head(self._strand).sequence
        if request.until is not None:
            last = min(last, self._journal.sequence_before(self._strand, request.until + 1))
        labels = {definition.label for definition in self._journal.definitions(self._strand).values()}
        for table in request.tables or ():
            if table not in labels:
                raise Rejected("unknown_table", "the ledger has no such table", status=404, place=f"table {table}")
        fields = dataclasses.asdict(request)
        return ResyncJob(**fields, first=first, last=max(first, last), scanned=first, started_at=time.time_ns() // 1000)

    def cancel(self) -> ResyncJob:
        """Stop after the chunk that is under way; what was written stays, for it is right. Raises Rejected."""
        if self.job is None or not self.job.is_active:
            raise Rejected("nothing_under_way", "no resync is under way", status=409, place="resync")
        self._is_cancelled = True
        return self.job

    async def ended(self) -> ResyncJob | None:
        """Return once no resync is under way; the last one, if there was one."""
        while self.job is not None and self.job.is_active:
            await self._job_ended.wait()
        return self.job

    # -- the loop

    async def run(self) -> None:
        """Go on with what was under way, then wait to be asked; for ever."""
        backoff = self._backoff()
        while True:
            try:
                if not self._is_open:
                    stored = await trio.to_thread.run_sync(self._work.open)
                    self._begin(ResyncJob.stored(stored))
                    self._is_open = True
                while self.job is None or not self.job.is_active:
                    await self._job_begun.wait()
                await self._work_off(self.job)
                self._is_cancelled = False
                backoff.reset()
            except Unavailable as error:
                log.warning("resync waits: %s", error)
                self._is_open = False  # what was gathered and not stored is gathered again
                await trio.sleep(backoff.next())
            except Halted as error:
                log.error("resync failed: %s", error)
                if self._is_open:
                    await self._finish("failed", error)
                else:
                    log.error("the worklist is set aside: %s", await trio.to_thread.run_sync(self._work.set_aside))

    def _begin(self, job: ResyncJob | None) -> None:
        self.job = job
        self._filler.begin()
        self._swept_up_to.clear()
        asked, self._job_begun = self._job_begun, trio.Event()
        asked.set()

    async def _work_off(self, job: ResyncJob) -> None:
        # The span first, with replay going on beside it; only what comes behind it is scanned between two steps.
        while job.scanned < job.last and not self._is_cancelled:
            await trio.to_thread.run_sync(self._filler.scan, job, job.last)
        if not self._is_cancelled and job.to_sweep is None:
            await trio.to_thread.run_sync(self._filler.close_span, job)
        # So that the first keys can be read ahead, too.
        await self._replay.between_steps(lambda replica, _: self._tables(replica))
        while not self._is_cancelled:
            await self._applied.beyond(job.scanned - 1)  # a replica that was put back comes up by itself
            began = trio.current_time()
            await trio.to_thread.run_sync(self._read_ahead, job)
            progress = await self._replay.between_steps(lambda replica, _: self._step(replica, job))
            job.rewrite_seconds += trio.current_time() - began
            if progress == FINISHED:
                break
            if progress == FAR:
                await trio.to_thread.run_sync(self._filler.scan, job, self._applied.position.sequence)
            elif progress == BEHIND:
                await trio.sleep(self._backoff().next())
        await self._finish("cancelled" if self._is_cancelled else "done", None)

    async def _finish(self, state: str, error: ReplicatorError | None) -> None:
        job = self.job
        assert job is not None
        cause = error.as_json() if error else None
        ended_job = dataclasses.replace(job, state=state, finished_at=time.time_ns() // 1000, error=cause)
        await trio.to_thread.run_sync(self._work.end, dataclasses.asdict(ended_job))
        self.job = ended_job
        ended, self._job_ended = self._job_ended, trio.Event()
        ended.set()
        log.warning("resync %s: %d keys, %d differed, %d unknown", state, job.compared, job.differing, job.unknown)

    # -- between two steps of replay

    def _step(self, replica: Replica, job: ResyncJob) -> str:
        """One sweep of some keys, or the rewriting of some."""
        applied = replica.applied(self._strand)
        if applied is None or applied.position.sequence < job.scanned:
            return BEHIND if job.last else FINISHED
        while job.scanned < applied.position.sequence:
            if applied.position.sequence - job.scanned > NEAR_BLOCKS:
                return FAR
            self._filler.scan(job, applied.position.sequence)
        tables = self._tables(replica)
        if job.unswept:
            self._sweep(replica, job, tables, min(job.unswept))
            return MORE
        pending = self._work.pending(CHUNK_KEYS)
        if not pending:
            return FINISHED
        self._rewrite(replica, job, self._expected_of(tables, pending))
        return MORE

    def _tables(self, replica: Replica) -> dict[str, TableVersions]:
        return self._expected_rows.tables(replica.definitions(self._strand))

    def _sweep(self, replica: Replica, job: ResyncJob, tables: dict[str, TableVersions], label: str) -> None:
        """Add some of the keys that the replica holds of a table; touched ones are in the worklist already."""
        after = self._swept_up_to.get(label)
        keys = replica.stored_keys(tables[label].stored, after, SWEEP_KEYS) if label in tables else []
        if keys:
            self._work.add_swept(label, keys, self._work.truncated()[label])
            self._swept_up_to[label] = keys[-1]
            return
        job.swept.append(label)
        job.keys = self._work.count()
        self._work.save(dataclasses.asdict(job))

    def _rewrite(
        self, replica: Replica, job: ResyncJob, expected: Sequence[tuple[PendingKey, TableVersions, ExpectedRow]]
    ) -> None:
        compared = compare(replica, [(table, pending.key, right) for pending, table, right in expected])
        users = None if job.users is None else frozenset(job.users)
        wanted = [key for key in compared if users is None or key.is_of(users)]
        differing = [key for key in wanted if key.differs]
        if differing and not job.plan:
            self._write_differing(replica, differing)
        job.compared += len(compared)
        job.differing += len(differing)
        job.unknown += sum(1 for key in wanted if key.right.unknown)
        job.other_users += len(compared) - len(wanted)
        done = [pending for pending, _, _ in expected]
        if job.sampled:  # the next ones count as done without a look, so that the sample lies all over the span
            done += self._work.pending(len(done) * (1 + job.keys // SAMPLE_KEYS))
        self._work.done(done, dataclasses.asdict(job))

    def _write_differing(self, replica: Replica, differing: Sequence[ComparedKey]) -> None:
        applied = replica.applied(self._strand)
        assert applied is not None
        # Compared again within the transaction: from here on nobody else writes to these rows until it ends.
        replica.begin()
        again = compare(replica, [(key.table, key.key, key.right) for key in differing])
        write(replica, self._strand, [key for key in again if key.differs])
        replica.commit(applied)

    def _expected_of(
        self, tables: dict[str, TableVersions], pending: Sequence[PendingKey]
    ) -> list[tuple[PendingKey, TableVersions, ExpectedRow]]:
        """The expected rows of the first of these keys, so many that they are not too large."""
        expected, size = [], 0
        for key in pending:
            table = tables[key.label]
            right = self._expected_rows.right(table, key.key, key.place)
            expected.append((key, table, right))
            size += right.size
            if size > CHUNK_BYTES:
                break
        return expected

    def _read_ahead(self, job: ResyncJob) -> None:
        """Read what the next step will need, while replay goes on."""
        tables = self._expected_rows.tables_so_far()
        if tables and not job.unswept:
            pending = [key for key in self._work.pending(CHUNK_KEYS) if key.label in tables]
            self._expected_of(tables, pending)
