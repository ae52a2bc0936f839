"""What every replica keeps, run on each kind: whole transactions, exactly once, every step, every value."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from replicator.errors import Corrupt, Halted, Rejected, Unavailable
from replicator.format.canonical import line_of
from replicator.format.definition import Column, Definition, Format
from replicator.format.row import UNCHANGED
from replicator.pipeline.replicas.base import Append, Define, Replica, SetSequence, Step, TableChange, Truncate
from replicator.pipeline.replicas.quarantine import QuarantineClosing, QuarantinedStatement
from replicator.verify.repair.images import as_stored
from tests.contracts.replica_kinds import (
    STRAND,
    Kind,
    PostgresKind,
    SqliteKind,
    applied,
    apply,
    contents,
    int4,
    int8,
    row,
    table,
)

WALLETS = table([("id", "integer"), ("owner", "text"), ("balance", "numeric(12,2)")], ["id"], user="owner")
MANY = 300  # beyond what a replica writes row by row


@pytest.fixture(params=["sqlite", "postgres"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    if request.param == "sqlite":
        return SqliteKind(tmp_path / "replica.db")
    new_database: Callable[[], str] = request.getfixturevalue("new_database")
    return PostgresKind(new_database())


@pytest.fixture
def replica(kind: Kind) -> Iterator[Replica]:
    made = kind.replica()
    made.open()
    yield made
    made.close()


def change(
    definition: Definition = WALLETS,
    *,
    deletes: list[bytes] | None = None,
    moves: list[tuple[bytes, bytes]] | None = None,
    patches: list[bytes] | None = None,
    inserts: list[bytes] | None = None,
    updates: list[bytes] | None = None,
) -> TableChange:
    return TableChange(definition, deletes or [], moves or [], patches or [], inserts or [], updates or [])


def wallets(count: int, owner: str = "ann", first: int = 0) -> list[bytes]:
    return [row(str(number), owner, f"{number}.00") for number in range(first, first + count)]


# -- transactions and positions


def test_a_new_replica_stands_nowhere(replica: Replica) -> None:
    assert replica.applied(STRAND) is None
    assert replica.definitions(STRAND) == {}


def test_position_rows_and_definitions_survive_reopening(kind: Kind, replica: Replica) -> None:
    apply(replica, 1, Define(7, WALLETS), change(inserts=wallets(3)))
    replica.open()
    assert replica.applied(STRAND) == applied(1)
    assert replica.definitions(STRAND) == {7: WALLETS}
    assert replica.applied("other") is None
    assert len(contents(kind)) == 3


def test_a_position_is_forgotten_with_its_transaction_or_not_at_all(replica: Replica) -> None:
    apply(replica, 5, Define(1, WALLETS))
    replica.begin()
    replica.forget(STRAND)
    replica.rollback()
    assert replica.applied(STRAND) == applied(5)
    replica.begin()
    replica.forget(STRAND)
    other = applied(7)._replace(position=applied(7).position._replace(strand="other"))
    replica.commit(other)
    replica.open()
    assert replica.applied(STRAND) is None
    assert replica.applied("other") == other


@pytest.mark.parametrize("count", [3, MANY])
def test_a_death_between_apply_and_commit_leaves_nothing(kind: Kind, replica: Replica, count: int) -> None:
    apply(replica, 1, Define(1, WALLETS), change(inserts=wallets(2)))
    replica.begin()
    replica.apply(STRAND, [change(inserts=wallets(count, first=10), updates=[row("0", "bob", "9.00")])])
    kind.crash(replica)
    replica.open()
    assert replica.applied(STRAND) == applied(1)
    assert contents(kind) == [["0", "ann", "0.00"], ["1", "ann", "1.00"]]
    apply(replica, 2, change(inserts=wallets(count, first=10)))
    assert len(contents(kind)) == 2 + count


@pytest.mark.parametrize("count", [3, MANY])
def test_rollback_undoes_rows_tables_and_definitions(kind: Kind, replica: Replica, count: int) -> None:
    other = table([("id", "integer")], ["id"], name="other")
    apply(replica, 1, Define(1, WALLETS), change(inserts=wallets(1)))
    replica.begin()
    replica.apply(STRAND, [Define(2, other), change(other, inserts=[row("1")]), change(updates=wallets(count))])
    replica.rollback()
    assert replica.definitions(STRAND) == {1: WALLETS}
    assert contents(kind) == [["0", "ann", "0.00"]]
    assert replica.drifted_rows == 0
    apply(replica, 2, Define(2, other), change(other, inserts=[row("1")]), change(inserts=wallets(count, first=5)))
    assert len(contents(kind)) == 1 + count


def test_strands_keep_positions_and_definitions_of_their_own(replica: Replica) -> None:
    other = table([("id", "integer")], ["id"], name="other")
    apply(replica, 1, Define(1, WALLETS))
    replica.begin()
    replica.apply("second", [Define(1, other)])
    replica.commit(applied(9)._replace(position=applied(9).position._replace(strand="second")))
    assert replica.definitions(STRAND) == {1: WALLETS}
    assert replica.definitions("second") == {1: other}
    assert replica.applied(STRAND) == applied(1)


# -- steps


@pytest.mark.parametrize("count", [5, MANY])
def test_insert_update_delete(kind: Kind, replica: Replica, count: int) -> None:
    apply(replica, 1, Define(1, WALLETS), change(inserts=wallets(count)))
    apply(replica, 2, change(updates=wallets(count, owner="bob")))
    assert contents(kind) == sorted([str(n), "bob", f"{n}.00"] for n in range(count))
    apply(replica, 3, change(deletes=[row(str(n)) for n in range(1, count)]))
    assert contents(kind) == [["0", "bob", "0.00"]]
    assert replica.drifted_rows == 0


@pytest.mark.parametrize("count", [5, MANY])
def test_several_changes_of_a_table_in_one_transaction_happen_in_order(
    kind: Kind, replica: Replica, count: int
) -> None:
    keys = [row(str(n)) for n in range(count)]
    apply(replica, 1, Define(1, WALLETS), change(inserts=wallets(count)), change(updates=wallets(count, owner="bob")))
    apply(
        replica,
        2,
        change(updates=wallets(count, owner="cid")),
        change(deletes=keys),
        change(inserts=wallets(count, owner="dan")),
        change(deletes=keys, inserts=wallets(count, owner="eve")),
    )
    assert {cells[1] for cells in contents(kind)} == {"eve"}
    assert len(contents(kind)) == count
    assert replica.drifted_rows == 0


def test_composite_keys_in_an_order_of_their_own(kind: Kind, replica: Replica) -> None:
    pairs = table([("note", "text"), ("b", "text"), ("a", "integer")], ["a", "b"], name="pairs")
    rows = [row(f"n{a}{b}", b, str(a)) for a in (1, 2) for b in "xyz"]
    apply(replica, 1, Define(1, pairs), change(pairs, inserts=rows))
    apply(replica, 2, change(pairs, deletes=[row("1", "y")], updates=[row("new", "z", "2")]))
    assert len(contents(kind, "pairs")) == 5
    reader = kind.reader()
    found = reader.document("pairs", ["2", "z"])
    assert found is not None
    assert (found.key, found.row["note"]) == ({"a": 2, "b": "z"}, "new")
    assert reader.document("pairs", ["1", "y"]) is None
    reader.close()


@pytest.mark.parametrize("count", [1, MANY])
def test_a_table_that_is_all_key(kind: Kind, replica: Replica, count: int) -> None:
    tags = table([("a", "integer"), ("b", "text")], ["a", "b"], name="tags")
    rows = [row(str(n), "x") for n in range(count)]
    apply(replica, 1, Define(1, tags), change(tags, inserts=rows))
    apply(replica, 2, change(tags, updates=rows))
    assert len(contents(kind, "tags")) == count
    assert replica.drifted_rows == 0


def test_patches_keep_what_is_unchanged(kind: Kind, replica: Replica) -> None:
    apply(replica, 1, Define(1, WALLETS), change(inserts=wallets(3)))
    apply(replica, 2, change(patches=[row("0", UNCHANGED, "5.50"), row("1", None, UNCHANGED), row("2", "z", "0.01")]))
    assert contents(kind) == [["0", "ann", "5.50"], ["1", None, "1.00"], ["2", "z", "0.01"]]


def test_a_patch_of_a_row_that_is_gone_halts(kind: Kind, replica: Replica) -> None:
    apply(replica, 1, Define(1, WALLETS))
    replica.begin()
    with pytest.raises(Halted, match="replica_row_missing"):
        replica.apply(STRAND, [change(patches=[row("0", UNCHANGED, "5.50")])])
    replica.rollback()
    replica.begin()
    with pytest.raises(Halted, match="replica_row_missing"):
        replica.apply(STRAND, [change(moves=[(row("0"), row("1", UNCHANGED, "5.50"))])])
    replica.rollback()


def test_moves_change_the_key_and_keep_what_is_unchanged(kind: Kind, replica: Replica) -> None:
    apply(replica, 1, Define(1, WALLETS), change(inserts=wallets(3)))
    apply(
        replica,
        2,
        change(
            deletes=[row("2")],
            moves=[(row("1"), row("2", UNCHANGED, "7.00")), (row("0"), row("1", "bob", UNCHANGED))],
        ),
    )
    assert contents(kind) == [["1", "bob", "0.00"], ["2", "ann", "7.00"]]
    assert replica.drifted_rows == 0


def test_a_move_onto_a_stranger_ends_with_the_moved_row(kind: Kind, replica: Replica) -> None:
    apply(replica, 1, Define(1, WALLETS), change(inserts=wallets(1)))
    kind.execute("INSERT INTO wallets VALUES (9, 'intruder', '1.00')")
    apply(replica, 2, change(moves=[(row("0"), row("9", UNCHANGED, "7.00"))]))
    assert contents(kind) == [["9", "ann", "7.00"]]
    assert replica.drifted_rows == 1


def test_truncate(kind: Kind, replica: Replica) -> None:
    apply(replica, 1, Define(1, WALLETS), change(inserts=wallets(MANY)))
    apply(replica, 2, Truncate(WALLETS), change(inserts=wallets(1, first=8)))
    assert contents(kind) == [["8", "ann", "8.00"]]


@pytest.mark.parametrize("count", [2, MANY])
@pytest.mark.parametrize("form", ["text", "binary"])
def test_rows_without_a_key_are_kept_by_their_place(kind: Kind, replica: Replica, count: int, form: Format) -> None:
    columns = (Column("what", "text", form), Column("n", "integer", form))
    history = Definition("public", "history", columns, ())
    image = row("same", b"7" if form == "text" else int4(7))
    places = [(5, ordinal) for ordinal in range(count)]
    apply(replica, 1, Define(1, history), Append(history, [image] * count, places))
    assert contents(kind, "history") == [["same", "7"]] * count
    kept = kind.execute("SELECT _sequence, _ordinal FROM history ORDER BY 1, 2")
    assert [tuple(place) for place in kept] == places
    assert replica.drifted_rows == 0
    replica.begin()
    replica.apply(STRAND, [Append(history, [image] * count, places)])  # somebody wrote these places before us
    replica.commit(applied(2))
    assert replica.drifted_rows == count
    assert len(contents(kind, "history")) == count


def test_sequences_only_move_forward(kind: Kind, replica: Replica) -> None:
    ids = Column("id", "bigint", "text", False, 1, None, ("public", "wallets_id_seq"))
    wallets_ = Definition("public", "wallets", (ids,), ("id",))
    apply(replica, 1, Define(1, wallets_), SetSequence("public", "wallets_id_seq", 41, 1))
    apply(replica, 2, SetSequence("public", "wallets_id_seq", 7, 1))
    apply(replica, 3, SetSequence("audit", "down", -5, -5), SetSequence("audit", "down", -1, -5))
    if kind.name == "postgres":
        assert kind.execute("INSERT INTO wallets DEFAULT VALUES RETURNING id") == [(42,)]
        assert kind.execute("SELECT nextval('audit.down')") == [(-10,)]
    sequences = "replicator.sequence" if kind.name == "postgres" else "_replicator_sequence"
    assert kind.execute(f"SELECT name, value FROM {sequences} ORDER BY name") == [("down", -5), ("wallets_id_seq", 41)]


# -- somebody else wrote


@pytest.mark.parametrize("count", [3, MANY])
@pytest.mark.parametrize("form", ["text", "binary"])
def test_drift_is_counted_and_ends_with_the_ledgers_rows(
    kind: Kind, replica: Replica, count: int, form: Format
) -> None:
    columns = (Column("id", "integer", form), Column("owner", "text", form))
    owned = Definition("public", "wallets", columns, ("id",))

    def rows(first: int) -> list[bytes]:
        return [row(str(n).encode() if form == "text" else int4(n), "ledger") for n in range(first, first + count)]

    apply(replica, 1, Define(1, owned), change(owned, inserts=rows(0)))
    kind.execute("INSERT INTO wallets VALUES (1000, 'intruder')")
    kind.execute("DELETE FROM wallets WHERE id = 0")
    apply(replica, 2, change(owned, updates=rows(0), inserts=rows(1000)))
    assert replica.drifted_rows == 2
    found = contents(kind)
    assert len(found) == 2 * count
    assert {cells[1] for cells in found} == {"ledger"}


@pytest.mark.parametrize("count", [3, MANY])
def test_a_row_that_was_gone_before_its_delete_is_counted(kind: Kind, replica: Replica, count: int) -> None:
    apply(replica, 1, Define(1, WALLETS), change(inserts=wallets(count)))
    kind.execute("DELETE FROM wallets WHERE id = 1")
    apply(replica, 2, change(deletes=[row(str(n)) for n in range(count)]))
    assert replica.drifted_rows == 1
    assert contents(kind) == []


def test_a_table_of_somebody_else_is_refused_and_left_alone(kind: Kind, replica: Replica) -> None:
    kind.execute("CREATE TABLE wallets (id text PRIMARY KEY, owner text, extra integer)")
    replica.begin()
    with pytest.raises(Halted, match="replica_table_differs") as caught:
        replica.apply(STRAND, [Define(1, WALLETS)])
    replica.rollback()
    for part in ("wallets", "balance is missing", "extra is not the ledger's", "column id is"):
        assert part in str(caught.value)
    assert kind.execute("SELECT * FROM wallets") == []


def test_rows_of_somebody_else_are_refused(kind: Kind, replica: Replica) -> None:
    apply(replica, 1, Define(1, WALLETS))
    kind.execute("INSERT INTO wallets VALUES (1, 'x', '1.00')")
    forget = "replicator.definition" if kind.name == "postgres" else "_replicator_definition"
    kind.execute(f"DELETE FROM {forget}")
    replica.begin()
    with pytest.raises(Halted, match="rows that somebody else wrote"):
        replica.apply(STRAND, [Define(1, WALLETS)])
    replica.rollback()
    kind.execute("DELETE FROM wallets")
    apply(replica, 2, Define(1, WALLETS), change(inserts=wallets(1)))  # alike and empty: taken
    assert len(contents(kind)) == 1


def test_a_table_that_somebody_dropped_halts(kind: Kind, replica: Replica) -> None:
    apply(replica, 1, Define(1, WALLETS), change(inserts=wallets(1)))
    kind.execute("DROP TABLE wallets")
    replica.open()
    replica.begin()
    with pytest.raises(Halted):
        replica.apply(STRAND, [change(inserts=wallets(1, first=3))])
    replica.rollback()
    replica.begin()
    with pytest.raises(Halted, match="dropped"):
        replica.apply(STRAND, [Define(2, WALLETS)])
    replica.rollback()


@pytest.mark.parametrize("image", [b"", b"\x00", row("1", "x"), row("1", "x", "1.00") + b"x", row("1", UNCHANGED, "1")])
def test_a_row_image_that_is_none_halts(replica: Replica, image: bytes) -> None:
    apply(replica, 1, Define(1, WALLETS))
    for images in ([image], [image] * MANY):
        replica.begin()
        with pytest.raises(Halted):
            replica.apply(STRAND, [change(inserts=images)])
        replica.rollback()
    assert replica.applied(STRAND) == applied(1)


@pytest.mark.parametrize("value", ["one", "", "9" * 30, b"\xff", "1.5"])
def test_a_value_that_is_not_of_its_type_halts(replica: Replica, value: str | bytes) -> None:
    apply(replica, 1, Define(1, WALLETS))
    for images in ([row(value, "x", "1.00")], [row(value, "x", "1.00"), *wallets(MANY)]):
        replica.begin()
        with pytest.raises(Halted):
            replica.apply(STRAND, [change(inserts=images)])
        replica.rollback()


# -- values


def test_null_empty_and_long_values(kind: Kind, replica: Replica) -> None:
    documents = table([("id", "text"), ("t", "text"), ("b", "bytea"), ("j", "json")], ["id"], name="documents")
    long = "ü" * 500_000
    rows: list[list[str | None]] = [
        ["", "", "\\x", "{}"],
        ["null", None, None, None],
        ["long", long, "\\x" + "00ff" * 100_000, f'{{"a": "{long}"}}'],
        ["odd ' \" \\ \t\n %s $1", "NULL", "\\x5c", '"\\u0000"'],
    ]
    images = [row(*cells) for cells in rows]
    apply(replica, 1, Define(1, documents), change(documents, inserts=images))
    assert contents(kind, "documents") == sorted(rows, key=lambda cells: [cell or "" for cell in cells])
    padding = [row(f"pad{number}", None, None, None) for number in range(MANY)]
    apply(replica, 2, change(documents, updates=images), change(documents, inserts=padding))
    assert [cells for cells in contents(kind, "documents") if not str(cells[0]).startswith("pad")] == sorted(
        rows, key=lambda cells: [cell or "" for cell in cells]
    )


def test_odd_names(kind: Kind, replica: Replica) -> None:
    odd = table(
        [('i"d', "integer"), ("50% of $1", "text"), ("select", "text"), ("ünï", "text")],
        ['i"d'],
        name="odd 'table' \"x\" %s;",
        namespace="audit; --",
        user="50% of $1",
    )
    images = [row(str(n), "u", None, "x") for n in range(MANY)]
    apply(replica, 1, Define(1, odd), change(odd, inserts=images[:2]), change(odd, inserts=images[2:]))
    apply(replica, 2, change(odd, updates=images), change(odd, updates=images[:3], deletes=[row("7")]))
    assert len(contents(kind, odd.label)) == MANY - 1
    reader = kind.reader()
    assert [found.key for found in reader.of_user(odd.label, "u", 2, ["5"])] == [{'i"d': 6}, {'i"d': 8}]
    reader.close()


@pytest.mark.parametrize(
    "bad",
    [
        table([("_sequence", "integer")], [], name="t"),
        table([("a", "integer")], ["a"], name="sqlite_t", namespace="pg_t"),
        table([("a", "integer")], ["a"], name="_replicator_t", namespace="replicator"),
    ],
)
def test_names_that_the_replica_cannot_give_are_refused(kind: Kind, replica: Replica, bad: Definition) -> None:
    if bad.namespace != "public" and kind.name == "sqlite":
        bad = table([("a", "integer")], ["a"], name=bad.table)
    replica.begin()
    with pytest.raises(Halted, match="replica_name_taken"):
        replica.apply(STRAND, [Define(1, bad)])
    replica.rollback()


# -- the schema follows


def test_columns_are_added_dropped_and_renamed(kind: Kind, replica: Replica) -> None:
    apply(replica, 1, Define(1, WALLETS), change(inserts=wallets(2)))
    followed = Definition(
        "public",
        "wallets",
        (
            Column("id", "bigint", "text", False, 1),
            Column("holder", "text", "text", True, 2),
            Column("level", "integer", "text", True, 4, "3"),
            Column("note", "text", "text", True, 5),
            Column("said", "text", "text", True, 6, "it's"),
            Column("ok", "boolean", "text", True, 7, "t"),
            Column("ratio", "double precision", "text", True, 8, "-0"),
            Column("raw", "bytea", "text", True, 9, "\\x00ff"),
        ),
        ("id",),
        "holder",
    )
    added = ["3", None, "it's", "t", "-0", "\\x00ff"]
    apply(replica, 2, Define(2, followed), change(followed, inserts=[row(str(2**40), "bob", *[None] * 6)]))
    assert contents(kind) == [["0", "ann", *added], ["1", "ann", *added], [str(2**40), "bob", *[None] * 6]]
    assert replica.definitions(STRAND) == {1: WALLETS, 2: followed}
    reader = kind.reader()
    assert [found.key["id"] for found in reader.of_user("wallets", "ann", 10, None)] == [0, 1]
    assert reader.tables() == [followed]
    reader.close()
    dropped = Definition("public", "wallets", (followed.columns[0], followed.columns[2]), ("id",))
    apply(replica, 3, Define(3, dropped))
    assert contents(kind) == [["0", "3"], ["1", "3"], [str(2**40), None]]


def test_only_the_format_differs(kind: Kind, replica: Replica) -> None:
    text = table([("id", "integer"), ("v", "bigint")], ["id"], name="t")
    binary = Definition(
        "public", "t", tuple(Column(c.name, c.type, "binary", c.nullable, c.number) for c in text.columns), ("id",)
    )
    apply(replica, 1, Define(1, text), change(text, inserts=[row("1", "-5")]))
    for count in (1, MANY):
        images = [row(int4(number), int8(-5)) for number in range(10, 10 + count)]
        apply(replica, 2, Define(2, binary), change(binary, updates=[row(int4(1), int8(-6)), *images]))
    assert contents(kind, "t")[0] == ["1", "-6"]
    apply(replica, 4, Define(1, text), change(text, updates=[row("1", "7")]))
    assert contents(kind, "t")[0] == ["1", "7"]
    replica.open()
    assert replica.definitions(STRAND) == {1: text, 2: binary}


def test_what_cannot_follow_halts_and_changes_nothing(kind: Kind, replica: Replica) -> None:
    apply(replica, 1, Define(1, WALLETS), change(inserts=wallets(1)))
    other_key = table([("id", "integer"), ("owner", "text"), ("balance", "numeric(12,2)")], ["owner"])
    replica.begin()
    with pytest.raises(Halted, match="key_changed"):
        replica.apply(STRAND, [Define(2, other_key)])
    replica.rollback()
    assert contents(kind) == [["0", "ann", "0.00"]]


# -- reading


def test_a_users_rows_come_in_key_order_page_by_page(kind: Kind, replica: Replica) -> None:
    points = table(
        [("day", "integer"), ("user_id", "text"), ("n", "integer")], ["day", "n"], name="points", user="user_id"
    )
    rows = [row(str(day), f"u{day % 3}", str(n)) for day in range(30) for n in (2, 1)]
    apply(replica, 1, Define(1, points), change(points, inserts=rows))
    reader = kind.reader()
    seen: list[tuple[int, int]] = []
    after: list[str] | None = None
    while page := reader.of_user("points", "u1", 7, after):
        seen += [(found.row["day"], found.row["n"]) for found in page]
        after = [str(value) for value in page[-1].key.values()]
    assert seen == [(day, n) for day in range(1, 30, 3) for n in (1, 2)]
    assert reader.of_user("points", "nobody", 7, None) == []
    reader.close()


def test_requests_for_what_is_not_there_are_rejected(kind: Kind, replica: Replica) -> None:
    typed = table([("id", "uuid"), ("day", "date")], ["id", "day"], name="typed", user="id")
    apply(
        replica, 1, Define(1, typed), change(typed, inserts=[row("5f4dcc3b-5aa7-65d6-1d83-27deb882cf99", "2024-02-29")])
    )
    reader = kind.reader()
    reader.snapshot()
    with pytest.raises(Rejected) as unknown:
        reader.document("nothing", ["1"])
    assert unknown.value.status == 404
    for key in (["x", "2024-02-29"], ["5f4dcc3b5aa765d61d8327deb882cf99", "2024-02-30"], ["1"], [], ["\x00", "\udc00"]):
        with pytest.raises(Rejected):
            reader.document("typed", key)
    with pytest.raises(Rejected):
        reader.of_user("typed", "me", 5, None)
    found = reader.document("typed", ["5F4DCC3B-5AA7-65D6-1D83-27DEB882CF99", "2024-02-29"])
    assert found is not None
    assert found.row == {"id": "5f4dcc3b-5aa7-65d6-1d83-27deb882cf99", "day": "2024-02-29"}
    reader.close()


def test_a_snapshot_keeps_position_and_rows_together(kind: Kind, replica: Replica) -> None:
    apply(replica, 1, Define(1, WALLETS), change(inserts=wallets(3)))
    reader = kind.reader()
    reader.snapshot()
    apply(replica, 2, change(inserts=wallets(1, first=9)), change(deletes=[row("0")]))
    apply(replica, 3, Truncate(WALLETS))
    assert reader.applied(STRAND) == applied(1)
    assert len(list(reader.rows("wallets"))) == 3
    assert reader.document("wallets", ["0"]) is not None
    reader.close()
    fresh = kind.reader()
    assert fresh.applied(STRAND) == applied(3)
    assert list(fresh.rows("wallets")) == []
    fresh.close()


def test_lines_of_keyed_rows(kind: Kind, replica: Replica) -> None:
    definition = table([("b", "text"), ("n", "integer"), ("a", "text")], ["n", "a"])
    rows = [("x\ty", "1", "k"), (None, "2", "back\\slash"), ("", "3", "ü")]
    apply(replica, 1, Define(1, definition), change(definition, inserts=[row(*cells) for cells in rows]))
    expected = [(line.rpartition(b"\t")[0], line) for line in (line_of([n, a, b]) for b, n, a in rows)]
    reader = kind.reader()
    reader.snapshot()
    assert sorted(line for chunk in reader.lines("wallets") for line in chunk) == expected
    assert reader.lines_of("wallets", [["2", "back\\slash"], ["3", "nobody"]]) == [expected[1]]
    assert reader.lines_of("wallets", [[n, a] for _, n, a in rows] * 300)[-1] in expected
    with pytest.raises(Rejected, match="no such table"):
        list(reader.lines("nothing"))
    reader.close()


def test_lines_of_rows_without_a_key(kind: Kind, replica: Replica) -> None:
    definition = table([("b", "text"), ("a", "text")], [])
    places = [(7, 0), (7, 1), (9, 0)]
    rows = [row("1", "x"), row("1", "x"), row(None, "y")]
    apply(replica, 9, Define(1, definition), Append(definition, rows, places))
    reader = kind.reader()
    found = sorted(line for chunk in reader.lines("wallets") for line in chunk)
    assert found == [(b"x\t1", b"x\t1"), (b"x\t1", b"x\t1"), (b"y\t\\N", b"y\t\\N")]
    placed = sorted(line for chunk in reader.lines_placed("wallets", 6, 8) for line in chunk)
    assert placed == [(b"7 0", b"x\t1"), (b"7 1", b"x\t1")]
    reader.close()


def test_a_hand_made_value_has_a_line_of_its_own(kind: Kind, replica: Replica) -> None:
    apply(replica, 1, Define(1, WALLETS), change(inserts=wallets(2)))
    kind.execute(
        "UPDATE wallets SET owner = 'tab' || chr(9) WHERE id = 1"
        if kind.name == "postgres"
        else "UPDATE wallets SET owner = CAST(x'746162' || char(9) AS BLOB), balance = 3 WHERE id = 1"
    )
    reader = kind.reader()
    lines = dict(line for chunk in reader.lines("wallets") for line in chunk)
    assert lines[b"0"] == b"0\t0.00\tann"
    assert lines[b"1"] != b"1\t1.00\tann"
    assert lines[b"1"].count(b"\t") == 2
    reader.close()


def test_a_reader_that_is_released_sees_the_present(kind: Kind, replica: Replica) -> None:
    apply(replica, 1, Define(1, WALLETS), change(inserts=wallets(2)))
    reader = kind.reader()
    reader.snapshot()
    assert len(reader.lines_of("wallets", [["0"], ["1"], ["2"]])) == 2
    apply(replica, 2, change(inserts=wallets(1, first=2)))
    assert len(reader.lines_of("wallets", [["0"], ["1"], ["2"]])) == 2
    reader.release()
    reader.release()
    reader.snapshot()
    found = reader.applied(STRAND)
    assert found is not None
    assert found.position.sequence == 2
    assert len(reader.lines_of("wallets", [["0"], ["1"], ["2"]])) == 3
    reader.close()


def test_documents_show_json_values(kind: Kind, replica: Replica) -> None:
    shown = table([("id", "bigint"), ("j", "jsonb"), ("ok", "boolean"), ("n", "numeric")], ["id"], name="shown")
    apply(replica, 1, Define(1, shown), change(shown, inserts=[row("1", '{"a": [1, null]}', "t", "1.50")]))
    reader = kind.reader()
    found = reader.document("shown", ["1"])
    assert found is not None
    assert found.row == {"id": 1, "j": {"a": [1, None]}, "ok": True, "n": "1.50"}
    reader.close()


def test_a_reader_that_stops_midway_can_go_on(kind: Kind, replica: Replica) -> None:
    apply(replica, 1, Define(1, WALLETS), change(inserts=wallets(5000)))
    reader = kind.reader()
    reader.snapshot()
    rows = reader.rows("wallets")
    next(rows)
    assert reader.applied(STRAND) == applied(1)
    assert isinstance(rows, Generator)
    rows.close()
    assert len(list(reader.rows("wallets"))) == 5000
    reader.close()


def test_a_corrupt_definition_is_named(kind: Kind, replica: Replica) -> None:
    apply(replica, 1, Define(1, WALLETS))
    where = "replicator.definition" if kind.name == "postgres" else "_replicator_definition"
    kind.execute(
        f"UPDATE {where} SET definition = '\\x00'"
        if kind.name == "postgres"
        else f"UPDATE {where} SET definition = x'00'"
    )
    with pytest.raises(Corrupt):
        replica.definitions(STRAND)


def test_a_lock_of_somebody_else_is_visible(kind: Kind, replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    apply(replica, 1, Define(1, WALLETS), change(inserts=wallets(1)))
    replica.close()
    blocker = _Blocker(kind, monkeypatch)
    replica.open()
    with pytest.raises(Unavailable, match="locked"):
        apply(replica, 2, change(updates=wallets(1, owner="bob")))
    blocker.release()
    replica.open()
    apply(replica, 2, change(updates=wallets(1, owner="bob")))
    assert contents(kind) == [["0", "bob", "0.00"]]


class _Blocker:
    """Holds a lock on the wallets; waiting for it is cut short for the test."""

    def __init__(self, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
        import sqlite3

        import psycopg

        from replicator.pipeline.replicas.postgres import replica as postgres_replica
        from replicator.storage import sqlite

        self.connection: sqlite3.Connection | psycopg.Connection
        if isinstance(kind, SqliteKind):
            monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
            self.connection = sqlite3.connect(kind.path, isolation_level=None)
            self.connection.execute("BEGIN IMMEDIATE")
        elif isinstance(kind, PostgresKind):
            monkeypatch.setitem(postgres_replica._SETTINGS, "lock_timeout", "500ms")
            self.connection = psycopg.connect(kind.dsn)
            self.connection.execute("LOCK TABLE wallets IN ACCESS EXCLUSIVE MODE")

    def release(self) -> None:
        self.connection.rollback()
        self.connection.close()


def test_a_key_that_only_changes_its_form_keeps_its_row(kind: Kind, replica: Replica) -> None:
    """1.0 and 1.00 are one key to PostgreSQL and two images."""
    prices = table([("price", "numeric"), ("note", "text"), ("n", "integer")], ["price"], name="prices")
    apply(replica, 1, Define(1, prices), change(prices, inserts=[row("1.0", "kept", "1"), row("2.0", "x", "1")]))
    apply(replica, 2, change(prices, moves=[(row("1.0"), row("1.00", UNCHANGED, "2"))]))
    apply(replica, 3, change(prices, deletes=[row("2.0")], inserts=[row("2.00", "y", "2")]))
    assert contents(kind, "prices") == [["1.00", "kept", "2"], ["2.00", "y", "2"]]
    assert replica.drifted_rows == 0


# -- what is refused, and what is set aside


def refuse_nobody(kind: Kind) -> None:
    """Somebody gives the replica a constraint: no owner called ``nobody``."""
    if kind.name == "postgres":
        kind.execute("ALTER TABLE wallets ADD CONSTRAINT refused CHECK (owner <> 'nobody')")
        return
    for event in ("INSERT", "UPDATE"):
        kind.execute(
            f"CREATE TRIGGER refused_{event} BEFORE {event} ON wallets WHEN NEW.owner = 'nobody'"
            " BEGIN SELECT RAISE(ABORT, 'not here'); END"
        )


@pytest.mark.parametrize("count", [1, MANY])
@pytest.mark.parametrize("way", ["inserts", "updates"])
def test_a_row_that_the_replica_refuses_is_named_so(kind: Kind, replica: Replica, count: int, way: str) -> None:
    apply(replica, 1, Define(1, WALLETS), change(inserts=wallets(count)))
    refuse_nobody(kind)
    refused = [*wallets(count)[:-1], row(str(count - 1), "nobody", "0.00")]
    for attempt in (replica.apply, replica.attempt):
        replica.begin()
        with pytest.raises(Halted) as caught:
            attempt(STRAND, [change(inserts=refused) if way == "inserts" else change(updates=refused)])
        assert caught.value.reason == "replica_refused_row"
        assert caught.value.cure
        replica.rollback()


@pytest.mark.parametrize("count", [1, MANY])
def test_a_failed_attempt_leaves_the_transaction_as_it_was(kind: Kind, replica: Replica, count: int) -> None:
    """Also tables, definitions and drift of the attempt are undone; what came before and comes after is committed."""
    other = table([("id", "integer")], ["id"], name="other")
    apply(replica, 1, Define(1, WALLETS), change(inserts=wallets(2)))
    refuse_nobody(kind)
    replica.begin()
    replica.attempt(STRAND, [change(inserts=wallets(count, first=10), updates=[row("0", "bob", "1.00")])])
    for _ in range(2):
        steps: list[Step] = [
            Define(2, other),
            change(other, inserts=[row(str(number)) for number in range(count)]),
            change(inserts=[row("1", "drifted", "0.00")], deletes=[row("77")]),
            change(updates=[*wallets(count, first=2000), row("1", "nobody", "0.00")]),
        ]
        with pytest.raises(Halted):
            replica.attempt(STRAND, steps)
    with pytest.raises(Halted) as caught:
        replica.attempt(STRAND, [change(patches=[row("9999", UNCHANGED, "1.00")])])
    assert caught.value.reason == "replica_row_missing"
    with pytest.raises(Corrupt) as corrupt:
        replica.attempt(STRAND, [change(inserts=[row("9")])])
    assert corrupt.value.reason == "bad_row"
    replica.attempt(STRAND, [change(inserts=wallets(count, first=1000), deletes=[row("10")])])
    replica.commit(applied(2))
    assert replica.definitions(STRAND) == {1: WALLETS}
    assert replica.drifted_rows == 0
    expected = {"0": "bob", "1": "ann", **{str(n): "ann" for n in (*range(11, 10 + count), *range(1000, 1000 + count))}}
    assert {key: owner for key, owner, _ in contents(kind)} == expected


@pytest.mark.parametrize("count", [1, MANY])
def test_attempts_follow_each_other_whatever_became_of_those_before(kind: Kind, replica: Replica, count: int) -> None:
    """In each form of writing: what one that failed had prepared for the next is gone with it."""
    apply(replica, 1, Define(1, WALLETS), change(inserts=wallets(count)))
    refuse_nobody(kind)
    refused, fine = wallets(count, owner="nobody"), wallets(count, owner="bob")
    replica.begin()
    for _ in range(2):
        for rows in (refused, fine, refused):
            none = [row("5000")] * count
            for step in (change(deletes=none, updates=rows), change(deletes=none, inserts=rows)):
                if rows is fine:
                    replica.attempt(STRAND, [step])
                else:
                    with pytest.raises(Halted):
                        replica.attempt(STRAND, [step])
    replica.commit(applied(2))
    assert {owner for _, owner, _ in contents(kind)} == {"bob"}
    apply(replica, 3, change(updates=wallets(count, owner="eve")))
    assert contents(kind) == sorted([str(n), "eve", f"{n}.00"] for n in range(count))


def aside(sequence: int, ordinal: int = 0, **fields: object) -> QuarantinedStatement:
    made = QuarantinedStatement(
        sequence,
        ordinal,
        f"tx{sequence}",
        1,
        "public",
        "wallets",
        "insert",
        ('ü"',),
        None,
        b"\x93\x00",
        "held",
        "why",
        7,
    )
    return made._replace(**fields)  # type: ignore[arg-type]


def test_what_is_set_aside_goes_with_its_transaction(kind: Kind, replica: Replica) -> None:
    apply(replica, 1, Define(1, WALLETS))
    replica.begin()
    replica.quarantine().add(STRAND, [aside(2)])
    replica.rollback()
    assert replica.quarantine().open(STRAND) == []
    replica.begin()
    replica.quarantine().add(STRAND, [aside(2, 3), aside(2, 1, key=("a", "b"), key_before=("", "1"))])
    kind.crash(replica)
    replica.open()
    assert replica.quarantine().open(STRAND) == []
    replica.begin()
    replica.quarantine().add(STRAND, [aside(2, 3), aside(2, 1, key=("a", "b"), key_before=("", "1"))])
    replica.quarantine().add("second", [aside(1, key=None)])
    replica.commit(applied(2))
    replica.open()
    listed = [
        aside(2, 1, key=("a", "b"), key_before=("", "1"), statement=b""),
        aside(2, 3, statement=b""),
    ]
    assert replica.quarantine().open(STRAND) == listed
    assert replica.quarantine().one(STRAND, (2, 3)) == aside(2, 3)
    assert replica.quarantine().one(STRAND, (2, 4)) is None
    reader = kind.reader()
    assert reader.quarantine().open(STRAND) == listed
    assert reader.quarantine().keys(STRAND) == {"wallets": {("a", "b"), ("", "1"), ('ü"',)}}
    assert reader.quarantine().keys("second") == {"wallets": set()}
    reader.close()


def test_what_is_closed_stays_with_how_it_ended(kind: Kind, replica: Replica) -> None:
    apply(replica, 1, Define(1, WALLETS))
    replica.begin()
    replica.quarantine().add(STRAND, [aside(2), aside(3), aside(4)])
    replica.commit(applied(2))
    replica.begin()
    replica.quarantine().close(STRAND, [(2, 0), (3, 0)], QuarantineClosing("replayed", 9, "ann", "cured"))
    replica.quarantine().close(STRAND, [(2, 0)], QuarantineClosing("dropped", 99, "bob", "closed already"))
    replica.commit(applied(2))
    assert [one.place for one in replica.quarantine().open(STRAND)] == [(4, 0)]
    closed = replica.quarantine().closed(STRAND, 10)
    assert [(one.place, one.outcome, one.closed_at, one.closed_by, one.closed_why) for one in closed] == [
        ((3, 0), "replayed", 9, "ann", "cured"),
        ((2, 0), "replayed", 9, "ann", "cured"),
    ]
    assert len(replica.quarantine().closed(STRAND, 1)) == 1


def test_a_replica_of_an_earlier_version_gets_its_quarantine(kind: Kind, replica: Replica) -> None:
    apply(replica, 1, Define(1, WALLETS))
    replica.close()
    kind.execute("DROP TABLE " + ("replicator.quarantine" if kind.name == "postgres" else "_replicator_quarantine"))
    reader = kind.reader()
    assert reader.quarantine().open(STRAND) == []
    reader.close()
    replica.open()
    assert replica.quarantine().open(STRAND) == []
    assert replica.applied(STRAND) == applied(1)


# -- looking at what is stored


@pytest.mark.parametrize("count", [5, MANY])
def test_stored_rows_are_read_by_their_keys(kind: Kind, replica: Replica, count: int) -> None:
    apply(replica, 1, Define(1, WALLETS), change(inserts=wallets(count)))
    keys = [row(str(number)) for number in range(count + 2)]
    stored = [[str(number), "ann", f"{number}.00"] for number in range(count)]
    assert replica.stored(WALLETS, keys) == [*stored, None, None]
    assert replica.stored(WALLETS, []) == []
    replica.begin()
    replica.apply(STRAND, [change(deletes=[row("0")])])
    assert replica.stored(WALLETS, keys[:2]) == [None, stored[1]]
    replica.rollback()
    assert replica.stored(WALLETS, keys[:1]) == stored[:1]


def test_stored_keys_come_in_order_page_by_page(kind: Kind, replica: Replica) -> None:
    pairs = table([("note", "text"), ("b", "text"), ("a", "integer")], ["a", "b"], name="pairs")
    apply(replica, 1, Define(1, pairs), change(pairs, inserts=[row("n", b, str(a)) for a in (1, 2, 10) for b in "xy"]))
    found: list[bytes] = []
    while page := replica.stored_keys(pairs, found[-1] if found else None, 4):
        found += page
    assert found == [row(a, b) for a in ("1", "2", "10") for b in "xy"]


@pytest.mark.parametrize("count", [3, MANY])
def test_a_table_without_a_key_is_written_by_its_places(kind: Kind, replica: Replica, count: int) -> None:
    """As a repair does: its rows are found by where they were inserted."""
    log = table([("line", "text")], [], name="log")
    by_place = as_stored(log)
    lines = [row(f"line {number}") for number in range(count)]
    apply(replica, 1, Define(1, log), Append(log, lines, [(1, number) for number in range(count)]))
    assert replica.stored_keys(by_place, None, 2) == [row("1", "0"), row("1", "1")]
    apply(
        replica,
        2,
        change(
            by_place,
            deletes=[row("1", "0")],
            inserts=[row("2", str(number), "new") for number in range(count)],
            updates=[row("1", str(number), "changed") for number in range(1, count)],
        ),
    )
    assert contents(kind, "log") == [["changed"]] * (count - 1) + [["new"]] * count
    assert replica.stored(by_place, [row("1", "1"), row("1", "0")]) == [["1", "1", "changed"], None]
    assert replica.drifted_rows == 0


# -- taking back


def defined(replica: Replica, *definitions: Definition) -> None:
    for number, definition in enumerate(definitions, 1):
        apply(replica, number, Define(number, definition))


def undefined(replica: Replica, sequence: int, *relations: int) -> None:
    replica.begin()
    for relation in relations:
        replica.undefine(STRAND, relation)
    replica.commit(applied(sequence))


def test_a_definition_that_made_a_table_is_taken_back_with_it(kind: Kind, replica: Replica) -> None:
    other = table([("id", "integer"), ("owner", "text")], ["id"], name="others", user="owner")
    defined(replica, WALLETS, other)
    apply(replica, 3, change(inserts=wallets(3)), change(other, inserts=[row("1", "ann")]))
    replica.harden()
    undefined(replica, 2, 2)
    reader = kind.reader()
    assert [one.label for one in reader.tables()] == ["wallets"]
    reader.close()
    assert replica.definitions(STRAND) == {1: WALLETS}
    assert len(contents(kind)) == 3
    another = table([("id", "text"), ("size", "integer")], ["id"], name="others")
    apply(replica, 3, Define(2, another), change(another, inserts=[row("x", "1")]))  # as if it had never been
    assert contents(kind, "others") == [["x", "1"]]


def test_columns_go_back_to_those_before(kind: Kind, replica: Replica) -> None:
    """Added, renamed, indexed: two definitions are taken back, the last first."""
    more = table([("id", "integer"), ("holder", "text"), ("balance", "numeric(12,2)")], ["id"], user="holder")
    columns = (*more.columns, Column("email", "text", number=4, missing="none"))
    most = Definition(more.namespace, more.table, columns, more.key, "email")
    defined(replica, WALLETS, more, most)
    apply(replica, 4, change(most, inserts=[row("1", "ann", "1.00", "a@b")]))
    undefined(replica, 1, 3, 2)
    assert replica.definitions(STRAND) == {1: WALLETS}
    assert contents(kind) == [["1", "ann", "1.00"]]
    apply(replica, 2, change(inserts=wallets(1)), Define(2, most))
    assert contents(kind) == [["0", "ann", "0.00", "none"], ["1", "ann", "1.00", "none"]]


@pytest.mark.parametrize("what", ["dropped", "widened"])
def test_what_cannot_be_taken_back_is_named_and_changes_nothing(kind: Kind, replica: Replica, what: str) -> None:
    columns = WALLETS.columns[:2] if what == "dropped" else (*WALLETS.columns[:2], _wider(WALLETS.columns[2]))
    after = Definition(WALLETS.namespace, WALLETS.table, columns, WALLETS.key, WALLETS.user)
    defined(replica, WALLETS, after)
    replica.begin()
    with pytest.raises(Halted) as halted:
        replica.undefine(STRAND, 2)
    replica.rollback()
    assert (halted.value.reason, halted.value.place) == ("define_not_undoable", "replica table wallets")
    assert replica.definitions(STRAND) == {1: WALLETS, 2: after}


def _wider(column: Column) -> Column:
    return Column(column.name, "numeric(20,2)", number=column.number)


def test_what_was_set_aside_behind_a_sequence_never_was(replica: Replica) -> None:
    replica.begin()
    replica.quarantine().add(STRAND, [aside(2), aside(5), aside(6, 1)])
    replica.commit(applied(6))
    replica.begin()
    replica.quarantine().forget(STRAND, 4)
    replica.commit(applied(4))
    assert [one.place for one in replica.quarantine().open(STRAND)] == [aside(2).place]
    replica.begin()
    replica.quarantine().add(STRAND, [aside(5)])  # another chain's block of this number
    replica.commit(applied(5))
