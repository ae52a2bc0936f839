"""The word of the journal against the ledger's own files: a key that they do not know, and that has a past, was lost.

Guarantee: no document is begun at version 1 that blocks have written before, as far as the journal reaches back and is
indexed. The index is asked for keys that are new by the ledger's files, by the thousand. All calls block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from replicator.errors import Halted, Unavailable
from replicator.format.row import unpack_row
from replicator.ledger.tables import Key, LedgerTable
from replicator.storage.damage import DAMAGED
from replicator.storage.journal.history import HistoryEntry
from replicator.storage.sqlite import REBUILD

T = TypeVar("T")


class LedgerPast(Protocol):
    """The index over the region's journal."""

    def touched(self, strand: str, table: str, keys: Sequence[bytes]) -> set[bytes]: ...
    def entries(
        self, strand: str, table: str, key: Sequence[str], before: tuple[int, int] | None, limit: int
    ) -> list[HistoryEntry]: ...


class KnownPast:
    """Asks the index for one ledger, whose documents are in the file ``state`` and whose deletions in ``requests``."""

    def __init__(
        self,
        past: LedgerPast,
        strand: str,
        state: Path,
        requests: Path,
        on_damage: Callable[[Path, Halted], None],
    ) -> None:
        self._past = past
        self._strand = strand
        self._state = state
        self._requests = requests
        self._on_damage = on_damage

    def check_new(self, table: LedgerTable, keys: Sequence[Key]) -> None:
        """Raise Halted (``file_damaged``) if a block has written one of the keys, of which the files know neither a
        document nor a deletion."""
        canonical = [table.canonical_key(key) for key in dict.fromkeys(keys)]
        for key in self._touched(table, canonical):
            texts = [cell.decode() for cell in unpack_row(key) if isinstance(cell, bytes)]
            last = self._unless_damaged(partial(self._last, table, texts), None)
            if last is not None:
                raise self._lost(table, texts, last)

    def _last(self, table: LedgerTable, texts: Sequence[str]) -> HistoryEntry | None:
        entries = self._past.entries(self._strand, table.name, texts, None, 1)
        return entries[0] if entries else None

    def _touched(self, table: LedgerTable, keys: Sequence[bytes]) -> set[bytes]:
        if not keys:
            return set()
        return self._unless_damaged(lambda: self._past.touched(self._strand, table.name, keys), set())

    def _unless_damaged(self, ask: Callable[[], T], nothing: T) -> T:
        """The index' answer. One that is damaged is made again and has no say meanwhile: it may hold up nothing."""
        try:
            return ask()
        except (Halted, Unavailable):
            return nothing

    def _lost(self, table: LedgerTable, texts: Sequence[str], last: HistoryEntry) -> Halted:
        file, what = (self._requests, "deletion") if last.row is None else (self._state, "document")
        where = f"{table.name} {', '.join(texts)}, written by block {last.sequence}"
        message = f"the {what} of {where}, is not in the file any more"
        error = Halted(DAMAGED, message, place=str(file), cure=REBUILD)
        self._on_damage(file, error)
        return error
