"""What a statement makes of a document: the next version, or the precondition that does not hold.

Guarantee: pure, and exact: sums are computed without rounding or refused. Nothing is changed in place.

Versions count every change of a key from 1, deletes included, and never start again: a document that is inserted again
goes on behind its deletion. ``expect`` compares with the version that readers see: 0 where there is no document.
``require`` is judged on the document that results; for a delete on the one that goes.
"""

from __future__ import annotations

import decimal
import json
import operator
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

from replicator.errors import Rejected
from replicator.ledger.exact_json import DIGITS_LIMIT, check_depth, decoder, write_bytes
from replicator.ledger.tables import Key, LedgerTable

Number = int | Decimal
_exact = decimal.Context(prec=DIGITS_LIMIT, traps=[decimal.Inexact, decimal.InvalidOperation, decimal.Overflow])
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Condition(NamedTuple):
    """``field`` stands to ``value`` as the operator says."""

    field: str
    operator: str
    value: Any


class RequestedChange(NamedTuple):
    """One change that was asked for. ``text`` and ``user`` are those of an insert's or put's document, ``document`` the
    document itself where a condition will be judged on it."""

    number: int
    table: LedgerTable
    op: str
    key: Key
    text: bytes
    user: str | None
    document: dict[str, Any] | None
    set: dict[str, Any]
    unset: list[str]
    add: dict[str, Number]
    expect: int | None
    require: list[Condition]

    @property
    def place(self) -> str:
        """Where it stands in its request, for errors."""
        key = ", ".join(str(part)[:80] for part in self.key)
        return f"statements[{self.number}], table {self.table.name}, key {key}"


class StoredDocument(NamedTuple):
    """What the ledger has under a key: the last version, and the document's text, None if there is none (any more)."""

    version: int
    text: str | None


class StatementResult(NamedTuple):
    """The document after a statement; ``text`` is None if it goes."""

    version: int
    text: bytes | None
    user: str | None


def evaluate(
    statement: RequestedChange, stored: StoredDocument, document_limit_bytes: int, depth_limit: int
) -> StatementResult:
    """The statement's effect on what is stored. Raises Rejected, with its place."""
    try:
        _check_presence(statement, stored)
        if statement.op in ("insert", "put"):
            _check_conditions(statement, statement.document)
            return StatementResult(stored.version + 1, statement.text, statement.user)
        document = _read_stored(stored)
        if statement.op == "delete":
            _check_conditions(statement, document)
            return StatementResult(stored.version + 1, None, None)
        _change(statement, document)  # the document is this call's own: it was decoded just now
        text = write_document(document, document_limit_bytes, depth_limit)
        _check_conditions(statement, document)
        return StatementResult(stored.version + 1, text, statement.table.user_of(document))
    except Rejected as error:
        error.place = error.place or statement.place
        raise


def write_document(document: dict[str, Any], limit_bytes: int, depth_limit: int) -> bytes:
    """The document as it is stored. Raises Rejected if it is too large or too deep."""
    try:
        data = write_bytes(document)
    except RecursionError as error:
        raise Rejected("too_deep", f"the document is nested deeper than {depth_limit} levels", status=422) from error
    if len(data) > limit_bytes:
        raise Rejected(
            "document_too_large",
            f"the document has {len(data):,} bytes, at most {limit_bytes:,} are taken",
            status=413,
            cure="split the document, or raise the limit of documents in the configuration",
        )
    check_depth(document, data, depth_limit)
    return data


def _read_stored(stored: StoredDocument) -> dict[str, Any]:
    try:
        document = decoder.decode(stored.text or "")
        if not isinstance(document, dict):
            raise ValueError("not an object")
    except (ValueError, Rejected) as error:
        raise Rejected(
            "state_damaged",
            f"the document in the ledger's state cannot be read: {error}",
            status=500,
            cure="somebody wrote to the state: put the document anew, or build the state again from the journal",
        ) from error
    return document


def _check_presence(statement: RequestedChange, stored: StoredDocument) -> None:
    visible = stored.version if stored.text is not None else 0
    if statement.expect is not None and statement.expect != visible:
        message = f"version {statement.expect} was expected, it is {visible}"
        raise Rejected("version_conflict", message, status=409, cure="read the document again and decide anew")
    if statement.op == "insert" and stored.text is not None:
        message = f"there is a document of this key already, at version {visible}"
        raise Rejected("document_exists", message, status=409, cure="use put to replace it, update to change it")
    if statement.op in ("update", "add", "delete") and stored.text is None:
        raise Rejected("no_document", "there is no document of this key", status=404, cure="insert it first")


def _change(statement: RequestedChange, document: dict[str, Any]) -> None:
    document.update(statement.set)
    for name in statement.unset:
        document.pop(name, None)
    for name, amount in statement.add.items():
        document[name] = _sum(name, document.get(name), amount)


def _sum(name: str, before: Any, amount: Number) -> Number:
    if type(before) is not int and not isinstance(before, Decimal):
        message = f"the field {name!r} is missing or is not a number, so nothing can be added to it"
        raise Rejected("not_a_number", message, status=409)
    try:  # ``_exact`` raises where it would have to round: a sum is exact, or refused
        if isinstance(before, int) and isinstance(amount, int):
            total: Number = before + amount
            _exact.create_decimal(total)
            return total
        return _exact.add(Decimal(before), Decimal(amount))
    except decimal.DecimalException as error:
        message = f"the sum in {name!r} cannot be written exactly in {DIGITS_LIMIT} digits"
        raise Rejected("number_range", message, status=422) from error


def _check_conditions(statement: RequestedChange, document: dict[str, Any] | None) -> None:
    for condition in statement.require:
        value = (document or {}).get(condition.field)
        if not _holds(value, condition):
            raise Rejected(
                "condition_failed",
                f"{condition.field} {condition.operator} {_shown(condition.value)} is required, it would be "
                f"{_shown(value)}",
                status=409,
            )


def _holds(value: Any, condition: Condition) -> bool:
    """Values compare with values of their kind: numbers with numbers, texts with texts. A missing field is null."""
    if _kind(value) != _kind(condition.value):
        return condition.operator == "!="
    if condition.operator not in ("==", "!=") and _kind(value) not in ("number", "text"):
        return False
    return OPERATORS[condition.operator](value, condition.value)


def _kind(value: Any) -> str:
    if isinstance(value, bool):  # before int, which it is one of
        return "boolean"
    if isinstance(value, int | Decimal):
        return "number"
    return "text" if isinstance(value, str) else type(value).__name__


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)[:80]
