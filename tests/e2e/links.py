"""The lines between machines, for tests that cut them: TCP passed on by a thread, each line in both directions.

A ``Link`` is what one machine's connections to another go through. Each direction has a gate: what was sent while it
is closed arrives when it is opened, as after TCP's retransmissions, though whoever sent it may have given up long ago.
A connection that is begun while either gate is closed is not made until both are open: its handshake takes both.
Connecting to the link's port itself succeeds at once, where a cut line would be silent: so one patience more is tested.

``Network`` runs them all. Its methods may be called from any thread but its own.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import trio

PIECE_BYTES = 64 * 1024


class Gate:
    """One direction. ``delay_seconds``: each piece takes so long."""

    def __init__(self) -> None:
        self.delay_seconds = 0.0
        self._opened = trio.Event()
        self._opened.set()

    @property
    def is_open(self) -> bool:
        return self._opened.is_set()

    def set(self, is_open: bool) -> None:
        if is_open:
            self._opened.set()
        elif self.is_open:
            self._opened = trio.Event()

    async def passed(self) -> None:
        """Return when something that was sent may arrive."""
        await trio.sleep(self.delay_seconds)
        while not self.is_open:
            await self._opened.wait()


class Link:
    """From one machine to another, whose server listens at ``target``; ``port`` is where to connect instead."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.there, self.back = Gate(), Gate()

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._carry, [listener])

    async def _carry(self, near: trio.SocketStream) -> None:
        async with near:
            while not (self.there.is_open and self.back.is_open):
                await self.there.passed()
                await self.back.passed()
            try:
                far = await trio.open_tcp_stream("127.0.0.1", self.target)
            except OSError:
                return
            async with far, trio.open_nursery() as nursery:
                nursery.start_soon(self._pass, near, far, self.there)
                nursery.start_soon(self._pass, far, near, self.back)

    async def _pass(self, source: trio.SocketStream, target: trio.SocketStream, gate: Gate) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for piece in source:
                await gate.passed()
                await target.send_all(piece)
            await gate.passed()
            await target.send_eof()
            return
        await gate.passed()  # an end that is not orderly has to arrive, too
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.aclose_forcefully(target)


class Network:
    """All lines between named machines."""

    def __init__(self) -> None:
        self._links: dict[tuple[str, str], Link] = {}
        self._running = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._run,), name="network", daemon=True)
        self._thread.start()
        self._running.wait()

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as self._nursery:
            self._running.set()
            await trio.sleep_forever()

    def _there(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return trio.from_thread.run_sync(function, *arguments, trio_token=self._token)

    def link(self, source: str, target: str, port: int) -> int:
        """A new line from ``source`` to the server of ``target`` at ``port``; the port where ``source`` reaches it."""
        link = self._links[source, target] = Link(port)

        async def start() -> None:
            await self._nursery.start(link.serve)

        trio.from_thread.run(start, trio_token=self._token)
        return link.port

    def _set(self, source: str, target: str, change: Callable[[Gate], None]) -> None:
        for (near, far), link in self._links.items():
            if (near, far) == (source, target):
                change(link.there)
            if (far, near) == (source, target):
                change(link.back)

    def cut(self, source: str, target: str) -> None:
        """Nothing that ``source`` sends reaches ``target`` any more; the other direction is as it was."""
        self._there(self._set, source, target, lambda gate: gate.set(False))

    def part(self, one: str, *others: str) -> None:
        """Nothing passes between one machine and these others any more."""
        for other in others:
            self.cut(one, other)
            self.cut(other, one)

    def heal(self) -> None:
        """Everything arrives again, at once."""

        def all_open() -> None:
            for link in self._links.values():
                for gate in (link.there, link.back):
                    gate.set(True)
                    gate.delay_seconds = 0.0

        self._there(all_open)

    def isolate(self, machine: str, *, out: bool = True, into: bool = True) -> None:
        """Cut ``machine`` off from all others: what it sends, what is sent to it, or both."""
        others = {name for pair in self._links for name in pair} - {machine}
        for other in others:
            if out:
                self.cut(machine, other)
            if into:
                self.cut(other, machine)

    def slow(self, source: str, target: str, delay_seconds: float) -> None:
        """What ``source`` sends to ``target`` takes so long from now on, piece by piece."""

        def delay(gate: Gate) -> None:
            gate.delay_seconds = delay_seconds

        self._there(self._set, source, target, delay)

    def end(self) -> None:
        """Every line and every connection ends."""
        self._there(self._nursery.cancel_scope.cancel)
        self._thread.join()
