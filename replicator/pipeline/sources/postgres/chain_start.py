"""Where a server begins in a chain that another one wrote before: what a promoted region notes beside its journal.

An origin is a place in one server's log, and means nothing in another's. Guarantee: a block's origin is used only with
the server that wrote the block: up to ``sequence`` the chain is others', and reading goes on at ``lsn``.

A table's columns have numbers in the ledger by which a rename is told from a drop and an add; in a promoted database
the same columns may have other numbers, because a dropped column leaves a hole in one and not in the other.
``Numbering`` translates, so that a table whose definition did not change keeps it. Pure.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping

from replicator.errors import Halted
from replicator.format.definition import Definition
from replicator.postgres.lsn import lsn_text, parse_lsn

BEGINS_NOTE = "postgres.begins"
NUMBERS_NOTE = "postgres.numbers."


@dataclasses.dataclass(frozen=True, slots=True)
class ChainStart:
    """The first epoch of this server, the last sequence of the chain that its rows were made from, and the place in its
    log behind which everything is new."""

    epoch: int
    sequence: int
    lsn: int


def pack_begins(begins: ChainStart) -> str:
    """As a note."""
    return json.dumps({**dataclasses.asdict(begins), "lsn": lsn_text(begins.lsn)})


def read_begins(notes: Mapping[str, str]) -> ChainStart | None:
    """The note; None if the journal was begun with this very server. Raises Halted if it cannot be read."""
    text = notes.get(BEGINS_NOTE)
    if text is None:
        return None
    try:
        fields = json.loads(text)
        return ChainStart(int(fields["epoch"]), int(fields["sequence"]), parse_lsn(fields["lsn"]))
    except (ValueError, KeyError, TypeError) as error:
        raise Halted(
            "bad_note",
            f"where this server begins cannot be read: {error!r}",
            place=f"journal, note {BEGINS_NOTE}",
            cure="make this region anew: replicator bootstrap CONFIG --replace",
        ) from error


def origin_here(notes: Mapping[str, str], sequence: int, origin: str | None) -> str | None:
    """Where this server's log was read up to, given the ``origin`` of the last block that has one, and its
    ``sequence``."""
    begins = read_begins(notes)
    return origin if begins is None or begins.sequence < sequence else lsn_text(begins.lsn)


@dataclasses.dataclass(frozen=True, slots=True)
class Numbering:
    """A table's column numbers: ``pairs`` are (here, in the ledger). A column that comes later has a number ``shift``
    above its number here, which no column of the table ever had."""

    pairs: tuple[tuple[int, int], ...] = ()
    shift: int = 0

    def here(self, definition: Definition) -> Definition:
        """The ledger's definition with this database's numbers."""
        numbers = {ledger: here for here, ledger in self.pairs}
        return _renumbered(definition, lambda number: numbers.get(number, number - self.shift))

    def in_ledger(self, definition: Definition) -> Definition:
        """A definition of this database with the ledger's numbers."""
        numbers = dict(self.pairs)
        return _renumbered(definition, lambda number: numbers.get(number, number + self.shift))


def numbering(known: Definition, here: Mapping[str, int], highest_ever: int, highest_here: int) -> Numbering:
    """How a table's columns are numbered: ``here`` are this database's numbers by name. ``highest_ever`` is the highest
    number that any definition of the table had, ``highest_here`` the highest that the database has given out."""
    pairs = tuple((here[column.name], column.number) for column in known.columns if column.number)
    shift = max(0, highest_ever - highest_here)
    if shift == 0 and all(number == ledger for number, ledger in pairs):
        return Numbering()
    return Numbering(pairs, shift)


def pack_numbering(numbers: Numbering) -> str:
    """As a note."""
    return json.dumps([numbers.shift, *numbers.pairs])


def read_numberings(notes: Mapping[str, str]) -> dict[int, Numbering]:
    """By table oid."""
    found = {}
    for key, value in notes.items():
        if key.startswith(NUMBERS_NOTE):
            shift, *pairs = json.loads(value)
            found[int(key.removeprefix(NUMBERS_NOTE))] = Numbering(tuple((here, there) for here, there in pairs), shift)
    return found


def highest_number(definitions: Iterable[Definition]) -> int:
    """The highest number among all these definitions' columns."""
    return max((column.number for definition in definitions for column in definition.columns), default=0)


def _renumbered(definition: Definition, number_of: Callable[[int], int]) -> Definition:
    columns = tuple(
        dataclasses.replace(column, number=number_of(column.number)) if column.number else column
        for column in definition.columns
    )
    return dataclasses.replace(definition, columns=columns)
