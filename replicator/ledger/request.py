"""Transactions as their clients send them, read into statements.

    {"id": "topup-2026-01-31-17",                                       idempotency key, optional, up to 200 characters
     "statements": [
       {"table": "wallets", "op": "insert", "document": {"wallet_id": "w1", "user_id": "u1", "balance": 0}},
       {"table": "wallets", "op": "put",    "document": {…}},           insert or replace
       {"table": "wallets", "op": "update", "key": "w1", "set": {"name": "x"}, "unset": ["note"], "add": {"n": 1}},
       {"table": "wallets", "op": "add",    "key": "w1", "add": {"balance": -500}, "require": [["balance", ">=", 0]]},
       {"table": "wallets", "op": "delete", "key": "w1", "expect": {"version": 3}}]}

``expect`` and ``require`` go with every op. Guarantee: what is not exactly this is refused with the place of the fault:
unknown fields, wrong types, a row that occurs twice, anything beyond a limit. Nothing here looks at the ledger's state.

Statements are read one at a time, so the memory of a large request is that of what its statements come to. ``digest``
is of the content, whatever the order of fields and the white space: a retry that was written anew is still a retry.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from replicator.errors import Rejected
from replicator.ledger.evaluate import OPERATORS, Condition, RequestedChange, write_document
from replicator.ledger.exact_json import as_text, read_at
from replicator.ledger.tables import Key, LedgerTable, text_bytes
from replicator.ledger.walk import Fields, read_list

ID_LIMIT = 200
DEPTH_LIMIT = 64
CONDITIONS_LIMIT = 100

_COMMON = frozenset({"table", "op", "expect", "require"})
_FIELDS = {
    "insert": _COMMON | {"document"},
    "put": _COMMON | {"document"},
    "update": _COMMON | {"key", "set", "unset", "add"},
    "add": _COMMON | {"key", "add"},
    "delete": _COMMON | {"key"},
}
_NO_FIELDS: dict[str, Any] = {}  # shared: a million empty dicts cost more than they say
_NO_NAMES: list[str] = []
_NO_CONDITIONS: list[Condition] = []
_canonical = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), default=lambda number: ["decimal", str(number)]
).encode


@dataclasses.dataclass(frozen=True, slots=True)
class RequestLimits:
    """What a client may send. ``transaction_bytes`` bounds what a transaction comes to when it is written."""

    document_bytes: int = 1_000_000
    request_bytes: int = 64_000_000
    statements: int = 1_000_000
    transaction_bytes: int = 256_000_000


class TransactionRequest(NamedTuple):
    """A transaction that was asked for. ``digest`` is empty without an id."""

    id: str
    digest: bytes
    statements: list[RequestedChange]


def read_request(body: bytes, tables: Mapping[str, LedgerTable], limits: RequestLimits) -> TransactionRequest:
    """Read a transaction. Raises Rejected."""
    try:
        text = as_text(body)
        # The digest takes time, and most bulk loads have no id; but it may stand behind the statements.
        id_, digest, statements = _read(text, tables, limits, hashlib.sha256() if '"id"' in text else None)
        if id_ and digest is None:  # its name was written with escapes
            id_, digest, statements = _read(text, tables, limits, hashlib.sha256())
    except RecursionError as error:
        raise Rejected("too_deep", "the JSON is nested too deeply") from error
    if not statements:
        raise Rejected("no_statements", "a transaction has at least one statement", status=422, place="statements")
    return TransactionRequest(id_, digest.digest() if id_ and digest else b"", statements)


def read_identity(body: bytes) -> TransactionRequest | None:
    """The id and digest of a request that is refused for what it names: without statements, which were not judged. None
    if it has no id, or is no transaction at all."""
    digest, id_ = hashlib.sha256(), ""

    def take(value: Any) -> None:
        digest.update(_canonical(value).encode())

    try:
        text = as_text(body)
        for name, at in (fields := Fields(text)):
            if name == "id":
                id_, fields.end = read_at(text, at)
                _check_id(id_)
            elif name == "statements":
                fields.end = read_list(text, at, take)
            else:
                return None
    except (Rejected, RecursionError):
        return None
    return TransactionRequest(id_, digest.digest(), []) if id_ else None


def _read(
    text: str, tables: Mapping[str, LedgerTable], limits: RequestLimits, digest: hashlib._Hash | None
) -> tuple[str, hashlib._Hash | None, list[RequestedChange]]:
    """The id, the digest and the statements."""
    statements: list[RequestedChange] = []
    id_ = ""
    for name, at in (fields := Fields(text)):
        if name == "id":
            id_, fields.end = read_at(text, at)
            _check_id(id_)
        elif name == "statements":
            fields.end = read_list(text, at, _StatementReader(tables, limits, digest, statements).take)
        else:
            raise _unknown(name, {"id", "statements"}, "transaction")
    return id_, digest, statements


def _check_id(id_: Any) -> None:
    if not isinstance(id_, str) or not 1 <= len(id_) <= ID_LIMIT or "\0" in id_:
        message = f"the idempotency key is text of 1 to {ID_LIMIT} characters without NUL"
        raise Rejected("bad_id", message, status=422, place="id")
    text_bytes(id_)


class _StatementReader:
    """Reads the statements of one request."""

    def __init__(
        self,
        tables: Mapping[str, LedgerTable],
        limits: RequestLimits,
        digest: hashlib._Hash | None,
        statements: list[RequestedChange],
    ) -> None:
        self._tables = tables
        self._statements = statements
        self._limits = limits
        self._digest = digest
        self._number_by_row: dict[tuple[int, Key], int] = {}

    def take(self, value: Any) -> None:
        """Read the next statement. Raises Rejected."""
        number = len(self._statements)
        if number >= self._limits.statements:
            message = f"a transaction has at most {self._limits.statements:,} statements"
            raise Rejected("too_many_statements", message, status=413, cure="send several transactions")
        if not isinstance(value, dict):
            raise Rejected("bad_request", "a statement is an object", status=422)
        # Of the value, not of its text, and before it is judged: a retry is known by what it asks for.
        if self._digest is not None:
            self._digest.update(_canonical(value).encode())
        op = value.get("op")
        known = _FIELDS.get(op) if isinstance(op, str) else None
        if known is None:
            raise Rejected("bad_op", f"op is one of {', '.join(_FIELDS)}", status=422, place=f"statements[{number}].op")
        if not known.issuperset(value):
            raise _unknown(min(set(value) - known), known, f"statements[{number}]")
        table = self._table(value.get("table"))
        statement = (
            self._with_document(number, table, value) if op in ("insert", "put") else _with_key(number, table, value)
        )
        self._check_twice(statement)
        self._statements.append(statement)

    def _table(self, name: Any) -> LedgerTable:
        table = self._tables.get(name) if isinstance(name, str) else None
        if table is None:
            raise Rejected(
                "unknown_table",
                f"there is no table {str(name)[:80]!r}",
                status=404,
                cure="declare it with PUT /v1/tables/{table}" + _nearest(str(name), self._tables),
            )
        return table

    def _with_document(self, number: int, table: LedgerTable, value: dict[str, Any]) -> RequestedChange:
        document = value.get("document")
        if not isinstance(document, dict):
            raise Rejected("bad_document", "document is an object", status=422)
        key, user = table.key_of(document), table.user_of(document)
        text = write_document(document, self._limits.document_bytes, DEPTH_LIMIT)
        require = _conditions(value)
        judged = document if require else None  # a million documents of a bulk load are not held twice
        nothing = (_NO_FIELDS, _NO_NAMES, _NO_FIELDS)
        return RequestedChange(number, table, value["op"], key, text, user, judged, *nothing, _expected(value), require)

    def _check_twice(self, statement: RequestedChange) -> None:
        row = (statement.table.relation, statement.key)
        before = self._number_by_row.setdefault(row, statement.number)
        if before != statement.number:
            raise Rejected(
                "duplicate_key",
                f"statements[{before}] and statements[{statement.number}] change the same row",
                status=422,
                place=statement.place,
                cure="make it one statement, or two transactions",
            )


def _with_key(number: int, table: LedgerTable, value: dict[str, Any]) -> RequestedChange:
    op = value["op"]
    if "key" not in value:
        raise Rejected("bad_key", f"{op} needs the key of the row", status=422)
    set_, unset, add = value.get("set", _NO_FIELDS), value.get("unset", _NO_NAMES), value.get("add", _NO_FIELDS)
    if not isinstance(set_, dict) or not isinstance(add, dict):
        raise Rejected("bad_request", "set and add are objects", status=422)
    if not isinstance(unset, list) or not all(isinstance(name, str) for name in unset):
        raise Rejected("bad_request", "unset is a list of names", status=422)
    if op != "delete" and not (set_ or unset or add):
        raise Rejected("bad_request", f"{op} says nothing that would change", status=422)
    for name, amount in add.items():
        if type(amount) is not int and not isinstance(amount, Decimal):
            raise Rejected("not_a_number", f"add.{name[:80]} is not a number", status=422)
    names = [*set_, *unset, *add]
    if len(set(names)) != len(names):
        raise Rejected("bad_request", "a field stands in more than one of set, unset and add", status=422)
    if in_key := set(names) & set(table.key):
        message = f"the field {min(in_key)!r} is of the key, which does not change"
        raise Rejected("key_change", message, status=422, cure="delete the document and insert another")
    key = table.key_from(value["key"])
    return RequestedChange(
        number, table, op, key, b"", None, None, set_, unset, add, _expected(value), _conditions(value)
    )


def _expected(value: dict[str, Any]) -> int | None:
    if "expect" not in value:
        return None
    expect = value["expect"]
    version = expect.get("version") if isinstance(expect, dict) and set(expect) == {"version"} else None
    if type(version) is not int or not 0 <= version < 2**63:
        message = 'expect is {"version": N}, N a whole number, 0 where there must be no document'
        raise Rejected("bad_expect", message, status=422)
    return version


def _conditions(value: dict[str, Any]) -> list[Condition]:
    if "require" not in value:
        return _NO_CONDITIONS
    conditions = value["require"]
    if not isinstance(conditions, list) or len(conditions) > CONDITIONS_LIMIT:
        raise Rejected("bad_require", f"require is a list of at most {CONDITIONS_LIMIT} conditions", status=422)
    for condition in conditions:
        shaped = isinstance(condition, list) and len(condition) == 3 and isinstance(condition[0], str)
        if not shaped or not isinstance(condition[1], str) or condition[1] not in OPERATORS:
            message = f"a condition is [field, operator, value], the operator one of {' '.join(OPERATORS)}"
            raise Rejected("bad_require", message, status=422)
    return [Condition(*condition) for condition in conditions]


def _unknown(name: str, known: Collection[str], place: str) -> Rejected:
    message = f"the field {name[:80]!r} is not known here"
    return Rejected("unknown_field", message, status=422, place=place, cure=_nearest(name, known).lstrip("; "))


def _nearest(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name[:80], list(known)[:1000], 1)
    return f"; did you mean {near[0]!r}?" if near else ""
