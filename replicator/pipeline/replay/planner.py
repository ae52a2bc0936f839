"""Planning: many blocks folded into the few steps that a replica does in one transaction.

Guarantee: doing the steps of all ``take`` calls in order leaves every table as doing each statement of each block
would, however the blocks are cut into takes. Nothing is skipped: a statement that cannot be planned raises.

The idea: each table has one open *fold*, the net effect of what came since the last step on it. Folds of different
tables commute. A new definition of the table, or a row under another of its relations, closes the fold; a truncate
makes it void. Pure: no I/O, no clock. It does not know what the replica holds, so "there before" means: as far as the
statements tell.

After an error the planner is spent: make a new one from the replica's stored position.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from replicator.errors import Corrupt, Halted
from replicator.format.definition import Definition, unpack_definition
from replicator.format.statement import DEFINE, DELETE, INSERT, MESSAGE, PATCH, SEQUENCE, TRUNCATE, UPDATE
from replicator.pipeline.replay.coalesce import TableCoalescer
from replicator.pipeline.replicas.base import Append, Define, SetSequence, Step, Truncate


class _KeylessFold:
    """The open fold of a table without a key: rows are only added, each told by its (sequence, ordinal)."""

    __slots__ = ("definition", "places", "rows", "steps")

    def __init__(self, definition: Definition, steps: list[Step]) -> None:
        self.definition = definition
        self.steps = steps
        self.clear()

    def clear(self) -> None:
        self.rows: list[bytes] = []
        self.places: list[tuple[int, int]] = []

    def close(self) -> None:
        if self.rows:
            self.steps.append(Append(self.definition, self.rows, self.places))
            self.clear()


class Planner:
    """Folds statements into steps. ``definitions`` are those in force where the planner begins."""

    def __init__(self, definitions: dict[int, Definition]) -> None:
        self._definitions = dict(definitions)
        self._steps: list[Step] = []
        self._keyed: dict[int, TableCoalescer] = {}
        self._keyless: dict[int, _KeylessFold] = {}
        self._open: dict[tuple[str, str], int] = {}  # the relation under which a table's fold is open
        self._sequences: dict[tuple[str, str], SetSequence] = {}
        self._sequence = 0
        self._ordinal = 0

    def add(self, block_sequence: int, statements: Iterable[list[Any]], first: int | None = None) -> None:
        """Fold statements as ``unpack_statements`` gives them. A large block is added part by part: while
        ``block_sequence`` stays the same, ordinals go on, or from ``first`` if it is given. Raises Corrupt, or Halted
        (``no_key``)."""
        if block_sequence != self._sequence:
            self._sequence = block_sequence
            self._ordinal = 0
        if first is not None:
            self._ordinal = first
        try:
            self._add(statements)
        except (ValueError, struct.error) as error:
            raise Corrupt("bad_row", f"a row image cannot be read: {error}", place=self._place()) from error

    def take(self) -> list[Step]:
        """What was folded since the last take, in an order that is valid."""
        for relation in self._open.values():  # they stay open: the next statement on the table finds its fold at hand
            self._fold(relation).close()
        steps = [*self._steps, *self._sequences.values()]
        self._steps.clear()
        self._sequences.clear()
        return steps

    def _add(self, statements: Iterable[list[Any]]) -> None:
        """The hot path: one pass, in which a full row of a known table costs one call, that for its key."""
        keyed, keyless = self._keyed.get, self._keyless.get
        sequence = self._sequence
        ordinal = self._ordinal - 1
        try:
            for ordinal, statement in enumerate(statements, self._ordinal):
                op = statement[0]
                fold = keyed(statement[1]) if op <= DELETE else None
                if fold is None:
                    rows = keyless(statement[1])
                    if op == INSERT and rows is not None:
                        rows.rows.append(statement[2])
                        rows.places.append((sequence, ordinal))
                    else:
                        self._ordinal = ordinal
                        self._add_unusual(statement)
                # These repeat the common cases of TableCoalescer's methods, to spare a call for each row.
                elif op == INSERT:
                    key = fold.key_of(row := statement[2])
                    if key in fold.updates or key in fold.others:
                        fold.insert(key, row)
                    else:
                        fold.inserts[key] = row
                elif op == UPDATE:
                    key = fold.key_of(row := statement[2])
                    before = statement[3]
                    if before is not None and before != key:  # a complete row under a new key: two ordinary changes
                        fold.delete(before)
                        fold.insert(key, row)
                    elif key in fold.inserts:
                        fold.inserts[key] = row
                    elif key in fold.others:
                        fold.update(key, row)
                    else:
                        fold.updates[key] = row
                elif op == DELETE:
                    fold.delete(statement[2])
                else:
                    fold.patch(statement[2], statement[3])
        except BaseException:
            self._ordinal = ordinal  # where the error is
            raise
        self._ordinal = ordinal + 1

    def _add_unusual(self, statement: list[Any]) -> None:
        """A statement that is no row, or a row of a table that has no open fold."""
        op = statement[0]
        if op == DEFINE:
            self._define(statement[1], unpack_definition(statement[2]))
        elif op == SEQUENCE:
            _, namespace, name, value, increment = statement
            self._sequences[namespace, name] = SetSequence(namespace, name, value, increment)
        elif op == TRUNCATE:
            self._truncate(self._definition(statement[1]))
        elif op != MESSAGE:
            definition = self._definition(statement[1])
            if op != INSERT and not definition.key:
                raise self._no_key(op, definition)
            self._open_fold(statement[1], definition)
            self._add([statement])  # it has a fold now

    def _define(self, relation: int, definition: Definition) -> None:
        # A relation that is renamed has its fold under the old name. Rows of before are read by the old columns: they
        # are done before the table follows.
        before = self._definitions.get(relation)
        for name in {definition.name, before.name if before else definition.name}:
            self._close(name)
        self._definitions[relation] = definition
        self._steps.append(Define(relation, definition))

    def _truncate(self, definition: Definition) -> None:
        relation = self._open.get(definition.name)
        if relation is not None:
            self._fold(relation).clear()  # rows that go at once need not be written first
        self._steps.append(Truncate(definition))

    def _open_fold(self, relation: int, definition: Definition) -> None:
        self._close(definition.name)
        self._open[definition.name] = relation
        if definition.key:
            self._keyed[relation] = TableCoalescer(definition, self._steps)
        else:
            self._keyless[relation] = _KeylessFold(definition, self._steps)

    def _close(self, name: tuple[str, str]) -> None:
        """Close the table's fold, if one is open."""
        relation = self._open.pop(name, None)
        if relation is not None:
            self._fold(relation).close()
            self._keyed.pop(relation, None)
            self._keyless.pop(relation, None)

    def _fold(self, relation: int) -> TableCoalescer | _KeylessFold:
        return self._keyed[relation] if relation in self._keyed else self._keyless[relation]

    def _definition(self, relation: int) -> Definition:
        definition = self._definitions.get(relation)
        if definition is None:
            raise Corrupt("unknown_relation", f"relation {relation} was never defined", place=self._place())
        return definition

    def _no_key(self, op: int, definition: Definition) -> Halted:
        what = {UPDATE: "update", PATCH: "update", DELETE: "delete"}[op]
        return Halted(
            "no_key",
            f"a row of {definition.label} was to {what}, but the table has no key by which to find it",
            place=f"{self._place()}, table {definition.label}",
            cure="give the table a primary key, or a REPLICA IDENTITY USING INDEX of a unique index",
        )

    def _place(self) -> str:
        return f"sequence {self._sequence}, ordinal {self._ordinal}"
