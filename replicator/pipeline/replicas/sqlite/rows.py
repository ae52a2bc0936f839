"""What a definition means in SQLite: names, SQL text, and how row images become parameters. Pure.

Parameters of whole rows are numbered by the column's place (``?1`` is the first column), so that one decoded row fits
every statement.
"""

from __future__ import annotations

from collections.abc import Sequence

from replicator.errors import Corrupt
from replicator.format.definition import Definition
from replicator.format.row import pack_row
from replicator.format.values import INTEGER_KINDS, Stored, kind_of, sqlite_type, stored_text
from replicator.pipeline.replicas.sqlite.decode import DECODE_ERRORS, Decoder

PLACE_COLUMNS = ("_sequence", "_ordinal")
TOGETHER_ROWS = 16
TOGETHER_PARAMETERS = 999  # SQLite's limit before 3.32; it is 32,766 since


def quoted(name: str) -> str:
    """A name as SQL takes it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def _goes_on(version: str, document: str, table: str = "") -> str:
    """That a document may take the place of the stored one: versions never fall, and one version is one document."""
    same = f"{table}version = {version} AND {table}document = {document}"
    return f"({table}version < {version} OR {same})"


class SqliteRows:
    """A definition's SQL text and decoders, made once and used for every batch of its rows."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.table = quoted(definition.label)
        self.names = [column.name for column in definition.columns]
        self._row_decoder = Decoder(definition.columns)
        self._key_decoder = Decoder([definition.columns[place] for place in definition.key_places])
        self.insert = self._insert()
        self.together = max(1, min(TOGETHER_ROWS, TOGETHER_PARAMETERS // self._insert_width()))
        self.insert_together = self._insert(self.together)
        # Only the key decides: a unique index that somebody added must refuse the row, not swallow it.
        conflict = f"{self.insert} ON CONFLICT ({', '.join(map(quoted, definition.key or PLACE_COLUMNS))})"
        self.insert_missing = f"{conflict} DO NOTHING"
        self.upsert = f"{conflict} DO UPDATE SET {self._excluded()}" if self._values() else ""
        if definition.documents:
            self.upsert += f" WHERE {_goes_on('excluded.version', 'excluded.document', f'{self.table}.')}"
        self.update = self._update()
        where_key = " AND ".join(f"{quoted(name)} = ?{number}" for number, name in enumerate(definition.key, 1))
        self.delete = f"DELETE FROM {self.table} WHERE {where_key}"
        self.select = f"SELECT {', '.join(map(quoted, self.names))} FROM {self.table} WHERE {where_key}"
        self._texts = [stored_text(column) for column in definition.columns]

    def _values(self) -> list[str]:
        return [name for name in self.names if name not in self.definition.key]

    def _excluded(self) -> str:
        return ", ".join(f"{quoted(name)} = excluded.{quoted(name)}" for name in self._values())

    def _insert_width(self) -> int:
        return len(self.names) + (0 if self.definition.key else len(PLACE_COLUMNS))

    def _insert(self, rows: int = 1) -> str:
        names = [*self.names, *(() if self.definition.key else PLACE_COLUMNS)]
        width = self._insert_width()
        of_rows = [", ".join(f"?{row * width + place}" for place in range(1, width + 1)) for row in range(rows)]
        values = ", ".join(f"({marks})" for marks in of_rows)
        return f"INSERT INTO {self.table} ({', '.join(map(quoted, names))}) VALUES {values}"

    def _update(self) -> str:
        """An update of a whole row; empty if there is nothing beside the key."""
        sets = [f"{quoted(name)} = ?{place + 1}" for place, name in enumerate(self.names) if name in self._values()]
        if not sets or not self.definition.key:
            return ""
        pairs = zip(self.definition.key, self.definition.key_places, strict=True)
        where = " AND ".join(f"{quoted(name)} = ?{place + 1}" for name, place in pairs)
        if self.definition.documents:
            version, document = (f"?{self.names.index(name) + 1}" for name in ("version", "document"))
            where += f" AND {_goes_on(version, document)}"
        return f"UPDATE {self.table} SET {', '.join(sets)} WHERE {where}"

    def select_keys(self, *, behind: bool) -> str:
        """The keys in key order, ``behind`` a key or from the first on. Parameters are that key and a limit."""
        names = ", ".join(map(quoted, self.definition.key))
        where = f" WHERE ({names}) > ({', '.join('?' * len(self.definition.key))})" if behind else ""
        return f"SELECT {names} FROM {self.table}{where} ORDER BY {names} LIMIT ?"

    def texts(self, row: Sequence[Stored]) -> list[str | None]:
        """A stored row as canonical texts."""
        return [read(value) for read, value in zip(self._texts, row, strict=True)]

    def key_image(self, key: Sequence[Stored]) -> bytes:
        """A stored key as the key image of its canonical texts."""
        texts = [self._texts[place](value) for place, value in zip(self.definition.key_places, key, strict=True)]
        return pack_row([None if text is None else text.encode() for text in texts])

    def update_of(self, places: Sequence[int]) -> str:
        """An update of the columns at these places. Parameters are their values, then the key of the row."""
        sets = ", ".join(f"{quoted(self.names[place])} = ?" for place in places)
        where = " AND ".join(f"{quoted(name)} = ?" for name in self.definition.key)
        return f"UPDATE {self.table} SET {sets} WHERE {where}"

    def rows(self, images: Sequence[bytes]) -> list[list[Stored]]:
        """Complete row images as parameters. Raises Corrupt."""
        try:
            return self._row_decoder.rows(images)
        except DECODE_ERRORS as error:
            raise self._bad_row(error) from error

    def keys(self, images: Sequence[bytes]) -> list[list[Stored]]:
        """Key images as parameters. Raises Corrupt."""
        try:
            return self._key_decoder.rows(images)
        except DECODE_ERRORS as error:
            raise self._bad_row(error) from error

    def patch(self, image: bytes) -> tuple[list[int], list[Stored]]:
        """The places that a patch changes, and the row with None where it does not. Raises Corrupt."""
        try:
            return self._row_decoder.patch(image)
        except DECODE_ERRORS as error:
            raise self._bad_row(error) from error

    def _bad_row(self, error: Exception) -> Corrupt:
        return Corrupt(
            "bad_row",
            f"a row image cannot be read by the table's definition: {error}",
            place=f"table {self.definition.label}",
            cure="verify the journal; report it if the journal is whole",
        )


def create_table(definition: Definition) -> str:
    """The table. A single whole-number key is SQLite's own row number; any other key is the table's tree."""
    columns = [f"{quoted(column.name)} {sqlite_type(column.type)}" for column in definition.columns]
    if not definition.key:
        columns += [f"{name} INTEGER" for name in PLACE_COLUMNS]
    columns.append(f"PRIMARY KEY ({', '.join(map(quoted, definition.key or PLACE_COLUMNS))})")
    suffix = "" if _row_number_key(definition) else " WITHOUT ROWID"
    return f"CREATE TABLE {quoted(definition.label)} ({', '.join(columns)}){suffix}"


def _row_number_key(definition: Definition) -> bool:
    types = {column.name: column.type for column in definition.columns}
    return len(definition.key) == 1 and kind_of(types[definition.key[0]]) in INTEGER_KINDS


def user_index(definition: Definition) -> str | None:
    """The name of the index on the user's id, None if there is none to make. SQLite appends the key by itself, so
    that a user's rows come from it in key order."""
    if definition.user is None or definition.key[:1] == (definition.user,):
        return None
    return f"_replicator_{definition.label}_by_{definition.user}"  # no table's name: those that begin so are refused


def shape(definition: Definition) -> list[tuple[str, str, int]]:
    """The table's columns as ``PRAGMA table_info`` tells them: name, declared type, place in the key from 1."""
    columns = [(column.name, sqlite_type(column.type)) for column in definition.columns]
    if not definition.key:
        columns += [(name, "INTEGER") for name in PLACE_COLUMNS]
    key = definition.key or PLACE_COLUMNS
    return [(name, kind, key.index(name) + 1 if name in key else 0) for name, kind in columns]


def literal(value: Stored) -> str:
    """A value as SQL text."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"X'{value.hex()}'"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if value in (float("inf"), float("-inf")):
        return "9e999" if value > 0 else "-9e999"  # SQL has no word for it; what is too large reads as infinite
    return repr(value)
