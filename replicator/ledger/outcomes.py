"""What became of the transaction of an idempotency key, in every region.

Guarantee: *committed* and *refused* are read from the chain, and are final for as long as the key is remembered. *Not
known* is said only after everything was looked at that this region's journal held when it was asked; where that is not
done in time the answer is *not there yet*. A primary's index is kept by its writer; any other region's follows the
journal when it is asked, and only then, so it costs nothing where nobody asks.
"""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path
from typing import Any, Protocol

import trio

from replicator.errors import Rejected, Unavailable
from replicator.format.block import Block
from replicator.format.definition import Definition
from replicator.format.keys import key_reader
from replicator.format.position import Position, genesis
from replicator.format.row import unpack_row
from replicator.format.statement import DELETE, INSERT, UPDATE, Op
from replicator.format.values import json_of, text_of
from replicator.ledger.index import IndexedJournal, KnownRequest, RequestIndex, read_note, statements_of
from replicator.ledger.presentation import Content, show_time
from replicator.ledger.reads import ReadAnswer
from replicator.ledger.tables import version_of

LOOK_SECONDS = 2.0
POLL_SECONDS = 0.02
KEPT_US = 7 * 86_400 * 1_000_000  # of a region that does not lead: what its journal has pruned, and is older


class OutcomeJournal(IndexedJournal, Protocol):
    """What is asked of the region's journal."""

    def head(self, strand: str) -> Position: ...
    def block(self, strand: str, sequence: int) -> Block | None: ...
    def definitions(self, strand: str) -> dict[int, Definition]: ...


class Outcomes:
    """The outcomes that one region knows, by idempotency key. ``path`` is the index; ``leads``: this region's writer
    keeps it, and nobody else may write to it."""

    def __init__(self, strand: str, path: Path, journal: OutcomeJournal, *, leads: bool) -> None:
        self._strand = strand
        self._path = path
        self._journal = journal
        self._leads = leads
        self._index = RequestIndex(path, strand)
        self._is_open = False
        self._lock = threading.Lock()  # askers come in threads, the index serves one at a time

    def close(self) -> None:
        """Let go of the index."""
        with self._lock:
            self._index.close()
            self._is_open = False

    async def outcome(self, id_: str, limit: int, after_statement: int) -> ReadAnswer:
        """What became of the transaction, and up to ``limit`` of its statements. Raises Rejected: it is not known, or
        not yet."""
        head = self._journal.head(self._strand)
        deadline = trio.current_time() + LOOK_SECONDS
        while True:
            indexed, known = await trio.to_thread.run_sync(self._look, id_, head.sequence)
            if known is not None:
                return await trio.to_thread.run_sync(self._answer, id_, indexed, known, limit, after_statement)
            if indexed >= head.sequence:
                raise self._not_known(id_, head)
            if trio.current_time() >= deadline:
                message = f"blocks up to {head.sequence} are here, and were looked through up to {indexed}"
                raise _not_there_yet(message, id_)
            await trio.sleep(POLL_SECONDS)

    def _look(self, id_: str, until: int) -> tuple[int, KnownRequest | None]:
        """How far the index is, and what it says. Where this region leads the index is only read."""
        if not any(definition.documents for definition in self._journal.definitions(self._strand).values()):
            return until, None  # a database's transactions bear no keys: there is nothing to look through
        with self._lock:
            if not self._is_open:
                if self._leads and not self._path.exists():
                    raise Unavailable("ledger_stopped", "the ledger has not started here yet", cure="see the status")
                self._index.open(read_only=self._leads)
                self._is_open = True
            try:
                return self._read(id_)
            except BaseException:
                self._index.close()
                self._is_open = False
                raise

    def _read(self, id_: str) -> tuple[int, KnownRequest | None]:
        if not self._leads:
            stop = time.monotonic() + LOOK_SECONDS / 4
            while self._index.step(self._journal) and time.monotonic() < stop:
                pass
            self._index.forget(time.time_ns() // 1000 - KEPT_US, self._journal.base(self._strand).sequence)
        # How far it is first: what is read after it is at least as new.
        return self._index.indexed(self._journal), self._index.request(id_)

    def _answer(self, id_: str, indexed: int, known: KnownRequest, limit: int, after_statement: int) -> ReadAnswer:
        at = self._journal.position_at(self._strand, max(indexed, known.sequence)) or genesis(self._strand)
        if known.refusal is not None:
            refusal = known.refusal.again()
            return ReadAnswer(at, {**_heading(id_, "refused", known), "status": refusal.status, **refusal.as_json()})
        content = _heading(id_, "committed", known)
        block = self._journal.block(self._strand, known.sequence)
        if block is None:  # it is older than what the journal keeps
            return ReadAnswer(at, {**content, "statements": None, "next": None})
        changes = _changes(self._journal, block, self._journal.definitions(self._strand))
        page = list(itertools.islice(changes, after_statement, after_statement + limit + 1))
        following = str(after_statement + limit) if len(page) > limit else None
        return ReadAnswer(at, {**content, "statements": page[:limit], "next": following})

    def _not_known(self, id_: str, head: Position) -> Rejected:
        message = (
            f"up to {head} no transaction of this idempotency key was committed or refused, or it is longer ago than"
            " keys are remembered; one that is on its way may yet be carried out"
        )
        cure = "send the transaction under this key: it is then carried out once, or answered as it was"
        if not self._leads:
            message += ", and this region is not the primary, which may know more"
            cure = "ask the primary, or ask here with after=<position>"
        return Rejected("unknown_id", message, status=404, place=_place(id_), cure=cure)


def _heading(id_: str, outcome: str, known: KnownRequest) -> Content:
    return {
        "id": id_,
        "outcome": outcome,
        "sequence": known.sequence,
        f"{outcome}_at": show_time(known.committed_at),
    }


def _changes(journal: IndexedJournal, block: Block, definitions: dict[int, Definition]) -> Any:
    """The statements of a committed request: where each went, and the version that it left."""
    statements = statements_of(journal, block)
    note = read_note(next(statements))
    deleted = iter(note.deleted if note else ())
    for op, relation, image, *_ in statements:
        definition = definitions[relation]
        key = image if op == DELETE else key_reader(definition)(image)
        version = version_of(image) if op in (INSERT, UPDATE) else next(deleted)
        columns = [definition.columns[place] for place in definition.key_places]
        cells = zip(columns, unpack_row(key), strict=True)
        texts = {column.name: json_of(column)(text_of(column)(cell)) for column, cell in cells if type(cell) is bytes}
        yield {"op": Op(op).name.lower(), "table": definition.label, "key": texts, "version": version}


def _not_there_yet(message: str, id_: str) -> Rejected:
    cure = "ask again a little later, or ask the primary"
    return Rejected("not_there_yet", message, status=503, retry_after=1, place=_place(id_), cure=cure)


def _place(id_: str) -> str:
    return f"transaction {id_[:200]}"
