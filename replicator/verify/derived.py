"""The files that a region derives from its journal, made of it step by step, wherever they are wanted.

Guarantee: what is made is what the region itself would have made: by the code that its stages use, from blocks that
proved themselves. A journal that begins behind the ledger's first block gives the tables as far as it touches them.
All calls block.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from replicator.errors import Unavailable
from replicator.format.definition import unpack_definition
from replicator.ledger.index import RequestIndex
from replicator.pipeline.replay.quarantine import HALTS, QuarantinePolicy
from replicator.pipeline.replay.replayer import Replayer
from replicator.pipeline.replicas.base import AppliedMark, Define
from replicator.pipeline.replicas.sqlite.replica import SqliteReplica
from replicator.storage.journal.history import HistoryIndex
from replicator.storage.journal.store import Journal

BATCH_BYTES = 1 << 20
BATCH_BLOCKS = 2000

Show = Callable[[int, int, str], None]  # so many blocks of so many, and what is being made


class DerivedPaths(NamedTuple):
    """Where the files are to be; None: not made."""

    history: Path | None
    tables: Path | None = None
    requests: Path | None = None

    @property
    def files(self) -> list[Path]:
        """All that are made."""
        return [path for path in self if path is not None]


class DerivedFiles:
    """The files of one strand. ``close`` them after use."""

    def __init__(self, journal: Journal, strand: str, paths: DerivedPaths, policy: QuarantinePolicy = HALTS) -> None:
        self._journal = journal
        self._strand = strand
        self._history = None if paths.history is None else HistoryIndex(paths.history, journal)
        self._replica = None if paths.tables is None else SqliteReplica(paths.tables)
        self._requests = None if paths.requests is None else RequestIndex(paths.requests, strand)
        self._replayer = (
            None
            if self._replica is None
            else Replayer(journal, self._replica, strand, BATCH_BYTES, BATCH_BLOCKS, policy)
        )

    def open(self) -> None:
        """Open or create them. Raises Unavailable or Halted."""
        if self._history is not None:
            self._history.open()
        if self._replica is not None and self._replayer is not None:
            self._begin(self._replica)
            self._replayer.open()
        if self._requests is not None:
            self._requests.open()

    def close(self) -> None:
        """Let go of them."""
        for file in (self._history, self._replica, self._requests):
            if file is not None:
                file.close()

    def step(self, until: int) -> int:
        """Bring what is furthest behind a little forward, not beyond the sequence ``until``; gives the least that all
        of them have reached then."""
        reached = self._reached()
        behind = min(reached, key=lambda name: reached[name])
        if reached[behind] >= until:
            return reached[behind]
        self._advance(behind, until)
        again = self._reached()
        if again[behind] == reached[behind]:
            raise Unavailable("journal_behind", f"the journal ends before block {until}", place=str(self._journal.path))
        return min(again.values())

    def make(self, until: int, show: Show = lambda done, of, what: None) -> None:
        """All of them, to the sequence ``until``."""
        done = -1
        while done < until:
            done = self.step(until)
            show(done, until, "blocks")

    def _begin(self, replica: SqliteReplica) -> None:
        """A journal that begins later: the tables are empty there, and defined as they were."""
        base = self._journal.base(self._strand)
        replica.open()
        if base.sequence and replica.applied(self._strand) is None:
            replica.begin()
            for relation, packed in self._journal.definitions_in_order(self._strand, base.sequence):
                replica.apply(self._strand, [Define(relation, unpack_definition(packed))])
            replica.commit(AppliedMark(base, 0, 0))

    def _reached(self) -> dict[str, int]:
        reached = {}
        if self._history is not None:
            reached["history"] = self._history.indexed(self._strand)
        if self._replayer is not None:
            reached["tables"] = self._replayer.applied.position.sequence
        if self._requests is not None:
            reached["requests"] = self._requests.indexed(self._journal)
        return reached

    def _advance(self, name: str, until: int) -> None:
        if name == "history":
            assert self._history is not None
            self._history.step(self._strand, until)
        elif name == "tables":
            assert self._replayer is not None
            self._replayer.step(until)
        else:
            assert self._requests is not None
            self._requests.step(self._journal, until)
