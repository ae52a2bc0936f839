"""Writing to a promoted fork as an application does it: through the embedded ledger, or in its database."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

import trio
from psycopg import sql

from replicator.ledger.ledger import Ledger
from replicator.ledger.tables import TableDeclaration
from replicator.ops.drills.canary_writers import APPLICATION_NAME
from replicator.ops.drills.fork_place import MARK
from replicator.pipeline.replicas.base import Reader
from replicator.postgres.errors import REPLICA
from replicator.postgres.session import Connection, Database

PAGE_ROWS = 500


class ForkWriter(Protocol):
    """How the promoted fork is written to."""

    async def write(self, number: int) -> None:
        """Write one canary; it is durable on return."""

    async def held(self) -> int:
        """The number of canaries that the fork holds."""


class EmbeddedFork:
    """Writes canaries into the embedded ledger. ``run`` it while it is written to."""

    def __init__(self, ledger: Ledger, table: str, open_reader: Callable[[], Reader]) -> None:
        self._ledger, self._table, self._open_reader = ledger, table, open_reader

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve writes until cancelled."""
        declaration = TableDeclaration(self._table, ("canary_id",), ("string",), "user_id")
        await self._ledger.run((declaration,), task_status=task_status)

    async def write(self, number: int) -> None:
        document = {"canary_id": f"{number}", "user_id": MARK, "number": number}
        statements = [{"op": "put", "table": self._table, "document": document}]
        await self._ledger.submit(json.dumps({"id": f"{MARK}-{number}", "statements": statements}).encode())

    async def held(self) -> int:
        return await trio.to_thread.run_sync(self._count)

    def _count(self) -> int:
        reader = self._open_reader()
        try:
            count, after = 0, None
            while page := reader.of_user(self._table, MARK, PAGE_ROWS, after):
                count += len(page)
                after = [str(page[-1].key["canary_id"])]
            return count
        finally:
            reader.close()


class PostgresFork:
    """Writes canaries into the fork's database."""

    def __init__(self, dsn: str, table: str) -> None:
        self._database = Database(dsn, REPLICA, name=APPLICATION_NAME)
        self._name = sql.SQL(".").join(sql.Identifier(part) for part in table.split(".", 1))
        self._db: Connection | None = None

    async def open(self) -> None:
        """Connect, and make the table if the copy did not bring it."""
        await trio.to_thread.run_sync(self._open)

    def _open(self) -> None:
        # Nobody follows a fork: on a server whose commits wait for other regions they would wait for ever.
        self._db = self._database.connect_as_application({"synchronous_commit": "local"})
        text = (
            "CREATE TABLE IF NOT EXISTS {} (canary_id text PRIMARY KEY, user_id text NOT NULL,"
            " number bigint NOT NULL, amount numeric NOT NULL, currency text NOT NULL)"
        )
        self._execute(sql.SQL(text).format(self._name), ())

    async def write(self, number: int) -> None:
        query = sql.SQL("INSERT INTO {} VALUES (%s, %s, %s, 0, '')").format(self._name)
        await trio.to_thread.run_sync(self._execute, query, (f"{MARK}-{number}", MARK, number))

    async def held(self) -> int:
        query = sql.SQL("SELECT count(*) FROM {} WHERE user_id = %s").format(self._name)
        return int(await trio.to_thread.run_sync(self._execute, query, (MARK,)))

    async def close(self) -> None:
        if self._db is not None:
            await trio.to_thread.run_sync(self._db.close)

    def _execute(self, query: sql.Composed, values: tuple[object, ...]) -> Any:
        assert self._db is not None
        with self._database.translated():
            cursor = self._db.execute(query, values)
            row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None
