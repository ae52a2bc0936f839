"""A PostgreSQL primary takes orphans of another region: whole, once, and only where the rows are as they were."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio
from httpx import AsyncClient

from replicator.cluster.rejoin.orphan_receiver import PostgresOrphanReceiver
from replicator.cluster.rejoin.orphans import Orphans
from replicator.cluster.rejoin.serve import routes
from replicator.errors import Rejected
from replicator.format.statement import pack_delete, pack_insert, pack_update
from replicator.pipeline.feed.client import Upstream
from replicator.storage.data_dir import DataDir
from replicator.transport.server import Listen, application, serve
from tests.cluster.rejoin.chains import Chain, sealed
from tests.contracts.replica_kinds import STRAND, PostgresKind, SqliteKind, row
from tests.servers import free_port
from tests.verify.repair.histories import line
from tests.verify.repair.world import LOG, NOTES, note

Fields = dict[str, Any]
NAMES = ("id", "owner", "body", "n")


@pytest.fixture
def dsn(new_database: Callable[[], str]) -> str:
    made = new_database()
    with psycopg.connect(made, autocommit=True) as db:
        db.execute("CREATE TABLE notes (id bigint PRIMARY KEY, owner text, body text, n numeric(12,2))")
        db.execute("CREATE TABLE log (line text, n integer)")
        db.execute("INSERT INTO notes SELECT n, 'ann', 'body', 1.00 FROM generate_series(1, 9) AS n")
    return made


def notes(dsn: str) -> dict[int, tuple[str, str, str]]:
    with psycopg.connect(dsn, autocommit=True) as db:
        found = db.execute("SELECT id, owner, body, n::text FROM notes ORDER BY id")
        return {number: (owner, body, n) for number, owner, body, n in found}


def row_change(number: int, before: str | None, after: str | None) -> Fields:
    """A change of a note's owner."""
    rows = [
        None if owner is None else dict(zip(NAMES, (str(number), owner, "body", "1.00"), strict=True))
        for owner in (before, after)
    ]
    return {"table": "notes", "key": {"id": str(number)}, "before": rows[0], "after": rows[1]}


def receiver(dsn: str) -> PostgresOrphanReceiver:
    return PostgresOrphanReceiver(dsn, {"notes": NOTES, "log": LOG})


def test_it_is_carried_out_once(dsn: str) -> None:
    rows = [
        row_change(1, "ann", "bob"),
        row_change(1, "bob", "eve"),
        row_change(2, "ann", None),
        row_change(20, None, "new"),
    ]
    assert receiver(dsn).take(rows)
    after = notes(dsn)
    assert (after[1][0], 2 in after, after[20][0]) == ("eve", False, "new")
    assert not receiver(dsn).take(rows)
    assert notes(dsn) == after


@pytest.mark.parametrize(
    "wrong",
    [
        row_change(1, "bob", "eve"),
        row_change(1, None, "new"),
        row_change(99, "ann", "bob"),
        row_change(99, "ann", None),
    ],
)
def test_a_row_that_is_not_as_it_was_refuses_the_whole(dsn: str, wrong: Fields) -> None:
    before = notes(dsn)
    with pytest.raises(Rejected) as refused:
        receiver(dsn).take([row_change(3, "ann", "bob"), wrong])
    assert refused.value.reason == "row_changed"
    assert notes(dsn) == before


def test_what_the_database_refuses_is_refused(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("ALTER TABLE notes ADD CHECK (owner <> 'bob')")
    before = notes(dsn)
    with pytest.raises(Rejected, match="violates check constraint"):
        receiver(dsn).take([row_change(3, "ann", "eve"), row_change(4, "ann", "bob")])
    assert notes(dsn) == before


@pytest.mark.parametrize("label", ["log", "nothing"])
def test_rows_that_cannot_be_told_apart_are_refused(dsn: str, label: str) -> None:
    key = {"_sequence": "1", "_ordinal": "0"}
    with pytest.raises(Rejected) as refused:
        receiver(dsn).take([{"table": label, "key": key, "before": None, "after": {**key, "line": "x", "n": "1"}}])
    assert refused.value.reason == "cannot_take"


async def test_somebody_who_is_quicker(dsn: str) -> None:
    """The row is locked by another session, which then changes it."""
    async with await _begun(dsn) as other:
        await trio.to_thread.run_sync(other.execute, "UPDATE notes SET owner = 'quick' WHERE id = 5")
        refusals: list[Rejected] = []

        def take() -> None:
            try:
                receiver(dsn).take([row_change(5, "ann", "bob")])
            except Rejected as error:
                refusals.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, take)
            await _waits_for_lock(dsn)
            await trio.to_thread.run_sync(other.execute, "COMMIT")
    assert [refusal.reason for refusal in refusals] == ["row_changed"]
    assert notes(dsn)[5][0] == "quick"


async def _begun(dsn: str) -> contextlib.AbstractAsyncContextManager[psycopg.Connection]:
    connection = await trio.to_thread.run_sync(lambda: psycopg.connect(dsn, autocommit=True))
    connection.execute("BEGIN")

    @contextlib.asynccontextmanager
    async def closing() -> AsyncIterator[psycopg.Connection]:
        try:
            yield connection
        finally:
            connection.close()

    return closing()


async def _waits_for_lock(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db, trio.fail_after(20):
        sql = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        while db.execute(sql).fetchone() is None:  # noqa: ASYNC110  # nothing sets an event
            await trio.sleep(0.01)


@contextlib.asynccontextmanager
async def primary(dsn: str, orphans: Orphans) -> AsyncIterator[str]:
    """A PostgreSQL primary's HTTP surface."""
    async with trio.open_nursery() as nursery:
        port = free_port()
        app = application(routes(orphans, lambda: receiver(dsn)), "secret")
        await nursery.start(serve, app, Listen("127.0.0.1", port), trio.sleep_forever)
        yield f"http://127.0.0.1:{port}"
        nursery.cancel_scope.cancel()


async def test_from_region_to_primary(tmp_path: Path, dsn: str, new_database: Callable[[], str]) -> None:
    """A replica region that had received orphans goes back, follows, and has them re-applied at the primary."""
    old = Chain(tmp_path / "old", PostgresKind(new_database()))
    new = Chain(tmp_path / "new", SqliteKind(tmp_path / "new.db"), epoch=2)
    old.define()
    old.write(*(pack_insert(1, note(number)) for number in range(1, 10)))
    new.take(old)
    old.write(pack_update(1, note(1, "bob")), pack_update(1, note(50, "moved"), row("2")))
    old.write(pack_update(1, note(1, "eve")), pack_delete(1, row("3")))
    old.write(pack_update(1, note(4, "bob")))
    old.write(pack_insert(3, line("a line", 1)))
    old.replay()
    new.write(pack_update(1, note(4, "first")))
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("UPDATE notes SET owner = 'first' WHERE id = 4")
    fork, seal = await sealed(old, new)
    old.rewind().run(seal, fork)
    old.take(new)
    old.replay()
    url: list[str] = []
    orphans = Orphans(
        DataDir(old.directory), old.journal, old.history, STRAND, lambda: Upstream(url[0], "old", "secret")
    )
    assert orphans.count() == 4
    async with primary(dsn, orphans) as address:
        url.append(address)
        sent = (await orphans.reapply(seal.id, [3, 4, 5, 6], "ann", apply=True))["transactions"]
        outcomes = [(transaction["verdict"], transaction["outcome"]) for transaction in sent]
        assert outcomes == [
            ("clean", "re-applied"),
            ("clean", "re-applied"),
            ("conflict", "left alone"),
            ("clean", "refused"),  # rows without a key: by hand
        ]
        after = notes(dsn)
        assert (after[1][0], after[50][0], after[4][0]) == ("eve", "moved", "first")
        assert not {2, 3} & after.keys()
        (directory,) = (old.directory / "orphans").iterdir()
        (directory / "handled.jsonl").unlink()  # that they were re-applied is forgotten
        await orphans.reapply(seal.id, [3], "ann", apply=True)
        assert notes(dsn) == after
        async with AsyncClient(base_url=address, headers={"Authorization": "Bearer secret"}) as client:
            for rows in ([], [{"table": "notes"}], [{**_change(), "key": {"id": 1}}], [{**_change(), "more": 1}]):
                answer = await client.post("/v1/orphans/take", json={"orphan": "x", "who": "ann", "rows": rows})
                assert answer.status_code == 422
    for chain in (old, new):
        chain.close()


def _change() -> Fields:
    return {"table": "notes", "key": {"id": "1"}, "before": None, "after": None}
