"""Which statements have to wait: keys by their texts, key changes, whole tables. Pure."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from replicator.format.definition import Column, Definition
from replicator.format.row import UNCHANGED, pack_row
from replicator.format.statement import (
    pack_define,
    pack_delete,
    pack_insert,
    pack_message,
    pack_patch,
    pack_sequence,
    pack_truncate,
    pack_update,
    unpack_statements,
)
from replicator.pipeline.replay.blocked_keys import BlockedKeys, KeyExtractor, StatementKeys, tells_apart
from tests.contracts.replica_kinds import row, table

WALLETS = table([("id", "integer"), ("balance", "integer")], ["id"])
PAIRS = table([("b", "text"), ("a", "integer"), ("note", "text")], ["a", "b"], name="pairs")
EVENTS = table([("what", "text")], [], name="events")
NAME = WALLETS.name


def statement(packed: bytes) -> list[Any]:
    (one,) = unpack_statements(packed)
    return one


@pytest.mark.parametrize(
    ("definition", "packed", "expected"),
    [
        (WALLETS, pack_insert(1, row("1", "5")), StatementKeys(("1",), None, whole=False)),
        (WALLETS, pack_update(1, row("1", "5")), StatementKeys(("1",), None, whole=False)),
        (WALLETS, pack_update(1, row("1", "5"), row("1")), StatementKeys(("1",), None, whole=False)),
        (WALLETS, pack_update(1, row("1", "5"), row("2")), StatementKeys(("1",), ("2",), whole=False)),
        (WALLETS, pack_patch(1, row("1", UNCHANGED), row("2")), StatementKeys(("1",), ("2",), whole=False)),
        (WALLETS, pack_patch(1, row(UNCHANGED, "5"), row("2")), StatementKeys(("2",), None, whole=False)),
        (WALLETS, pack_delete(1, row("1")), StatementKeys(("1",), None, whole=False)),
        (WALLETS, pack_truncate(1), StatementKeys(None, None, whole=True)),
        (WALLETS, pack_insert(1, row("1")), StatementKeys(None, None, whole=True)),
        (WALLETS, pack_patch(1, row("1", UNCHANGED, "x"), row("1")), StatementKeys(None, None, whole=True)),
        (WALLETS, pack_insert(1, b"\x00"), StatementKeys(None, None, whole=True)),
        (WALLETS, pack_delete(1, pack_row([None])), StatementKeys(None, None, whole=True)),
        (WALLETS, pack_delete(1, pack_row([b"\xff"])), StatementKeys(None, None, whole=True)),
        (PAIRS, pack_insert(1, row("x", "7", "n")), StatementKeys(("7", "x"), None, whole=False)),
        (
            PAIRS,
            pack_patch(1, row("y", UNCHANGED, "n"), row("7", "x")),
            StatementKeys(("7", "y"), ("7", "x"), whole=False),
        ),
        (EVENTS, pack_insert(1, row("e")), StatementKeys(None, None, whole=False)),
        (EVENTS, pack_truncate(1), StatementKeys(None, None, whole=True)),
    ],
)
def test_what_a_statement_touches(definition: Definition, packed: bytes, expected: StatementKeys) -> None:
    assert KeyExtractor(definition)(statement(packed)) == expected


@pytest.mark.parametrize(
    ("kind", "apart"),
    [
        ("integer", True),
        ("character varying(20)", True),
        ("uuid", True),
        ("timestamp with time zone", True),
        ("numeric(12,2)", True),
        ("numeric", False),
        ("character(3)", True),
        ("bpchar", False),
        ("double precision", False),
        ("citext", False),
        ("interval", False),
        ("jsonb", False),
    ],
)
def test_types_of_which_two_texts_can_be_one_key(kind: str, apart: bool) -> None:
    assert tells_apart(table([("id", kind), ("x", "text")], ["id"])) is apart
    assert tells_apart(table([("id", kind), ("x", "text")], ["x", "id"])) is apart


def test_a_key_in_binary_and_in_text_is_one_key() -> None:
    columns = (Column("id", "bigint", "binary", False), Column("balance", "integer", "binary"))
    binary = Definition("public", "wallets", columns, ("id",))
    image = pack_row([struct.pack(">q", 7), struct.pack(">i", 1)])
    held = BlockedKeys({1: WALLETS, 2: binary})
    held.add(NAME, (3, 0), KeyExtractor(WALLETS)(statement(pack_delete(1, row("7")))))
    assert held.behind(NAME, KeyExtractor(binary)(statement(pack_insert(2, image)))) == (3, 0)


def test_who_touches_a_held_key_waits_behind_the_first_of_it() -> None:
    held = BlockedKeys({1: WALLETS})
    held.add(NAME, (3, 0), StatementKeys(("1",), ("2",), whole=False))
    held.add(NAME, (3, 1), StatementKeys(("2",), ("3",), whole=False))
    assert held.count == 2
    assert held.behind(NAME, StatementKeys(("2",), None, whole=False)) == (3, 0)
    assert held.behind(NAME, StatementKeys(("3",), ("9",), whole=False)) == (3, 1)
    assert held.behind(NAME, StatementKeys(("9",), ("1",), whole=False)) == (3, 0)
    assert held.behind(NAME, StatementKeys(("9",), None, whole=False)) is None
    assert held.behind(NAME, StatementKeys(None, None, whole=True)) == (3, 0)
    assert held.behind(EVENTS.name, StatementKeys(None, None, whole=False)) is None
    assert held.keys() == {NAME: 3}


def test_a_table_that_waits_as_a_whole() -> None:
    held = BlockedKeys({1: WALLETS})
    held.add(NAME, (3, 0), StatementKeys(("1",), None, whole=False))
    held.add(NAME, (4, 0), StatementKeys(None, None, whole=True))
    assert held.behind(NAME, StatementKeys(("9",), None, whole=False)) == (4, 0)
    assert held.void(NAME) == [(3, 0), (4, 0)]
    assert held.count == 0
    assert held.behind(NAME, StatementKeys(("1",), None, whole=False)) is None
    assert held.void(NAME) == []


def test_rows_without_a_key_wait_for_nothing_but_a_truncate() -> None:
    held = BlockedKeys({1: EVENTS})
    insert = statement(pack_insert(1, row("e")))
    held.add(EVENTS.name, (3, 0), KeyExtractor(EVENTS)(insert))
    assert held.behind(EVENTS.name, KeyExtractor(EVENTS)(insert)) is None
    held.add(EVENTS.name, (3, 1), KeyExtractor(EVENTS)(statement(pack_truncate(1))))
    assert held.behind(EVENTS.name, KeyExtractor(EVENTS)(insert)) == (3, 1)


def test_only_statements_of_tables_with_something_open_are_looked_at() -> None:
    held = BlockedKeys({1: WALLETS, 2: EVENTS})
    insert = statement(pack_insert(1, row("1", "5")))
    assert not held.concerns(insert)
    held.add(NAME, (3, 0), KeyExtractor(WALLETS)(insert))
    assert held.concerns(insert)
    assert held.concerns(statement(pack_truncate(1)))
    assert not held.concerns(statement(pack_insert(2, row("e"))))
    assert not held.concerns(statement(pack_sequence("public", "1", 1, 1)))
    assert not held.concerns(statement(pack_message("1", b"")))
    define = statement(pack_define(3, WALLETS))
    assert held.concerns(define)
    held.define(define)
    assert held.concerns(statement(pack_delete(3, row("1")))), "a new relation of the same table"
    held.void(NAME)
    assert not held.concerns(statement(pack_delete(3, row("1"))))
