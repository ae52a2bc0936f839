"""What changed between two definitions: the steps, their order, and what halts."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import Halted
from replicator.format.definition import Column, Definition
from replicator.format.evolution import Changes, changes, widens


def table(*columns: Column, key: tuple[str, ...] = ("id",), **more: object) -> Definition:
    return Definition("public", "wallets", (Column("id", "integer", nullable=False, number=1), *columns), key, **more)  # type: ignore[arg-type]


def column(name: str, number: int = 0, type_: str = "text", **more: object) -> Column:
    return Column(name, type_, number=number, **more)  # type: ignore[arg-type]


def reason(old: Definition, new: Definition) -> str:
    with pytest.raises(Halted) as raised:
        changes(old, new)
    assert raised.value.cure
    assert "wallets" in raised.value.place
    return raised.value.reason


def test_no_change_and_a_change_of_format_only_are_nothing_to_do() -> None:
    old = table(column("a", 2))
    new = dataclasses.replace(old, columns=tuple(dataclasses.replace(c, format="binary") for c in old.columns))
    assert not changes(old, old)
    assert changes(old, new) == Changes()


def test_each_kind_of_change_is_named() -> None:
    old = table(column("a", 2), column("b", 3), column("c", 4, "integer", nullable=False), user="a")
    new = table(column("z", 3), column("c", 4, "bigint"), column("d", 5, missing="x", nullable=False), user=None)
    assert changes(old, new) == Changes(
        dropped=("a",), renamed=(("b", "z"),), retyped=(new.columns[2],), loosened=("c",), added=(new.columns[3],),
        user_changed=True,
    )  # fmt: skip


def test_a_renamed_key_or_user_column_is_the_same_one() -> None:
    old = dataclasses.replace(table(column("u", 2)), user="u")
    renamed = Definition(
        "public", "wallets", (column("wallet", 1, "integer", nullable=False), column("v", 2)), ("wallet",), "v"
    )
    found = changes(old, renamed)
    assert set(found.renamed) == {("id", "wallet"), ("u", "v")}
    assert not found.user_changed


@given(st.permutations(["a", "b", "c", "d", "e"]))
def test_renames_can_be_done_in_their_order_or_they_halt(names: list[str]) -> None:
    """Each column takes the next one's name; the last takes a free one or, in a ring, the first's."""
    old = table(*(column(name, place + 2) for place, name in enumerate(names)))
    shifted = [*names[1:], "free"]
    taken = [c.name for c in old.columns]
    for before, after in changes(old, table(*(column(n, p + 2) for p, n in enumerate(shifted)))).renamed:
        assert after not in taken
        taken[taken.index(before)] = after
    assert taken == ["id", *shifted]
    ring = [*names[1:], names[0]]
    assert reason(old, table(*(column(n, p + 2) for p, n in enumerate(ring)))) == "ambiguous_rename"


def test_what_replicas_cannot_follow_halts() -> None:
    old = table(column("a", 2))
    assert reason(old, table(column("a", 2), key=("a",))) == "key_changed"
    assert reason(old, table(column("a", 2), key=())) == "key_changed"
    assert reason(old, table(column("a", 2, "integer"))) == "type_changed"
    assert reason(old, table(column("a", 2), column("b", 3, nullable=False))) == "added_without_value"
    assert reason(old, dataclasses.replace(old, documents=True)) == "table_replaced"
    assert reason(dataclasses.replace(old, namespace="other"), old) == "table_replaced"


def test_without_numbers_names_decide_and_a_possible_rename_halts() -> None:
    old = table(column("a"), column("b"))
    assert changes(old, table(column("a"))).dropped == ("b",)
    assert [c.name for c in changes(old, table(column("a"), column("b"), column("c"))).added] == ["c"]
    assert reason(old, table(column("a"), column("c"))) == "ambiguous_rename"


@pytest.mark.parametrize(
    ("old", "new", "safe"),
    [
        ("smallint", "integer", True), ("integer", "bigint", True), ("bigint", "integer", False),
        ("character varying(10)", "character varying(20)", True), ("character varying(10)", "text", True),
        ("character varying(20)", "character varying(10)", False),
        ("character varying", "character varying(10)", False),
        ("text", "character varying", True), ("text", "character varying(10)", False),
        ("numeric(10,2)", "numeric(12,2)", True), ("numeric(10,2)", "numeric", True),
        ("numeric", "numeric(10,2)", False),
        ("numeric(10,2)", "numeric(12,4)", False), ("numeric(12,2)", "numeric(10,2)", False),
        ("timestamp(3) without time zone", "timestamp(6) without time zone", True),
        ("timestamp(3) without time zone", "timestamp without time zone", True),
        ("timestamp without time zone", "timestamp with time zone", False),
        ("character(5)", "character(9)", False), ("real", "double precision", False), ("integer", "text", False),
        ("public.mood", "public.mood", True), ("bit varying(3)", "bit varying(5)", True),
    ],
)  # fmt: skip
def test_which_types_widen(old: str, new: str, safe: bool) -> None:
    assert widens(old, new) is safe
