"""Moments that are kept for somebody who asks over HTTP: fixed once, asked many times.

Guarantee: a moment ends when its asker says so, or by itself when nobody has asked for ``IDLE_SECONDS``: an open
snapshot keeps a database from cleaning up. There are at most ``SESSIONS_LIMIT``; a moment serves one request at a time.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from replicator.errors import Rejected
from replicator.pipeline.moments import Moments
from replicator.verify.evidence import Witness
from replicator.verify.side import LocalSide, Pace

IDLE_SECONDS = 60.0
SESSIONS_LIMIT = 8


class _MomentSession:
    """A moment, and when it was last asked."""

    def __init__(self, side: LocalSide) -> None:
        self.side = side
        self.free = trio.Semaphore(1)  # no lock: whoever ends an abandoned answer is another task
        self.asked_at = trio.current_time()


class MomentSessions:
    """The moments that are held; ``run`` ends those that nobody asks any more."""

    def __init__(self, name: str, moments: Moments, witness: Witness) -> None:
        self._name = name
        self._moments = moments
        self._witness = witness
        self._held: dict[str, _MomentSession] = {}

    async def run(self) -> None:
        """For ever; when cancelled, ends all moments."""
        try:
            while True:
                await trio.sleep(IDLE_SECONDS / 10)
                for name, held in list(self._held.items()):
                    if held.free.value and trio.current_time() > held.asked_at + IDLE_SECONDS:
                        await self.release(name)
        finally:
            for held in self._held.values():
                await held.side.end()
            self._held.clear()

    async def hold(self, at: int | None) -> tuple[str, LocalSide]:
        """Fix a moment; its name, by which it is asked for, and what it is."""
        if len(self._held) >= SESSIONS_LIMIT:
            raise Rejected(
                "too_many_moments",
                f"{SESSIONS_LIMIT} comparisons are under way here",
                status=503,
                retry_after=5,
                place="verify",
                cure="wait for one of them to end",
            )
        side = LocalSide(self._name, self._moments, self._witness)
        try:
            await side.fix(at)
        except BaseException:
            await side.end()
            raise
        name = secrets.token_hex(16)
        self._held[name] = _MomentSession(side)
        return name, side

    @asynccontextmanager
    async def asked(self, name: str, pace: Pace) -> AsyncIterator[LocalSide]:
        """A moment, for one request at a time. Raises Rejected (``no_such_moment``)."""
        held = self._held.get(name)
        if held is None:
            message = "the moment has ended, or never was"
            raise Rejected("no_such_moment", message, status=404, place="verify", cure="begin the comparison again")
        async with held.free:
            held.side.pace = pace
            try:
                yield held.side
            finally:
                held.asked_at = trio.current_time()

    async def release(self, name: str) -> None:
        """End a moment; nothing happens if there is none."""
        held = self._held.pop(name, None)
        if held is not None:
            async with held.free:
                await held.side.end()
