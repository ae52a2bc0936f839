"""One region of a cluster under test: its process, and what it says of itself over HTTP and leaves on its disk."""

from __future__ import annotations

import contextlib
import http.client
import json
from typing import Any

from replicator.format.block import Header
from replicator.storage.journal.reading import JournalReader
from tests.e2e.sidecars import Sidecar

STRAND = "main"
READ_BYTES = 1 << 22


class Region(Sidecar):
    """One region's sidecar, and what it says of its office. ``office`` may be asked of one that is stopped: None."""

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def ask(self, method: str, path: str, fields: object = None, seconds: float = 5.0) -> tuple[int, dict[str, Any]]:
        """One request; raises OSError or HTTPException if there is no answer."""
        connection = http.client.HTTPConnection(*self.address, timeout=seconds)
        with contextlib.closing(connection):
            body = None if fields is None else json.dumps(fields)
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def office(self, seconds: float = 2.0) -> dict[str, Any] | None:
        """All that it shows of its role; None while it does not answer."""
        try:
            status, answer = self.ask("GET", "/v1/failover", seconds=seconds)
        except (OSError, http.client.HTTPException, ValueError):
            return None
        return answer if status == 200 else None

    def report(self) -> dict[str, Any]:
        """What it says of itself; nothing while it does not answer."""
        office = self.office()
        return {} if office is None else office["report"]

    def order(self, **fields: object) -> tuple[int, dict[str, Any]]:
        """Give it an order."""
        return self.ask("POST", "/v1/failover/orders", fields)

    def happened(self) -> list[str]:
        """The events of its past."""
        office = self.office()
        assert office is not None, f"{self.name} does not answer\n{self.log()}"
        return [event["event"] for event in office["history"]]

    def headers(self) -> list[Header]:
        """What its journal holds, proven block by block."""
        headers: list[Header] = []
        with contextlib.closing(JournalReader(self.directory / "data" / "journal.sqlite3")) as reader:
            while blocks := reader.blocks(STRAND, headers[-1].sequence if headers else 0, READ_BYTES):
                headers += [block.header for block in blocks]
        return headers

    def seals(self) -> list[dict[str, Any]]:
        """The reports of the orphans that it has sealed."""
        return [json.loads(path.read_text()) for path in sorted(self.directory.glob("data/orphans/*/report.json"))]
