"""Moments that are kept open for somebody who compares over HTTP: fixed once, asked many times.

Guarantee: a session ends when its asker says so, or by itself when nobody has asked for ``IDLE_SECONDS``: an open
snapshot keeps a database from cleaning up. There are at most ``SESSIONS_LIMIT``; each serves one request at a time.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from replicator.errors import Rejected
from replicator.pipeline.replicas.moments import Moments
from replicator.verify.evidence import Witness
from replicator.verify.side import LocalSide, Pace

IDLE_SECONDS = 60.0
SESSIONS_LIMIT = 8


class _MomentSession:
    """A side with its moment, and trio's clock when it was asked last."""

    def __init__(self, side: LocalSide) -> None:
        self.side = side
        self.free = trio.Semaphore(1)  # no lock: whoever ends an abandoned answer is another task
        self.asked_at = trio.current_time()


class MomentSessions:
    """The sessions that are open, by a name that cannot be guessed; ``run`` ends those that nobody asks any more."""

    def __init__(self, region: str, moments: Moments, witness: Witness) -> None:
        self._region = region
        self._moments = moments
        self._witness = witness
        self._sessions: dict[str, _MomentSession] = {}

    async def run(self) -> None:
        """For ever; when cancelled, ends all sessions."""
        try:
            while True:
                await trio.sleep(IDLE_SECONDS / 10)
                for name, session in list(self._sessions.items()):
                    if session.free.value and trio.current_time() > session.asked_at + IDLE_SECONDS:
                        await self.end(name)
        finally:
            for session in list(self._sessions.values()):  # a copy: whoever asks may end one meanwhile
                await session.side.end()
            self._sessions.clear()

    async def begin(self, at: int | None) -> tuple[str, LocalSide]:
        """Fix a moment, at a sequence or now; its name, by which it is asked for, and its side. Raises Rejected."""
        if len(self._sessions) >= SESSIONS_LIMIT:
            raise Rejected(
                "too_many_moments",
                f"{SESSIONS_LIMIT} comparisons are under way here",
                status=503,
                retry_after=5,
                place="verify",
                cure="wait for one of them to end",
            )
        name, session = secrets.token_hex(16), _MomentSession(LocalSide(self._region, self._moments, self._witness))
        self._sessions[name] = session  # it counts from now on: to fix a moment takes a while, and others may ask
        try:
            async with session.free:
                await session.side.fix(at)
        except BaseException:
            del self._sessions[name]
            await session.side.end()
            raise
        session.asked_at = trio.current_time()
        return name, session.side

    @asynccontextmanager
    async def use(self, name: str, pace: Pace) -> AsyncIterator[LocalSide]:
        """A session's side, for one request at a time. Raises Rejected (``no_such_moment``)."""
        session = self._sessions.get(name)
        if session is None:
            message = "the moment has ended, or never was"
            raise Rejected("no_such_moment", message, status=404, place="verify", cure="begin the comparison again")
        async with session.free:
            session.side.pace = pace
            try:
                yield session.side
            finally:
                session.asked_at = trio.current_time()

    async def end(self, name: str) -> None:
        """End a session once its request is done; nothing happens if there is none."""
        session = self._sessions.pop(name, None)
        if session is not None:
            async with session.free:
                await session.side.end()
