"""Objects that users make, in a region that has never led: foreign keys, triggers, identities, generated columns and
more, made before the start or after the copy, seen through a switchover and back. Every value is compared."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from replicator.errors import Halted
from replicator.pipeline.replicas.postgres import replica
from tests.cluster.promotion.world import STRAND, Region, follow, ship
from tests.servers import postgres_bin

New = Callable[..., Region]


class Kind(NamedTuple):
    """A kind of object. ``tables`` are there in any case; ``here`` makes the objects, in the primary and, by hand, in
    the region that follows; ``check`` is answered alike by both while they lead."""

    tables: tuple[str, ...]
    here: tuple[str, ...]
    writes: tuple[str, ...]
    compared: tuple[str, ...]  # queries
    acts: str = ""  # a write that the objects refuse, once the region leads


LOGS = (
    "CREATE FUNCTION logs() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN INSERT INTO public.audit (what) VALUES (TG_OP); RETURN NULL; END $$",
    "CREATE FUNCTION counts() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.n := NEW.n + 1; RETURN NEW; END $$",
    "CREATE TRIGGER logged AFTER INSERT OR UPDATE OR DELETE ON a FOR EACH ROW EXECUTE FUNCTION logs()",
    "CREATE TRIGGER counted BEFORE INSERT OR UPDATE ON a FOR EACH ROW EXECUTE FUNCTION counts()",
)
KINDS = {
    "foreign key": Kind(  # tables are copied by name: children come first
        ("CREATE TABLE a_child (id int PRIMARY KEY, parent int)", "CREATE TABLE b_parent (id int PRIMARY KEY, x int)"),
        ("ALTER TABLE a_child ADD FOREIGN KEY (parent) REFERENCES b_parent ON DELETE CASCADE ON UPDATE CASCADE",),
        (
            "INSERT INTO b_parent SELECT i, i FROM generate_series(1, 40) i ON CONFLICT DO NOTHING",
            "INSERT INTO a_child SELECT coalesce(max(id), 0) + 1, 1 FROM a_child",
            "UPDATE b_parent SET id = (SELECT max(id) + 1000 FROM b_parent) WHERE id = 1",
            "DELETE FROM b_parent WHERE id = 2",
        ),
        ("SELECT * FROM a_child", "SELECT * FROM b_parent"),
        "INSERT INTO a_child VALUES (-1, -1)",
    ),
    "trigger": Kind(
        ("CREATE TABLE a (id int PRIMARY KEY, n int)", "CREATE TABLE audit (id serial PRIMARY KEY, what text)"),
        LOGS,
        (
            "INSERT INTO a SELECT coalesce(max(id), 0) + 1, 1 FROM a",
            "UPDATE a SET n = n + 10",
            "DELETE FROM a WHERE id = 3",
        ),
        ("SELECT * FROM a", "SELECT * FROM audit"),
    ),
    "always identity": Kind(
        ("CREATE TABLE a (id int PRIMARY KEY, x text)",),
        (
            "ALTER TABLE a ALTER id DROP DEFAULT, ALTER id SET NOT NULL",
            "DROP SEQUENCE IF EXISTS a_id_seq",  # what replay made, which the identity's own is to be
            "ALTER TABLE a ALTER id ADD GENERATED ALWAYS AS IDENTITY",
            "SELECT setval(pg_get_serial_sequence('a', 'id'), coalesce(max(id), 0) + 1) FROM a",
        ),
        (
            "INSERT INTO a (x) SELECT 'x' FROM generate_series(1, 20)",
            "INSERT INTO a (x) VALUES (repeat('long', 2000))",
            "UPDATE a SET x = x || 'y' WHERE id % 2 = 0",
            "UPDATE a SET id = DEFAULT WHERE id = (SELECT max(id) FROM a)",
            "DELETE FROM a WHERE id = 4",
        ),
        ("SELECT * FROM a",),
        "INSERT INTO a VALUES (-1, 'x')",
    ),
    "always identity beside the key": Kind(
        ("CREATE TABLE a (id int PRIMARY KEY, n int NOT NULL, x text)",),
        (
            "ALTER TABLE a ALTER n DROP DEFAULT, ALTER n SET NOT NULL",
            "DROP SEQUENCE IF EXISTS a_n_seq",
            "ALTER TABLE a ALTER n ADD GENERATED ALWAYS AS IDENTITY",
            "SELECT setval(pg_get_serial_sequence('a', 'n'), coalesce(max(n), 0) + 1) FROM a",
        ),
        (
            "INSERT INTO a (id, x) SELECT coalesce(max(id), 0) + i, 'x' FROM a, generate_series(1, 20) i GROUP BY i",
            "UPDATE a SET x = x || 'y'",
            "UPDATE a SET n = DEFAULT WHERE id < 4",
        ),
        ("SELECT * FROM a",),
        "INSERT INTO a VALUES (-1, 1, 'x')",
    ),
    "generated": Kind(
        ("CREATE TABLE a (id int PRIMARY KEY, net numeric(10,2))",),
        ("ALTER TABLE a ADD vat numeric GENERATED ALWAYS AS (net * 0.2) STORED",),
        (
            "INSERT INTO a SELECT coalesce(max(id), 0) + i, i FROM a, generate_series(1, 20) i GROUP BY i",
            "UPDATE a SET net = net + 1 WHERE id % 2 = 0",
            "UPDATE a SET id = id + 1000 WHERE id = 3",
            "DELETE FROM a WHERE id = 4",
        ),
        ("SELECT id, net, vat FROM a",),
        "INSERT INTO a VALUES (-1, 1, 1)",
    ),
    "unique and check": Kind(
        ("CREATE TABLE a (id int PRIMARY KEY, mail text, x int)",),
        ("ALTER TABLE a ADD UNIQUE (mail), ADD CHECK (x > 0)",),
        (
            "INSERT INTO a SELECT coalesce(max(id), 0) + i, coalesce(max(id), 0) + i, 1 FROM a,"
            " generate_series(1, 20) i GROUP BY i",
            "BEGIN; UPDATE a SET mail = 'x' WHERE id = 1; UPDATE a SET mail = 'y' WHERE id = 2;"
            " UPDATE a SET mail = 'z' WHERE id = 1; COMMIT",
        ),
        ("SELECT * FROM a",),
        "INSERT INTO a VALUES (-1, 'm', 0)",
    ),
}
# What can only be there from the beginning: ``pg_dump -s | psql``.
BORN = {
    "partitions": Kind(
        (
            "CREATE TABLE a (id int, day date, x int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
            "CREATE TABLE a_1 PARTITION OF a FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')",
            "CREATE TABLE a_2 PARTITION OF a DEFAULT",
        ),
        (),
        ("INSERT INTO a SELECT coalesce(max(id), 0) + 1, '2020-12-31', 1 FROM a", "UPDATE a SET day = '2022-01-01'"),
        ("SELECT *, tableoid::regclass FROM a",),
    ),
    "no key": Kind(
        ("CREATE TABLE a (what text, n int GENERATED ALWAYS AS IDENTITY)",),
        (),
        ("INSERT INTO a (what) SELECT 'x' FROM generate_series(1, 20)", "INSERT INTO a (what) VALUES ('y')"),
        ("SELECT what, n FROM a",),
    ),
    "deferrable key": Kind(
        ("CREATE TABLE a (id int PRIMARY KEY DEFERRABLE, x int)",),
        (),
        ("INSERT INTO a SELECT coalesce(max(id), 0) + i, 1 FROM a, generate_series(1, 20) i GROUP BY i",),
        ("SELECT id, x FROM a",),
    ),
    "identity by index": Kind(
        (
            "CREATE TABLE a (id int PRIMARY KEY, mail text NOT NULL UNIQUE, x int)",
            "ALTER TABLE a REPLICA IDENTITY USING INDEX a_mail_key",
        ),
        (),
        (
            "INSERT INTO a SELECT coalesce(max(id), 0) + i, coalesce(max(id), 0) + i, 1 FROM a,"
            " generate_series(1, 20) i GROUP BY i",
            "UPDATE a SET mail = mail || 'x' WHERE id = (SELECT max(id) FROM a)",
        ),
        ("SELECT * FROM a",),
    ),
    "types": Kind(
        (
            "CREATE TYPE mood AS ENUM ('good', 'bad')",
            "CREATE DOMAIN eur AS numeric(12,2) CHECK (VALUE >= 0)",
            "CREATE TYPE pair AS (x int, y text)",
            "CREATE TABLE a (id serial PRIMARY KEY, m mood NOT NULL DEFAULT 'good', e eur, p pair, ms mood[])",
        ),
        (),
        ("INSERT INTO a (m, e, p, ms) VALUES ('bad', 5, '(1,a)', '{good,bad}')", "UPDATE a SET e = e + 1"),
        ("SELECT * FROM a",),
        "INSERT INTO a (e) VALUES (-1)",
    ),
}


def all_of(region: Region, kind: Kind) -> list[list[tuple[Any, ...]]]:
    return [sorted(region.ask(query), key=repr) for query in kind.compared]


def written(region: Region, kind: Kind) -> None:
    region.do(*kind.writes)


def dump_schema(source: Region, target: Region) -> None:
    """``pg_dump -s | psql``."""
    fields = conninfo_to_dict(source.dsn)
    where = [f"--host={fields['host']}", f"--port={fields['port']}", f"--username={fields['user']}"]
    dump = subprocess.run(
        [str(postgres_bin() / "pg_dump"), *where, "-s", "--no-publications", str(fields["dbname"])],
        check=True,
        capture_output=True,
        cwd="/",
    )
    name = str(conninfo_to_dict(target.dsn)["dbname"])
    psql = [str(postgres_bin() / "psql"), *where, "-q", "-v", "ON_ERROR_STOP=1", name]
    subprocess.run(psql, input=dump.stdout, check=True, capture_output=True, cwd="/")


@pytest.mark.parametrize("name", [*KINDS, *BORN])
def test_objects_that_are_there_before_the_start(new_region: New, name: str) -> None:
    kind = {**KINDS, **BORN}[name]
    paris, lima = new_region(), new_region()
    paris.do(*kind.tables, *kind.here)
    dump_schema(paris, lima)
    written(paris, kind)
    there_and_back(paris, lima, kind)


@pytest.mark.parametrize("name", KINDS)
def test_objects_that_are_made_after_the_copy(new_region: New, name: str) -> None:
    """By hand, while the same session goes on replaying."""
    kind = KINDS[name]
    paris, lima = new_region(), new_region()
    paris.do(*kind.tables)
    paris.do(*kind.here)
    written(paris, kind)
    with lima.replaying() as replay:
        follow_on(paris, lima, replay)
        if name == "generated" and lima.ask("SELECT FROM pg_attribute WHERE attname = 'vat'"):
            lima.do("ALTER TABLE a DROP vat")  # it is carried, as an ordinary column: now it is made here
        lima.do(*kind.here)
        written(paris, kind)
        follow_on(paris, lima, replay)
        assert all_of(lima, kind) == all_of(paris, kind)
    there_and_back(paris, lima, kind)


def follow_on(source: Region, target: Region, replay: Callable[[], None]) -> None:
    source.capture()
    ship(source, target)
    replay()


def there_and_back(paris: Region, lima: Region, kind: Kind) -> None:
    """More writes, a switchover, writes, and the way back, each time with the same values in both."""
    follow(paris, lima)
    assert all_of(lima, kind) == all_of(paris, kind)
    written(paris, kind)
    follow(paris, lima)
    assert all_of(lima, kind) == all_of(paris, kind)
    assert lima.role().readiness() == []
    for epoch, leader, other in ((2, lima, paris), (3, paris, lima)):
        leader.role().promote(epoch)
        if kind.acts:
            with pytest.raises(psycopg.Error):
                leader.do(kind.acts)
        written(leader, kind)
        leader.capture()
        other.role().adopt(other.head)
        ship(leader, other)
        other.replay()
        assert all_of(other, kind) == all_of(leader, kind)


def test_a_generated_column_that_the_ledger_has_not_stays_where_it_is(new_region: New) -> None:
    """The new primary's server publishes what the old one's did not: no region gets a column of nulls."""
    paris, lima, rome = (new_region() for _ in range(3))
    paris.do("CREATE TABLE a (id int PRIMARY KEY, net int)", "INSERT INTO a VALUES (1, 10), (2, 20)")
    for region in (lima, rome):
        follow(paris, region)
    add = "ALTER TABLE a ADD vat int GENERATED ALWAYS AS (net / 5) STORED"
    lima.do(add)
    paris.do("UPDATE a SET net = 30 WHERE id = 2")
    paris.capture()
    for region in (lima, rome):
        ship(paris, region)
        region.replay()
    lima.role().promote(2)
    lima.do("INSERT INTO a VALUES (7, 70)", "UPDATE a SET net = 15 WHERE id = 1", "UPDATE a SET id = 3 WHERE id = 2")
    lima.do("ALTER TABLE a ADD more text", "UPDATE a SET more = 'm' WHERE id = 7", "DELETE FROM a WHERE id = 3")
    lima.do("VACUUM FULL a", "INSERT INTO a VALUES (8, 80)")
    lima.capture()
    paris.role().adopt(paris.head)
    paris.do(add)
    for region in (paris, rome):
        ship(lima, region)
        region.replay()
    assert paris.rows("a", "id, net, vat, more") == lima.rows("a", "id, net, vat, more")
    assert rome.rows("a") == lima.rows("a", "id, net, more")
    assert {c.name for d in lima.journal.definitions(STRAND).values() for c in d.columns} == {"id", "net", "more"}
    lima.do("ALTER TABLE a ALTER vat DROP EXPRESSION", "INSERT INTO a VALUES (9, 90, 1)")
    with pytest.raises(Halted, match="column_rewritten"):
        lima.capture()


def test_a_carried_column_that_would_not_be_published_any_more_is_told_with_its_cure(new_region: New) -> None:
    """As on a server before the 18th version; or with a publication that somebody made without generated columns."""
    paris, lima = new_region(), new_region()
    paris.do(*KINDS["generated"].tables, *KINDS["generated"].here, "INSERT INTO a VALUES (1, 10)")
    dump_schema(paris, lima)
    follow(paris, lima)
    if "vat" not in {c.name for d in lima.journal.definitions(STRAND).values() for c in d.columns}:
        pytest.skip("this server publishes no generated columns, so none is carried")
    lima.do("CREATE PUBLICATION replicator FOR ALL TABLES WITH (publish_via_partition_root = true)")
    (reason,) = lima.role().readiness()
    for region in (paris, lima):
        region.do(reason.partition("in every region run: ")[2])
    assert lima.role().readiness() == []
    lima.role().promote(2)
    lima.do("INSERT INTO a VALUES (2, 20, 7)")
    lima.capture()
    paris.role().adopt(paris.head)
    ship(lima, paris)
    paris.replay()
    assert paris.rows("a") == lima.rows("a")


def test_a_trigger_that_no_session_can_silence_halts_while_it_replays(
    new_region: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "LOOK_SECONDS", 0)
    paris, lima = new_region(), new_region()
    kind = KINDS["trigger"]
    paris.do(*kind.tables, "INSERT INTO a VALUES (1, 1)")
    with lima.replaying() as replay:
        follow_on(paris, lima, replay)
        lima.do(*kind.here, "ALTER TABLE a ENABLE ALWAYS TRIGGER counted")
        paris.do("UPDATE a SET n = 2")
        with pytest.raises(Halted, match="trigger_always") as caught:
            follow_on(paris, lima, replay)
        assert "counted on public.a" in caught.value.message
        lima.do("ALTER TABLE a ENABLE TRIGGER counted")
        replay()
    assert lima.rows("a") == [(1, 2)]
