"""The lease of one strand in a file on this machine.

Two forms. *Shared*: all sidecars of one machine are given the same ``path``; the file keeps two of them from holding
the lease, by a lock and by the machine's clock, which is the same for all of them. *Manual*: each region has a file of
its own; a grant does not end, and nobody but the person who tells a region to claim keeps two from holding it.

Guarantee: a step is read, decided and written under one lock, and is on disk when it is done; a process killed at any
instruction leaves the file as it was before or after. In the shared form a restart of the machine ends every grant: the
clock begins anew then. The epoch stays.

Not for a network file system: neither its locks nor its clock are to be relied on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import math
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import trio

from replicator.cluster.leases.base import Clock, Grant, Holder, LeaseView, boot_seconds
from replicator.cluster.leases.record import BootMoment, LeaseRecord, boot_id, lock_file, read_kept, write_kept
from replicator.errors import Unavailable

LOCK_SECONDS_AT_MOST = 5.0
LOCK_LOOK_SECONDS = 0.005

T = TypeVar("T")


class StaticLease:
    """The lease of one strand in a file (see ``Lease``). ``ttl_seconds`` is ``math.inf`` for the manual form."""

    def __init__(
        self,
        path: Path,
        strand: str,
        ttl_seconds: float,
        clock: Clock = boot_seconds,
        boot: Callable[[], str] = boot_id,
    ) -> None:
        self._path = path
        self._strand = strand
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._boot = boot

    @property
    def ttl_seconds(self) -> float:
        return self._ttl_seconds

    @property
    def exclusive(self) -> bool:
        return not math.isinf(self._ttl_seconds)

    async def look(self) -> LeaseView:
        return await self._locked(lambda record: record.view(self._moment()))

    async def check(self) -> None:
        await trio.lowlevel.checkpoint()  # a file's directory is looked at by each claim itself

    async def claim(self, region: str, epoch: int, instead_of: Holder | None = None) -> Grant:
        wanted = Holder(region, epoch, _drawn())

        def step(record: LeaseRecord) -> Grant:
            # Read under the lock: who waited for it must not judge by an older moment than the one before it wrote.
            at, ttl_seconds = self._moment(), self._ttl_seconds
            return self._granted(record.claimed(wanted, _drawn(), instead_of, at, ttl_seconds, self._place))

        return await self._locked(step)

    async def renew(self, grant: Grant) -> Grant:
        def step(record: LeaseRecord) -> Grant:
            return self._granted(record.renewed(grant, self._moment(), self._ttl_seconds, self._place))

        return await self._locked(step)

    async def keep_mine(self, grant: Grant) -> Grant:
        token = _drawn()

        def step(record: LeaseRecord) -> Grant:
            self._write(record.kept_mine(grant, token, self._moment(), self._place))
            return dataclasses.replace(grant, token=token)

        return await self._locked(step)

    async def release(self, grant: Grant) -> None:
        def step(record: LeaseRecord) -> None:
            released = record.released(grant)
            if released is not record:
                self._write(released)

        await self._locked(step)

    async def aclose(self) -> None:
        """Nothing is open between steps."""

    def _moment(self) -> BootMoment:
        return BootMoment(self._boot(), self._clock())

    def _granted(self, record: LeaseRecord) -> Grant:
        """The grant that the file tells of, once it is on disk."""
        assert record.holder is not None
        self._write(record)
        return Grant(self._strand, *record.holder, record.lease_id, record.began_at, self._ttl_seconds)

    # -- the file -----------------------------------------------------------------------------------------------------

    @property
    def _place(self) -> str:
        return f"{self._path} ({self._strand})"

    async def _locked(self, step: Callable[[LeaseRecord], T]) -> T:
        """One step in a thread. It is not left behind when its caller is cancelled: it may be writing."""

        def run() -> T:
            with _translated(self._path), self._lock():
                return step(self._read())

        return await trio.to_thread.run_sync(run)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """A lock that goes with the process. Of a file beside it: the file itself is replaced with every step."""
        # A third of the time, as every store: what fails can be tried once more before the lease ends.
        deadline = time.monotonic() + min(self._ttl_seconds / 3, LOCK_SECONDS_AT_MOST)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with lock_file(self._path).open("a") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        message = "another sidecar keeps the file locked"
                        cure = "see whether one of them hangs"
                        raise Unavailable("lease_store_silent", message, place=str(self._path), cure=cure) from None
                    time.sleep(LOCK_LOOK_SECONDS)  # a lock with a deadline is not to be had
            yield

    def _read(self) -> LeaseRecord:
        return read_kept(self._path, self._strand)

    def _write(self, record: LeaseRecord) -> None:
        write_kept(self._path, self._strand, record)


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"the file cannot be read or written: {error.strerror or error}"
        cure = "give the sidecar's user the right to write there, and free disk space"
        raise Unavailable("lease_store_unusable", message, place=str(path), cure=cure) from error


def _drawn() -> str:
    return secrets.token_hex(8)
