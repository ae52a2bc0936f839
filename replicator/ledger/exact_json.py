"""JSON in which no number is rounded and nothing is guessed.

Guarantee: whole numbers of any size and decimals are read exactly (``int``, ``Decimal``) and written as they were
read: ``1.10`` stays ``1.10``. Refused with a Rejected that says why: a name twice in one object, NaN and Infinity,
numbers beyond DIGITS_LIMIT or EXPONENT_LIMIT, text that is not Unicode (lone surrogates), anything deeper than the
caller's limit. Written text is compact and keeps the order of names. An exponent is written as Decimal does: ``1e5``
as ``1E+5``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from replicator.errors import Rejected

DIGITS_LIMIT = 400  # characters of a number
EXPONENT_LIMIT = 1000

# What is written was read from JSON, or is made of what was: it holds no cycle.
_write_plain = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode
_write_string = json.JSONEncoder(ensure_ascii=False).encode


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)  # fewer than pairs: the later value would win in silence
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Rejected("duplicate_name", f"the name {twice[:80]!r} stands twice in one object")
    return fields


def _decimal(text: str) -> Decimal:
    number = Decimal(text) if len(text) <= DIGITS_LIMIT else None
    if number is None or not number.is_finite() or abs(number.adjusted()) > EXPONENT_LIMIT:
        raise Rejected("number_range", f"the number {text[:40]} is too long, too large or too small", status=422)
    return number


def _not_a_number(text: str) -> Any:
    raise Rejected("not_json", f"{text} is not a number in JSON", cure="send null, or leave the field out")


decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_decimal, parse_constant=_not_a_number)


def read_at(text: str, at: int) -> tuple[Any, int]:
    """The value that begins at ``at``, and where it ends. Raises Rejected."""
    try:
        value: tuple[Any, int] = decoder.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise not_json(error.msg, error.pos) from error
    except RecursionError as error:
        raise Rejected("too_deep", "the JSON is nested too deeply", cure="send it less deeply nested") from error
    except (ValueError, ArithmeticError) as error:  # a whole number beyond Python's own limit of digits
        raise Rejected("number_range", "a number has too many digits", status=422) from error
    return value


def read(data: bytes) -> Any:
    """The one value that ``data`` is. Raises Rejected."""
    text = as_text(data)
    start = skip_space(text, 0)
    value, end = read_at(text, start)
    if skip_space(text, end) != len(text):
        raise not_json("something follows the value", end)
    return value


def as_text(data: bytes) -> str:
    """UTF-8 as text. Raises Rejected."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Rejected("not_json", f"byte {error.start} is not UTF-8", cure="send JSON in UTF-8") from error


def skip_space(text: str, at: int) -> int:
    """The place of the next character that is not white space."""
    while text[at : at + 1] in (" ", "\n", "\t", "\r"):
        at += 1
    return at


def not_json(what: str, at: int) -> Rejected:
    """A refusal of malformed JSON."""
    message = f"the body is not JSON: {what}, at character {at}"
    return Rejected("not_json", message, cure="send one JSON value, whole")


def write(value: Any) -> str:
    """The value as compact JSON text."""
    try:
        return _write_plain(value)
    except TypeError:  # there is a Decimal in it, which the fast encoder does not know
        pieces: list[str] = []
        _write(value, pieces)
        return "".join(pieces)


def write_bytes(value: Any) -> bytes:
    """The value as compact JSON in UTF-8. Raises Rejected at a lone surrogate."""
    try:
        return write(value).encode()
    except UnicodeEncodeError as error:
        lone = error.object[error.start]
        message = f"a text holds the lone surrogate U+{ord(lone):04X}, which is no character"
        raise Rejected("not_unicode", message, status=422, cure="send whole characters") from error


def _write(value: Any, pieces: list[str]) -> None:
    if isinstance(value, Decimal):
        pieces.append(_number(value))
    elif isinstance(value, dict):
        _write_many("{", "}", ((_write_string(name) + ":", item) for name, item in value.items()), pieces)
    elif isinstance(value, list | tuple):
        _write_many("[", "]", (("", item) for item in value), pieces)
    else:
        pieces.append(_write_string(value))


def _write_many(opening: str, closing: str, items: Iterable[tuple[str, Any]], pieces: list[str]) -> None:
    pieces.append(opening)
    for number, (name, item) in enumerate(items):
        pieces.append("," + name if number else name)
        _write(item, pieces)
    pieces.append(closing)


def _number(number: Decimal) -> str:
    exponent = number.as_tuple().exponent
    plain = isinstance(exponent, int) and -EXPONENT_LIMIT <= exponent <= 0
    return format(number, "f") if plain else str(number)


def depth_of(value: Any, limit: int) -> int:
    """How deep objects and lists are nested, counted no further than ``limit`` + 1."""
    level = [value]
    depth = 0
    while depth <= limit:
        level = [item for item in level if isinstance(item, dict | list)]
        if not level:
            break
        depth += 1
        level = [item for outer in level for item in (outer.values() if isinstance(outer, dict) else outer)]
    return depth


def check_depth(value: Any, text: bytes, limit: int) -> None:
    """Raise Rejected if ``value``, written as ``text``, is nested deeper than ``limit``."""
    # A text with few brackets cannot be deep: nearly every document is done here.
    if text.count(b"{") + text.count(b"[") > limit and depth_of(value, limit) > limit:
        raise Rejected(
            "too_deep",
            f"the document is nested deeper than {limit} levels",
            status=422,
            cure="flatten it, or store the inner part as text",
        )
