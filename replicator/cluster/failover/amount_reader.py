"""Reading the amounts out of blocks that no other region has.

Guarantee: each block is read once; an old amount is taken from the last change of its key that was read here, or else
from the history index, with a bound on such look-ups. What was passed over, because others had it first, may have
changed any key: then nothing that was read before is relied on. All calls block: for one worker thread at a time.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

from replicator.cluster.failover.amounts import (
    AmountChange,
    AmountRule,
    AmountSum,
    AtRiskSums,
    amount_in,
    between,
    unknown,
)
from replicator.format.block import Block
from replicator.format.definition import Definition
from replicator.format.keys import key_reader
from replicator.format.row import UNCHANGED, pack_row, unpack_row
from replicator.format.statement import DEFINE, DELETE, INSERT, PATCH, SEQUENCE, TRUNCATE, UPDATE
from replicator.format.values import json_of, text_of
from replicator.ledger.index import statements_of
from replicator.storage.journal.store import Journal

STEP_BYTES = 1 << 20
STEPS_A_LOOK = 8
LOOKUPS_A_LOOK = 2_000  # in the history index; about a millisecond each
REMEMBERED_KEYS = 50_000


class PriorRows(Protocol):
    """Where the past of a key is found: ``RowsBefore``, over the history index."""

    def indexed(self) -> int:
        """The sequence up to which it is found."""

    def before(self, table: str, key: Sequence[str], place: tuple[int, int]) -> Mapping[str, Any] | None:
        """The row before a place, as JSON values by column, None if there was none. Raises ValueError if that is not
        known."""


class AmountTotals(NamedTuple):
    """The amounts behind what others have, up to the sequence ``until``, and changes of unknown amount."""

    until: int
    amounts: Mapping[tuple[str, str], Decimal]
    unknown: int


class AmountReader:
    """Reads one strand's blocks. ``totals`` is replaced as a whole: other threads read it."""

    def __init__(self, journal: Journal, strand: str, rules: Sequence[AmountRule], rows: PriorRows | None) -> None:
        self.totals = AmountTotals(0, {}, 0)
        self._journal = journal
        self._strand = strand
        self._rules = {rule.table: rule for rule in rules}
        self._rows = rows
        self._tables: dict[int, _Amounts | None] = {}
        self._sums = AtRiskSums()
        self._last: OrderedDict[tuple[str, bytes], AmountSum | None] = OrderedDict()
        self._until = 0
        self._lookups = 0

    def look(self, received: int, head: int) -> None:
        """Read on, from what others have received up to the journal's end, or as far as the past is found."""
        self._sums.received(received)
        if received > self._until:
            self._until = received
            self._last.clear()  # what was passed over may have changed any key
        # Not beyond the index: it would give the row before a change that it does not know yet.
        until = head if self._rows is None else min(head, self._rows.indexed())
        self._lookups = 0
        for _ in range(STEPS_A_LOOK):
            blocks = self._journal.blocks(self._strand, self._until, STEP_BYTES)
            for block in blocks:
                if block.header.sequence <= until:
                    self._sums.add(block.header.sequence, self._changes(block))
                    self._until = block.header.sequence
            if not blocks or blocks[-1].header.sequence >= until:
                break
        self.totals = AmountTotals(self._until, dict(self._sums.totals), self._sums.unknown)

    def _changes(self, block: Block) -> Iterator[AmountChange]:
        for ordinal, statement in enumerate(statements_of(self._journal, block)):
            op = statement[0]
            if op == DEFINE or op >= SEQUENCE:
                continue
            amounts = self._amounts(statement[1])
            if amounts is None:
                continue
            try:
                yield self._change(amounts, statement, (block.header.sequence, ordinal))
            except (ValueError, struct.error):
                self._last.clear()  # whatever it did to its key
                yield unknown(amounts.rule.table)

    def _change(self, amounts: _Amounts, statement: list[Any], place: tuple[int, int]) -> AmountChange:
        """Raises ValueError for what cannot be read."""
        op, table = statement[0], amounts.rule.table
        if op == TRUNCATE:
            raise ValueError("the rows that go are not in the block")
        key = amounts.key(statement[2] if op == DELETE else amounts.key_of(statement[2]))
        key_before = amounts.key(statement[3]) if op in (UPDATE, PATCH) and statement[3] is not None else key
        before, is_known = None, True
        if op != INSERT:
            try:
                before = self._before(amounts, key_before, place)
            except ValueError:
                is_known = False
        after = None if op == DELETE else amounts.of_image(statement[2], before)
        if amounts.has_key:
            self._remember((table, key_before), None)  # first: mostly both keys are the same
            self._remember((table, key), after)
        return between(table, before, after) if is_known else unknown(table, after)

    def _before(self, amounts: _Amounts, key: bytes, place: tuple[int, int]) -> AmountSum | None:
        """The amount of the key's row before this place. Raises ValueError if it is not known."""
        table = amounts.rule.table
        if (table, key) in self._last:
            return self._last[table, key]
        if self._rows is None or self._lookups >= LOOKUPS_A_LOOK:
            raise ValueError("not looked up")
        self._lookups += 1
        texts = [cell.decode() if isinstance(cell, bytes) else "" for cell in unpack_row(key)]
        row = self._rows.before(table, texts, place)
        return None if row is None else amounts.of_row(row)

    def _remember(self, key: tuple[str, bytes], amount: AmountSum | None) -> None:
        self._last[key] = amount
        self._last.move_to_end(key)
        if len(self._last) > REMEMBERED_KEYS:
            self._last.popitem(last=False)

    def _amounts(self, relation: int) -> _Amounts | None:
        """How a relation's rows are read for their amount; None if they have none."""
        if relation not in self._tables:
            definition = self._journal.definitions(self._strand).get(relation)
            rule = None if definition is None else self._rules.get(definition.label)
            self._tables[relation] = None if rule is None or definition is None else _Amounts(definition, rule)
        return self._tables[relation]


class _Amounts:
    """Reads the amounts in one definition's rows."""

    def __init__(self, definition: Definition, rule: AmountRule) -> None:
        self.rule = rule
        self.has_key = bool(definition.key)
        self.key_of = key_reader(definition)
        self._documents = definition.documents
        wanted = {"document"} if definition.documents else {rule.column, rule.currency_column}
        columns = [(place, column) for place, column in enumerate(definition.columns) if column.name in wanted]
        self._cells = [(place, column.name, text_of(column), json_of(column)) for place, column in columns]
        keys = [definition.columns[place] for place in definition.key_places]
        self._key_texts = [text_of(column) for column in keys]
        self._key_is_text = all(column.format == "text" for column in keys)

    def key(self, image: bytes) -> bytes:
        """A key image in canonical text."""
        if self._key_is_text:
            return image
        cells = zip(unpack_row(image), self._key_texts, strict=True)
        return pack_row([read(cell).encode() if isinstance(cell, bytes) else None for cell, read in cells])

    def of_image(self, image: bytes, before: AmountSum | None) -> AmountSum | None:
        """The amount in a row image. What is unchanged is as ``before``: all of it, or it is not known (ValueError)."""
        cells = unpack_row(image)
        row: dict[str, Any] = {}
        unchanged = 0
        for place, name, text, value in self._cells:
            cell = cells[place]
            if isinstance(cell, bytes):
                row[name] = value(text(cell))
            unchanged += cell is UNCHANGED
        if unchanged and unchanged == len(self._cells) and before is not None:
            return before
        if unchanged:
            raise ValueError("a part of the amount is unchanged")
        return self.of_row(row)

    def of_row(self, row: Mapping[str, Any]) -> AmountSum | None:
        """The amount in a row of JSON values by column. Raises ValueError for what is none."""
        fields = row.get("document") if self._documents else row
        if not isinstance(fields, Mapping):
            raise ValueError("the document is no object")
        return amount_in(fields, self.rule)
