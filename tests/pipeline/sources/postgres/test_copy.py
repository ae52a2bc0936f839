"""The initial copy against tables that are altered just when it begins, and beside writers."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
import trio
import trio.testing

from replicator.errors import Halted, Unavailable
from replicator.pipeline.sources.postgres.copy import check_unchanged, lock_tables
from replicator.pipeline.sources.postgres.session import connect
from replicator.postgres.catalog import read_tables, table_oid
from tests.pipeline.sources.postgres.ledger import Collector, Ledger, assert_equal, caught_up, failure, following


@pytest.mark.parametrize(
    "statement",
    ["ALTER TABLE wallets ADD COLUMN more int", "TRUNCATE wallets", "VACUUM FULL wallets", "DROP TABLE wallets",
     "ALTER TABLE wallets RENAME TO purses", "ALTER TABLE wallets ALTER id TYPE bigint"],
)  # fmt: skip
def test_a_table_that_changes_between_snapshot_and_lock_is_noticed(ledger: Ledger, statement: str) -> None:
    with connect(ledger.options) as reader, connect(ledger.options) as fresh:
        oid = table_oid(reader, ("public", "wallets"))
        assert oid is not None
        tables = read_tables(reader, [oid])
        ledger.do("UPDATE wallets SET note = 'x'", "INSERT INTO wallets VALUES (500, 'a', 1, NULL)")
        check_unchanged(tables, fresh)  # rows may change
        ledger.do(statement)
        with pytest.raises(Unavailable) as raised:
            check_unchanged(tables, fresh)
    assert raised.value.reason == "table_changed_during_copy"
    assert "wallets" in raised.value.place


def test_behind_the_lock_rows_change_and_tables_do_not(ledger: Ledger) -> None:
    with connect(ledger.options) as reader:
        oid = table_oid(reader, ("public", "wallets"))
        assert oid is not None
        reader.execute("BEGIN")
        lock_tables(reader, read_tables(reader, [oid]))
        ledger.do("UPDATE wallets SET note = 'x'", "SET lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            ledger.do("ALTER TABLE wallets ADD COLUMN more int")


async def test_what_commits_beside_the_copy_is_in_it_or_behind_it(ledger: Ledger) -> None:
    sink = Collector()
    stop = trio.Event()

    async def write() -> None:
        number = 1000
        while not stop.is_set():
            number += 1
            await trio.to_thread.run_sync(
                ledger.do,
                f"INSERT INTO wallets VALUES ({number}, 'w', 1, NULL)",
                f"UPDATE wallets SET note = '{number}' WHERE id = {number % 100 + 1}",
                f"DELETE FROM wallets WHERE id = {number - 50}",
            )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        async with following(ledger, sink):
            await sink.until(lambda: len(sink.blocks) > 100)
            stop.set()
            await trio.testing.wait_all_tasks_blocked(0.05)
            await caught_up(ledger, sink)
    assert_equal(ledger, sink, "wallets")


async def test_a_value_that_has_no_text_form_halts_with_its_table(new_ledger: Callable[..., Ledger]) -> None:
    """In the copy and in the stream, which is text because of an enum; the rest of the table is not to blame."""
    ledger = new_ledger()
    ledger.do(
        "CREATE TYPE mood AS ENUM ('good')",
        "CREATE TABLE files (id int PRIMARY KEY, m mood DEFAULT 'good', content bytea)",
    )
    insert = "INSERT INTO files VALUES (1, 'good', convert_to(repeat('x', 536870911), 'UTF8'))"
    ledger.do(insert)
    sink = Collector()
    error = await failure(ledger, sink)
    assert (type(error), error.reason, error.place) == (Halted, "value_too_large", "table files")
    ledger.do("DELETE FROM files")
    error = await failure(ledger, sink, insert)
    assert (type(error), error.reason) == (Halted, "value_too_large")
    assert error.place == "table public.files, column content"
