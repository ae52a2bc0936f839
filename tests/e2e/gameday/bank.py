"""A bank's applications during a game day, and what they can testify: transfers, each under its own request id.

A transfer moves money between two accounts, takes a number from a sequence, moves its teller's own counter and leaves
a line in a table without a key. So a transaction that is lost, done twice or undone in part is seen in more than one
place, and what a region shows can be compared with what was acknowledged: the counters say how far it is.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import psycopg

ACCOUNTS, OPENING = 50, 1_000
APP = "bank"
ROLE = (
    f"CREATE ROLE {APP} LOGIN",
    f"GRANT ALL ON SCHEMA public TO {APP}",
    f"ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {APP}",
    f"ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO {APP}",
)
SCHEMA = (
    "CREATE TABLE accounts (owner int PRIMARY KEY, balance bigint NOT NULL)",
    f"INSERT INTO accounts SELECT n, {OPENING} FROM generate_series(1, {ACCOUNTS}) n",
    "CREATE TABLE transfers (number bigserial PRIMARY KEY, request text NOT NULL UNIQUE, payer int NOT NULL,"
    " payee int NOT NULL, amount bigint NOT NULL)",
    "CREATE TABLE tellers (teller text PRIMARY KEY, done bigint NOT NULL)",
    "CREATE TABLE audit (request text, payer int, payee int)",
    "INSERT INTO audit SELECT 'before ' || n, 0, 0 FROM generate_series(1, 50) n",
)
UNIQUE = "CREATE UNIQUE INDEX transfers_request ON transfers (request)"  # no block carries it: made in every region
PAY = "INSERT INTO transfers (request, payer, payee, amount) VALUES (%s, %s, %s, %s) RETURNING number"
MOVE = "UPDATE accounts SET balance = balance + %s WHERE owner = %s"
COUNT = (
    "INSERT INTO tellers VALUES (%s, %s) ON CONFLICT (teller) DO UPDATE SET done = excluded.done"
    " WHERE tellers.done < excluded.done"
)
NOTE = "INSERT INTO audit VALUES (%s, %s, %s)"
PAUSE_SECONDS = 0.05
CONNECT = "connect_timeout=2 application_name=bank tcp_user_timeout=4000"


class Receipt(NamedTuple):
    """An acknowledged transfer. ``number`` is None where an earlier attempt, that had no answer, had done it. Times are
    of one monotonic clock."""

    request: str
    teller: str
    ordinal: int
    region: str
    number: int | None
    sent: float
    heard: float


class Teller(threading.Thread):
    """One client: asks whoever takes its writes, and repeats under the same request id what it has no answer to."""

    def __init__(self, name: str, ports: Mapping[str, int], seed: int) -> None:
        super().__init__(name=name, daemon=True)
        self.receipts: list[Receipt] = []
        self.faults: list[str] = []  # answers that no region should give
        self._ports, self._draws = ports, random.Random(seed)
        self._region = next(iter(ports))
        self._session: psycopg.Connection | None = None
        self._over = threading.Event()
        self._notices: list[str] = []

    def run(self) -> None:
        count = 0
        while not self._over.is_set():
            count += 1
            payer, payee = self._draws.sample(range(1, ACCOUNTS + 1), 2)
            self._transfer(count, payer, payee, self._draws.randint(1, 9))
            self._over.wait(PAUSE_SECONDS)
        self._leave()

    def end(self) -> None:
        """Give up what is not acknowledged yet."""
        self._over.set()

    def _transfer(self, count: int, payer: int, payee: int, amount: int) -> None:
        request = f"{self.name}-{count}"
        while not self._over.is_set():
            region, sent = self._region, time.monotonic()
            try:
                number = self._attempt(request, count, payer, payee, amount)
            except psycopg.errors.UniqueViolation:
                number = None  # it is here; whether other regions have it, only a commit behind it tells
                if not self._confirmed():
                    continue
            except psycopg.Error as error:
                if error.sqlstate not in (None, "25006", "40001") and not isinstance(error, psycopg.OperationalError):
                    self.faults.append(f"{request} at {region}: {error.sqlstate} {error}")
                self._elsewhere()
                continue
            if self._notices:  # "canceling wait for synchronous replication": done here, and promised by nobody
                self._notices.clear()
                self._elsewhere()
                continue
            self.receipts.append(Receipt(request, self.name, count, region, number, sent, time.monotonic()))
            return

    def _attempt(self, request: str, count: int, payer: int, payee: int, amount: int) -> int:
        if self._session is None:
            self._session = psycopg.connect(self._dsn(), autocommit=True)
            self._session.add_notice_handler(self._noticed)
        with self._session.transaction():
            row = self._session.execute(PAY, (request, payer, payee, amount)).fetchone()
            # In one order, so that transfers do not wait for each other in a circle.
            for owner, change in sorted(((payer, -amount), (payee, amount))):
                self._session.execute(MOVE, (change, owner))
            self._session.execute(COUNT, (self.name, count))
            self._session.execute(NOTE, (request, payer, payee))
        assert row is not None
        return int(row[0])

    def _confirmed(self) -> bool:
        """Whether a commit came back behind what is here already."""
        assert self._session is not None
        try:
            self._session.execute("UPDATE accounts SET balance = balance WHERE owner = 1")
        except psycopg.Error:
            self._elsewhere()
            return False
        return True

    def _noticed(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        if diagnostic.severity_nonlocalized == "WARNING":
            self._notices.append(diagnostic.message_primary or "")

    def _dsn(self) -> str:
        return f"host=127.0.0.1 port={self._ports[self._region]} dbname=ledger user={APP} {CONNECT}"

    def _elsewhere(self) -> None:
        self._leave()
        names = list(self._ports)
        self._region = names[(names.index(self._region) + 1) % len(names)]
        self._over.wait(PAUSE_SECONDS)

    def _leave(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None


class Books(NamedTuple):
    """What a region's database holds of the bank."""

    balances: dict[int, int]
    transfers: dict[str, tuple[int, int, int, int]]  # request: number, payer, payee, amount
    audit: list[str]
    tellers: dict[str, int]

    @classmethod
    def read(cls, dsn: str) -> Books:
        """In one snapshot. Raises psycopg.Error."""
        with psycopg.connect(dsn) as session:
            session.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            balances: dict[int, int] = dict(session.execute("SELECT owner, balance FROM accounts"))
            transfers = session.execute("SELECT request, number, payer, payee, amount FROM transfers").fetchall()
            audit = [request for (request,) in session.execute("SELECT request FROM audit ORDER BY 1").fetchall()]
            tellers: dict[str, int] = dict(session.execute("SELECT teller, done FROM tellers"))
        return cls(balances, {row[0]: row[1:] for row in transfers}, audit, tellers)

    def faults(self) -> list[str]:
        """What cannot be in books that follow from whole transfers, each done once."""
        expected = dict.fromkeys(range(1, ACCOUNTS + 1), OPENING)
        for _, payer, payee, amount in self.transfers.values():
            expected[payer] -= amount
            expected[payee] += amount
        before = [f"before {n}" for n in range(1, 51)]
        wrong = sorted(owner for owner in expected if expected[owner] != self.balances.get(owner))
        said = [f"the balances of {wrong[:5]} do not follow from the transfers"] if wrong else []
        if sorted(self.audit) != sorted([*self.transfers, *before]):
            missing = {*self.transfers, *before} - set(self.audit)
            more = set(self.audit) - {*self.transfers, *before}
            said.append(f"audit lacks {sorted(missing)[:3]}, has {sorted(more)[:3]} too many or twice")
        return said


def reused_numbers(receipts: Sequence[Receipt]) -> list[int]:
    """Numbers that two acknowledged transfers were given."""
    first: dict[int, str] = {}
    return [
        receipt.number
        for receipt in receipts
        if receipt.number is not None and first.setdefault(receipt.number, receipt.request) != receipt.request
    ]


def alternations(receipts: Sequence[Receipt]) -> list[str]:
    """The regions that acknowledged, in order, each as often as it took over from another. What was sent before the
    next region's first answer is that region's predecessor's, however late it was heard."""
    order: list[tuple[str, float]] = []
    for receipt in sorted(receipts, key=lambda receipt: receipt.heard):
        if receipt.number is None or (order and order[-1][0] == receipt.region):
            continue
        if len(order) > 1 and receipt.region == order[-2][0] and receipt.sent <= order[-1][1]:
            continue
        order.append((receipt.region, receipt.heard))
    return [region for region, _ in order]
