"""The chain in charge behind the fork: fetched from the other region, or this region's own once it follows again.

Guarantee: what is said of a key is what the blocks behind the fork left under it. Blocks that are fetched are proven
and linked to the fork as by any follower; they lie in a journal of their own in a scratch directory, so that memory is
bounded, and a fetch that breaks off goes on where it was.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterable, Mapping

import trio

from replicator.cluster.rejoin.conflict_check import CarriedRequest, WinningBlock, WinningRow
from replicator.cluster.rejoin.fork import CURE
from replicator.cluster.rejoin.orphan_keys import ScratchKeys
from replicator.cluster.rejoin.row_file import KnownRow, RowFile
from replicator.errors import Halted, Rejected, Unavailable
from replicator.format.block import Block, BlockPart, Header
from replicator.format.position import Position
from replicator.format.wire import StagedPart
from replicator.ledger.index import read_note, statements_of
from replicator.ledger.presentation import show_time
from replicator.pipeline.feed.client import FeedClient
from replicator.storage.data_dir import DataDir
from replicator.storage.journal.history import HistoryIndex
from replicator.storage.journal.store import Journal
from replicator.verify.repair.expected_row import ExpectedRow, ExpectedRows, TableVersions
from replicator.verify.repair.images import Place, pack_texts

SCAN_BYTES = 1 << 20
SCAN_BLOCKS = 1_000_000


class WinningChainJournal:
    """A journal that has the chain in charge behind the fork, and its index. One thread at a time."""

    def __init__(self, journal: Journal, history: HistoryIndex, fork: Position) -> None:
        self._journal = journal
        self._history = history
        self._fork = fork
        self._strand = fork.strand
        self._expected = ExpectedRows(journal, history, fork.strand)
        self._scanned = fork
        self._carried_out: dict[str, CarriedRequest] = {}
        self._rows = RowFile()
        self.head = fork

    def close(self) -> None:
        """Let go of the scratch file."""
        self._rows.close()

    def refresh(self, wanted: Iterable[str] = ()) -> None:
        """Take in what has come; requests by these ids are looked for, always the same ones. Their number is bounded by
        the orphans. Of a chain that is very long by now only the beginning is looked through: a request that comes so
        late is judged by its rows, which is on the safe side."""
        self.head = self._journal.head(self._strand)
        self._expected.reach(self.head.sequence)
        self._tables = self._expected.tables(self._journal.definitions(self._strand))
        if self._journal.position_at(self._strand, self._scanned.sequence) != self._scanned:
            self._scanned = self._fork  # the chain was cut back meanwhile
            self._carried_out.clear()
        ids, last = frozenset(wanted), min(self.head.sequence, self._fork.sequence + SCAN_BLOCKS)
        while ids and self._scanned.sequence < last:
            for block in self._journal.blocks(self._strand, self._scanned.sequence, SCAN_BYTES):
                self._scanned = block.position
                note = next((read_note(statement) for statement in statements_of(self._journal, block)), None)
                if note is not None and note.id in ids:
                    self._carried_out[note.id] = CarriedRequest(_by(block.header), note.digest.hex())

    def carried_out(self, request: str) -> CarriedRequest | None:
        """The request of this id that was carried out behind the fork."""
        return self._carried_out.get(request)

    def has_table(self, label: str, columns: list[str] | None) -> bool:
        """Whether there is such a table, with these columns if they are given."""
        table = self._tables.get(label)
        names = [] if table is None else [column.name for column in table.definition.columns]
        return table is not None and (columns is None or columns == names)

    def look_at(self, keys: ScratchKeys) -> None:
        """Read what is under these keys, and no others; ``refresh`` before."""
        self._rows.close()
        self._rows = RowFile()
        keys.place(self._last_place)
        for chunk in keys.in_order():
            for (label, key, _), place in chunk:
                table = self._tables.get(label)
                if place is not None and table is not None:
                    self._rows.set(label, key, self._known(table, self._expected.right(table, key, place)))

    def _last_place(self, label: str, key: bytes) -> Place | None:
        """Where a key was touched last, if that was behind the fork."""
        places = self._history.places(self._strand, label, key, None, 1)
        return places[0] if places and places[0][0] > self._fork.sequence else None

    def _known(self, table: TableVersions, expected: ExpectedRow) -> KnownRow:
        names = [column.name for column in table.stored.columns]
        row = None if expected.row is None else dict(zip(names, expected.row, strict=True))
        assert expected.header is not None, "the statement was found"
        return KnownRow(row, expected.unknown, json.dumps(_by(expected.header)))

    def look(self, label: str, key: Mapping[str, str | None]) -> WinningRow:
        """What is under one of the keys that were looked at."""
        known = self._rows.get(label, pack_texts(list(key.values())))
        if known is not None:
            return WinningRow(WinningBlock(*json.loads(known.note)), known.row, known.unknown)
        base = self._journal.base(self._strand).sequence
        if base <= self._fork.sequence:
            return WinningRow(None, None, "")
        return WinningRow(
            WinningBlock(base, "", ""), None, f"the journal begins behind {base}, what came before is not known"
        )


def _by(header: Header) -> WinningBlock:
    return WinningBlock(header.sequence, header.txid, show_time(header.committed_at))


class FetchedBlocks:
    """Blocks of another region in a scratch directory."""

    def __init__(self, data_dir: DataDir, own: Journal, fork: Position) -> None:
        self._directory = data_dir.path
        self._own = own
        self._fork = fork
        self.journal = Journal(data_dir.journal)
        self.history = HistoryIndex(data_dir.history, self.journal)

    def open(self) -> None:
        """Go on with what was fetched, if it is of this fork; else begin."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self.journal.open()
        if self.journal.base(self._fork.strand) != self._fork:
            self.journal.close()
            self.remove()
            self._directory.mkdir(parents=True)
            self.journal.open()
            packed = dict(self._own.definitions_in_order(self._fork.strand, self._fork.sequence))
            self.journal.begin_at(self._fork, packed)
        self.journal.discard_arriving(self._fork.strand)  # parts of a block whose end never came
        self.history.open()

    def close(self) -> None:
        """Close the files."""
        self.history.close()
        self.journal.close()

    def remove(self) -> None:
        """Close the files and remove them."""
        self.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    async def fetch(self, client: FeedClient, until: Position) -> None:
        """Fetch the blocks up to ``until``. Raises Unavailable, or Halted if they are not there."""
        strand = self._fork.strand
        head = self.journal.head(strand)
        if head.sequence >= until.sequence:
            return
        try:
            async with client.range(strand, head.sequence + 1, until.sequence) as frames:
                async for batch in frames.batches():
                    parts = [
                        (frame.sequence, frame.number, frame.part) for frame in batch if isinstance(frame, StagedPart)
                    ]
                    blocks = [frame for frame in batch if isinstance(frame, Block)]
                    await trio.to_thread.run_sync(self._take, parts, blocks)
        except Rejected as refusal:
            raise Halted(refusal.reason, refusal.message, place=f"strand {strand}", cure=CURE) from refusal
        if self.journal.head(strand).sequence < until.sequence:
            message = "the other region closed the stream before its end"
            raise Unavailable("feed_closed", message, place=f"strand {strand}", cure="it is opened again")

    def _take(self, parts: list[tuple[int, int, BlockPart]], blocks: list[Block]) -> None:
        if parts:
            self.journal.stage(self._fork.strand, parts)
        if blocks:
            self.journal.accept(self._fork.strand, blocks)


class ScratchKeyOutcomes:
    """The ``KeyOutcomes`` of one judgement, in a file that is gone when it is closed."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.execute(
            "CREATE TABLE mark (label TEXT, key BLOB, sequence INTEGER, clean INTEGER, PRIMARY KEY (label, key))"
        )
        self._db.execute("BEGIN")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def get(self, label: str, key: Mapping[str, str | None]) -> tuple[int, bool] | None:
        """The last orphan that touched the key and was not there."""
        query = "SELECT sequence, clean FROM mark WHERE label = ? AND key = ?"
        row = self._db.execute(query, (label, pack_texts(list(key.values())))).fetchone()
        return None if row is None else (row[0], bool(row[1]))

    def set(self, label: str, key: Mapping[str, str | None], sequence: int, *, clean: bool) -> None:
        """Note this orphan as the last one that touched the key."""
        row = (label, pack_texts(list(key.values())), sequence, clean)
        self._db.execute("INSERT OR REPLACE INTO mark VALUES (?, ?, ?, ?)", row)

    def drop(self, label: str, key: Mapping[str, str | None]) -> None:
        """What orphans left there does not matter any more."""
        row = (label, pack_texts(list(key.values())))
        self._db.execute("DELETE FROM mark WHERE label = ? AND key = ?", row)
