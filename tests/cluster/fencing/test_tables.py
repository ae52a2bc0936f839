"""Which tables are fenced: all, those that come later, or the configured ones; set up twice, half, and taken away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import psycopg
import pytest

from replicator.cluster.fencing.postgres import PostgresFence
from replicator.errors import Halted, Unavailable
from replicator.postgres.nonblocking import NonblockingSession, Row
from tests.cluster.fencing.applications import ADD, APP, as_app, balance, opened, refused, write

CATALOG = (
    "SELECT (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal), (SELECT count(*) FROM pg_event_trigger),"
    " (SELECT count(*) FROM pg_proc WHERE pronamespace = to_regnamespace('replicator')),"
    " (SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace('replicator'))"
)


def catalog(dsn: str) -> tuple[int, ...]:
    with psycopg.connect(dsn, autocommit=True) as db:
        found = db.execute(CATALOG.encode()).fetchone()
    assert found is not None
    return found


def owned_by_app(dsn: str) -> None:
    """The application's role may do what a sidecar that is no superuser needs."""
    with psycopg.connect(dsn, autocommit=True) as db:
        for table in ("wallets", "events", "events_1", "base", "derived", "marks", '"odd.one"."a ""b\'"'):
            db.execute(f"ALTER TABLE {table} OWNER TO {APP}".encode())
        db.execute(f'GRANT ALL ON SCHEMA public, "odd.one" TO {APP}; GRANT pg_read_all_stats TO {APP}'.encode())
        name = db.info.dbname
        db.execute(f'GRANT CREATE ON DATABASE "{name}" TO {APP}'.encode())


async def test_installing_twice_changes_nothing(fence: PostgresFence, dsn: str) -> None:
    await fence.install()
    made = catalog(dsn)
    assert made[:2] == (7, 2)
    await opened(fence)
    await fence.install()
    assert catalog(dsn) == made
    write(dsn)
    await opened(fence)


async def test_a_set_up_that_is_interrupted_anywhere_is_finished_by_the_next(
    new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so is a removal."""
    run, limit = NonblockingSession.run, 1_000_000

    class Interrupted(Exception):
        pass

    async def counted(self: NonblockingSession, statement: str, *parameters: str | int | None) -> list[Row]:
        nonlocal limit
        if limit == 0:
            raise Interrupted
        limit -= 1
        return await run(self, statement, *parameters)

    async def interrupted(call: Callable[[], Awaitable[None]], steps: int) -> bool:
        nonlocal limit
        limit = steps
        try:
            await call()
        except Interrupted:
            return True
        finally:
            limit = 1_000_000
        return False

    dsn = new_database()
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("CREATE TABLE wallets (id int, balance int); CREATE TABLE other (id int)")
    monkeypatch.setattr(NonblockingSession, "run", counted)
    fence = PostgresFence(dsn)
    steps, more = 0, True
    while more:
        more = await interrupted(fence.install, steps)
        await fence.install()
        assert (await fence.look()).detail == "closed"
        refused(dsn, "INSERT INTO other VALUES (1)")
        more |= await interrupted(fence.remove, steps)
        await fence.remove()
        write(dsn)
        steps += 6 if steps < 24 else 1  # what is done in one transaction is not looked at step by step
    assert steps > 30
    fence.release()


async def test_new_tables_are_fenced_as_they_are_made(fence: PostgresFence, dsn: str) -> None:
    await fence.install()
    await opened(fence)
    fresh = (
        ("CREATE TABLE one (id int)", "one"),
        ("CREATE TABLE two AS SELECT 1 AS id", "two"),
        ("SELECT 1 AS id INTO three", "three"),
        ("CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM (100) TO (200)", "events_2"),
        ("CREATE SCHEMA four CREATE TABLE four (id int)", "four.four"),
        ("CREATE UNLOGGED TABLE five (id int)", "five"),
    )
    for statement, _ in fresh[:4]:
        write(as_app(dsn) if "events" not in statement else dsn, statement)
    for statement, _ in fresh[4:]:
        write(dsn, statement)
    write(dsn, "ALTER TABLE wallets DISABLE TRIGGER ALL")
    assert (await fence.look()).detail.startswith("open for")
    await fence.close(None)
    for _, table in fresh:
        refused(dsn, f"DELETE FROM {table}")
    refused(dsn)


async def test_without_a_superuser_new_tables_are_found(dsn: str) -> None:
    owned_by_app(dsn)
    fence = PostgresFence(as_app(dsn))
    await fence.install()
    refused(as_app(dsn))
    await opened(fence)
    write(as_app(dsn), "CREATE TABLE later (id int)")
    write(as_app(dsn), "CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM (100) TO (200)")
    assert "public.events_2, public.later" in (await fence.look()).detail
    fence._scanned = -1e9  # as if the time to look again had come
    await opened(fence)
    assert "later" not in (await fence.look()).detail
    write(as_app(dsn), "CREATE TABLE latest (id int)")
    with psycopg.connect(as_app(dsn)) as app:
        app.execute("INSERT INTO latest VALUES (1)")
        await fence.close(None)
        with pytest.raises(psycopg.OperationalError):
            app.commit()
    for table in ("later", "latest", "events_2"):
        refused(as_app(dsn), f"DELETE FROM {table}")
    fence.release()


async def test_a_table_that_is_in_use_does_not_hold_up_a_renewal(dsn: str) -> None:
    owned_by_app(dsn)
    fence = PostgresFence(as_app(dsn))
    await fence.install()
    await opened(fence)
    write(as_app(dsn), "CREATE TABLE later (id int)")
    with psycopg.connect(as_app(dsn)) as app:
        app.execute("INSERT INTO later VALUES (1)")
        fence._scanned = -1e9
        await opened(fence)
        assert "later" in (await fence.look()).detail
    fence._scanned = -1e9
    await opened(fence)
    assert "later" not in (await fence.look()).detail
    fence.release()


async def test_only_the_configured_tables(dsn: str) -> None:
    fence = PostgresFence(dsn, [("public", "events"), ("odd.one", "a \"b'"), ("public", "none")])
    await fence.install()
    write(dsn)
    write(dsn, "CREATE TABLE other (id int)")
    refused(dsn, "DELETE FROM events")
    refused(dsn, "DELETE FROM events_1")
    refused(dsn, 'DELETE FROM "odd.one"."a ""b\'"')
    await opened(fence)
    write(dsn, "CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM (100) TO (200)")
    await fence.close(None)
    refused(dsn, "DELETE FROM events_2")
    fence.release()


async def test_a_foreign_hand_on_the_trigger_is_put_right(fence: PostgresFence, dsn: str) -> None:
    await fence.install()
    write(dsn, "ALTER EVENT TRIGGER replicator_fence_altered DISABLE")
    write(dsn, "DROP TRIGGER replicator_fence ON wallets")
    write(dsn, "ALTER TABLE base ENABLE TRIGGER replicator_fence")
    assert "public.base, public.wallets" in (await fence.look()).detail
    await fence.close(None)
    assert (await fence.look()).detail == "closed"
    refused(dsn)
    refused(dsn, "SET session_replication_role = replica; DELETE FROM base")


async def test_removed_nothing_is_left(fence: PostgresFence, dsn: str) -> None:
    before = catalog(dsn)
    await fence.remove()
    await fence.install()
    await opened(fence)
    await fence.remove()
    assert catalog(dsn) == before
    write(dsn)
    view = await fence.look()
    assert (view.open, view.detail) == (True, "not installed")
    await fence.install()
    refused(dsn)
    assert balance(dsn) == 11


async def test_a_table_that_is_in_use_for_long_is_named(
    fence: PostgresFence, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.cluster.fencing.postgres.ATTEMPTS", 2)
    with psycopg.connect(dsn) as app:
        app.execute(ADD.encode())
        with pytest.raises(Unavailable) as caught:
            await fence.install()
        assert (caught.value.reason, caught.value.place) == ("fence_locked", "table public.wallets")
    await fence.install()
    refused(dsn)


async def test_opening_what_was_never_set_up(fence: PostgresFence) -> None:
    with pytest.raises(Halted) as caught:
        await opened(fence)
    assert caught.value.reason == "fence_missing"
