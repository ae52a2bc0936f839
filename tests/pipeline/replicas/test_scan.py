"""Reading a whole table at one moment, and nobody who wants to alter it has to wait for that."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg
import pytest

from replicator.errors import Halted, Unavailable
from replicator.format.definition import Definition
from replicator.pipeline.replicas.postgres import PostgresReader
from tests.contracts.replica_kinds import table

WIDE = table([("id", "integer"), ("note", "text")], ["id"], name="wide")
ROWS = 200_000


@pytest.fixture
def dsn(new_database: Callable[[], str]) -> str:
    return new_database()


def do(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        for statement in statements:
            db.execute(statement.encode())


def moment(dsn: str, definition: Definition = WIDE) -> PostgresReader:
    reader = PostgresReader(dsn, {1: definition})
    reader.snapshot()
    return reader


def fill(dsn: str, rows: int = ROWS) -> None:
    do(
        dsn,
        "CREATE TABLE wide (id int PRIMARY KEY, note text)",
        f"INSERT INTO wide SELECT i, repeat('x', 40) FROM generate_series(1, {rows}) i",
    )


def ids(chunks: Iterator[list[tuple[bytes, bytes]]]) -> list[int]:
    return sorted(int(key) for chunk in chunks for key, _ in chunk)


def test_who_waits_to_lock_the_table_gets_it_while_it_is_read(dsn: str) -> None:
    fill(dsn)
    waits: list[float] = []
    over = threading.Event()

    def lock() -> None:
        with psycopg.connect(dsn) as db:
            while not over.is_set():
                began = time.monotonic()
                db.execute("LOCK TABLE wide IN ACCESS EXCLUSIVE MODE")
                waits.append(time.monotonic() - began)
                db.rollback()
                over.wait(0.01)

    waiting = threading.Thread(target=lock)
    with closing(moment(dsn)) as reader:
        waiting.start()
        try:
            # What is read slowly, as a scrub reads, is not locked between two stretches either.
            seen = [key for number, chunk in enumerate(reader.lines("wide")) for key, _ in _slowly(number, chunk)]
        finally:
            over.set()
            waiting.join()
    assert len(seen) == len(set(seen)) == ROWS
    assert len(waits) > 3
    assert max(waits) < 1, max(waits)


def _slowly(number: int, chunk: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    if number % 20 == 0:
        time.sleep(0.05)
    return chunk


def test_it_is_one_moment_whatever_is_written_and_altered_meanwhile(dsn: str) -> None:
    fill(dsn, 20_000)
    with closing(moment(dsn)) as reader:
        chunks = reader.lines("wide")
        first = next(chunks)
        do(
            dsn,
            "UPDATE wide SET note = 'new' WHERE id % 2 = 0",
            "DELETE FROM wide WHERE id % 3 = 0",
            "INSERT INTO wide SELECT i, 'more' FROM generate_series(20001, 60000) i",
            "VACUUM wide",
            "ALTER TABLE wide ADD COLUMN later int",
            "CREATE INDEX ON wide (note)",
        )
        rest = [row for chunk in chunks for row in chunk]
        assert sorted(int(key) for key, _ in first + rest) == list(range(1, 20_001))
        assert all(line.endswith(b"x" * 40) for _, line in first + rest)


@pytest.mark.parametrize(
    "change",
    [
        "TRUNCATE wide",
        "VACUUM FULL wide",
        "CLUSTER wide USING wide_pkey",
        "DROP TABLE wide",
        "ALTER TABLE wide ALTER COLUMN id TYPE bigint",
        "ALTER TABLE wide RENAME TO other",
    ],
)
@pytest.mark.parametrize("begun", [False, True])
def test_a_table_that_is_emptied_or_rewritten_is_not_taken_for_what_is_left_of_it(
    dsn: str, change: str, *, begun: bool
) -> None:
    fill(dsn, 20_000)
    with closing(moment(dsn)) as reader:
        chunks = reader.lines("wide")
        if begun:
            next(chunks)
        do(dsn, change)
        with pytest.raises(Unavailable) as caught:
            list(chunks)
    assert caught.value.reason == "table_changed"


def test_partitions_are_read_with_their_table_and_inheriting_tables_are_not(dsn: str) -> None:
    do(
        dsn,
        "CREATE TABLE wide (id int PRIMARY KEY, note text) PARTITION BY RANGE (id)",
        "CREATE TABLE low PARTITION OF wide FOR VALUES FROM (0) TO (5000)",
        "CREATE TABLE high PARTITION OF wide FOR VALUES FROM (5000) TO (50000) PARTITION BY HASH (id)",
        "CREATE TABLE high1 PARTITION OF high FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
        "CREATE TABLE high2 PARTITION OF high FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
        "INSERT INTO wide SELECT i, 'x' FROM generate_series(1, 20000) i",
    )
    with closing(moment(dsn)) as reader:
        assert reader.flaws() == {}
        assert ids(reader.lines("wide")) == list(range(1, 20_001))
        do(dsn, "SET lock_timeout = '1s'; LOCK TABLE wide, high1 IN ACCESS EXCLUSIVE MODE")
        do(dsn, "CREATE TABLE more PARTITION OF wide FOR VALUES FROM (50000) TO (60000)")
        with pytest.raises(Unavailable, match="rewritten"):
            list(reader.lines("wide"))
    do(dsn, "DROP TABLE wide", "CREATE TABLE wide (id int PRIMARY KEY, note text)")
    do(dsn, "CREATE TABLE heir () INHERITS (wide)", "INSERT INTO heir VALUES (1, 'x')")
    with closing(moment(dsn)) as reader:
        assert ids(reader.lines("wide")) == []
        do(dsn, "INSERT INTO wide VALUES (2, 'x')")
        assert ids(reader.lines("wide")) == []


def test_what_no_block_can_have_carried_is_named(dsn: str) -> None:
    fill(dsn, 100)
    do(dsn, "ALTER TABLE wide ADD COLUMN empty text")
    with closing(moment(dsn)) as reader:
        assert reader.flaws() == {}
        assert len(ids(reader.lines("wide"))) == 100, "with no value in it the copies lack nothing"
    do(dsn, "ALTER TABLE wide ADD COLUMN added text DEFAULT 'x'")
    with closing(moment(dsn)) as reader, pytest.raises(Halted, match="added") as caught:
        list(reader.lines("wide"))
    assert caught.value.reason == "column_not_carried"
    do(dsn, "ALTER TABLE wide DROP COLUMN added", "ALTER TABLE wide DROP COLUMN note")
    with closing(moment(dsn)) as reader:
        assert "column note is not in the table" in reader.flaws()["wide"]
    do(dsn, "ALTER TABLE wide ADD COLUMN note int")
    with closing(moment(dsn)) as reader:
        assert reader.flaws() == {"wide": "column note is integer in the table and text in the ledger"}
