"""Column values between PostgreSQL's forms, SQLite's storage, JSON and people.

Guarantee: every value has one *canonical text*, exactly what PostgreSQL prints for it with ``datestyle`` ISO,
``intervalstyle`` postgres, ``timezone`` UTC, ``extra_float_digits`` 3 and ``bytea_output`` hex. A value that goes from
a row image into SQLite and back has the canonical text that it had before.

What SQLite stores:

    bool                             INTEGER 1 or 0
    smallint, integer, bigint, oid   INTEGER
    real, double precision           REAL, infinities too; TEXT 'NaN', since SQLite makes a NaN NULL;
                                     BLOB '-0', since SQLite drops the sign of a zero
    bytea                            BLOB
    all other types                  TEXT: the canonical text (numeric too: REAL would round money)

What JSON shows: booleans, whole numbers and finite floating-point numbers as such, ``json`` and ``jsonb`` parsed with
their decimals kept as ``Decimal``; everything else as canonical text.

Functions for a column are chosen once for a definition, never for a row. Types are known by the names and aliases that
PostgreSQL knows; a type not named here is text. Non-goal: checking what a source sends; an image that does not decode
raises ValueError (or what it is built on), which the caller names Corrupt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from replicator.format import pgbinary
from replicator.format.definition import Column
from replicator.format.floats import float4_text, float8_text

Stored = int | float | str | bytes | None

_ALIASES = {
    "boolean": "bool",
    "smallint": "int2",
    "integer": "int4",
    "int": "int4",
    "bigint": "int8",
    "real": "float4",
    "double precision": "float8",
    "float": "float8",
    "character varying": "varchar",
    "character": "bpchar",
    "char": "bpchar",
    "timestamp without time zone": "timestamp",
    "timestamp with time zone": "timestamptz",
    "decimal": "numeric",
}
_BINARY_TEXT: dict[str, Callable[[bytes], str]] = {
    "bool": pgbinary.bool_text,
    "int2": pgbinary.int_text,
    "int4": pgbinary.int_text,
    "int8": pgbinary.int_text,
    "float4": pgbinary.float4_binary_text,
    "float8": pgbinary.float8_binary_text,
    "text": bytes.decode,
    "varchar": bytes.decode,
    "bpchar": bytes.decode,
    "bytea": pgbinary.bytea_text,
    "timestamp": pgbinary.timestamp_text,
    "timestamptz": pgbinary.timestamptz_text,
    "date": pgbinary.date_text,
    "uuid": pgbinary.uuid_text,
    "json": bytes.decode,
    "jsonb": pgbinary.jsonb_text,
    "numeric": pgbinary.numeric_text,
}
BINARY_KINDS = frozenset(_BINARY_TEXT)
INTEGER_KINDS = frozenset(("int2", "int4", "int8", "oid"))
FLOAT_KINDS = frozenset(("float4", "float8"))
_MODIFIER = re.compile(r"\s*\([^)]*\)")
NEGATIVE_ZERO = b"-0"


def kind_of(sql_type: str) -> str:
    """The short name of a type without its modifier: ``numeric`` for ``numeric(12,2)``; itself if it is not a type
    that this module treats specially."""
    plain = _MODIFIER.sub("", sql_type).strip().removeprefix("pg_catalog.")
    return _ALIASES.get(plain.lower(), plain.lower())


def text_of(column: Column) -> Callable[[bytes], str]:
    """Reads the column's bytes in row images as canonical text."""
    if column.format == "text":
        return bytes.decode
    return _binary_text(column)


def _binary_text(column: Column) -> Callable[[bytes], str]:
    try:
        return _BINARY_TEXT[kind_of(column.type)]
    except KeyError:
        raise ValueError(f"column {column.name}: the binary form of {column.type} is not known here") from None


# -- SQLite


def sqlite_type(sql_type: str) -> str:
    """The type that a SQLite column is declared with; its affinity changes nothing that is stored in it."""
    kind = kind_of(sql_type)
    if kind in INTEGER_KINDS or kind == "bool":
        return "INTEGER"
    if kind in FLOAT_KINDS:
        return "REAL"
    return "BLOB" if kind == "bytea" else "TEXT"


def storage_of(column: Column) -> Callable[[bytes], Stored]:
    """Reads the column's bytes in row images as what SQLite stores."""
    kind = kind_of(column.type)
    if column.format == "text":
        return _TEXT_STORAGE.get(kind, bytes.decode)
    return _BINARY_STORAGE.get(kind) or _binary_text(column)


def stored_text(column: Column) -> Callable[[Stored], str | None]:
    """Reads what SQLite stores as canonical text. What this program would never have stored (another program wrote
    it) gives a text of its own, so that it is seen as different."""
    return _STORED_TEXT.get(kind_of(column.type), _stored_as_is)


def storage_from_text(column: Column, text: str) -> Stored:
    """A canonical text as what SQLite stores. Raises ValueError."""
    return _TEXT_STORAGE.get(kind_of(column.type), bytes.decode)(text.encode())


def _float8_storage(number: float) -> Stored:
    if number != number:
        return "NaN"
    if number == 0 and str(number) == "-0.0":  # -0.0 equals 0.0: only its text tells
        return NEGATIVE_ZERO
    return number


def _float4_storage(number: float) -> Stored:
    """The double that reads like the real: 0.1 rather than 0.10000000149011612."""
    return _float8_storage(float(float4_text(number)))


def _bytea_storage(text: bytes) -> bytes:
    if text[:2] != b"\\x":
        raise ValueError("a bytea that is not in hex")
    return bytes.fromhex(text[2:].decode())


_BOOLS = {b"t": 1, b"f": 0, b"true": 1, b"false": 0}

_TEXT_STORAGE: dict[str, Callable[[bytes], Stored]] = {
    "bool": _BOOLS.__getitem__,
    **dict.fromkeys(INTEGER_KINDS, int),
    **dict.fromkeys(FLOAT_KINDS, lambda text: _float8_storage(float(text))),
    "bytea": _bytea_storage,
}
_BINARY_STORAGE: dict[str, Callable[[bytes], Stored]] = {
    "bool": pgbinary.bool_number,
    "int2": pgbinary.int_number,
    "int4": pgbinary.int_number,
    "int8": pgbinary.int_number,
    "float4": lambda data: _float4_storage(pgbinary.float4_number(data)),
    "float8": lambda data: _float8_storage(pgbinary.float8_number(data)),
    "bytea": bytes,
}


def _stored_as_is(value: Stored) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return repr(value)


def _stored_bool(value: Stored) -> str | None:
    # A number that is neither was written by another program, and shows as what it is.
    return {0: "f", 1: "t"}[value] if isinstance(value, int) and value in (0, 1) else _stored_as_is(value)


def _stored_float8(value: Stored) -> str | None:
    if isinstance(value, float):
        return float8_text(value)
    return "-0" if value == NEGATIVE_ZERO else _stored_as_is(value)


def _stored_float4(value: Stored) -> str | None:
    if isinstance(value, float):
        return pgbinary.nearest_float4_text(value)
    return "-0" if value == NEGATIVE_ZERO else _stored_as_is(value)


def _stored_bytea(value: Stored) -> str | None:
    return pgbinary.bytea_text(value) if isinstance(value, bytes) else _stored_as_is(value)


_STORED_TEXT: dict[str, Callable[[Stored], str | None]] = {
    "bool": _stored_bool,
    "float4": _stored_float4,
    "float8": _stored_float8,
    "bytea": _stored_bytea,
}

# -- JSON


def json_of(column: Column) -> Callable[[str], Any]:
    """Reads a canonical text as a JSON value. Decimals within ``json`` and ``jsonb`` come as ``Decimal``."""
    return _JSON.get(kind_of(column.type), str)


def _json_float(text: str) -> Any:
    return text if text.endswith(("NaN", "Infinity")) else float(text)


def _json_document(text: str) -> Any:
    """What is too deep or has a number too long for this program is shown as its text."""
    try:
        return json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError):
        return text


def _json_int(text: str) -> Any:
    return int(text) if _WHOLE.fullmatch(text) else text


_WHOLE = re.compile(r"-?[0-9]{1,19}")
_JSON: dict[str, Callable[[str], Any]] = {
    "bool": lambda text: {"t": True, "f": False}.get(text, text),
    **dict.fromkeys(INTEGER_KINDS, _json_int),
    **dict.fromkeys(FLOAT_KINDS, _json_float),
    "json": _json_document,
    "jsonb": _json_document,
}
