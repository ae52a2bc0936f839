"""Replay that dies before and after each of its effects while it sets statements aside, and while they are replayed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from replicator.format.statement import pack_define, pack_delete, pack_insert, pack_truncate, pack_update
from replicator.pipeline.replay import quarantine_replay
from replicator.pipeline.replay.quarantine_replay import GroupFilter
from replicator.pipeline.replay.replayer import Replayer
from replicator.pipeline.replicas.quarantine import QuarantineClosing, QuarantineTable
from tests.contracts.replica_kinds import STRAND, Kind, PostgresKind, SqliteKind, contents, row
from tests.pipeline.replay.strand import EVENTS, SETS_ASIDE, WALLETS, Strand, wallet

BATCH_BLOCKS = 2
CLOSING = QuarantineClosing("replayed", 5, "ann", "cured")


class Death(Exception):
    """The process is gone, at just this instruction."""


class Mortal:
    """A replica whose process dies ``before`` or after its effect number ``number``; None: it lives."""

    def __init__(self, kind: Kind, number: int | None, *, before: bool) -> None:
        self._kind = kind
        self._real = kind.replica()
        self._left = number
        self._before = before

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        return self._dying(found) if name in ("begin", "apply", "attempt", "rollback", "commit") else found

    def quarantine(self) -> QuarantineTable:
        table = self._real.quarantine()
        table.add, table.close = self._dying(table.add), self._dying(table.close)  # type: ignore[method-assign]
        return table

    def _dying(self, effect: Callable[..., None]) -> Callable[..., None]:
        def act(*arguments: Any) -> None:
            if effect.__name__ == "add" and not arguments[1]:
                return effect(*arguments)  # nothing to add is no effect
            if self._left is not None:
                self._left -= 1
            if self._left == -1 and self._before:
                self._die()
            try:
                effect(*arguments)
            finally:  # what was refused has had its effect, too
                if self._left == -1:
                    self._die()

        return act

    def _die(self) -> None:
        self._kind.crash(self._real)
        raise Death


class Seen(NamedTuple):
    """What somebody sees who opens the replica: its rows, what is open and what is closed."""

    wallets: list[list[str | None]]
    events: list[list[str | None]]
    open: list[tuple[int, int]]
    closed: list[tuple[int, int, str]]


def seen(strand: Strand) -> Seen:
    table = strand.replica.quarantine()
    closed = sorted((one.sequence, one.ordinal, one.outcome) for one in table.closed(STRAND, 100))
    places = [one.place for one in table.open(STRAND)]
    return Seen(contents(strand.kind), contents(strand.kind, "events"), places, closed)


def new_strand(kind: Kind, directory: Path) -> Strand:
    """A replica at sequence 2, and seven blocks more, some of which it refuses."""
    directory.mkdir(exist_ok=True)
    strand = Strand(kind, directory)
    strand.define(pack_define(1, WALLETS), pack_define(2, EVENTS))
    strand.write(*(pack_insert(1, wallet(number, 10)) for number in (1, 2, 3)))
    strand.replay()
    strand.refuse()
    strand.refuse("events", "amount < 0")
    strand.write(pack_update(1, wallet(1, 11)))
    strand.write(pack_update(1, wallet(2, -1)), pack_insert(2, row("a", "-1")), pack_insert(2, row("b", "1")))
    strand.write(pack_update(1, wallet(2, 12)), pack_insert(1, wallet(4, 14)))
    strand.write(pack_delete(1, row("1")))
    strand.write(pack_truncate(2), pack_insert(2, row("c", "1")), pack_insert(1, wallet(5, -5)))
    strand.write(pack_insert(1, wallet(2, 22)), pack_insert(2, row("d", "1")))
    return strand


def steps(strand: Strand, replica: Any) -> None:
    """Replay to the end with this replica, in batches of two blocks."""
    strand.replica = replica
    strand.replayer = Replayer(strand.journal, replica, STRAND, 1 << 20, BATCH_BLOCKS, SETS_ASIDE)
    strand.replayer.open()
    while strand.replayer.applied.position.sequence < strand.journal.head(STRAND).sequence:
        strand.replayer.step()


def cured(strand: Strand, replica: Any) -> None:
    """What is open is replayed with this replica; the constraint of the wallets is gone."""
    strand.replica = replica
    strand.replayer = Replayer(strand.journal, replica, STRAND, 1 << 20, BATCH_BLOCKS, SETS_ASIDE)
    strand.replayer.open()
    strand.replayer.run(lambda replica, applied: quarantine_replay.replay(replica, applied, GroupFilter(), CLOSING))


def dropped(strand: Strand, replica: Any) -> None:
    """The first statement is given up."""
    strand.replica = replica
    strand.replayer = Replayer(strand.journal, replica, STRAND, 1 << 20, BATCH_BLOCKS, SETS_ASIDE)
    strand.replayer.open()
    closing = CLOSING._replace(outcome="dropped")
    strand.replayer.run(lambda replica, applied: quarantine_replay.drop(replica, applied, (4, 0), closing))


def the_truth(strand: Strand) -> dict[int, Seen]:
    """What is to be seen at each position, replayed without any death."""
    truth = {2: seen(strand)}
    replica = strand.kind.replica()
    strand.replica = replica
    strand.replayer = Replayer(strand.journal, replica, STRAND, 1 << 20, BATCH_BLOCKS, SETS_ASIDE)
    strand.replayer.open()
    while strand.replayer.applied.position.sequence < strand.journal.head(STRAND).sequence:
        applied = strand.replayer.step()
        truth[applied.position.sequence] = seen(strand)
    return truth


Make = Callable[[], Kind]


@pytest.fixture(params=["sqlite", "postgres"])
def new_kind(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    if request.param == "sqlite":
        numbers = itertools.count()
        return lambda: SqliteKind(tmp_path / f"replica-{next(numbers)}.db")
    new_database: Callable[[], str] = request.getfixturevalue("new_database")
    return lambda: PostgresKind(new_database())


def deaths(
    new_kind: Make, directory: Path, act: Callable[[Strand, Any], None], check: Callable[[Strand], None], *, ready: bool
) -> int:
    """Act with a death before and after each effect; ``check`` looks at what the next life finds. ``ready``: everything
    is replayed and cured first. How many deaths there were."""
    for death in itertools.count():
        number, before = death // 2, death % 2 == 0
        strand = new_strand(new_kind(), directory / f"{number}-{before}")
        if ready:
            strand.replay()
            strand.allow()
        strand.replica.close()
        try:
            act(strand, Mortal(strand.kind, number, before=before))
        except Death:
            pass
        else:
            strand.replica.close()
            return death
        strand.again()
        check(strand)
        strand.replica.close()
        strand.journal.close()
    raise AssertionError("unreachable")


def test_a_death_at_any_step_of_setting_aside(new_kind: Make, tmp_path: Path) -> None:
    truth = the_truth(strand := new_strand(new_kind(), tmp_path / "truth"))
    assert truth[8].open == [(4, 0), (5, 0), (7, 2), (8, 0)]
    assert truth[8].closed == [(4, 1, "truncated")]
    strand.replica.close()

    def check(strand: Strand) -> None:
        assert seen(strand) == truth[strand.replayer.applied.position.sequence]
        strand.replica.close()
        steps(strand, strand.kind.replica())
        assert seen(strand) == truth[8]
        assert strand.replayer.applied.blocks == 8

    assert deaths(new_kind, tmp_path, steps, check, ready=False) > 40


def test_a_death_at_any_step_of_a_replay(new_kind: Make, tmp_path: Path) -> None:
    strand = new_strand(new_kind(), tmp_path / "truth")
    strand.replay()
    strand.allow()
    before = seen(strand)
    strand.replica.close()
    cured(strand, strand.kind.replica())
    after = seen(strand)
    assert (after.open, len(after.closed)) == ([], len(before.open) + len(before.closed))
    assert after.wallets == [["2", "ann", "22"], ["3", "ann", "10"], ["4", "ann", "14"], ["5", "ann", "-5"]]
    strand.replica.close()
    ends: list[Seen] = []

    def check(strand: Strand) -> None:
        ends.append(seen(strand))
        assert ends[-1] in (before, after)
        if ends[-1] == before:
            strand.replica.close()
            cured(strand, strand.kind.replica())
            assert seen(strand) == after

    assert deaths(new_kind, tmp_path, cured, check, ready=True) > 6
    assert ends[-1] == after, "the last death is right after the commit"


def test_a_death_at_any_step_of_dropping(new_kind: Make, tmp_path: Path) -> None:
    def check(strand: Strand) -> None:
        found = seen(strand)
        assert ((4, 0) in found.open) != ((4, 0, "dropped") in found.closed)

    assert deaths(new_kind, tmp_path, dropped, check, ready=True) == 6
