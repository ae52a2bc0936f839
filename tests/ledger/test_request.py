"""Reading transactions: what is taken, and how what is not is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from replicator.errors import Rejected
from replicator.ledger.request import RequestLimits, TransactionRequest, read_request
from replicator.ledger.tables import LedgerTable, definition_of
from tests.ledger.region import POINTS, WALLETS, change, insert, transaction

TABLES = {
    declaration.name: LedgerTable(n, definition_of(declaration)) for n, declaration in enumerate((WALLETS, POINTS), 1)
}


def read(*statements: Any, **fields: Any) -> TransactionRequest:
    return read_request(transaction(*statements, **fields), TABLES, RequestLimits(document_bytes=1000, statements=50))


def refused(*statements: Any, **fields: Any) -> Rejected:
    with pytest.raises(Rejected) as caught:
        read(*statements, **fields)
    return caught.value


def test_a_whole_transaction_is_read() -> None:
    request = read(
        insert(wallet_id="a", user_id="u", balance=0),
        change("update", "b", set={"x": None}, unset=["y"], add={"z": 1}, expect={"version": 0}),
        {"table": "points", "op": "delete", "key": {"number": 1, "tenant": "t"}, "require": [["n", "!=", "x"]]},
        id="i" * 200,
    )
    first, second, third = request.statements
    assert (first.key, first.user, first.text) == (("a",), "u", b'{"wallet_id":"a","user_id":"u","balance":0}')
    assert (second.set, second.unset, second.add, second.expect) == ({"x": None}, ["y"], {"z": 1}, 0)
    assert (third.key, third.require) == (("t", 1), [("n", "!=", "x")])


def test_the_digest_is_of_the_content_not_of_its_form() -> None:
    one = b'{"id": "i", "statements": [{"table": "wallets", "op": "add", "key": "a", "add": {"n": 1.50}}]}'
    two = b'{"statements":[{"add":{"n":1.50},"op":"add","table":"wallets","key":"a"} ] ,\n"id":"i"}'
    other = one.replace(b"1.50", b"1.51")
    digests = [read_request(body, TABLES, RequestLimits()).digest for body in (one, two, other)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("statement", "reason", "status"),
    [
        (1, "bad_request", 422),
        ({}, "bad_op", 422),
        ({"op": ["insert"]}, "bad_op", 422),
        ({"op": "upsert", "table": "wallets"}, "bad_op", 422),
        (insert("nothing", a=1), "unknown_table", 404),
        ({"op": "insert", "table": ["wallets"], "document": {}}, "unknown_table", 404),
        (insert(), "bad_key", 422),
        (insert(wallet_id=None), "bad_key", 422),
        (insert(wallet_id=True), "bad_key", 422),
        (insert(wallet_id=1), "bad_key", 422),
        (insert(wallet_id=1.5), "bad_key", 422),
        (insert(wallet_id=""), "bad_key", 422),
        (insert(wallet_id="a\0"), "bad_key", 422),
        (insert(wallet_id="ü" * 513), "bad_key", 422),
        (insert(wallet_id={"a": 1}), "bad_key", 422),
        (insert(wallet_id="\ud800"), "not_unicode", 422),
        (insert(wallet_id="a", x="\udfff"), "not_unicode", 422),
        (insert("wallets", **{"wallet_id": "a", "\ud800": 1}), "not_unicode", 422),
        (insert(wallet_id="a", user_id=1), "bad_user", 422),
        (insert(wallet_id="a", user_id="u" * 1025), "bad_user", 422),
        (insert(wallet_id="a", x="x" * 1000), "document_too_large", 413),
        (insert(wallet_id="a", x=json.loads("[" * 64 + "]" * 64)), "too_deep", 422),
        (insert("points", tenant="t", number="1"), "bad_key", 422),
        (insert("points", tenant="t", number=1.0), "bad_key", 422),
        (insert("points", tenant="t", number=2**63), "bad_key", 422),
        (insert("points", tenant="t"), "bad_key", 422),
        ({**insert(wallet_id="a"), "key": "a"}, "unknown_field", 422),
        ({**insert(wallet_id="a"), "document": [1]}, "bad_document", 422),
        (change("update", "a"), "bad_request", 422),
        (change("update", "a", set=[]), "bad_request", 422),
        (change("update", "a", unset=[1]), "bad_request", 422),
        (change("update", "a", set={"x": 1}, add={"x": 1}), "bad_request", 422),
        (change("update", "a", unset=["x", "x"]), "bad_request", 422),
        (change("update", "a", set={"wallet_id": "a"}), "key_change", 422),
        (change("add", "a", add={"x": "1"}), "not_a_number", 422),
        (change("add", "a", add={"x": True}), "not_a_number", 422),
        (change("add", "a", add={"x": 1}, set={"y": 1}), "unknown_field", 422),
        ({"table": "wallets", "op": "delete"}, "bad_key", 422),
        ({"table": "points", "op": "delete", "key": "t"}, "bad_key", 422),
        ({"table": "points", "op": "delete", "key": {"tenant": "t"}}, "bad_key", 422),
        (change("delete", "a", expect=1), "bad_expect", 422),
        (change("delete", "a", expect={"version": -1}), "bad_expect", 422),
        (change("delete", "a", expect={"version": True}), "bad_expect", 422),
        (change("delete", "a", expect={"version": 1, "x": 1}), "bad_expect", 422),
        (change("delete", "a", require=["x"]), "bad_require", 422),
        (change("delete", "a", require=[["x", "=>", 1]]), "bad_require", 422),
        (change("delete", "a", require=[["x", "==", 1]] * 101), "bad_require", 422),
    ],
)
def test_a_bad_statement_is_refused_at_its_place(statement: Any, reason: str, status: int) -> None:
    error = refused(insert(wallet_id="first"), statement)
    assert (error.reason, error.status) == (reason, status), error
    assert error.place.startswith("statements[1]")


def test_one_row_twice_is_refused_naming_both() -> None:
    error = refused(insert(wallet_id="a"), insert(wallet_id="b"), change("delete", "a"))
    assert (error.reason, error.status) == ("duplicate_key", 422)
    assert "statements[0] and statements[2]" in error.message


@pytest.mark.parametrize("id_", ["", "i" * 201, 5, None, "a\0", "\ud800", ["a"]])
def test_a_bad_idempotency_key_is_refused(id_: Any) -> None:
    assert refused(insert(wallet_id="a"), id=id_).status == 422


def test_limits_and_unknown_fields_are_named() -> None:
    assert refused(*(insert(wallet_id=str(n)) for n in range(51))).message == "a transaction has at most 50 statements"
    assert refused(insert(wallet_id="a"), ids="x").cure == "did you mean 'id'?"
    assert refused({**insert(wallet_id="a"), "expects": 1}).cure == "did you mean 'expect'?"
    assert "'wallets'" in refused(insert("walets", wallet_id="a")).cure
    assert refused().reason == "no_statements"


@pytest.mark.parametrize(
    "body",
    [
        b'{"statements": [}',
        b'{"statements": [{} {}]}',
        b'{"statements" []}',
        b'{"statements": [],}',
        b"{1: 2}",
        b'{"id": "a" "statements": []}',
        b'{"id": "a"',
        b"{,}",
    ],
)
def test_malformed_json_is_refused_as_such(body: bytes) -> None:
    with pytest.raises(Rejected) as caught:
        read_request(body, TABLES, RequestLimits())
    assert (caught.value.status, caught.value.reason) in ((400, "not_json"), (422, "bad_op"))


def test_a_field_twice_is_refused() -> None:
    with pytest.raises(Rejected, match="twice"):
        read_request(b'{"id": "a", "id": "b", "statements": []}', TABLES, RequestLimits())
