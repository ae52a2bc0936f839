"""The spool's SQLite file: its schema, how it is opened, and what its errors mean.

Guarantee: a file opens only as what it was written as, in the durable mode, locked for this process; every SQLite error
leaves here as SpoolDamaged (what cannot get better) or SpoolUnavailable (what can).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from settle_buffer.errors import Misuse, SpoolDamaged, SpoolUnavailable
from settle_buffer.events import Certificate

FORMAT = 1
PAGE_BYTES = 8_192
_WAL_LIMIT_BYTES = 64 << 20
_KINDS = {False: 0x53657153, True: 0x53657454}  # SQLite's application id: by sequence, by time
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS spool(
    id INTEGER PRIMARY KEY AUTOINCREMENT, strand TEXT NOT NULL, low INTEGER NOT NULL, high INTEGER NOT NULL,
    entries INTEGER NOT NULL, checksum INTEGER NOT NULL, data BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS spool_by_sequence ON spool(strand, high, low);
CREATE TABLE IF NOT EXISTS late(
    id INTEGER PRIMARY KEY AUTOINCREMENT, strand TEXT NOT NULL, sequence INTEGER NOT NULL,
    checksum INTEGER NOT NULL, data BLOB NOT NULL, UNIQUE(strand, sequence, data));
CREATE TABLE IF NOT EXISTS certificates(
    id INTEGER PRIMARY KEY AUTOINCREMENT, {", ".join(Certificate._fields)});
PRAGMA user_version = {FORMAT};
"""


def open_spool(path: Path, timed: bool) -> sqlite3.Connection:
    """Open or begin the file. Raises SpoolDamaged, SpoolUnavailable, or Misuse for a spool of another order."""
    with translated(path):
        connection = sqlite3.connect(path, check_same_thread=False, timeout=1.0)
        try:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # later, once a page is written, it has no effect
            # Before WAL: then the log's index is in this process's memory, and no other can open the file.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
            form = connection.execute("PRAGMA user_version").fetchone()[0]
            kind = connection.execute("PRAGMA application_id").fetchone()[0]
            if form == FORMAT and kind != _KINDS[timed]:
                raise Misuse(
                    "other_order", "the spool was written in another order", place=str(path), cure="drain it first"
                )
            if form not in (0, FORMAT):
                raise SpoolUnavailable(
                    "newer_spool",
                    f"the spool has format {form}, this program reads {FORMAT}",
                    place=str(path),
                    cure="run the program that wrote it until it is drained",
                )
            if form == 0:
                connection.execute(f"PRAGMA application_id = {_KINDS[timed]}")
                connection.executescript(_SCHEMA)
        except BaseException:
            connection.close()
            raise
    return connection


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's errors as this library's."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _DAMAGE:
            raise damaged_spool(path, str(error)) from error
        raise SpoolUnavailable(
            "spool_unavailable", f"the spool cannot be used: {error}", place=str(path), cure="free the disk or the file"
        ) from error


def damaged_spool(path: Path, message: str) -> SpoolDamaged:
    """The error that names the file and the cure."""
    return SpoolDamaged(
        "spool_damaged",
        message,
        place=str(path),
        cure="open it again: the file is set aside and the feed is read again",
    )


def set_aside(path: Path) -> Path:
    """Rename a damaged file, and what belongs to it, so that it can be looked at; its new name."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}{suffix}", f"{aside}{suffix}")
    return aside
