"""Table definitions: the schema that row images are read by, sent once.

Guarantee: a row statement names its definition by a number (*relation*) that is unique in its strand and defined in
the same or an earlier block, so every row can be read long after the source has changed the table.

Encoding: a msgpack map, ``{"namespace", "table", "columns": [{"name", "type", "format", …}], "key", "user",
"documents"}``.
Types are PostgreSQL's, whatever the source: they are the richest set that users know. Types that a replica does not
have are kept there as text.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import msgpack

from replicator.errors import Corrupt
from replicator.format.row import COLUMN_LIMIT

NAME_LIMIT_BYTES = 255

Format = Literal["text", "binary"]


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """A column.

    ``type`` is the SQL name with its modifier, ``numeric(12,2)``. ``format`` says whether its bytes in row images are
    PostgreSQL's text or binary form. ``number`` is the source's own stable number of the column, by which a rename is
    told from a drop and an add (0: unknown). ``missing`` is the text that rows older than the column read as.
    ``sequence`` names the sequence that feeds it, if one does: (namespace, name).
    """

    name: str
    type: str
    format: Format = "text"
    nullable: bool = True
    number: int = 0
    missing: str | None = None
    sequence: tuple[str, str] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Definition:
    """A table as of some block. ``key`` names the key's columns in key order; without any, the table is append-only
    and its rows are keyed by (sequence, ordinal). ``user`` names the column that holds the user's id, if any.

    ``documents`` marks a table of the embedded ledger: beside its key and user columns it has ``document`` (json, the
    user's whole document) and ``version`` (int8, counted per key from 1)."""

    namespace: str
    table: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    user: str | None = None
    documents: bool = False

    @property
    def name(self) -> tuple[str, str]:
        """(namespace, table): what stays the same while definitions of a table follow each other."""
        return (self.namespace, self.table)

    @property
    def label(self) -> str:
        """The table's name for people and for metrics: ``wallets``, or ``audit.events`` outside ``public``."""
        return table_label(self.namespace, self.table)

    @property
    def key_places(self) -> tuple[int, ...]:
        """Where in the row the key's columns stand."""
        names = [column.name for column in self.columns]
        return tuple(names.index(name) for name in self.key)

    def in_text(self) -> Definition:
        """The same table, by which rows are read whose columns are all in text form."""
        columns = tuple(dataclasses.replace(column, format="text") for column in self.columns)
        return dataclasses.replace(self, columns=columns)


def table_label(namespace: str, table: str) -> str:
    """A table's name for people: outside PostgreSQL's default schema, ``public``, with its namespace."""
    return table if namespace == "public" else f"{namespace}.{table}"


def pack_definition(definition: Definition) -> bytes:
    """The definition as msgpack."""
    return msgpack.packb(
        {
            "namespace": definition.namespace,
            "table": definition.table,
            "columns": [_column_fields(column) for column in definition.columns],
            "key": definition.key,
            "user": definition.user,
            "documents": definition.documents,
        }
    )


def unpack_definition(data: bytes) -> Definition:
    """Read a definition, refusing whatever is not one; raises Corrupt."""
    try:
        fields = msgpack.unpackb(data)
        columns = tuple(_read_column(column) for column in fields["columns"])
        definition = Definition(
            namespace=_name(fields["namespace"]),
            table=_name(fields["table"]),
            columns=columns,
            key=tuple(_name(name) for name in fields["key"]),
            user=None if fields["user"] is None else _name(fields["user"]),
            documents=bool(fields["documents"]),
        )
        _check(definition)
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise Corrupt("bad_definition", f"a table definition cannot be read: {error}") from error
    return definition


def _column_fields(column: Column) -> dict[str, Any]:
    """A column's fields; those at their default are left out."""
    fields: dict[str, Any] = {"name": column.name, "type": column.type, "format": column.format}
    if not column.nullable:
        fields["nullable"] = False
    if column.number:
        fields["number"] = column.number
    if column.missing is not None:
        fields["missing"] = column.missing
    if column.sequence is not None:
        fields["sequence"] = column.sequence
    return fields


def _read_column(fields: dict[str, Any]) -> Column:
    sequence = fields.get("sequence")
    format_ = fields["format"]
    if format_ not in ("text", "binary"):
        raise ValueError(f"format {format_!r} is neither text nor binary")
    missing = fields.get("missing")
    number = fields.get("number", 0)
    if not isinstance(number, int) or not (missing is None or isinstance(missing, str)):
        raise TypeError("a column's number or missing value has another type")
    return Column(
        name=_name(fields["name"]),
        type=_name(fields["type"]),
        format=format_,
        nullable=bool(fields.get("nullable", True)),
        number=number,
        missing=missing,
        sequence=None if sequence is None else (_name(sequence[0]), _name(sequence[1])),
    )


def _name(value: object) -> str:
    if not isinstance(value, str) or not value or "\x00" in value or len(value.encode()) > NAME_LIMIT_BYTES:
        raise ValueError(f"a name has 1 to {NAME_LIMIT_BYTES} bytes of text, not {value!r:.80}")
    return value


def _check(definition: Definition) -> None:
    names = [column.name for column in definition.columns]
    if len(names) > COLUMN_LIMIT or len(set(names)) != len(names):
        raise ValueError("too many columns, or two of one name")
    unknown = {*definition.key, *([definition.user] if definition.user else [])} - set(names)
    if unknown or len(set(definition.key)) != len(definition.key):
        raise ValueError(f"key or user name columns that the table does not have, or twice: {sorted(unknown)}")
