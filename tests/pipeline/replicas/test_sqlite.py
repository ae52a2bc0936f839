"""The SQLite replica as a file: killed, full, damaged; and indexes that are used."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from replicator.errors import Halted, Unavailable
from replicator.format.definition import Column
from replicator.format.row import pack_row
from replicator.format.values import storage_of
from replicator.pipeline.replicas.base import Define, TableChange
from replicator.pipeline.replicas.sqlite import SqliteReader, SqliteReplica
from replicator.pipeline.replicas.sqlite.check import preflight
from replicator.pipeline.replicas.sqlite.decode import Decoder
from tests.contracts.replica_kinds import STRAND, SqliteKind, applied, apply, contents, row, table

WALLETS = table([("id", "integer"), ("user_id", "text"), ("note", "text")], ["id"], user="user_id")


def rows(count: int, note: str) -> list[bytes]:
    return [row(str(number), f"u{number % 7}", note) for number in range(count)]


def change(images: list[bytes]) -> TableChange:
    return TableChange(WALLETS, [], [], [], [], images)


WRITER = """
import sys
from tests.pipeline.replicas.test_sqlite import *
replica = SqliteReplica(sys.argv[1])
replica.open()
apply(replica, 1, Define(1, WALLETS))
for sequence in range(2, 1_000_000):
    apply(replica, sequence, change(rows(200, str(sequence))))
    print(sequence, flush=True)
"""


def test_a_killed_writer_leaves_a_whole_position(tmp_path: Path) -> None:
    path = tmp_path / "replica.db"
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]) as writer:
        assert writer.stdout is not None
        said = [int(writer.stdout.readline()) for _ in range(20)]
        os.kill(writer.pid, signal.SIGKILL)
    replica = SqliteReplica(path)
    replica.open()
    stands = replica.applied(STRAND)
    assert stands is not None
    assert stands.position.sequence >= said[-1]
    assert {cells[2] for cells in contents(SqliteKind(path))} == {str(stands.position.sequence)}
    replica.close()


def test_a_full_disk_is_waited_for_and_loses_nothing(tmp_path: Path) -> None:
    replica = SqliteReplica(tmp_path / "replica.db")
    replica.open()
    apply(replica, 1, Define(1, WALLETS), change(rows(10, "1")))
    pages = replica._open.execute("PRAGMA page_count").fetchone()[0]
    replica._open.execute(f"PRAGMA max_page_count = {pages + 2}")
    replica.begin()
    with pytest.raises(Unavailable, match="disk_full"):
        replica.apply(STRAND, [change(rows(1000, "x" * 500))])
    replica.open()
    assert replica.applied(STRAND) == applied(1)
    apply(replica, 2, change(rows(1000, "2")))
    assert len(contents(SqliteKind(tmp_path / "replica.db"))) == 1000
    replica.close()


def test_a_damaged_file_halts(tmp_path: Path) -> None:
    path = tmp_path / "replica.db"
    path.write_bytes(b"this is no database, it is text\n" * 200)
    with pytest.raises(Halted, match="file_damaged"):
        SqliteReplica(path).open()
    (finding,) = preflight(path)
    assert finding.level == "fail"


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "replica.db"
    with pytest.raises(Unavailable, match="nowhere"):
        SqliteReplica(path).open()
    with pytest.raises(Unavailable, match="replica_missing"):
        SqliteReader(path)
    assert [finding.level for finding in preflight(path)] == ["fail"]


def test_a_users_rows_come_from_the_index_in_key_order(tmp_path: Path) -> None:
    replica = SqliteReplica(tmp_path / "replica.db")
    replica.open()
    pairs = table([("a", "text"), ("user_id", "text"), ("b", "integer")], ["a", "b"], name="pairs", user="user_id")
    apply(replica, 1, Define(1, WALLETS), Define(2, pairs))
    for query in (
        "SELECT * FROM wallets WHERE user_id = 'u' AND (id) > (5) ORDER BY id LIMIT 3",
        "SELECT * FROM pairs WHERE user_id = 'u' AND (a, b) > ('x', 1) ORDER BY a, b LIMIT 3",
    ):
        plan = " ".join(str(line[3]) for line in replica._open.execute(f"EXPLAIN QUERY PLAN {query}"))
        assert "_by_user_id" in plan
        assert "TEMP B-TREE" not in plan
    replica.close()


def test_a_table_is_read_while_another_one_was_given_up_in_its_midst(tmp_path: Path) -> None:
    replica = SqliteReplica(tmp_path / "replica.db")
    replica.open()
    apply(replica, 1, Define(1, WALLETS), change(rows(5000, "a")))
    replica.close()
    reader = SqliteReader(tmp_path / "replica.db")
    reader.snapshot()
    given_up = reader.lines("wallets")
    next(given_up)
    assert sum(map(len, reader.lines("wallets"))) == 5000
    assert len(reader.lines_of("wallets", [["1"], ["2"]])) == 2
    reader.close()


def test_tables_that_differ_in_capitals_only_are_refused(tmp_path: Path) -> None:
    replica = SqliteReplica(tmp_path / "replica.db")
    replica.open()
    apply(replica, 1, Define(1, WALLETS))
    for other in (
        table([("id", "integer"), ("user_id", "text"), ("note", "text")], ["id"], name="Wallets"),
        table([("id", "integer"), ("Id", "text")], ["id"], name="two"),
    ):
        replica.begin()
        with pytest.raises(Halted, match="capitals"):
            replica.apply(STRAND, [Define(2, other)])
        replica.rollback()
    replica.close()


def test_a_schema_and_a_dotted_name_do_not_share_a_table(tmp_path: Path) -> None:
    replica = SqliteReplica(tmp_path / "replica.db")
    replica.open()
    apply(replica, 1, Define(1, table([("id", "integer")], ["id"], name="events", namespace="audit")))
    replica.begin()
    with pytest.raises(Halted, match=r"taken by audit\.events"):
        replica.apply(STRAND, [Define(2, table([("id", "integer")], ["id"], name="audit.events"))])
    replica.close()


def test_the_file_is_an_ordinary_database(tmp_path: Path) -> None:
    path = tmp_path / "replica.db"
    replica = SqliteReplica(path)
    replica.open()
    typed = table(
        [("id", "bigint"), ("ratio", "real"), ("ok", "boolean"), ("amount", "numeric(12,2)")], ["id"], name="t"
    )
    apply(replica, 1, Define(1, typed), TableChange(typed, [], [], [], [row("1", "0.1", "t", "1.50")], []))
    replica.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT *, typeof(amount) FROM t").fetchall() == [(1, 0.1, 1, "1.50", "text")]
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_preflight_names_what_stands_in_the_way_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "replica.db"
    assert [finding.level for finding in preflight(path, [WALLETS])] == ["ok"]
    assert not path.exists()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE wallets (id INTEGER PRIMARY KEY)")
    connection.close()
    before = path.read_bytes()
    (finding,) = preflight(path, [WALLETS])
    assert finding.level == "fail"
    assert "note is missing" in finding.what
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["replica.db"]


def _cells(source: random.Random) -> list[bytes | None]:
    number = source.choice([None, struct.pack(">i", source.randrange(-(2**31), 2**31))])
    word = source.choice([None, b"", b"abcd", b"x" * source.randrange(60)])
    return [struct.pack(">q", source.randrange(-(2**63), 2**63)), number, word, source.choice([b"\x00", b"\x01"])]


def test_rows_of_one_length_and_other_layouts_decode_alike() -> None:
    """A row that is as long as another may have its NULLs and lengths elsewhere."""
    columns = [
        Column("a", "bigint", "binary"),
        Column("b", "integer", "binary"),
        Column("c", "text", "binary"),
        Column("d", "boolean", "binary"),
    ]
    source = random.Random(20_240_229)
    rows = [_cells(source) for _ in range(3000)]
    reads = [storage_of(column) for column in columns]
    expected = [[None if cell is None else read(cell) for read, cell in zip(reads, row, strict=True)] for row in rows]
    assert Decoder(columns).rows([pack_row(row) for row in rows]) == expected


def test_a_row_with_the_length_of_another_but_more_columns_is_refused() -> None:
    decoder = Decoder([Column("a", "text")])
    two = pack_row([b"", b""])
    with pytest.raises(ValueError, match="columns"):
        decoder.rows([pack_row([b"abcd"]), two])
