"""The term of a primary: the fence is open in no epoch but the one in which it was decided to open."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from pathlib import Path

import pytest

from replicator.cluster.failover.lease_keeper import CHECK_SECONDS, LeaseKeeper
from replicator.cluster.fencing.embedded import Gate
from replicator.cluster.leases.etcd.lease import EtcdLease
from replicator.cluster.leases.etcd.options import EtcdOptions
from replicator.cluster.leases.static import StaticLease
from tests.etcd import Etcd, running

TTL_SECONDS = 30.0


class Hands:
    """A clock that a test moves; it stands for the one that counts suspension."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
def gate(clock: Hands) -> Gate:
    return Gate(clock)


@pytest.fixture
def term(tmp_path: Path, clock: Hands, gate: Gate) -> LeaseKeeper:
    lease = StaticLease(tmp_path / "lease.json", "main", TTL_SECONDS, clock, lambda: "one boot")
    return LeaseKeeper(lease, gate, "paris", clock, 0.01, 0.5, lambda: None)


async def test_a_renewal_prolongs_what_is_open(term: LeaseKeeper, gate: Gate, clock: Hands) -> None:
    await term.claim(1, None)
    await term.open(1)
    clock.seconds += TTL_SECONDS / 2
    await term._renew()
    clock.seconds += TTL_SECONDS * 3 / 4
    assert (await gate.look()).open
    assert term.is_open


async def test_a_renewal_in_another_epoch_opens_nothing(term: LeaseKeeper, gate: Gate, clock: Hands) -> None:
    """It slept through its lease, and claims again: until its promotion is done nobody may write."""
    await term.claim(1, None)
    await term.open(1)
    clock.seconds += 2 * TTL_SECONDS
    await term._renew()
    assert term.grant is None, "another process may have led since"
    await term.claim(2, None)
    await term._renew()
    assert not (await gate.look()).open
    assert not term.is_open
    await term.open(2)
    assert (await gate.look()).open


async def test_a_renewal_after_closing_opens_nothing(term: LeaseKeeper, gate: Gate) -> None:
    await term.claim(1, None)
    await term.open(1)
    await term.close(None, retry_after=1)
    await term._renew()
    assert not (await gate.look()).open
    assert not term.is_open


async def test_a_store_that_is_full_is_said_to_grant_nothing(tmp_path: Path) -> None:
    """It answers and renews all the same: without a look at claims all would be green, and no failover possible."""
    with running(Etcd(tmp_path / "etcd", quota_bytes=256 * 1024)) as server:
        async with contextlib.aclosing(EtcdLease(EtcdOptions((server.url,), 60, "/full"), "main")) as lease:
            clock = Hands()
            keeper = LeaseKeeper(lease, Gate(clock), "paris", clock, 0.01, 0.5, lambda: None)
            await keeper.claim(1, None)
            await looked(keeper, clock)
            assert keeper.trouble is None
            with contextlib.suppress(subprocess.CalledProcessError):  # with the last one it is full
                for number in range(100):
                    server.ctl("put", f"/filler/{number % 2}", "x" * 20_000)
            await looked(keeper, clock)
            assert keeper.unclaimable is not None
            assert keeper.unclaimable.reason == "lease_store_full"
            assert keeper.trouble is keeper.unclaimable
            assert keeper.view is not None
            assert await keeper._renew(), "the primary goes on"
            make_room(server, keeper.unclaimable.cure)
            await looked(keeper, clock)
            assert keeper.trouble is None


async def looked(keeper: LeaseKeeper, clock: Hands) -> None:
    """What it does again and again."""
    clock.seconds += CHECK_SECONDS
    await keeper.look()
    await keeper._check()


def make_room(server: Etcd, cure: str) -> None:
    """What the cure says, in its order."""
    revision = json.loads(server.ctl("endpoint", "status", "--write-out=json"))[0]["Status"]["header"]["revision"]
    steps = re.findall(r"etcdctl (\w+(?: \w+)?)", cure)
    assert steps == ["compact", "defrag", "alarm disarm"]
    for step in steps:
        server.ctl(*step.split(), *([str(revision)] if step == "compact" else []))
