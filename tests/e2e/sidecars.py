"""Sidecars as real processes: started, killed and asked as an operator would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg

from replicator.storage.sqlite import connect
from tests.servers import free_port

PATIENCE_SECONDS = 120


Row = tuple[str | None, ...]  # as text


class Sidecar:
    """One region's process. ``sections`` is the rest of its configuration, behind [region] and [http]."""

    def __init__(self, directory: Path, name: str, role: str, sections: str) -> None:
        self.directory = directory / name
        self.directory.mkdir()
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.config = self.directory / "config.toml"
        self.config.write_text(
            f'[region]\nname = "{name}"\nrole = "{role}"\ndata_dir = "data"\n\n'
            f'[http]\nlisten = "127.0.0.1:{self.port}"\n\n{sections}'
        )
        self.kills = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start the process; does not wait for anything."""
        with (self.directory / "log").open("ab") as log:
            command = [sys.executable, "-m", "replicator", "run", str(self.config), *options]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        assert self.process.poll() is None, f"{self.name} ended by itself:\n{self.log()}"
        self.process.kill()
        self.process.wait()
        self.kills += 1

    def freeze(self) -> None:
        """SIGSTOP: none of its threads does anything more, from the return on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)  # they stop one by one

    def thaw(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def end(self) -> None:
        """Make sure that it is gone."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def log(self) -> str:
        """What it wrote, the end of it."""
        return (self.directory / "log").read_text()[-6000:]

    def status(self) -> dict[str, Any] | None:
        """Its status; None while it does not answer."""
        try:
            answer: dict[str, Any] = httpx.get(f"{self.url}/v1/status", timeout=5, trust_env=False, verify=False).json()
        except httpx.HTTPError:
            return None
        return answer

    def metric(self, name: str) -> float | None:
        """The first sample of a metric; None if it is not known."""
        text = httpx.get(f"{self.url}/metrics", timeout=5, trust_env=False, verify=False).text
        return next((float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + "{")), None)

    def reach(self, done: Callable[[dict[str, Any]], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
        """Poll the status until ``done``; fails with the log if the process ended or it takes too long."""
        deadline = time.monotonic() + seconds
        status: dict[str, Any] | None = None
        while time.monotonic() < deadline:
            assert self.process is not None
            assert self.process.poll() is None, f"{self.name} ended:\n{self.log()}"
            status = self.status()
            if status is not None and done(status):
                return
            time.sleep(0.1)  # polls another process
        raise AssertionError(f"{self.name}: {what} not reached in {seconds} s; status {status}\n{self.log()}")


def sequence(status: dict[str, Any], mark: str) -> int:
    """A mark of the (only) strand; 0 before its first block."""
    return int(status["strands"][0]["marks"][mark] or 0)


def postgres_rows(dsn: str, table: str, columns: Iterable[str]) -> Iterator[Row]:
    """A table's rows as the server prints them, sorted as text; independent of the code under test."""
    texts = ", ".join(f'"{name}"' for name in columns)
    with psycopg.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SET timezone = 'UTC'")
        with cursor.copy(f"COPY (SELECT {texts} FROM {table}) TO STDOUT") as copy:
            yield from sorted(tuple(row) for row in copy.rows())


def sqlite_rows(path: Path, table: str, columns: Iterable[str]) -> Iterator[Row]:
    """The same of a SQLite replica, for columns whose storage prints like PostgreSQL's text."""
    texts = ", ".join(f'CAST("{name}" AS TEXT)' for name in columns)
    connection = connect(path, synchronous="NORMAL", read_only=True)
    yield from sorted(connection.execute(f'SELECT {texts} FROM "{table}"').fetchall())
    connection.close()
