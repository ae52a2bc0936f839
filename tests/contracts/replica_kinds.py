"""The replicas that the contract is run on, and rows to feed them.

A ``Kind`` makes replicas and readers on one database, and writes behind their back in the database's own words.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import psycopg

from replicator.format.definition import Column, Definition
from replicator.format.position import Position
from replicator.format.row import Cell, pack_row
from replicator.pipeline.replicas.base import AppliedMark, Reader, Replica, Step
from replicator.pipeline.replicas.postgres import PostgresReader, PostgresReplica
from replicator.pipeline.replicas.sqlite import SqliteReader, SqliteReplica


class Kind(Protocol):
    """One database of one kind of replica."""

    name: str

    def replica(self) -> Replica: ...
    def reader(self) -> Reader: ...
    def execute(self, sql: str) -> list[tuple[object, ...]]: ...
    def crash(self, replica: Replica) -> None: ...


class SqliteKind:
    name = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path

    def replica(self) -> Replica:
        return SqliteReplica(self.path)

    def reader(self) -> Reader:
        return SqliteReader(self.path)

    def execute(self, sql: str) -> list[tuple[object, ...]]:
        with sqlite3.connect(self.path, isolation_level=None) as connection:
            found = connection.execute(sql).fetchall()
        connection.close()
        return found

    def crash(self, replica: Replica) -> None:
        """A process that dies leaves its file as it is: nothing is committed by closing."""
        replica.close()


class PostgresKind:
    name = "postgres"

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def replica(self) -> Replica:
        return PostgresReplica(self.dsn)

    def reader(self) -> Reader:
        return PostgresReader(self.dsn)

    def execute(self, sql: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def crash(self, replica: Replica) -> None:
        self.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'replicator'"
            " AND datname = current_database()"
        )


STRAND = "main"


def applied(sequence: int, blocks: int | None = None) -> AppliedMark:
    return AppliedMark(Position(STRAND, 1, sequence, bytes([sequence % 256]) * 32), sequence * 1000, blocks or sequence)


def table(
    columns: Sequence[tuple[str, str]],
    key: Sequence[str],
    *,
    name: str = "wallets",
    namespace: str = "public",
    user: str | None = None,
    numbered: bool = True,
) -> Definition:
    """A definition whose rows come as text."""
    made = tuple(
        Column(column, kind, "text", nullable=column not in key, number=number if numbered else 0)
        for number, (column, kind) in enumerate(columns, 1)
    )
    return Definition(namespace, name, made, tuple(key), user)


def row(*cells: str | Cell) -> bytes:
    """A row image of texts."""
    return pack_row([cell.encode() if isinstance(cell, str) else cell for cell in cells])


def int4(number: int) -> bytes:
    return struct.pack(">i", number)


def int8(number: int) -> bytes:
    return struct.pack(">q", number)


def apply(replica: Replica, sequence: int, *steps: Step) -> None:
    """One transaction with these steps."""
    replica.begin()
    replica.apply(STRAND, steps)
    replica.commit(applied(sequence))


def contents(kind: Kind, name: str = "wallets") -> list[list[str | None]]:
    """The table's rows in canonical text, in an order that is the same everywhere."""
    reader = kind.reader()
    try:
        return sorted(reader.rows(name), key=lambda cells: [cell or "" for cell in cells])
    finally:
        reader.close()
