"""A block's body in the making.

Guarantee: statements keep their order; a body that is large is cut into parts between statements, so nobody has to hold
it in one piece; one that grows beyond the limit is refused.
"""

from __future__ import annotations

from replicator.errors import Rejected
from replicator.format.block import BODY_LIMIT_BYTES, BlockPart, Draft


class BlockBody:
    """A block's body in the making, cut into parts where it is large."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._bytes = 0
        self._parts: list[BlockPart] = []
        self._open: list[bytes] = []
        self._open_bytes = 0
        self._statements = 0

    def add(self, statement: bytes) -> None:
        """Add a statement. Raises Rejected if the transaction becomes too large."""
        if self._open and self._open_bytes + len(statement) > BODY_LIMIT_BYTES:
            self._cut()
        self._open.append(statement)
        self._open_bytes += len(statement)
        self._bytes += len(statement)
        if self._bytes > self._limit:
            message = f"the transaction comes to more than {self._limit:,} bytes"
            raise Rejected("transaction_too_large", message, status=413, cure="send several transactions")

    def _cut(self) -> None:
        self._statements += len(self._open)
        self._parts.append(BlockPart(len(self._open), b"".join(self._open)))
        self._open.clear()
        self._open_bytes = 0

    def items(self, note: bytes | None, txid: str, committed_at: int) -> list[BlockPart | Draft]:
        """The transaction for the journal, the note its first statement."""
        self._cut()
        notes = [] if note is None else [BlockPart(1, note)]
        parts = [*notes, *self._parts]
        statements = self._statements + len(notes)
        if sum(len(part.data) for part in parts) <= BODY_LIMIT_BYTES:
            body = b"".join(part.data for part in parts)
            return [Draft(txid, "", committed_at, 0, statements, body)]
        return [*parts, Draft(txid, "", committed_at, 0, statements, None)]
