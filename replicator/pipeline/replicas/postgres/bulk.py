"""Writing rows by the thousand: row images are COPY's own format, so a batch is a concatenation.

Two ways. *Straight* into the table, for rows that are new as far as the source knows. *Staged* into a temporary table
and from there by the key; the plan is fixed by the session's settings (``SETTINGS``) to look up each key in the index,
whatever the statistics say. Updates are an UPDATE, not an upsert: measured, a fifth less work.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence

import psycopg

from replicator.errors import Corrupt
from replicator.pipeline.replicas.postgres.rows import PostgresRows
from replicator.pipeline.replicas.shape import version_falls
from replicator.postgres.session import Connection

SETTINGS = {
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_material": "off",
}
_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER = b"\xff\xff"
_CHUNK_ROWS = 1000
_place = struct.Struct(">hiqiq")


class BulkRows:
    """COPY and merges for one table. Made once a session; a rollback undoes its temporary tables: make it anew."""

    def __init__(self, connection: Connection, rows: PostgresRows) -> None:
        self._connection = connection
        self._rows = rows
        self._made: set[str] = set()
        self._used: set[str] = set()

    @property
    def stages(self) -> frozenset[str]:
        """The temporary tables that it has made."""
        return frozenset(self._made)

    def back_to(self, stages: frozenset[str]) -> None:
        """Those made since are gone with a savepoint."""
        self._made &= stages

    def transaction_begins(self) -> None:
        """The staging tables are empty again."""
        self._used.clear()

    def insert(self, images: Sequence[bytes]) -> int:
        """Rows that should be new; the count of those that were not."""
        if not self._rows.straight:
            return len(images) - self.merge(images)
        self._execute("SAVEPOINT straight")
        try:
            self._copy(self._rows.copy_in(self._rows.table), images)
        except psycopg.errors.UniqueViolation:
            self._execute("ROLLBACK TO straight")
            return len(images) - self.merge(images)
        self._execute("RELEASE straight")
        return 0

    def update(self, images: Sequence[bytes]) -> int:
        """Rows that should be there; the count of those that were not. In key order where the key comes first, which
        touches each page once."""
        self._stage(self._rows.stage, self._rows.create_stage)
        self._copy(self._rows.copy_in(self._rows.stage), sorted(images))
        statement = self._rows.update_staged()
        found = self._execute(statement).rowcount if statement else 0
        if found == len(images):
            return 0
        missing = self._execute(self._rows.insert_missing()).rowcount
        self._check_written(found + missing, len(images))
        return missing

    def merge(self, images: Sequence[bytes]) -> int:
        """Rows that end as they are given; the count of those that were not there before."""
        self._stage(self._rows.stage, self._rows.create_stage)
        self._copy(self._rows.copy_in(self._rows.stage), images)
        answer = self._execute(self._rows.merge()).fetchone()
        assert answer is not None
        self._check_written(int(answer[1]), len(images))
        return int(answer[0])

    def _check_written(self, written: int, given: int) -> None:
        if self._rows.definition.documents and self._rows.tells and written != given:
            raise version_falls(self._rows.definition)

    def delete(self, keys: Sequence[bytes]) -> int:
        """Delete by key images; the count of those that were not there."""
        self._stage(self._rows.key_stage, self._rows.create_key_stage)
        self._copy(self._rows.copy_keys(), keys)
        return len(keys) - self._execute(self._rows.delete_staged()).rowcount

    def _stage(self, name: str, create: Callable[[], str]) -> None:
        """An empty staging table. Commit empties it; within a transaction it is emptied by hand."""
        if name not in self._made:
            self._execute(create())
            self._made.add(name)
        elif name in self._used:
            self._execute(f"TRUNCATE {name}")
        self._used.add(name)

    def _copy(self, statement: str, images: Sequence[bytes]) -> None:
        with self._connection.cursor() as cursor:
            with cursor.copy(statement.encode()) as copy:
                copy.write(_HEADER)
                for at in range(0, len(images), _CHUNK_ROWS):
                    copy.write(b"".join(images[at : at + _CHUNK_ROWS]))
                copy.write(_TRAILER)
            rows = cursor.rowcount
        if rows != len(images):
            place = f"table {self._rows.definition.label}"
            cure = "verify the journal; report it if the journal is whole"
            raise Corrupt("bad_row", f"{len(images)} row images hold {rows} rows", place=place, cure=cure)

    def _execute(self, statement: str) -> psycopg.Cursor:
        return self._connection.execute(statement.encode())


def with_places(images: Iterable[bytes], places: Iterable[tuple[int, int]]) -> list[bytes]:
    """Row images that begin with their (sequence, ordinal): the columns of a keyless table."""
    out = []
    for image, (sequence, ordinal) in zip(images, places, strict=True):
        count = (image[0] << 8) | image[1]
        out.append(_place.pack(count + 2, 8, sequence, 8, ordinal) + image[2:])
    return out
