"""Keys from outside: text that a person or a program sent, checked against the key's types.

Guarantee: what passes is the canonical text that a row with that key has, for the types that are keys in practice
(whole numbers, text, uuid, date, timestamps, numeric, bool, bytea); other types pass as they are, and a text that is
not canonical finds nothing. What is not of its type is Rejected. Pure.
"""

from __future__ import annotations

import datetime
import re
import uuid
from collections.abc import Callable, Sequence
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation

from replicator.errors import Rejected
from replicator.format.definition import Column, Definition
from replicator.format.floats import float8_text
from replicator.format.pgbinary import nearest_float4_text
from replicator.format.values import kind_of

KEY_LIMIT_CHARACTERS = 8192


def unknown_table(table: str) -> Rejected:
    """The refusal of a table that this region does not have."""
    return Rejected(
        "unknown_table", "this ledger has no such table", status=404, place=f"table {table:.200}", cure="see /v1/tables"
    )


def checked_key(definition: Definition, key: Sequence[str]) -> list[tuple[Column, str]]:
    """The key's columns with their canonical texts, in key order. Raises Rejected (``no_key``, ``bad_key``)."""
    place = f"table {definition.label}"
    if not definition.key:
        raise Rejected("no_key", "the table has no key to find a row by", place=place, cure="read it by user")
    if len(key) != len(definition.key):
        message = f"{len(key)} values for a key of {len(definition.key)}"
        raise Rejected("bad_key", message, place=place, cure=f"give {', '.join(definition.key)} in this order")
    columns = [definition.columns[number] for number in definition.key_places]
    return [(column, checked_text(column, text)) for column, text in zip(columns, key, strict=True)]


def checked_text(column: Column, text: str) -> str:
    """A value from outside as the column's canonical text. Raises Rejected (``bad_key``)."""
    kind = kind_of(column.type)
    try:
        if len(text) > KEY_LIMIT_CHARACTERS or "\x00" in text:
            raise ValueError
        text.encode()  # raises at lone surrogates, which JSON lets through and no database takes
        if kind in ("bpchar", "numeric"):
            return _MODIFIED[kind](text, _numbers(column.type))
        return _CHECKS.get(kind, str)(text)
    except (ValueError, KeyError, ArithmeticError) as error:
        raise Rejected(
            "bad_key",
            f"{text[:80]!r} is not a value of type {column.type}",
            place=f"column {column.name}",
            cure="write it as the database prints it",
        ) from error


_WHOLE = re.compile(r"[-+]?[0-9]{1,20}")
_BITS = {"int2": (-(2**15), 2**15), "int4": (-(2**31), 2**31), "int8": (-(2**63), 2**63), "oid": (0, 2**32)}


def _whole(kind: str) -> Callable[[str], str]:
    low, high = _BITS[kind]

    def check(text: str) -> str:
        if not _WHOLE.fullmatch(text) or not low <= int(text) < high:
            raise ValueError
        return str(int(text))

    return check


def _bytea(text: str) -> str:
    return "\\x" + bytes.fromhex(text.removeprefix("\\x")).hex()


def _date(text: str) -> str:
    """Python's dates are enough for what people type; others are taken in canonical form."""
    return text if _UNUSUAL.search(text) else datetime.date.fromisoformat(text).isoformat()


def _timestamp(text: str) -> str:
    if _UNUSUAL.search(text):
        return text
    moment = datetime.datetime.fromisoformat(text).replace(tzinfo=None)
    return _trimmed(moment)


def _timestamptz(text: str) -> str:
    if _UNUSUAL.search(text):
        return text
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is not None:
        moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
    return f"{_trimmed(moment)}+00"


def _trimmed(moment: datetime.datetime) -> str:
    text = moment.isoformat(" ")
    return text.rstrip("0") if moment.microsecond else text


def _bpchar(text: str, numbers: list[int]) -> str:
    return text.ljust(numbers[0]) if numbers else text


def _numeric(text: str, numbers: list[int]) -> str:
    try:
        number = Decimal(text)
        if not number.is_finite():
            return {"NaN": "NaN", "Infinity": "Infinity", "-Infinity": "-Infinity"}[str(number)]
        if abs(number.adjusted()) > KEY_LIMIT_CHARACTERS:
            raise ValueError  # 1e999999999 is a short text, and a gigabyte once it is written out
        if numbers:
            scale = numbers[1] if len(numbers) > 1 else 0
            exact = Decimal(1).scaleb(-scale)
            if number.quantize(exact, ROUND_HALF_UP) != number:
                raise ValueError
            number = number.quantize(exact)
        return f"{abs(number) if number == 0 else number:f}"
    except InvalidOperation as error:
        raise ValueError from error


def _numbers(sql_type: str) -> list[int]:
    return [int(number) for number in re.findall(r"-?\d+", sql_type)]


_UNUSUAL = re.compile(r"BC$|^-?infinity$|^\d{5}")
_BOOLS = {"t": "t", "true": "t", "f": "f", "false": "f"}
_CHECKS: dict[str, Callable[[str], str]] = {
    "bool": lambda text: _BOOLS[text.lower()],
    **{kind: _whole(kind) for kind in _BITS},
    "float4": lambda text: nearest_float4_text(float(text)),
    "float8": lambda text: float8_text(float(text)),
    "uuid": lambda text: str(uuid.UUID(text)),
    "bytea": _bytea,
    "date": _date,
    "timestamp": _timestamp,
    "timestamptz": _timestamptz,
}
_MODIFIED: dict[str, Callable[[str, list[int]], str]] = {"bpchar": _bpchar, "numeric": _numeric}
