"""What a sidecar's role lacks is named with its cure, and the cures are enough."""

from __future__ import annotations

import psycopg
import trio

from replicator.cluster.fencing.postgres import PostgresFence
from replicator.cluster.fencing.preflight import preflight
from tests.cluster.fencing.applications import refused
from tests.servers import free_port

ROLE = "fence_sidecar"


def about(dsn: str, tables: list[tuple[str, str]] | None = None) -> dict[str, str]:
    """What fails, with its cure."""
    return {finding.what: finding.cure for finding in preflight(dsn, tables) if finding.level == "fail"}


def test_a_superuser_lacks_nothing(dsn: str) -> None:
    assert [finding.level for finding in preflight(dsn)] == ["ok"]


async def test_the_cures_are_enough(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(f"DROP ROLE IF EXISTS {ROLE}; DROP ROLE IF EXISTS fence_owner".encode())
        db.execute(f"CREATE ROLE {ROLE} LOGIN; CREATE ROLE fence_owner; ALTER TABLE base OWNER TO fence_owner".encode())
        db.execute('GRANT USAGE ON SCHEMA "odd.one" TO PUBLIC')
        limited = dsn.replace("user=postgres", f"user={ROLE}")
        found = await trio.to_thread.run_sync(about, limited)
        assert len(found) == 4
        assert len(await trio.to_thread.run_sync(about, limited, [("public", "none")])) == 3
        for cure in found.values():
            db.execute(cure.encode())
        assert await trio.to_thread.run_sync(about, limited) == {}
        fence = PostgresFence(limited)
        await fence.install()
        refused(dsn)
        await fence.open(1, await fence.anchor(), 5)
        await fence.close(None)
        refused(dsn, "DELETE FROM base")
        fence.release()
        await PostgresFence(dsn).remove()
        db.execute(f"DROP OWNED BY {ROLE}; REASSIGN OWNED BY fence_owner TO postgres".encode())
        db.execute(f"DROP ROLE {ROLE}, fence_owner".encode())


def test_a_server_that_is_not_there() -> None:
    findings = preflight(f"host=127.0.0.1 port={free_port()} dbname=none user=none")
    assert [finding.level for finding in findings] == ["fail"]
    assert findings[0].cure
