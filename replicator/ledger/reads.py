"""Reads, the same in every region, whatever the source and the replica.

Guarantee: each answer names a position, and is at least as new as that position. Whoever read or wrote at a position
anywhere gets an answer at least as new as it here (``after``), or is told that it is not there yet, or that its history
is not this region's. What is asked of one table is read in one moment; a user's rows of all tables are too, so no half
of a block is ever shown. The past comes from the journal's index and is refused while the index is behind.

Readers are few and pooled; reading happens in worker threads.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import trio

from replicator.errors import Rejected, Unavailable
from replicator.format.definition import Definition
from replicator.format.position import Position, genesis
from replicator.ledger.key_past import KeyPast, PastIndex
from replicator.ledger.presentation import Content, describe, key_texts, show_document, show_time, show_version
from replicator.pipeline.replicas.base import Reader
from replicator.pipeline.replicas.keys import checked_key, unknown_table

READERS = 8
PAGE_LIMIT = 1000
INDEX_POLL_SECONDS = 0.02
T = TypeVar("T")


class ReadJournal(Protocol):
    """What is asked of the region's journal."""

    def position_at(self, strand: str, sequence: int) -> Position | None: ...
    def sequence_before(self, strand: str, time: int) -> int: ...


class Freshness(NamedTuple):
    """What the answer has to be as new as, and how long that may take."""

    position: Position
    timeout_seconds: float


class ReadAnswer(NamedTuple):
    """An answer and the position that it is at least as new as."""

    position: Position
    content: Content


class Reads:
    """The reads of one strand in one region.

    ``wait_applied(position, timeout_seconds)`` gives whether the region has applied the position's sequence in time;
    ``history`` is None where the region keeps no index of the past. ``known_until`` gives the time by the ledger's
    clock, µs since 1970, before which everything that was committed is in the journal; None: not known.
    """

    def __init__(
        self,
        strand: str,
        new_reader: Callable[[], Reader],
        chain: ReadJournal,
        history: PastIndex | None,
        wait_applied: Callable[[Position, float], Awaitable[bool]],
        known_until: Callable[[], int | None],
    ) -> None:
        self._strand = strand
        self._new_reader = new_reader
        self._chain = chain
        self._history = history
        self._wait_applied = wait_applied
        self._known_until = known_until
        self._idle: list[Reader] = []
        self._limiter = trio.CapacityLimiter(READERS)

    def close(self) -> None:
        """Let go of the pooled readers."""
        with contextlib.suppress(IndexError):  # other threads take from it and give back
            while True:
                self._idle.pop().close()

    # -- what can be asked

    async def tables(self, after: Freshness | None) -> ReadAnswer:
        """The tables."""
        return await self._read(after, lambda reader: {"tables": [describe(table) for table in reader.tables()]})

    async def table(self, table: str, after: Freshness | None) -> ReadAnswer:
        """One table."""
        return await self._read(after, lambda reader: describe(_definition(reader, table)))

    async def document(self, table: str, key: Sequence[str], after: Freshness | None) -> ReadAnswer:
        """A document or row by its key."""

        def read(reader: Reader) -> Content:
            document = reader.document(table, key)
            if document is None:
                raise no_document(table, key)
            return show_document(document)

        return await self._read(after, read)

    async def as_of(
        self, table: str, key: Sequence[str], moment: int | datetime.datetime, after: Freshness | None
    ) -> ReadAnswer:
        """A document as of a sequence or a time: after every block up to it."""

        history = self._history
        known_until = self._known_until()  # first: what was committed before that is in the journal by now

        def read(past: KeyPast, indexed: Position) -> ReadAnswer:
            sequence = self._sequence_of(moment, known_until)
            if sequence > indexed.sequence:
                raise _not_indexed(sequence, indexed, is_exact=isinstance(moment, int))
            begins = history.begins_behind(self._strand) if history else 0
            version = past.as_of(sequence) if sequence >= begins else None
            # Without a change from the beginning on, whether there was a row before it is not known here.
            if version is None and begins:
                raise _before_journal(sequence, begins)
            if version is None or version.row is None:
                raise no_document(table, key)
            position = self._chain.position_at(self._strand, sequence) or indexed
            return ReadAnswer(position, {"table": table, **show_version(version)})

        return await self._read_past(table, key, after, read)

    async def history(
        self, table: str, key: Sequence[str], limit: int, before: tuple[int, int] | None, after: Freshness | None
    ) -> ReadAnswer:
        """The changes of a key, newest first; ``next`` is the cursor of the next page. Where the journal's beginning
        has been pruned, ``begins_behind`` is the sequence up to which changes are not shown any more."""
        index = self._history

        def read(past: KeyPast, indexed: Position) -> ReadAnswer:
            versions = past.versions(before, limit)
            content: Content = {"table": table, "changes": [show_version(version) for version in versions]}
            last = versions[-1].entry if len(versions) == limit else None
            content["next"] = f"{last.sequence}.{last.ordinal}" if last else None
            if index is not None and (begins := index.begins_behind(self._strand)):
                content["begins_behind"] = begins
            return ReadAnswer(indexed, content)

        return await self._read_past(table, key, after, read)

    async def of_user(
        self, table: str, user: str, limit: int, behind: Sequence[str] | None, after: Freshness | None
    ) -> ReadAnswer:
        """A user's documents in a table, in key order; ``next`` is the key of the last, if there may be more."""

        def read(reader: Reader) -> Content:
            definition = _definition(reader, table)
            if definition.user is None:
                raise Rejected("no_user", "the table names no user field", status=404, place=f"table {table}")
            return _page_of_user(reader, definition, user, limit, behind)

        return await self._read(after, read)

    async def of_user_everywhere(self, user: str, limit: int, after: Freshness | None) -> ReadAnswer:
        """A user's documents in all tables, in one moment; at most ``limit`` a table."""

        def read(reader: Reader) -> Content:
            tables = [definition for definition in reader.tables() if definition.user is not None]
            return {"user": user, "tables": [_page_of_user(reader, each, user, limit, None) for each in tables]}

        return await self._read(after, read, snapshot=True)

    # -- how it is read

    async def _read(
        self, after: Freshness | None, read: Callable[[Reader], Content], snapshot: bool = False
    ) -> ReadAnswer:
        await self.reach(after)

        def in_thread() -> ReadAnswer:
            return self._with_snapshot(answer) if snapshot else self._with_reader(answer)

        def answer(reader: Reader) -> ReadAnswer:
            applied = reader.applied(self._strand)  # first: what is read after it is as new or newer
            return ReadAnswer(applied.position if applied else genesis(self._strand), read(reader))

        return await trio.to_thread.run_sync(in_thread, limiter=self._limiter)

    async def _read_past(
        self, table: str, key: Sequence[str], after: Freshness | None, read: Callable[[KeyPast, Position], ReadAnswer]
    ) -> ReadAnswer:
        history = self._history
        if history is None:
            message = "this region keeps no index of the past"
            raise Rejected("no_history", message, status=404, cure="turn history on in [replay], or ask another region")
        await self.reach(after)
        await self._reach_index(history, after)

        def in_thread() -> ReadAnswer:
            canonical = self._with_reader(
                lambda reader: [text for _, text in checked_key(_definition(reader, table), key)]
            )
            sequence = history.indexed(self._strand)  # before the entries are read: what is found is at least as new
            indexed = self._chain.position_at(self._strand, sequence) or genesis(self._strand)
            return read(KeyPast(history, self._strand, table, canonical), indexed)

        return await trio.to_thread.run_sync(in_thread, limiter=self._limiter)

    async def reach(self, after: Freshness | None) -> None:
        """Wait until the region has what the caller has seen. Raises Rejected: not in time, or of another history."""
        if after is None:
            return
        position = after.position
        if position.strand != self._strand:
            message = f"the position is of strand {position.strand!r}, this is {self._strand!r}"
            raise Rejected("other_strand", message, status=400, place="after")
        if not await self._wait_applied(position, after.timeout_seconds):
            raise _not_yet(position, after.timeout_seconds)
        # Applied up to that sequence is not enough: it may be another chain's block that stands there.
        own = await trio.to_thread.run_sync(self._chain.position_at, self._strand, position.sequence)
        if own is not None and own != position:
            raise Rejected(
                "diverged",
                f"this region's history has another block at sequence {position.sequence}",
                status=409,
                place="after",
                cure="the position was read where history went another way, before a failover say: read anew",
            )

    async def _reach_index(self, history: PastIndex, after: Freshness | None) -> None:
        """The index follows right behind replay and gives no signal: it is asked now and then."""
        if after is None:
            return
        with trio.move_on_after(after.timeout_seconds):
            while True:
                if await trio.to_thread.run_sync(history.indexed, self._strand) >= after.position.sequence:
                    return
                await trio.sleep(INDEX_POLL_SECONDS)
        raise _not_yet(after.position, after.timeout_seconds)

    def _sequence_of(self, moment: int | datetime.datetime, known_until: int | None) -> int:
        """The last block of the moment. Raises Rejected if another one may yet come."""
        if isinstance(moment, int):
            return moment
        # Up to and with the moment: what lies before the first block of the microsecond after it.
        elapsed = moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
        end = elapsed // datetime.timedelta(microseconds=1) + 1
        sequence = self._chain.sequence_before(self._strand, end)
        if known_until is not None and known_until >= end:
            return sequence
        if self._chain.position_at(self._strand, sequence + 1) is None:
            raise _not_known_yet(known_until)
        return sequence  # a later block is here, and whatever comes now stands behind it

    def _with_reader(self, use: Callable[[Reader], T]) -> T:
        """Use a pooled reader. One that lay idle may have lost its database meanwhile: then all are let go, and a new
        one is asked."""
        try:
            reader = self._idle.pop()
        except IndexError:
            return self._use(self._new_reader(), use)
        try:
            return self._use(reader, use)
        except Unavailable:
            self.close()
            return self._use(self._new_reader(), use)

    def _use(self, reader: Reader, use: Callable[[Reader], T]) -> T:
        try:
            result = use(reader)
        except Rejected:  # the question's fault: the reader is as good as before
            self._idle.append(reader)
            raise
        except BaseException:
            reader.close()
            raise
        self._idle.append(reader)
        return result

    def _with_snapshot(self, use: Callable[[Reader], T]) -> T:
        with contextlib.closing(self._new_reader()) as reader:  # not pooled: its snapshot would outlive the question
            reader.snapshot()
            return use(reader)


def no_document(table: str, key: Sequence[str]) -> Rejected:
    """There is nothing under this key."""
    place = f"table {table}, key {', '.join(key)}"[:300]
    return Rejected("no_document", "there is no document of this key", status=404, place=place)


def _definition(reader: Reader, table: str) -> Definition:
    for definition in reader.tables():
        if definition.label == table:
            return definition
    raise unknown_table(table)


def _page_of_user(
    reader: Reader, definition: Definition, user: str, limit: int, behind: Sequence[str] | None
) -> Content:
    documents = reader.of_user(definition.label, user, limit, behind)
    content: Content = {"table": definition.label, "documents": [show_document(document) for document in documents]}
    has_more = len(documents) == limit
    # Without a key there is nothing to go on behind.
    content["next"] = key_texts(documents[-1]) if has_more and definition.key else None
    if has_more and not definition.key:
        content["more"] = True
    return content


def _not_indexed(sequence: int, indexed: Position, *, is_exact: bool) -> Rejected:
    return Rejected(
        "not_there_yet",
        f"sequence {sequence} is not in this region's index yet, which is at {indexed.sequence}",
        status=409 if is_exact else 503,
        retry_after=1,
        place="as_of",
        cure="ask with after=<position>, or a little later",
    )


def _not_known_yet(known_until: int | None) -> Rejected:
    known = "not known" if known_until is None else f"known up to {show_time(known_until)}"
    return Rejected(
        "not_there_yet",
        f"what was committed until then is not all here yet: here the ledger is {known}",
        status=503,
        retry_after=1,
        place="as_of",
        cure="ask a little later, or for an earlier time",
    )


def _before_journal(sequence: int, begins: int) -> Rejected:
    return Rejected(
        "before_journal",
        f"what stood here after sequence {sequence} is not known: this region's journal begins behind {begins}, and"
        " shows no change of the key from there up to that sequence",
        status=410,
        place="as_of",
        cure="ask a region that keeps its journal longer ([journal] keep_age)",
    )


def _not_yet(position: Position, seconds: float) -> Rejected:
    return Rejected(
        "not_applied_yet",
        f"this region has not applied sequence {position.sequence} within {seconds:g} s",
        status=503,
        retry_after=1,
        place="after",
        cure="send again, allow a longer timeout, or look at the region's lag",
    )
