"""What a definition means in PostgreSQL: names, SQL text, staging tables. Pure.

A column whose rows come in binary is staged in its own type; one whose rows come as text is staged as ``text`` and cast
to its type, which runs the type's input function: what the source printed is read as the source would read it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import MappingProxyType

from replicator.format.definition import Definition
from replicator.pipeline.replicas.postgres.comparisons import ByColumn, behind, equal
from replicator.postgres.quoting import listed, quoted

PLACE_COLUMNS = ("_sequence", "_ordinal")
_ALL = "OVERRIDING SYSTEM VALUE"  # the ledger's values, also where a user made an identity GENERATED ALWAYS


class PostgresRows:
    """A definition's SQL, made once a session. ``types`` are the SQL types that the replica's columns have;
    ``number`` names the staging tables. Where users made the table, ``generated`` are columns that it makes by itself,
    so that nobody may write them, and it may be ``partitioned``: then it does not tell which rows were there before
    (``tells`` is false). ``operators`` compare its columns (``comparisons``)."""

    def __init__(
        self,
        definition: Definition,
        types: Sequence[str],
        number: int,
        generated: Collection[str] = (),
        *,
        partitioned: bool = False,
        operators: ByColumn = MappingProxyType({}),
    ) -> None:
        self.definition = definition
        self.table = quoted(*definition.name)
        self.names = [column.name for column in definition.columns]
        self.types = list(types)
        self.binary = all(column.format == "binary" for column in definition.columns)
        self.formats = [column.format == "binary" for column in definition.columns]
        self.key_formats = [self.formats[place] for place in definition.key_places]
        self.stage = f"pg_temp.stage_{number}"
        self.key_stage = f"pg_temp.stage_{number}_keys"
        self.generated = frozenset(place for place, name in enumerate(self.names) if name in generated)
        self.written = [place for place in range(len(self.names)) if place not in self.generated]
        self.tells = not partitioned
        self._operators = operators
        self._fresh = "xmax = 0" if self.tells else "false"
        self.straight = self.binary and not self.generated

    # -- rows by the thousand

    def create_stage(self) -> str:
        """The staging table of whole rows; its rows go with the transaction. Keyless tables stage their places too."""
        columns = [f"{quoted(name)} {self._staged_type(place)}" for place, name in enumerate(self.names)]
        if not self.definition.key:
            columns += [f"{name} bigint" for name in PLACE_COLUMNS]
        return f"CREATE TEMP TABLE {self.stage} ({', '.join(columns)}) ON COMMIT DELETE ROWS"

    def create_key_stage(self) -> str:
        """The staging table of keys."""
        columns = [f"{quoted(self.names[place])} {self._staged_type(place)}" for place in self.definition.key_places]
        return f"CREATE TEMP TABLE {self.key_stage} ({', '.join(columns)}) ON COMMIT DELETE ROWS"

    def copy_in(self, table: str) -> str:
        """COPY of row images, behind their places in a keyless table."""
        columns = [*(() if self.definition.key else PLACE_COLUMNS), *self.names]
        return f"COPY {table} ({listed(columns)}) FROM STDIN (FORMAT binary)"

    def copy_keys(self) -> str:
        """COPY of key images."""
        return f"COPY {self.key_stage} ({listed(self.definition.key)}) FROM STDIN (FORMAT binary)"

    def merge(self) -> str:
        """Take the staged rows; tells how many were not there before, and how many were written."""
        columns = self._columns()
        staged = [self._staged(place) for place in self.written]
        staged += [] if self.definition.key else list(PLACE_COLUMNS)
        return (
            f"WITH merged AS (INSERT INTO {self.table} ({listed(columns)}) {_ALL} SELECT {', '.join(staged)}"
            f" FROM {self.stage} AS s {self._on_conflict()} RETURNING {self._fresh} AS fresh)"
            " SELECT count(*) FILTER (WHERE fresh), count(*) FROM merged"
        )

    def update_staged(self) -> str:
        """Update to the staged rows; empty if there is nothing beside the key."""
        places = [place for place in self.written if self.names[place] not in self.definition.key]
        if not places or not self.definition.key:
            return ""
        sets = ", ".join(f"{quoted(self.names[place])} = {self._staged(place)}" for place in places)
        update = f"UPDATE {self.table} AS t SET {sets} FROM {self.stage} AS s WHERE {self._staged_key()}"
        return f"{update} AND {_goes_on('t', 's')}" if self.definition.documents else update

    def insert_missing(self) -> str:
        """Insert those of the staged rows that are not there."""
        staged = ", ".join(self._staged(place) for place in self.written)
        columns, key = listed(self._columns()), listed(self.definition.key)
        # Only the key decides: a unique index that somebody added must refuse the row, not swallow it.
        conflict = f"ON CONFLICT ({key}) DO NOTHING"
        return f"INSERT INTO {self.table} ({columns}) {_ALL} SELECT {staged} FROM {self.stage} AS s {conflict}"

    def delete_staged(self) -> str:
        """Delete the rows of the staged keys."""
        return f"DELETE FROM {self.table} AS t USING {self.key_stage} AS s WHERE {self._staged_key()}"

    def _columns(self) -> list[str]:
        names = [self.names[place] for place in self.written]
        return [*names, *(() if self.definition.key else PLACE_COLUMNS)]

    def _staged_key(self) -> str:
        staged = [self._staged(place) for place in self.definition.key_places]
        return self._same([f"t.{quoted(name)}" for name in self.definition.key], staged)

    def _staged_type(self, place: int) -> str:
        return self.types[place] if self.formats[place] else "text"

    def _staged(self, place: int) -> str:
        name = f"s.{quoted(self.names[place])}"
        return name if self.formats[place] else f"{name}::{self.types[place]}"

    def _on_conflict(self) -> str:
        values = [self.names[place] for place in self.written if self.names[place] not in self.definition.key]
        target = listed(self.definition.key or PLACE_COLUMNS)
        if not values:
            return f"ON CONFLICT ({target}) DO NOTHING"
        sets = ", ".join(f"{quoted(name)} = excluded.{quoted(name)}" for name in values)
        update = f"ON CONFLICT ({target}) DO UPDATE SET {sets}"
        return f"{update} WHERE {_goes_on(self.table, 'excluded')}" if self.definition.documents else update

    # -- a few rows; a parameter's type is its column's, so text goes through the type's input function

    def upsert(self, count: int) -> str:
        """So many rows; tells of each whether it was not there before (nothing of one that stays as it is)."""
        columns = self._columns()
        width = len(columns)
        rows = [", ".join(f"${row * width + place}" for place in range(1, width + 1)) for row in range(count)]
        values = ", ".join(f"({marks})" for marks in rows)
        return (
            f"INSERT INTO {self.table} ({listed(columns)}) {_ALL} VALUES {values} {self._on_conflict()}"
            f" RETURNING {self._fresh} AS fresh"
        )

    def delete(self) -> str:
        """The row of one key."""
        return f"DELETE FROM {self.table} WHERE {self._where_key(1)}"

    def select(self, count: int, *, lock: bool) -> str:
        """The rows of so many keys, each behind its number from 0; locked until the transaction's end with ``lock``."""
        kinds = [self.types[place] for place in self.definition.key_places]
        width = len(kinds)
        keys = ", ".join(
            f"({row}, {', '.join(f'${row * width + place}::{kind}' for place, kind in enumerate(kinds, 1))})"
            for row in range(count)
        )
        names = [f"k_{place}" for place in range(width)]
        same = self._same([f"t.{quoted(name)}" for name in self.definition.key], [f"k.{key}" for key in names])
        columns = ", ".join(f"t.{quoted(name)}" for name in self.names)
        return (
            f"SELECT k.number, {columns} FROM (VALUES {keys}) AS k (number, {', '.join(names)})"
            f" JOIN {self.table} AS t ON {same}{' FOR UPDATE OF t' if lock else ''}"
        )

    def select_keys(self, limit: int, *, from_key: bool) -> str:
        """The keys in key order, behind a key or from the first on; the key's parameters come first."""
        key = self.definition.key
        names, marks = listed(key), [f"${number}" for number in range(1, len(key) + 1)]
        where = f" WHERE {behind(self._operators, key, marks)}" if from_key else ""
        return f"SELECT {names} FROM {self.table}{where} ORDER BY {names} LIMIT {int(limit)}"

    def delete_other(self) -> str:
        """The row of one key, unless it is also the row of a second one: 1.0 and 1.00 are two images of one key."""
        other = self._where_key(len(self.key_formats) + 1)
        return f"DELETE FROM {self.table} WHERE {self._where_key(1)} AND NOT ({other})"

    def update(self, places: Sequence[int]) -> str:
        """The columns at these places, of the row of one key; the key's parameters come last."""
        sets = ", ".join(f"{quoted(self.names[place])} = ${number}" for number, place in enumerate(places, 1))
        return f"UPDATE {self.table} SET {sets} WHERE {self._where_key(len(places) + 1)}"

    def _where_key(self, first: int) -> str:
        key = self.definition.key
        return self._same(list(map(quoted, key)), [f"${number}" for number in range(first, first + len(key))])

    def _same(self, left: Sequence[str], right: Sequence[str]) -> str:
        """That the key is the same on both sides."""
        equals = [equal(self._operators, name) for name in self.definition.key]
        return " AND ".join(f"{a} {is_equal} {b}" for a, is_equal, b in zip(left, equals, right, strict=True))


def _goes_on(stored: str, coming: str) -> str:
    """That a document may take the place of the stored one: versions never fall, and one version is one document."""
    same = f"{stored}.version = {coming}.version AND {stored}.document::text = {coming}.document::text"
    return f"({stored}.version < {coming}.version OR {same})"
