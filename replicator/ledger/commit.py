"""The one writer: a group of requests becomes blocks, in one durable append.

Guarantee, for each group: every request is judged against the state and what the group's requests before it did; those
that are refused affect nobody else; the accepted ones are appended to the journal in one call, which is the commit.
With them go the refusals of those that have an idempotency key, for a key has one outcome: a retry is answered alike,
and so is a first attempt that arrives after its retry.
Then the state follows the journal by the same code as every replica, and so do the requests' index. A crash between
the two is healed at the next start, or before the next group: nothing is judged by a state that lags.

If the state cannot follow (a full disk, say) the requests were committed all the same, and are answered so. A group
whose permit to write ended before its answers were ready gets none: each of its requests hears that the outcome is not
known (``permit``).
All calls block, one at a time. Non-goals: waiting and grouping (``ledger``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import time
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from replicator.errors import Halted, OutcomeUnknown, Rejected, ReplicatorError, Unavailable
from replicator.format.block import HAS_DEFINITIONS, Block, BlockPart, Draft
from replicator.format.definition import Definition
from replicator.format.position import Position
from replicator.format.statement import pack_define
from replicator.ledger.index import RequestIndex
from replicator.ledger.known_past import KnownPast, LedgerPast
from replicator.ledger.permit import Permits, Unfenced
from replicator.ledger.planning import (
    Changes,
    PlannedRefusal,
    PlannedTransaction,
    RequestPlanner,
    TransactionAnswer,
    TransactionRefusal,
    plan_refusal,
)
from replicator.ledger.request import RequestLimits, TransactionRequest, read_identity, read_request
from replicator.ledger.state import LedgerState
from replicator.ledger.tables import LedgerTable, TableDeclaration, check_declaration, definition_of
from replicator.pipeline.replay.replayer import Replayer
from replicator.pipeline.replicas.base import AppliedMark
from replicator.pipeline.replicas.sqlite.replica import SqliteReplica
from replicator.storage.journal.store import Journal

REPLAY_BYTES = 4 << 20
REPLAY_BLOCKS = 2000
BULK_BYTES = 1 << 20
FORGET_SECONDS = 60

log = logging.getLogger("replicator.ledger")


@dataclasses.dataclass(frozen=True, slots=True)
class LedgerOptions:
    """Where the ledger keeps its files, and what it allows. ``clock`` gives microseconds since 1970. ``past`` is the
    index over the journal, if there is one: it speaks against files that have lost something; ``on_damage`` hears of
    those."""

    state: Path
    requests: Path
    limits: RequestLimits = dataclasses.field(default_factory=RequestLimits)
    retention_seconds: float = 7 * 86_400.0
    clock: Callable[[], int] = lambda: time.time_ns() // 1000
    past: LedgerPast | None = None
    on_damage: Callable[[Path, Halted], None] = lambda file, error: None


class DeclaredTable(NamedTuple):
    """A table that is there; ``created`` if it was not there before."""

    position: Position
    definition: Definition
    created: bool


Planned = PlannedTransaction | PlannedRefusal
Outcome = TransactionAnswer | TransactionRefusal | ReplicatorError


class Committer:
    """The writer of one strand. ``open`` first, and again after an error was raised. It writes in the epoch of its
    permit; ``epoch`` is for a region without failover, whose permit never ends."""

    def __init__(
        self, journal: Journal, strand: str, epoch: int, options: LedgerOptions, permits: Permits | None = None
    ) -> None:
        self.permits: Permits = permits or Unfenced(epoch)
        self.committed: Block | None = None  # the last block that was written here
        self.tables: dict[str, LedgerTable] = {}
        self.replica = SqliteReplica(options.state)
        self._journal = journal
        self._strand = strand
        self._options = options
        self._replayer = Replayer(journal, self.replica, strand, REPLAY_BYTES, REPLAY_BLOCKS)
        self._state = LedgerState(options.state)
        self._index = RequestIndex(options.requests, strand)
        past = (
            None
            if options.past is None
            else KnownPast(options.past, strand, options.state, options.requests, options.on_damage)
        )
        self._judge = RequestPlanner(journal, strand, self._state, self._index, options.limits, past)
        self._is_open = False
        self._forgot_at = 0
        self._stamping_since: int | None = None  # while blocks get their time and are on their way to the journal

    @property
    def applied(self) -> AppliedMark:
        """Where the state stands."""
        return self._replayer.applied

    def open(self) -> AppliedMark:
        """Open the files and bring the state after the journal. Raises Unavailable or Halted."""
        self.close()
        self._journal.discard_arriving(self._strand)  # a large commit that was cut off: nobody heard that it stands
        self._replayer.open()
        self._state.open()
        self._index.open()
        self._is_open = True
        self._follow()
        self.tables = self._read_tables()
        return self.applied

    def close(self) -> None:
        """Let go of the files. Never raises."""
        self._is_open = False
        self._state.close()
        self._index.close()
        self.replica.close()

    def stamped_until(self) -> int:
        """Every block that has an earlier time is in the journal, and every later one gets a later time. From any
        thread."""
        since, now = self._stamping_since, self._options.clock()
        return now if since is None else since

    @contextlib.contextmanager
    def _stamping(self) -> Iterator[None]:
        self._stamping_since = self._options.clock()
        try:
            yield
        finally:
            self._stamping_since = None

    def execute(self, bodies: Sequence[bytes], passing: Container[int] = ()) -> list[Outcome]:
        """Judge and commit requests, each by itself all or nothing; an answer or a refusal for each, in order. The
        refusals of those at the places ``passing`` are not remembered.

        Raises NotPrimary, Unavailable or Halted if nothing was committed.
        """
        epoch = self.permits.permit()
        with self._stamping(), _rare_collections(sum(map(len, bodies)) > BULK_BYTES):
            outcomes = self._execute(bodies, passing)
        # Another region may lead by now, and may not have what was just committed: no answer may say that it stands.
        if not self.permits.holds(epoch):
            return [OutcomeUnknown("the right to write ended meanwhile") for _ in outcomes]
        return outcomes

    def _execute(self, bodies: Sequence[bytes], passing: Container[int]) -> list[Outcome]:
        self._catch_up()
        outcomes: list[Outcome | Planned | int] = []
        by_id: dict[str, int] = {}  # the group's own requests by idempotency key: their place in outcomes
        changes: Changes | None = {} if len(bodies) > 1 else None  # a lone one is judged by the state alone
        for place, body in enumerate(bodies):
            outcome = self._judged(body, by_id, outcomes, changes)
            if isinstance(outcome, PlannedRefusal) and place in passing:
                outcome = outcome.refusal
            outcomes.append(outcome)
            if isinstance(outcome, PlannedTransaction | PlannedRefusal):
                by_id[outcome.request.id] = place
        planned = [outcome for outcome in outcomes if isinstance(outcome, PlannedTransaction | PlannedRefusal)]
        return list(_answered(outcomes, self._commit(planned)))

    def _judged(
        self, body: bytes, by_id: dict[str, int], outcomes: Sequence[object], changes: Changes | None
    ) -> Outcome | Planned | int:
        """What is to become of a request, or the place in the group of the one that it repeats."""
        try:
            request, refusal = self._read(body)
            repetition = self._judge.repetition(request, by_id, outcomes)
            if repetition is not None:
                return repetition
        except Rejected as error:  # what it is, whatever the ledger holds: sent again it is refused again
            return error
        if refusal is None:
            try:
                return self._judge.plan(request, changes, self._options.clock())
            except Rejected as error:
                refusal = error
        if not request.id:
            return refusal
        return plan_refusal(request, refusal, self._options.clock())

    def _read(self, body: bytes) -> tuple[TransactionRequest, Rejected | None]:
        """The request, and its refusal if it names a table that is not there: one may be declared yet, so that is
        judged by what the ledger holds, and stays the outcome of its key. Raises Rejected."""
        try:
            return read_request(body, self.tables, self._options.limits), None
        except Rejected as error:
            request = read_identity(body) if error.reason == "unknown_table" else None
            if request is None:
                raise
            return request, error

    def declare(self, declaration: TableDeclaration) -> DeclaredTable:
        """Make a table, or find it as declared. Raises Rejected, Unavailable or Halted."""
        epoch = self.permits.permit()
        with self._stamping():
            declared = self._declare(declaration)
        if not self.permits.holds(epoch):
            raise OutcomeUnknown("the right to write ended meanwhile")
        return declared

    def _declare(self, declaration: TableDeclaration) -> DeclaredTable:
        check_declaration(declaration)
        self._catch_up()
        definition = definition_of(declaration)
        for table in self.tables.values():
            if table.definition == definition:
                return DeclaredTable(self._journal.head(self._strand), definition, False)
            if table.name.lower() == definition.label.lower():  # SQLite's names do not differ by case alone
                raise Rejected(
                    "table_differs",
                    f"there is a table {table.name!r} with another key, user field or spelling",
                    status=409,
                    place=f"table {table.name}",
                    cure="a table keeps its key and user field: declare another table and move the documents",
                )
        # Numbers are never used again, so that rows of any age are read by the definition that they were written by.
        relation = max(self._journal.definitions(self._strand), default=0) + 1
        body = pack_define(relation, definition)
        draft = Draft(self._next_name(), "", self._options.clock(), HAS_DEFINITIONS, 1, body)
        (block,) = self._append([draft])
        self._catch_up()
        self.tables = self._read_tables()
        return DeclaredTable(block.position, definition, True)

    # -- the group

    def _commit(self, planned: Sequence[Planned]) -> list[TransactionAnswer | TransactionRefusal]:
        if not planned:
            return []
        items: list[BlockPart | Draft] = []
        for number, plan in enumerate(planned):
            *parts, draft = plan.items
            assert isinstance(draft, Draft)
            items += [*parts, draft._replace(txid=draft.txid or self._next_name(number))]
        blocks = self._append(items)
        try:  # what fails from here on changes no answer: the append was the commit
            self._follow()
        except (Unavailable, Halted) as error:
            log.warning("committed, but the state does not follow yet: %s", error)
        return [_answer_of(block, plan) for block, plan in zip(blocks, planned, strict=True)]

    def _append(self, items: Sequence[BlockPart | Draft]) -> list[Block]:
        """The commit. Raises NotPrimary if the permit has ended by now, and Halted if its epoch is past."""
        with self.permits.appending() as epoch:
            head = self._journal.head(self._strand)
            if head.epoch > epoch:
                message = f"the journal holds blocks of epoch {head.epoch}; nothing is written in epoch {epoch}"
                raise Halted("epoch_past", message, place=f"strand {self._strand}", cure="follow the primary")
            blocks = self._journal.append(self._strand, items, epoch)
            self.committed = blocks[-1]
        return blocks

    def _next_name(self, number: int = 0) -> str:
        """A transaction's name where its client gave none."""
        return f"tx-{self._journal.head(self._strand).sequence + 1 + number}"

    def _catch_up(self) -> None:
        if not self._is_open:
            self.open()
        self._follow()
        now = self._options.clock()
        # The distance, not the difference: a clock that was set back must not keep requests for ever.
        if abs(now - self._forgot_at) > FORGET_SECONDS * 1_000_000:
            self._forgot_at = now
            self._index.forget(now - round(self._options.retention_seconds * 1_000_000))

    def _follow(self) -> None:
        """Bring state and index to the journal's end."""
        head = self._journal.head(self._strand)
        try:
            while self._replayer.applied.position.sequence < head.sequence:
                self._replayer.step()
            self._index.follow(self._journal)
        except BaseException:
            self.close()  # with the transaction that was half done; it is opened anew
            raise

    def _read_tables(self) -> dict[str, LedgerTable]:
        definitions = self._journal.definitions(self._strand).items()
        tables = [
            LedgerTable(relation, definition) for relation, definition in sorted(definitions) if definition.documents
        ]
        return {table.name: table for table in tables}


@contextlib.contextmanager
def _rare_collections(is_bulk: bool) -> Iterator[None]:
    """A bulk load makes millions of small objects that all live on; the collector of cycles would look through them
    again and again, for a quarter of the time (measured), and find nothing."""
    if not is_bulk or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _answer_of(block: Block, plan: Planned) -> TransactionAnswer | TransactionRefusal:
    if isinstance(plan, PlannedRefusal):
        return TransactionRefusal(block.header.sequence, plan.refusal)
    return TransactionAnswer(block.position, block.header.committed_at, plan.request.id, plan.versions)


def _answered(
    outcomes: Sequence[Outcome | Planned | int], answers: Sequence[TransactionAnswer | TransactionRefusal]
) -> Iterator[Outcome]:
    """The outcomes with what was planned as answered: a number is the place of the request that this one repeats."""
    rest = iter(answers)
    settled: list[Outcome] = []
    for outcome in outcomes:
        if isinstance(outcome, PlannedTransaction | PlannedRefusal):
            settled.append(next(rest))
        elif not isinstance(outcome, int):
            settled.append(outcome)
        else:
            first, plan = settled[outcome], outcomes[outcome]
            if isinstance(first, TransactionRefusal):
                assert isinstance(plan, PlannedRefusal)
                settled.append(first._replace(refusal=plan.note.again()))
            else:
                assert isinstance(first, TransactionAnswer)
                settled.append(first._replace(repeated=True))
    return iter(settled)
