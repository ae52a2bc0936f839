"""What was set aside is replayed once its cause is gone, or given up; a dry run changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from replicator.errors import Rejected
from replicator.format.definition import Definition
from replicator.format.row import UNCHANGED
from replicator.format.statement import pack_define, pack_delete, pack_insert, pack_patch, pack_truncate, pack_update
from replicator.pipeline.replay import quarantine_replay
from replicator.pipeline.replay.quarantine_replay import GroupFilter, ReplayOutcome
from replicator.pipeline.replicas.quarantine import QuarantineClosing, QuarantinedStatement
from tests.contracts.replica_kinds import Kind, PostgresKind, SqliteKind, contents, row, table
from tests.pipeline.replay.strand import EVENTS, WALLETS, Strand, refuse_deletes, wallet

ALL_GROUPS = GroupFilter()
ANN = QuarantineClosing("replayed", 77, "ann", "replayed once cured")


@pytest.fixture(params=["sqlite", "postgres"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    if request.param == "sqlite":
        return SqliteKind(tmp_path / "replica.db")
    new_database: Callable[[], str] = request.getfixturevalue("new_database")
    return PostgresKind(new_database())


@pytest.fixture
def strand(kind: Kind, tmp_path: Path) -> Strand:
    """Wallets 1 and 2 are held, each with a refused statement and one behind it; so is an event."""
    made = Strand(kind, tmp_path)
    made.define(pack_define(1, WALLETS), pack_define(2, EVENTS))
    made.write(*(pack_insert(1, wallet(number, 10)) for number in (1, 2, 3)))
    made.replay()
    made.refuse()
    made.refuse("events", "amount < 0")
    made.write(pack_update(1, wallet(1, -1)), pack_update(1, wallet(2, -2)), pack_insert(2, row("e", "-1")))
    made.replay()
    made.write(pack_update(1, wallet(1, 11)), pack_delete(1, row("2")), pack_insert(2, row("f", "1")))
    made.replay()
    return made


def attempt(
    strand: Strand, wanted: GroupFilter = ALL_GROUPS, closing: QuarantineClosing | None = ANN
) -> list[ReplayOutcome]:
    return strand.replayer.run(lambda replica, applied: quarantine_replay.replay(replica, applied, wanted, closing))


def outcomes(tried: list[ReplayOutcome]) -> list[tuple[str, list[tuple[str, ...]], str]]:
    return [(one.table, one.keys, one.outcome) for one in tried]


def test_once_cured_every_key_is_replayed_in_order_and_the_position_stays(strand: Strand) -> None:
    before = strand.replayer.applied
    strand.allow()
    strand.allow("events")
    assert outcomes(attempt(strand)) == [
        ("wallets", [("1",)], "replayed"),
        ("wallets", [("2",)], "replayed"),
        ("events", [], "replayed"),
    ]
    assert strand.wallets() == {"1": "11", "3": "10"}
    assert contents(strand.kind, "events") == [["e", "-1"], ["f", "1"]]
    assert strand.open() == []
    assert strand.replayer.quarantine.summary == (0, {})
    assert strand.replayer.applied == before == strand.replica.applied("main")
    closed = strand.replica.quarantine().closed("main", 100)
    assert {(one.outcome, one.closed_at, one.closed_by) for one in closed} == {("replayed", 77, "ann")}
    strand.write(pack_update(1, wallet(1, 12)))
    strand.replay()
    assert strand.wallets()["1"] == "12"


def test_a_row_without_a_key_goes_to_its_own_place(strand: Strand) -> None:
    strand.allow("events")
    attempt(strand, GroupFilter("events"))
    found = strand.kind.execute("SELECT what, _sequence, _ordinal FROM events ORDER BY _sequence, _ordinal")
    assert found == [("e", 3, 2), ("f", 4, 2)]


def test_a_dry_run_says_the_same_and_changes_nothing(strand: Strand) -> None:
    strand.allow()
    rows, held = (contents(strand.kind), contents(strand.kind, "events")), strand.open()
    tried = attempt(strand, closing=None)
    assert [one.outcome for one in tried] == ["replayed", "replayed", "refused"]
    assert (contents(strand.kind), contents(strand.kind, "events")) == rows
    assert strand.open() == held
    assert strand.replica.quarantine().closed("main", 100) == []
    assert strand.replayer.quarantine.summary == (5, {"wallets": 2, "events": 0})
    strand.write(pack_update(1, wallet(1, 12)), pack_update(1, wallet(3, 13)))
    strand.replay()
    assert strand.wallets() == {"1": "10", "2": "10", "3": "13"}


def test_what_is_still_refused_stays_and_the_others_are_replayed(strand: Strand) -> None:
    strand.allow()
    strand.refuse(condition="balance = 11")
    tried = attempt(strand)
    assert [(one.outcome, one.reason) for one in tried] == [
        ("refused", "replica_refused_row"),
        ("replayed", ""),
        ("refused", "replica_refused_row"),
    ]
    assert "refused" in tried[0].message
    assert strand.wallets() == {"1": "10", "3": "10"}
    assert [one.key for one in strand.open()] == [("1",), None, ("1",)]


def test_a_state_in_between_that_is_refused_is_no_obstacle(strand: Strand) -> None:
    """Balance -1 is still refused, but it ends at 11."""
    assert outcomes(attempt(strand, GroupFilter("wallets", (("1",),)))) == [("wallets", [("1",)], "replayed")]
    assert strand.wallets()["1"] == "11"


def test_only_what_is_asked_for_is_replayed(strand: Strand) -> None:
    strand.allow()
    assert outcomes(attempt(strand, GroupFilter("wallets", (("2",),)))) == [("wallets", [("2",)], "replayed")]
    assert [one.key for one in strand.open()] == [("1",), None, ("1",)]
    for wanted in (GroupFilter("nothing"), GroupFilter("wallets", (("2",),)), GroupFilter("events", (("1",),))):
        with pytest.raises(Rejected) as caught:
            attempt(strand, wanted)
        assert caught.value.reason == "nothing_held"
    assert len(attempt(strand, GroupFilter(keys=(("1",),)))) == 1


def test_keys_that_a_changed_key_ties_together_are_replayed_together(strand: Strand) -> None:
    strand.write(pack_insert(1, wallet(9, 9)), pack_update(1, wallet(2, 12), row("1")))
    strand.replay()
    strand.allow()
    (tried,) = attempt(strand, GroupFilter("wallets", (("2",),)))
    assert set(tried.keys) == {("1",), ("2",)}
    assert tried.places == [(3, 0), (3, 1), (4, 0), (4, 1), (5, 1)]
    assert strand.wallets() == {"2": "12", "3": "10", "9": "9"}


def test_a_table_that_waits_as_a_whole_is_replayed_as_a_whole(kind: Kind, tmp_path: Path) -> None:
    strand = Strand(kind, tmp_path)
    strand.define(pack_define(1, WALLETS))
    strand.write(pack_insert(1, wallet(1, 10)))
    strand.replay()
    if kind.name == "postgres":
        refuse_deletes(kind)
    else:
        kind.execute("CREATE TRIGGER refers BEFORE DELETE ON wallets BEGIN SELECT RAISE(ABORT, 'referred'); END")
    strand.write(pack_update(1, wallet(1, 11)), pack_truncate(1), pack_insert(1, wallet(1, 12)))
    strand.write(pack_insert(1, wallet(2, 13)))
    strand.replay()
    assert strand.wallets() == {"1": "11"}
    (refused,) = attempt(strand)
    assert refused.outcome == "refused"
    kind.execute("DROP TRIGGER refers ON wallets" if kind.name == "postgres" else "DROP TRIGGER refers")
    (tried,) = attempt(strand, GroupFilter("wallets"))
    assert (tried.outcome, tried.places) == ("replayed", [(3, 1), (3, 2), (4, 0)])
    assert strand.wallets() == {"1": "12", "2": "13"}


def test_a_partial_change_is_replayed_once_its_row_is_back(strand: Strand) -> None:
    strand.kind.execute("DELETE FROM wallets WHERE id = 3")
    strand.write(pack_patch(1, row("3", UNCHANGED, "33")))
    strand.replay()
    (refused,) = attempt(strand, GroupFilter("wallets", (("3",),)))
    assert refused.reason == "replica_row_missing"
    strand.kind.execute("INSERT INTO wallets VALUES (3, 'back', 10)")
    attempt(strand, GroupFilter("wallets", (("3",),)))
    assert ["3", "back", "33"] in contents(strand.kind)


CHANGED = table([("id", "bigint"), ("holder", "text"), ("balance", "bigint"), ("note", "text")], ["id"], user="holder")


def changed() -> Definition:
    """The column ``owner`` is renamed, ``note`` came with 'none' for older rows, whole numbers widened."""
    id_, holder, balance, note = CHANGED.columns
    from dataclasses import replace

    return replace(CHANGED, columns=(id_, balance, holder, replace(note, missing="none")))


def test_rows_of_an_older_definition_are_replayed_as_rows_of_the_one_in_force(strand: Strand) -> None:
    strand.define(pack_define(3, changed()))
    strand.write(pack_insert(3, row("7", "70", "bob", "seven")), pack_patch(3, row("1", "21", UNCHANGED, UNCHANGED)))
    strand.replay()
    strand.allow()
    assert outcomes(attempt(strand, GroupFilter("wallets"))) == [
        ("wallets", [("1",)], "replayed"),
        ("wallets", [("2",)], "replayed"),
    ]
    assert sorted(contents(strand.kind)) == [
        ["1", "21", "ann", "none"],
        ["3", "10", "ann", "none"],
        ["7", "70", "bob", "seven"],
    ]


def test_a_changed_key_of_an_older_definition_is_replayed(strand: Strand) -> None:
    strand.write(pack_update(1, wallet(8, 88), row("1")))
    strand.define(pack_define(3, changed()))
    strand.replay()
    attempt(strand, GroupFilter("wallets", (("8",),)))
    assert ["8", "88", "ann", "none"] in contents(strand.kind)


def test_a_dropped_statement_stays_listed_and_what_is_behind_it_stays_held(strand: Strand) -> None:
    def drop(sequence: int, ordinal: int) -> QuarantinedStatement:
        closing = QuarantineClosing("dropped", 99, "bob", "wrong at the source, too")
        return strand.replayer.run(
            lambda replica, applied: quarantine_replay.drop(replica, applied, (sequence, ordinal), closing)
        )

    assert drop(3, 1).key == ("2",)
    (closed,) = strand.replica.quarantine().closed("main", 10)
    assert (closed.outcome, closed.closed_by, closed.closed_why) == ("dropped", "bob", "wrong at the source, too")
    with pytest.raises(Rejected) as caught:
        drop(3, 1)
    assert caught.value.reason == "closed"
    with pytest.raises(Rejected) as caught:
        drop(4, 5)
    assert caught.value.reason == "not_set_aside"
    assert [one.place for one in strand.open()] == [(3, 0), (3, 2), (4, 0), (4, 1)]
    strand.write(pack_insert(1, wallet(2, 22)))
    strand.replay()
    assert strand.wallets()["2"] == "10"
    strand.replayer.run(lambda replica, applied: quarantine_replay.drop(replica, applied, (5, 0), ANN))
    strand.replayer.run(lambda replica, applied: quarantine_replay.drop(replica, applied, (4, 1), ANN))
    strand.write(pack_insert(1, wallet(2, 23)))
    strand.replay()
    assert strand.wallets()["2"] == "23", "with its last statement, the key is free"


def test_the_keys_that_are_held_are_told_to_whoever_compares(strand: Strand) -> None:
    reader = strand.kind.reader()
    reader.snapshot()
    assert reader.quarantine().keys("main") == {"wallets": {("1",), ("2",)}, "events": set()}
    reader.close()
