"""The PostgreSQL replica and its server: killed, lost, taken by another; and plans that statistics cannot spoil."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from replicator.errors import Halted, Unavailable
from replicator.format.definition import Column, Definition
from replicator.pipeline.replicas.base import Define, TableChange, Truncate
from replicator.pipeline.replicas.postgres import PostgresReader, PostgresReplica
from replicator.pipeline.replicas.postgres import replica as replica_module
from replicator.pipeline.replicas.postgres.check import preflight
from replicator.pipeline.replicas.postgres.rows import PostgresRows
from replicator.pipeline.replicas.postgres.schema import current_definitions
from tests.contracts.replica_kinds import STRAND, PostgresKind, SqliteKind, applied, apply, contents, int4, row, table
from tests.servers import Postgres, free_port

BINARY = Definition(
    "public", "wallets", (Column("id", "integer", "binary"), Column("owner", "text", "binary")), ("id",)
)


def rows(count: int, owner: str) -> list[bytes]:
    return [row(int4(number), owner) for number in range(count)]


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Postgres]:
    server = Postgres(tmp_path / "server")
    server.create()
    server.start()
    yield server
    server.stop()


def test_a_killed_server_comes_back_at_a_whole_position(own_server: Postgres) -> None:
    """What was committed without waiting for the disk may be gone; position and rows are of one moment."""
    replica = PostgresReplica(own_server.dsn())
    replica.open()
    apply(replica, 1, Define(1, BINARY), TableChange(BINARY, [], [], [], rows(500, "1"), []))
    own_server.connect().execute("CHECKPOINT")
    apply(replica, 2, TableChange(BINARY, [], [], [], [], rows(500, "2")))
    replica.begin()
    replica.apply(STRAND, [TableChange(BINARY, [], [], [], [], rows(500, "3"))])
    own_server.kill()
    with pytest.raises(Unavailable):
        replica.commit(applied(3))
    with pytest.raises(Unavailable):
        replica.open()
    own_server.start()
    replica.open()
    stands = replica.applied(STRAND)
    assert stands in (applied(1), applied(2))
    assert stands is not None
    owners = {cells[1] for cells in contents(PostgresKind(own_server.dsn()))}
    assert owners == {str(stands.position.sequence)}
    for sequence in range(stands.position.sequence + 1, 4):
        apply(replica, sequence, TableChange(BINARY, [], [], [], [], rows(500, str(sequence))))
    assert {cells[1] for cells in contents(PostgresKind(own_server.dsn()))} == {"3"}
    assert replica.drifted_rows == 0
    replica.close()


def test_a_reader_of_a_killed_server_says_so(own_server: Postgres) -> None:
    replica = PostgresReplica(own_server.dsn())
    replica.open()
    apply(replica, 1, Define(1, BINARY))
    reader = PostgresReader(own_server.dsn())
    own_server.kill()
    for _ in range(2):
        with pytest.raises(Unavailable):
            reader.applied(STRAND)
    reader.close()
    replica.close()
    own_server.start()


def test_nobody_answers() -> None:
    replica = PostgresReplica(f"host=127.0.0.1 port={free_port()} dbname=postgres password=secret-word")
    with pytest.raises(Unavailable) as caught:
        replica.open()
    assert caught.value.reason == "replica_unreachable"
    assert "secret-word" not in str(caught.value)
    replica.close()


def test_a_dsn_that_is_none_does_not_show_its_password() -> None:
    with pytest.raises(Halted, match="replica_dsn") as caught:
        PostgresReplica("host=127.0.0.1 password=two words").open()
    assert "words" not in str(caught.value)
    (finding,) = preflight("host=127.0.0.1 password=two words")
    assert "words" not in finding.what


def test_a_database_that_is_not_there_halts(postgres: Postgres) -> None:
    with pytest.raises(Halted, match="replica_login"):
        PostgresReplica(postgres.dsn("nothing_here")).open()


def test_a_second_sidecar_waits(new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(replica_module._SETTINGS, "lock_timeout", "50ms")
    dsn = new_database()
    first, second = PostgresReplica(dsn), PostgresReplica(dsn)
    first.open()
    with pytest.raises(Unavailable, match="replica_in_use"):
        second.open()
    first.close()
    monkeypatch.setitem(replica_module._SETTINGS, "lock_timeout", "30s")
    second.open()
    second.close()


def test_a_connection_lost_at_commit_leaves_one_of_two_outcomes(new_database: Callable[[], str]) -> None:
    dsn = new_database()
    replica = PostgresReplica(dsn)
    replica.open()
    apply(replica, 1, Define(1, BINARY), TableChange(BINARY, [], [], [], rows(3, "1"), []))
    replica.begin()
    replica.apply(STRAND, [TableChange(BINARY, [], [], [], [], rows(3, "2"))])
    PostgresKind(dsn).crash(replica)
    with pytest.raises(Unavailable):
        replica.commit(applied(2))
    with pytest.raises(Unavailable):
        replica.begin()
    replica.open()
    assert replica.applied(STRAND) == applied(1)
    replica.close()


def test_types_that_this_server_lacks_are_text(new_database: Callable[[], str]) -> None:
    dsn = new_database()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TYPE here AS ENUM ('a'); CREATE TYPE pair AS (a int); CREATE DOMAIN d AS int")
    hostile = "integer); DROP SCHEMA replicator CASCADE; --"
    types = [
        "public.here",
        "public.here[]",
        "public.elsewhere",
        "public.pair",
        "public.pair[]",
        "public.d",
        hostile,
        "varchar(3)",
        'public."odd ""type"',
        "no such type",
    ]
    columns = [("id", "integer"), *((f"c{number}", kind) for number, kind in enumerate(types))]
    replica = PostgresReplica(dsn)
    replica.open()
    definition = table(columns, ["id"])
    apply(
        replica,
        1,
        Define(1, definition),
        TableChange(definition, [], [], [], [row("1", *["a", "{a}", *["x"] * 8])], []),
    )
    with psycopg.connect(dsn) as connection:
        found = connection.execute(
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = 'wallets'::regclass AND attnum > 1 ORDER BY attnum"
        ).fetchall()
    expected = ["here", "here[]", "text", "text", "text", "text", "text", "character varying(3)", "text", "text"]
    assert [kind for (kind,) in found] == expected
    replica.close()


@pytest.mark.parametrize("count", [10, 20_000])
def test_plans_look_keys_up_whatever_the_tables_size(new_database: Callable[[], str], count: int) -> None:
    dsn = new_database()
    replica = PostgresReplica(dsn)
    replica.open()
    apply(replica, 1, Define(1, BINARY), TableChange(BINARY, [], [], [], rows(count, "1"), []))
    connection = replica._open
    made = PostgresRows(BINARY, ["integer", "text"], 77)
    for create in (made.create_stage(), made.create_key_stage()):
        connection.execute(create.encode())
    for statement in (made.update_staged(), made.delete_staged()):
        plan = "\n".join(line for (line,) in connection.execute(f"EXPLAIN {statement}".encode()))
        assert "Nested Loop" in plan
        assert "Index Scan using wallets_pkey" in plan
        assert "Seq Scan on wallets" not in plan
    replica.close()


def test_a_users_rows_come_from_the_index(new_database: Callable[[], str]) -> None:
    dsn = new_database()
    replica = PostgresReplica(dsn)
    replica.open()
    users = table([("id", "integer"), ("user_id", "text")], ["id"], user="user_id")
    images = [row(str(number), f"u{number % 500}") for number in range(5000)]
    apply(replica, 1, Define(1, users), TableChange(users, [], [], [], images, []))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ANALYZE wallets")
        plan = "\n".join(
            line
            for (line,) in connection.execute(
                "EXPLAIN SELECT * FROM wallets WHERE user_id = 'u7' AND (id) > (9) ORDER BY id LIMIT 5"
            )
        )
    assert "wallets_by_user_id" in plan
    assert "Sort" not in plan
    replica.close()


def test_a_reader_of_a_primary_uses_the_definitions_it_is_given(new_database: Callable[[], str]) -> None:
    dsn = new_database()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE wallets (id int PRIMARY KEY, owner text, twice int GENERATED ALWAYS AS (id) STORED)"
        )
        connection.execute("INSERT INTO wallets VALUES (1, 'ann'), (2, NULL)")
        connection.execute("CREATE TABLE history (what text); INSERT INTO history VALUES ('x')")
    history = table([("what", "text")], [], name="history", user="what")
    reader = PostgresReader(dsn, {1: BINARY, 2: history})
    assert reader.applied(STRAND) is None
    assert reader.tables() == [history, BINARY]
    assert sorted(reader.rows("wallets")) == [["1", "ann"], ["2", None]]
    found = reader.document("wallets", ["2"])
    assert found is not None
    assert found.row == {"id": 2, "owner": None}
    assert [found.row for found in reader.of_user("history", "x", 5, None)] == [{"what": "x"}]
    reader.close()


def test_a_table_is_read_with_its_partitions_and_without_its_heirs(new_database: Callable[[], str]) -> None:
    dsn = new_database()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE wallets (id int PRIMARY KEY, owner text); INSERT INTO wallets VALUES (1, 'a')")
        connection.execute("CREATE TABLE heirs () INHERITS (wallets); INSERT INTO heirs VALUES (2, 'b')")
        connection.execute("CREATE TABLE split (id int PRIMARY KEY, owner text) PARTITION BY RANGE (id)")
        connection.execute("CREATE TABLE part PARTITION OF split DEFAULT; INSERT INTO split VALUES (3, 'c')")
    split = table([("id", "integer"), ("owner", "text")], ["id"], name="split")
    gone = table([("id", "integer")], ["id"], name="gone")
    reader = PostgresReader(dsn, {})
    reader.read_by({1: BINARY, 2: split, 3: gone})
    assert [one.label for one in reader.tables()] == ["split", "wallets"]
    for name, found in (("wallets", ["1", "a"]), ("split", ["3", "c"])):
        line = "\t".join(found).encode()
        assert list(reader.rows(name)) == [found]
        assert [row for chunk in reader.lines(name) for row in chunk] == [(found[0].encode(), line)]
        assert reader.lines_of(name, [["1"], ["2"], ["3"]]) == [(found[0].encode(), line)]
    reader.close()


def test_rows_that_a_policy_hides_are_not_taken_for_missing(new_database: Callable[[], str]) -> None:
    dsn = new_database()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE wallets (id int PRIMARY KEY, owner text); INSERT INTO wallets VALUES (1, 'a')")
        connection.execute("ALTER TABLE wallets ENABLE ROW LEVEL SECURITY")
        connection.execute("DROP ROLE IF EXISTS limited; CREATE ROLE limited LOGIN; GRANT SELECT ON wallets TO limited")
    reader = PostgresReader(dsn.replace("user=postgres", "user=limited"), {1: BINARY})
    with pytest.raises(Halted, match="row-level security"):
        list(reader.lines("wallets"))
    reader.close()


def test_a_reader_of_an_empty_database_sees_no_tables(new_database: Callable[[], str]) -> None:
    reader = PostgresReader(new_database())
    assert reader.tables() == []
    assert reader.applied(STRAND) is None
    reader.close()


def test_a_large_table_is_truncated_at_once(new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_module, "_DELETE_LIMIT_BYTES", 0)
    dsn = new_database()
    replica = PostgresReplica(dsn)
    replica.open()
    apply(replica, 1, Define(1, BINARY), TableChange(BINARY, [], [], [], rows(500, "1"), []))
    apply(replica, 2, Truncate(BINARY))
    assert contents(PostgresKind(dsn)) == []
    replica.close()


def test_many_changes_in_one_transaction_do_not_slow_each_other(new_database: Callable[[], str]) -> None:
    """Staged rows of earlier changes are gone: the staging table's size shows it."""
    replica = PostgresReplica(new_database())
    replica.open()
    apply(replica, 1, Define(1, BINARY), TableChange(BINARY, [], [], [], rows(1000, "1"), []))
    replica.begin()
    sizes = []
    for number in range(5):
        replica.apply(STRAND, [TableChange(BINARY, [], [], [], [], rows(1000, str(number)))])
        sizes.append(replica._open.execute("SELECT pg_relation_size('pg_temp.stage_1')").fetchone())
    replica.commit(applied(2))
    assert len(set(sizes)) == 1
    replica.close()


# -- preflight


def test_preflight_of_an_empty_database_is_ok_and_changes_nothing(new_database: Callable[[], str]) -> None:
    dsn = new_database()
    objects = "SELECT count(*), max(oid::bigint) FROM pg_class"
    with psycopg.connect(dsn, autocommit=True) as connection:
        before = connection.execute(objects).fetchone()
        findings = preflight(dsn, [BINARY])
        assert connection.execute(objects).fetchone() == before
    assert {finding.level for finding in findings} == {"ok"}


def test_preflight_names_tables_that_stand_in_the_way(new_database: Callable[[], str]) -> None:
    dsn = new_database()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE wallets (id text PRIMARY KEY)")
    (failed,) = [finding for finding in preflight(dsn, [BINARY]) if finding.level == "fail"]
    assert "owner is missing" in failed.what
    assert failed.cure


def test_preflight_names_missing_privileges(new_database: Callable[[], str]) -> None:
    dsn = new_database()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS replica_reader; CREATE ROLE replica_reader LOGIN")
    findings = preflight(dsn.replace("user=postgres", "user=replica_reader"))
    failed = [finding for finding in findings if finding.level == "fail"]
    assert len(failed) == 2
    assert all("GRANT CREATE ON" in finding.cure for finding in failed)


def test_preflight_of_nobody() -> None:
    (finding,) = preflight(f"host=127.0.0.1 port={free_port()}")
    assert (finding.level, bool(finding.cure)) == ("fail", True)


def test_definitions_are_kept_in_the_order_they_came(new_database: Callable[[], str]) -> None:
    replica = PostgresReplica(new_database())
    replica.open()
    text = Definition("public", "wallets", tuple(Column(c.name, c.type) for c in BINARY.columns), ("id",))
    apply(replica, 1, Define(1, text), Define(2, BINARY), Define(1, text))
    assert current_definitions(replica._open) == {BINARY.name: text}
    replica.close()


def test_int_rows_fit_columns_that_widened(new_database: Callable[[], str]) -> None:
    dsn = new_database()
    replica = PostgresReplica(dsn)
    replica.open()
    wide = Definition("public", "wallets", (Column("id", "bigint", "binary"), BINARY.columns[1]), ("id",))
    apply(replica, 1, Define(1, BINARY), TableChange(BINARY, [], [], [], rows(20, "1"), []))
    images = [row(struct.pack(">q", 2**40 + number), "2") for number in range(20)]
    apply(replica, 2, Define(2, wide), TableChange(wide, [], [], [], images, []))
    assert len(contents(PostgresKind(dsn))) == 40
    replica.close()


def test_preflight_tells_of_triggers_that_replay_would_set_off(new_database: Callable[[], str]) -> None:
    dsn = new_database()
    name = str(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"])
    role = f"plain_{name}"

    def about(user: str) -> list[str]:
        return [f.level for f in preflight(dsn.replace("user=postgres", f"user={user}")) if "foreign key" in f.what]

    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(f"CREATE ROLE {role} LOGIN".encode())
        assert (about("postgres"), about(role)) == (["ok"], ["warn"])
        db.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int REFERENCES a)")
        assert (about("postgres"), about(role)) == (["ok"], ["fail"])
        if db.info.server_version >= 150000:  # the cure
            db.execute(f"GRANT SET ON PARAMETER session_replication_role TO {role}".encode())
            assert about(role) == ["ok"]
        db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_an_index_of_ours_is_in_no_tables_way(new_database: Callable[[], str], tmp_path: Path) -> None:
    """Whichever of the two tables comes first."""
    first = table([("id", "integer"), ("user_id", "text")], ["id"], user="user_id")
    second = table([("id", "integer"), ("x", "text")], ["id"], name="wallets_by_user_id")
    for order in ((first, second), (second, first)):
        for kind in (PostgresKind(new_database()), SqliteKind(tmp_path / f"{order[0].table}.db")):
            replica = kind.replica()
            replica.open()
            apply(replica, 1, *(Define(number, definition) for number, definition in enumerate(order, 1)))
            apply(replica, 2, TableChange(second, [], [], [], [row("1", "x")], []))
            assert contents(kind, "wallets_by_user_id") == [["1", "x"]]
            replica.close()
