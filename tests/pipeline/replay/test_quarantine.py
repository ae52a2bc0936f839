"""What a replica refuses is set aside with all that has to wait behind it; everything else is applied, exactly once."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from replicator.errors import Halted
from replicator.format.row import UNCHANGED
from replicator.format.statement import (
    pack_define,
    pack_delete,
    pack_insert,
    pack_patch,
    pack_sequence,
    pack_truncate,
    pack_update,
)
from replicator.pipeline.replay.quarantine import QuarantinePolicy
from replicator.pipeline.replicas.postgres import replica
from tests.contracts.replica_kinds import Kind, PostgresKind, SqliteKind, contents, row, table
from tests.pipeline.replay.strand import EVENTS, SETS_ASIDE, WALLETS, Strand, refuse_deletes, wallet


@pytest.fixture(params=["sqlite", "postgres"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    if request.param == "sqlite":
        return SqliteKind(tmp_path / "replica.db")
    new_database: Callable[[], str] = request.getfixturevalue("new_database")
    return PostgresKind(new_database())


@pytest.fixture
def strand(kind: Kind, tmp_path: Path) -> Strand:
    """Wallets 1 to 3 hold 10 each; the replica refuses a negative balance."""
    made = Strand(kind, tmp_path)
    made.define(pack_define(1, WALLETS), pack_define(2, EVENTS))
    made.write(*(pack_insert(1, wallet(number, 10)) for number in (1, 2, 3)))
    made.replay()
    made.refuse()
    return made


def test_one_refused_statement_is_set_aside_and_the_rest_of_its_block_and_batch_is_applied(strand: Strand) -> None:
    strand.write(pack_update(1, wallet(1, 11)))
    strand.write(pack_update(1, wallet(2, 12)), pack_insert(1, wallet(4, -4)), pack_insert(1, wallet(5, 5)))
    strand.write(pack_delete(1, row("3")))
    strand.replay()
    assert strand.wallets() == {"1": "11", "2": "12", "5": "5"}
    (one,) = strand.open()
    assert (one.sequence, one.ordinal, one.op, one.reason) == (4, 1, "insert", "replica_refused_row")
    assert (one.txid, one.label, one.key, one.key_before) == ("tx4", "wallets", ("4",), None)
    assert strand.replica.quarantine().one("main", (4, 1)) == one._replace(statement=pack_insert(1, wallet(4, -4)))
    assert "refused" in one.message
    assert strand.replayer.quarantine.summary == (1, {"wallets": 1})


def test_a_refusal_is_in_the_log_once_it_is_durable(strand: Strand, caplog: pytest.LogCaptureFixture) -> None:
    strand.write(pack_insert(1, wallet(4, -4)), pack_insert(1, wallet(5, -5)))
    strand.write(pack_truncate(1), pack_insert(1, wallet(6, -6)))
    strand.replay()
    (line,) = [record.getMessage() for record in caplog.records]
    assert "3 statements were refused and set aside, 1 are by now; the first of them: sequence 3, ordinal 0, " in line
    assert strand.replayer.quarantine.summary == (1, {"wallets": 1})
    strand.write(pack_truncate(1))
    strand.write(pack_insert(1, wallet(7, -7)))
    strand.replay()
    assert strand.replayer.quarantine.summary == (1, {"wallets": 1})
    caplog.clear()
    strand.write(pack_update(1, wallet(7, 7)))
    strand.replay()
    assert not caplog.records, "what waits behind it is not said again"


def test_what_touches_a_held_key_waits_behind_it_in_this_batch_and_after_a_restart(strand: Strand) -> None:
    strand.write(pack_update(1, wallet(1, -1)), pack_update(1, wallet(1, -2)), pack_update(1, wallet(2, 20)))
    strand.replay()
    assert strand.wallets() == {"1": "10", "2": "20", "3": "10"}
    strand.write(pack_delete(1, row("1")))
    strand.replay()
    strand.again()
    strand.write(pack_insert(1, wallet(1, 30)), pack_update(1, wallet(3, 30)))
    strand.replay()
    assert strand.wallets() == {"1": "10", "2": "20", "3": "30"}
    assert strand.places() == [
        (3, 0, "update", "replica_refused_row"),
        (3, 1, "update", "held"),
        (4, 0, "delete", "held"),
        (5, 0, "insert", "held"),
    ]
    assert strand.open()[3].message == "waits behind sequence 3, ordinal 0, which is set aside"


def test_without_the_policy_the_strand_halts_and_nothing_of_the_batch_is_applied(strand: Strand) -> None:
    strand.again(QuarantinePolicy())
    strand.write(pack_update(1, wallet(1, 11)))
    strand.write(pack_insert(1, wallet(4, -4)))
    with pytest.raises(Halted) as caught:
        strand.replayer.step()
    assert caught.value.reason == "replica_refused_row"
    strand.again(QuarantinePolicy())
    assert strand.replayer.applied.position.sequence == 2
    assert strand.wallets() == {"1": "10", "2": "10", "3": "10"}
    assert strand.open() == []


def test_what_is_held_waits_although_the_policy_is_halt_again(strand: Strand) -> None:
    strand.write(pack_update(1, wallet(1, -1)))
    strand.replay()
    strand.again(QuarantinePolicy())
    strand.write(pack_update(1, wallet(1, 11)), pack_update(1, wallet(2, 12)))
    strand.replay()
    assert strand.wallets() == {"1": "10", "2": "12", "3": "10"}
    assert strand.places()[1:] == [(4, 0, "update", "held")]
    strand.write(pack_update(1, wallet(3, -3)))
    with pytest.raises(Halted):
        strand.replay()


def test_a_key_that_changes_out_of_a_held_one_takes_the_new_key_with_it(strand: Strand) -> None:
    strand.write(pack_update(1, wallet(1, -1)))
    strand.replay()
    strand.write(pack_update(1, wallet(7, 11), row("1")))
    strand.write(pack_update(1, wallet(7, 12)), pack_insert(1, wallet(1, 13)), pack_update(1, wallet(2, 14)))
    strand.replay()
    assert strand.wallets() == {"1": "10", "2": "14", "3": "10"}
    assert [one[:2] for one in strand.places()] == [(3, 0), (4, 0), (5, 0), (5, 1)]
    moved = strand.open()[1]
    assert (moved.key, moved.key_before) == (("7",), ("1",))


def test_a_key_that_changes_into_a_held_one_takes_the_old_key_with_it(strand: Strand) -> None:
    strand.write(pack_insert(1, wallet(9, -9)), pack_delete(1, row("9")))
    strand.write(pack_update(1, wallet(9, 11), row("2")))
    strand.write(pack_insert(1, wallet(2, 12)), pack_update(1, wallet(3, 13)))
    strand.replay()
    # As one batch the net effect of 3 is nothing, which nobody refuses.
    assert strand.open() == []
    assert strand.wallets() == {"1": "10", "9": "11", "2": "12", "3": "13"}
    strand.write(pack_insert(1, wallet(5, -5)))
    strand.replay()
    strand.write(pack_update(1, wallet(5, 15), row("1")))
    strand.write(pack_update(1, wallet(1, 16)))
    strand.write(pack_delete(1, row("5")), pack_delete(1, row("3")))
    strand.replay()
    assert strand.wallets() == {"1": "10", "9": "11", "2": "12"}
    assert [one[:2] for one in strand.places()] == [(6, 0), (7, 0), (8, 0), (9, 0)]


def test_a_refused_change_of_a_key_holds_both(strand: Strand) -> None:
    strand.write(pack_update(1, wallet(8, -8), row("1")))
    strand.replay()
    strand.write(pack_insert(1, wallet(1, 11)), pack_delete(1, row("8")), pack_delete(1, row("2")))
    strand.replay()
    assert strand.wallets() == {"1": "10", "3": "10"}
    assert [one[:2] for one in strand.places()] == [(3, 0), (4, 0), (4, 1)]


def test_a_partial_change_of_a_row_that_is_gone_is_set_aside(strand: Strand) -> None:
    strand.kind.execute("DELETE FROM wallets WHERE id = 2")
    strand.write(pack_patch(1, row("2", UNCHANGED, "20")), pack_patch(1, row("1", UNCHANGED, "20")))
    strand.write(pack_patch(1, row("5", UNCHANGED, "30"), row("2")), pack_patch(1, row("6", UNCHANGED, "7"), row("3")))
    strand.replay()
    assert strand.wallets() == {"1": "20", "6": "7"}
    assert strand.places() == [(3, 0, "patch", "replica_row_missing"), (4, 0, "patch", "held")]


def test_a_truncate_makes_void_what_is_held_of_its_table(strand: Strand) -> None:
    strand.write(pack_update(1, wallet(1, -1)), pack_update(1, wallet(1, -5)))
    strand.replay()
    strand.write(
        pack_delete(1, row("1")), pack_truncate(1), pack_insert(1, wallet(1, 21)), pack_insert(1, wallet(4, 24))
    )
    strand.replay()
    assert strand.open() == []
    assert not strand.replayer.quarantine.has_open
    assert strand.wallets() == {"1": "21", "4": "24"}
    closed = strand.replica.quarantine().closed("main", 10)
    assert [(one.sequence, one.ordinal, one.outcome) for one in closed] == [
        (4, 0, "truncated"),
        (3, 1, "truncated"),
        (3, 0, "truncated"),
    ]
    assert closed[0].closed_why == "the table was truncated at sequence 4, ordinal 1"
    assert closed[0].closed_by == "replay"
    strand.write(pack_update(1, wallet(1, 22)))
    strand.replay()
    assert strand.wallets() == {"1": "22", "4": "24"}


def test_a_truncate_among_refused_statements_of_one_block(strand: Strand) -> None:
    strand.write(
        pack_insert(1, wallet(4, -4)), pack_truncate(1), pack_insert(1, wallet(4, 4)), pack_insert(1, wallet(5, -5))
    )
    strand.replay()
    assert strand.wallets() == {"4": "4"}
    assert [one[:2] for one in strand.places()] == [(3, 3)]
    assert [one.place for one in strand.replica.quarantine().closed("main", 10)] in ([(3, 0)], [])


def test_a_truncate_that_is_refused_holds_the_whole_table(strand: Strand) -> None:
    if strand.kind.name == "postgres":
        refuse_deletes(strand.kind, "OLD.id = 2")
    else:
        strand.kind.execute(
            "CREATE TRIGGER refers BEFORE DELETE ON wallets WHEN OLD.id = 2 BEGIN SELECT RAISE(ABORT, 'referred'); END"
        )
    strand.write(pack_update(1, wallet(1, 11)), pack_truncate(1), pack_insert(1, wallet(4, 14)))
    strand.write(pack_insert(2, row("new", "1")), pack_insert(1, wallet(5, 15)))
    strand.replay()
    assert strand.wallets() == {"1": "11", "2": "10", "3": "10"}
    assert contents(strand.kind, "events") == [["new", "1"]]
    assert strand.places() == [
        (3, 1, "truncate", "replica_refused_row"),
        (3, 2, "insert", "held"),
        (4, 1, "insert", "held"),
    ]


def test_rows_without_a_key_do_not_wait_for_each_other(strand: Strand) -> None:
    strand.refuse("events", "amount < 0")
    strand.write(pack_insert(2, row("a", "1")), pack_insert(2, row("b", "-2")), pack_insert(2, row("c", "3")))
    strand.write(pack_insert(2, row("d", "4")))
    strand.replay()
    assert contents(strand.kind, "events") == [["a", "1"], ["c", "3"], ["d", "4"]]
    assert strand.places() == [(3, 1, "insert", "replica_refused_row")]
    table = '"events"'
    found = strand.kind.execute(f"SELECT what, _sequence, _ordinal FROM {table} ORDER BY _sequence, _ordinal")
    assert found == [("a", 3, 0), ("c", 3, 2), ("d", 4, 0)], "rows keep their places"
    strand.write(pack_truncate(2), pack_insert(2, row("e", "5")))
    strand.replay()
    assert strand.open() == []
    assert contents(strand.kind, "events") == [["e", "5"]]


def test_a_row_image_that_cannot_be_read_is_set_aside_by_its_key(strand: Strand) -> None:
    strand.write(pack_insert(1, row("4", "too few")), pack_insert(1, row("5", "ann", "5")))
    strand.write(pack_delete(1, row("4")))
    strand.write(pack_update(1, wallet(1, 11)))
    strand.replay()
    # Of an image with another count of columns not even the key is trusted: the table waits.
    assert strand.places()[0] == (3, 0, "insert", "bad_row")
    assert strand.wallets() == {"1": "10", "2": "10", "3": "10"}
    assert [one.key for one in strand.open()] == [None, ("5",), ("4",), ("1",)]


def test_keys_of_which_two_texts_can_be_one_hold_their_table(kind: Kind, tmp_path: Path) -> None:
    loose = table([("id", "numeric"), ("balance", "integer")], ["id"])
    strand = Strand(kind, tmp_path)
    strand.define(pack_define(1, loose))
    strand.write(pack_insert(1, row("1.0", "10")), pack_insert(1, row("2", "10")))
    strand.replay()
    strand.refuse()
    strand.write(pack_update(1, row("1.0", "-1")))
    strand.replay()
    strand.write(pack_update(1, row("1.00", "11"), row("1.0")))
    strand.write(pack_update(1, row("2", "12")))
    strand.replay()
    assert contents(kind) == [["1.0", "10"], ["2", "10"]]
    assert len(strand.open()) == 3


def test_exact_numeric_keys_are_told_apart(kind: Kind, tmp_path: Path) -> None:
    exact = table([("id", "numeric(12,2)"), ("balance", "integer")], ["id"])
    strand = Strand(kind, tmp_path)
    strand.define(pack_define(1, exact))
    strand.replay()
    strand.refuse()
    strand.write(pack_insert(1, row("1.00", "-1")), pack_insert(1, row("2.00", "12")))
    strand.replay()
    assert contents(kind) == [["2.00", "12"]]
    assert strand.places() == [(2, 0, "insert", "replica_refused_row")]


def test_a_large_block_is_set_aside_in_part_too(strand: Strand) -> None:
    """Its parts are tried one after the other, in the block's one transaction."""
    parts = [
        [pack_insert(1, wallet(number, -number if number == 150 else number)) for number in range(first, first + 100)]
        for first in (100, 200)
    ]
    parts[1].append(pack_update(1, wallet(150, 1)))
    strand.write_large(parts)
    strand.write(pack_update(1, wallet(151, 1)))
    strand.replay()
    expected = {str(number): str(number) for number in range(100, 300) if number != 150}
    assert strand.wallets() == {"1": "10", "2": "10", "3": "10", **expected, "151": "1"}
    assert strand.places() == [(3, 50, "insert", "replica_refused_row"), (3, 200, "update", "held")]
    strand.write_large([[pack_update(1, wallet(150, 2)), pack_update(1, wallet(1, 2))]])
    strand.replay()
    assert strand.places()[2:] == [(5, 0, "update", "held")]
    assert strand.wallets()["1"] == "2"


def test_many_refused_rows_among_many(strand: Strand) -> None:
    bad = {104, 250, 251, 399}
    for first in range(100, 400, 50):
        strand.write(
            *(pack_insert(1, wallet(number, -1 if number in bad else 1)) for number in range(first, first + 50)),
            pack_sequence("public", "numbers", first, 1),
        )
    strand.replay()
    assert {int(one.key[0]) for one in strand.open() if one.key} == bad
    assert len(strand.wallets()) == 3 + 300 - len(bad)


def test_beyond_the_limit_the_strand_halts_before_the_batch(kind: Kind, tmp_path: Path) -> None:
    strand = Strand(kind, tmp_path, QuarantinePolicy(sets_aside=True, limit=2))
    strand.define(pack_define(1, WALLETS))
    strand.replay()
    strand.refuse()
    strand.write(pack_insert(1, wallet(1, -1)), pack_insert(1, wallet(2, -2)))
    strand.replay()
    strand.write(pack_insert(1, wallet(3, 3)))
    strand.replay()
    strand.write(pack_insert(1, wallet(4, 4)), pack_delete(1, row("1")))
    with pytest.raises(Halted) as caught:
        strand.replay()
    assert caught.value.reason == "quarantine_full"
    assert "2 statements are set aside already" in caught.value.message
    assert "quarantine_limit" in caught.value.cure
    strand.again()
    assert strand.replayer.applied.position.sequence == 3
    assert strand.wallets() == {"3": "3"}
    strand.replay()
    assert len(strand.open()) == 3, "with room, it goes on"


def test_what_does_not_lie_with_a_statement_halts(strand: Strand) -> None:
    narrower = table([("id", "integer"), ("owner", "text")], [], name="wallets")
    strand.write(pack_insert(1, wallet(4, -4)))
    strand.define(pack_define(3, narrower))
    with pytest.raises(Halted) as caught:
        strand.replay()
    assert caught.value.reason in ("key_changed", "replica_table_differs")
    strand.again()
    assert strand.replayer.applied.position.sequence == 2
    assert strand.open() == [], "the batch is undone as a whole"


def test_a_table_that_changes_while_keys_of_it_are_held(strand: Strand) -> None:
    wider = table([("id", "bigint"), ("owner", "text"), ("balance", "integer"), ("note", "text")], ["id"], user="owner")
    strand.write(pack_update(1, wallet(1, -1)))
    strand.define(pack_define(3, wider))
    strand.write(pack_update(3, row("1", "ann", "5", "n")), pack_update(3, row("2", "ann", "6", "n")))
    strand.replay()
    strand.write(pack_update(3, row("1", "ann", "7", "n")), pack_update(3, row("3", "ann", "8", "n")))
    strand.replay()
    assert strand.wallets() == {"1": "10", "2": "6", "3": "8"}
    assert [one[:2] for one in strand.places()] == [(3, 0), (5, 0), (6, 0)]


def test_a_unique_index_that_somebody_added_refuses_and_swallows_nothing(strand: Strand) -> None:
    """Also on the ways that expect the row to be there, and to be missing."""
    strand.write(*(pack_update(1, wallet(number, 10, f"owner {number}")) for number in (1, 2, 3)))
    strand.replay()
    strand.kind.execute("CREATE UNIQUE INDEX by_hand ON wallets (owner)")
    strand.kind.execute("DELETE FROM wallets WHERE id = 3")
    strand.write(pack_update(1, wallet(3, 13, "owner 1")))  # not there: it is inserted, and refused
    strand.write(pack_insert(1, wallet(2, 12, "owner 1")))  # there: it is updated, and refused
    strand.write(*(pack_update(1, wallet(number, 1, f"owner {number % 50}")) for number in range(100, 200)))
    strand.replay()
    assert strand.places()[:2] == [(4, 0, "update", "replica_refused_row"), (5, 0, "insert", "replica_refused_row")]
    found = strand.kind.execute("SELECT id, owner FROM wallets WHERE id < 100 ORDER BY id")
    assert found == [(1, "owner 1"), (2, "owner 2")]
    assert len(strand.wallets()) == 2 + 48
    assert {one.reason for one in strand.open()} == {"replica_refused_row"}


@pytest.mark.parametrize("deferred", ["DEFERRABLE INITIALLY DEFERRED", "DEFERRABLE", ""])
def test_a_foreign_key_of_the_replica_refuses_nothing(
    new_database: Callable[[], str], tmp_path: Path, deferred: str
) -> None:
    strand = Strand(PostgresKind(new_database()), tmp_path)
    children = table([("id", "integer"), ("wallet", "integer")], ["id"], name="children")
    strand.define(pack_define(1, WALLETS), pack_define(2, children))
    strand.write(pack_insert(1, wallet(1, 10)))
    strand.replay()
    strand.kind.execute(f"ALTER TABLE children ADD FOREIGN KEY (wallet) REFERENCES wallets {deferred}")
    strand.write(pack_insert(2, row("1", "1")), pack_insert(2, row("2", "2")))
    strand.write(pack_insert(2, row("3", "1")))
    strand.replay()
    assert contents(strand.kind, "children") == [["1", "1"], ["2", "2"], ["3", "1"]]
    assert strand.places() == []


def test_a_trigger_that_raises_refuses(
    new_database: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that no session can silence, until the next look for such."""
    monkeypatch.setattr(replica, "LOOK_SECONDS", math.inf)
    strand = Strand(PostgresKind(new_database()), tmp_path)
    strand.define(pack_define(1, WALLETS))
    strand.replay()
    strand.kind.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF NEW.balance < 0 THEN RAISE EXCEPTION 'not here'; END IF; RETURN NEW; END $$"
    )
    strand.kind.execute("CREATE TRIGGER refuse BEFORE INSERT ON wallets FOR EACH ROW EXECUTE FUNCTION refuse()")
    strand.kind.execute("ALTER TABLE wallets ENABLE ALWAYS TRIGGER refuse")
    strand.write(pack_insert(1, wallet(1, -1)), pack_insert(1, wallet(2, 2)))
    strand.replay()
    assert strand.wallets() == {"2": "2"}
    assert strand.places() == [(2, 0, "insert", "replica_refused_row")]


def test_a_trigger_that_ends_the_transaction_halts(tmp_path: Path) -> None:
    strand = Strand(SqliteKind(tmp_path / "replica.db"), tmp_path)
    strand.define(pack_define(1, WALLETS))
    strand.replay()
    strand.kind.execute(
        "CREATE TRIGGER ends BEFORE INSERT ON wallets WHEN NEW.balance < 0 BEGIN SELECT RAISE(ROLLBACK, 'all'); END"
    )
    strand.write(pack_insert(1, wallet(2, 2)), pack_insert(1, wallet(1, -1)))
    with pytest.raises(Halted) as caught:
        strand.replay()
    assert caught.value.reason == "replica_rolled_back"
    strand.again()
    assert strand.wallets() == {}
    assert strand.open() == []


def test_policies_are_what_the_configuration_says() -> None:
    assert not QuarantinePolicy().sets_aside
    assert SETS_ASIDE.limit == 10_000
