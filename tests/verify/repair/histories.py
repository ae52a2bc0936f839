"""A ledger's life in which everything happens that a row can meet."""

from __future__ import annotations

import dataclasses
import struct

from replicator.format.definition import Column
from replicator.format.row import UNCHANGED, pack_row
from replicator.format.statement import pack_define, pack_delete, pack_insert, pack_patch, pack_truncate, pack_update
from tests.contracts.replica_kinds import row
from tests.verify.repair.world import NOTES, World, note

# ``body`` was dropped, ``n`` renamed, ``more`` added with a value for older rows.
EVOLVED = dataclasses.replace(
    NOTES,
    columns=(
        NOTES.columns[0],
        NOTES.columns[1],
        dataclasses.replace(NOTES.columns[3], name="amount"),
        Column("more", "text", number=5, missing="older"),
    ),
)


def pair(a: int, b: str, v: float) -> bytes:
    return pack_row([struct.pack(">d", v), b.encode(), struct.pack(">i", a)])


def pair_key(a: int, b: str) -> bytes:
    return pack_row([struct.pack(">i", a), b.encode()])


def line(text: str, n: int) -> bytes:
    return pack_row([text.encode(), struct.pack(">i", n)])


def before(world: World) -> None:
    """What lies before the span: notes 1 to 40, pairs, and lines of the log."""
    world.write(*(pack_insert(1, note(number, body="long " * 50)) for number in range(1, 41)))
    world.write(*(pack_insert(2, pair(number, "x", number / 3)) for number in range(1, 21)))
    world.write(*(pack_insert(3, line("early", number)) for number in range(10)))
    world.write(pack_patch(1, row("7", UNCHANGED, UNCHANGED, "7.70")))


def span(world: World) -> int:
    """Inserts, updates, patches, moves, deletes, a truncate, a large block; the first sequence of it."""
    first = world.write(pack_update(1, note(1, "bob")), pack_insert(1, note(50)))
    world.write(pack_patch(1, row("2", UNCHANGED, UNCHANGED, "2.20")), pack_patch(1, row("7", "eve", UNCHANGED, "8")))
    world.write(pack_update(1, note(60, "moved"), row("3")))
    world.write(pack_patch(1, row("61", "moved", UNCHANGED, "4.40"), row("4")))  # a long value comes along
    world.write(pack_patch(1, row("61", UNCHANGED, UNCHANGED, "4.50")))
    world.write(pack_delete(1, row("5")), pack_delete(1, row("6")), pack_insert(1, note(6, "again")))
    world.write(pack_truncate(2), pack_insert(2, pair(3, "x", 0.1)), pack_insert(2, pair(3, "y", float("inf"))))
    world.write(pack_update(2, pair(4, "y", -0.0), pair_key(3, "y")))
    world.write(pack_insert(3, line("late", 1)), pack_insert(3, line("late", 1)))
    world.write(*(pack_insert(1, note(number)) for number in range(100, 700)), parts=4)
    world.write(*(pack_insert(3, line("many", number)) for number in range(700)), parts=3)
    return first


def evolve(world: World) -> int:
    """The notes' columns change, and rows of both forms are written after each other."""
    sequence = world.write(pack_define(4, EVOLVED))
    world.write(pack_insert(4, row("800", "new", "1.50", None)), pack_update(4, row("8", "new", "8.80", "more")))
    world.write(pack_patch(4, row("9", "new", UNCHANGED, UNCHANGED)))
    return sequence
