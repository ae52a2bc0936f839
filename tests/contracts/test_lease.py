"""What every lease store keeps to, whatever it is: one holder at a time, and an epoch that only grows."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from replicator.cluster.leases.base import NEVER, Grant, Holder, Lease, LeaseLost, LeaseView, boot_seconds, usable_until
from tests.cluster.leases.waiting import DEADLINE_SECONDS, patiently, vacant
from tests.contracts.lease_kinds import KINDS, LeaseKind


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> LeaseKind:
    """A store of each kind."""
    return KINDS[request.param](tmp_path, lambda: request.getfixturevalue("etcd"))


class Sidecars:
    """As many ways to one store as a test asks for; all are closed at its end."""

    def __init__(self, kind: LeaseKind) -> None:
        self._kind = kind
        self._open: list[Lease] = []

    def one(self, strand: str = "main") -> Lease:
        self._open.append(self._kind.lease(strand, brief=False))
        return self._open[-1]

    def brief(self) -> Lease:
        """One whose grants end within seconds."""
        self._open.append(self._kind.lease("main", brief=True))
        return self._open[-1]

    async def close(self) -> None:
        for lease in self._open:
            await lease.aclose()


@pytest.fixture
async def sidecars(kind: LeaseKind) -> AsyncIterator[Sidecars]:
    opened = Sidecars(kind)
    yield opened
    await opened.close()


# -- one holder -------------------------------------------------------------------------------------------------------


async def test_nobody_holds_a_new_lease_and_no_epoch_was_granted(sidecars: Sidecars) -> None:
    assert await sidecars.one().look() == LeaseView(None, 0)


async def test_what_was_claimed_is_seen_by_all(sidecars: Sidecars) -> None:
    mine, other = sidecars.one(), sidecars.one()
    before = boot_seconds()
    grant = await mine.claim("paris", 3)
    assert (grant.strand, grant.region, grant.epoch) == ("main", "paris", 3)
    assert before <= grant.asked_at <= boot_seconds()
    assert grant.ttl_seconds == mine.ttl_seconds
    assert mine.exclusive
    assert await other.look() == LeaseView(grant.holder, 3)


async def test_a_second_claim_is_lost_and_tells_whose_it_is(sidecars: Sidecars) -> None:
    grant = await sidecars.one().claim("paris", 1)
    with pytest.raises(LeaseLost, match="paris holds the lease in epoch 1") as lost:
        await sidecars.one().claim("tokyo", 2)
    assert lost.value.view == LeaseView(grant.holder, 1)
    assert lost.value.status == 409


async def test_of_many_claims_at_once_one_wins(sidecars: Sidecars) -> None:
    for epoch in range(1, 11):
        won, lost = await all_claim([sidecars.one() for _ in range(8)], epoch)
        assert len(won) == 1
        assert lost == 7
        view = await sidecars.one().look()
        assert view == LeaseView(won[0].holder, epoch)
        await sidecars.one().release(won[0])


async def all_claim(leases: list[Lease], epoch: int) -> tuple[list[Grant], int]:
    won, lost = [], 0

    async def claim(number: int, lease: Lease) -> None:
        nonlocal lost
        try:
            won.append(await lease.claim(f"region-{number}", epoch))
        except LeaseLost:
            lost += 1

    async with trio.open_nursery() as nursery:
        for number, lease in enumerate(leases):
            nursery.start_soon(claim, number, lease)
    return won, lost


async def test_a_claim_that_is_made_again_is_given_its_grant(sidecars: Sidecars) -> None:
    first = await sidecars.one().claim("paris", 1)
    again = await sidecars.one().claim("paris", 1)
    assert dataclasses.replace(again, asked_at=first.asked_at) == first
    assert again.asked_at > first.asked_at


async def test_strands_have_leases_of_their_own(sidecars: Sidecars) -> None:
    await sidecars.one("main").claim("paris", 4)
    assert await sidecars.one("audit").look() == LeaseView(None, 0)
    await sidecars.one("audit").claim("tokyo", 1)
    assert (await sidecars.one("main").look()).epoch == 4


async def test_a_grant_of_another_time_is_not_renewed(sidecars: Sidecars) -> None:
    lease = sidecars.one()
    grant = await lease.claim("paris", 1)
    for step in (lease.renew, lease.keep_mine):
        with pytest.raises(LeaseLost):
            await step(dataclasses.replace(grant, lease_id="1234567", token="1"))
    await lease.release(dataclasses.replace(grant, lease_id="1234567"))
    assert (await lease.look()).holder == grant.holder


# -- the epoch --------------------------------------------------------------------------------------------------------


async def test_an_epoch_is_granted_once(sidecars: Sidecars) -> None:
    lease = sidecars.one()
    await lease.release(await lease.claim("paris", 5))
    assert await lease.look() == LeaseView(None, 5)
    for epoch in (4, 5):
        with pytest.raises(LeaseLost, match="5 was granted already"):
            await lease.claim("paris", epoch)
    assert (await lease.claim("tokyo", 6)).epoch == 6


@pytest.mark.parametrize("seed", range(6))
async def test_over_any_history_there_is_one_holder_and_the_epoch_grows(sidecars: Sidecars, seed: int) -> None:
    draws = random.Random(seed)
    leases = {region: sidecars.one() for region in ("paris", "tokyo", "lima")}
    grants: dict[str, Grant] = {}
    holder: Holder | None = None  # what must be, by a model of it
    epoch = 0
    for _ in range(40):
        region = draws.choice(list(leases))
        lease, grant = leases[region], grants.get(region)
        is_mine = grant is not None and holder is not None and holder == grant.holder
        step = draws.choice(["claim", "claim", "take over", "renew", "keep", "release"])
        if step in ("claim", "take over"):
            wanted = epoch + draws.randint(-1, 2)
            instead_of = draws.choice([holder, Holder("paris", 1, "1")]) if step == "take over" else None
            same = holder is not None and holder[:2] == (region, wanted)
            replaces = holder is None or (instead_of is not None and instead_of.token == holder.token)
            if same or (replaces and wanted > epoch):
                grants[region] = await lease.claim(region, wanted, instead_of)
                holder, epoch = grants[region].holder, max(epoch, wanted)
            else:
                with pytest.raises(LeaseLost):
                    await lease.claim(region, wanted, instead_of)
        elif grant is not None and step == "release":
            await lease.release(grant)
            holder = None if is_mine else holder
        elif grant is not None:
            do = lease.renew if step == "renew" else lease.keep_mine
            if is_mine:
                grants[region] = await do(grant)
                assert (grants[region].token == grant.token) == (step == "renew")
                holder = grants[region].holder
            else:
                with pytest.raises(LeaseLost):
                    await do(grant)
        assert await lease.look() == LeaseView(holder, epoch)


# -- time -------------------------------------------------------------------------------------------------------------


async def test_a_lease_that_is_not_renewed_ends_and_is_lost_for_ever(sidecars: Sidecars) -> None:
    mine, other = sidecars.brief(), sidecars.one()
    grant = await patiently(lambda: mine.claim("paris", 1))
    assert await vacant(other) == LeaseView(None, 1)
    mine = sidecars.one()
    for step in (mine.renew, mine.keep_mine):
        with pytest.raises(LeaseLost, match="nobody holds it") as lost:
            await step(grant)
        assert lost.value.view == LeaseView(None, 1)
    successor = await other.claim("tokyo", 2)
    with pytest.raises(LeaseLost, match="tokyo holds it in epoch 2"):
        await mine.renew(grant)
    await mine.release(grant)  # nothing happens
    assert await other.look() == LeaseView(successor.holder, 2)


async def test_a_lease_that_is_renewed_does_not_end(sidecars: Sidecars) -> None:
    mine, other = sidecars.brief(), sidecars.one()
    first = grant = await patiently(lambda: mine.claim("paris", 1))
    while boot_seconds() < first.asked_at + 1.5 * first.ttl_seconds:
        renewed = await patiently(functools.partial(mine.renew, grant))
        assert renewed.asked_at > grant.asked_at
        assert dataclasses.replace(renewed, asked_at=grant.asked_at) == grant
        grant = renewed
        assert (await other.look()).holder == first.holder
        await trio.sleep(first.ttl_seconds / 8)  # what a holder does


async def test_the_store_gives_it_to_nobody_else_before_the_holder_has_stopped(sidecars: Sidecars) -> None:
    mine, lease = sidecars.brief(), sidecars.one()
    grant = await patiently(lambda: mine.claim("paris", 1))
    with trio.fail_after(DEADLINE_SECONDS):
        while True:
            with contextlib.suppress(LeaseLost):
                await lease.claim("tokyo", 2)
                break
    assert boot_seconds() > usable_until(grant, clock_error=0.01, margin_seconds=0.01)


async def test_a_grant_from_a_file_is_proven_by_its_renewal(sidecars: Sidecars) -> None:
    grant = await sidecars.one().claim("paris", 1)
    read = Grant.from_json(json.loads(json.dumps(grant.as_json())))
    assert usable_until(read, 0.01, 0.1) == NEVER
    renewed = await sidecars.one().renew(read)
    assert renewed.asked_at > grant.asked_at
    assert dataclasses.replace(renewed, asked_at=grant.asked_at) == grant


# -- in place of the holder -------------------------------------------------------------------------------------------


async def test_a_claim_in_place_of_the_holder_takes_it_from_him(sidecars: Sidecars) -> None:
    old, new = sidecars.one(), sidecars.one()
    given = await old.claim("paris", 1)
    taken = await new.claim("tokyo", 2, instead_of=given.holder)
    for step in (old.renew, old.keep_mine):
        with pytest.raises(LeaseLost, match="tokyo holds it in epoch 2") as lost:
            await step(given)
        assert lost.value.holder == taken.holder
    await old.release(given)
    assert await old.look() == LeaseView(taken.holder, 2)


async def test_the_end_of_the_former_holders_time_does_not_touch_its_successor(sidecars: Sidecars) -> None:
    old, lease = sidecars.brief(), sidecars.one()
    given = await patiently(lambda: old.claim("paris", 1))
    taken = await lease.claim("tokyo", 2, instead_of=given.holder)
    await trio.sleep(1.5 * given.ttl_seconds)  # the store looks for what has ended twice a second
    assert (await lease.look()).holder == taken.holder


async def test_a_claim_in_place_of_someone_else_is_lost(sidecars: Sidecars) -> None:
    lease = sidecars.one()
    first = await lease.claim("paris", 1)
    second = await lease.claim("tokyo", 2, instead_of=first.holder)
    with pytest.raises(LeaseLost):
        await sidecars.one().claim("lima", 3, instead_of=first.holder)
    with pytest.raises(LeaseLost, match="2 was granted already"):
        await sidecars.one().claim("lima", 2, instead_of=second.holder)
    assert await lease.look() == LeaseView(second.holder, 2)


async def test_who_keeps_it_cannot_be_replaced_by_whoever_looked_before(sidecars: Sidecars) -> None:
    mine = sidecars.one()
    grant = await mine.claim("paris", 1)
    kept = await mine.keep_mine(grant)
    assert kept.token != grant.token
    assert kept.asked_at == grant.asked_at, "its time has not begun anew"
    with pytest.raises(LeaseLost):
        await sidecars.one().claim("tokyo", 2, instead_of=grant.holder)
    assert (await mine.renew(kept)).token == kept.token
    assert await mine.look() == LeaseView(kept.holder, 1)


async def test_keeping_it_again_after_a_lost_answer_finds_it(sidecars: Sidecars) -> None:
    mine = sidecars.one()
    grant = await mine.claim("paris", 1)
    unheard = await mine.keep_mine(grant)
    again = await mine.keep_mine(grant)
    assert again.token not in (grant.token, unheard.token)
    assert (await mine.renew(grant)).token == again.token


async def test_either_the_holder_keeps_it_or_the_other_gets_it(sidecars: Sidecars) -> None:
    old, new = sidecars.one(), sidecars.one()
    for epoch in range(1, 31, 2):
        given = await old.claim("paris", epoch)
        won: dict[str, Grant] = {}

        async def keep(given: Grant = given, won: dict[str, Grant] = won) -> None:
            with contextlib.suppress(LeaseLost):
                won["kept"] = await old.keep_mine(given)

        async def take(given: Grant = given, won: dict[str, Grant] = won, epoch: int = epoch) -> None:
            with contextlib.suppress(LeaseLost):
                won["taken"] = await new.claim("tokyo", epoch + 1, instead_of=given.holder)

        async with trio.open_nursery() as nursery:
            for step in (keep, take) if epoch % 4 == 1 else (take, keep):
                nursery.start_soon(step)
        ((name, grant),) = won.items()
        assert (await old.look()).holder == grant.holder
        await (old if name == "kept" else new).release(grant)
