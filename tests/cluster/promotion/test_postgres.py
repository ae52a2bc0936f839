"""A database changes its role: what it then gives, takes, and carries on; and a change that is killed at any step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import psycopg
import pytest
import trio

from replicator.cluster.promotion.decide import AdoptStep
from replicator.errors import Halted, ReplicatorError, Unavailable
from replicator.format.block import Draft
from replicator.format.definition import Definition
from replicator.format.statement import DEFINE, INSERT, SEQUENCE, UPDATE, pack_message
from replicator.pipeline.acknowledge import Acknowledgement, AcknowledgeRule
from replicator.pipeline.capture import Capture
from replicator.pipeline.replicas.postgres import PostgresReplica
from replicator.pipeline.sources.postgres.source import PostgresSource
from replicator.storage.journal.head import JournalHead
from tests.cluster.promotion.world import RESERVE, STRAND, Region, follow, killed_at, reopened, ship

New = Callable[..., Region]
WALLETS = (
    "CREATE TABLE wallets (id serial PRIMARY KEY, gone int, owner text NOT NULL, balance int NOT NULL)",
    "CREATE TABLE events (what text, amount int)",
    "INSERT INTO wallets (owner, balance) VALUES ('ada', 1), ('bob', 2)",
    "INSERT INTO events VALUES ('opened', 1), ('opened', 1)",
)


def pair(new_region: New, *statements: str) -> tuple[Region, Region]:
    """A primary that did these, and a replica that followed."""
    paris, lima = new_region(), new_region()
    paris.do(*statements)
    follow(paris, lima)
    return paris, lima


def definitions(region: Region) -> dict[int, Definition]:
    return region.journal.definitions(STRAND)


def error_of(work: Callable[[], object]) -> ReplicatorError:
    with pytest.raises(ReplicatorError) as caught:
        work()
    return caught.value


# -- promotion


def test_definitions_go_on_although_columns_have_other_numbers(new_region: New) -> None:
    """The old primary has a hole where a column was dropped, the replica has none: nothing is defined anew."""
    paris, lima = pair(
        new_region,
        "CREATE TABLE wallets (gone int, id serial PRIMARY KEY, owner text, balance int)",
        "INSERT INTO wallets (owner, balance) VALUES ('ada', 1)",
    )
    paris.do("ALTER TABLE wallets DROP COLUMN gone", "UPDATE wallets SET balance = 2")
    follow(paris, lima)
    paris.do("ALTER TABLE wallets ADD note text", "UPDATE wallets SET note = 'n'")
    follow(paris, lima)
    before = definitions(lima)
    lima.role().promote(2)
    lima.do("INSERT INTO wallets (owner, balance) VALUES ('bob', 7)", "UPDATE wallets SET balance = 3 WHERE id = 1")
    lima.capture()
    assert definitions(lima) == before
    lima.do("ALTER TABLE wallets RENAME note TO remark", "ALTER TABLE wallets ADD more int DEFAULT 5")
    lima.do("ALTER TABLE wallets DROP COLUMN owner", "INSERT INTO wallets (balance, more) VALUES (9, 6)")
    lima.capture()
    (new,) = definitions(lima).keys() - before.keys()
    last = before[max(before)]
    numbers = {column.name: column.number for column in last.columns}
    now = {column.name: column.number for column in definitions(lima)[new].columns}
    assert now["remark"] == numbers["note"]
    assert now["more"] > max(column.number for known in before.values() for column in known.columns)
    paris.role().adopt(paris.head)
    ship(lima, paris)
    paris.replay()
    columns = "id, balance, remark, more"
    assert paris.rows("wallets", columns) == lima.rows("wallets", columns)


def test_a_place_in_the_former_primarys_log_is_never_confirmed_to_the_new_one(new_region: New) -> None:
    """Commits wait for another region (K = 1), and the former primary's log was far ahead of this one's: its place,
    confirmed here, would let go every commit up to it, unread."""
    _, lima = pair(new_region, *WALLETS)
    foreign = Draft("far ahead", "FFFF/0", 1, 0, 1, pack_message("note", b""))
    lima.journal.append(STRAND, [foreign], 1)
    lima.replay()
    lima.role().promote(2)
    source = PostgresSource(dataclasses.replace(lima.options, synchronous=True, heartbeat_seconds=0.1))
    confirmed = f"confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{lima.options.slot}'"
    before = lima.ask(f"SELECT {confirmed}")

    async def confirm() -> None:
        acknowledgement = Acknowledgement(AcknowledgeRule(1), lima.head.sequence)
        head = JournalHead(lima.head)
        capture = Capture(source, lima.journal, head, 2, lambda blocks: None, acknowledgement)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(capture.run_once)
            acknowledgement.reported("eu", lima.head.sequence)
            lima.do("UPDATE wallets SET balance = balance + 1")
            await head.beyond(lima.head.sequence)
            acknowledgement.reported("eu", lima.head.sequence)
            while await trio.to_thread.run_sync(lima.ask, f"SELECT {confirmed}") == before:  # noqa: ASYNC110
                await trio.sleep(0.02)  # polls another process
            nursery.cancel_scope.cancel()

    trio.run(confirm)
    assert lima.ask(f"SELECT pg_current_wal_lsn() >= {confirmed}") == [(True,)]


def test_what_was_committed_before_the_source_starts_is_captured_and_replay_is_not(new_region: New) -> None:
    _, lima = pair(new_region, *WALLETS)
    head = lima.role().promote(2)
    lima.do("UPDATE wallets SET balance = 5 WHERE id = 1", "INSERT INTO events VALUES ('first', 2)")
    lima.capture()
    changes = [statement for statement in lima.statements(head.sequence) if statement[0] != DEFINE]
    assert len(changes) == 2
    lima.do("INSERT INTO events VALUES ('second', 3)")
    lima.capture()
    assert len([s for s in lima.statements(head.sequence) if s[0] != DEFINE]) == 3


def test_numbers_are_not_given_twice(new_region: New) -> None:
    """serial, both kinds of identity, a sequence of one's own, one that counts down, and one near its end."""
    paris, lima = pair(
        new_region,
        "CREATE SCHEMA app",
        "CREATE SEQUENCE app.own CACHE 20",
        "CREATE TABLE a (id serial PRIMARY KEY, x int)",
        "CREATE TABLE b (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, x int)",
        "CREATE TABLE c (id int GENERATED BY DEFAULT AS IDENTITY (INCREMENT BY -3 MAXVALUE -1) PRIMARY KEY, x int)",
        "CREATE TABLE d (id bigint PRIMARY KEY DEFAULT nextval('app.own'), x int)",
        "CREATE TABLE e (id smallserial PRIMARY KEY, x int)",
        "CREATE TABLE never (id serial PRIMARY KEY, x int)",
        "CREATE TABLE wide (id numeric PRIMARY KEY DEFAULT nextval('app.own'), x int)",
        "INSERT INTO wide VALUES (1e30, 1), ('NaN', 2)",
        "SELECT setval('e_id_seq', 32700)",
        *(f"INSERT INTO {table} (x) SELECT i FROM generate_series(1, 3) i" for table in "abcde"),
    )
    assert ("app", "own") in lima.ask("SELECT namespace, name FROM replicator.sequence")
    # Handed out, and lost with their transactions.
    paris.do(*(f"INSERT INTO {table} (x) SELECT i FROM generate_series(1, 20) i" for table in ("a", "b", "c", "d")))
    lost = {table: {row[0] for row in paris.rows(table, "id")} for table in "abcd"}
    lima.role().promote(2)
    for table in "abcd":
        lima.do(f"INSERT INTO {table} (x) VALUES (1), (2)")
        new = {row[0] for row in lima.rows(table, "id")}
        assert len(new) == 5
        assert len(new - lost[table]) == 2, table
    lima.do("INSERT INTO never (x) VALUES (1)", "INSERT INTO e (x) VALUES (1)")
    assert lima.rows("never", "id")[0][0] > 1000
    assert 32703 < max(row[0] for row in lima.rows("e", "id")) <= 32767
    assert min(row[0] for row in lima.rows("c", "id")) < -3000


@pytest.mark.parametrize("knows_of_it", [False, True], ids=["unheard of", "its epoch began"])
def test_numbers_are_not_given_twice_by_two_promotions_in_a_row(new_region: New, *, knows_of_it: bool) -> None:
    """What the second primary handed out is lost with it: the third one goes on from a value that the first one
    carried, or from where the second one began."""
    paris, lima, tokyo = new_region(), new_region(), new_region()
    paris.do(
        "CREATE TABLE a (id bigserial PRIMARY KEY, x int)",
        "CREATE TABLE c (id int GENERATED BY DEFAULT AS IDENTITY (INCREMENT BY -3 MAXVALUE -1) PRIMARY KEY, x int)",
        "CREATE TABLE e (id smallserial PRIMARY KEY, x int)",
        "SELECT setval('e_id_seq', 32000)",
        *(f"INSERT INTO {table} (x) VALUES (1)" for table in "ace"),
    )
    for region in (lima, tokyo):
        follow(paris, region)
    given = []
    lima.role().promote(2)
    if knows_of_it:
        ship(lima, tokyo)
        tokyo.replay()
    for region, epoch in ((lima, 2), (tokyo, 3)):
        if region is tokyo:
            tokyo.role().promote(epoch)
        region.do(*(f"INSERT INTO {table} (x) SELECT i FROM generate_series(1, 161) i" for table in "ace"))
        given.append({table: {row[0] for row in region.ask(f"SELECT id FROM {table} WHERE x > 1")} for table in "ace"})
    for table in "ace":
        assert given[0][table]
        assert not given[0][table] & given[1][table], table


NUMBERED = (
    "CREATE TABLE a (id bigserial PRIMARY KEY, x int)",
    "CREATE TABLE c (id int GENERATED BY DEFAULT AS IDENTITY (INCREMENT BY -3 MAXVALUE -1) PRIMARY KEY, x int)",
    *(f"INSERT INTO {table} (x) VALUES (1)" for table in "ac"),
)


def handed_out(region: Region, count: int) -> dict[str, set[int]]:
    """So many numbers of each table, used by its applications now."""
    given = {}
    for table in "ac":
        query = f"INSERT INTO {table} (x) SELECT 2 FROM generate_series(1, {count}) RETURNING id"
        given[table] = {number for (number,) in region.ask(query)}
    return given


def assert_disjoint(given: list[dict[str, set[int]]]) -> None:
    for table in "ac":
        every = [number for one in given for number in one[table]]
        assert len(every) == len(set(every)), table


@pytest.mark.parametrize("hears", [False, True], ids=["unheard of", "heard"])
def test_numbers_are_not_given_twice_by_a_region_that_leads_again(new_region: New, *, hears: bool) -> None:
    """Somebody may have led in between whom it never heard of, and whoever leads next has heard of neither, or of it.
    Each hands out, unheard, as many as the reserve has."""
    paris, lima, tokyo = new_region(), new_region(), new_region()
    paris.do(*NUMBERED)
    for region in (lima, tokyo):
        follow(paris, region)
    given = [handed_out(paris, RESERVE)]
    lima.role().promote(2)
    given.append(handed_out(lima, RESERVE))
    paris.role().promote(3)
    if hears:
        ship(paris, tokyo)
        tokyo.replay()
    given.append(handed_out(paris, RESERVE))
    tokyo.role().promote(4)
    assert_disjoint([*given, handed_out(tokyo, RESERVE)])
    paris.capture()  # its log is read on where it was, not where the epoch began
    assert len([s for s in paris.statements(0) if s[0] == INSERT]) == 2 + 2 * 2 * RESERVE


def test_numbers_are_not_given_twice_behind_a_promotion_that_was_killed(new_region: New) -> None:
    """Behind BEGIN, and called again in a later epoch: somebody else may have led in the one between."""
    paris, lima, tokyo = new_region(), new_region(), new_region()
    paris.do(*NUMBERED)
    for region in (lima, tokyo):
        follow(paris, region)
    assert killed_at("after BEGIN", lambda on_step: reopened(lima).role(on_step).promote(2))
    tokyo.role().promote(3)
    given = [handed_out(tokyo, RESERVE)]
    lima = reopened(lima)
    lima.role().promote(4)
    given.append(handed_out(lima, RESERVE))
    paris.role().adopt(paris.head)
    ship(lima, paris)
    paris.replay()
    paris.role().promote(5)
    assert_disjoint([*given, handed_out(paris, RESERVE)])
    lima.capture()
    assert len([s for s in lima.statements(paris.head.sequence - 1) if s[0] == INSERT]) == 2 * RESERVE


def test_a_region_that_leads_again_goes_on_in_its_log(new_region: New) -> None:
    """Its second epoch begins behind what it has captured, not where it was promoted first."""
    _, lima = pair(new_region, *WALLETS)
    head = lima.role().promote(2)
    lima.do("UPDATE wallets SET balance = 5 WHERE id = 1")
    lima.capture()
    assert lima.role().promote(3).epoch == 3
    lima.do("UPDATE wallets SET balance = 6 WHERE id = 1")
    lima.capture()
    assert [s[0] for s in lima.statements(head.sequence) if s[0] not in (DEFINE, SEQUENCE)] == [UPDATE, UPDATE]


def test_promoting_again_moves_no_sequence(new_region: New) -> None:
    _, lima = pair(new_region, *WALLETS)
    assert killed_at("after SEQUENCES", lambda on_step: reopened(lima).role(on_step).promote(2))
    first = lima.ask("SELECT last_value FROM wallets_id_seq")
    lima.role().promote(2)
    assert lima.ask("SELECT last_value FROM wallets_id_seq") == first


def test_a_table_that_came_by_hand(new_region: New) -> None:
    """Empty it is published from its first row on; with rows it halts, for nobody has them."""
    _, lima = pair(new_region, *WALLETS)
    lima.do("CREATE TABLE extra (id int PRIMARY KEY)", "CREATE TABLE full_one (id int PRIMARY KEY)")
    lima.do("INSERT INTO full_one VALUES (1)")
    assert any("full_one" in reason for reason in lima.role().readiness())
    lima.role().promote(2)
    assert error_of(lima.capture).reason == "table_not_copied"
    lima.do("DROP TABLE full_one")
    lima.do("INSERT INTO extra VALUES (1)")
    lima.capture()
    assert "extra" in {definition.table for definition in definitions(lima).values()}


PROMOTION = [
    "after SEQUENCES",
    "after TABLES",
    "within PUBLICATION",
    "after PUBLICATION",
    "within SLOT",
    "after SLOT",
    "after BEGIN",
    "after EPOCH",
]


@pytest.mark.parametrize("deaths", [PROMOTION, ["after SLOT"], ["after BEGIN"]], ids=["all", "slot", "begin"])
def test_a_promotion_killed_at_every_step(new_region: New, deaths: list[str]) -> None:
    """In one call after the other: what is done already is done again, or left alone."""
    paris, lima = pair(new_region, *WALLETS)
    fork = lima.head
    for where in deaths:
        assert killed_at(where, lambda on_step: reopened(lima).role(on_step).promote(2)), where
    lima = reopened(lima)
    head = lima.role().promote(2)
    assert (head.epoch, head.sequence) == (2, fork.sequence + 1)
    lima.do("INSERT INTO wallets (owner, balance) VALUES ('cyd', 3)", "INSERT INTO events VALUES ('late', 9)")
    assert lima.role().promote(2) == head, "promoted again while it is written to"
    lima.capture()
    assert len([s for s in lima.statements(head.sequence) if s[0] != DEFINE]) == 2
    paris.role().adopt(paris.head)
    ship(lima, paris)
    paris.replay()
    for table, columns in (("wallets", "id, owner, balance"), ("events", "what, amount")):
        assert paris.rows(table, columns) == lima.rows(table, columns)


def test_a_promotion_that_is_given_up_leaves_a_replica(new_region: New) -> None:
    """Somebody else won: the region is adopted where it stood, and follows."""
    paris, lima = pair(new_region, *WALLETS)
    assert killed_at("after SLOT", lambda on_step: reopened(lima).role(on_step).promote(2))
    lima.role().adopt(lima.head)
    assert lima.ask(f"SELECT FROM pg_replication_slots WHERE slot_name = '{lima.options.slot}'") == []
    assert lima.ask("SELECT FROM pg_publication") == []
    paris.do("INSERT INTO events VALUES ('on', 1)", "UPDATE wallets SET balance = 8")
    follow(paris, lima)
    for table, columns in (("wallets", "id, owner, balance"), ("events", "what, amount")):
        assert paris.rows(table, columns) == lima.rows(table, columns)


def test_a_sequence_that_is_narrower_than_the_one_it_follows(new_region: New) -> None:
    """The promoted region's has 64 bits, and is past what the old primary's can hold."""
    paris, lima = pair(new_region, "CREATE TABLE a (id smallserial PRIMARY KEY)", "INSERT INTO a DEFAULT VALUES")
    lima.role().promote(2)
    lima.do("SELECT setval('a_id_seq', 70000)", "INSERT INTO a VALUES (7)")
    lima.capture(sequences=True)
    paris.role().adopt(paris.head)
    ship(lima, paris)
    paris.replay()
    assert paris.ask("SELECT last_value FROM a_id_seq") == [(32767,)]


# -- what is refused


def test_a_region_that_lacks_blocks_is_not_promoted(new_region: New) -> None:
    paris, lima = pair(new_region, *WALLETS)
    paris.do("UPDATE wallets SET balance = 9")
    paris.capture()
    ship(paris, lima)
    assert error_of(lambda: lima.role().promote(2)).reason == "not_applied"
    lima.replay()
    lima.role().promote(2)


def test_a_region_into_which_somebody_replays_is_not_promoted(new_region: New) -> None:
    _, lima = pair(new_region, *WALLETS)
    replica = PostgresReplica(lima.dsn)
    replica.open()
    error = error_of(lambda: lima.role().promote(2))
    assert (type(error), error.reason) == (Unavailable, "replica_in_use")
    replica.close()
    lima.role().promote(2)


def test_a_slot_of_somebody_else_is_not_touched(new_region: New) -> None:
    _, lima = pair(new_region, *WALLETS)
    lima.ask(f"SELECT pg_create_logical_replication_slot('{lima.options.slot}', 'pgoutput')")
    assert any(lima.options.slot in reason for reason in lima.role().readiness())
    assert error_of(lambda: lima.role().promote(2)).reason == "slot_foreign"


def test_what_is_set_aside_is_named(new_region: New) -> None:
    _, lima = pair(new_region, *WALLETS)
    assert lima.role().readiness() == []
    lima.do(
        "INSERT INTO replicator.quarantine VALUES ('main', 1, 1, '', 1, 'public', 'wallets', 'insert', NULL, NULL, '',"
        " '', '', 0, '', NULL, '', '')"
    )
    assert any("wallets" in reason for reason in lima.role().readiness())
    error = error_of(lambda: lima.role().promote(2))
    assert error.reason == "quarantine_open"
    assert "wallets" in error.message


def test_a_type_that_this_database_does_not_have_is_named(new_region: New) -> None:
    _, lima = pair(
        new_region,
        "CREATE TYPE mood AS ENUM ('good', 'bad')",
        "CREATE TABLE moods (id int PRIMARY KEY, now mood)",
        "INSERT INTO moods VALUES (1, 'good')",
    )
    (reason,) = lima.role().readiness()
    assert "moods" in reason
    assert "mood" in reason
    assert error_of(lambda: lima.role().promote(2)).reason == "table_differs"
    lima.do("CREATE TYPE mood AS ENUM ('good', 'bad')", "ALTER TABLE moods ALTER now TYPE mood USING now::mood")
    assert lima.role().readiness() == []
    lima.role().promote(2)


# -- what was not captured


def test_the_rest_is_captured_under_the_old_epoch(new_region: New) -> None:
    paris, _ = pair(new_region, *WALLETS)
    paris.do("UPDATE wallets SET balance = 100", "INSERT INTO events VALUES ('unseen', 1)")
    fork = paris.head
    paris.capture()
    assert paris.head.sequence == fork.sequence + 2
    assert paris.head.epoch == 1
    paris.capture()
    assert paris.head.sequence == fork.sequence + 2


def test_time_that_is_not_enough_is_said_and_used(new_region: New) -> None:
    paris = new_region()
    paris.do(*WALLETS)
    error = error_of(lambda: paris.capture(seconds=0.0))
    assert (type(error), error.reason) == (Unavailable, "not_captured")
    assert error_of(lambda: paris.role().adopt(paris.head)).reason == "not_captured"
    paris.capture()


def test_a_slot_that_is_gone_halts(new_region: New) -> None:
    paris, _ = pair(new_region, *WALLETS)
    paris.do("UPDATE wallets SET balance = 100")
    paris.ask(f"SELECT pg_drop_replication_slot('{paris.options.slot}')")
    error = error_of(paris.capture)
    assert (type(error), error.reason) == (Halted, "slot_missing")


def test_the_last_numbers_come_with_the_rest(new_region: New) -> None:
    paris, lima = pair(new_region, *WALLETS)
    paris.do("INSERT INTO wallets (owner, balance) VALUES ('cyd', 1)", "DELETE FROM wallets WHERE owner = 'cyd'")
    paris.capture(sequences=True)
    ship(paris, lima)
    lima.replay()
    assert lima.ask("SELECT value FROM replicator.sequence WHERE name = 'wallets_id_seq'") == [(3,)]
    lima.role().promote(2, exact=True)
    lima.do("INSERT INTO wallets (owner, balance) VALUES ('dan', 1)")
    assert lima.ask("SELECT id FROM wallets WHERE owner = 'dan'") == [(5,)], "behind 3, and one cache further"


# -- adoption


ADOPTION = [f"after {step.name}" for step in AdoptStep]


@pytest.mark.parametrize("deaths", [ADOPTION, ADOPTION[:1]], ids=["all", "take"])
def test_an_adoption_killed_at_every_step(new_region: New, deaths: list[str]) -> None:
    paris, lima = pair(new_region, *WALLETS)
    lima.role().promote(2)
    lima.do("INSERT INTO wallets (owner, balance) VALUES ('cyd', 3)", "INSERT INTO events VALUES ('late', 9)")
    lima.capture()
    position = paris.head
    for where in deaths:
        assert killed_at(where, lambda on_step: reopened(paris).role(on_step).adopt(position)), where
        reopened(paris).capture()  # as whoever comes back does first, each time: there is nothing left
    paris = reopened(paris)
    assert paris.head == position
    paris.role().adopt(position)
    ship(lima, paris)
    paris.replay()
    paris.role().adopt(position)  # once more, after it has followed: it is left where it is
    paris.replay()
    for table, columns in (("wallets", "id, owner, balance"), ("events", "what, amount")):
        assert paris.rows(table, columns) == lima.rows(table, columns)
    assert paris.ask(f"SELECT FROM pg_replication_slots WHERE slot_name = '{paris.options.slot}'") == []
    assert paris.ask("SELECT FROM pg_publication") == []
    assert not [key for key in paris.journal.notes() if key.startswith("postgres.")]


@pytest.mark.parametrize("where", ["after TAKE", "after SLOT"])
def test_an_adoption_that_is_given_up_leaves_a_primary(new_region: New, where: str) -> None:
    """Whoever was to lead cannot: the former primary leads again, in a later epoch."""
    paris, lima = pair(new_region, *WALLETS)
    assert killed_at(where, lambda on_step: reopened(paris).role(on_step).adopt(paris.head))
    assert killed_at("after TABLES", lambda on_step: reopened(paris).role(on_step).promote(2))
    head = paris.role().promote(2)
    paris.do("INSERT INTO events VALUES ('on', 1)", "INSERT INTO wallets (owner, balance) VALUES ('cyd', 4)")
    follow(paris, lima)
    assert len([s for s in paris.statements(head.sequence) if s[0] != DEFINE]) == 2
    for table, columns in (("wallets", "id, owner, balance"), ("events", "what, amount")):
        assert paris.rows(table, columns) == lima.rows(table, columns)


def test_a_partitioned_table_without_a_key_is_refused_by_name(new_region: New) -> None:
    paris, _ = pair(
        new_region,
        "CREATE TABLE log (day date, what text) PARTITION BY RANGE (day)",
        "CREATE TABLE log_1 PARTITION OF log DEFAULT",
        "INSERT INTO log VALUES ('2026-01-01', 'x')",
    )
    error = error_of(lambda: paris.role().adopt(paris.head))
    assert (error.reason, error.place) == ("no_key", "table log")
    assert paris.rows("log") != []


def test_a_publication_that_was_there_before_stays(new_region: New) -> None:
    paris, lima = new_region(), new_region()
    paris.do(
        *WALLETS,
        "CREATE PUBLICATION replicator FOR ALL TABLES WITH (publish_via_partition_root = true)",
    )
    follow(paris, lima)
    paris.role().adopt(paris.head)
    assert paris.ask("SELECT pubname FROM pg_publication") == [("replicator",)]


def test_a_slot_that_may_hold_something_is_kept(new_region: New) -> None:
    """Captured, read on by an ordinary run, and not captured again: that run may have left something behind."""
    paris, _ = pair(new_region, *WALLETS)
    paris.journal.set_note("postgres.captured", "")
    assert error_of(lambda: paris.role().adopt(paris.head)).reason == "not_captured"
    assert paris.ask(f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{paris.options.slot}'") == [(1,)]


SHOP = (
    "CREATE TABLE people (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text UNIQUE NOT NULL)",
    "CREATE TABLE orders (id int PRIMARY KEY, person int NOT NULL REFERENCES people ON DELETE CASCADE,"
    " price numeric(10,2) CHECK (price > 0), tax numeric GENERATED ALWAYS AS (price * 0.2) STORED, note text)",
    "CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE, what text)",
    "CREATE TABLE log (n int GENERATED ALWAYS AS IDENTITY, what text)",
    "CREATE FUNCTION logs() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN INSERT INTO public.log (what) VALUES (TG_OP); RETURN NULL; END $$",
    "CREATE TRIGGER logged AFTER INSERT OR UPDATE OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION logs()",
    "CREATE DOMAIN money_text AS text CHECK (VALUE LIKE '%EUR')",
    "CREATE TABLE tags (id int PRIMARY KEY, price money_text, long text)",
    "CREATE TABLE parts (id int, day date, x int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
    "CREATE TABLE parts_1 (x int, id int NOT NULL, day date NOT NULL)",
    "ALTER TABLE parts ATTACH PARTITION parts_1 FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')",
    "CREATE TABLE parts_2 PARTITION OF parts DEFAULT",
    "INSERT INTO people (email) SELECT 'mail' || i FROM generate_series(1, 40) i",
    "INSERT INTO orders (id, person, price) SELECT i, i, i FROM generate_series(1, 40) i",
    "INSERT INTO tags VALUES (1, '5 EUR', repeat('long', 1000))",
    "INSERT INTO parts SELECT i, date '2020-12-01' + i, i FROM generate_series(1, 60) i",
)
SHOP_ROWS = {
    "people": "id, email",
    "orders": "id, person, price, note",
    "log": "n, what",
    "deferred": "id, what",
    "tags": "id, price, long",
    "parts": "id, day, x",
}
SHOP_WRITES = (
    "INSERT INTO people (email) SELECT 'other' || i FROM generate_series(1, 30) i",
    "BEGIN; UPDATE people SET email = 'x' WHERE id = 1; UPDATE people SET email = 'mail1' WHERE id = 2;"
    " UPDATE people SET email = 'mail2' WHERE id = 1; COMMIT",
    "BEGIN; UPDATE people SET email = 'free' WHERE id = 3; INSERT INTO people (email) VALUES ('mail3'); COMMIT",
    "UPDATE orders SET price = price + 1, note = 'n' WHERE id < 30",
    "UPDATE orders SET id = 1000 WHERE id = 30",
    "DELETE FROM orders WHERE person = 5",
    "DELETE FROM people WHERE id = 5",
    "INSERT INTO orders (id, person, price) VALUES (100, 6, 2)",
    "INSERT INTO log (what) VALUES ('by hand')",
    "INSERT INTO deferred VALUES (1, 'x')",
    "UPDATE tags SET price = '6 EUR'",
    "UPDATE parts SET x = x + 1",
    "UPDATE parts SET day = day + 1 WHERE id = 30",
    "DELETE FROM parts WHERE id = 2",
    "INSERT INTO parts SELECT i, date '2020-12-01' + i, i FROM generate_series(61, 90) i",
)


def test_tables_as_their_users_made_them_are_replayed_into(new_region: New) -> None:
    """Foreign keys, triggers, checks, identities, generated columns, domains, unique indexes, partitions; and back."""
    paris, lima = new_region(), new_region()
    lima.do("CREATE DOMAIN money_text AS text CHECK (VALUE LIKE '%EUR')")
    paris.do(*SHOP)
    follow(paris, lima)
    lima.do("ALTER TABLE tags ALTER price TYPE money_text")
    lima.role().promote(2)
    lima.do(*SHOP_WRITES)
    lima.capture()
    paris.role().adopt(paris.head)
    ship(lima, paris)
    paris.replay()
    for table, columns in SHOP_ROWS.items():
        assert paris.rows(table, columns) == lima.rows(table, columns), table
    assert paris.ask("SELECT count(*) FROM orders WHERE tax IS DISTINCT FROM price * 0.2") == [(0,)]

    lima.role().adopt(lima.head)  # a planned way back
    paris.role().promote(3)
    with pytest.raises(psycopg.errors.GeneratedAlways):
        paris.do("INSERT INTO people (id, email) VALUES (5000, 'never')")
    paris.do(*SHOP_WRITES[3:5], "INSERT INTO people (email) VALUES ('at last')", "INSERT INTO log (what) VALUES ('z')")
    paris.do("INSERT INTO deferred VALUES (2, 'y')", "INSERT INTO log (what) SELECT 'many' FROM generate_series(1, 50)")
    paris.capture()
    ship(paris, lima)
    lima.replay()
    for table, columns in SHOP_ROWS.items():
        assert paris.rows(table, columns) == lima.rows(table, columns), table


def test_a_role_that_may_not_silence_triggers_is_told_how(new_region: New) -> None:
    paris, _ = pair(
        new_region,
        "CREATE TABLE a (id int PRIMARY KEY)",
        "CREATE TABLE b (id int PRIMARY KEY REFERENCES a)",
    )
    user = f"app_{paris.options.slot}"
    paris.do(f"CREATE ROLE {user} LOGIN", f"GRANT CREATE ON DATABASE {paris.options.slot} TO {user}")
    paris.do(f"ALTER TABLE a OWNER TO {user}", f"ALTER TABLE b OWNER TO {user}")
    superuser, paris.dsn = paris.dsn, psycopg.conninfo.make_conninfo(paris.dsn, user=user)
    error = error_of(lambda: paris.role().adopt(paris.head))
    assert error.reason == "replica_privilege"
    assert "session_replication_role" in error.cure
    with psycopg.connect(superuser, autocommit=True) as connection:
        connection.execute(f"GRANT SET ON PARAMETER session_replication_role TO {user}".encode())
    try:
        paris.role().adopt(paris.head)
        paris.replay()
    finally:
        paris.dsn = superuser
        paris.do(f"REASSIGN OWNED BY {user} TO postgres", f"DROP OWNED BY {user}", f"DROP ROLE {user}")
