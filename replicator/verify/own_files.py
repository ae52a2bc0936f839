"""A region's own files against its own journal: the scrub that needs nobody else.

In the background, again and again: the whole journal is read and proven; from it the files are made once more beside
the real ones, and compared with these, entry for entry. So damage and edits are found on a primary too, which nobody
else compares, and nothing is judged by an index that lost something.

    history    every region that keeps one. What differs is made again by itself
    tables     the embedded ledger's state, row for row; of any SQLite file its inner structure, indexes included
    requests   the embedded ledger's idempotency keys and the versions of what was deleted

What is wrong with tables or requests halts the ledger (``file_damaged``): no answer is given, and no write judged, by
a file that the journal contradicts. A journal that begins later says nothing of rows that no block of it touches.

A pass takes at most ``SHARE`` of a core, and for its time as much disk as the files that are compared; where there is
not twice that, it is not made, and it is said so.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import trio

from replicator.errors import Halted, ReplicatorError, Unavailable
from replicator.format.definition import Definition
from replicator.pipeline.replicas.sqlite import schema
from replicator.pipeline.replicas.sqlite.replica import read_applied
from replicator.pipeline.replicas.sqlite.rows import quoted
from replicator.storage import sqlite
from replicator.storage.damage import DAMAGED, FileDamage
from replicator.storage.journal.history import INDEXED_AGAIN, HistoryIndex
from replicator.storage.journal.store import Journal
from replicator.verify.derived import DerivedFiles, DerivedPaths

FIRST_SECONDS = 60.0
LEAST_REST_SECONDS = 5.0
SHARE = 0.1
RETENTION_SLACK_US = 300 * 1_000_000

log = logging.getLogger("replicator")


class OwnFiles:
    """The files of one region at ``paths``: what it derives in its present role and is compared. ``inspected`` is
    a SQLite file of which only the inner structure is looked at, ``scratch`` a directory for copies. ``kept_us``: how
    long requests are remembered; ``visible`` gives how far readers see."""

    def __init__(
        self,
        journal: Journal,
        strand: str,
        history: HistoryIndex | None,
        paths: DerivedPaths,
        scratch: Path,
        damage: FileDamage,
        every_seconds: float,
        visible: Callable[[], int],
        inspected: Path | None = None,
        kept_us: int = 0,
    ) -> None:
        self._journal = journal
        self._strand = strand
        self._history = history
        self._paths = paths
        self._scratch = scratch
        self._damage = damage
        self._every_seconds = every_seconds
        self._visible = visible
        self._inspected = inspected
        self._kept_us = kept_us
        self.passes = 0

    async def run(self) -> None:
        """Pass after pass, for ever. What keeps a pass from its end is logged, and tried again with the next."""
        rest = max(LEAST_REST_SECONDS, min(self._every_seconds, FIRST_SECONDS))
        logged = ""
        while True:
            await trio.sleep(rest)
            rest = max(LEAST_REST_SECONDS, self._every_seconds)
            try:
                await self.prove()
                logged = ""
            except ReplicatorError as error:
                if str(error) != logged:
                    logged = str(error)
                    log.warning("own files are not proven: %s", error)

    async def prove(self) -> None:
        """One pass. Raises Unavailable or Halted if it could not be made."""
        await trio.to_thread.run_sync(self._check_room)
        await trio.to_thread.run_sync(self._inspect, abandon_on_cancel=True)  # it only reads, and may take minutes
        if not self._paths.files:
            return
        coming = DerivedFiles(self._journal, self._strand, self._beside())
        try:
            await trio.to_thread.run_sync(self._begin, coming)
            await self._catch_up(coming)
            for compare in (self._compare_history, self._compare_tables, self._compare_requests):
                await trio.to_thread.run_sync(compare, coming)
            self.passes += 1
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._end, coming)

    def _beside(self) -> DerivedPaths:
        return DerivedPaths(*(None if path is None else self._scratch / path.name for path in self._paths))

    def _begin(self, coming: DerivedFiles) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)
        try:
            self._scratch.mkdir()
        except OSError as error:
            message = f"the directory cannot be made: {error.strerror}"
            raise Unavailable(
                "cannot_write", message, place=str(self._scratch), cure="check disk and rights"
            ) from error
        coming.open()

    def _end(self, coming: DerivedFiles) -> None:
        coming.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _check_room(self) -> None:
        size = sum(path.stat().st_size for path in self._paths.files if path.exists())
        free = shutil.disk_usage(self._scratch.parent).free
        if free < 2 * size:
            message = f"{free:,} bytes are free, and copies of {size:,} bytes would be compared"
            raise Unavailable("no_room", message, place=str(self._scratch.parent), cure="free disk space")

    async def _catch_up(self, coming: DerivedFiles) -> None:
        """Make the copies, at leisure."""
        until = await trio.to_thread.run_sync(self._until)
        reached = -1
        while reached < until:
            began = trio.current_time()
            reached = await trio.to_thread.run_sync(coming.step, until)
            await trio.sleep((trio.current_time() - began) * (1 / SHARE - 1))

    def _until(self) -> int:
        """How far all that is compared has come."""
        reached = [self._visible()]
        if self._history is not None and self._paths.history is not None:
            reached.append(self._history.indexed(self._strand))
        return min(reached)

    def _inspect(self) -> None:
        """SQLite's own look at a file: pages, order, and that each index has each row."""
        file = self._inspected
        if file is None or not file.exists():
            return
        with sqlite.translated(file, on_damage=self._damage.found), contextlib.closing(sqlite.look(file)) as db:
            (answer,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        if answer != "ok":
            self._found(file, f"SQLite finds: {answer.splitlines()[-1]:.200}")

    # -- comparing; the copies may have to follow a little further for it

    def _compare_history(self, coming: DerivedFiles) -> None:
        history, copy = self._history, self._beside().history
        if history is None or copy is None or history.is_doubted:
            return
        until = self._until()
        coming.make(until)
        with self._beside_each_other(copy, history.path) as db:
            base = self._journal.base(self._strand).sequence
            bounds = (base, until)
            missing, more = (
                _count(db, sql, bounds) for sql in (_history_differs("main", "real"), _history_differs("real", "main"))
            )
        if missing or more:
            message = f"by the journal {missing:,} entries are missing and {more:,} are too many"
            history.doubt(Halted(DAMAGED, message, place=str(history.path), cure=INDEXED_AGAIN))
            log.error("history is made again: %s: %s", history.path, message)

    def _compare_tables(self, coming: DerivedFiles) -> None:
        real, copy = self._paths.tables, self._beside().tables
        if real is None or copy is None or not real.exists():
            return
        with self._beside_each_other(copy, real) as db:
            definitions = self._level(db, coming, real)
            for definition in definitions:
                problem = self._table_differs(db, definition)
                if problem:
                    self._found(real, f"table {definition.label} is not what the journal says: {problem}")

    def _level(self, db: sqlite3.Connection, coming: DerivedFiles, real: Path) -> list[Definition]:
        """Fix a moment of the real tables, and bring the copies to it."""
        db.execute("BEGIN")
        (sequence,) = db.execute(
            "SELECT sequence FROM real._replicator_position WHERE strand = ?", [self._strand]
        ).fetchone() or (0,)
        coming.make(sequence)
        applied = read_applied(db, self._strand)
        if (applied.position.sequence if applied else 0) != sequence:
            raise Unavailable("moving", "the tables went back while they were looked at", place=str(real))
        return [d for d in schema.current_definitions(db).values() if d.key]

    def _table_differs(self, db: sqlite3.Connection, definition: Definition) -> str:
        name = quoted(definition.label)
        if not db.execute("SELECT 1 FROM real.sqlite_master WHERE name = ?", [definition.label]).fetchone():
            return "it is gone"
        key = " AND ".join(f"a.{quoted(part)} = b.{quoted(part)}" for part in definition.key)
        rest = [quoted(column.name) for column in definition.columns if column.name not in definition.key]
        other = " OR ".join([f"b.{quoted(definition.key[0])} IS NULL", *(f"a.{c} IS NOT b.{c}" for c in rest)])
        wrong = f"FROM main.{name} AS a LEFT JOIN real.{name} AS b ON {key} WHERE {other}"
        (lost,) = db.execute(f"SELECT count(*) {wrong}").fetchone()
        added = 0
        if not self._journal.base(self._strand).sequence:
            absent = f"a.{quoted(definition.key[0])} IS NULL"
            sql = f"SELECT count(*) FROM real.{name} AS b LEFT JOIN main.{name} AS a ON {key} WHERE {absent}"
            (added,) = db.execute(sql).fetchone()
        parts = [f"{lost:,} rows are missing or other ones"] if lost else []
        return ", ".join([*parts, *([f"{added:,} rows were never written"] if added else [])])

    def _compare_requests(self, coming: DerivedFiles) -> None:
        real, copy = self._paths.requests, self._beside().requests
        if real is None or copy is None or not real.exists():
            return
        with self._beside_each_other(copy, real) as db:
            db.execute("BEGIN")
            (sequence,) = db.execute(
                "SELECT sequence FROM real.indexed WHERE strand = ?", [self._strand]
            ).fetchone() or (0,)
            coming.make(sequence)
            lost = sum(_count(db, sql, (self._remembered_since(),)) for sql in _REQUESTS_LOST)
            lost += _count(db, _DELETED_LOST, ())
        if lost:
            self._found(real, f"{lost:,} requests or deletions are missing or other ones than in the journal")

    def _remembered_since(self) -> int:
        return time.time_ns() // 1000 - self._kept_us + RETENTION_SLACK_US

    def _found(self, file: Path, message: str) -> None:
        self._damage.found(file, Halted(DAMAGED, message, place=str(file), cure=sqlite.REBUILD))

    @contextlib.contextmanager
    def _beside_each_other(self, copy: Path, real: Path) -> Iterator[sqlite3.Connection]:
        """A connection that sees both: the copy as ``main``, the region's own file as ``real``."""
        opened = sqlite.connect(copy, synchronous="NORMAL", read_only=True)
        with sqlite.translated(real, on_damage=self._damage.found), contextlib.closing(opened) as db:
            db.execute("ATTACH ? AS real", (str(real),))
            yield db


def _count(db: sqlite3.Connection, sql: str, parameters: tuple[int, ...]) -> int:
    (number,) = db.execute(sql, parameters).fetchone()
    return int(number)


def _history_differs(of: str, beside: str) -> str:
    """How many entries of one index, behind the first sequence and up to the second, the other one does not have."""
    changes, truncations = (
        f"SELECT count(*) FROM {of}.{table} AS a JOIN {of}.known AS k ON k.id = a.known LEFT JOIN {beside}.known AS l"
        f" ON l.strand = k.strand AND l.label = k.label LEFT JOIN {beside}.{table} AS b ON b.known = l.id"
        f" AND b.sequence = a.sequence AND b.ordinal = a.ordinal{same_key}"
        " WHERE a.sequence > ?1 AND a.sequence <= ?2 AND b.sequence IS NULL"
        for table, same_key in (("change", " AND b.key = a.key"), ("truncation", ""))
    )
    return f"SELECT ({changes}) + ({truncations})"


_REQUESTS_LOST = [
    f"SELECT count(*) FROM main.{table} AS a LEFT JOIN real.{table} AS b ON b.id = a.id"
    " WHERE a.committed_at > ? AND (b.id IS NULL OR b.digest IS NOT a.digest OR b.sequence IS NOT a.sequence)"
    for table in ("request", "refusal")
]
_DELETED_LOST = (
    "SELECT count(*) FROM main.deleted AS a LEFT JOIN real.deleted AS b ON b.relation = a.relation AND b.key = a.key"
    " WHERE b.version IS NOT a.version"
)
