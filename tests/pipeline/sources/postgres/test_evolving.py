"""Tables that change in mid-stream: definitions follow, and what replicas cannot follow halts with its reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from replicator.errors import Halted
from replicator.format.evolution import changes
from replicator.format.row import pack_row
from replicator.format.statement import INSERT
from tests.pipeline.sources.postgres.ledger import Collector, Ledger, assert_equal, caught_up, failure, following

NewLedger = Callable[..., Ledger]


async def test_columns_that_are_added_dropped_renamed_and_widened(ledger: Ledger) -> None:
    sink = Collector()
    async with following(ledger, sink):
        ledger.do("ALTER TABLE wallets ADD COLUMN plain int, ADD COLUMN filled text DEFAULT 'it''s, {\"x\"}'")
        ledger.do("INSERT INTO wallets (id, balance, plain) VALUES (300, 1, 5)")
        await caught_up(ledger, sink)
        assert_equal(ledger, sink, "wallets")
        ledger.do("ALTER TABLE wallets DROP COLUMN note", "ALTER TABLE wallets RENAME plain TO simple")
        ledger.do("ALTER TABLE wallets RENAME COLUMN id TO wallet_id", "ALTER TABLE wallets ALTER simple TYPE bigint")
        ledger.do("ALTER TABLE wallets ALTER balance DROP NOT NULL", "INSERT INTO wallets (wallet_id) VALUES (301)")
        await caught_up(ledger, sink)
    first, added, last = sink.state().relations.values()
    assert [c.missing for c in added.columns] == [None, None, None, None, None, 'it\'s, {"x"}']
    assert [c.number for c in last.columns] == [1, 2, 3, 5, 6]
    step = changes(added, last)
    assert (step.dropped, set(step.renamed)) == (("note",), {("plain", "simple"), ("id", "wallet_id")})
    assert [c.name for c in step.retyped] == ["simple"]
    assert step.loosened == ("balance",)
    assert [c.name for c in changes(first, added).added] == ["plain", "filled"]
    assert last.key == ("wallet_id",)


async def test_a_default_is_the_columns_whatever_parts_an_arrays_elements(ledger: Ledger) -> None:
    sink = Collector()
    async with following(ledger, sink):
        ledger.do("ALTER TABLE wallets ADD at box DEFAULT '(3,4),(1,2)', ADD ats box[] DEFAULT '{(3,4),(1,2)}'")
        ledger.do("ALTER TABLE wallets ADD list int[] DEFAULT '{1,NULL}'")
        ledger.do("INSERT INTO wallets (id, balance) VALUES (300, 1)")
        await caught_up(ledger, sink)
    last = list(sink.state().relations.values())[-1]
    assert [c.missing for c in last.columns][4:] == ["(3,4),(1,2)", "{(3,4),(1,2)}", "{1,NULL}"]


async def test_a_change_while_the_sidecar_was_away(ledger: Ledger) -> None:
    sink = Collector()
    async with following(ledger, sink):
        await caught_up(ledger, sink)
    ledger.do(
        "INSERT INTO wallets VALUES (400, 'before', 1, 'n')",
        "ALTER TABLE wallets RENAME note TO remark",
        "INSERT INTO wallets VALUES (401, 'renamed', 1, 'r')",
        "ALTER TABLE wallets ADD COLUMN more int DEFAULT 3",
        "ALTER TABLE wallets DROP COLUMN remark",
        "INSERT INTO wallets VALUES (402, 'all', 1, 4)",
    )
    async with following(ledger, sink):
        await caught_up(ledger, sink)
    shapes = [[c.name for c in d.columns] for d in sink.state().relations.values()]
    assert shapes == [
        ["id", "user_id", "balance", "note"],
        ["id", "user_id", "balance", "remark"],
        ["id", "user_id", "balance", "more"],
    ]
    assert_equal(ledger, sink, "wallets")


@pytest.mark.parametrize(
    ("reason", "statements"),
    [
        ("column_rewritten", ["ALTER TABLE wallets ADD COLUMN token uuid DEFAULT gen_random_uuid()"]),
        ("column_rewritten", ["ALTER TABLE wallets ADD COLUMN number bigserial"]),
        ("type_changed", ["ALTER TABLE wallets ALTER note TYPE int USING 7"]),
        ("type_changed", ["ALTER TABLE wallets ALTER balance TYPE numeric(12,1)"]),
        ("key_changed", ["ALTER TABLE wallets DROP CONSTRAINT wallets_pkey, ADD PRIMARY KEY (id, balance)"]),
        ("table_renamed", ["ALTER TABLE wallets RENAME TO purses", "ALTER VIEW seen RENAME TO wallets"]),
        ("table_renamed", ["CREATE SCHEMA other", "ALTER TABLE wallets SET SCHEMA other"]),
        ("table_replaced", ["CREATE TABLE copy (LIKE wallets INCLUDING ALL)", "DROP VIEW seen", "DROP TABLE wallets",
                            "ALTER TABLE copy RENAME TO wallets"]),
    ],
)  # fmt: skip
async def test_what_replicas_cannot_follow_halts(ledger: Ledger, reason: str, statements: list[str]) -> None:
    ledger.do("CREATE VIEW seen AS SELECT id FROM wallets")
    if "ALTER TABLE wallets DROP CONSTRAINT wallets_pkey, ADD PRIMARY KEY (id, balance)" in statements:
        ledger.do("DROP VIEW seen")
    sink = Collector()
    async with following(ledger, sink):
        ledger.do("INSERT INTO wallets VALUES (300, 'a', 1, NULL)")
        await caught_up(ledger, sink)
    target = {"table_renamed": "purses" if len(statements[0]) < 42 and "purses" in statements[0] else "other.wallets"}
    table = target.get(reason, "wallets")
    error = await failure(ledger, sink, *statements, f"INSERT INTO {table} (id, balance) VALUES (301, 1)")
    assert isinstance(error, Halted)
    assert error.reason == reason
    assert table.split(".")[-1] in error.place
    assert error.cure
    count = len(sink.blocks)
    again = await failure(ledger, sink)  # a restart does not slip by
    assert (again.reason, len(sink.blocks)) == (reason, count)


async def test_a_default_that_is_set_later_is_no_rewrite(ledger: Ledger) -> None:
    sink = Collector()
    async with following(ledger, sink):
        ledger.do(
            "ALTER TABLE wallets ADD COLUMN token uuid", "ALTER TABLE wallets ALTER token SET DEFAULT gen_random_uuid()"
        )
        ledger.do("INSERT INTO wallets (id, balance) VALUES (300, 1)")
        await caught_up(ledger, sink)
    assert_equal(ledger, sink, "wallets")


async def test_a_column_that_is_dropped_and_added_again_is_another_one(ledger: Ledger) -> None:
    ledger.do("UPDATE wallets SET note = 'old'")
    sink = Collector()
    async with following(ledger, sink):
        ledger.do("INSERT INTO wallets VALUES (300, 'a', 1, 'old')")
        await caught_up(ledger, sink)
        ledger.do("ALTER TABLE wallets DROP COLUMN note", "ALTER TABLE wallets ADD COLUMN note text")
        ledger.do("INSERT INTO wallets VALUES (301, 'a', 1, 'new')")
        await caught_up(ledger, sink)
    before, after = sink.state().relations.values()
    assert [c.number for c in after.columns] == [1, 2, 3, 5]
    assert changes(before, after).dropped == ("note",)


async def test_tables_that_come_later_are_followed_from_their_first_row(ledger: Ledger) -> None:
    sink = Collector()
    async with following(ledger, sink):
        ledger.do("CREATE TABLE later AS SELECT i AS id, 'x'::text AS user_id FROM generate_series(1, 10) i")
        ledger.do("CREATE TABLE gone AS SELECT 1 AS a", "DROP TABLE gone")
        await caught_up(ledger, sink)
        assert_equal(ledger, sink, "later")
    ledger.do("CREATE TABLE away (id int PRIMARY KEY, b text)", "INSERT INTO away VALUES (1, 'x')")
    async with following(ledger, sink):
        await caught_up(ledger, sink)
    assert_equal(ledger, sink, "away", "later")
    assert {d.label for d in sink.state().relations.values()} == {"wallets", "later", "gone", "away"}


async def test_a_table_whose_rows_the_copy_did_not_see_halts(ledger: Ledger) -> None:
    ledger.do("CREATE TABLE whole (id int PRIMARY KEY) PARTITION BY RANGE (id)")
    ledger.do("CREATE TABLE scratch PARTITION OF whole FOR VALUES FROM (0) TO (9)", "INSERT INTO whole VALUES (1)")
    sink = Collector()
    error = await failure(ledger, sink, "ALTER TABLE whole DETACH PARTITION scratch", "INSERT INTO scratch VALUES (2)")
    assert error.reason == "table_not_copied"
    assert "scratch" in error.place


ALL_TYPES = {
    "smallint": "-5", "bigint": "9223372036854775807", "real": "1.1", "double precision": "'-Infinity'",
    "boolean": "true", "bytea": "'\\xdeadbeef00'", "char(5)": "'ab'", '"char"': "'x'", "name": "'n'",
    "date": "'-infinity'", "time": "'23:59:59.999999'", "timetz": "'12:00+05:30'", "timestamp": "'1066-10-14 BC'",
    "timestamptz": "'2024-02-29 12:00:00.123456+02'", "interval": "'1 year -2 days 03:04:05.6'",
    "uuid": "'00000000-0000-0000-0000-000000000001'", "json": "'{\"a\":  1}'", "jsonb": "'{\"a\":  1.00}'",
    "money": "'$1,234.56'", "bit(3)": "B'101'", "varbit": "B'1010101'", "inet": "'::1/128'",
    "cidr": "'10.0.0.0/8'", "macaddr": "'08:00:2b:01:02:03'", "macaddr8": "'08:00:2b:01:02:03:04:05'",
    "point": "'(1,2)'", "line": "'{1,2,3}'", "lseg": "'[(1,2),(3,4)]'", "box": "'(3,4),(1,2)'",
    "path": "'[(1,2),(3,4)]'", "polygon": "'((1,2),(3,4),(5,6))'", "circle": "'<(1,2),3>'",
    "tsvector": "'a:1 b:2'", "tsquery": "'a & b'", "int4range": "'[1,5)'", "nummultirange": "'{[1,2),[3,4)}'",
    "int[]": "'{1,NULL,3}'", "text[]": "E'{\"a,b\",\"c\\\\\\\\d\",\"\"}'", "regclass": "'pg_class'", "oid": "'42'",
    "pg_lsn": "'0/16B3748'", "xid8": "'7'", "jsonpath": "'$.a'", "numeric": "'NaN'", "text": "E'tab\\there\\\\ \\n'",
    "public.mood": "'happy'", "public.pair": "'(1,\"a b\")'", "public.posint": "3",
}  # fmt: skip


@pytest.mark.parametrize("mode", ["text", "binary"])
async def test_all_built_in_types(new_ledger: NewLedger, mode: str) -> None:
    ledger = new_ledger()
    ledger.do(
        "CREATE TYPE public.mood AS ENUM ('happy')",
        "CREATE TYPE public.pair AS (a int, b text)",
        "CREATE DOMAIN public.posint AS int CHECK (VALUE > 0)",
        "SET search_path = public; SET datestyle = 'SQL, DMY'; SET intervalstyle = iso_8601",
        f"ALTER DATABASE \"{ledger.name}\" SET datestyle = 'German'",
        f"ALTER DATABASE \"{ledger.name}\" SET bytea_output = 'escape'",
    )
    binary = {"smallint", "bigint", "real", "double precision", "boolean", "bytea", "char(5)", "date", "timestamp"} | {
        "timestamptz", "uuid", "json", "jsonb", "numeric", "text"}  # fmt: skip
    types = [name for name in ALL_TYPES if mode == "text" or name in binary]
    columns = ", ".join(f"c{i} {name}" for i, name in enumerate(types))
    values = ", ".join(ALL_TYPES[name] for name in types)
    ledger.do(f"CREATE TABLE t (id int PRIMARY KEY, {columns})", f"INSERT INTO t VALUES (1, {values})")
    sink = Collector()
    async with following(ledger, sink):
        ledger.do(f"INSERT INTO t VALUES (2, {values})", "INSERT INTO t (id) VALUES (3)")
        await caught_up(ledger, sink)
    (definition,) = sink.state().relations.values()
    assert {c.format for c in definition.columns} == {mode}
    rows = [s[2] for s in sink.statements() if s[0] == INSERT]
    cut = 2 + 4 + len(b"1") if mode == "text" else 2 + 4 + 4
    assert rows[0][cut:] == rows[1][cut:]  # the copy and the stream tell a value in the same bytes
    assert_equal(ledger, sink, "t")
    if mode == "text":
        assert [c.type for c in definition.columns[-3:]] == ["public.mood", "public.pair", "public.posint"]
        assert b"1066-10-14 00:00:00 BC" in rows[1]


async def test_a_type_without_a_portable_binary_form_turns_the_stream_to_text(ledger: Ledger) -> None:
    sink = Collector()
    async with following(ledger, sink):
        ledger.do("INSERT INTO wallets VALUES (300, 'a', 1, NULL)")
        await caught_up(ledger, sink)
        ledger.do("CREATE TABLE tagged (id int PRIMARY KEY, tags text[])", "INSERT INTO tagged VALUES (1, '{a,b}')")
        ledger.together("UPDATE wallets SET note = 'x' WHERE id = 300", "INSERT INTO tagged VALUES (2, NULL)")
        await caught_up(ledger, sink)
    formats = [(d.table, {c.format for c in d.columns}) for d in sink.state().relations.values()]
    assert formats == [("wallets", {"binary"}), ("tagged", {"text"}), ("wallets", {"text"})]
    number = next(n for n, d in sink.state().relations.items() if d.table == "tagged")
    rows = [s[2] for s in sink.statements() if s[:2] == [INSERT, number]]
    assert rows == [pack_row([b"1", b"{a,b}"]), pack_row([b"2", None])]
    assert [len(b.statements) for b in sink.blocks[1:]] == [1, 1, 2, 3, 1]
