"""What a former primary committed and nobody captured: read to the end of its log, under the epoch it was written in.

Given: the fence is closed, so the log's end stays where it is but for what holds nothing for us. Guarantee: when it
returns, every commit of the published tables up to the log's end, as it was when called, is in the journal, and that is
noted. It only reads the database. Killed or out of time it is called again, and goes on from the journal's end.

Async: it belongs on the trio thread.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

import trio

from replicator.errors import Unavailable
from replicator.format.block import Block, Draft
from replicator.pipeline.capture import Capture
from replicator.pipeline.sources.postgres.options import PostgresOptions
from replicator.pipeline.sources.postgres.sequences import SEQUENCES_TXID, pack_sequences, read_sequences
from replicator.pipeline.sources.postgres.session import session
from replicator.pipeline.sources.postgres.slot import written_lsn
from replicator.pipeline.sources.postgres.source import CAPTURED_NOTE, PostgresSource
from replicator.pipeline.sources.postgres.wal_reader import first_error
from replicator.postgres.lsn import lsn_text, parse_lsn
from replicator.postgres.session import place_of
from replicator.storage.journal.head import JournalHead
from replicator.storage.journal.store import Journal

LOOK_SECONDS = 0.02
HEARTBEAT_SECONDS = 0.2  # its message moves the end of a quiet log past what is waited for


async def capture_rest(
    options: PostgresOptions,
    journal: Journal,
    journal_head: JournalHead,
    seconds: float,
    on_stored: Callable[[Sequence[Block]], None] = lambda blocks: None,
    *,
    sequences: bool = False,
) -> None:
    """Everything up to the log's end becomes blocks. Raises Unavailable (``not_captured`` if the time was not enough:
    call again), or Halted if the slot or its log is gone.

    With ``sequences`` their values come in a block of their own at the end. Not after a crash: that block would be one
    that the others lack, although nobody's work is in it.
    """
    # Sequences are not read on the way: each reading is a block, which the others would lack.
    options = dataclasses.replace(options, heartbeat_seconds=HEARTBEAT_SECONDS, sequence_seconds=0)
    end = await trio.to_thread.run_sync(_end_of_log, options)  # fixed now: our own heartbeats move it on and on
    source = PostgresSource(options)
    capture = Capture(source, journal, journal_head, max(journal_head.position.epoch, 1), on_stored)
    with trio.move_on_after(seconds) as waiting:
        try:
            await _capture_to(source, capture, end)
        except BaseExceptionGroup as group:
            raise first_error(group) from None
    if waiting.cancelled_caught:
        raise Unavailable(
            "not_captured",
            f"the log was not read to {lsn_text(end)} within {seconds:.0f} s",
            place=place_of(options.dsn),
            cure="it goes on where it was when it is tried again",
        )
    if sequences:
        await trio.to_thread.run_sync(_add_sequences, options, journal, journal_head, end, on_stored)
    # Last, and only now: on this note the slot is dropped.
    await trio.to_thread.run_sync(journal.set_note, CAPTURED_NOTE, lsn_text(end))


async def _capture_to(source: PostgresSource, capture: Capture, end: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(capture.run_once)
        while source.report.seen is None or parse_lsn(source.report.seen) < end:  # noqa: ASYNC110  # a plain record
            await trio.sleep(LOOK_SECONDS)
        await source.vouched_for(end)  # a publication that was changed has left commits out of what is seen
        await capture.stored_so_far()  # what the source has read is on its way to the journal still
        nursery.cancel_scope.cancel()


def _add_sequences(
    options: PostgresOptions,
    journal: Journal,
    journal_head: JournalHead,
    end: int,
    on_stored: Callable[[Sequence[Block]], None],
) -> None:
    with session(options) as connection:
        values = pack_sequences(read_sequences(connection, options.publication))
    if values:
        draft = Draft(SEQUENCES_TXID, lsn_text(end), time.time_ns() // 1000, 0, len(values), b"".join(values))
        blocks = journal.append(journal_head.position.strand, [draft], max(journal_head.position.epoch, 1))
        trio.from_thread.run_sync(journal_head.moved, blocks[-1].position, blocks[-1].header.committed_at)
        trio.from_thread.run_sync(on_stored, blocks)


def _end_of_log(options: PostgresOptions) -> int:
    with session(options) as connection:
        return written_lsn(connection)
