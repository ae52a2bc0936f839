"""The read API is the same in every region: a PostgreSQL and a SQLite replica answer to the letter alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import trio

from replicator.format.position import Position
from replicator.ledger.api import routes
from replicator.ledger.outcomes import Outcomes
from replicator.ledger.reads import Reads
from replicator.pipeline.replay.replayer import Replayer
from replicator.pipeline.replicas.postgres.reader import PostgresReader
from replicator.pipeline.replicas.postgres.replica import PostgresReplica
from tests.ledger.region import Clock, Region, api, change, insert, served, transaction

ASKED = [
    "/v1/tables",
    "/v1/tables/points",
    "/v1/tables/wallets/documents/a%2Fb",
    "/v1/tables/wallets/documents/gone",
    "/v1/tables/wallets/documents/a%2Fb?as_of=4",
    "/v1/tables/wallets/history/a%2Fb",
    "/v1/tables/wallets/users/u?limit=1",
    "/v1/tables/wallets/users/u?limit=1&cursor=WyJhL2IiXQ",
    "/v1/tables/points/documents/t/7",
    "/v1/tables/points/documents/t/07",
    "/v1/tables/points/documents/t/x",
    "/v1/tables/points/documents/t",
    "/v1/tables/points/users/u",
    "/v1/tables/nothing/documents/a",
    "/v1/users/u",
    "/v1/users/%00",
]


def database_of(dsn: str) -> psycopg.Connection:
    return psycopg.connect(dsn, autocommit=True)


async def test_both_replicas_answer_alike(
    region: Region, clock: Clock, new_database: Callable[[], str], tmp_path: Path
) -> None:
    for body in (
        transaction(insert(wallet_id="a/b", user_id="u", n=1), insert(wallet_id="B", user_id="u", x=[None, True, "ü"])),
        transaction(change("add", "a/b", add={"n": 10**30}), insert("points", tenant="t", number=7, user_id="u")),
        transaction(insert(wallet_id="gone")),
        transaction(change("delete", "gone"), change("update", "a/b", set={"n": 0.5})),
    ):
        clock.now += 1
        await region.ledger.submit(body)
    dsn = new_database()
    replica = PostgresReplica(dsn)
    replayer = Replayer(region.journal, replica, "main", 1 << 20, 100)
    replayer.open()
    while replayer.applied.position != region.journal.head("main"):
        replayer.step()
    replica.close()

    async def there(position: Position, seconds: float) -> bool:
        return True

    postgres = Reads("main", lambda: PostgresReader(dsn), region.journal, region.index, there, lambda: None)
    head = str(region.journal.head("main"))
    others = routes(None, postgres, Outcomes("main", tmp_path / "other.sqlite3", region.journal, leads=False))
    async with served(api(region)) as primary, served(others) as other:
        for path in ASKED:
            answers = [await client.get(path) for client in (primary, other)]
            assert answers[0].status_code == answers[1].status_code, path
            assert answers[0].content == answers[1].content, path
            if answers[0].status_code == 200 and "as_of" not in path:
                assert {answer.headers["Position"] for answer in answers} == {head}
        with database_of(dsn) as database:  # the replica's database ends every session, and is there again
            database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            assert (await other.get("/v1/tables/points/documents/t/7")).status_code == 200
            assert (await other.get("/v1/users/u")).status_code == 200
    await trio.to_thread.run_sync(postgres.close)
