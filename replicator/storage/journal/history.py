"""The history of each key: which statements of which blocks touched it, found by index.

Guarantee: every change of a key up to the index' own position is found, newest first, whatever the source and the
replica; the rows themselves are read from the journal, so nothing is stored twice and nothing can disagree. The index
is derived: when its file is lost or damaged, it is set aside and built again from the journal.

It follows the journal behind replay and keeps its position in the transaction of its rows. A change of a row's key
counts for both keys; a truncate counts for every key of the table. Keys are compared by canonical text, so it does not
matter in which form a source sent them. All calls block.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from replicator.errors import Corrupt, Halted
from replicator.format.block import Block, BlockPart
from replicator.format.definition import Definition, unpack_definition
from replicator.format.keys import key_reader
from replicator.format.row import pack_row, unpack_row
from replicator.format.statement import (
    DEFINE,
    DELETE,
    PATCH,
    SEQUENCE,
    TRUNCATE,
    UPDATE,
    Op,
    statement_runs,
    unpack_statements,
)
from replicator.format.values import text_of
from replicator.storage.journal.store import Journal
from replicator.storage.sqlite import connect, set_aside, transaction, translated

SWEEP_ROWS = 2_000
KEYS_AT_ONCE = 5_000
INDEXED_AGAIN = "wait: it is set aside, and made again from the journal, by itself"
INSERT_ROWS = 10_000
Place = tuple[int, bytes, int, int]  # in the index: table, key, sequence, ordinal
BEGINNING: Place = (-1, b"", 0, 0)
STEP_BYTES = 1 << 18  # a page or so: other threads wait for the interpreter meanwhile

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS known (id INTEGER PRIMARY KEY, strand TEXT NOT NULL, label TEXT NOT NULL,
       UNIQUE (strand, label))""",
    """CREATE TABLE IF NOT EXISTS change (known INTEGER NOT NULL, key BLOB NOT NULL, sequence INTEGER NOT NULL,
       ordinal INTEGER NOT NULL, PRIMARY KEY (known, key, sequence, ordinal)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS truncation (known INTEGER NOT NULL, sequence INTEGER NOT NULL,
       ordinal INTEGER NOT NULL, PRIMARY KEY (known, sequence, ordinal)) WITHOUT ROWID""",
    "CREATE TABLE IF NOT EXISTS indexed (strand TEXT PRIMARY KEY, sequence INTEGER NOT NULL)",
)


class HistoryEntry(NamedTuple):
    """One change of one key. ``row`` is the row image after it, None if the row went; with PATCH some of its columns
    are unchanged. ``op`` is INSERT, UPDATE, PATCH, DELETE or TRUNCATE, seen from the key: a row that moved away is a
    DELETE here and an UPDATE there."""

    sequence: int
    ordinal: int
    epoch: int
    txid: str
    committed_at: int
    op: Op
    definition: Definition
    row: bytes | None


class HistoryIndex:
    """The index of one journal. Any thread may call: those that write (``step``) take turns."""

    def __init__(self, path: Path, journal: Journal) -> None:
        self.path = path
        self._journal = journal
        self._writing = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._keys: dict[tuple[str, int], _Keys] = {}
        self._known: dict[tuple[str, str], int] = {}
        self._idle: list[sqlite3.Connection] = []  # readers; another list once they were closed
        self._doubt: Halted | None = None  # what somebody has found to be wrong with the file, until it is begun anew

    def open(self) -> None:
        """Open the file, or begin a new one beside what was damaged."""
        self.close()
        try:
            self._create()
        except Halted:
            self.begin_anew()

    def begin_anew(self) -> Path:
        """Set a damaged file aside and begin an empty one; the damaged one's new name."""
        with self._writing:
            self.close()
            aside = set_aside(self.path)
            self._create()
            self._doubt = None
        return aside

    def doubt(self, error: Halted) -> None:
        """The file is not what the journal says: nothing more is answered from it until it is begun anew."""
        self._doubt = error

    @property
    def is_doubted(self) -> bool:
        """Whether it has to be begun anew."""
        return self._doubt is not None

    def _create(self) -> None:
        self._db = connect(self.path, synchronous="NORMAL")  # what a loss of power takes is indexed again
        with translated(self.path):
            for statement in SCHEMA:
                self._db.execute(statement)

    def close(self) -> None:
        """Close the file."""
        if self._db is not None:
            self._db.close()
            self._db = None
        idle, self._idle = self._idle, []
        _close_all(idle)
        self._keys.clear()
        self._known.clear()

    def indexed(self, strand: str) -> int:
        """The sequence up to which every change is found."""
        with self._reading() as db:
            row = db.execute("SELECT sequence FROM indexed WHERE strand = ?", (strand,)).fetchone()
        base = self._journal.base(strand).sequence
        return max(row[0], base) if row else base  # what was pruned before it was indexed never will be

    # -- building

    def step(self, strand: str, until: int) -> int:
        """Index the next blocks, not beyond ``until``; gives ``indexed`` then."""
        with self._writing:
            return self._step(strand, until)

    def _step(self, strand: str, until: int) -> int:
        after = self.indexed(strand)
        blocks = [b for b in self._journal.blocks(strand, after, STEP_BYTES) if b.header.sequence <= until]
        if not blocks:
            return after
        assert self._db is not None, "the index is not open"
        last = blocks[-1].header.sequence
        try:
            with translated(self.path), transaction(self._db):
                self._index(self._db, strand, blocks)
                self._db.execute("INSERT OR REPLACE INTO indexed VALUES (?, ?)", (strand, last))
        except BaseException:
            self._keys.clear()  # they may name tables by numbers that were rolled back
            self._known.clear()
            raise
        return last

    def _index(self, db: sqlite3.Connection, strand: str, blocks: list[Block]) -> None:
        insert = "INSERT OR IGNORE INTO change VALUES (?, ?, ?, ?)"
        changes: list[Place] = []
        for sequence, first, statements in statement_runs(blocks, functools.partial(self._journal.parts, strand)):
            try:
                for ordinal, statement in enumerate(statements, first):
                    self._add(strand, statement, sequence, ordinal, changes)
            except (ValueError, struct.error, KeyError) as error:
                self._journal.prove(strand, sequence)  # a piece of a large block is read before all of it is proven
                raise Corrupt(
                    "bad_row", f"a statement cannot be read: {error!r}", place=f"sequence {sequence}"
                ) from error
            if len(changes) > INSERT_ROWS:  # a large block may have millions, which memory need not hold at once
                db.executemany(insert, changes)
                changes.clear()
        db.executemany(insert, changes)

    def _add(self, strand: str, statement: list[Any], sequence: int, ordinal: int, changes: list[Place]) -> None:
        op = statement[0]
        if op == DEFINE:
            self._keys[strand, statement[1]] = self._keys_of(strand, unpack_definition(statement[2]))
        if op >= SEQUENCE or op == DEFINE:
            return
        keys = self._keys_for(strand, statement[1])
        if op == TRUNCATE:
            assert self._db is not None
            self._db.execute("INSERT OR IGNORE INTO truncation VALUES (?, ?, ?)", (keys.known, sequence, ordinal))
            return
        if not keys.definition.key:
            return  # a row without a key has no history: it is only ever inserted
        image = statement[2]
        changes.append((keys.known, keys.of_key(image) if op == DELETE else keys.of_row(image), sequence, ordinal))
        if op in (UPDATE, PATCH) and statement[3] is not None:
            changes.append((keys.known, keys.of_key(statement[3]), sequence, ordinal))

    def _keys_for(self, strand: str, relation: int) -> _Keys:
        keys = self._keys.get((strand, relation))
        if keys is None:
            definition = self._journal.definitions(strand).get(relation)
            if definition is None:
                raise Corrupt("unknown_relation", f"relation {relation} was never defined", place=f"strand {strand}")
            keys = self._keys[strand, relation] = self._keys_of(strand, definition)
        return keys

    def _keys_of(self, strand: str, definition: Definition) -> _Keys:
        name = (strand, definition.label)
        if name not in self._known:  # by label: a table that was defined anew, under another relation, keeps its past
            assert self._db is not None
            self._db.execute("INSERT OR IGNORE INTO known (strand, label) VALUES (?, ?)", name)
            (self._known[name],) = self._db.execute(
                "SELECT id FROM known WHERE strand = ? AND label = ?", name
            ).fetchone()
        return _Keys(self._known[name], definition)

    def cut_back(self, strand: str, sequence: int, touched: Iterable[tuple[str, bytes]]) -> None:
        """Forget everything behind ``sequence``, where these keys (of tables, by label) were touched, and no other.
        Durable on return."""
        with self._writing:
            self._keys.clear()  # they may be of definitions that are gone
            assert self._db is not None, "the index is not open"
            with translated(self.path):
                # The journal is cut next. Were this lost after that, the index would name blocks of an undone chain.
                self._db.execute("PRAGMA synchronous = FULL")
                with transaction(self._db):
                    self._cut(self._db, strand, sequence, touched)
                self._db.execute("PRAGMA synchronous = NORMAL")

    def _cut(self, db: sqlite3.Connection, strand: str, sequence: int, touched: Iterable[tuple[str, bytes]]) -> None:
        known = dict(db.execute("SELECT label, id FROM known WHERE strand = ?", (strand,)).fetchall())
        changes = ((known[label], key, sequence) for label, key in touched if label in known)
        db.executemany("DELETE FROM change WHERE known = ? AND key = ? AND sequence > ?", changes)
        tables = [(number, sequence) for number in known.values()]
        db.executemany("DELETE FROM truncation WHERE known = ? AND sequence > ?", tables)
        update = "UPDATE indexed SET sequence = ? WHERE strand = ? AND sequence > ?"
        db.execute(update, (sequence, strand, sequence))

    # -- reading

    def keys(self, strand: str, table: str, until: int, after: bytes, limit: int) -> list[bytes]:
        """The keys of a table, in the order of their bytes, that blocks up to and with ``until`` have touched; those
        behind the key ``after``."""
        with self._reading() as db:
            keys = db.execute(
                """SELECT DISTINCT key FROM change JOIN known ON known.id = change.known
                   WHERE strand = ? AND label = ? AND key > ? AND sequence <= ? ORDER BY key LIMIT ?""",
                (strand, table, after, until, limit),
            )
            return [key for (key,) in keys]

    def entries(
        self, strand: str, table: str, key: Sequence[str], before: tuple[int, int] | None, limit: int
    ) -> list[HistoryEntry]:
        """The changes of a key (canonical text of each key column) before (sequence, ordinal), newest first; those that
        the journal still holds."""
        packed = pack_row([text.encode() for text in key])
        places = self.places(strand, table, packed, before, limit)
        definitions = self._journal.definitions(strand)
        blocks: dict[int, Block] = {}  # changes of a key are often near each other: a page is read once
        entries = []
        for sequence, ordinal in places:
            if sequence not in blocks:
                blocks = {block.header.sequence: block for block in self._journal.around(strand, sequence)}
            try:
                entries.append(self._entry(strand, blocks.get(sequence), sequence, ordinal, packed, definitions))
            except Corrupt:
                if sequence > self._journal.base(strand).sequence:
                    raise
                break  # pruned while it was read, and so is everything older
        return entries

    def places(
        self, strand: str, table: str, key: bytes, before: tuple[int, int] | None, limit: int
    ) -> list[tuple[int, int]]:
        """Where (sequence, ordinal) the changes of a key are, newest first; ``key`` is its canonical texts, packed as a
        row. Truncates of the table are among them. In a table without a key there is nothing else: ``key`` is any."""
        with self._reading() as db:
            row = db.execute("SELECT id FROM known WHERE strand = ? AND label = ?", (strand, table)).fetchone()
            if row is None:
                return []
            return db.execute(
                """SELECT sequence, ordinal FROM change
                   WHERE known = ?1 AND key = ?2 AND (sequence, ordinal) < (?3, ?4) AND sequence > ?6
                   UNION ALL SELECT sequence, ordinal FROM truncation
                   WHERE known = ?1 AND (sequence, ordinal) < (?3, ?4) AND sequence > ?6
                   ORDER BY 1 DESC, 2 DESC LIMIT ?5""",
                (row[0], key, *(before or (2**63 - 1, 0)), limit, self._journal.base(strand).sequence),
            ).fetchall()

    def touched(self, strand: str, table: str, keys: Sequence[bytes]) -> set[bytes]:
        """Those of the keys (canonical texts, packed as rows) that some block of the journal has touched, as far as is
        indexed."""
        base, found = self._journal.base(strand).sequence, set[bytes]()
        with self._reading() as db:
            row = db.execute("SELECT id FROM known WHERE strand = ? AND label = ?", (strand, table)).fetchone()
            for at in range(0, len(keys) if row else 0, KEYS_AT_ONCE):
                some = keys[at : at + KEYS_AT_ONCE]
                query = f"SELECT key FROM change WHERE known = ? AND key IN ({', '.join('?' * len(some))})"
                found.update(key for (key,) in db.execute(f"{query} AND sequence > ?", (row[0], *some, base)))
        return found

    def begins_behind(self, strand: str) -> int:
        """The sequence up to which no change is found any more; 0 if all are."""
        return self._journal.base(strand).sequence

    def sweep(self, strand: str, behind: Place, rows: int = SWEEP_ROWS) -> Place | None:
        """Look at the next so many changes behind a place, remove those whose block was pruned, and give the place that
        was reached; None at the end. Beside the writer, on a connection of its own."""
        base = self._journal.base(strand).sequence
        with self._reading() as db:
            known = {row[0] for row in db.execute("SELECT id FROM known WHERE strand = ?", (strand,))}
            places = db.execute(
                "SELECT known, key, sequence, ordinal FROM change WHERE (known, key, sequence, ordinal) > (?, ?, ?, ?)"
                " ORDER BY known, key, sequence, ordinal LIMIT ?",
                (*behind, rows),
            ).fetchall()
            pruned = [place for place in places if place[0] in known and place[2] <= base]
            if pruned:  # most passes over what was kept find nothing, and need not wait for the writer
                with transaction(db):
                    db.executemany(
                        "DELETE FROM change WHERE known = ? AND key = ? AND sequence = ? AND ordinal = ?", pruned
                    )
        return places[-1] if len(places) == rows else None

    def _entry(
        self,
        strand: str,
        block: Block | None,
        sequence: int,
        ordinal: int,
        key: bytes,
        definitions: dict[int, Definition],
    ) -> HistoryEntry:
        if block is None:
            raise Corrupt("not_in_journal", "the index names a block that is not there", place=f"sequence {sequence}")
        statement = self._statement(strand, block, ordinal)
        op, definition = Op(statement[0]), definitions[statement[1]]
        row = statement[2] if op in (Op.INSERT, Op.UPDATE, Op.PATCH) else None
        if row is not None and _Keys(0, definition).of_row(row) != key:  # found by the key before the change
            op, row = Op.DELETE, None  # the row left this key
        header = block.header
        return HistoryEntry(sequence, ordinal, header.epoch, header.txid, header.committed_at, op, definition, row)

    def _statement(self, strand: str, block: Block, ordinal: int) -> list[Any]:
        passed = 0
        pieces = [BlockPart(block.header.statements, block.body)] if block.body is not None else None
        for part in pieces or self._journal.parts(strand, block.header.sequence):
            if ordinal < passed + part.statements:
                for number, statement in enumerate(unpack_statements(part.data), passed):
                    if number == ordinal:
                        return statement
            passed += part.statements
        raise Corrupt("not_in_journal", f"no statement {ordinal}", place=f"sequence {block.header.sequence}")

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own: readers neither wait for the writer nor see half a step. It is used again, for
        opening one takes longer than most of what is asked; not after an error, nor once the file was closed."""
        idle = self._idle
        if (doubt := self._doubt) is not None:
            raise Halted(doubt.reason, doubt.message, place=doubt.place, cure=doubt.cure)
        with translated(self.path, INDEXED_AGAIN, on_damage=lambda _, error: self.doubt(error)):
            try:
                db = idle.pop()
            except IndexError:
                db = connect(self.path, synchronous="NORMAL")
            try:
                yield db
            except BaseException:
                db.close()
                raise
            idle.append(db)
            if idle is not self._idle:
                _close_all(idle)


def _close_all(connections: list[sqlite3.Connection]) -> None:
    with contextlib.suppress(IndexError):
        while True:
            connections.pop().close()


class _Keys:
    """Reads a relation's images as the canonical text of the key, packed."""

    def __init__(self, known: int, definition: Definition) -> None:
        self.known = known
        self.definition = definition
        self._key_of = key_reader(definition)
        columns = [definition.columns[place] for place in definition.key_places]
        self._texts: list[Callable[[bytes], str]] = [text_of(column) for column in columns]
        self._is_text = all(column.format == "text" for column in columns)

    def of_row(self, image: bytes) -> bytes:
        """The key of a row image."""
        return self.of_key(self._key_of(image))

    def of_key(self, image: bytes) -> bytes:
        """The key of a key image."""
        if self._is_text:  # the image is the packed texts already
            return image
        cells = zip(unpack_row(image), self._texts, strict=True)
        return pack_row([read(cell).encode() if isinstance(cell, bytes) else None for cell, read in cells])
