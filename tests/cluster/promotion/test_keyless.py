"""Tables without a key through changes of role: each row keeps the place that it has on a replica that never led.

What is compared is everything that tells rows apart: contents and places. Equal places mean that a rewind undoes the
orphans' rows and no other, and that a comparison by place finds nothing where nothing differs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from replicator.cluster.fencing.postgres import PostgresFence
from replicator.cluster.rejoin.rewind import Rewind
from replicator.errors import Halted
from replicator.pipeline.replicas.postgres import PostgresReplica
from replicator.storage.data_dir import DataDir
from replicator.storage.journal.history import HistoryIndex
from replicator.storage.journal.pruning import remove_pages
from tests.cluster.promotion.world import STRAND, Region, follow, killed_at, reopened, ship
from tests.cluster.rejoin.chains import Chain, sealed
from tests.contracts.replica_kinds import PostgresKind

New = Callable[..., Region]
SCHEMA = (
    "CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL)",
    # As pgbench_history, and what makes rows hard to tell apart: equal ones, NULLs, characters that are escaped, a
    # column that comes later, one that the database makes by itself.
    "CREATE TABLE audit (what text, amount numeric(10,2), at timestamptz, tag bytea)",
    "CREATE TABLE made (a int, twice int GENERATED ALWAYS AS (a * 2) STORED)",
    "CREATE TABLE empty (x int)",
    "CREATE TABLE stub ()",
    "INSERT INTO accounts SELECT n, 100 FROM generate_series(1, 5) n",
    "INSERT INTO audit SELECT 'good' || n, n / 3, '2026-01-01', '\\x00' FROM generate_series(1, 20) n",
    "INSERT INTO audit SELECT 'same', NULL, NULL, NULL FROM generate_series(1, 5)",
    "INSERT INTO audit VALUES (E'tab\\there\\nand\\\\n', 1, NULL, NULL), (NULL, NULL, NULL, NULL)",
    "INSERT INTO made (a) VALUES (1), (1), (NULL)",
    "INSERT INTO stub DEFAULT VALUES",
)
MORE = (
    "INSERT INTO audit (what) VALUES ('same'), ('more')",
    "ALTER TABLE audit ADD later int DEFAULT 7",
    "INSERT INTO audit VALUES ('same', NULL, NULL, NULL, 7), ('good1', 1, '2026-01-01', '\\x00', NULL)",
    "TRUNCATE made",
    "INSERT INTO made (a) VALUES (5), (1)",
)
COLUMNS = {"audit": "what, amount, at, tag", "made": "a", "empty": "x", "stub": "1"}


def placed(region: Region) -> dict[str, list[tuple[object, ...]]]:
    """Every row of the tables without a key, and the place by which it is known."""
    return {
        table: sorted(region.ask(f"SELECT _sequence, _ordinal, {columns} FROM {table}"), key=repr)
        for table, columns in COLUMNS.items()
    }


@pytest.fixture
def regions(new_region: New) -> tuple[Region, Region, Region]:
    """A primary, and two replicas of which the second never leads."""
    paris, lima, tokyo = new_region(), new_region(), new_region()
    paris.do(*SCHEMA)
    paris.capture()
    for each in SCHEMA[-4:]:  # some blocks more
        paris.do(each)
        paris.capture()
    paris.do(*MORE)
    for region in (lima, tokyo):
        follow(paris, region)
    return paris, lima, tokyo


async def fenced(dsn: str) -> None:
    """As every region of a cluster is."""
    fence = PostgresFence(dsn)
    await fence.install()
    fence.release()


def come_back(old: Region, new: Region, directory: Path) -> int:
    """The way back of a former primary: adopt, seal, rewind; how many orphans there were."""
    old.role().adopt(old.head)
    directory.mkdir(exist_ok=True)
    chains = []
    for region in (old, new):
        chain = Chain.__new__(Chain)  # its journal is open already
        chain.directory, chain.kind, chain.journal = directory, PostgresKind(region.dsn), region.journal
        chain.history = HistoryIndex(directory / f"{region.path.name}.history", region.journal)
        chain.history.open()
        chains.append(chain)
    fork, seal = trio.run(sealed, chains[0], chains[1])
    replica = PostgresReplica(old.dsn)
    Rewind(DataDir(directory), old.journal, chains[0].history, replica, STRAND).run(seal, fork)
    for chain in chains:
        chain.history.close()
    return fork.orphans


def test_orphans_go_and_no_innocent_row(regions: tuple[Region, Region, Region], tmp_path: Path) -> None:
    paris, lima, tokyo = regions
    lima.role().promote(2)
    lima.do("INSERT INTO audit (what) VALUES ('same'), ('theirs')")
    for number in range(5):
        paris.do(
            "BEGIN; INSERT INTO audit (what) VALUES ('same'), ('orphan');"
            f" UPDATE accounts SET balance = 0 WHERE id = {number + 1}; COMMIT"
        )
    paris.do("INSERT INTO made (a) VALUES (5)", "INSERT INTO empty VALUES (1)", "INSERT INTO stub DEFAULT VALUES")
    paris.capture()
    assert come_back(paris, lima, tmp_path / "back") == 8
    assert placed(paris) == placed(tokyo), "at the fork"
    for region in (paris, tokyo):
        follow(lima, region)
    assert placed(paris) == placed(tokyo)
    assert paris.rows("accounts") == tokyo.rows("accounts")
    assert [what for (what,) in paris.rows("audit", "what")] == [what for (what,) in lima.rows("audit", "what")]


def test_orphans_that_truncate_are_undone(regions: tuple[Region, Region, Region], tmp_path: Path) -> None:
    paris, lima, tokyo = regions
    lima.role().promote(2)
    lima.do("INSERT INTO audit (what) VALUES ('theirs')")
    paris.do("TRUNCATE audit, made", "INSERT INTO audit (what) VALUES ('same')", "INSERT INTO made (a) VALUES (1)")
    paris.capture()
    come_back(paris, lima, tmp_path / "back")
    assert placed(paris) == placed(tokyo)


def test_a_planned_change_and_back_moves_no_row(regions: tuple[Region, Region, Region]) -> None:
    paris, lima, tokyo = regions
    for leaver, leader, epoch in ((paris, lima, 2), (lima, paris, 3)):
        leader.role().promote(epoch)
        leader.do("INSERT INTO audit (what) VALUES ('same'), ('another')", "INSERT INTO made (a) VALUES (1)")
        leader.capture()
        leaver.role().adopt(leaver.head)
        for region in (leaver, tokyo):
            ship(leader, region)
            region.replay()
        assert placed(leaver) == placed(tokyo)


def test_rows_older_than_the_journal_come_before_all_that_can_be_undone(regions: tuple[Region, Region, Region]) -> None:
    paris, lima, _ = regions
    base = paris.head
    paris.do("INSERT INTO audit (what) VALUES ('same'), ('young')")
    paris.capture()
    assert remove_pages(paris.journal, STRAND, base.sequence) == base
    paris.role().adopt(paris.head)
    ship(paris, lima)
    lima.replay()
    young = f"SELECT _sequence, _ordinal, what FROM audit WHERE _sequence > {base.sequence} ORDER BY 1, 2"
    assert len(paris.ask(young)) == 2
    assert [(row[0], row[1]) for row in paris.ask(young)] == [(row[0], row[1]) for row in lima.ask(young)]
    assert paris.ask("SELECT DISTINCT _sequence FROM audit WHERE what LIKE 'good%'") == [(base.sequence,)]


GIVEN_UP = [
    "before SEQUENCES",
    "after SEQUENCES",
    "after TABLES",
    "within PUBLICATION",
    "after PUBLICATION",
    "after SLOT",
    "after BEGIN",
    "after EPOCH",
]


@pytest.mark.parametrize("where", GIVEN_UP)
def test_a_promotion_that_is_given_up_anywhere_is_taken_back(
    regions: tuple[Region, Region, Region], where: str
) -> None:
    """The lease is lost in the middle: the region follows on, and nothing is left of what it had begun."""
    paris, lima, tokyo = regions
    before = placed(lima)
    trio.run(fenced, lima.dsn)
    assert killed_at(where, lambda on_step: reopened(lima).role(on_step).promote(2))
    lima = reopened(lima)
    for deadly in ("after TAKE", "after SLOT", "after PUBLICATION"):
        killed_at(deadly, lambda on_step, at=deadly: reopened(lima).role(on_step).withdraw())  # type: ignore[misc]
    lima = reopened(lima)
    lima.role().withdraw()
    lima.role().withdraw()  # nothing is left to be done
    assert placed(lima) == before
    assert lima.ask(f"SELECT FROM pg_replication_slots WHERE slot_name = '{lima.options.slot}'") == []
    assert lima.ask("SELECT FROM pg_publication") == []
    assert not [key for key in lima.journal.notes() if key.startswith("postgres.")]
    if where != "after EPOCH":  # that block is an orphan of its own, and is rewound
        paris.do(*MORE[:1], "TRUNCATE empty", "INSERT INTO empty VALUES (4)")
        paris.capture()
        for region in (lima, tokyo):
            ship(paris, region)
            region.replay()
        assert placed(lima) == placed(tokyo)


def test_a_region_that_led_is_never_taken_back_as_if_it_had_not(regions: tuple[Region, Region, Region]) -> None:
    """Its role is forgotten, say: what it wrote last may be nowhere else."""
    _, lima, _ = regions
    trio.run(fenced, lima.dsn)
    lima.role().promote(2)
    lima.do("SET replicator.writer = on; UPDATE replicator.fencing SET epoch = 2")  # as the guard does when it opens
    lima.do("SET replicator.writer = on; INSERT INTO audit (what) VALUES ('only here')")
    with pytest.raises(Halted, match="has_led"):
        lima.role().withdraw()
    assert lima.ask("SELECT count(*) FROM audit WHERE what = 'only here'") == [(1,)]
    assert lima.ask(f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{lima.options.slot}'") == [(1,)]
