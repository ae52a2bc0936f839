"""A game day: round after round of random faults, and what was seen of each. A seed draws all of it.

    python -m tests.e2e.gameday --minutes 30 [--seed N] [--acknowledge 0|1] [--faults kill_server,isolate]

A *day* is a new cluster over real servers. It begins with a fault during the first copy; then come rounds: a bank
works, one or two faults are made, held and ended, the regions come together again, and the checkers judge:

- one writer at a time, by whose answers were heard and by what each database let through;
- nothing that was acknowledged is lost (K = 1); what is lost is sealed (K = 0); nothing is done twice, no number is
  given to two transfers;
- money: balances and the table without a key follow from the transfers;
- all regions hold the same, by their own rows and by the product's comparison;
- nothing that a region said was false at the time (``claims``); no sidecar ended by itself.

Every violation is a line that names its round; the day goes on.
"""

from __future__ import annotations

import math
import random
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psycopg

from tests.e2e.cluster import NAMES
from tests.e2e.gameday.bank import Receipt, alternations, reused_numbers
from tests.e2e.gameday.claims import lies, two_writers
from tests.e2e.gameday.faults import FAULTS, Fault, kill_region, kill_sidecar, stop_server
from tests.e2e.gameday.world import World
from tests.etcd import Etcd

ROUNDS_A_DAY = 12
FIRST_COPY = (kill_sidecar, kill_region, stop_server)
ROWS = 150_000  # of a table that makes the first copy long enough to be met in its middle
BEFORE_SECONDS, HOLD_SECONDS, AFTER_SECONDS = (1.0, 2.5), (1.0, 14.0), (0.5, 2.0)


class GameDay:
    """One seed's days. ``violations`` are what was found, a line each."""

    def __init__(
        self,
        directory: Path,
        seed: int,
        acknowledge: int,
        say: Callable[[str], None],
        faults: Sequence[str] = (),
        *,
        first_copy: bool = True,
    ) -> None:
        self._directory, self._acknowledge, self._say = directory, acknowledge, say
        self._is_copy_disturbed = first_copy
        self._draws = random.Random(seed)
        self._faults = [FAULTS[name] for name in faults] or list(FAULTS.values())
        self.violations: list[str] = []
        self.rounds = 0
        self.acknowledged = 0
        self.lost = 0
        self._days = 0
        self._deck: list[Fault] = []

    def run(self, seconds: float) -> None:
        """Days, until the time is over; the round that is under way is finished."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.day(ROUNDS_A_DAY, deadline)

    def day(self, rounds: int, deadline: float = math.inf) -> None:
        """One day of so many rounds, or fewer."""
        self._days += 1
        directory = self._directory / f"day-{self._days}"
        directory.mkdir()
        etcd = Etcd(directory / "etcd")
        etcd.start()
        world = World(directory, etcd, self._say, acknowledge=self._acknowledge)
        try:
            self._first_copy(world)
            for _ in range(rounds):
                if time.monotonic() > deadline or not self._round(world):
                    break
        except Exception:
            self._found("the day ended", traceback.format_exc())
        finally:
            world.close()
            etcd.stop()

    def _first_copy(self, world: World) -> None:
        """The primary's sidecar, or more, is lost while it copies, for longer than a lease lasts."""
        world.sql(NAMES[0], f"CREATE TABLE archive AS SELECT n AS id, md5(n::text) FROM generate_series(1, {ROWS}) n")
        world.sql(NAMES[0], "ALTER TABLE archive ADD PRIMARY KEY (id)")
        world.open()
        if not self._is_copy_disturbed:
            world.finish_first_copy()
            return
        fault = self._draws.choice(FIRST_COPY)
        self._say(f"first copy: {fault.__name__}")
        copying = lambda: (world.region(NAMES[0]).status() or {}).get("source", {}) not in ({}, None)  # noqa: E731
        world.wait(copying, "the source begins")
        world.sleep(self._draws.uniform(0.0, 3.0))
        self._hold(world, [fault], self._draws.uniform(6.0, 12.0))
        world.finish_first_copy()
        for name in NAMES:
            with psycopg.connect(world.dsns[name]) as session:
                row = session.execute("SELECT count(*) FROM archive").fetchone()
            if row != (ROWS,):
                self._found("first copy", f"{name} holds {row} of {ROWS} rows")

    def _round(self, world: World) -> bool:
        """One round; False when the cluster did not come together again, and a new one is to be made."""
        self.rounds += 1
        if not self._deck:  # every kind comes before any comes again
            self._deck = self._draws.sample(self._faults, len(self._faults))
        number = min(2 if self._draws.random() < 0.2 else 1, len(self._deck))
        faults = [self._deck.pop() for _ in range(number)]
        title = f"round {self.rounds} ({' + '.join(fault.__name__ for fault in faults)})"
        seconds = self._draws.uniform(*HOLD_SECONDS)
        self._say(f"{title}, held for {seconds:.1f} s, at {world.now:.0f} s")
        began, ended, cured = time.monotonic(), len(world.ended), len(world.cures)
        world.start_tellers()
        is_together = True
        try:
            world.sleep(self._draws.uniform(*BEFORE_SECONDS))
            self._hold(world, faults, seconds)
            world.sleep(self._draws.uniform(*AFTER_SECONDS))
            world.settled()
        except Exception as error:
            self._found(title, f"did not come together: {error}")
            is_together = False
        for fault in world.stop_tellers():
            self._found(title, fault)
        if is_together:
            is_together = self._judge(world, title, began)
        for line in world.ended[ended:]:
            self._found(title, line)
        for line in world.cures[cured:]:
            self._say(f"   cure {line}")
        return is_together

    def _hold(self, world: World, faults: Sequence[Fault], seconds: float) -> None:
        """All of these at a time, each ended whatever becomes of the others."""
        under_way: list[Iterator[None]] = []
        for fault in faults:
            steps = fault(world, self._draws)
            under_way.append(steps)
            next(steps, None)
            world.sleep(self._draws.uniform(0.0, 1.0))
        world.sleep(seconds)
        for steps in under_way:
            next(steps, None)

    def _judge(self, world: World, title: str, began: float) -> bool:
        try:
            leader = world.converge()
            books = {name: world.books(name) for name in NAMES}
        except Exception as error:
            self._found(title, f"did not come together at the end: {error}")
            return False
        held = books[leader]
        for name, other in books.items():
            if other != held:
                self._found(title, f"{name} holds other rows than {leader}: {_difference(held, other)}")
        for fault in held.faults():
            self._found(title, fault)
        self._judge_receipts(world, title, held.transfers)
        try:
            world.verified(world.regions[leader])
        except Exception as error:
            self._found(title, f"replicator verify: {str(error)[:400]}")
        sights = {name: [s for s in probe.sights if s.began >= began] for name, probe in world.probes.items()}
        claims = [c for witness in world.witnesses.values() for c in witness.claims if c.began >= began + 1]
        for line in lies(claims, sights, world.receipts, frozenset(held.transfers)):
            self._found(title, f"said what was not so: {line}")
        for line in two_writers(sights):
            self._found(title, line)
        return True

    def _judge_receipts(self, world: World, title: str, transfers: dict[str, tuple[int, int, int, int]]) -> None:
        receipts: list[Receipt] = world.receipts
        missing = [receipt for receipt in receipts if receipt.request not in transfers]
        self.acknowledged += sum(1 for receipt in receipts if receipt.request.startswith(f"r{world._rounds}t"))
        if missing and self._acknowledge:
            self._found(title, f"{len(missing)} acknowledged transfers are lost: {missing[:2]}")
        unsealed = [receipt for receipt in missing if not world.is_sealed(receipt.request)]
        if unsealed:
            self._found(title, f"{len(unsealed)} lost transfers are in no seal: {unsealed[:2]}")
        self.lost += len(missing)
        moved = [r for r in receipts if r.number is not None and transfers.get(r.request, (r.number,))[0] != r.number]
        if moved:
            self._found(title, f"{len(moved)} receipts have another number than the ledger: {moved[:2]}")
        if reused := reused_numbers(receipts):
            self._found(title, f"{len(reused)} numbers were given twice: {reused[:5]}")
        terms, epochs = alternations(receipts), max(r.report().get("epoch", 0) for r in world.regions.values())
        if len(terms) > epochs:
            self._found(title, f"{len(terms)} takings over in {epochs} epochs: {terms[-6:]}")
        world.receipts = [receipt for receipt in receipts if receipt.request in transfers]  # a loss is told once

    def _found(self, title: str, what: str) -> None:
        self.violations.append(f"{title}: {what}")
        self._say(f"VIOLATION {title}: {what}")


def _difference(one: object, other: object) -> str:
    """Where two books differ, shortly."""
    parts = []
    for name, mine, theirs in zip(type(one)._fields, one, other, strict=True):  # type: ignore[attr-defined,call-overload]
        if mine != theirs:
            parts.append(f"{name}: {len(mine)} here, {len(theirs)} there")
    return ", ".join(parts)
