"""What is set aside in a strand, kept in step with replay's transactions.

Guarantee: a statement that is not applied is in the replica's quarantine when the position behind it is; what is set
aside in a transaction is stored in it, and forgotten with it. While anything is open, what has to wait behind it is set
aside, whatever the policy says now; the policy decides about refusals only.

``load`` before use, and again after every rollback. Non-goal: finding the statement that is refused (``one_by_one``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from replicator.errors import Halted, ReplicatorError
from replicator.format.block import Header
from replicator.format.definition import Definition, table_label
from replicator.format.statement import DEFINE, MESSAGE, TRUNCATE, Op, pack_statement
from replicator.pipeline.replay.blocked_keys import BlockedKeys, StatementKeys
from replicator.pipeline.replicas.base import Replica
from replicator.pipeline.replicas.quarantine import Place, QuarantineClosing, QuarantinedStatement

CURABLE = frozenset(("replica_refused_row", "replica_row_missing", "bad_row"))  # reasons that lie with one statement
HELD = "held"
MESSAGE_LIMIT_CHARACTERS = 1000
_NOTHING = [int(MESSAGE), "", b""]  # stands for a statement that was set aside, so that ordinals stay


log = logging.getLogger("replicator")


class QuarantinePolicy(NamedTuple):
    """Whether a statement that is refused is set aside (else it halts the strand), and how many may be."""

    sets_aside: bool = False
    limit: int = 10_000


HALTS = QuarantinePolicy()


class QuarantineSummary(NamedTuple):
    """What is open: how many statements, and how many keys wait by table label."""

    statements: int = 0
    keys: Mapping[str, int] = {}


def is_curable(error: ReplicatorError) -> bool:
    """Whether the error lies with one statement, and could go once something else is changed."""
    return error.reason in CURABLE


def _wall_us() -> int:
    return time.time_ns() // 1000


class Quarantine:
    """The quarantine of one strand, for the one thread that replays it; ``summary`` may be read from any."""

    def __init__(self, strand: str, policy: QuarantinePolicy = HALTS, now_us: Callable[[], int] = _wall_us) -> None:
        self._strand = strand
        self._policy = policy
        self._now_us = now_us
        self._blocked = BlockedKeys({})
        self._pending: dict[Place, QuarantinedStatement] = {}
        self._void: dict[Place, QuarantineClosing] = {}
        self._changed = False
        self._refused_count, self._first_refusal = 0, ""  # in this transaction: how many, and the first of them
        self.summary = QuarantineSummary()

    def load(self, replica: Replica, definitions: Mapping[int, Definition]) -> None:
        """Begin from what the replica has stored."""
        self._pending.clear()
        self._void.clear()
        self._refused_count, self._first_refusal = 0, ""
        self._blocked = BlockedKeys(definitions, replica.quarantine().open(self._strand))
        self._summarise()

    @property
    def has_open(self) -> bool:
        """Whether anything is open; if not, every statement may pass unasked."""
        return self._blocked.count > 0

    def accepts(self, error: ReplicatorError) -> bool:
        """Whether the statement that this error lies with is to be set aside."""
        return self._policy.sets_aside and is_curable(error)

    # -- statement by statement

    def without_blocked(self, header: Header, statements: Iterable[list[Any]], first: int = 0) -> Iterator[list[Any]]:
        """These statements of a block, from ordinal ``first``, for a batch that is done or undone as a whole: in the
        place of one that has to wait stands one that does nothing."""
        for ordinal, statement in enumerate(statements, first):
            if self._blocked.concerns(statement):
                if self.add_if_blocked(header, ordinal, statement):
                    statement = _NOTHING
                else:
                    self.note_done(header, ordinal, statement)
            yield statement

    def add_if_blocked(self, header: Header, ordinal: int, statement: list[Any]) -> bool:
        """Set the statement aside if it has to wait behind another one; whether it had to."""
        # A TRUNCATE never waits: after it, nothing that was set aside of its table matters any more.
        if statement[0] >= TRUNCATE or not self._blocked.concerns(statement):
            return False
        definition = self._blocked.definition(statement[1])
        if definition is None:
            return False  # the planner refuses it, as it does without a quarantine
        touched = self._blocked.touched(statement)
        behind = self._blocked.behind(definition.name, touched)
        if behind is None:
            return False
        message = f"waits behind sequence {behind[0]}, ordinal {behind[1]}, which is set aside"
        self._set_aside(header, ordinal, statement, definition, touched, HELD, message)
        return True

    def add_refused(self, header: Header, ordinal: int, statement: list[Any], error: ReplicatorError) -> None:
        """Set aside a statement that the replica refused. Raises the error where that cannot be."""
        definition = self._blocked.definition(statement[1]) if statement[0] <= TRUNCATE else None
        if definition is None or not self.accepts(error):
            raise error
        touched = self._blocked.touched(statement)
        self._set_aside(header, ordinal, statement, definition, touched, error.reason, error.message)
        self._refused_count += 1
        self._first_refusal = (
            self._first_refusal or f"sequence {header.sequence}, ordinal {ordinal}, {definition.label}: {error.message}"
        )

    def note_done(self, header: Header, ordinal: int, statement: list[Any]) -> None:
        """Take note of what is done: a DEFINE that changes what rows are read by, a TRUNCATE that makes void."""
        if statement[0] == DEFINE:
            self._blocked.define(statement)
        elif statement[0] == TRUNCATE and (definition := self._blocked.definition(statement[1])) is not None:
            why = f"the table was truncated at sequence {header.sequence}, ordinal {ordinal}"
            closing = QuarantineClosing("truncated", self._now_us(), "replay", why)
            for place in self._blocked.void(definition.name):
                self._close(place, closing)

    def _close(self, place: Place, closing: QuarantineClosing) -> None:
        self._changed = True
        pending = self._pending.get(place)
        if pending is None:
            self._void[place] = closing
        else:  # it has no row in the replica yet: it is written as closed
            outcome, at, by, why = closing
            self._pending[place] = pending._replace(outcome=outcome, closed_at=at, closed_by=by, closed_why=why)

    def _set_aside(
        self,
        header: Header,
        ordinal: int,
        statement: list[Any],
        definition: Definition,
        touched: StatementKeys,
        reason: str,
        message: str,
    ) -> None:
        if self._blocked.count >= self._policy.limit:
            raise _full(self._strand, header, self._blocked.count, reason, message)
        quarantined = QuarantinedStatement(
            header.sequence,
            ordinal,
            header.txid,
            statement[1],
            *definition.name,
            Op(statement[0]).name.lower(),
            touched.key,
            touched.before,
            pack_statement(statement),
            reason,
            message[:MESSAGE_LIMIT_CHARACTERS].replace("\x00", ""),  # PostgreSQL's text takes no NUL
            self._now_us(),
        )
        self._changed = True
        self._pending[quarantined.place] = quarantined
        self._blocked.add(definition.name, quarantined.place, touched)

    # -- transactions

    def store(self, replica: Replica) -> None:
        """Write down, in the replica's transaction, what was set aside and made void in it so far."""
        table = replica.quarantine()
        for place, closing in self._void.items():
            table.close(self._strand, [place], closing)
        table.add(self._strand, list(self._pending.values()))
        self._pending.clear()
        self._void.clear()

    def note_commit(self) -> None:
        """The transaction is durable: only now does the summary change, and the log tell what was refused in it."""
        if self._changed:
            self._summarise()
        if self._refused_count:
            message = "strand %s: %d statements were refused and set aside, %d are by now; the first of them: %s"
            log.warning(message, self._strand, self._refused_count, self._blocked.count, self._first_refusal)
            self._refused_count, self._first_refusal = 0, ""

    def _summarise(self) -> None:
        self._changed = False
        keys = {table_label(*name): count for name, count in self._blocked.keys().items()}
        self.summary = QuarantineSummary(self._blocked.count, keys)


def _full(strand: str, header: Header, count: int, reason: str, message: str) -> Halted:
    return Halted(
        "quarantine_full",
        f"{count:,} statements are set aside already, and one more would have to be: {message} [{reason}]",
        place=f"strand {strand}, sequence {header.sequence}",
        cure="cure what they were refused for, then replicator quarantine replay CONFIG; or raise [replay]"
        " quarantine_limit; then start the sidecar again",
    )
