"""What a game day's checker sees of a region's database by itself, without the sidecar: can be read, takes writes.

Kept with the times of the attempt, so that what the sidecar said at a time can be held against it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import NamedTuple

import psycopg

from tests.e2e.gameday.bank import APP, CONNECT

PAUSE_SECONDS = 0.2
TIMEOUT_SECONDS = 2


class Sight(NamedTuple):
    """One look at a database. ``tellers``: how far each teller's counter is; None if it could not be read. ``writes``:
    whether a write was let through; it was taken back."""

    began: float
    ended: float
    writes: bool
    tellers: dict[str, int] | None


class Probe(threading.Thread):
    """Looks at one region's database all the time."""

    def __init__(self, region: str, port: int) -> None:
        super().__init__(name=f"probe of {region}", daemon=True)
        self.region = region
        self.sights: list[Sight] = []
        self._dsn = f"host=127.0.0.1 port={port} dbname=ledger user={APP} {CONNECT}"
        self._session: psycopg.Connection | None = None
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            tellers = self._read()
            writes = tellers is not None and self._write()
            self.sights.append(Sight(began, time.monotonic(), writes, tellers))
            self._over.wait(PAUSE_SECONDS)
        self._leave()

    def end(self) -> None:
        self._over.set()

    def _read(self) -> dict[str, int] | None:
        try:
            if self._session is None:
                self._session = psycopg.connect(self._dsn, autocommit=True)
                self._session.execute(f"SET statement_timeout = '{TIMEOUT_SECONDS}s'")
            return dict(self._session.execute("SELECT teller, done FROM tellers").fetchall())
        except psycopg.Error:
            self._leave()
            return None

    def _write(self) -> bool:
        assert self._session is not None
        try:
            with self._session.transaction(force_rollback=True):
                self._session.execute("UPDATE accounts SET balance = balance WHERE owner = 1")
        except psycopg.errors.QueryCanceled:
            return True  # it waits for a row that another write holds
        except psycopg.Error:
            self._leave()
            return False
        return True

    def _leave(self) -> None:
        if self._session is not None:
            with contextlib.suppress(psycopg.Error):
                self._session.close()
            self._session = None
