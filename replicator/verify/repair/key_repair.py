"""Repair: given keys of the replica, set to what the journal says, in one transaction.

Guarantee: nothing is changed unless it was asked for; then only keys whose stored row differs from what the journal
says at the very position where the replica stands, and the values that are replaced are in a report on disk, synced,
before the first of them is. What is written is found in the journal itself, which is read for it from its beginning on:
an index that lost an entry would bring an old row back. A key is left alone whose last change is no longer in the
journal, or where the journal says what is stored already: then it is the primary that differs from its own history.

A report of a repair that was killed says so (``"applied": false``): whether its change was made is what the next dry
run tells. Tables without a key are compared as a whole, place by place, because their rows have no other name.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import trio

from replicator.errors import Rejected, Unavailable
from replicator.format.position import Position, genesis
from replicator.format.statement import statement_runs
from replicator.ledger.presentation import show_time
from replicator.pipeline.replay.loop import ReplayLoop
from replicator.pipeline.replicas.base import AppliedMark, Replica
from replicator.pipeline.replicas.keys import checked_key
from replicator.storage.atomic_file import replace_file, sync_directory
from replicator.storage.data_dir import DataDir
from replicator.storage.journal.store import Journal
from replicator.verify.repair.compare_and_set import ComparedKey, compare, write
from replicator.verify.repair.expected_row import ExpectedRows, TableVersions
from replicator.verify.repair.gathered_places import GatheredPlaces, NotGathered
from replicator.verify.repair.images import Place, pack_texts, place_key, unpack_texts
from replicator.verify.repair.touched_keys import TouchedKeys

KEYS_LIMIT = 10_000
CHUNK_KEYS = 500
SCAN_BYTES = 1 << 18
INDEX_BLOCKS = 2000  # that may be indexed while replay waits

T = TypeVar("T")
Named = tuple[str, Sequence[str]]  # a table's label, and a key's canonical texts
Fields = dict[str, Any]


class KeyRepair:
    """Repairs the replica of one strand. The reports go to ``data_dir``."""

    def __init__(
        self, journal: Journal, expected_rows: ExpectedRows, replay: ReplayLoop, strand: str, data_dir: DataDir
    ) -> None:
        self._journal = journal
        self._by_index = self._expected_rows = expected_rows
        self._gathered = GatheredPlaces(journal, strand)
        self._replay = replay
        self._strand = strand
        self._data_dir = data_dir
        self._repairing = trio.Lock()  # ``expected_rows`` are not for two at a time

    async def repair(self, keys: Sequence[Named], keyless: Sequence[str], who: str, *, apply: bool) -> Fields:
        """Compare the keys, and all rows of the tables ``keyless``, with the journal; write what differs if ``apply``.

        Raises Rejected (a table that is not there, too many keys), Unavailable or Halted.
        """
        async with self._repairing:
            # What is only shown may be judged by the index; what is written is judged by the journal itself.
            self._expected_rows = ExpectedRows(self._journal, self._gathered, self._strand) if apply else self._by_index
            try:
                return await self._repair(keys, keyless, who, apply=apply)
            finally:
                self._expected_rows = self._by_index
                self._gathered.forget()

    async def _repair(self, keys: Sequence[Named], keyless: Sequence[str], who: str, *, apply: bool) -> Fields:
        canonical = await self._replay.between_steps(functools.partial(self._canonical_keys, keys=keys))
        for table in keyless:
            canonical += await self._differing_places(table, KEYS_LIMIT - len(canonical))
        if len(canonical) > KEYS_LIMIT:
            raise _too_many()
        self._gathered.want((label, key) for label, key in canonical if label not in keyless)
        await self._between_steps(lambda replica: self._compared(replica, canonical))  # reads the journal ahead
        work = functools.partial(self._compare_and_write, keys=canonical, who=who, apply=apply)
        return await self._between_steps(work)

    async def _between_steps(self, work: Callable[[Replica], T]) -> T:
        """``work`` between two steps, once the index is so near that the rest of it takes no time."""

        def reached(replica: Replica, _: AppliedMark) -> tuple[T] | int | NotGathered:
            sequence = _position(replica, self._strand).sequence
            if sequence - self._expected_rows.indexed() > INDEX_BLOCKS:
                return sequence
            self._expected_rows.reach(sequence)
            try:
                return (work(replica),)
            except NotGathered as error:
                replica.rollback()
                return error

        while True:
            result = await self._replay.between_steps(reached)
            if isinstance(result, tuple):
                return result[0]
            if isinstance(result, NotGathered):  # a row came from another key, whose past is part of its own
                self._gathered.want([result.key])
            else:
                await trio.to_thread.run_sync(self._expected_rows.reach, result)

    # -- between two steps

    def _compare_and_write(
        self, replica: Replica, keys: Sequence[tuple[str, bytes]], who: str, *, apply: bool
    ) -> Fields:
        if not apply:
            return self._report(replica, self._compared(replica, keys), who)
        replica.begin()  # what is read now stays so until it is replaced
        compared = self._compared(replica, keys)
        report = self._report(replica, compared, who)
        applied = replica.applied(self._strand)
        differing = [key for key in compared if key.differs]
        if applied is None or not differing:
            replica.rollback()
            return report
        path = self._data_dir.repair_report(report["when"])
        _store(path, report)  # first: what is replaced must not be lost, whatever happens from here on
        write(replica, self._strand, differing)
        replica.commit(applied)
        report = {**report, "applied": True, "report": str(path)}
        with contextlib.suppress(Unavailable):  # what was replaced is on disk already
            _store(path, report)
        return report

    def _report(self, replica: Replica, compared: Sequence[ComparedKey], who: str) -> Fields:
        return {
            "position": str(_position(replica, self._strand)),
            "when": show_time(time.time_ns() // 1000),
            "who": who,
            "applied": False,
            "report": None,
            "keys": [_key_fields(key) for key in compared],
        }

    def _canonical_keys(self, replica: Replica, _: AppliedMark, keys: Sequence[Named]) -> list[tuple[str, bytes]]:
        """The keys in canonical form: a person may write 01 for 1. What is not of the key's type is taken as it is, for
        somebody may have stored such a thing."""
        tables = self._expected_rows.tables(replica.definitions(self._strand))
        canonical = []
        for label, texts in keys:
            table = _table(tables, label)
            with contextlib.suppress(Rejected):
                texts = [text for _, text in checked_key(table.definition, texts)]
            if len(texts) != len(table.stored.key):
                names = ", ".join(table.stored.key)
                raise Rejected("bad_key", f"a key of {label} is {names}", status=422, place=f"table {label}")
            canonical.append((label, pack_texts(texts)))
        return canonical

    def _compared(self, replica: Replica, keys: Sequence[tuple[str, bytes]]) -> list[ComparedKey]:
        tables = self._expected_rows.tables(replica.definitions(self._strand))
        sequence = _position(replica, self._strand).sequence
        expected = []
        for label, key in dict.fromkeys(keys):
            table = _table(tables, label)
            place = self._expected_rows.last_place(table, key, sequence)
            expected.append((table, key, self._expected_rows.right(table, key, place)))
        return compare(replica, expected)

    # -- tables without a key

    async def _differing_places(self, label: str, limit: int) -> list[tuple[str, bytes]]:
        """The places of a keyless table at which replica and journal differ: candidates, looked at again later."""
        differing: list[tuple[str, bytes]] = []

        async def look(keys: list[tuple[str, bytes]]) -> None:
            compared = await self._between_steps(lambda replica: self._compared(replica, keys))
            differing.extend((label, key.key) for key in compared if key.differs)
            if len(differing) > limit:
                raise _too_many()

        # Once over what the replica stores, which finds rows that should not be there; once over what the journal has
        # inserted, which finds those that are missing.
        after: bytes | None = None
        while keys := await self._replay.between_steps(functools.partial(self._stored, label=label, after=after)):
            await look([(label, key) for key in keys])
            after = keys[-1]
        begun, until = await self._replay.between_steps(lambda replica, _: self._span(replica, label))
        inserted = self._inserted(label, begun, until)
        while (places := await trio.to_thread.run_sync(next, inserted, None)) is not None:
            for at in range(0, len(places), CHUNK_KEYS):
                await look([(label, place_key(place)) for place in places[at : at + CHUNK_KEYS]])
        return list(dict.fromkeys(differing))

    def _stored(self, replica: Replica, _: AppliedMark, label: str, after: bytes | None) -> list[bytes]:
        table = _table(self._expected_rows.tables(replica.definitions(self._strand)), label)
        if table.definition.key:
            raise Rejected("has_key", "the table has a key: name its keys", status=422, place=f"table {label}")
        return replica.stored_keys(table.stored, after, CHUNK_KEYS)

    def _span(self, replica: Replica, label: str) -> tuple[int, int]:
        """Where the table's rows begin in the journal, and where the replica stands."""
        sequence = _position(replica, self._strand).sequence
        self._expected_rows.reach(sequence)
        table = _table(self._expected_rows.tables(replica.definitions(self._strand)), label)
        truncated = self._expected_rows.last_truncate(table, sequence)
        return (truncated[0] - 1 if truncated else self._journal.base(self._strand).sequence), sequence

    def _inserted(self, label: str, after: int, until: int) -> Iterator[list[Place]]:
        """The places of the rows that were inserted behind ``after``, up to and with ``until``."""
        touched = TouchedKeys(self._journal.definitions(self._strand), frozenset([label]))
        parts = functools.partial(self._journal.parts, self._strand)
        while after < until and (blocks := self._journal.blocks(self._strand, after, SCAN_BYTES)):
            after = blocks[-1].header.sequence
            wanted = [block for block in blocks if block.header.sequence <= until]
            for sequence, ordinal, statements in statement_runs(wanted, parts):
                touched.add(sequence, statements, ordinal)
                if len(touched.keys) >= CHUNK_KEYS:
                    yield list(touched.keys.values())
                    touched.clear()
        yield list(touched.keys.values())


def _position(replica: Replica, strand: str) -> Position:
    applied = replica.applied(strand)
    return applied.position if applied else genesis(strand)


def _table(tables: dict[str, TableVersions], label: str) -> TableVersions:
    if label not in tables:
        raise Rejected("unknown_table", "the replica has no such table", status=404, place=f"table {label:.200}")
    return tables[label]


def _too_many() -> Rejected:
    return Rejected(
        "too_many_keys",
        f"more than {KEYS_LIMIT:,} keys differ",
        status=422,
        cure="replicator resync CONFIG --from TIME, a time before they came to differ; or make the region anew",
    )


def _key_fields(compared: ComparedKey) -> Fields:
    """A key for people: what is stored, what the journal says and where, and what that means."""
    names = [column.name for column in compared.table.stored.columns]
    right, header = compared.right, compared.right.header
    state = "unknown" if right.unknown else "differs" if compared.differs else "agrees"
    return {
        "table": compared.table.label,
        "key": dict(zip(compared.table.stored.key, unpack_texts(compared.key), strict=True)),
        "state": state,
        "before": _named(names, compared.before),
        "written": _named(names, right.row),
        "why": right.unknown,
        "block": None
        if header is None or right.place is None
        else {
            "sequence": right.place[0],
            "ordinal": right.place[1],
            "transaction": header.txid,
            "committed_at": show_time(header.committed_at),
        },
    }


def _named(names: Sequence[str], row: Sequence[str | None] | None) -> dict[str, str | None] | None:
    return None if row is None else dict(zip(names, row, strict=True))


def _store(path: Path, report: Fields) -> None:
    """Write the file and make it durable, itself and its name."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, [json.dumps(report, indent=2)])
        sync_directory(path.parent.parent)
    except OSError as error:
        cure = "free disk space, or mend the directory's rights; then repair again"
        raise Unavailable("report_unwritable", f"the report: {error.strerror}", place=str(path), cure=cure) from error
