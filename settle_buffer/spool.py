"""The durable side of the buffer: a SQLite file of its own.

Guarantees: what ``append`` was given is on disk when it returns and survives kill -9 and power loss (write-ahead log,
``synchronous=FULL``: one fsync a call). Every stored row carries a checksum, proven before its entries are handed out.
Nothing above a trimmed position is ever deleted; trimmed space is used again, the file does not grow with time.

The idea: a batch is packed into few rows, each a stretch of nearby sequences of one strand (``packing``), so that a
range can be read back without knowing in which order its entries came. A trim is remembered and written with the next
append. The file is locked for one process. Not thread-safe: one call at a time, from any thread. Non-goal: order.

Every method raises SpoolUnavailable (disk full, locked, no permission) or SpoolDamaged.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from settle_buffer.entry import MAX_SEQUENCE, Entry, at_of, sequence_of, strand_of
from settle_buffer.errors import SpoolDamaged
from settle_buffer.events import Certificate
from settle_buffer.packing import pack, unpack
from settle_buffer.spoolfile import PAGE_BYTES, damaged_spool, open_spool, set_aside, translated

JUMP_LIMIT = 256  # a larger jump in sequence begins another row
SPAN_LIMIT = 16_384  # last minus first sequence of a row
TIME_JUMP_US, TIME_SPAN_US = 1_000_000, 10_000_000  # the same for positions that are times
FILLED_LIMIT = 10_000  # certificates of filled gaps that are kept; waivers are kept for ever
ROW_LIMIT_BYTES = 1 << 20

_INSERT = "INSERT INTO spool(strand, low, high, entries, checksum, data) VALUES (?, ?, ?, ?, ?, ?)"


class Spool:
    """An open spool file; a damaged one is set aside first, and ``damaged`` names it. With ``timed`` all positions are
    event times instead of sequences."""

    def __init__(self, path: str | os.PathLike[str], timed: bool = False) -> None:
        self.path = Path(path)
        self._order = at_of if timed else sequence_of
        self._jump, self._span = (TIME_JUMP_US, TIME_SPAN_US) if timed else (JUMP_LIMIT, SPAN_LIMIT)
        self.damaged: Path | None = None
        self._trims: dict[str, int] = {}
        self._noted: list[Certificate] = []
        try:
            self._connection = open_spool(self.path, timed)
            self._prove()
        except SpoolDamaged:
            with contextlib.suppress(AttributeError, sqlite3.Error):
                self._connection.close()
            self.damaged = set_aside(self.path)
            self._connection = open_spool(self.path, timed)

    def close(self) -> None:
        """Write what is to be trimmed, and close, also if there is no room to write: the file's lock goes with it."""
        with translated(self.path), contextlib.closing(self._connection), self._connection:
            self._write_noted()

    def append(self, entries: Sequence[Entry]) -> None:
        """Make entries durable."""
        rows = [self._row(stretch) for stretch in self._stretches(entries)]
        with translated(self.path), self._connection:
            self._connection.executemany(_INSERT, rows)
            self._write_noted()
        self._forget_noted()  # not before the commit: what was rolled back is written with the next one

    def keep_late(self, entries: Sequence[Entry]) -> None:
        """Move stored entries to those that are kept until ``settle_late`` names them, whatever is trimmed."""
        with translated(self.path), self._connection:
            for entry in entries:
                data = pack([entry])
                checksum = _checksum(entry.strand, entry.sequence, entry.sequence, data)
                self._connection.execute(
                    "INSERT OR IGNORE INTO late(strand, sequence, checksum, data) VALUES (?, ?, ?, ?)",
                    (entry.strand, entry.sequence, checksum, data),
                )
            self._remove(entries)

    def remove(self, entries: Sequence[Entry]) -> None:
        """Delete these very entries; other entries that claim their places stay."""
        with translated(self.path), self._connection:
            self._remove(entries)

    def discard(self, strand: str, first: int, last: int) -> None:
        """Delete every copy of ``first`` to ``last``."""
        with translated(self.path), self._connection:
            for identity, _, _ in self._overlapping(strand, first, last):
                self._rewrite(identity, lambda entry: not first <= self._order(entry) <= last)

    def note(self, certificate: Certificate) -> None:
        """Keep a certificate with the next write: one whose loss costs nothing but the record."""
        self._noted.append(certificate)

    def trim(self, strand: str, sequence: int) -> None:
        """The consumer holds the strand up to ``sequence``: the space is free with the next write."""
        if sequence > self._trims.get(strand, 0):
            self._trims[strand] = sequence

    def flush(self) -> None:
        """Write now what waits for the next append."""
        with translated(self.path), self._connection:
            self._write_noted()
        self._forget_noted()

    def recover(self, positions: dict[str, int]) -> Iterator[list[Entry]]:
        """All entries above the consumer's positions, a row at a time, in the order in which they were appended."""
        last = 0
        while True:
            with translated(self.path):
                row = self._connection.execute(
                    "SELECT id, strand, low, high, checksum, data FROM spool WHERE id > ? ORDER BY id LIMIT 1", (last,)
                ).fetchone()
            if row is None:
                return
            last = row[0]
            position = positions.get(row[1], 0)
            if row[3] > position:
                entries = self._proven(*row)
                yield entries if row[2] > position else [entry for entry in entries if self._order(entry) > position]

    def read(self, strand: str, first: int, last: int, limit_bytes: int) -> tuple[list[Entry], int]:
        """Every copy of ``first`` to ``last`` in order, and the position up to which they were read: as far as about
        ``limit_bytes`` go, but at least one row. An empty ``strand`` reads all of them."""
        with translated(self.path):
            names = [strand] if strand else [row[0] for row in self._execute("SELECT DISTINCT strand FROM spool")]
            rows = [row for name in names for row in self._overlapping(name, first, last)]
            rows.sort(key=itemgetter(1))
            total = 0
            for index, (_, low, size) in enumerate(rows):
                total += size
                if total > limit_bytes and low > first:
                    last = low - 1
                    del rows[index:]
                    break
            entries: list[Entry] = []
            for identity in sorted(row[0] for row in rows):  # of two copies the older one first
                entries += [entry for entry in self._row_entries(identity) if first <= self._order(entry) <= last]
        entries.sort(key=self._order)
        return entries, last

    def certify(self, certificates: Sequence[Certificate]) -> None:
        """Keep how gaps were closed; durable on return."""
        with translated(self.path), self._connection:
            self._insert_certificates(certificates)

    def certificates(self) -> list[Certificate]:
        """How gaps were closed, oldest first."""
        with translated(self.path):
            rows = self._connection.execute(
                f"SELECT {', '.join(Certificate._fields)} FROM certificates ORDER BY id"
            ).fetchall()
        return [Certificate._make(row) for row in rows]

    def late(self) -> list[tuple[int, Entry]]:
        """Late entries that nobody has settled, each with its number."""
        with translated(self.path):
            rows = self._connection.execute(
                "SELECT id, strand, sequence, checksum, data FROM late ORDER BY id"
            ).fetchall()
        return [(row[0], self._proven(row[0], row[1], row[2], row[2], row[3], row[4])[0]) for row in rows]

    def settle_late(self, number: int) -> None:
        """The late entry of this number has been dealt with; durable on return."""
        with translated(self.path), self._connection:
            self._connection.execute("DELETE FROM late WHERE id = ?", (number,))

    def size_bytes(self) -> int:
        """What the live pages take on disk, the write-ahead log apart."""
        with translated(self.path):
            pages = self._connection.execute("PRAGMA page_count").fetchone()[0]
            free = self._connection.execute("PRAGMA freelist_count").fetchone()[0]
        return int(pages - free) * PAGE_BYTES

    def _execute(self, statement: str, *values: str | int) -> list[Any]:
        return self._connection.execute(statement, values).fetchall()

    def _overlapping(self, strand: str, first: int, last: int) -> list[tuple[int, int, int]]:
        """Rows that may hold something of ``first`` to ``last``: number, lowest position, bytes."""
        return self._execute(
            "SELECT id, low, length(data) FROM spool WHERE strand = ? AND high BETWEEN ? AND ? AND low <= ?",
            # A row spans no more: one that ends further on begins behind ``last``.
            *(strand, first, min(last + self._span, MAX_SEQUENCE), last),
        )

    def _row_entries(self, identity: int) -> list[Entry]:
        (row,) = self._execute("SELECT id, strand, low, high, checksum, data FROM spool WHERE id = ?", identity)
        return self._proven(*row)

    def _remove(self, entries: Sequence[Entry]) -> None:
        removed = set(entries)
        places = {(entry.strand, self._order(entry)) for entry in removed}
        identities = {row[0] for strand, place in places for row in self._overlapping(strand, place, place)}
        for identity in sorted(identities):
            self._rewrite(identity, lambda entry: entry not in removed)

    def _rewrite(self, identity: int, keeps: Callable[[Entry], bool]) -> None:
        """Leave in a row only the entries that ``keeps`` says."""
        entries = self._row_entries(identity)
        remaining = list(filter(keeps, entries))
        if not remaining:
            self._connection.execute("DELETE FROM spool WHERE id = ?", (identity,))
        elif len(remaining) < len(entries):
            self._connection.execute(
                "UPDATE spool SET (strand, low, high, entries, checksum, data) = (?, ?, ?, ?, ?, ?) WHERE id = ?",
                (*self._row(remaining), identity),
            )

    def _insert_certificates(self, certificates: Sequence[Certificate]) -> None:
        places = ", ".join("?" * len(Certificate._fields))
        self._connection.executemany(
            f"INSERT INTO certificates({', '.join(Certificate._fields)}) VALUES ({places})", certificates
        )

    def _write_noted(self) -> None:
        """What waited for a write: trims and noted certificates."""
        # Whole rows only: a row that reaches above the trim stays, and ``recover`` leaves out what is below it.
        for strand, sequence in self._trims.items():
            self._connection.execute("DELETE FROM spool WHERE strand = ? AND high <= ?", (strand, sequence))
        if self._noted:
            self._insert_certificates(self._noted)
            self._connection.execute(
                "DELETE FROM certificates WHERE how = 'filled' AND id <= (SELECT max(id) FROM certificates) - ?",
                (FILLED_LIMIT,),
            )

    def _forget_noted(self) -> None:
        """It is written."""
        self._trims.clear()
        self._noted.clear()

    def _proven(self, identity: int, strand: str, low: int, high: int, checksum: int, data: bytes) -> list[Entry]:
        """A row's entries, if the row is what was written."""
        try:
            if _checksum(strand, low, high, data) != checksum:
                raise ValueError("the checksum is another one")
            return unpack(strand, data)
        except (ValueError, TypeError, AttributeError) as error:
            raise damaged_spool(self.path, f"row {identity} cannot be read: {error}") from error

    def _row(self, stretch: Sequence[Entry]) -> tuple[str, int, int, int, int, bytes]:
        data = pack(stretch)
        strand, low, high = stretch[0].strand, self._order(stretch[0]), self._order(stretch[-1])
        return strand, low, high, len(stretch), _checksum(strand, low, high, data), data

    def _stretches(self, entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
        """Stretches of nearby positions of one strand, in order."""
        groups: dict[str, list[Entry]] = {}
        names = list(map(strand_of, entries))
        if names and names.count(names[0]) == len(names):
            groups[names[0]] = list(entries)
        else:
            for entry in entries:
                groups.setdefault(entry.strand, []).append(entry)
        for group in groups.values():
            group.sort(key=self._order)
            start = size = 0
            positions = list(map(self._order, group))
            low = before = positions[0]
            for index, position in enumerate(positions):
                length = len(group[index][5])
                size += length
                if (
                    position - before > self._jump
                    or position - low > self._span
                    or (size > ROW_LIMIT_BYTES and index > start)
                ):
                    yield group[start:index]
                    start, low, size = index, position, length
                before = position
            yield group[start:]

    def _prove(self) -> None:
        """Read everything once; raises SpoolDamaged."""
        rows = "SELECT strand, low, high, checksum, data, id FROM spool ORDER BY id"
        with translated(self.path):
            for strand, low, high, checksum, data, identity in self._connection.execute(rows):
                if not isinstance(data, bytes) or _checksum(strand, low, high, data) != checksum:
                    raise damaged_spool(self.path, f"row {identity} is not what was written")
        self.late()
        self.certificates()


def _checksum(strand: str, low: int, high: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(f"{strand}:{low}:{high}".encode()))
