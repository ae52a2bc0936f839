"""Judging one request: by the state, by what its group did before it, and by whether it was applied already.

Guarantee: a request that is refused has changed nothing. One that is accepted is a whole block to be, judged by exactly
the documents that its block will meet. Keys are looked up by the thousand.

A key has one outcome: what was judged and refused under one is a block, too, that says no more than that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from replicator.errors import Rejected
from replicator.format.block import BODY_LIMIT_BYTES, Block, BlockPart, Draft
from replicator.format.position import Position
from replicator.format.statement import INSERT, UPDATE, pack_delete, pack_insert, pack_update
from replicator.ledger.evaluate import RequestedChange, StoredDocument, evaluate
from replicator.ledger.index import (
    RefusalNote,
    RequestIndex,
    RequestNote,
    pack_note,
    pack_refusal,
    read_note,
    statements_of,
)
from replicator.ledger.known_past import KnownPast
from replicator.ledger.request import DEPTH_LIMIT, RequestLimits, TransactionRequest
from replicator.ledger.state import LedgerState
from replicator.ledger.tables import Key, version_of
from replicator.storage.journal.store import Journal

CHUNK_STATEMENTS = 5000

Changes = dict[tuple[int, Key], StoredDocument]  # by relation and key


class TransactionAnswer(NamedTuple):
    """A transaction that is committed. ``versions`` are its statements' (a delete's too), ``repeated`` says that it was
    committed by an earlier request of the same idempotency key, ``acknowledged_by`` how many other regions have it
    durably, where the writer waits for some."""

    position: Position
    committed_at: int
    id: str
    versions: Sequence[int]
    repeated: bool = False
    acknowledged_by: int | None = None


class PlannedTransaction(NamedTuple):
    """An accepted request: its block to be, and its answer but for the position."""

    request: TransactionRequest
    items: list[BlockPart | Draft]
    versions: list[int]


class TransactionRefusal(NamedTuple):
    """A refusal that is remembered for its idempotency key: the sequence of its block, and the answer."""

    sequence: int
    refusal: Rejected


class PlannedRefusal(NamedTuple):
    """A request that was judged and refused: the block that is to remember it, and its answer."""

    request: TransactionRequest
    items: list[BlockPart | Draft]
    note: RefusalNote
    refusal: Rejected


def plan_refusal(request: TransactionRequest, refusal: Rejected, committed_at: int) -> PlannedRefusal:
    """The block that remembers a refusal for the request's idempotency key."""
    answer = (refusal.status, refusal.reason, refusal.message, refusal.place, refusal.cure)
    note = RefusalNote(request.id, request.digest, *answer)
    return PlannedRefusal(request, [Draft("", "", committed_at, 0, 1, pack_refusal(note))], note, refusal)


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
        # A statement that is larger than a part by itself is a part by itself: cuts lie between statements.
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
        # Known only at the end, for it names the versions of all deletes; yet it is read first.
        notes = [] if note is None else [BlockPart(1, note)]
        parts = [*notes, *self._parts]
        statements = self._statements + len(notes)
        if sum(len(part.data) for part in parts) <= BODY_LIMIT_BYTES:
            body = b"".join(part.data for part in parts)
            return [Draft(txid, "", committed_at, 0, statements, body)]
        return [*parts, Draft(txid, "", committed_at, 0, statements, None)]


class RequestPlanner:
    """Looks at the ledger for the one writer."""

    def __init__(
        self,
        journal: Journal,
        strand: str,
        state: LedgerState,
        index: RequestIndex,
        limits: RequestLimits,
        past: KnownPast | None = None,
    ) -> None:
        self._journal = journal
        self._strand = strand
        self._state = state
        self._index = index
        self._limits = limits
        self._past = past

    def repetition(
        self, request: TransactionRequest, by_id: dict[str, int], outcomes: Sequence[object]
    ) -> TransactionAnswer | TransactionRefusal | int | None:
        """The answer that a repeated request had, or its place within the group. Raises Rejected if it is another."""
        if not request.id:
            return None
        if request.id in by_id:
            first = outcomes[by_id[request.id]]
            assert isinstance(first, PlannedTransaction | PlannedRefusal)
            _check_same(request, first.request.digest)
            return by_id[request.id]
        known = self._index.request(request.id)  # the index has followed the journal up to this group's beginning
        if known is None:
            return None
        _check_same(request, known.digest)
        if known.refusal is not None:
            return TransactionRefusal(known.sequence, known.refusal.again())
        block = self._journal.block(self._strand, known.sequence)
        if block is None:
            message = f"the request was applied at sequence {known.sequence}; its block is no longer kept here"
            raise Rejected("already_applied", message, status=409, place="id")
        return TransactionAnswer(block.position, block.header.committed_at, request.id, self._versions(block), True)

    def _versions(self, block: Block) -> list[int]:
        """The versions in a block of an idempotent request: rows carry theirs, the note those of deletes."""
        statements = statements_of(self._journal, block)
        note = read_note(next(statements))
        deleted = iter(note.deleted if note else ())
        return [
            version_of(statement[2]) if statement[0] in (INSERT, UPDATE) else next(deleted) for statement in statements
        ]

    def plan(self, request: TransactionRequest, changes: Changes | None, committed_at: int) -> PlannedTransaction:
        """Judge a request by the state and by ``changes``, which it adds to if it is accepted. Raises Rejected."""
        limits = self._limits
        mine: Changes = {}  # apart from the group's until the request is accepted: one that is refused changes nothing
        body = BlockBody(limits.transaction_bytes)
        versions: list[int] = []
        deleted: list[int] = []
        for chunk in _chunks(request.statements):  # the state's documents are held a chunk at a time
            stored = self._stored(chunk, changes or {})
            for statement in chunk:
                table, key = statement.table, statement.key
                before = stored.get((table.relation, key), _NOTHING)
                version, text, user = evaluate(statement, before, limits.document_bytes, DEPTH_LIMIT)
                versions.append(version)
                if text is None:
                    deleted.append(version)
                    body.add(pack_delete(table.relation, table.pack_key(key)))
                else:
                    pack = pack_insert if before.text is None else pack_update
                    body.add(pack(table.relation, table.pack(key, user, text, version)))
                if changes is not None:
                    mine[table.relation, key] = StoredDocument(version, None if text is None else text.decode())
        if changes is not None:
            changes.update(mine)
        note = pack_note(RequestNote(request.id, request.digest, deleted)) if request.id or deleted else None
        return PlannedTransaction(request, body.items(note, request.id, committed_at), versions)

    def _stored(self, statements: Sequence[RequestedChange], changes: Changes) -> Changes:
        """What is stored under the statements' keys, before them."""
        stored: Changes = {}
        unknown: dict[int, list[RequestedChange]] = {}
        for statement in statements:
            place = (statement.table.relation, statement.key)
            if place in changes:
                stored[place] = changes[place]
            else:
                unknown.setdefault(statement.table.relation, []).append(statement)
        for relation, changed in unknown.items():
            table = changed[0].table
            documents = self._state.documents(table, [statement.key for statement in changed])
            # Where nothing was ever deleted no key is packed only to be looked for among the deleted ones.
            absent = changed if self._index.has_deleted else ()
            missing = {table.pack_key(s.key): s.key for s in absent if s.key not in documents}
            for image, version in self._index.deleted(table, list(missing)).items():
                documents[missing[image]] = StoredDocument(version, None)
            if self._past is not None:  # a version that starts again would overwrite the document everywhere
                self._past.check_new(table, [s.key for s in changed if s.key not in documents])
            stored.update({(relation, key): document for key, document in documents.items()})
        return stored


def _check_same(request: TransactionRequest, digest: bytes) -> None:
    if request.digest != digest:
        raise Rejected(
            "id_reused",
            "another transaction was sent under this idempotency key",
            status=422,
            place="id",
            cure="send a retry unchanged, and everything else under a key of its own",
        )


_NOTHING = StoredDocument(0, None)


def _chunks(statements: Sequence[RequestedChange]) -> Iterator[Sequence[RequestedChange]]:
    for start in range(0, len(statements), CHUNK_STATEMENTS):
        yield statements[start : start + CHUNK_STATEMENTS]
