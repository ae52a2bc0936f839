"""Opening SQLite files, and saying in our terms what went wrong with them.

Guarantee: a full disk, a failing disk or a lock is Unavailable (it can get better), a damaged file is Halted (it
cannot); nothing of ``sqlite3`` escapes from code under ``translated``.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from replicator.errors import Corrupt, Halted, Unavailable
from replicator.storage.damage import DAMAGED

BUSY_SECONDS = 10
REBUILD = "stop the sidecar; replicator rebuild CONFIG; then start it again"


def connect(path: Path, *, synchronous: str, read_only: bool = False) -> sqlite3.Connection:
    """A connection in autocommit and WAL mode. ``synchronous``: FULL survives power loss, NORMAL survives kill -9."""
    with translated(path):
        # One thread at a time, yet not always the same: trio's workers take turns.
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
        return connection


def look(path: Path) -> sqlite3.Connection:
    """A connection that only reads and leaves no trace: no file is made or changed, save that shared memory (``-shm``)
    which a killed process left is set up anew, as whoever reads next must."""
    # Without a log there is nothing to share with a writer, and opening need not create one.
    mode = "mode=ro" if Path(f"{path}-wal").exists() else "immutable=1"
    with translated(path):
        uri = f"{path.absolute().as_uri()}?{mode}"
        return sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing: commits at the end, rolls back whatever is raised."""
    # IMMEDIATE waits for the lock here; a transaction that reads first and then writes would be refused at once where
    # another one has written meanwhile.
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # at some errors, a full disk among them, SQLite has rolled back by itself
            connection.execute("ROLLBACK")
        raise


def set_aside(path: Path, why: str = "damaged") -> Path:
    """Rename a file, and the log that belongs to it, so that it can be looked at; its new name."""
    number = 1
    while (aside := path.with_name(f"{path.name}.{why}-{number}")).exists():
        number += 1
    # The file first: a log without its file is nothing to SQLite, a file without its log an older state of itself.
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}{suffix}", f"{aside}{suffix}")
    return aside


@contextlib.contextmanager
def translated(
    path: Path, damage_cure: str = REBUILD, on_damage: Callable[[Path, Halted], None] | None = None
) -> Iterator[None]:
    """Raise what ``sqlite3`` raises within as Unavailable or Halted, naming the file. ``on_damage`` hears of it if the
    file is damaged."""
    try:
        yield
    except sqlite3.Error as error:
        translation = _translate(error, path, damage_cure)
        if on_damage is not None and isinstance(translation, Halted) and translation.reason == DAMAGED:
            on_damage(path, translation)
        raise translation from error
    except OverflowError as error:  # sqlite3 binds whole numbers of 64 bits
        raise Corrupt("number_too_large", f"a number is too large: {error}", place=str(path)) from error


def _translate(error: sqlite3.Error, path: Path, damage_cure: str) -> Unavailable | Halted:
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF  # the low byte: what kind of error; above it, which
    place = str(path)
    if code == sqlite3.SQLITE_FULL:
        return Unavailable(
            "disk_full", "no room is left to write", place=place, cure="free disk space; it goes on by itself"
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable("locked", "another program holds the file's lock", place=place, cure="end the other program")
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return Unavailable(
            "cannot_write", f"the file cannot be used: {error}", place=place, cure="check disk and rights"
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Halted(DAMAGED, f"the file is damaged: {error}", place=place, cure=damage_cure)
    cure = f"undo what was changed in this file by hand (a table, an index, a trigger); if nothing was: {REBUILD}"
    return Halted("sqlite_error", f"SQLite refuses: {error}", place=place, cure=cure)
