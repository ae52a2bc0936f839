"""Every kind of change, from a real server through the source into a model that must end equal to the server."""

from __future__ import annotations

from collections.abc import Callable

from replicator.errors import Halted
from replicator.format.row import unpack_row
from replicator.format.statement import DELETE, INSERT, PATCH, TRUNCATE, UPDATE
from tests.pipeline.sources.postgres.ledger import Collector, Ledger, Model, assert_equal, caught_up, failure, following

NewLedger = Callable[..., Ledger]


def ops(sink: Collector) -> list[int]:
    """The operations behind the copy, without the marks."""
    return [
        s[0] for block in sink.blocks[1:] for s in block.statements if s[0] in (INSERT, UPDATE, PATCH, DELETE, TRUNCATE)
    ]


async def test_rows_of_the_copy_are_values_that_a_person_reads_back(ledger: Ledger) -> None:
    sink = Collector()
    async with following(ledger, sink):
        await sink.until(lambda: bool(sink.blocks))
    (copy,) = sink.blocks
    assert copy.draft.txid == "copy"
    cells = unpack_row(next(s[2] for s in copy.statements if s[0] == INSERT))
    assert cells[0] == (1).to_bytes(4, "big")
    assert cells[1] == b"user 1"
    assert cells[3] is None
    definition = next(iter(sink.state().relations.values()))
    assert [(c.name, c.type, c.format, c.nullable, c.number) for c in definition.columns] == [
        ("id", "integer", "binary", False, 1),
        ("user_id", "text", "binary", True, 2),
        ("balance", "numeric(12,2)", "binary", False, 3),
        ("note", "text", "binary", True, 4),
    ]
    assert (definition.key, definition.user) == (("id",), "user_id")


async def test_insert_update_delete_key_change_and_truncate(ledger: Ledger) -> None:
    sink = Collector()
    async with following(ledger, sink):
        ledger.do("INSERT INTO wallets VALUES (1000, 'a', 'NaN', 'x'), (1001, NULL, -1.5, NULL)")
        ledger.do("UPDATE wallets SET note = 'changed' WHERE id <= 3")
        ledger.do("UPDATE wallets SET id = id + 5000 WHERE id = 7")
        ledger.do("DELETE FROM wallets WHERE id BETWEEN 20 AND 29")
        await caught_up(ledger, sink)
        assert_equal(ledger, sink, "wallets")
        ledger.together("TRUNCATE wallets", "INSERT INTO wallets VALUES (1, 'after', 1, NULL)")
        await caught_up(ledger, sink)
    assert_equal(ledger, sink, "wallets")
    assert ops(sink) == [INSERT] * 2 + [UPDATE] * 4 + [DELETE] * 10 + [TRUNCATE, INSERT]


async def test_one_transaction_is_one_block_and_what_was_rolled_back_is_not_there(ledger: Ledger) -> None:
    sink = Collector()
    async with following(ledger, sink):
        ledger.together(
            "INSERT INTO wallets VALUES (200, 'a', 1, NULL)",
            "SAVEPOINT one",
            "INSERT INTO wallets VALUES (201, 'lost', 1, NULL)",
            "ROLLBACK TO one",
            "SAVEPOINT two",
            "UPDATE wallets SET balance = 2 WHERE id = 200",
            "RELEASE two",
        )
        ledger.do("BEGIN", "INSERT INTO wallets VALUES (202, 'lost', 1, NULL)", "ROLLBACK")
        xid = ledger.ask("WITH w AS (DELETE FROM wallets WHERE id = 1 RETURNING 1) SELECT txid_current() FROM w")
        await caught_up(ledger, sink)
    assert_equal(ledger, sink, "wallets")
    assert [[s[0] for s in block.statements] for block in sink.blocks[1:3]] == [[INSERT, UPDATE], [DELETE]]
    assert sink.blocks[2].draft.txid == str(xid)


async def test_an_unchanged_large_value_is_a_patch(new_ledger: NewLedger) -> None:
    ledger = new_ledger()
    ledger.do(
        "CREATE TABLE documents (id int PRIMARY KEY, large text, note text)",
        "ALTER TABLE documents ALTER large SET STORAGE EXTERNAL",
        "INSERT INTO documents SELECT i, repeat('x', 20000), 'a' FROM generate_series(1, 5) i",
    )
    sink = Collector()
    async with following(ledger, sink):
        ledger.do("UPDATE documents SET note = 'b' WHERE id < 4", "UPDATE documents SET id = 50 WHERE id = 5")
        await caught_up(ledger, sink)
    assert ops(sink) == [PATCH] * 4
    assert_equal(ledger, sink, "documents")


async def test_replica_identity_full_fills_unchanged_values(new_ledger: NewLedger) -> None:
    ledger = new_ledger()
    ledger.do(
        "CREATE TABLE documents (id int PRIMARY KEY, large text, note text)",
        "ALTER TABLE documents ALTER large SET STORAGE EXTERNAL, REPLICA IDENTITY FULL",
        "INSERT INTO documents SELECT i, repeat('x', 20000), 'a' FROM generate_series(1, 5) i",
    )
    sink = Collector()
    async with following(ledger, sink):
        ledger.do("UPDATE documents SET note = 'b' WHERE id < 4", "UPDATE documents SET id = 50 WHERE id = 5")
        ledger.do("DELETE FROM documents WHERE id = 1")
        await caught_up(ledger, sink)
    assert ops(sink) == [UPDATE] * 4 + [DELETE]
    assert [s[3] is None for b in sink.blocks[1:] for s in b.statements if s[0] == UPDATE] == [True] * 3 + [False]
    assert_equal(ledger, sink, "documents")


async def test_a_large_key_that_an_update_leaves_alone_comes_from_the_old_row(new_ledger: NewLedger) -> None:
    ledger = new_ledger()
    ledger.do(
        "CREATE TABLE documents (id text PRIMARY KEY, note text)",
        "ALTER TABLE documents ALTER id SET STORAGE EXTERNAL",
        "INSERT INTO documents VALUES (repeat('k', 2500), 'a')",
    )
    sink = Collector()
    async with following(ledger, sink):
        ledger.do("UPDATE documents SET note = 'b'")
        await caught_up(ledger, sink)
    assert ops(sink) == [UPDATE]
    assert_equal(ledger, sink, "documents")


async def test_replica_identity_using_an_index_is_the_key(new_ledger: NewLedger) -> None:
    ledger = new_ledger()
    ledger.do(
        "CREATE TABLE t (a int NOT NULL, b int NOT NULL, c text, id int PRIMARY KEY)",
        "CREATE UNIQUE INDEX t_key ON t (b, a) INCLUDE (c)",
        "ALTER TABLE t REPLICA IDENTITY USING INDEX t_key",
        "INSERT INTO t VALUES (1, 2, 'x', 1), (2, 1, 'y', 2)",
    )
    sink = Collector()
    async with following(ledger, sink):
        ledger.do("UPDATE t SET a = 9 WHERE id = 1", "DELETE FROM t WHERE id = 2", "UPDATE t SET id = 7 WHERE id = 1")
        await caught_up(ledger, sink)
    assert [d.key for d in sink.state().relations.values()] == [("b", "a")]
    assert_equal(ledger, sink, "t")


async def test_all_of_partitioned_tables_comes_through_their_root(new_ledger: NewLedger) -> None:
    ledger = new_ledger()
    ledger.do(
        "CREATE SCHEMA audit",
        "CREATE TABLE audit.events (day int, id int, note text, PRIMARY KEY (day, id)) PARTITION BY RANGE (day)",
        "CREATE TABLE audit.first PARTITION OF audit.events FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE audit.rest PARTITION OF audit.events DEFAULT",
        "INSERT INTO audit.events SELECT i % 20, i, 'x' FROM generate_series(1, 100) i",
    )
    sink = Collector()
    async with following(ledger, sink):
        ledger.do("UPDATE audit.events SET day = 15 WHERE day = 5", "DELETE FROM audit.first WHERE day = 3")
        ledger.do("CREATE TABLE audit.later PARTITION OF audit.events FOR VALUES FROM (100) TO (200)")
        ledger.do("INSERT INTO audit.events VALUES (150, 1, 'y')", "UPDATE audit.later SET note = 'z'")
        ledger.do(
            "ALTER TABLE audit.events ADD COLUMN more int DEFAULT 7", "UPDATE audit.events SET note = 'm' WHERE day = 1"
        )
        await caught_up(ledger, sink)
        model = Model(sink.blocks)
        assert {d.label for d in model.definitions.values()} == {"audit.events"}
        assert model.definitions[2].columns[3].missing == "7"
        ledger.do("TRUNCATE audit.events", "INSERT INTO audit.events VALUES (1, 1, 'y', 1)")
        await caught_up(ledger, sink)
    assert_equal(ledger, sink, "audit.events")


async def test_generated_columns_are_carried_as_the_copy_and_the_stream_can(new_ledger: NewLedger) -> None:
    ledger = new_ledger()
    ledger.do(
        "CREATE TABLE t (id int PRIMARY KEY, a int, doubled int GENERATED ALWAYS AS (a * 2) STORED)",
        "INSERT INTO t SELECT i, i FROM generate_series(1, 5) i",
    )
    virtual = ledger.sql.info.server_version >= 180000
    if virtual:
        ledger.do("ALTER TABLE t ADD seen int GENERATED ALWAYS AS (a + 1) VIRTUAL")
    sink = Collector()
    async with following(ledger, sink):
        ledger.do("INSERT INTO t VALUES (6, 6)", "UPDATE t SET a = 100 WHERE id = 2", "DELETE FROM t WHERE id = 1")
        await caught_up(ledger, sink)
    (definition,) = sink.state().relations.values()
    assert [c.name for c in definition.columns] == (["id", "a", "doubled"] if virtual else ["id", "a"])
    assert_equal(ledger, sink, "t")


async def test_a_table_without_a_key_is_append_only(new_ledger: NewLedger) -> None:
    ledger = new_ledger()
    ledger.do("CREATE TABLE log (what text, many int)", "INSERT INTO log VALUES ('a', 1), ('a', 1)")
    sink = Collector()
    async with following(ledger, sink):
        ledger.do("INSERT INTO log VALUES ('a', 1), (NULL, NULL)")
        await caught_up(ledger, sink)
    assert_equal(ledger, sink, "log")
    ledger.do("ALTER TABLE log REPLICA IDENTITY FULL")
    error = await failure(ledger, sink, "INSERT INTO log VALUES ('before', 2)", "DELETE FROM log WHERE many = 1")
    assert isinstance(error, Halted)
    assert (error.reason, error.place) == ("no_key", "table log")
    assert "primary key" in error.cure


async def test_messages_of_both_kinds_are_statements(ledger: Ledger) -> None:
    sink = Collector()
    async with following(ledger, sink):
        ledger.together(
            "INSERT INTO wallets VALUES (300, 'a', 1, NULL)",
            "SELECT pg_logical_emit_message(true, 'within', 'one')",
            "SELECT pg_logical_emit_message(false, 'at once', '\\x00ff'::bytea)",
        )
        ledger.do("BEGIN", "SELECT pg_logical_emit_message(true, 'rolled back', 'two')", "ROLLBACK")
        await caught_up(ledger, sink)
    assert [message for message in sink.messages() if message[0] != "mark"] == [
        ("at once", b"\x00\xff"),
        ("within", b"one"),
    ]
    assert [block.draft.txid for block in sink.blocks[:2]] == ["copy", "message"]
    assert [s[0] for s in sink.blocks[2].statements] == [INSERT, 8]


async def test_sequences_come_with_the_copy_and_when_they_move(new_ledger: NewLedger) -> None:
    ledger = new_ledger(sequence_seconds=0.05)
    ledger.do(
        "CREATE TABLE t (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, n serial, o int)",
        "CREATE SEQUENCE lonely INCREMENT 5",
        "INSERT INTO t (o) VALUES (1), (2), (3)",
    )
    sink = Collector()
    async with following(ledger, sink):
        await sink.until(lambda: bool(sink.blocks))
        assert sink.sequences() == {"t_id_seq": 3, "t_n_seq": 3}
        ledger.do("INSERT INTO t (o) VALUES (1)", "SELECT nextval('lonely'), nextval('lonely')")
        await sink.until(lambda: sink.sequences() == {"t_id_seq": 4, "t_n_seq": 4, "lonely": 6})
        await caught_up(ledger, sink)
    (definition,) = sink.state().relations.values()
    assert [c.sequence for c in definition.columns] == [("public", "t_id_seq"), ("public", "t_n_seq"), None]
    origins = [int(b.draft.origin.split("/")[1], 16) for b in sink.blocks]
    assert origins == sorted(origins)
    assert {b.draft.txid for b in sink.blocks if any(s[0] == 7 for s in b.statements)} == {"copy", "sequences"}


async def test_a_sidecars_own_tables_are_no_part_of_the_ledger(ledger: Ledger) -> None:
    ledger.do("CREATE SCHEMA replicator", "CREATE TABLE replicator.position (id int PRIMARY KEY)")
    sink = Collector()
    async with following(ledger, sink):
        ledger.do("INSERT INTO replicator.position VALUES (1)", "UPDATE replicator.position SET id = 2")
        ledger.together("DELETE FROM replicator.position", "INSERT INTO wallets VALUES (300, 'a', 1, NULL)")
        await caught_up(ledger, sink)
    assert ops(sink) == [INSERT]
    assert len(sink.blocks) == 3
