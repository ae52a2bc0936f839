"""A primary with an embedded ledger that went on writing when nobody heard it any more, and the one that took over."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from replicator.ledger.commit import Committer, Outcome
from replicator.ledger.planning import TransactionAnswer
from tests.cluster.rejoin.chains import Chain
from tests.contracts.replica_kinds import SqliteKind
from tests.ledger.region import POINTS, WALLETS, Clock, change, insert, options, transaction

STRAND = "main"


class Ledger(Chain):
    """A region with an embedded ledger."""

    def __init__(self, directory: Path, epoch: int) -> None:
        super().__init__(directory, SqliteKind(directory / "state.sqlite3"), epoch)
        self.clock = Clock()

    def committer(self) -> Committer:
        committer = Committer(self.journal, STRAND, self.epoch, options(self.directory, self.clock))
        committer.open()
        return committer

    def submit(self, *bodies: bytes) -> list[Outcome]:
        """Each a block of its own."""
        committer = self.committer()
        try:
            outcomes: list[Outcome] = []
            for body in bodies:
                self.clock.now += 1_000_000
                outcomes += committer.execute([body])
            return outcomes
        finally:
            committer.close()

    def declare_all(self) -> None:
        committer = self.committer()
        committer.declare(WALLETS)
        committer.declare(POINTS)
        committer.close()

    def document(self, key: str, table: str = "wallets") -> tuple[dict[str, Any], int] | None:
        found = self.kind.execute(f"SELECT document, version FROM {table} WHERE wallet_id = '{key}'")
        return None if not found else (json.loads(str(found[0][0])), int(str(found[0][1])))


def put(key: str, **fields: Any) -> dict[str, Any]:
    return {"table": "wallets", "op": "put", "document": {"wallet_id": key, "user_id": f"u-{key}", **fields}}


def topup(key: str, amount: int, **fields: Any) -> bytes:
    return transaction(change("add", key, add={"balance": amount}), **fields)


_MADE: list[Path] = []  # made once: the files of the three regions, to be copied


def parted(directory: Path) -> tuple[Ledger, Ledger, Ledger]:
    """The old primary with orphans, the one that took over, and one that stands at the fork."""
    if not _MADE:
        home = Path(tempfile.mkdtemp(prefix="parted-"))
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        for region in _part(home):
            region.close()
        _MADE.append(home)
    shutil.copytree(_MADE[0], directory, dirs_exist_ok=True)
    old, new, reference = (Ledger(directory / name, epoch) for name, epoch in (("old", 1), ("new", 2), ("fork", 1)))
    for region in (old, new, reference):
        region.clock.now += 60_000_000  # behind all that was written
    return old, new, reference


def _part(directory: Path) -> tuple[Ledger, Ledger, Ledger]:
    old, new, reference = (Ledger(directory / name, epoch) for name, epoch in (("old", 1), ("new", 2), ("fork", 1)))
    old.declare_all()
    opened = [insert(wallet_id=name, user_id=f"u-{name}", balance=100) for name in "abcdefgh"]
    old.submit(transaction(*opened), topup("a", 5, id="before"))
    old.submit(transaction(change("delete", "h"), id="h goes"), transaction(change("delete", "g")))
    for other in (new, reference):
        other.take(old)
        other.clock.now = old.clock.now
    reference.submit()
    orphans = [
        topup("a", 7, id="orphan-a"),
        topup("b", -30),
        topup("b", -20, id="second-b"),
        topup("c", 1),
        transaction(change("delete", "d"), insert(wallet_id="new", user_id="u", balance=1), id="both"),
        transaction(insert(wallet_id="h", user_id="u-h", balance=9)),
        transaction(change("delete", "h")),
        transaction(change("update", "e", set={"note": "<script>alert('x')</script> & more"})),
        topup("f", 3, id="retried"),
        transaction(*(insert("points", tenant="t", number=n, user_id="u", note="x" * 9000) for n in range(130))),
    ]
    assert all(isinstance(outcome, TransactionAnswer) for outcome in old.submit(*orphans))
    committer = old.committer()
    committer.declare(WALLETS.__class__("late", ("id",), ("string",)))
    committer.close()
    taken_over = [topup("c", 50), topup("f", 3, id="retried"), topup("a", 1)]
    assert all(isinstance(outcome, TransactionAnswer) for outcome in new.submit(*taken_over))
    (old.directory / "spool.sqlite3").write_bytes(b"what waits")
    return old, new, reference
