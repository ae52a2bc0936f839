"""The fence of a PostgreSQL database: closed, unless a guard that runs in the server itself keeps it open.

Guarantee: after ``close`` no application's statement can write, and no transaction of theirs is in progress. Without
it, when this process is stopped, killed or cut off, the same holds once the last term is over: from that moment on
statements are refused, and the guard ends the sessions, with the transactions that began before.

What remains: a commit that the server had begun by then is seen through, within milliseconds.

``gate_sql`` and ``term_sql`` say how. Calls of several tasks wait for each other.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Sequence

import trio

from replicator.cluster.fencing import gate_sql, term_sql
from replicator.cluster.fencing.base import Anchor, FenceView
from replicator.cluster.fencing.session import GUARD_NAME, connect, database_of
from replicator.errors import Halted, Unavailable
from replicator.postgres.locks import INSTALLING, LOCKS
from replicator.postgres.nonblocking import NonblockingSession, only
from replicator.postgres.quoting import array, literal, quoted

CALL_SECONDS = 5.0
SETUP_SECONDS = 60.0
END_SECONDS = 3.0  # what sessions get to end within
LOCK_MS = 500  # how long setting up a table may make its writers wait, at a time
ATTEMPTS = 20
RESCAN_SECONDS = 2.0
POLL_SECONDS = 0.001
log = logging.getLogger("replicator")


class PostgresFence:
    """See ``base.Fence``. ``tables`` are (schema, name); None is every table of the database. No call but those that
    set up and take away takes longer than ``call_seconds``, and two more to connect."""

    def __init__(
        self, dsn: str, tables: Sequence[tuple[str, str]] | None = None, *, call_seconds: float = CALL_SECONDS
    ) -> None:
        self._database = database_of(dsn)
        self._call_seconds = call_seconds
        self._tables = None if tables is None else [quoted(*name) for name in tables]
        self._control: NonblockingSession | None = None
        self._guard: NonblockingSession | None = None
        self._lock = trio.Lock()
        self._scanned = -RESCAN_SECONDS

    @contextlib.asynccontextmanager
    async def _session(self, seconds: float | None = None) -> AsyncIterator[NonblockingSession]:
        """The control session, for one task at a time, for at most so long."""
        seconds = seconds or self._call_seconds
        try:
            with trio.fail_after(seconds):
                async with self._lock:
                    if self._control is None or self._control.gone:
                        self._control = await connect(self._database, lock_timeout=f"{LOCK_MS}ms")
                    try:
                        yield self._control
                    except BaseException:
                        self._control.close()  # it may be in the middle of a transaction
                        raise
        except trio.TooSlowError:
            message = f"the server did not do it within {seconds:g} s"
            raise Unavailable(
                "fence_silent", message, place=self._database.place, cure="see that the server runs"
            ) from None

    async def install(self) -> None:
        async with self._session(SETUP_SECONDS) as session:
            superuser = bool(await session.run(gate_sql.IS_SUPERUSER))
            await session.run("BEGIN")
            # Two that replace one function at the same time make each other fail: "tuple concurrently updated".
            await session.run(f"SELECT pg_advisory_xact_lock({LOCKS}, {INSTALLING})")
            for statement in (*gate_sql.OBJECTS, *term_sql.OBJECTS):
                await session.run(statement)
            tables = None if self._tables is None else array(self._tables)
            await session.run("UPDATE replicator.fencing SET tables = $1 WHERE tables IS DISTINCT FROM $1", tables)
            if superuser:  # event triggers know no CREATE OR REPLACE
                for statement in (*gate_sql.DROP_EVENT_TRIGGERS, *gate_sql.EVENT_TRIGGERS):
                    await session.run(statement)
            await session.run("COMMIT")
            await self._each(session, gate_sql.UNFENCED, "SELECT replicator.fence_table(to_regclass({0}))", ATTEMPTS)

    async def _each(self, session: NonblockingSession, query: str, statement: str, attempts: int) -> None:
        """Run ``statement`` for each table that ``query`` names, in transactions of their own, so that a table that is
        in use holds up nobody for long: it is tried again ``attempts`` times."""
        locked: Unavailable | None = None
        for _ in range(attempts):
            locked = None
            for (table,) in await session.run(query):
                assert table is not None
                try:
                    await session.run(statement.format(literal(table), table))
                except Unavailable as error:
                    if error.reason != "fence_locked":
                        raise
                    locked = Unavailable(error.reason, error.message, place=f"table {table}", cure=error.cure)
            if locked is None:
                return
        assert locked is not None
        raise locked

    async def anchor(self) -> Anchor:
        async with self._session() as session:
            if self._guard is None or not self._guard.busy:
                # Before it is needed, so that opening takes no connecting. Also in place of a guard whose statement
                # somebody has cancelled: its session would hold the lock still.
                await self._fresh_guard()
            ((now, is_in_recovery),) = await session.run(term_sql.ANCHOR)
            if is_in_recovery == "t":  # it would refuse whatever applications write, under the best of leases
                message = "the server is in recovery and takes no writes"
                cure = "promote it, or point the configuration at the server that has been; it goes on by itself"
                raise Unavailable("fence_in_recovery", message, place=self._database.place, cure=cure)
            return Anchor(str(now))

    async def open(self, epoch: int, anchor: Anchor, seconds: float) -> None:
        from_us = int(anchor.at)
        # All in the server's clock, rounded down: never a microsecond beyond the lease.
        term = (epoch, from_us, from_us + int(seconds * 1_000_000))
        async with self._session() as session:
            while True:
                ((outcome, closings),) = await session.run("SELECT * FROM replicator.prolong($1, $2, $3)", *term)
                if outcome == "late":
                    message = "the time was over before the fence could be opened"
                    raise Unavailable(
                        "fence_late", message, place=self._database.place, cure="the next renewal opens it"
                    )
                if outcome == "older":
                    message = f"the fence was opened for a newer epoch than {epoch}"
                    raise Halted("fence_epoch", message, place=self._database.place, cure="see which region is primary")
                if outcome == "open":
                    break
                # The guard does not say whether it has opened; prolonging does, and is "late" once there is no hope.
                await self._open_by_guard(session, *term, int(closings or 0))
            await self._rescan(session)

    async def _open_by_guard(self, session: NonblockingSession, *term: int) -> None:
        """Returns when the guard has opened, or could not."""
        guard = await self._fresh_guard()
        # Not awaited: the call lasts as long as the fence is open.
        await guard.send("CALL replicator.guard($1, $2, $3, $4)", *term)
        while guard.busy:
            if only(await session.run("SELECT replicator.is_open()")) == "t":
                return
            await trio.sleep(POLL_SECONDS)
        await guard.answer()

    async def _fresh_guard(self) -> NonblockingSession:
        """A session that has done nothing yet. One that still runs sees its own end through without us."""
        if self._guard is None or not self._guard.fresh or self._guard.gone:
            self._drop_guard()
            timeout = f"{round(self._call_seconds * 1000)}ms"
            self._guard = await connect(self._database, GUARD_NAME, lock_timeout=timeout)
        return self._guard

    def _drop_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.close()

    async def _rescan(self, session: NonblockingSession) -> None:
        """Fence what came since. What cannot be fenced now holds up ``close``, and is in ``look``; not the lease."""
        if trio.current_time() < self._scanned + RESCAN_SECONDS:
            return
        self._scanned = trio.current_time()  # also if it fails: a table in use must not slow every renewal down
        try:
            await self._each(session, gate_sql.UNFENCED, "SELECT replicator.fence_table(to_regclass({0}))", 1)
        except (Unavailable, Halted) as error:
            log.warning("a table is not fenced yet: %s", error)

    async def close(self, primary_url: str | None, *, retry_after: int | None = None) -> None:
        async with self._session() as session:
            # Shut comes first: from then on no statement passes, and those that are to be ended only become fewer. The
            # guard would end by itself, in its own time; its lock has to be free for the next opening.
            await session.run("SELECT replicator.shut($1, $2)", primary_url, retry_after)
            await session.run(term_sql.END_GUARD)
            self._drop_guard()
            await self._end_sessions(session)
            if await session.run(gate_sql.UNFENCED):  # somebody may have written there until now
                await self._each(session, gate_sql.UNFENCED, "SELECT replicator.fence_table(to_regclass({0}))", 3)
                await self._end_sessions(session)
            # They have no session to be ended, and COMMIT PREPARED fires no trigger.
            prepared = [str(gid) for (gid,) in await session.run(term_sql.PREPARED)]
            if prepared:
                message = f"closed, but prepared transactions can still be committed: {', '.join(prepared)}"
                cure = "COMMIT PREPARED or ROLLBACK PREPARED each of them"
                raise Unavailable("fence_prepared", message, place=self._database.place, cure=cure)

    async def _end_sessions(self, session: NonblockingSession) -> None:
        remaining = only(
            await session.run("SELECT replicator.end_sessions($1)", str(min(END_SECONDS, self._call_seconds / 2)))
        )
        if remaining:
            message = f"closed, but these have not ended: {remaining}"
            cure = "end them; superusers' sessions only a superuser can end, others take pg_signal_backend"
            raise Unavailable("fence_sessions", message, place=self._database.place, cure=cure)

    async def look(self) -> FenceView:
        async with self._session() as session:
            if only(await session.run(term_sql.INSTALLED)) != "t":
                return FenceView(True, 0, "not installed")  # nothing keeps applications from writing
            ((is_open, epoch, left),) = await session.run(term_sql.LOOK)
            unfenced = [str(table) for (table,) in await session.run(gate_sql.UNFENCED)]
            prepared = [str(gid) for (gid,) in await session.run(term_sql.PREPARED)]
        details = [f"open for {left} s" if is_open == "t" else "closed"]
        if unfenced:
            details.append(f"tables without it: {', '.join(unfenced[:5])}")
        if prepared:
            details.append(f"prepared transactions: {', '.join(prepared)}")
        return FenceView(is_open == "t", int(epoch or 0), "; ".join(details))

    async def remove(self) -> None:
        async with self._session(SETUP_SECONDS) as session:
            if only(await session.run(term_sql.INSTALLED)) != "t":
                return
            await session.run("SELECT replicator.shut(NULL, NULL)")
            await session.run(term_sql.END_GUARD)
            self._drop_guard()
            for statement in gate_sql.DROP_EVENT_TRIGGERS:
                await session.run(statement)
            await self._each(session, gate_sql.FENCED, "DROP TRIGGER IF EXISTS replicator_fence ON {1}", ATTEMPTS)
            await session.run("BEGIN")
            for statement in (*term_sql.DROP_OBJECTS, *gate_sql.DROP_OBJECTS):
                await session.run(statement)
            await session.run("COMMIT")

    def release(self) -> None:
        """Let go of the connections. What is open stays open until its time is over."""
        self._drop_guard()
        if self._control is not None:
            self._control.close()
