"""The trio loop around the core: persist → offer → drain → re-arm.

Guarantees: ``put`` returns when its entries are durable in the spool; nothing is released that is not durable; a
release is deleted from the spool only after ``acknowledge``. After a crash whatever was released and not acknowledged
is released again, in the same order. ``put`` waits while a bound is reached, except for entries that close a hole.
A put that is cancelled has happened as a whole or not at all. With ``straight``, entries that are next go to the
consumer without the spool; then ``put`` returns when the consumer has acknowledged them, and a crash before that loses
what nobody was told is durable.

The idea: the core is only touched between two awaits, the spool only under one lock and in a worker thread. One task
drains releases to the consumer, one fires timers. The clock given to the core is trio's, set to the wall once.

    settler = Settler(SettleConfig(), "spool.db", notify=print)
    settler.start("main", sequence=0, digest=b"")
    await nursery.start(settler.run)
    nursery.start_soon(consume)                      # async for release in settler.releases: ... acknowledge
    await settler.put(entries)
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence

import trio

from settle_buffer.buffer import SettleBuffer
from settle_buffer.config import SettleConfig
from settle_buffer.entry import Entry
from settle_buffer.errors import Misuse
from settle_buffer.events import Certificate, Correction, Event, GapFilled, Late, Load, Release, SpoolSetAside
from settle_buffer.outbox import Outbox
from settle_buffer.spool import Spool
from settle_buffer.status import Status

LOAD_BYTES = 8 << 20  # read back from the spool in one piece
FLUSH_SECONDS = 1.0  # trims are written after this, if no append has taken them along
CHANNEL_RELEASES = 4

Delivery = Release | Correction


class Settler:
    """A durable settle buffer on trio; see the module's text.

    ``notify`` is told every event but releases, in the loop: it must be quick and must not raise. ``probe`` is told the
    loop's steps, ``before`` and ``after`` each: append, offer, send, load, trim, certify, keep, recover, timer.
    """

    def __init__(
        self,
        config: SettleConfig,
        path: str | os.PathLike[str],
        *,
        notify: Callable[[Event], None] | None = None,
        probe: Callable[[str], None] | None = None,
    ) -> None:
        self.config = config
        self.buffer = SettleBuffer(config)
        self._path = path
        self._notify = notify or (lambda event: None)
        self._probe = probe or (lambda step: None)
        self._send, self.releases = trio.open_memory_channel[Delivery](CHANNEL_RELEASES)
        self._spool: Spool | None = None
        self._closed = False
        self._positions: dict[str, int] = {}
        self._acknowledged: dict[str, int] = {}
        self._trims: dict[str, int] = {}
        self._spool_bytes = 0
        self._outbox = Outbox(config)
        self._lock = trio.Lock()
        self._ready = trio.Event()
        self._changed = trio.Event()  # set and replaced whenever waiting puts should look again
        self._work = trio.Event()  # something to drain
        self._tick = trio.Event()  # the next timer may be another one
        self._epoch_us = 0

    def start(self, strand: str, sequence: int, digest: bytes, at: int = 0) -> None:
        """The consumer durably holds this strand up to ``sequence``. Before ``run`` for strands that have history."""
        self.buffer.start(strand, sequence, digest, at)
        self._positions[strand] = at - 1 if self.config.order == "time" else sequence
        self._acknowledged[strand] = at if self.config.order == "time" else sequence
        self._trims[strand] = self._positions[strand]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Recover, then drain and keep time, for ever. Raises what the spool raises. Started once recovery is read."""
        # Wall time, once: gaps and lateness are measured in steps of trio's clock, which no one sets.
        self._epoch_us = int(time.time() * 1e6) - int(trio.current_time() * 1e6)
        try:
            self._spool = spool = await trio.to_thread.run_sync(Spool, self._path, self.config.order == "time")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._drain)  # while recovery reads: what is released must be able to leave
                await self._recover(spool)
                self._ready.set()
                task_status.started()
                nursery.start_soon(self._keep_time)
        finally:
            await self._close()

    async def put(self, entries: Sequence[Entry]) -> None:
        """Take entries; they are durable when this returns, in the spool or, straight, with the consumer.

        Raises Misuse, SpoolUnavailable or SpoolDamaged.
        """
        await self._ready.wait()
        if not entries:
            return
        # Before the lock: what makes room (a load for the consumer, a put that closes a hole) needs it meanwhile.
        while self._full(entries):
            await self._changed.wait()
        async with self._lock:
            spool = self._open_spool()
            self.buffer.check(entries)  # what the core would refuse must not become durable
            straight = self._goes_straight(entries)
            if not straight:
                self._pass_trims(spool)
                with self._step("append"):
                    self._spool_bytes = await trio.to_thread.run_sync(_append, spool, entries)
            with self._step("offer"):
                events = self.buffer.offer(entries, self.now())
            await self._take(events)
        if straight:  # outside the lock: other puts go on while the consumer commits
            await self._acknowledges(entries[-1])

    async def heartbeat(self, strand: str, at: int, sequence: int | None = None, idle: bool = False) -> None:
        """What the feed says of itself between entries; see ``SettleBuffer.heartbeat``."""
        await self._ready.wait()
        async with self._lock:
            await self._take(self.buffer.heartbeat(strand, at, self.now(), sequence, idle))

    async def acknowledge(self, strand: str, sequence: int) -> None:
        """The consumer durably holds the strand up to ``sequence``, in time order up to this event time."""
        released = self.buffer.delivered(strand)
        if sequence > released:
            raise Misuse("not_released", f"{sequence} is not released, {released} is", place=f"strand {strand}")
        if sequence > self._acknowledged[strand]:
            if not self._trims:
                self._tick.set()  # so that they are written even if nothing else happens
            self._acknowledged[strand] = sequence
            # By time several entries may share the position: those of that very time stay until a later one is held.
            self._trims[strand] = sequence - 1 if self.config.order == "time" else sequence
            self._outbox.acknowledge(strand, sequence)
            self._wake()

    async def waive(self, strand: str, first: int, last: int, who: str, why: str) -> None:
        """Close what is missing of ``first`` to ``last`` on an operator's word; durable before it takes effect."""
        await self._ready.wait()
        async with self._lock:
            spool = self._open_spool()
            certificates = self.buffer.waivers(strand, first, last, who, why, self.now())
            # On disk first: once it has taken effect it must be known, after a crash too, who answers for the hole.
            with self._step("certify"):
                await trio.to_thread.run_sync(spool.certify, certificates)
            await self._take(self.buffer.waive(strand, first, last, who, why, self.now()))

    async def resume(self, strand: str) -> None:
        """A person has decided: the stopped strand goes on."""
        await self._ready.wait()
        async with self._lock:
            await self._take(self.buffer.resume(strand, self.now()))

    async def discard(self, strand: str, first: int, last: int) -> None:
        """Forget what waits of ``first`` to ``last``, on disk too, and have it fetched anew; then ``resume``."""
        await self._ready.wait()
        async with self._lock:
            events = self.buffer.discard(strand, first, last, self.now())
            with trio.CancelScope(shield=True):  # the core has forgotten them: the spool must, too
                await trio.to_thread.run_sync(self._open_spool().discard, strand, first, last)
            await self._take(events)

    async def reject(self, entry: Entry) -> None:
        """This entry, one side of a conflict, is the wrong one: delete it from the spool; then ``resume``."""
        await self._ready.wait()
        async with self._lock:
            await trio.to_thread.run_sync(self._open_spool().remove, [entry])

    async def certificates(self) -> list[Certificate]:
        """How gaps were closed, oldest first."""
        await self._ready.wait()
        async with self._lock:
            spool = self._open_spool()
            await trio.to_thread.run_sync(spool.flush)
            return await trio.to_thread.run_sync(spool.certificates)

    async def late(self) -> list[tuple[int, Entry]]:
        """Late entries that nobody has settled, each with its number."""
        await self._ready.wait()
        async with self._lock:
            return await trio.to_thread.run_sync(self._open_spool().late)

    async def settle_late(self, number: int) -> None:
        """The late entry with this number has been dealt with, and may be forgotten."""
        await self._ready.wait()
        async with self._lock:
            await trio.to_thread.run_sync(self._open_spool().settle_late, number)

    def now(self) -> int:
        """The core's clock, microseconds."""
        return self._epoch_us + int(trio.current_time() * 1e6)

    def status(self) -> Status:
        """What it holds, waits for and why."""
        return self.buffer.status(self.now() if self._spool else 0)

    async def _close(self) -> None:
        """Let go of everything; whoever waits is told by Misuse."""
        self._closed = True
        self._ready.set()
        self._wake()
        self._send.close()
        with trio.CancelScope(shield=True):
            async with self._lock:
                if self._spool is not None:
                    self._pass_trims(self._spool)
                    await trio.to_thread.run_sync(self._spool.close)

    async def _recover(self, spool: Spool) -> None:
        """Offer what an earlier life left, as slowly as the consumer takes it."""
        if spool.damaged is not None:
            self._notify(SpoolSetAside(str(spool.damaged)))
        for certificate in await trio.to_thread.run_sync(spool.certificates):
            # Before the first entry is offered: over a waived hole they go on, instead of waiting before it.
            if certificate.how == "waived" and certificate.strand in self._positions:
                self.buffer.restore_waiver(certificate.strand, certificate.first, certificate.last)
        for _, entry in await trio.to_thread.run_sync(spool.late):
            self._dispatch(self.buffer.restore_late(entry))
        rows = spool.recover(dict(self._positions))
        while True:
            async with self._lock:
                entries = await trio.to_thread.run_sync(_next, rows)
                if entries is None:
                    return
                with self._step("recover"):
                    await self._take(self.buffer.offer(entries, self.now(), again=True))
            while self._outbox.full:  # outside the lock, which a ``Load`` needs to empty the outbox
                await self._changed.wait()

    async def _drain(self) -> None:
        """Hand releases to the consumer, in order; read spilled entries when their turn comes."""
        while True:
            while self._outbox:
                item, size = self._outbox.take()
                if isinstance(item, Load):
                    await self._load(item)
                else:
                    with self._step("send"):
                        await self._send.send(item)
                self._outbox.handed_over(item, size)
                self._wake()
            self._work = trio.Event()  # the outbox was empty just now, and there was no checkpoint since
            await self._work.wait()

    async def _load(self, load: Load) -> None:
        async with self._lock:
            spool = self._open_spool()
            with self._step("load"):
                entries, last = await trio.to_thread.run_sync(
                    spool.read, load.strand, load.first, load.last, LOAD_BYTES
                )
            await self._take(self.buffer.loaded(load.strand, load.first, last, entries, self.now()))

    async def _keep_time(self) -> None:
        """Fire the core's timers, and write trims and certificates that nothing else has taken along."""
        while True:
            self._tick = trio.Event()  # before the timer is looked at: whatever changes it from here on is heard
            due = self.buffer.next_timer()
            seconds = math.inf if due is None else max(0.0, (due - self.now()) / 1e6)
            with trio.move_on_after(min(seconds, FLUSH_SECONDS if self._trims else math.inf)):
                await self._tick.wait()
                continue
            async with self._lock:
                with self._step("timer"):
                    await self._take(self.buffer.handle_timer(self.now()))
                if self._trims:
                    spool = self._open_spool()
                    self._pass_trims(spool)
                    with self._step("trim"):
                        await trio.to_thread.run_sync(spool.flush)
                    self._spool_bytes = await trio.to_thread.run_sync(spool.size_bytes)
                    self._wake()

    async def _take(self, events: list[Event]) -> None:
        """What the core said, after its late entries are safe from being trimmed. Under the lock."""
        late = [event.entry for event in events if isinstance(event, Late)]
        if late:
            # The core has moved on: its events must not be lost to a cancellation.
            with trio.CancelScope(shield=True), self._step("keep"):
                await trio.to_thread.run_sync(self._open_spool().keep_late, late)
        self._dispatch(events)

    def _dispatch(self, events: list[Event]) -> None:
        """Sort what the core said: to the consumer, to the certificates, to whoever listens."""
        for event in events:
            if isinstance(event, Release | Load | Correction):
                self._outbox.add(event)
            else:
                if isinstance(event, GapFilled) and event.certificate is not None:
                    self._open_spool().note(event.certificate)
                self._notify(event)
        if self._outbox:
            self._work.set()
        self._tick.set()
        self._wake()

    def _goes_straight(self, entries: Sequence[Entry]) -> bool:
        """Whether these are next and the consumer has acknowledged everything before them: the spool would only hold
        what it is about to hold itself. A consumer that has stopped gets nothing more this way."""
        strand = entries[0].strand
        caught_up = self._acknowledged.get(strand) == self.buffer.delivered(strand)
        return self.config.straight and caught_up and self.buffer.is_next(entries)

    async def _acknowledges(self, last: Entry) -> None:
        """Return once the consumer has acknowledged the strand up to this entry."""
        while self._acknowledged[last.strand] < last.sequence:
            if self._closed:
                raise Misuse(
                    "not_running", "the settler ended before the consumer had the entries", cure="put them again"
                )
            await self._changed.wait()

    def _full(self, entries: Sequence[Entry]) -> bool:
        """Whether a put has to wait: for the consumer, or for holes to be closed."""
        if self._closed:
            return False
        if self._outbox.overdrawn or self._outbox.full:
            return True
        crowded = self.buffer.pressure or self._spool_bytes > self.config.bytes_limit
        return bool(crowded) and not self.buffer.helps(entries)

    def _pass_trims(self, spool: Spool) -> None:
        for strand, sequence in self._trims.items():
            spool.trim(strand, sequence)
        self._trims.clear()

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[None]:
        """A named step: where a crash must do no harm."""
        self._probe(f"before {name}")
        yield
        self._probe(f"after {name}")

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _open_spool(self) -> Spool:
        if self._closed or self._spool is None:
            raise Misuse("not_running", "the settler is not running", cure="start run first")
        return self._spool


def _append(spool: Spool, entries: Sequence[Entry]) -> int:
    """Append; what the spool takes on disk by then."""
    spool.append(entries)
    return spool.size_bytes()


def _next(rows: Iterator[list[Entry]]) -> list[Entry] | None:
    return next(rows, None)
