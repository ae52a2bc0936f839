"""Two regions as real processes, and drills against them as an operator runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.sidecars import Sidecar, sequence

PRIMARY = """[source]
kind = "embedded"

[[source.tables]]
name = "wallets"
key = "wallet_id"
"""


class Pair:
    """A primary on the embedded ledger and a SQLite replica that follows it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.paris = Sidecar(directory, "paris", "primary", PRIMARY)
        follow = f'[follow]\nprimary = "{self.paris.url}"\nreconnect_max = "1s"\n\n'
        self.tokyo = Sidecar(directory, "tokyo", "replica", f'{follow}[replica]\nkind = "sqlite"\npath = "ledger.db"\n')
        self.sidecars = [self.paris, self.tokyo]

    def start(self) -> None:
        """Start both, and wait until the replica has what the primary has."""
        for sidecar in self.sidecars:
            sidecar.start()
        self.paris.reach(lambda status: bool(status["ready"]), "ready")
        self.write(20)
        head = self.head()
        self.tokyo.reach(lambda status: sequence(status, "applied") >= head, f"sequence {head}")

    def head(self) -> int:
        """The primary's last block."""
        status = self.paris.status()
        assert status is not None
        return sequence(status, "settled")

    def write(self, rows: int) -> None:
        """Some wallets."""
        for number in range(rows):
            document = {"wallet_id": f"w{number}", "balance": number}
            body = {"statements": [{"op": "put", "table": "wallets", "document": document}]}
            answer = httpx.post(f"{self.paris.url}/v1/transactions", json=body, trust_env=False)
            assert answer.status_code == 200, answer.text

    def end(self) -> None:
        """Everything goes."""
        for sidecar in self.sidecars:
            sidecar.end()


class Drill:
    """One drill as a process of its own."""

    def __init__(self, directory: Path, plan: str, *arguments: str) -> None:
        directory.mkdir(exist_ok=True)
        self.report_dir = directory / "report"
        self.state = directory / "state"
        self.plan = directory / "plan.toml"
        self.plan.write_text(plan)
        self.command = [
            *(sys.executable, "-m", "replicator", "drill", *arguments),
            *("--plan", str(self.plan), "--report", str(self.report_dir), "--state", str(self.state)),
        ]

    def start(self) -> subprocess.Popen[str]:
        """Start it; does not wait."""
        return subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ}
        )

    def run(self) -> tuple[int, str]:
        """Its exit code, and all that it said."""
        process = self.start()
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    def report(self) -> dict[str, Any]:
        """The report that it wrote."""
        found: dict[str, Any] = json.loads((self.report_dir / "report.json").read_text())
        return found

    def left(self) -> list[str]:
        """What it left in its state directory."""
        return sorted(path.name for path in self.state.iterdir())
