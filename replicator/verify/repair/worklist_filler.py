"""Gathering what the blocks of a resync's span touch into its worklist, and following the journal behind it.

Guarantee: within the span every key that is touched is in the worklist, with its last place. Behind the span only keys
that are still to be done are moved to their new place, so the worklist shrinks however busy the ledger is; save for
tables that are yet to be swept, of which every key that is touched must be known.
"""

from __future__ import annotations

import dataclasses
import functools
import time

from replicator.format.statement import statement_runs
from replicator.storage.journal.store import Journal
from replicator.verify.repair.resync_job import ResyncJob
from replicator.verify.repair.touched_keys import TouchedKeys
from replicator.verify.repair.worklist import Worklist

SCAN_BYTES = 1 << 18
SAMPLE_KEYS = 20_000  # compared by a plan


class WorklistFiller:
    """Fills one worklist from the journal. ``begin`` before a job, and whenever the worklist was opened anew."""

    def __init__(self, work: Worklist, journal: Journal, strand: str) -> None:
        self._work = work
        self._journal = journal
        self._strand = strand
        self._touched: TouchedKeys | None = None

    def begin(self) -> None:
        """Forget what was gathered and not stored: it is gathered again."""
        self._touched = None

    def scan(self, job: ResyncJob, until: int) -> None:
        """Gather what the next blocks touch, not beyond ``until``; how far that is goes into the job."""
        began = time.monotonic()
        in_span = job.scanned < job.last
        until = min(until, job.last) if in_span else until
        touched, parts = self._touched_keys(job), functools.partial(self._journal.parts, self._strand)
        for block in self._journal.blocks(self._strand, job.scanned, SCAN_BYTES):
            sequence = block.header.sequence
            if sequence > until:
                break
            for _, ordinal, statements in statement_runs([block], parts):
                touched.add(sequence, statements, ordinal)
                if block.body is None:  # a part of many may touch a million keys: they do not wait for the next one
                    self._store(job, touched, in_span=in_span)
            job.scanned = sequence
            if in_span:
                job.blocks += 1
                job.bytes += block.header.body_bytes
        if in_span:
            job.scan_seconds += time.monotonic() - began
        self._store(job, touched, in_span=in_span)

    def _store(self, job: ResyncJob, touched: TouchedKeys, *, in_span: bool) -> None:
        # A sweep adds what the replica holds as untouched since the truncate: touched keys must be there before it.
        adding = None if in_span else job.unswept
        self._work.gather(touched.keys, touched.truncated, adding, dataclasses.asdict(job))
        touched.clear()

    def _touched_keys(self, job: ResyncJob) -> TouchedKeys:
        if self._touched is None:
            tables = None if job.tables is None else frozenset(job.tables)
            self._touched = TouchedKeys(self._journal.definitions(self._strand), tables)
        return self._touched

    def close_span(self, job: ResyncJob) -> None:
        """The span is gathered: what is to be swept and how many keys there are is known from here on."""
        job.to_sweep = sorted(self._work.truncated())
        job.keys = self._work.count()
        job.sampled = job.plan and job.users is None and job.keys > SAMPLE_KEYS
        job.state = "rewriting"
        self._work.save(dataclasses.asdict(job))
