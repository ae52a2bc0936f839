"""Sending an orphan transaction to the primary again, as a transaction of its own.

Guarantee: it is carried out whole, once, and only where every row is as it was before the orphan. Embedded ledger: each
statement expects the version that the orphan met, under an idempotency key that depends on the orphan alone.
PostgreSQL: the primary's sidecar compares the rows in the transaction that writes them (``orphan_receiver``). What is
refused has changed nothing.
"""

from __future__ import annotations

import json
from typing import Any

from replicator.cluster.rejoin.conflict_check import ROW_OPS, reapply_id
from replicator.errors import Corrupt, Rejected, Unavailable
from replicator.ledger.api import PASSING
from replicator.pipeline.feed.client import Upstream
from replicator.transport.answer import FOREIGN, JSON, ExchangeReasons
from replicator.transport.client import Bounds, Client

TIMEOUT_SECONDS = 30.0
ANSWER_LIMIT_BYTES = 16_000_000
REASONS = ExchangeReasons("primary_unreachable", "primary_unreachable")

Fields = dict[str, Any]


def is_of_embedded(transaction: Fields) -> bool:
    """Whether all its rows are documents."""
    return all(statement["documents"] for statement in transaction["statements"] if statement["op"] in ROW_OPS)


def ledger_request(transaction: Fields) -> bytes:
    """The orphan as a request to the embedded ledger (``ledger/request.py``). Documents go as the text that they are:
    what stands in them is not read, so nothing is rounded."""
    statements = [_statement(statement) for statement in transaction["statements"] if statement["op"] in ROW_OPS]
    return f'{{"id": {json.dumps(reapply_id(transaction))}, "statements": [{", ".join(statements)}]}}'.encode()


def _statement(statement: Fields) -> str:
    before, after = statement["before"], statement["after"]
    version = int(before["version"]) if before is not None else 0
    common = f'"table": {json.dumps(statement["table"])}, "expect": {{"version": {version}}}'
    if after is not None:
        return f'{{"op": "put", {common}, "document": {after["document"]}}}'
    document = json.loads(before["document"])
    key = {name: document[name] for name in statement["key"]}
    return f'{{"op": "delete", {common}, "key": {json.dumps(key)}}}'


def rows_request(transaction: Fields, who: str) -> bytes:
    """The orphan for a PostgreSQL primary (``orphan_receiver.py``)."""
    names = ("table", "key", "before", "after")
    rows = [
        {name: statement[name] for name in names}
        for statement in transaction["statements"]
        if statement["op"] in ROW_OPS
    ]
    return json.dumps({"orphan": transaction["hash"], "who": who, "rows": rows}).encode()


class PrimaryClient:
    """The region in charge, asked over HTTP. Use as an async context manager."""

    def __init__(self, upstream: Upstream) -> None:
        self._http = Client(
            upstream.endpoint,
            Bounds(TIMEOUT_SECONDS, ANSWER_LIMIT_BYTES),
            REASONS,
            headers={**upstream.headers, "Content-Type": JSON},
            connect_seconds=upstream.connect_seconds,
        )

    async def __aenter__(self) -> PrimaryClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def send(self, transaction: Fields, who: str) -> str:
        """Have it carried out; gives where. Raises Rejected or Halted (it was not), or Unavailable (that is not
        known)."""
        try:
            if is_of_embedded(transaction):
                # An orphan that is refused may be re-applied once its conflict is cured, under its client's key.
                content, passing = ledger_request(transaction), {PASSING: "true"}
                answer = await self._http.json("POST", "/v1/transactions", content=content, headers=passing)
            else:
                answer = await self._http.json("POST", "/v1/orphans/take", content=rows_request(transaction, who))
        except (Corrupt, Unavailable, Rejected) as error:
            if isinstance(error, Rejected) and error.reason != FOREIGN:
                raise
            # No word of the primary's own: it may have carried it out.
            cure = f"{error.cure}; re-apply again, which is safe"
            raise Unavailable(error.reason, error.message, place=error.place, cure=cure) from error
        return str(answer.get("position", ""))
