"""Canaries in PostgreSQL: written by the plan's own dsn, seen in the other region, and taken out again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from replicator.cluster.fencing.postgres import PostgresFence
from replicator.errors import ConfigError, ReplicatorError, Unavailable
from replicator.ops.drills import canary_writers
from replicator.ops.drills.canary_writers import PostgresCanaryWriter, WriteAcknowledged, WriteNotHere, WriteUnknown
from replicator.ops.drills.rules.plan import CanaryPlan
from tests.e2e.sidecars import Sidecar, sequence
from tests.ops.drills.deployment import Drill
from tests.servers import Postgres, postgres_bin


@pytest.fixture(scope="module")
def regions(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sidecar, Sidecar, str]]:
    tmp_path = tmp_path_factory.mktemp("regions")
    primary = postgres.create_database("canary_primary")
    with psycopg.connect(primary, autocommit=True) as db:
        db.execute("CREATE TABLE points (user_id text PRIMARY KEY, points int)")
    source = f'[source]\nkind = "postgres"\ndsn = "{primary}"\nslot = "canary_paris"\n'
    paris = Sidecar(tmp_path, "paris", "primary", source)
    rest = f'[follow]\nprimary = "{paris.url}"\n\n[replica]\nkind = "sqlite"\npath = "ledger.db"\n'
    tokyo = Sidecar(tmp_path, "tokyo", "replica", rest)
    try:
        for sidecar in (paris, tokyo):
            sidecar.start()
            sidecar.reach(lambda status: bool(status["ready"]) and sequence(status, "settled") > 0, "ready")
        yield paris, tokyo, primary
    finally:
        paris.end()
        tokyo.end()


def test_canaries_are_written_in_the_database(regions: tuple[Sidecar, Sidecar, str], tmp_path: Path) -> None:
    _, tokyo, primary = regions
    plan = f"""
kind = "canary"
duration = "1s"
[canary]
rate = 10
dsn = {{ paris = "{primary}" }}
[targets]
rpo_blocks = 0
max_blocked = "10s"
[steps]
steady = "200ms"
"""
    drill = Drill(tmp_path / "drill", plan, str(tokyo.config))
    code, said = drill.run()
    assert code == 0, said
    report = drill.report()
    assert report["canaries"]["acknowledged"] > 8
    assert {region["region"]: region["missing_blocks"] for region in report["regions"]} == {"paris": 0, "tokyo": 0}
    assert {region["compared"] for region in report["regions"]} == {"reference", "equal"}
    assert primary not in (drill.report_dir / "report.json").read_text()
    with psycopg.connect(primary) as db:
        assert db.execute("SELECT count(*) FROM replicator_canary").fetchone() == (0,)


def test_a_drill_whose_canaries_are_refused_is_undone_and_fails(
    regions: tuple[Sidecar, Sidecar, str], tmp_path: Path
) -> None:
    _, tokyo, primary = regions
    run = f'"{postgres_bin() / "psql"}", "{primary}", "-c"'
    plan = f"""
kind = "disk_full"
target = "paris"
duration = "60s"
[fault]
inject = [{run}, "ALTER TABLE replicator_canary ADD CONSTRAINT full_up CHECK (number < 0) NOT VALID"]
undo = [{run}, "ALTER TABLE replicator_canary DROP CONSTRAINT full_up"]
[canary]
rate = 10
dsn = {{ paris = "{primary}" }}
[steps]
steady = "200ms"
recover = "20s"
"""
    drill = Drill(tmp_path / "drill", plan, str(tokyo.config))
    code, said = drill.run()
    assert code == 3, said
    report = drill.report()
    assert report["outcome"] == "failed"
    assert "a canary is refused" in report["why"]
    with psycopg.connect(primary) as db:
        assert db.execute("SELECT 1 FROM pg_constraint WHERE conname = 'full_up'").fetchone() is None
    assert drill.left() == []


async def test_a_write_that_is_sent_again_is_the_same_write(postgres: Postgres) -> None:
    dsn = postgres.create_database("canary_twice")
    writing = PostgresCanaryWriter(
        "d1", CanaryPlan(), {"paris": dsn, "tokyo": dsn.replace(f"port={postgres.port}", "port=1")}
    )
    await writing.prepare("paris")
    await writing.prepare("paris")
    assert await writing.write("paris", 1) == WriteAcknowledged()
    assert await writing.write("paris", 1) == WriteAcknowledged()
    with psycopg.connect(dsn) as db:
        assert db.execute("SELECT canary_id, user_id, number FROM replicator_canary").fetchall() == [("d1-1", "d1", 1)]
    assert isinstance(await writing.write("tokyo", 2), WriteUnknown)
    assert isinstance(await writing.write("lima", 2), WriteUnknown)
    await writing.close()


async def test_a_database_that_takes_no_writes_is_not_here(postgres: Postgres) -> None:
    dsn = postgres.create_database("canary_fenced")
    writing = PostgresCanaryWriter("d1", CanaryPlan(), {"paris": dsn})
    await writing.prepare("paris")
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("ALTER DATABASE canary_fenced SET default_transaction_read_only = on")
    await writing.close()
    assert await writing.write("paris", 1) == WriteNotHere()
    await writing.close()


async def test_a_session_that_was_ended_is_made_anew(postgres: Postgres) -> None:
    dsn = postgres.create_database("canary_ended")
    writing = PostgresCanaryWriter("d1", CanaryPlan(), {"paris": dsn})
    await writing.prepare("paris")
    with postgres.connect() as db:
        db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'canary_ended'")
    assert isinstance(await writing.write("paris", 1), WriteUnknown)
    assert await writing.write("paris", 1) == WriteAcknowledged()
    await writing.close()


async def test_what_no_repetition_cures_is_raised(postgres: Postgres) -> None:
    dsn = postgres.create_database("canary_wrong")
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("CREATE TABLE replicator_canary (something int)")
    writing = PostgresCanaryWriter("d1", CanaryPlan(), {"paris": dsn})
    await writing.prepare("paris")
    with pytest.raises(ReplicatorError) as refused:
        await writing.write("paris", 1)
    assert refused.value.reason == "canary_refused"
    with pytest.raises(ConfigError, match="there is no dsn"):
        await writing.prepare("rome")
    await writing.close()


async def test_canaries_are_written_where_an_application_may_write(new_database: Callable[[], str]) -> None:
    """Not under a name of the sidecar's own, which the fence lets nobody else use."""
    dsn = new_database()
    writing = PostgresCanaryWriter("one", CanaryPlan(), {"paris": dsn})
    await writing.prepare("paris")
    fence = PostgresFence(dsn)
    await fence.install()
    assert await writing.write("paris", 1) == WriteNotHere()
    await fence.open(1, await fence.anchor(), 30)
    assert isinstance(await writing.write("paris", 2), WriteAcknowledged)
    await writing.close()
    await fence.close(None)
    fence.release()


async def test_a_refusal_sends_a_canary_where_the_primary_is(new_database: Callable[[], str]) -> None:
    dsn = new_database()
    known = lambda text: "tokyo" if "http://tokyo:1" in text else None  # noqa: E731
    writing = PostgresCanaryWriter("one", CanaryPlan(), {"paris": dsn}, known)
    assert await writing.write("paris", 1) == WriteNotHere(), "a table that has not come yet is no failure"
    await writing.prepare("paris")
    fence = PostgresFence(dsn)
    await fence.install()
    await fence.close("http://tokyo:1")
    assert isinstance(await writing.write("paris", 1), WriteUnknown), "its session was ended"
    assert await writing.write("paris", 1) == WriteNotHere("tokyo")
    await writing.close()
    fence.release()


async def test_a_region_in_which_canaries_could_not_be_written_is_found_before_it_leads(
    new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table is the sidecar's where it was replicated, and the role of the canaries an application's."""
    paris, tokyo = new_database(), new_database()
    with psycopg.connect(tokyo, autocommit=True) as db:
        db.execute("DROP ROLE IF EXISTS canary")
        db.execute("CREATE ROLE canary LOGIN")
    as_canary = make_conninfo(tokyo, user="canary")
    writing = PostgresCanaryWriter("one", CanaryPlan(), {"paris": paris, "tokyo": as_canary})
    monkeypatch.setattr(canary_writers, "CARRIED_SECONDS", 0.2)
    with pytest.raises(Unavailable, match="replicator_canary is not there"):
        await writing.check("tokyo")
    for made in (paris, tokyo):
        await PostgresCanaryWriter("one", CanaryPlan(), {"any": made}).prepare("any")
    with pytest.raises(ConfigError, match="the role canary may not write to") as refused:
        await writing.check("tokyo")
    owner, cure = refused.value.cure.removeprefix("as ").split(": ", 1)
    with psycopg.connect(make_conninfo(tokyo, user=owner), autocommit=True) as db:
        db.execute(cure.encode())
    await writing.check("tokyo")
    assert await writing.write("tokyo", 1) == WriteAcknowledged()
    await writing.remove("tokyo")
    await writing.close()
    with psycopg.connect(tokyo, autocommit=True) as db:
        assert db.execute("SELECT count(*) FROM replicator_canary").fetchone() == (0,)
        db.execute("DROP OWNED BY canary")
        db.execute("DROP ROLE canary")
