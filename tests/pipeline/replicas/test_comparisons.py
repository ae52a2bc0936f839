"""Keys of an extension's type, such as citext: compared as the type compares, wherever its operators are."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from replicator.format.definition import Column, Definition
from replicator.pipeline.replicas.base import Define, TableChange
from replicator.pipeline.replicas.postgres import PostgresReader, PostgresReplica
from replicator.pipeline.replicas.postgres.comparisons import Operators, behind, equal, operators
from tests.contracts.replica_kinds import apply, row, table

MANY = 20  # more than are written one by one
# A text that does not tell capitals apart, and that casts to text by itself, which tells them apart.
CODE = """
CREATE SCHEMA odd; SET search_path = odd;
CREATE TYPE code;
CREATE FUNCTION code_in(cstring) RETURNS code LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION code_out(code) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE code (INPUT = code_in, OUTPUT = code_out, INTERNALLENGTH = VARIABLE, STORAGE = extended, COLLATABLE = true);
CREATE CAST (code AS text) WITHOUT FUNCTION AS IMPLICIT;
CREATE FUNCTION code_cmp(code, code) RETURNS int LANGUAGE sql IMMUTABLE STRICT
    AS 'SELECT pg_catalog.bttextcmp(pg_catalog.lower($1::text), pg_catalog.lower($2::text))';
"""
OPERATOR = """
CREATE FUNCTION {name}(code, code) RETURNS bool LANGUAGE sql IMMUTABLE STRICT
    AS 'SELECT odd.code_cmp($1, $2) {operator} 0';
CREATE OPERATOR {operator} (LEFTARG = code, RIGHTARG = code, FUNCTION = {name}{more});
"""
CLASS = """
CREATE OPERATOR CLASS code_ops DEFAULT FOR TYPE code USING btree AS
    OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 code_cmp(code, code);
CREATE DOMAIN short AS code CHECK (length(VALUE) < 9);
"""
CODES = table([("code", "odd.code"), ("n", "integer"), ("note", "text")], ["code", "n"], name="codes")


@pytest.fixture
def dsn(new_database: Callable[[], str]) -> str:
    made = new_database()
    with psycopg.connect(made, autocommit=True) as db:
        db.execute(CODE)
        for name, operator in (("lt", "<"), ("le", "<="), ("eq", "="), ("ge", ">="), ("gt", ">")):
            more = ", MERGES, COMMUTATOR = =" if operator == "=" else ""
            db.execute(OPERATOR.format(name=f"code_{name}", operator=operator, more=more).encode())
        db.execute(CLASS)
    return made


def change(**parts: list[bytes]) -> TableChange:
    names = ("deletes", "moves", "patches", "inserts", "updates")
    return TableChange(CODES, *(parts.get(name, []) for name in names))  # type: ignore[arg-type]


def found(dsn: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as db:
        return db.execute("SELECT code::text, n, note FROM codes ORDER BY lower(code::text), n").fetchall()


@pytest.mark.parametrize("count", [1, MANY])
def test_replay_finds_a_row_by_any_form_of_its_key(dsn: str, count: int) -> None:
    replica = PostgresReplica(dsn)
    replica.open()
    codes = [chr(ord("A") + number) for number in range(count)]
    apply(replica, 1, Define(1, CODES), change(inserts=[row(code, "1", "new") for code in codes]))
    apply(replica, 2, change(updates=[row(code.lower(), "1", "updated") for code in codes]))
    assert [note for *_, note in found(dsn)] == ["updated"] * count
    apply(replica, 3, change(deletes=[row(code.lower(), "1") for code in codes]))
    assert found(dsn) == []
    assert replica.drifted_rows == 0
    replica.close()


def test_readers_find_and_page_by_it(dsn: str) -> None:
    replica = PostgresReplica(dsn)
    replica.open()
    users = Definition(
        "public", "codes", (Column("code", "odd.code"), Column("n", "integer"), Column("note", "text")), ("code", "n"),
        user="code",
    )  # fmt: skip
    images = [row("A", "1", "x"), row("A", "2", "y"), row("B", "1", "z")]
    apply(replica, 1, Define(1, users), TableChange(users, [], [], [], images, []))
    assert replica.stored(users, [row("a", "2")]) == [["A", "2", "y"]]
    assert replica.stored_keys(users, None, 10) == [row("A", "1"), row("A", "2"), row("B", "1")]
    assert replica.stored_keys(users, row("a", "1"), 10) == [row("A", "2"), row("B", "1")]
    replica.close()
    reader = PostgresReader(dsn)
    document = reader.document("codes", ["b", "1"])
    assert document is not None
    assert document.row["note"] == "z"
    assert [one.row["n"] for one in reader.of_user("codes", "a", 10, None)] == [1, 2]
    assert [one.row["n"] for one in reader.of_user("codes", "a", 10, ["a", "1"])] == [2]
    assert len(reader.lines_of("codes", [["a", "1"], ["b", "2"]])) == 1
    reader.close()


def test_operators_are_those_of_the_index_and_nobody_elses(dsn: str) -> None:
    columns = (Column("a", "odd.code"), Column("b", "odd.short"), Column("c", "integer"), Column("d", "text"))
    definition = Definition("public", "t", columns, ("a", "b", "c"))
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("CREATE TABLE public.t (a odd.code, b odd.short, c int, d text)")
        db.execute("CREATE FUNCTION public.always(odd.code, odd.code) RETURNS bool LANGUAGE sql AS 'SELECT true'")
        db.execute("CREATE OPERATOR public.= (LEFTARG = odd.code, RIGHTARG = odd.code, FUNCTION = public.always)")
        expected = Operators("OPERATOR(odd.=)", "OPERATOR(odd.>)")
        assert operators(db, definition) == {"a": expected, "b": expected}


def test_a_row_is_behind_another() -> None:
    odd = {"a": Operators("OPERATOR(odd.=)", "OPERATOR(odd.>)")}
    assert equal(odd, "a") == "OPERATOR(odd.=)"
    assert equal(odd, "b") == "="
    assert behind({}, ["a", "b"], ["$1", "$2"]) == '("a", "b") > ($1, $2)'
    assert behind(odd, ["a"], ["$1"]) == '("a") OPERATOR(odd.>) ($1)'
    assert behind(odd, ["a", "b"], ["$1", "$2"]) == '("a" OPERATOR(odd.>) $1 OR "a" OPERATOR(odd.=) $1 AND "b" > $2)'
