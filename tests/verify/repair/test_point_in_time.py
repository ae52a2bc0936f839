"""A copy as of a moment: which blocks it holds where clocks jump, and what it is never built from or into."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.errors import ConfigError, Halted
from replicator.format.position import Position
from replicator.format.statement import pack_insert
from replicator.storage.journal.store import Journal
from replicator.verify.repair.point_in_time import PostgresCopy, SqliteCopy, build, copy_into, target
from tests.contracts.replica_kinds import STRAND, PostgresKind, SqliteKind, contents
from tests.verify.repair.world import SECOND, World, note


@pytest.fixture
def jumping(world: World) -> World:
    """Blocks 2 to 6, whose clock jumps ahead at 4 and back again; the first is of second 1."""
    for number, second in enumerate((2, 3, 30, 4, 5), 2):
        world.write(pack_insert(1, note(number)), at=second * SECOND)
    return world


@pytest.mark.parametrize(("second", "last"), [(0, 0), (1, 1), (2, 2), (3, 3), (4, 3), (29, 3), (30, 6), (99, 6)])
def test_the_whole_prefix_before_the_first_later_block(jumping: World, second: int, last: int) -> None:
    with_journal = Journal(jumping.directory / "journal.sqlite3", traceless=True)
    moment = target(with_journal, STRAND, second * SECOND)
    assert moment.position.sequence == last
    assert moment.is_behind is (last < 6)
    with_journal.close()


def test_it_is_what_a_replica_is_that_stopped_there(jumping: World) -> None:
    moment = target(jumping.journal, STRAND, 4 * SECOND)
    copy = SqliteCopy(Path(jumping.kind.path)) if isinstance(jumping.kind, SqliteKind) else None
    if copy is None:
        assert isinstance(jumping.kind, PostgresKind)
        copied: SqliteCopy | PostgresCopy = PostgresCopy(jumping.kind.dsn)
    else:
        copied = copy
    assert copied.claim(moment) is False
    assert copied.claim(moment) is False, "begun, and not finished"
    reached = [applied.position.sequence for applied in build(jumping.journal, STRAND, moment, copied)]
    assert reached[-1] == 3
    assert [cells[0] for cells in contents(jumping.kind, "notes")] == ["2", "3"]
    assert "read-only" in copied.finish(moment)
    assert copied.claim(moment) is True
    with pytest.raises(ConfigError, match="another_moment"):
        copied.claim(target(jumping.journal, STRAND, 2 * SECOND))


def test_a_database_that_holds_something_else_is_refused(jumping: World) -> None:
    moment = target(jumping.journal, STRAND, 4 * SECOND)
    jumping.kind.execute("CREATE TABLE mine (id integer)")
    kind = jumping.kind
    assert isinstance(kind, SqliteKind | PostgresKind)
    copy = SqliteCopy(kind.path) if isinstance(kind, SqliteKind) else PostgresCopy(kind.dsn)
    with pytest.raises(ConfigError, match="not_empty"):
        copy.claim(moment)


def test_half_a_ledger_is_never_built(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite3")
    journal.open()
    journal.begin_at(Position(STRAND, 1, 7, bytes(32)), {})
    with pytest.raises(Halted, match="journal_begins_later") as refused:
        target(journal, STRAND, SECOND)
    assert refused.value.cure
    journal.close()


@pytest.mark.parametrize("dsn", ["postgresql://h/d", "postgres://h", "host=h dbname=d", " dbname = d"])
def test_a_dsn_is_told_from_a_path(dsn: str) -> None:
    assert isinstance(copy_into(dsn), PostgresCopy)
    for path in ("copy.sqlite3", "/tmp/a/copy", "./a=b/c.db", "dir/postgres.db"):
        assert isinstance(copy_into(path), SqliteCopy)
