"""What statements make of documents."""

from __future__ import annotations

from typing import Any

import pytest

from replicator.errors import Rejected
from replicator.ledger.evaluate import StatementResult, StoredDocument, evaluate
from replicator.ledger.request import RequestLimits, read_request
from tests.ledger.region import change, insert, transaction
from tests.ledger.test_request import TABLES

HELD = StoredDocument(3, '{"wallet_id":"a","balance":10.50,"n":2,"name":"x","big":1e-300}')
GONE = StoredDocument(4, None)
NEVER = StoredDocument(0, None)


def run(statement: dict[str, Any], held: StoredDocument) -> StatementResult:
    (read,) = read_request(transaction(statement), TABLES, RequestLimits()).statements
    return evaluate(read, held, 1000, 64)


def refusal(statement: dict[str, Any], held: StoredDocument) -> tuple[int, str]:
    with pytest.raises(Rejected) as caught:
        run(statement, held)
    assert caught.value.place == "statements[0], table wallets, key a"
    return caught.value.status, caught.value.reason


def test_versions_count_every_change_and_go_on_behind_a_delete() -> None:
    assert run(insert(wallet_id="a"), NEVER) == StatementResult(1, b'{"wallet_id":"a"}', None)
    assert run(insert(wallet_id="a"), GONE).version == 5
    assert run({**insert(wallet_id="a"), "op": "put"}, HELD).version == 4
    assert run(change("delete", "a"), HELD) == StatementResult(4, None, None)


def test_update_merges_unsets_and_adds_exactly() -> None:
    result = run(
        change("update", "a", set={"name": None, "m": [1]}, unset=["big", "no"], add={"balance": 1, "n": 1}), HELD
    )
    assert result.text == b'{"wallet_id":"a","balance":11.50,"n":3,"name":null,"m":[1]}'
    assert run(change("update", "a", set={"user_id": "u"}), HELD).user == "u"


@pytest.mark.parametrize(
    ("statement", "held", "expected"),
    [
        (insert(wallet_id="a"), HELD, (409, "document_exists")),
        (change("update", "a", set={"x": 1}), NEVER, (404, "no_document")),
        (change("add", "a", add={"x": 1}), GONE, (404, "no_document")),
        (change("delete", "a"), GONE, (404, "no_document")),
        (change("add", "a", add={"x": 1}), HELD, (409, "not_a_number")),
        (change("add", "a", add={"name": 1}), HELD, (409, "not_a_number")),
        (change("update", "a", set={"user_id": 1}), HELD, (422, "bad_user")),
        (change("update", "a", set={"x": "x" * 1000}), HELD, (413, "document_too_large")),
        (change("add", "a", add={"n": 10**399}), StoredDocument(1, '{"n":' + "9" * 400 + "}"), (422, "number_range")),
        (change("delete", "a"), StoredDocument(1, "{"), (500, "state_damaged")),
        (change("delete", "a"), StoredDocument(1, "[]"), (500, "state_damaged")),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_place(
    statement: dict[str, Any], held: StoredDocument, expected: tuple[int, str]
) -> None:
    assert refusal(statement, held) == expected


def test_a_sum_that_would_be_rounded_is_refused() -> None:
    assert refusal(change("add", "a", add={"balance": 1}), StoredDocument(1, '{"balance":1e-999}')) == (
        422,
        "number_range",
    )
    assert run(change("add", "a", add={"big": 1}), HELD).text is not None


@pytest.mark.parametrize(
    ("version", "held", "holds"),
    [(3, HELD, True), (2, HELD, False), (0, HELD, False), (0, GONE, True), (4, GONE, False), (0, NEVER, True)],
)
def test_the_expected_version_is_the_one_that_readers_see(version: int, held: StoredDocument, holds: bool) -> None:
    statement = {**insert(wallet_id="a"), "op": "put", "expect": {"version": version}}
    if holds:
        run(statement, held)
    else:
        assert refusal(statement, held) == (409, "version_conflict")


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (["balance", ">=", 0], True),
        (["balance", ">=", 0.0], True),
        (["balance", "==", 10.5], True),
        (["balance", "<", 10.5], False),
        (["balance", "!=", "10.50"], True),
        (["balance", "==", "10.50"], False),
        (["balance", "<", "99"], False),
        (["name", "==", "x"], True),
        (["name", "<=", "y"], True),
        (["missing", "==", None], True),
        (["missing", ">=", 0], False),
        (["missing", "!=", 0], True),
        (["n", "==", True], False),
        (["n", ">", True], False),
        (["wallet_id", "==", ["a"]], False),
    ],
)
def test_conditions_compare_values_of_one_kind(condition: list[Any], holds: bool) -> None:
    statement = change("delete", "a", require=[condition])
    if holds:
        run(statement, HELD)
    else:
        assert refusal(statement, HELD) == (409, "condition_failed")


def test_a_condition_is_judged_on_the_document_that_results() -> None:
    add = {"add": {"balance": -10.5}}
    assert run(change("add", "a", **add, require=[["balance", "==", 0]]), HELD).version == 4
    assert refusal(change("add", "a", **add, require=[["balance", ">", 0]]), HELD) == (409, "condition_failed")
    assert refusal({**insert(wallet_id="a", n=1), "require": [["n", ">", 1]]}, NEVER) == (409, "condition_failed")
