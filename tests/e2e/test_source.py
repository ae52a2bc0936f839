"""What a PostgreSQL ledger can hold and do, end to end into a PostgreSQL and a SQLite region, judged by ``verify``.

Three sidecars share one server; each test works on tables of its own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.e2e.deployment import lsn_number
from tests.e2e.sidecars import sequence
from tests.faults.regions import Region, assert_equal, follow, postgres_replica, postgres_source, sqlite_replica
from tests.pipeline.replicas.test_types import TYPES, VALUES
from tests.servers import Postgres

BEFORE = """
CREATE SCHEMA "Other Schema";
CREATE TABLE "Other Schema"."Odd ""T"" x" ("Key ü" text, "no" int, "from" text, PRIMARY KEY ("no", "Key ü"));
INSERT INTO "Other Schema"."Odd ""T"" x" VALUES ('ü''"', 1, NULL), ('', 2, 'x');
CREATE TABLE evolving (id int PRIMARY KEY, user_id text, kept text, goes int DEFAULT 5);
INSERT INTO evolving SELECT n, 'u' || n % 3, 'kept ' || n, n FROM generate_series(1, 9) n;
CREATE TABLE parted (id int, day date, user_id text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE parted_old PARTITION OF parted FOR VALUES FROM ('2020-01-01') TO ('2024-01-01');
CREATE TABLE parted_new PARTITION OF parted FOR VALUES FROM ('2024-01-01') TO (MAXVALUE);
INSERT INTO parted SELECT n, date '2023-12-25' + n, 'u' FROM generate_series(1, 14) n;
CREATE TABLE made (id serial PRIMARY KEY, net numeric(12, 2), gross numeric GENERATED ALWAYS AS (net * 1.2) STORED);
INSERT INTO made (net) VALUES (1), (2.5);
CREATE SEQUENCE "Other Schema".downward INCREMENT -7 MAXVALUE 1000 START 1000;
CREATE TABLE logged (who text, what text);
INSERT INTO logged VALUES ('a', 'b'), ('a', 'b');
"""


class Chain:
    """A PostgreSQL primary and its two regions."""

    def __init__(self, server: Postgres, directory: Path) -> None:
        self.dsn = server.create_database("source_e2e")
        self.replica_dsn = server.create_database("source_e2e_replica")
        self.paris = Region(directory, "paris", "primary", postgres_source(self.dsn, slot="source_e2e"))
        self.lima = Region(directory, "lima", "replica", follow(self.paris.url) + postgres_replica(self.replica_dsn))
        self.tokyo = Region(directory, "tokyo", "replica", follow(self.paris.url) + sqlite_replica())
        self.regions = [self.paris, self.lima, self.tokyo]

    def do(self, *statements: str | sql.Composed) -> None:
        """Each in a transaction of its own."""
        with psycopg.connect(self.dsn, autocommit=True) as db:
            for statement in statements:
                db.execute(statement.encode() if isinstance(statement, str) else statement)

    def converge(self) -> None:
        """Wait until both regions have all that was committed, then let ``verify`` judge."""
        with psycopg.connect(self.dsn, autocommit=True) as db:
            db.execute("SELECT pg_logical_emit_message(true, 'end', 'a block behind all others')")
            (end,) = db.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone() or ("0/0",)
        self.paris.reach(
            lambda status: (
                lsn_number(status["source"]["seen"] or "0/0") >= lsn_number(end)
                and status["strands"][0]["marks"]["settled"] is not None
            ),
            "the log's end",
            30,
        )
        status = self.paris.status()
        assert status is not None
        head = sequence(status, "settled")
        for replica in (self.lima, self.tokyo):
            replica.reach(lambda status: sequence(status, "applied") >= head, f"sequence {head}", 30)
        assert_equal(self.lima, self.tokyo)


@pytest.fixture(scope="module")
def chain(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    chain = Chain(postgres, tmp_path_factory.mktemp("chain"))
    chain.do(BEFORE, TYPES)
    with psycopg.connect(chain.replica_dsn) as replica:
        replica.execute(TYPES)
    for region in chain.regions:
        region.start()
    chain.converge()
    yield chain
    for region in chain.regions:
        region.end()


def test_columns_that_come_go_and_are_renamed_in_mid_stream(chain: Chain) -> None:
    chain.do(
        "INSERT INTO evolving VALUES (20, 'u', 'before', 1)",
        "ALTER TABLE evolving ADD COLUMN added numeric DEFAULT 1.50, ADD COLUMN noted jsonb",
        "UPDATE evolving SET added = added + id, noted = jsonb_build_object('id', id) WHERE id < 5",
        "ALTER TABLE evolving DROP COLUMN goes",
        "INSERT INTO evolving VALUES (21, 'u1', 'after', 2, '[]')",
        "ALTER TABLE evolving RENAME COLUMN kept TO held",
        "UPDATE evolving SET held = 'renamed' WHERE id = 21",
        "DELETE FROM evolving WHERE id = 1",
    )
    chain.converge()
    with psycopg.connect(chain.replica_dsn) as db:
        found = db.execute("SELECT * FROM evolving WHERE id = 21")
        assert [column.name for column in found.description or ()] == ["id", "user_id", "held", "added", "noted"]
    with sqlite3.connect(chain.tokyo.directory / "ledger.db") as lite:
        columns = [row[1] for row in lite.execute("PRAGMA table_info(evolving)")]
        assert columns == ["id", "user_id", "held", "added", "noted"]


def test_partitions_generated_columns_schemas_and_tables_without_a_key(chain: Chain) -> None:
    chain.do(
        "UPDATE parted SET day = day + 10 WHERE id < 6",  # from one partition into the other
        "INSERT INTO parted VALUES (100, '2030-01-01', 'new')",
        "DELETE FROM parted WHERE id = 14",
        "UPDATE made SET net = net * 3",
        "INSERT INTO made (net) VALUES (NULL)",
        """UPDATE "Other Schema"."Odd ""T"" x" SET "Key ü" = 'moved', "from" = E'\\\\\\t' WHERE "no" = 1""",
        """INSERT INTO "Other Schema"."Odd ""T"" x" SELECT n::text, n, NULL FROM generate_series(10, 400) n""",
        "INSERT INTO logged VALUES ('a', 'b'), (NULL, 'c')",
    )
    chain.converge()
    with psycopg.connect(chain.replica_dsn) as db:
        assert db.execute("SELECT count(*), sum(gross)::text FROM made").fetchone() == (3, "12.600")
        assert db.execute("SELECT count(*) FROM parted").fetchone() == (14,)
        assert db.execute("SELECT count(*) FROM logged WHERE who = 'a'").fetchone() == (3,)


def test_sequences_are_carried_so_that_no_id_is_handed_out_twice(chain: Chain) -> None:
    chain.do(
        "INSERT INTO made (net) SELECT n FROM generate_series(1, 50) n",
        """SELECT nextval('"Other Schema".downward') FROM generate_series(1, 5)""",
    )
    with psycopg.connect(chain.dsn) as db:
        last = int((db.execute("SELECT max(id) FROM made").fetchone() or (0,))[0])

    def are_carried(_: object) -> bool:
        with psycopg.connect(chain.replica_dsn) as db:
            values: dict[str, int] = dict(db.execute("SELECT sequencename, last_value FROM pg_sequences").fetchall())
        return values.get("made_id_seq", 0) >= last and values.get("downward", 1000) <= 972

    chain.lima.reach(are_carried, "the sequences' values", 20)
    with psycopg.connect(chain.replica_dsn) as db:
        assert (db.execute("SELECT nextval('made_id_seq')").fetchone() or (0,))[0] > last
        assert (db.execute("""SELECT nextval('"Other Schema".downward')""").fetchone() or (0,))[0] < 972
    chain.converge()
    with sqlite3.connect(chain.tokyo.directory / "ledger.db") as lite:
        values = [row[2:] for row in lite.execute("SELECT * FROM _replicator_sequence ORDER BY 1, 2")]
    assert any(value >= last and step == 1 for value, step in values)
    assert any(value <= 972 and step == -7 for value, step in values)


def test_the_same_reads_in_every_region(chain: Chain) -> None:
    """By key, by user, history, as of, and read-your-writes; the primary's own database and both replicas alike."""
    chain.do(
        "CREATE TABLE wallet (id bigint PRIMARY KEY, user_id text, balance numeric)",
        "INSERT INTO wallet SELECT n, 'u' || n % 2, n FROM generate_series(1, 7) n",
        "UPDATE wallet SET balance = balance + 0.50 WHERE id = 3",
        "DELETE FROM wallet WHERE id = 5",
        "UPDATE wallet SET id = 30 WHERE id = 3",
    )
    chain.converge()
    position = chain.paris.ask("/feed/v1/main/positions/head").json()["position"]
    table = "wallet"
    for path, status in {
        f"tables/{table}/documents/30": 200,
        f"tables/{table}/documents/3": 404,
        f"tables/{table}/documents/x": 400,
        f"tables/{table}/users/u1": 200,
        f"tables/{table}/users/u1?limit=2": 200,
        "users/u0": 200,
        f"tables/{table}/history/3": 200,
        f"tables/{table}/history/5": 200,
        f"tables/{table}": 200,
    }.items():
        glue = "&" if "?" in path else "?"
        answers = [region.ask(f"/v1/{path}{glue}after={position}&timeout=10s") for region in chain.regions]
        assert [answer.status_code for answer in answers] == [status] * 3, [a.text for a in answers]
        contents = [{k: v for k, v in a.json().items() if k != "position"} for a in answers]
        assert contents[0] == contents[1] == contents[2], path
    changes = chain.tokyo.ask(f"/v1/tables/{table}/history/3").json()["changes"]
    assert [change["op"] for change in changes] == ["delete", "update", "insert"]
    before = changes[1]["sequence"]
    for region in chain.regions:
        past = region.ask(f"/v1/tables/{table}/documents/3?as_of={before}")
        assert past.status_code == 200, past.text
        assert "3.50" in past.text


def test_every_built_in_type(chain: Chain) -> None:
    """A table for each: a row for each value, NULL, changed values, and the type's own array."""
    tables = list(enumerate(VALUES.items()))
    for number, (kind, values) in tables:
        chain.do(f"CREATE TABLE typed_{number} (id int PRIMARY KEY, value {kind}, list {kind}[])")
        rows = sql.SQL(", ").join(
            sql.SQL("({}, {}, NULL)").format(sql.Literal(place), sql.Literal(value))
            for place, value in enumerate([*values, None])
        )
        chain.do(sql.SQL("INSERT INTO {} VALUES {}").format(sql.Identifier(f"typed_{number}"), rows))
    chain.converge()
    for number, (kind, _) in tables:
        chain.do(
            f"UPDATE typed_{number} SET list = {'value' if kind.endswith('[]') else 'ARRAY[value, NULL]'}",
            f"UPDATE typed_{number} SET value = NULL WHERE id = 0",
            f"UPDATE typed_{number} SET id = id + 1000 WHERE id = 1",
        )
    chain.converge()
    for number, (kind, _) in tables:
        texts = []
        for dsn in (chain.dsn, chain.replica_dsn):
            with psycopg.connect(dsn, options="-c timezone=UTC") as db:
                query = f"SELECT id, value::text, list::text FROM typed_{number} ORDER BY id"
                texts.append(db.execute(query.encode()).fetchall())
        assert texts[0] == texts[1], kind
