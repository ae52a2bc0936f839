"""Regions for the fault tests: sidecars as real processes, what they say of a trouble, and a client for the ledger."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.sidecars import Sidecar, sequence, sqlite_rows

WALLETS = '\n[[source.tables]]\nname = "wallets"\nkey = "wallet_id"\nuser = "user_id"\n'
EMBEDDED = f'[feed]\nheartbeat = "200ms"\n\n[source]\nkind = "embedded"\n{WALLETS}'


def follow(primary: str, **more: str) -> str:
    """A [follow] section that comes back soon; ``more`` are further lines."""
    lines = {"reconnect_min": "50ms", "reconnect_max": "300ms", **more}
    return f'[follow]\nprimary = "{primary}"\n' + "".join(f'{key} = "{value}"\n' for key, value in lines.items()) + "\n"


def sqlite_replica(path: str | Path = "ledger.db") -> str:
    return f'[replica]\nkind = "sqlite"\npath = "{path}"\n'


def postgres_replica(dsn: str) -> str:
    return f'[replica]\nkind = "postgres"\ndsn = "{dsn}"\n'


def postgres_source(dsn: str, **more: str) -> str:
    lines = {"sequences": "500ms", "heartbeat": "200ms", **more}
    return f'[feed]\nheartbeat = "200ms"\n\n[source]\nkind = "postgres"\ndsn = "{dsn}"\n' + "".join(
        f'{key} = "{value}"\n' for key, value in lines.items()
    )


class Region(Sidecar):
    """A sidecar with what these tests ask of it. ``environment`` is added to its process'."""

    def __init__(
        self, directory: Path, name: str, role: str, sections: str, environment: dict[str, str] | None = None
    ) -> None:
        super().__init__(directory, name, role, sections)
        self.environment = environment or {}
        self.data = self.directory / "data"

    def start(self, *options: str) -> None:
        with (self.directory / "log").open("ab") as log:
            command = [sys.executable, "-m", "replicator", "run", str(self.config), *options]
            environment = {**os.environ, **self.environment}
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def limit_files(self, size: int) -> None:
        """No file of the process may grow beyond ``size`` bytes: its disk is full. -1 frees the disk."""
        assert self.process is not None
        _, hard = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (size if size >= 0 else hard, hard))

    def resident_bytes(self) -> int:
        """The most memory that the process has had."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024

    def trouble(self, reason: str, *, condition: str, seconds: float = 30) -> dict[str, Any]:
        """Wait until a stage shows this reason; place and cure are always there."""
        seen: list[dict[str, Any]] = []

        def is_shown(status: dict[str, Any]) -> bool:
            found = troubles(status)
            seen[:] = [trouble for trouble in found if trouble["reason"] == reason]
            return bool(seen)

        self.reach(is_shown, reason, seconds)
        assert seen[0]["condition"] == condition, seen
        assert seen[0]["place"], seen
        assert seen[0]["message"], seen
        return seen[0]

    def reach_sequence(self, mark: str, at: int, seconds: float = 60) -> None:
        self.reach(lambda status: sequence(status, mark) >= at, f"{mark} {at}", seconds)

    def reach_calm(self, seconds: float = 30) -> None:
        """Wait until no stage has a trouble."""
        self.reach(lambda status: not troubles(status), "no trouble", seconds)

    def write(self, first: int, count: int, *, filler: str = "", statements: int = 1) -> httpx.Response:
        """One transaction that inserts the wallets ``first`` to ``first + count - 1``."""
        documents = [
            {"wallet_id": f"w{number:07}", "user_id": f"u{number % 7}", "filler": filler}
            for number in range(first, first + count)
        ]
        body = {"statements": [{"table": "wallets", "op": "insert", "document": document} for document in documents]}
        return httpx.post(f"{self.url}/v1/transactions", json=body, timeout=30, trust_env=False, verify=False)

    def wallets(self) -> int:
        """How many wallets its replica, or its ledger's state, holds."""
        path = self.data / "ledger.sqlite3" if "[source]" in self.config.read_text() else self.directory / "ledger.db"
        return len(list(sqlite_rows(path, "wallets", ["wallet_id"])))

    def ask(self, path: str, **more: Any) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=20, trust_env=False, verify=False, **more)


def troubles(status: dict[str, Any]) -> list[dict[str, Any]]:
    """Each stage's trouble, with the stage's name and condition."""
    return [
        {**stage["trouble"], "stage": stage["stage"], "condition": stage["condition"]}
        for strand in status["strands"]
        for stage in strand["stages"]
        if stage["trouble"] is not None
    ]


def run_verb(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A verb of the command line, to its end."""
    command = [sys.executable, "-m", "replicator", *arguments]
    merged = {**os.environ, **(environment or {})}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=merged)


def assert_equal(*replicas: Region) -> None:
    """``verify`` finds the replicas equal to what they follow."""
    done = run_verb("verify", *(str(replica.config) for replica in replicas))
    assert done.returncode == 0, done.stdout + done.stderr


def until_ready(regions: list[Region], ready: Callable[[Region], None]) -> None:
    """Start all at once, then wait for each."""
    for region in regions:
        region.start()
    for region in regions:
        ready(region)
