"""The net effect of many statements on one keyed table.

Guarantee: doing the TableChanges that a fold hands out, one after another and each in its documented order, leaves the
table as doing the statements one by one would.

The idea: every key is in at most one place, and each statement moves it to another:

    inserts   not there when the fold began, there now: the last row
    updates   there when the fold began: the last row, complete
    patches   there when the fold began: the last row, some columns unchanged
    deletes   there when the fold began, gone now
    moved     source or target of a change of key whose row has unchanged columns (a target may be in deletes too)

``others`` holds the keys of the last three: who finds a key in ``inserts``, or in none of them, needs no call. What
does not fold into this (a second statement on a moved key; an update of a key that is gone) is a *barrier*: the change
so far is closed and the statement begins the next one. So a contradiction in the source's statements reaches the
replica as it is, which is where it can be seen. Rows stay opaque; only keys, and rows with unchanged columns, are read.
"""

from __future__ import annotations

from replicator.format.definition import Definition
from replicator.format.keys import key_reader
from replicator.format.row import UNCHANGED, Cell, pack_row, unpack_row
from replicator.pipeline.replicas.base import Step, TableChange


class TableCoalescer:
    """One keyed table's open fold. ``steps`` is where closed changes go. Raises ValueError at a bad row image."""

    __slots__ = (
        "definition",
        "deletes",
        "inserts",
        "key_of",
        "moved",
        "moves",
        "others",
        "patches",
        "steps",
        "updates",
    )

    def __init__(self, definition: Definition, steps: list[Step]) -> None:
        self.definition = definition
        self.steps = steps
        self.key_of = key_reader(definition)
        self.clear()

    def clear(self) -> None:
        """Forget what was folded."""
        self.inserts: dict[bytes, bytes] = {}
        self.updates: dict[bytes, bytes] = {}
        self.patches: dict[bytes, bytes] = {}
        self.deletes: dict[bytes, None] = {}
        self.moves: list[tuple[bytes, bytes]] = []
        self.moved: set[bytes] = set()
        self.others: set[bytes] = set()

    def close(self) -> None:
        """Hand out the change so far, if there is any, and begin anew."""
        if self.inserts or self.updates or self.others:
            self.steps.append(
                TableChange(
                    self.definition,
                    list(self.deletes),
                    self.moves,
                    list(self.patches.values()),
                    list(self.inserts.values()),
                    list(self.updates.values()),
                )
            )
            self.clear()

    def insert(self, key: bytes, row: bytes) -> None:
        """A row that was not there just before."""
        if key in self.moved:
            self.close()
        if key in self.updates or key in self.others:  # it was there when the fold began: to the replica an update
            self._forget(key)
            self.updates[key] = row
        else:
            self.inserts[key] = row

    def update(self, key: bytes, row: bytes) -> None:
        """A row's new complete image under the same key."""
        if key in self.inserts:
            self.inserts[key] = row
            return
        if key in self.deletes or key in self.moved:
            self.close()
        self._forget(key)
        self.updates[key] = row

    def delete(self, key: bytes) -> None:
        """The row goes."""
        if self.inserts.pop(key, None) is not None:
            return  # it came and went within the fold: the replica never hears of it
        if key in self.moved:
            self.close()
        self._forget(key)
        self.deletes[key] = None
        self.others.add(key)

    def patch(self, row: bytes, key_before: bytes | None) -> None:
        """A row's new image in which some columns, even those of the key, are unchanged."""
        cells, key = self._patched(row, key_before)
        if key_before is None or key_before == key:
            self._patch(key, cells)
        else:
            self._patch_with_key(key_before, key, cells)

    def _patch(self, key: bytes, cells: list[Cell]) -> None:
        if key in self.deletes or key in self.moved:
            self.close()
        # Completed from the fold where it can be: a whole row is one plain statement, a patch one made to measure.
        row, complete = self._filled(key, cells)
        if complete:
            self.update(key, row)
        else:
            self.patches[key] = row
            self.others.add(key)

    def _patch_with_key(self, before: bytes, key: bytes, cells: list[Cell]) -> None:
        if before in self.deletes or before in self.moved or key in self.moved:
            self.close()
        row, complete = self._filled(before, cells)
        if complete:
            self.delete(before)
            self.insert(key, row)
            return
        if key in self.inserts or key in self.updates or key in self.patches:
            self.close()  # two rows under one key: the database is to see that, not a fold that hides it
        self._forget(before)
        self.moves.append((before, row))
        self.moved.update((before, key))
        self.others.update((before, key))

    def _forget(self, key: bytes) -> None:
        self.updates.pop(key, None)
        self.patches.pop(key, None)
        self.deletes.pop(key, None)
        self.others.discard(key)

    def _patched(self, row: bytes, key_before: bytes | None) -> tuple[list[Cell], bytes]:
        """The row's values, unchanged ones of the key taken from the key before; and the key."""
        cells = unpack_row(row)
        if len(cells) != len(self.definition.columns):
            raise ValueError(f"{len(cells)} columns, the table has {len(self.definition.columns)}")
        places = self.definition.key_places
        if key_before is not None:
            for place, cell in zip(places, unpack_row(key_before), strict=True):
                if cells[place] is UNCHANGED:
                    cells[place] = cell
        key = [cells[place] for place in places]
        if None in key or UNCHANGED in key:
            raise ValueError("a key with a column that is null or unchanged")
        return cells, pack_row(key)

    def _filled(self, key: bytes, cells: list[Cell]) -> tuple[bytes, bool]:
        """The row with what the fold knows of its unchanged columns, and whether that is all of them."""
        earlier_row = self.inserts.get(key) or self.updates.get(key) or self.patches.get(key)
        if earlier_row is not None:
            before = unpack_row(earlier_row)
            if len(before) != len(cells):
                raise ValueError(f"{len(before)} columns, the table has {len(cells)}")
            cells = [old if new is UNCHANGED else new for old, new in zip(before, cells, strict=True)]
        return pack_row(cells), UNCHANGED not in cells
