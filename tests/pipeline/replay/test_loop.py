"""Work between two steps of the replay loop: alone on the replica, never in the way of the position."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from replicator.errors import Halted, Unavailable
from replicator.format.statement import pack_insert
from replicator.pipeline.replay.quarantine import QuarantinePolicy
from replicator.pipeline.replicas.base import AppliedMark, Replica
from tests.contracts.replica_kinds import STRAND
from tests.pipeline.replay.operated import Operated
from tests.pipeline.replay.strand import wallet


@pytest.fixture
def operated(tmp_path: Path) -> Operated:
    return Operated(tmp_path)


def touch(replica: Replica, applied: AppliedMark) -> AppliedMark:
    replica.begin()
    replica.commit(applied)
    return applied


async def test_work_is_done_between_steps_and_gets_where_the_replica_stands(operated: Operated) -> None:
    async with operated.running():
        applied = await operated.replay.between_steps(touch)
        assert applied.position == operated.strand.journal.head(STRAND)
        assert operated.strand.replica.applied(STRAND) == applied
        operated.write(pack_insert(1, wallet(7, 7)))
        await operated.caught_up()
        assert operated.strand.wallets()["7"] == "7"
        assert len(operated.opened) == 1, "the replica was opened once"


async def test_no_step_runs_meanwhile(operated: Operated) -> None:
    """Blocks come while the work is under way; they are applied after it."""
    began, may_end = threading.Event(), threading.Event()
    seen: list[int] = []

    def work(replica: Replica, applied: AppliedMark) -> None:
        began.set()
        may_end.wait(10)
        stored = replica.applied(STRAND)
        assert stored is not None
        seen.append(stored.position.sequence)

    async with operated.running(), trio.open_nursery() as nursery:
        nursery.start_soon(operated.replay.between_steps, work)
        await trio.to_thread.run_sync(began.wait, 10)
        operated.write(pack_insert(1, wallet(7, 7)))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert operated.applied[-1].position.sequence == 5
        may_end.set()
        await operated.caught_up()
        assert seen == [5]


async def test_work_that_fails_half_way_leaves_nothing_and_the_loop_goes_on(operated: Operated) -> None:
    def work(replica: Replica, applied: AppliedMark) -> None:
        replica.begin()
        raise Unavailable("gone", "the connection is lost", place="replica")

    async with operated.running():
        with pytest.raises(Unavailable):
            await operated.replay.between_steps(work)
        operated.write(pack_insert(1, wallet(7, 7)))
        await operated.caught_up()
        assert operated.strand.wallets()["7"] == "7"
        assert len(operated.opened) == 2, "it was opened again, and that was told"


async def test_work_is_done_while_the_strand_is_halted(tmp_path: Path) -> None:
    """What halts it may be what the work is to cure: here that no more may be set aside."""
    operated = Operated(tmp_path, QuarantinePolicy(sets_aside=True, limit=2))
    with pytest.raises(Halted) as caught:
        await operated.replay.run_once()
    assert caught.value.reason == "quarantine_full"
    applied = await operated.replay.between_steps(touch)
    assert applied.position.sequence == 3
    assert operated.strand.open() == []


def replace_by_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


async def test_a_replica_that_cannot_be_opened_is_said(operated: Operated, tmp_path: Path) -> None:
    operated.strand.replica.close()
    replace_by_a_directory(tmp_path / "replica.db")
    operated.strand.replayer.is_open = False
    with pytest.raises(Unavailable) as caught:
        await operated.replay.between_steps(touch)
    assert caught.value.reason == "cannot_write"
