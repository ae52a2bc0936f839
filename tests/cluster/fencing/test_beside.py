"""The fence beside the rest of the sidecar: replay writes to a closed replica, and the stream shows nothing of it."""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from replicator.cluster.fencing.postgres import PostgresFence
from replicator.format.statement import INSERT, UPDATE
from replicator.pipeline.replicas.base import Define, TableChange, Truncate
from replicator.pipeline.replicas.postgres import PostgresReplica
from tests.cluster.fencing.applications import APP, as_app, opened, refused, write
from tests.contracts.replica_kinds import STRAND, PostgresKind, apply, contents, row, table
from tests.pipeline.sources.postgres.conftest import new_ledger
from tests.pipeline.sources.postgres.ledger import Collector, Ledger, assert_equal, caught_up, following

__all__ = ["new_ledger"]
POINTS = table([("id", "integer"), ("owner", "text")], ["id"], name="points", user="owner")
WIDER = table([("id", "integer"), ("owner", "text"), ("more", "bigint")], ["id"], name="points", user="owner")
MANY = 300  # beyond what a replica writes row by row


def points(count: int, owner: str = "ann") -> list[bytes]:
    return [row(str(number), owner) for number in range(count)]


def replays_and_is_closed(dsn: str, app: str) -> None:
    """Every way in which replay writes; what it makes is closed to applications in the same transaction."""
    replica = PostgresReplica(dsn)
    replica.open()
    apply(replica, 1, Define(1, POINTS), TableChange(POINTS, [], [], [], points(2), []))
    with psycopg.connect(dsn) as db:
        db.execute(f"GRANT ALL ON points TO {APP}".encode())
    refused(app, "INSERT INTO points VALUES (1000, 'me')")
    apply(replica, 2, Truncate(POINTS), TableChange(POINTS, [], [], [], points(MANY), []))
    apply(replica, 3, TableChange(POINTS, [], [], [], [], points(MANY, "bob")))
    apply(replica, 4, TableChange(POINTS, [row("1")], [(row("2"), row("9999", "cem"))], [], [], [row("3", "dan")]))
    apply(replica, 5, Define(1, WIDER), TableChange(WIDER, [], [], [], [row("5000", "eve", "7")], []))
    replica.close()
    assert len(contents(PostgresKind(dsn), "points")) == MANY
    refused(app, "DELETE FROM points")
    with psycopg.connect(app) as db:
        assert db.execute("SELECT more FROM points WHERE id = 5000").fetchall() == [(7,)]


async def test_replay_writes_to_a_closed_replica(fence: PostgresFence, dsn: str) -> None:
    await fence.install()
    replays_and_is_closed(dsn, as_app(dsn))
    replica = PostgresReplica(dsn)
    replica.open()
    await opened(fence)
    write(as_app(dsn), "INSERT INTO points VALUES (1000, 'me')")
    await fence.close(None)
    assert replica.applied(STRAND) is not None, "its session goes on"
    replica.close()


async def test_replay_of_a_role_that_is_no_superuser(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(f"ALTER SCHEMA public OWNER TO {APP}; GRANT pg_read_all_stats TO {APP}".encode())
        db.execute(f'GRANT CREATE, TEMP ON DATABASE "{db.info.dbname}" TO {APP}'.encode())
        for name in ("wallets", "events", "base", "derived", "events_1", "marks"):
            db.execute(f"DROP TABLE IF EXISTS {name} CASCADE".encode())
        db.execute('DROP SCHEMA "odd.one" CASCADE')
    fence = PostgresFence(as_app(dsn))
    await fence.install()
    replays_and_is_closed(as_app(dsn), as_app(dsn))
    assert (await fence.look()).detail == "closed"
    fence.release()


async def test_the_stream_shows_nothing_of_it(new_ledger: Callable[..., Ledger]) -> None:
    ledger = new_ledger(sequence_seconds=0.05)
    ledger.do("CREATE TABLE wallets (id int PRIMARY KEY, note text, number serial)")
    sink = Collector()
    fence = PostgresFence(ledger.dsn)
    async with following(ledger, sink):
        await sink.until(lambda: bool(sink.blocks))
        await fence.install()
        await opened(fence)
        ledger.do("INSERT INTO wallets VALUES (1000, 'a')")
        for _ in range(3):
            await opened(fence)
        await fence.close("https://tokyo.example")
        ledger.sql = psycopg.connect(ledger.dsn, autocommit=True)
        await opened(fence, epoch=2)
        ledger.do("UPDATE wallets SET note = 'x' WHERE id = 1000")
        await caught_up(ledger, sink)
        await sink.until(lambda: bool(sink.sequences()))
    fence.release()
    assert_equal(ledger, sink, "wallets")
    changes = [[s[0] for s in block.statements if s[0] in (INSERT, UPDATE)] for block in sink.blocks[1:]]
    assert [found for found in changes if found] == [[INSERT], [UPDATE]]
    assert not [s for s in sink.statements() if b"replicator" in b"".join(p for p in s if isinstance(p, bytes))]
    assert set(sink.sequences()) == {"wallets_number_seq"}
    assert all(block.statements for block in sink.blocks), "no block is made of what is ours"
