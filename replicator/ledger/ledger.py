"""The embedded ledger for trio: requests that wait together are committed together.

Guarantee: a request is answered only after its commit is durable; while one group is being written the next one
gathers, so the rate does not hang on the disk's latency; the queue is bounded in number and in bytes, and who does not
fit is told to come back. A request whose client goes away is carried out or not, never in part: its idempotency key
tells. Where writes need a permit that ends, no answer leaves after its end; where other regions have to have a write
first (``AcknowledgementGate``), its answer waits for them.

One task, ``run``, owns the writer; everything it does to files happens in one worker thread at a time and is never
abandoned half-way.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable
from typing import Protocol

import trio

from replicator.errors import Halted, NotPrimary, OutcomeUnknown, Rejected, ReplicatorError, Unavailable
from replicator.format.block import Block
from replicator.ledger.commit import Committer, DeclaredTable, LedgerOptions, Outcome
from replicator.ledger.permit import Permits
from replicator.ledger.planning import TransactionAnswer, TransactionRefusal
from replicator.ledger.request import RequestLimits
from replicator.ledger.tables import TableDeclaration
from replicator.pipeline.replicas.base import AppliedMark
from replicator.storage.journal.store import Journal

GROUP_REQUESTS = 500
GROUP_BYTES = 1 << 20  # a larger request is a group of its own
QUEUE_REQUESTS = 5000
QUEUE_BYTES = 256_000_000
UNANSWERED = 20_000  # that are committed here and wait for other regions
LAPSED_SECONDS = 0.05  # between looks at a permit that has ended and was not taken back


@dataclasses.dataclass(slots=True, eq=False)
class _QueuedWrite:
    """A request that waits for the writer, and its outcome once it has one."""

    what: bytes | TableDeclaration
    remembers_refusal: bool = True
    done: trio.Event = dataclasses.field(default_factory=trio.Event)
    outcome: Outcome | DeclaredTable | None = None

    @property
    def bytes(self) -> int:
        return len(self.what) if isinstance(self.what, bytes) else 0

    def settle(self, outcome: Outcome | DeclaredTable) -> None:
        self.outcome = outcome
        self.done.set()


class AcknowledgementGate(Protocol):
    """Who knows what other regions have durably."""

    async def wait(self, sequence: int, left_seconds: Callable[[], float]) -> int:
        """Return once enough of them have everything up to ``sequence``: how many. Raises Unavailable, the outcome
        being unknown, if that takes too long or ``left_seconds`` has reached zero."""


class Ledger:
    """The ledger of one strand. ``permits`` give the right to write; without them it is always given, in ``epoch``.

    ``on_committed`` is told, in trio's thread, of the last block that is durable in the journal, ``on_applied`` where
    the state stands; that is the same block unless the state cannot follow. ``on_waiting`` is told why nothing can be
    committed now.
    """

    def __init__(
        self,
        journal: Journal,
        strand: str,
        epoch: int,
        options: LedgerOptions,
        on_applied: Callable[[AppliedMark], None] = lambda applied: None,
        on_committed: Callable[[Block], None] = lambda block: None,
        on_waiting: Callable[[Unavailable], None] = lambda cause: None,
        permits: Permits | None = None,
        acknowledges: AcknowledgementGate | None = None,
    ) -> None:
        self.limits: RequestLimits = options.limits
        self._committer = Committer(journal, strand, epoch, options, permits)
        self._permits = self._committer.permits
        self.stamped_until = self._committer.stamped_until
        self._acknowledges = acknowledges
        self._on_applied = on_applied
        self._on_committed = on_committed
        self._on_waiting = on_waiting
        self._queue: deque[_QueuedWrite] = deque()
        self._queue_bytes = 0
        self._unanswered = 0
        self._arrived = trio.Event()
        self._runs = False

    @property
    def runs(self) -> bool:
        """Whether requests are taken."""
        return self._runs

    async def run(
        self,
        tables: tuple[TableDeclaration, ...] = (),
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Open, declare the configured tables, then serve for ever. Raises Unavailable, or Halted, for a configured
        table that differs from what is there too."""
        try:
            self._on_applied(await trio.to_thread.run_sync(self._committer.open))
            await self._declare_all(tables)
            self._runs = True
            task_status.started()
            while True:
                await self._serve_group()
        finally:
            self._runs = False  # first: whoever comes now is refused, and does not wait for nobody
            for ticket in self._queue:
                ticket.settle(_stopped())
            self._queue.clear()
            self._queue_bytes = 0
            self._arrived = trio.Event()
            with trio.CancelScope(shield=True):  # whoever opens the files next must not find them still open here
                await trio.to_thread.run_sync(self._committer.close)

    async def _declare_all(self, tables: tuple[TableDeclaration, ...]) -> None:
        """Declare the configured tables as soon as that is permitted."""
        while True:
            await self._permits.opened()
            try:
                for declaration in tables:
                    await trio.to_thread.run_sync(self._declare_configured, declaration)
                self._report()
                return
            except NotPrimary:  # it ended between the look and the append; the next one may be ours as well
                await trio.sleep(LAPSED_SECONDS)

    def _declare_configured(self, declaration: TableDeclaration) -> None:
        try:
            self._committer.declare(declaration)
        except NotPrimary:
            raise
        except Rejected as error:
            raise Halted(error.reason, error.message, place=error.place, cure=error.cure) from error

    async def submit(self, body: bytes, *, remembers_refusal: bool = True) -> TransactionAnswer:
        """Carry out a transaction (see ``request``). Raises Rejected, Unavailable or Halted. ``remembers_refusal``: a
        refusal is the outcome of its idempotency key, as a commit is."""
        epoch = self._permits.permit()  # the answer's, too: one that is given anew meanwhile does not vouch for it
        outcome = await self._wait_for(_QueuedWrite(body, remembers_refusal))
        if isinstance(outcome, TransactionRefusal):
            # A refusal that is remembered is as durable as a commit before anybody hears of it.
            await self._acknowledged(outcome.sequence, epoch)
            raise outcome.refusal
        assert isinstance(outcome, TransactionAnswer)
        return outcome._replace(acknowledged_by=await self._acknowledged(outcome.position.sequence, epoch))

    async def declare(self, declaration: TableDeclaration) -> DeclaredTable:
        """Make a table, or find it as declared. Raises Rejected, Unavailable or Halted."""
        epoch = self._permits.permit()
        outcome = await self._wait_for(_QueuedWrite(declaration))
        assert isinstance(outcome, DeclaredTable)
        await self._acknowledged(outcome.position.sequence, epoch)
        return outcome

    async def _acknowledged(self, sequence: int, epoch: int) -> int | None:
        """Wait for the other regions; how many have the block, None where none is asked. The last look at the permit
        comes after everything else that takes time."""
        count = None
        if self._acknowledges is not None:
            self._unanswered += 1
            try:
                count = await self._acknowledges.wait(sequence, lambda: self._permits.left_seconds(epoch))
            finally:
                self._unanswered -= 1
        if not self._permits.holds(epoch):
            raise OutcomeUnknown("the right to write ended before it could be answered")
        return count

    async def _wait_for(self, ticket: _QueuedWrite) -> TransactionAnswer | TransactionRefusal | DeclaredTable:
        if not self._runs:
            raise _stopped()
        is_full = len(self._queue) >= QUEUE_REQUESTS or self._queue_bytes + ticket.bytes > QUEUE_BYTES
        if is_full or self._unanswered >= UNANSWERED:
            raise Rejected(
                "busy",
                "more requests wait than the ledger has room for",
                status=503,
                retry_after=1,
                cure="send again a little later; the same idempotency key makes that safe",
            )
        self._queue.append(ticket)
        self._queue_bytes += ticket.bytes
        self._arrived.set()
        await ticket.done.wait()  # who is cancelled here leaves the ticket: it is carried out as any other
        assert ticket.outcome is not None
        if isinstance(ticket.outcome, ReplicatorError):
            raise ticket.outcome
        return ticket.outcome

    async def _serve_group(self) -> None:
        await self._arrived.wait()
        group = self._take_group()
        refusal: ReplicatorError | None = None
        try:
            await trio.to_thread.run_sync(self._carry_out, group)
        except ReplicatorError as error:
            for ticket in group:  # those that have an outcome have it from the commit, which stands
                if ticket.outcome is None:
                    ticket.outcome = error
            if isinstance(error, Halted):
                raise
            refusal = error
        except BaseException:
            for ticket in group:
                ticket.outcome = ticket.outcome or _stopped()  # nobody is left waiting, whatever goes wrong
            raise
        finally:
            for ticket in group:
                ticket.done.set()
        self._report()
        if isinstance(refusal, Unavailable):
            self._on_waiting(refusal)

    def _report(self) -> None:
        if self._committer.committed is not None:
            self._on_committed(self._committer.committed)
        self._on_applied(self._committer.applied)

    def _take_group(self) -> list[_QueuedWrite]:
        """The requests that are committed together: some small ones, or one that is large or declares a table."""
        group: list[_QueuedWrite] = []
        size = 0
        while self._queue and len(group) < GROUP_REQUESTS:
            ticket = self._queue[0]
            alone = isinstance(ticket.what, TableDeclaration) or ticket.bytes > GROUP_BYTES
            # In the order of arrival, also past a small one that would fit: nobody is overtaken.
            if group and (alone or size + ticket.bytes > GROUP_BYTES):
                break
            group.append(self._queue.popleft())
            size += ticket.bytes
            if alone:
                break
        self._queue_bytes -= size
        if not self._queue:
            self._arrived = trio.Event()
        return group

    def _carry_out(self, group: list[_QueuedWrite]) -> None:
        """In the worker thread."""
        first = group[0].what
        if isinstance(first, TableDeclaration):
            try:
                group[0].outcome = self._committer.declare(first)
            except Rejected as error:
                group[0].outcome = error
            return
        bodies = [ticket.what for ticket in group if isinstance(ticket.what, bytes)]
        passing = {number for number, ticket in enumerate(group) if not ticket.remembers_refusal}
        for ticket, outcome in zip(group, self._committer.execute(bodies, passing), strict=True):
            ticket.outcome = outcome


def _stopped() -> Unavailable:
    return Unavailable(
        "ledger_stopped", "the ledger does not take requests now", cure="see the status; send again when it runs"
    )
