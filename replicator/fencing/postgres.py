"""The fence of a PostgreSQL database: closed unless a guard, which runs in the server itself, keeps it open.

Guarantee: after ``close`` no application's statement can write and no transaction of theirs is in progress. Without
``close``, when this process is stopped, killed or cut off, the same is true soon after the last term is over: statements
that begin later are refused from that moment on, transactions that began before are ended by the guard at once.

What remains: a commit that the server was already doing at that moment is done. It counts as written before.

``sql`` says how it works. Call from one task at a time or several: calls wait for each other.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

import trio

from replicator.errors import Halted, Unavailable
from replicator.fencing import sql
from replicator.fencing.base import Anchor, FenceView
from replicator.fencing.session import Session, place_of

CALL_SECONDS = 5.0
INSTALL_SECONDS = 60.0
END_SECONDS = 3.0  # what sessions get to end within
LOCK_MS = 1_000  # how long setting up a table may make its writers wait
RESCAN_SECONDS = 2.0
POLL_SECONDS = 0.001


class PostgresFence:
    """See ``base.Fence``. ``tables`` are (schema, name); None is every table of the database."""

    def __init__(self, dsn: str, tables: Sequence[tuple[str, str]] | None = None) -> None:
        self._dsn = dsn
        self._tables = None if tables is None else [f"{_quoted(schema)}.{_quoted(name)}" for schema, name in tables]
        self._place = place_of(dsn)
        self._control: Session | None = None
        self._guard: Session | None = None
        self._lock = trio.Lock()
        self._scanned = -RESCAN_SECONDS

    @contextlib.asynccontextmanager
    async def _session(self, seconds: float = CALL_SECONDS) -> AsyncIterator[Session]:
        """The control session, for at most so long, for one task at a time."""
        try:
            with trio.fail_after(seconds):
                async with self._lock:
                    if self._control is None or self._control.closed:
                        self._control = await Session.connect(self._dsn, lock_timeout=f"{LOCK_MS}ms")
                    try:
                        yield self._control
                    except BaseException:
                        self._control.close()  # it may be in the middle of a transaction
                        raise
        except trio.TooSlowError:
            message = f"the server did not answer within {seconds:.0f} s"
            raise Unavailable("fence_silent", message, place=self._place, cure="see that the server runs") from None

    async def install(self) -> None:
        async with self._session(INSTALL_SECONDS) as session:
            await session.run("BEGIN")
            await session.run(f"SELECT pg_advisory_xact_lock({sql.LOCKS}, {sql.INSTALLING})")
            for statement in sql.OBJECTS:
                await session.run(statement)
            tables = None if self._tables is None else "{" + ",".join(map(_element, self._tables)) + "}"
            await session.run("UPDATE replicator.fencing SET tables = $1 WHERE tables IS DISTINCT FROM $1", tables)
            if await session.run("SELECT FROM pg_roles WHERE rolname = current_user AND rolsuper"):
                for statement in sql.EVENT_TRIGGERS:
                    await session.run(statement)
            await session.run("COMMIT")
            await self._fence_tables(session)

    async def _fence_tables(self, session: Session) -> None:
        """Every table that is not fenced yet, each in a transaction of its own."""
        for (table,) in await session.run(sql.UNFENCED):
            await session.run("SELECT replicator.fence_table(to_regclass($1))", table)

    async def anchor(self) -> Anchor:
        async with self._session() as session:
            return Anchor(_only(await session.run(sql.NOW_US)))

    async def open(self, epoch: int, anchor: Anchor, seconds: float) -> None:
        from_us = int(anchor.at)
        term = (epoch, from_us, from_us + int(seconds * 1_000_000))
        async with self._session() as session:
            while True:
                said = _only(await session.run("SELECT replicator.prolong($1, $2, $3)", *term))
                if said == "late":
                    message = "the lease's time was over before the fence was opened"
                    raise Unavailable(
                        "fence_late", message, place=self._place, cure="it is tried with the next renewal"
                    )
                if said == "older":
                    message = f"the fence knows a newer epoch than {epoch}"
                    raise Halted("fence_epoch", message, place=self._place, cure="see who is primary")
                if said == "open":
                    break
                await self._start_guard(term)
            if trio.current_time() >= self._scanned + RESCAN_SECONDS:
                self._scanned = trio.current_time()
                await self._fence_tables(session)

    async def _start_guard(self, term: tuple[int, int, int]) -> None:
        """Returns when the guard has opened, or has refused."""
        assert self._control is not None
        self._drop_guard()
        self._guard = await Session.connect(self._dsn, f"{sql.NAME} guard", lock_timeout=f"{round(CALL_SECONDS)}s")
        await self._guard.send("CALL replicator.guard($1, $2, $3)", *term)
        while not self._guard.idle:
            if _only(await self._control.run("SELECT replicator.is_open()")) == "t":
                return
            await trio.sleep(POLL_SECONDS)
        await self._guard.answer()

    def _drop_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.close()

    async def close(self, primary_url: str | None, *, retry_after: int | None = None) -> None:
        async with self._session() as session:
            await session.run("SELECT replicator.shut($1, $2)", primary_url, retry_after)
            await session.run(f"SELECT pg_terminate_backend(pid) FROM ({sql.GUARD_PID}) AS guard")
            self._drop_guard()
            left_over = _only(await session.run("SELECT replicator.end_sessions($1)", str(END_SECONDS)))
            if left_over:
                message = f"closed, but not everybody has ended: {left_over}"
                cure = "end them; the sidecar's role needs pg_signal_backend, or superuser for superusers' sessions"
                raise Unavailable("fence_sessions", message, place=self._place, cure=cure)
            prepared = [str(gid) for (gid,) in await session.run(sql.PREPARED)]
            if prepared:
                message = f"closed, but prepared transactions can still commit: {', '.join(prepared[:5])}"
                cure = "COMMIT PREPARED or ROLLBACK PREPARED each of them"
                raise Unavailable("fence_prepared", message, place=self._place, cure=cure)

    async def look(self) -> FenceView:
        async with self._session() as session:
            if _only(await session.run(sql.INSTALLED)) != "t":
                return FenceView(True, 0, "not installed: everybody may write")
            ((is_open, epoch),) = await session.run("SELECT replicator.is_open(), epoch FROM replicator.fencing")
            unfenced = await session.run(sql.UNFENCED)
            prepared = await session.run(sql.PREPARED)
            detail = "open" if is_open == "t" else "closed"
            if unfenced:
                detail += f"; tables that are not fenced: {', '.join(str(table) for (table,) in unfenced[:5])}"
            if prepared:
                detail += f"; prepared transactions: {len(prepared)}"
            return FenceView(is_open == "t", int(epoch or 0), detail)

    async def remove(self) -> None:
        raise NotImplementedError

    def release(self) -> None:
        """Let go of the connections; what is open stays open until its time is over."""
        self._drop_guard()
        if self._control is not None:
            self._control.close()


def _only(rows: list[list[str | None]]) -> str:
    ((value,),) = rows
    return value or ""


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _element(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
