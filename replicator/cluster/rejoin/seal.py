"""Sealing orphans: the blocks and what there is to say of them, kept before anything is undone.

Guarantee: a seal is a directory that appears under its name only when all of it is durable and ``seal.json`` was
written last; it holds the blocks byte for byte (``storage/journal/sealed.py``). Sealing the same orphans again gives
the same seal; one that does not prove itself is put aside and made anew, as long as the journal has the blocks. Nothing
in the journal or the tables is changed.

The report judges each transaction by what came since in the region in charge: those blocks are fetched into a scratch
directory, which is removed when the seal stands.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import trio

from replicator.cluster.rejoin import report
from replicator.cluster.rejoin.conflict_check import judge
from replicator.cluster.rejoin.durable_files import unwritable, write_file
from replicator.cluster.rejoin.fork import Fork
from replicator.cluster.rejoin.orphan_keys import OrphanKeys
from replicator.cluster.rejoin.page import page
from replicator.cluster.rejoin.transaction_facts import Fields, TransactionFacts
from replicator.cluster.rejoin.winning_chain import FetchedBlocks, ScratchKeyOutcomes, WinningChainJournal
from replicator.errors import Halted
from replicator.format.wire import pack_block, pack_definition_frame, pack_end, pack_part
from replicator.pipeline.feed.client import FeedClient
from replicator.storage.atomic_file import sync_directory
from replicator.storage.data_dir import DataDir, SealDir
from replicator.storage.journal.history import HistoryIndex
from replicator.storage.journal.sealed import (
    Seal,
    SealedBlocks,
    file_sum,
    name_of,
    seal_fields,
    verified,
)
from replicator.storage.journal.store import Journal

READ_BYTES = 1 << 20


class OrphanSealer:
    """Seals the orphans of one region. ``region`` is its name, for the report."""

    def __init__(
        self,
        data_dir: DataDir,
        journal: Journal,
        history: HistoryIndex,
        region: str,
        probe: Callable[[str], None] = lambda step: None,  # called at each named step: tests die there
    ) -> None:
        self._data_dir = data_dir
        self._journal = journal
        self._history = history
        self._region = region
        self._probe = probe

    async def seal(self, fork: Fork, client: FeedClient) -> Seal:
        """Seal the orphans of a fork; durable on return. Raises Unavailable or Halted; then nothing was sealed."""
        assert fork.orphans, "there is nothing to seal"
        target = self._data_dir.seal(name_of(fork.position, fork.head))
        if target.path.exists():
            try:
                return await trio.to_thread.run_sync(verified, target.path)
            except Halted:
                await trio.to_thread.run_sync(_put_aside, target.path)
        scratch = FetchedBlocks(target.scratch, self._journal, fork.position)
        await trio.to_thread.run_sync(scratch.open)
        try:
            self._probe("opened")
            await scratch.fetch(client, fork.theirs)
            self._probe("fetched")
            seal = await trio.to_thread.run_sync(self._write, target, fork, scratch, client.url)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(scratch.close)
        # Only now: after a failure the next call goes on with what was fetched.
        await trio.to_thread.run_sync(scratch.remove)
        return seal

    def _write(self, target: SealDir, fork: Fork, scratch: FetchedBlocks, other: str) -> Seal:
        part = target.part
        now = time.time_ns() // 1000
        seal = Seal(target.path, fork.position, fork.head, fork.orphans, now, scratch.journal.head(fork.strand))
        try:
            shutil.rmtree(part.path, ignore_errors=True)  # of a call that was killed: the whole of it is made anew
            part.path.mkdir(parents=True)
            sync_directory(self._data_dir.path)
            self._probe("began")
            self._write_blocks(part.blocks, fork)
            self._probe("blocks")
            head = report.heading(seal, self._region, other)
            self._write_report(part, head, fork, seal, scratch)
            self._probe("report")
            write_file(part.page, page(report.read_heading(part.path), report.read_transactions(part.path)))
            self._probe("page")
            sums = {file.name: file_sum(file) for file in part.summed}
            write_file(part.seal, [json.dumps(seal_fields(seal, sums), indent=2)])
            self._probe("seal")
            # The name comes when all of it is durable: whoever finds a seal need not ask whether it is whole.
            os.replace(part.path, target.path)
            self._probe("named")
            sync_directory(self._data_dir.orphans)
            self._probe("end")
        except OSError as error:
            raise unwritable(part.path, error) from error
        return verified(target.path)

    def _write_blocks(self, path: Path, fork: Fork) -> None:
        with path.open("wb") as file:
            for frame in self._frames(fork):
                file.write(frame)
            file.flush()
            os.fsync(file.fileno())

    def _frames(self, fork: Fork) -> Iterator[bytes]:
        strand, after = fork.strand, fork.position.sequence
        for relation, data in self._journal.definitions_in_order(strand, after):
            yield pack_definition_frame(relation, data)
        while after < fork.last:
            for block in self._journal.blocks(strand, after, READ_BYTES):
                after = block.header.sequence
                if block.body is None:
                    for number, part in enumerate(self._journal.parts(strand, after)):
                        yield pack_part(after, number, part)
                yield pack_block(block)
        yield pack_end("the last orphan")

    def _write_report(self, part: SealDir, head: Fields, fork: Fork, seal: Seal, scratch: FetchedBlocks) -> None:
        with (
            contextlib.closing(OrphanKeys(SealedBlocks(dataclasses.replace(seal, directory=part.path)))) as touches,
            contextlib.closing(TransactionFacts(self._journal, self._history, fork, touches)) as facts,
            contextlib.closing(WinningChainJournal(scratch.journal, scratch.history, fork.position)) as chain,
            contextlib.closing(ScratchKeyOutcomes()) as marks,
        ):
            chain.refresh(facts.requests())  # none of them was re-applied yet
            chain.look_at(touches)
            transactions = (
                {**transaction, "judged": judge(transaction, chain, marks, chain.carried_out, None).as_json()}
                for transaction in facts.transactions()
            )
            write_file(part.report, report.write_lines(head, transactions))


def _put_aside(directory: Path) -> None:
    """Keep what cannot be proven, under another name."""
    number = 1
    while (aside := directory.with_name(f"{directory.name}.broken-{number}")).exists():
        number += 1
    os.replace(directory, aside)
