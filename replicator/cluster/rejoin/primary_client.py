"""Sending an orphan transaction to the primary again, as a transaction of its own.

Guarantee: it is carried out whole, once, and only where every row is as it was before the orphan. Embedded ledger: each
statement expects the version that the orphan met, under an idempotency key that depends on the orphan alone.
PostgreSQL: the primary's sidecar compares the rows in the transaction that writes them (``taking``). What is refused
has changed nothing.
"""

from __future__ import annotations

import json
import ssl
from typing import Any

import httpx

from replicator.cluster.rejoin.conflict_check import ROW_OPS, reapply_id
from replicator.errors import Rejected, ReplicatorError, Unavailable
from replicator.pipeline.feed.client import Upstream

TIMEOUT_SECONDS = 30.0
ANSWER_LIMIT_BYTES = 16_000_000

Fields = dict[str, Any]


def is_of_embedded(transaction: Fields) -> bool:
    """Whether all its rows are documents."""
    return all(told["documents"] for told in transaction["statements"] if told["op"] in ROW_OPS)


def ledger_request(transaction: Fields) -> bytes:
    """The orphan as a request to the embedded ledger (``ledger/request.py``). Documents go as the text that they are:
    what stands in them is not read, so nothing is rounded."""
    statements = [_statement(told) for told in transaction["statements"] if told["op"] in ROW_OPS]
    return f'{{"id": {json.dumps(reapply_id(transaction))}, "statements": [{", ".join(statements)}]}}'.encode()


def _statement(told: Fields) -> str:
    before, after = told["before"], told["after"]
    version = int(before["version"]) if before is not None else 0
    common = f'"table": {json.dumps(told["table"])}, "expect": {{"version": {version}}}'
    if after is not None:
        return f'{{"op": "put", {common}, "document": {after["document"]}}}'
    document = json.loads(before["document"])
    key = {name: document[name] for name in told["key"]}
    return f'{{"op": "delete", {common}, "key": {json.dumps(key)}}}'


def rows_request(transaction: Fields, who: str) -> bytes:
    """The orphan for a PostgreSQL primary (``taking.py``)."""
    names = ("table", "key", "before", "after")
    rows = [{name: told[name] for name in names} for told in transaction["statements"] if told["op"] in ROW_OPS]
    return json.dumps({"orphan": transaction["hash"], "who": who, "rows": rows}).encode()


class PrimaryClient:
    """The region in charge, asked over HTTP. Use as an async context manager."""

    def __init__(self, upstream: Upstream) -> None:
        self._place = upstream.url
        headers = {"Content-Type": "application/json", "Feed-Region": upstream.region}
        if upstream.token:
            headers["Authorization"] = f"Bearer {upstream.token}"
        tls: ssl.SSLContext | bool = True
        if upstream.ca_file:
            tls = ssl.create_default_context(cafile=str(upstream.ca_file))
        timeout = httpx.Timeout(TIMEOUT_SECONDS, connect=upstream.connect_seconds)
        self._http = httpx.AsyncClient(
            base_url=upstream.url, headers=headers, verify=tls, trust_env=False, timeout=timeout
        )

    async def __aenter__(self) -> PrimaryClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def send(self, transaction: Fields, who: str) -> str:
        """Have it carried out; gives where. Raises Rejected (it was not), or Unavailable (that is not known)."""
        if is_of_embedded(transaction):
            answer = await self._post("/v1/transactions", ledger_request(transaction))
        else:
            answer = await self._post("/v1/orphans/take", rows_request(transaction, who))
        return str(answer.get("position", ""))

    async def _post(self, path: str, body: bytes) -> Fields:
        content = bytearray()
        cure = "check the address and that region's sidecar; re-apply again, which is safe"
        try:
            async with self._http.stream("POST", path, content=body) as response:
                async for piece in response.aiter_bytes():
                    content += piece
                    if len(content) > ANSWER_LIMIT_BYTES:
                        raise Unavailable("bad_answer", "the answer is too large", place=self._place, cure=cure)
        except (httpx.HTTPError, ssl.SSLError) as error:
            message = f"the primary cannot be reached: {error or type(error).__name__}"
            raise Unavailable("primary_unreachable", message, place=self._place, cure=cure) from error
        try:
            fields = json.loads(content)
            if response.status_code == 200 and isinstance(fields, dict):
                return fields
            raise self._refusal(response.status_code, fields)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            message = f"HTTP {response.status_code}, and the answer cannot be read"
            raise Unavailable("bad_answer", message, place=self._place, cure=cure) from error

    def _refusal(self, status: int, fields: Fields) -> ReplicatorError:
        reason, message, place, cure = (str(fields[name]) for name in ("reason", "message", "place", "cure"))
        where = f"{self._place}: {place}" if place else self._place
        if status >= 500 or status in (401, 403, 429):
            return Unavailable(reason, message, place=where, cure=cure)
        return Rejected(reason, message, status=409, place=where, cure=cure)
