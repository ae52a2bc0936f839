"""pgoutput, protocol version 1: the messages of committed transactions, made into drafts. Pure.

Guarantee: a transaction becomes exactly one draft, in commit order, or Parts and a Draft without a body when it is
large; one whose commit stands before ``skip_to`` was taken before: it is compared with what was expected to come again
(``reread``), dropped and counted. What cannot be read raises ValueError, IndexError or struct.error: nothing is
skipped. Memory: at most one part and the unsent items.

The idea: a tuple of the protocol and a row image differ in one kind byte per column, so a tuple is cut into cells
(length and bytes) once, and images are joins of cells. No value is looked into.

Format: PostgreSQL's documentation, "Logical Replication Message Formats". Relation messages are the caller's: they
need the catalogs.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import msgpack

from replicator.errors import Halted
from replicator.format.block import BODY_LIMIT_BYTES, HAS_DEFINITIONS, BlockPart, Draft
from replicator.format.definition import Definition
from replicator.format.evolution import recopy
from replicator.format.statement import DELETE, INSERT, PATCH, UPDATE, pack_define, pack_message, pack_truncate
from replicator.pipeline.sources.postgres.options import HEARTBEAT_PREFIX
from replicator.pipeline.sources.postgres.reread import MESSAGE_TXID, Reread, Sent
from replicator.postgres.lsn import EPOCH_US, lsn_text

XLOG_HEADER_BYTES = 25  # kind, start, end, clock: what stands before a message in the copy stream
PART_BYTES = BODY_LIMIT_BYTES
BEGIN, COMMIT, INSERTED, UPDATED, DELETED = b"BCIUD"
TRUNCATED, MESSAGE, RELATION, TYPE, ORIGIN = b"TMRYO"
_NULL, _UNCHANGED, _TEXT, _BINARY = b"nutb"
_KEY, _OLD, _NEW = b"KON"
_NULL_CELL, _UNCHANGED_CELL = b"\xff\xff\xff\xff", b"\xff\xff\xff\xfe"

_begin = struct.Struct(">QqI")
_commit = struct.Struct(">BQQq")
_oid = struct.Struct(">I")
_message = struct.Struct(">BQ")
_pack = msgpack.Packer().pack


class StreamTable(NamedTuple):
    """A relation of the stream. ``relation`` is None if its rows are ignored. ``skipped`` are the places of columns
    that the stream brings and the definition does not have."""

    relation: int | None
    definition: Definition
    places: tuple[int, ...]
    skipped: tuple[int, ...] = ()


class Unresolved(Exception):
    """A change of a table came whose definition is not there yet: ``define`` it, then take the message again."""

    def __init__(self, oid: int) -> None:
        super().__init__(oid)
        self.oid = oid


class _StreamTables(dict[int, StreamTable]):
    """Tables by oid; asking for another one raises Unresolved."""

    def __missing__(self, oid: int) -> StreamTable:
        raise Unresolved(oid)


class Assembler:
    """Takes messages, collects Parts and Drafts in ``items`` until ``take_items``.

    ``binary`` says which form of values the stream was opened with. ``complete`` is the place in the log up to which
    everything was taken, at a transaction's end. ``heartbeats`` counts those that came back.
    """

    def __init__(self, binary: bool, skip_to: int, part_bytes: int = PART_BYTES, reread: Reread | None = None) -> None:
        self.tables = _StreamTables()
        self.reread = reread or Reread(skip_to)
        self.items: list[BlockPart | Draft] = []
        self.item_bytes = 0
        self.complete = skip_to
        self.sent = skip_to  # the origin of the last draft that was taken
        self.heartbeats = 0
        self.duplicates = 0
        self.in_transaction = False
        self.commit_lsn = 0  # of the transaction that is arriving
        self.large = False  # whether the transaction that is arriving has given parts already
        self._value_kind = _BINARY if binary else _TEXT
        self._skip_to = skip_to
        self._part_bytes = part_bytes
        self._statements: list[bytes] = []
        self._bytes = 0
        self._statements_in_parts = 0  # statements that went into parts
        self._flags = 0
        self._ignored: set[int] = set()  # tables whose rows are ignored, so far as they were announced as such
        self._until: dict[int, int] = {}  # of tables that hold only for what commits before a place
        self._is_again = False  # the transaction that is arriving was taken before
        self._is_change = False  # and it changes something
        self._xid = 0
        self._time = 0

    def take_items(self) -> list[BlockPart | Draft]:
        """What was collected since the last call."""
        items, self.items, self.item_bytes = self.items, [], 0
        return items

    def take(self, data: bytes) -> None:
        """One XLogData message, from its first byte. Raises Unresolved with nothing done."""
        at = XLOG_HEADER_BYTES
        kind = data[at]
        if self._is_again and kind != COMMIT:
            self._is_change = self._is_change or self._changes(data, at)
        elif kind == INSERTED:  # the commonest by far: first, and without a call of its own
            table = self.tables[_oid.unpack_from(data, at + 1)[0]]
            cells, end = self._cells(data, at + 6)
            if end != len(data) or data[at + 5] != _NEW:
                raise ValueError("an Insert that does not end with its row")
            if table.relation is not None:
                image = _image(_carried(cells, table)) if table.skipped else data[at + 6 : at + 8] + b"".join(cells)
                self._statement(_pack((INSERT, table.relation, image)))
        elif kind == BEGIN:
            self._begin(data, at)
        elif kind == COMMIT:
            self._commit(data, at)
        elif kind == UPDATED:
            self._update(data, at)
        elif kind == DELETED:
            self._delete(data, at)
        elif kind == TRUNCATED:
            self._truncate(data, at)
        elif kind == MESSAGE:
            self._message(data, at)
        elif kind not in (TYPE, ORIGIN):  # types are read from the catalogs, and where a change came from is all one
            raise ValueError(f"a message of unknown kind {kind}")

    def announce(self, oid: int, *, ignored: bool = False) -> None:
        """The table was announced again: what was defined may not hold any more."""
        self.tables.pop(oid, None)
        if ignored:
            self._ignored.add(oid)

    def passed(self, lsn: int) -> None:
        """The stream has come to this place, between two transactions. Raises Halted if what should have come again did
        not."""
        if not self.in_transaction and lsn >= self._skip_to:
            if not self.reread.is_proven:
                self.reread.end()
            self.complete = max(self.complete, lsn)

    def define(self, oid: int, table: StreamTable, *, new: bool, until: int = 0) -> None:
        """Rows of ``oid`` are read by ``table`` from here on, or with ``until`` those of transactions that commit
        before that place; ``new`` makes it part of the arriving transaction."""
        self.tables[oid] = table
        if until:
            self._until[oid] = until
        if new and table.relation is not None:
            self._flags |= HAS_DEFINITIONS
            self._statement(pack_define(table.relation, table.definition))

    # -- transactions

    def _begin(self, data: bytes, at: int) -> None:
        if self.in_transaction:
            raise ValueError("a transaction that begins within another")
        self.commit_lsn, self._time, self._xid = _begin.unpack_from(data, at + 1)
        self.in_transaction = True
        if self._until:
            self._forget_passed()
        self._is_again, self._is_change = self.commit_lsn < self._skip_to, False
        if not self._is_again and not self.reread.is_proven:
            self.reread.end()

    def _forget_passed(self) -> None:
        for oid in [oid for oid, until in self._until.items() if self.commit_lsn >= until]:
            del self._until[oid]
            self.tables.pop(oid, None)  # it is looked up again, with the first change that is not in its copy

    def _commit(self, data: bytes, at: int) -> None:
        _, _, end_lsn, time = _commit.unpack_from(data, at + 1)
        if not self.in_transaction:
            raise ValueError("a commit without its begin")
        count = self._statements_in_parts + len(self._statements)
        # Transactions come in the order of their commits: those that were taken are those that commit before skip_to.
        if self._is_again:
            self.duplicates += 1
            if self._is_change:
                self.reread.take(Sent(end_lsn, str(self._xid), time + EPOCH_US))
        elif count:
            if self.large:
                self._part()
            body = None if self.large else b"".join(self._statements)
            self._draft(Draft(str(self._xid), lsn_text(end_lsn), time + EPOCH_US, self._flags, count, body), end_lsn)
        self.complete = max(self.complete, end_lsn)
        self._statements.clear()
        self._bytes = self._statements_in_parts = self._flags = 0
        self.in_transaction = self.large = self._is_again = False

    def _draft(self, draft: Draft, origin: int) -> None:
        self.items.append(draft)
        self.item_bytes += len(draft.body or b"")
        self.sent = origin

    def _statement(self, statement: bytes) -> None:
        self._statements.append(statement)
        self._bytes += len(statement)
        if self._bytes > self._part_bytes:
            self._part()

    def _part(self) -> None:
        """Cut what has arrived of a large transaction off as a part."""
        if self._statements:
            self.items.append(BlockPart(len(self._statements), b"".join(self._statements)))
            self.item_bytes += self._bytes
            self._statements_in_parts += len(self._statements)
            self._statements.clear()
            self._bytes = 0
        self.large = True

    # -- changes

    def _changes(self, data: bytes, at: int) -> bool:
        """Whether a message of a transaction that was taken before stands for a statement of it. Its tables are not
        looked up: the catalogs may have gone on since."""
        kind = data[at]
        if kind in (INSERTED, UPDATED, DELETED):
            return _oid.unpack_from(data, at + 1)[0] not in self._ignored
        if kind == TRUNCATED:
            return any(oid not in self._ignored for (oid,) in _oid.iter_unpack(data[at + 6 :]))
        if kind not in (MESSAGE, TYPE, ORIGIN):
            raise ValueError(f"a message of kind {kind} within a transaction")
        return kind == MESSAGE

    def _cells(self, data: bytes, at: int) -> tuple[list[bytes], int]:
        """A tuple's columns as cells (length and bytes), and the place behind it."""
        cells = []
        value_kind = self._value_kind
        count = data[at] << 8 | data[at + 1]  # by hand: a struct's unpack makes a tuple for each row
        at += 2
        for _ in range(count):
            kind = data[at]
            at += 1
            if kind == value_kind:
                end = at + 4 + int.from_bytes(data[at : at + 4], "big")
                cells.append(data[at:end])
                at = end
            elif kind == _NULL:
                cells.append(_NULL_CELL)
            elif kind == _UNCHANGED:
                cells.append(_UNCHANGED_CELL)
            else:
                raise ValueError(f"a column of kind {kind}")
        return cells, at

    def _update(self, data: bytes, at: int) -> None:
        table = self.tables[_oid.unpack_from(data, at + 1)[0]]
        at += 5
        # The old row comes if the key changed (K), or whole with REPLICA IDENTITY FULL (O); else the key is as it was.
        before: list[bytes] | None = None
        whole = data[at] == _OLD
        if whole or data[at] == _KEY:
            before, at = self._cells(data, at + 1)
        row, end = self._cells(data, at + 1)
        if end != len(data) or data[at] != _NEW:
            raise ValueError("an Update that does not end with its row")
        if table.relation is None:
            return
        self._check_key(table, "UPDATE")
        key_before = None
        if table.skipped:
            row, before = _carried(row, table), _carried(before, table) if before is not None else None
        if before is not None:
            _fill(row, before, range(len(row)) if whole else table.places)
            old, new = [before[place] for place in table.places], [row[place] for place in table.places]
            key_before = _image(old) if old != new else None
        # TOASTed values that the update left alone do not come, and only a whole old row could have filled them in.
        op = PATCH if _UNCHANGED_CELL in row else UPDATE
        self._statement(_pack((op, table.relation, _image(row), key_before)))

    def _delete(self, data: bytes, at: int) -> None:
        table = self.tables[_oid.unpack_from(data, at + 1)[0]]
        if data[at + 5] not in (_KEY, _OLD):
            raise ValueError("a Delete without its old row")
        before, end = self._cells(data, at + 6)
        if end != len(data):
            raise ValueError("a Delete that does not end with its old row")
        if table.relation is not None:
            self._check_key(table, "DELETE")
            before = _carried(before, table) if table.skipped else before
            self._statement(_pack((DELETE, table.relation, _image([before[place] for place in table.places]))))

    def _check_key(self, table: StreamTable, what: str) -> None:
        if not table.places:
            raise Halted(
                "no_key",
                f"an {what} in a table that has no key: replicas cannot tell which row it means",
                place=f"table {table.definition.label}",
                cure="add a primary key, or ALTER TABLE … REPLICA IDENTITY USING INDEX of a unique index;"
                f" then {recopy(table.definition.name)}",
            )

    def _truncate(self, data: bytes, at: int) -> None:
        (count,) = _oid.unpack_from(data, at + 1)
        if len(data) != at + 6 + 4 * count:
            raise ValueError("a Truncate that does not end with its tables")
        for relation in [self.tables[oid].relation for (oid,) in _oid.iter_unpack(data[at + 6 :])]:
            if relation is not None:
                self._statement(pack_truncate(relation))

    def _message(self, data: bytes, at: int) -> None:
        flags, lsn = _message.unpack_from(data, at + 1)
        end = data.index(b"\0", at + 10)
        prefix = data[at + 10 : end].decode()
        (size,) = _oid.unpack_from(data, end + 1)
        content = data[end + 5 :]
        if len(content) != size:
            raise ValueError("a Message that does not end with its content")
        if flags & 1:  # transactional: it is part of the transaction that it stands in
            self._statement(pack_message(prefix, content))
            return
        if self.in_transaction:
            raise ValueError("a message of its own within a transaction")
        origin = lsn  # the record's end, as a commit's: one byte further the log may not be written yet
        is_heartbeat, is_again = prefix == HEARTBEAT_PREFIX, origin <= self._skip_to
        if is_heartbeat:
            self.heartbeats += 1
        elif is_again:
            self.duplicates += 1
            self.reread.take(Sent(origin, MESSAGE_TXID, 0))
        if is_again:
            return
        self.passed(origin)
        if not is_heartbeat:
            clock = int.from_bytes(data[at - 8 : at], "big", signed=True)  # the server's, when it sent the message
            body = pack_message(prefix, content)
            self._draft(Draft(MESSAGE_TXID, lsn_text(origin), clock + EPOCH_US, 0, 1, body), origin)


def _fill(row: list[bytes], before: list[bytes], places: tuple[int, ...] | range) -> None:
    """Take what the update left alone from the old row, where that has it."""
    for place in places:
        if row[place] == _UNCHANGED_CELL:
            row[place] = before[place]


def _carried(cells: list[bytes], table: StreamTable) -> list[bytes]:
    return [cell for place, cell in enumerate(cells) if place not in table.skipped]


def _image(cells: list[bytes]) -> bytes:
    return len(cells).to_bytes(2, "big") + b"".join(cells)
