"""How a canary is written, looked for and removed: by the embedded ledger's API, or in PostgreSQL.

Guarantee: a write that is sent again is the same write (an idempotency key; a key of the table), so that of each canary
it is known whether it happened. Where the answer is that the region does not write, it names the one that does, if it
can. All that a region says becomes one of ``WriteAcknowledged``, ``WriteNotHere``, ``WriteRetryLater`` and
``WriteUnknown``; what no repetition cures is a ReplicatorError.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Protocol, TypeVar

import psycopg
import trio
from psycopg import sql

from replicator.errors import ConfigError, Corrupt, Rejected, Unavailable
from replicator.ops.drills.regions import DeploymentRegions
from replicator.ops.drills.rules.plan import CanaryPlan
from replicator.postgres.errors import SessionReasons
from replicator.postgres.session import Connection, Database
from replicator.transport.answer import bad_answer, read_object
from replicator.transport.client import Bounds

RETRY_AFTER_LIMIT_SECONDS = 30.0
SESSIONS = 8
APPLICATION_NAME = "replicator-drill"  # "replicator …" are the sidecar's, which the fence lets nobody else use
CARRIED_SECONDS = 10.0  # how long a table that was just made may take to be in another region
LOOK_SECONDS = 0.1
REMOVED_AT_ONCE = 1_000
ANSWER_LIMIT_BYTES = 1_000_000

CANARY = SessionReasons(dsn="canary_dsn", waits="database_away", halts="canary_refused", named={})


class WriteAcknowledged(NamedTuple):
    """The canary is written; ``position`` is empty where the ledger tells none."""

    position: str = ""


class WriteNotHere(NamedTuple):
    """This region does not write; ``region`` does, if it is known."""

    region: str | None = None


class WriteRetryLater(NamedTuple):
    """The write is to be sent again after so many seconds."""

    seconds: float


class WriteUnknown(NamedTuple):
    """There was no answer, or none that tells whether the canary is written."""

    why: str


T = TypeVar("T")
Answer = WriteAcknowledged | WriteNotHere | WriteRetryLater | WriteUnknown


class CanaryWriter(Protocol):
    """The canaries of one drill in a ledger."""

    async def prepare(self, leader: str) -> None:
        """Make the table, if it is not there. Raises ReplicatorError."""

    async def check(self, region: str) -> None:
        """Whether canaries could be written in a region that follows, once it leads; some are there by now. Raises
        ReplicatorError."""

    async def write(self, region: str, number: int) -> Answer:
        """One attempt."""

    async def remove(self, leader: str) -> None:
        """Take the drill's canaries out again, as many as there are. Raises ReplicatorError."""

    async def close(self) -> None:
        """Let go of connections."""


def key_of(drill: str, number: int) -> str:
    """A canary's key, and the idempotency key of its write."""
    return f"{drill}-{number}"


def canary_writer(drill: str, plan: CanaryPlan, regions: DeploymentRegions) -> CanaryWriter:
    """In PostgreSQL where the plan names databases, else in the embedded ledger."""
    dsns = {name: secret.reveal() for name, secret in plan.dsn.items()}
    return (
        PostgresCanaryWriter(drill, plan, dsns, regions.named_in)
        if dsns
        else EmbeddedCanaryWriter(drill, plan, regions)
    )


# -- the embedded ledger


class EmbeddedCanaryWriter:
    """Writes canaries by HTTP, as any client of the ledger does it."""

    def __init__(self, drill: str, plan: CanaryPlan, regions: DeploymentRegions) -> None:
        self._drill, self._plan, self._regions = drill, plan, regions

    async def prepare(self, leader: str) -> None:
        declaration, bounds = {"key": "canary_id", "user": "user_id"}, Bounds(10, ANSWER_LIMIT_BYTES)
        client = self._regions.client(leader)
        await client.ask("PUT", f"/v1/tables/{self._plan.table}", fields=declaration, bounds=bounds)

    async def check(self, region: str) -> None:
        """Whoever leads takes them."""

    async def write(self, region: str, number: int) -> Answer:
        key = key_of(self._drill, number)
        document = {
            "canary_id": key,
            "user_id": self._drill,
            "number": number,
            "amount": self._plan.amount,
            "currency": self._plan.currency,
        }
        return await self._send(region, key, [{"op": "insert", "table": self._plan.table, "document": document}])

    async def remove(self, leader: str) -> None:
        """Those that the leader lists as the drill's; the last page is empty."""
        while keys := await self._keys(leader):
            deletes: list[dict[str, object]] = [{"op": "delete", "table": self._plan.table, "key": key} for key in keys]
            answer = await self._send(leader, f"{self._drill}-remove-{keys[0]}", deletes)
            if not isinstance(answer, WriteAcknowledged):
                raise Unavailable("canaries_left", f"canaries were not removed: {answer}", place=leader)

    async def _keys(self, leader: str) -> list[str]:
        """The next keys, as the leader shows them."""
        path = f"/v1/tables/{self._plan.table}/users/{self._drill}?limit={REMOVED_AT_ONCE}"
        page = await self._regions.ask(leader, path)
        try:
            return [] if page is None else [str(row["document"]["canary_id"]) for row in page["documents"]]
        except (KeyError, TypeError) as error:
            raise bad_answer(leader, f"it lists no canaries: {error!r}") from error

    async def close(self) -> None:
        pass

    async def _send(self, region: str, key: str, statements: list[dict[str, object]]) -> Answer:
        client, bounds = self._regions.client(region), Bounds(self._plan.attempt_seconds, ANSWER_LIMIT_BYTES)
        fields = {"id": key, "statements": statements}
        try:
            answer = await client.exchange("POST", "/v1/transactions", fields=fields, bounds=bounds)
            if answer.is_good:
                read_object(answer, region)  # a page of something between is no acknowledgement
                return WriteAcknowledged(answer.headers.get("Position", ""))
        except (Unavailable, Corrupt) as error:
            return WriteUnknown(error.message)
        refusal = client.refusal(answer)
        if refusal.reason == "not_primary" and answer.status == 409:
            text = answer.content.decode(errors="replace") + answer.headers.get("Location", "")
            return WriteNotHere(self._regions.named_in(text))
        if isinstance(refusal, Unavailable) or answer.status == 409:
            return WriteRetryLater(retry_after(answer.headers.get("Retry-After")))
        raise refusal


def retry_after(text: str | None) -> float:
    """The seconds of a Retry-After header; 0 without one."""
    try:
        return min(max(float(text or 0), 0.0), RETRY_AFTER_LIMIT_SECONDS)
    except ValueError:
        return 0.0


# -- PostgreSQL

RIGHTS = "SELECT, INSERT, DELETE"
_RIGHTS = f"""
SELECT quote_ident(current_user), quote_ident(pg_get_userbyid(c.relowner)),
       (SELECT bool_and(has_table_privilege(c.oid, needed)) FROM unnest(string_to_array('{RIGHTS}', ', ')) AS needed)
  FROM pg_class c WHERE c.oid = to_regclass(%(table)s)
"""


class PostgresCanaryWriter:
    """Writes canaries into the regions' databases, each attempt in a worker thread: as an application, under the role
    of the plan's dsns, which the fence lets write only where the primary is. ``dsns`` are by region; ``named_in`` gives
    the region whose address a text holds."""

    def __init__(
        self,
        drill: str,
        plan: CanaryPlan,
        dsns: Mapping[str, str],
        named_in: Callable[[str], str | None] = lambda text: None,
    ) -> None:
        self._drill, self._plan, self._named_in = drill, plan, named_in
        self._databases = {
            region: Database(dsn, CANARY, name=APPLICATION_NAME, connect_seconds=plan.attempt_seconds)
            for region, dsn in dsns.items()
        }
        self._idle: dict[str, list[Connection]] = {region: [] for region in dsns}
        self._limit = trio.CapacityLimiter(SESSIONS)
        self._table = sql.SQL(".").join(sql.Identifier(part) for part in plan.table.split(".", 1))

    async def prepare(self, leader: str) -> None:
        await self._run(leader, self._make)

    async def check(self, region: str) -> None:
        with trio.move_on_after(CARRIED_SECONDS):
            while not await self._run(region, self._may_write):  # noqa: ASYNC110  # another region makes it
                await trio.sleep(LOOK_SECONDS)
            return
        message = f"the canaries' table {self._plan.table} is not there"
        cure = "name a table that is replicated: [source] tables leaves this one out, or the region is far behind"
        raise Unavailable("canary_table", message, place=f"the database of {region}", cure=cure)

    async def write(self, region: str, number: int) -> Answer:
        if region not in self._databases:
            return WriteUnknown(f"[canary] dsn names no {region}")
        try:
            await self._run(region, lambda db: self._insert(db, number))
        except Rejected as refusal:
            return WriteNotHere(self._named_in(refusal.cure))  # it is fenced, or has no such table, or no right to it
        except Unavailable as error:
            return WriteUnknown(str(error))
        return WriteAcknowledged()

    async def remove(self, leader: str) -> None:
        query = sql.SQL("DELETE FROM {} WHERE user_id = %s").format(self._table)
        await self._run(leader, lambda db: db.execute(query, (self._drill,)))

    async def close(self) -> None:
        for sessions in self._idle.values():
            while sessions:
                sessions.pop().close()

    async def _run(self, region: str, work: Callable[[Connection], T]) -> T:
        return await trio.to_thread.run_sync(self._in_session, region, work, limiter=self._limit)

    def _in_session(self, region: str, work: Callable[[Connection], T]) -> T:
        database = self._databases.get(region)
        if database is None:
            cure = "name every region that may lead in [canary] dsn"
            raise ConfigError("no_dsn", "there is no dsn", place=f"[canary] dsn, {region}", cure=cure)
        with database.translated(), _refusals(region):
            idle = self._idle[region]
            db = idle.pop() if idle else self._connect(database)
            try:
                result = work(db)
            except BaseException:
                db.close()
                raise
            idle.append(db)
            return result

    def _connect(self, database: Database) -> Connection:
        milliseconds = str(max(int(self._plan.attempt_seconds * 1000), 1))
        return database.connect_as_application({"statement_timeout": milliseconds, "lock_timeout": milliseconds})

    def _make(self, db: Connection) -> None:
        text = (
            "CREATE TABLE IF NOT EXISTS {} (canary_id text PRIMARY KEY, user_id text NOT NULL,"
            " number bigint NOT NULL, amount numeric NOT NULL, currency text NOT NULL)"
        )
        table = db.execute("SELECT to_regclass(%s)", (self._table.as_string(db),)).fetchone()
        if table is None or table[0] is None:  # asked first: the role may write and yet not be allowed to create
            db.execute(sql.SQL(text).format(self._table))

    def _may_write(self, db: Connection) -> bool:
        """Whether the table is there. Raises ConfigError if it is, and the role has no right to it."""
        table = self._table.as_string(db)
        found = db.execute(_RIGHTS, {"table": table}).fetchone()
        if found is None:
            return False
        role, owner, may = found
        if not may:
            cure = f"as {owner}: GRANT {RIGHTS} ON {table} TO {role}"
            raise ConfigError("canary_not_allowed", f"the role {role} may not write to {table}", cure=cure)
        return True

    def _insert(self, db: Connection, number: int) -> None:
        query = sql.SQL("INSERT INTO {} VALUES (%s, %s, %s, %s, %s) ON CONFLICT (canary_id) DO NOTHING")
        row = (key_of(self._drill, number), self._drill, number, self._plan.amount, self._plan.currency)
        db.execute(query.format(self._table), row)


_NOT_HERE = (
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UndefinedTable,  # a table is carried with its first row
)


@contextlib.contextmanager
def _refusals(region: str) -> Iterator[None]:
    """That the region takes no writes is an answer, whatever else it means to those who have to write there."""
    try:
        yield
    except _NOT_HERE as error:
        hint = error.diag.message_hint or ""  # of the fence's: where the primary is
        raise Rejected("not_primary", str(error), place=f"the database of {region}", cure=hint) from error
