"""The planner against a model that does one statement after the other."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.errors import Corrupt, Halted
from replicator.format.definition import Column, Definition
from replicator.format.row import UNCHANGED, Cell, key_image, pack_row, unpack_row
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
from replicator.pipeline.replay.planner import Planner
from replicator.pipeline.replicas.base import Append, Define, SetSequence, Step, TableChange, Truncate


def table(name: str, *columns: str, key: Sequence[str] = ()) -> Definition:
    return Definition("public", name, tuple(Column(column, "text") for column in columns), tuple(key))


WALLETS = table("wallets", "id", "balance", "note", key=["id"])
PAIRS = table("pairs", "value", "b", "a", "note", key=["a", "b"])
TWO_LEADING = table("two", "a", "b", "note", key=["a", "b"])
EVENTS = table("events", "what")


def row(*cells: str | Cell | None) -> bytes:
    return pack_row([cell.encode() if isinstance(cell, str) else cell for cell in cells])


def plan(definition: Definition, *statements: bytes) -> list[Step]:
    planner = Planner({1: definition})
    planner.add(1, unpack_statements(b"".join(statements)))
    return planner.take()


def only_change(steps: list[Step]) -> dict[str, Any]:
    (step,) = steps
    assert isinstance(step, TableChange)
    lists = step._asdict()
    del lists["definition"]
    return {name: content for name, content in lists.items() if content}


class Tables:
    """A replica of dicts, which does steps in their documented order and refuses lists that overlap."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[bytes, list[Cell]]] = {}

    def do(self, steps: list[Step]) -> None:
        for step in steps:
            if isinstance(step, TableChange):
                self._change(step, self.rows.setdefault(step.definition.table, {}))
            elif isinstance(step, Truncate):
                self.rows[step.definition.table] = {}

    def _change(self, step: TableChange, rows: dict[bytes, list[Cell]]) -> None:
        places = step.definition.key_places
        others = [before for before, _ in step.moves]
        for image in (*(image for _, image in step.moves), *step.patches, *step.inserts, *step.updates):
            others.append(key_image(image, places))
        assert len(others) == len(set(others)), "a key in two lists"
        for key in step.deletes:
            del rows[key]
        for before, image in step.moves:
            put(rows, key_image(image, places), image, rows.pop(before))
        for image in step.patches:
            key = key_image(image, places)
            put(rows, key, image, rows.pop(key))
        for image in step.inserts:
            key = key_image(image, places)
            assert key not in rows, "an insert of what is there"
            put(rows, key, image, [])
        for image in step.updates:
            key = key_image(image, places)
            put(rows, key, image, rows.pop(key))  # KeyError: an update of what is not there


def put(rows: dict[bytes, list[Cell]], key: bytes, image: bytes, before: list[Cell]) -> None:
    assert key not in rows, "two rows of one key"
    cells = unpack_row(image)
    if before:
        cells = [old if new is UNCHANGED else new for old, new in zip(before, cells, strict=True)]
    assert UNCHANGED not in cells
    rows[key] = cells


class Ledger:
    """A source: random statements that are valid one after another, and what each makes of the tables."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.tables: dict[str, tuple[int, Definition, dict[bytes, list[Cell]]]] = {
            definition.table: (relation, definition, {})
            for relation, definition in enumerate((WALLETS, PAIRS, TWO_LEADING), 1)
        }
        self.relations = len(self.tables)

    def definitions(self) -> dict[int, Definition]:
        return {relation: definition for relation, definition, _ in self.tables.values()}

    def statement(self) -> bytes:
        name = self.random.choice(list(self.tables))
        relation, definition, rows = self.tables[name]
        draw = self.random.random()
        if draw < 0.02:
            rows.clear()
            return pack_truncate(relation)
        if draw < 0.04:
            self.relations += 1
            self.tables[name] = (self.relations, definition, rows)
            return pack_define(self.relations, definition)
        if draw < 0.06:
            return pack_message("note", b"changes nothing")
        if not rows or draw < 0.3:
            return self._insert(relation, definition, rows)
        key = self.random.choice(list(rows))
        if draw < 0.5:
            del rows[key]
            return pack_delete(relation, key)
        return self._update(relation, definition, rows, key)

    def _insert(self, relation: int, definition: Definition, rows: dict[bytes, list[Cell]]) -> bytes:
        cells = self._cells(definition)
        image = pack_row(cells)
        key = key_image(image, definition.key_places)
        if key in rows:
            return self._update(relation, definition, rows, key)
        rows[key] = cells
        return pack_insert(relation, image)

    def _update(self, relation: int, definition: Definition, rows: dict[bytes, list[Cell]], key: bytes) -> bytes:
        before = rows.pop(key)
        cells = self._cells(definition)
        after = key_image(pack_row(cells), definition.key_places)
        if after in rows or self.random.random() < 0.5:
            for place in definition.key_places:
                cells[place] = before[place]
            after = key
        sent: list[Cell] = list(cells)
        for place in range(len(cells)):
            whole_key_is_sent = place in definition.key_places and after != key
            if not whole_key_is_sent and self.random.random() < 0.3:
                cells[place] = before[place]
                sent[place] = UNCHANGED
        rows[after] = cells
        keeps_key_cells = all(sent[place] is not UNCHANGED for place in definition.key_places)
        key_before = None if after == key and keeps_key_cells else key
        if UNCHANGED in sent:
            return pack_patch(relation, pack_row(sent), key_before)
        return pack_update(relation, pack_row(sent), key_before)

    def _cells(self, definition: Definition) -> list[Cell]:
        """Few keys, so that they meet; other values are new each time, sometimes null."""
        few = ["a", "b", "c"]
        return [
            self.random.choice(few).encode()
            if column.name in definition.key
            else self.random.choice([None, str(self.random.random()).encode()])
            for column in definition.columns
        ]


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(1, 60), min_size=1, max_size=8))
def test_any_cut_of_any_history_ends_as_one_statement_after_another(seed: int, batches: list[int]) -> None:
    ledger, replica = Ledger(seed), Tables()
    planner = Planner(ledger.definitions())
    for sequence, size in enumerate(batches, 1):
        planner.add(sequence, unpack_statements(b"".join(ledger.statement() for _ in range(size))))
        if ledger.random.random() < 0.7:
            replica.do(planner.take())
    replica.do(planner.take())
    for name, (_, _, rows) in ledger.tables.items():
        assert replica.rows.get(name, {}) == rows


def test_insert_then_update_is_an_insert_of_the_last_row() -> None:
    steps = plan(WALLETS, pack_insert(1, row("a", "1", "")), pack_update(1, row("a", "2", "")))
    assert only_change(steps) == {"inserts": [row("a", "2", "")]}


def test_insert_then_delete_is_nothing() -> None:
    assert plan(WALLETS, pack_insert(1, row("a", "1", "")), pack_delete(1, row("a"))) == []


def test_delete_then_insert_is_an_update() -> None:
    steps = plan(WALLETS, pack_delete(1, row("a")), pack_insert(1, row("a", "1", "")))
    assert only_change(steps) == {"updates": [row("a", "1", "")]}


def test_a_chain_of_key_changes_leaves_its_two_ends() -> None:
    steps = plan(WALLETS, pack_update(1, row("b", "1", ""), row("a")), pack_update(1, row("c", "1", ""), row("b")))
    assert only_change(steps) == {"deletes": [row("a")], "inserts": [row("c", "1", "")]}


def test_a_swap_through_a_temporary_key_is_two_updates() -> None:
    steps = plan(
        WALLETS,
        pack_update(1, row("t", "1", ""), row("a")),
        pack_update(1, row("a", "2", ""), row("b")),
        pack_update(1, row("b", "1", ""), row("t")),
    )
    assert only_change(steps) == {"updates": [row("a", "2", ""), row("b", "1", "")]}


def test_a_key_change_with_unchanged_columns_is_a_move() -> None:
    moved = row("b", "1", UNCHANGED)
    assert only_change(plan(WALLETS, pack_patch(1, moved, row("a")))) == {"moves": [(row("a"), moved)]}


def test_a_key_change_with_unchanged_columns_is_filled_from_the_fold() -> None:
    steps = plan(WALLETS, pack_update(1, row("a", "1", "long")), pack_patch(1, row("b", "2", UNCHANGED), row("a")))
    assert only_change(steps) == {"deletes": [row("a")], "inserts": [row("b", "2", "long")]}


def test_moves_that_meet_are_kept_apart() -> None:
    first, second = row("b", "1", UNCHANGED), row("c", "2", UNCHANGED)
    steps = plan(WALLETS, pack_patch(1, first, row("a")), pack_patch(1, second, row("b")))
    assert [step.moves for step in steps if isinstance(step, TableChange)] == [
        [(row("a"), first)],
        [(row("b"), second)],
    ]


def test_a_move_onto_a_row_that_is_there_reaches_the_replica_as_such() -> None:
    moved = row("b", "1", UNCHANGED)
    steps = plan(WALLETS, pack_update(1, row("b", "0", "")), pack_patch(1, moved, row("a")))
    assert [(step.updates, step.moves) for step in steps if isinstance(step, TableChange)] == [
        ([row("b", "0", "")], []),
        ([], [(row("a"), moved)]),
    ]


def test_patches_on_one_key_merge() -> None:
    steps = plan(WALLETS, pack_patch(1, row("a", "1", UNCHANGED)), pack_patch(1, row("a", "2", UNCHANGED)))
    assert only_change(steps) == {"patches": [row("a", "2", UNCHANGED)]}
    steps = plan(WALLETS, pack_patch(1, row("a", "1", UNCHANGED)), pack_patch(1, row("a", UNCHANGED, "x")))
    assert only_change(steps) == {"updates": [row("a", "1", "x")]}


def test_an_update_of_what_was_deleted_reaches_the_replica_as_such() -> None:
    steps = plan(WALLETS, pack_delete(1, row("a")), pack_update(1, row("a", "1", "")))
    assert [(step.deletes, step.updates) for step in steps if isinstance(step, TableChange)] == [
        ([row("a")], []),
        ([], [row("a", "1", "")]),
    ]


def test_a_truncate_makes_the_fold_void() -> None:
    steps = plan(WALLETS, pack_insert(1, row("a", "1", "")), pack_truncate(1), pack_insert(1, row("b", "1", "")))
    assert [type(step) for step in steps] == [Truncate, TableChange]
    assert only_change(steps[1:]) == {"inserts": [row("b", "1", "")]}


def test_a_definition_closes_the_fold_of_its_table() -> None:
    wider = table("wallets", "id", "balance", "note", "more", key=["id"])
    steps = plan(
        WALLETS,
        pack_insert(1, row("a", "1", "")),
        pack_define(2, wider),
        pack_insert(2, row("b", "1", "", "x")),
        pack_insert(1, row("c", "1", "")),
    )
    assert [type(step) for step in steps] == [TableChange, Define, TableChange, TableChange]
    assert [step.definition for step in steps if isinstance(step, TableChange)] == [WALLETS, wider, WALLETS]


def test_a_relation_that_is_given_to_another_table_closes_the_fold_of_the_first() -> None:
    planner = Planner({1: WALLETS})
    planner.add(1, unpack_statements(pack_insert(1, row("a", "1", "")) + pack_define(1, EVENTS)))
    planner.add(2, unpack_statements(pack_insert(1, row("happened"))))
    steps = planner.take()
    assert [type(step) for step in steps] == [TableChange, Define, Append]


def test_rows_without_a_key_keep_their_places_over_parts_and_blocks() -> None:
    planner = Planner({1: EVENTS, 2: WALLETS})
    events = [pack_insert(1, row(what)) for what in "abcd"]
    planner.add(7, unpack_statements(pack_message("p", b"") + events[0] + pack_delete(2, row("x"))))
    first = planner.take()
    planner.add(7, unpack_statements(events[1] + events[2]))
    planner.add(8, unpack_statements(events[3]))
    assert [step.places for step in first if isinstance(step, Append)] == [[(7, 1)]]
    assert planner.take() == [Append(EVENTS, [row("b"), row("c"), row("d")], [(7, 3), (7, 4), (8, 0)])]
    assert planner.take() == []


@pytest.mark.parametrize(
    "statement", [pack_update(1, row("x")), pack_delete(1, row("x")), pack_patch(1, row(UNCHANGED))]
)
def test_a_table_without_a_key_takes_inserts_only(statement: bytes) -> None:
    with pytest.raises(Halted) as caught:
        plan(EVENTS, pack_insert(1, row("y")), statement)
    assert (caught.value.reason, caught.value.place) == ("no_key", "sequence 1, ordinal 1, table events")


@pytest.mark.parametrize("statement", [pack_insert(9, row("x")), pack_delete(9, row("x")), pack_truncate(9)])
def test_an_unknown_relation_is_refused(statement: bytes) -> None:
    with pytest.raises(Corrupt) as caught:
        plan(WALLETS, statement)
    assert (caught.value.reason, caught.value.place) == ("unknown_relation", "sequence 1, ordinal 0")


@pytest.mark.parametrize("definition", [WALLETS, PAIRS, TWO_LEADING])
@pytest.mark.parametrize("damage", ["null key", "unchanged key", "cut", "short", "other width"])
def test_a_row_whose_key_cannot_be_read_is_refused_with_its_place(definition: Definition, damage: str) -> None:
    width = len(definition.columns)
    good = row(*["a"] * width)
    bad = {
        "null key": row(*[None] * width),
        "unchanged key": row(*[UNCHANGED] * width),
        "cut": good[: 2 + 5 * (max(definition.key_places) + 1) - 1],
        "short": good[:3],
        "other width": row(*["a"] * (width + 1)),
    }[damage]
    for statement in (pack_insert(1, bad), pack_update(1, bad), pack_patch(1, bad)):
        with pytest.raises(Corrupt) as caught:
            plan(definition, pack_insert(1, good), statement)
        assert (caught.value.reason, caught.value.place) == ("bad_row", "sequence 1, ordinal 1")


def test_the_last_value_of_a_sequence_wins() -> None:
    steps = plan(WALLETS, pack_sequence("public", "s", 1, 1), pack_sequence("public", "s", 33, 1))
    assert steps == [SetSequence("public", "s", 33, 1)]
