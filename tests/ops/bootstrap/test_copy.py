"""A copy from each kind of replica into each: rows, places, sequences; interrupted behind any chunk; run is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from replicator.errors import Corrupt, Halted
from replicator.format.definition import Definition, pack_definition
from replicator.format.position import Position
from replicator.ops.bootstrap.target import CopyTarget
from replicator.pipeline.copies.partial_copy import HALF_COPY
from replicator.pipeline.copies.snapshot_reader import CopyReader, chunks
from replicator.pipeline.copies.wire import Chunk, CopyEnd, CopyStart, in_force, pack_chunk, unpack_chunk
from replicator.pipeline.replay.replayer import Replayer
from replicator.pipeline.replicas.base import Append, Define, SetSequence, TableChange
from replicator.pipeline.replicas.quarantine import QuarantinedStatement
from tests.contracts.replica_kinds import (
    STRAND,
    Kind,
    PostgresKind,
    SqliteKind,
    applied,
    apply,
    contents,
    row,
    table,
)

WALLETS = table([("id", "text"), ("amount", "numeric(12,2)"), ("seen", "timestamptz"), ("raw", "bytea")], ["id"])
OLD_WALLETS = table([("id", "text"), ("amount", "numeric(12,2)")], ["id"])
EVENTS = table([("what", "text"), ("weight", "float8")], [], name="events", namespace="audit")
KINDS = ["sqlite", "postgres"]


@pytest.fixture
def kind(tmp_path: Path, new_database: Callable[[], str]) -> Callable[[str], Kind]:
    made: list[Kind] = []

    def make(name: str) -> Kind:
        made.append(SqliteKind(tmp_path / f"{len(made)}.db") if name == "sqlite" else PostgresKind(new_database()))
        return made[-1]

    return make


def filled(source: Kind) -> CopyStart:
    """A replica with an evolved table, NULLs, odd values, a keyless table, a sequence; how a copy of it begins."""
    replica = source.replica()
    replica.open()
    wallets = [row(f"w{n:03}", f"{n}.50", "2026-01-02 03:04:05.000006+00", None) for n in range(23)]
    wallets += [row("odd", "-0.01", None, "\\x00ff"), row("é\t\\", None, "infinity", "\\x")]
    events = [row("up", "NaN"), row("up", "NaN"), row("down", "-0"), row("down", None)]
    places = [(3, 0), (3, 1), (7, 5), (9, 2)]
    definitions = [(1, OLD_WALLETS), (3, EVENTS), (2, WALLETS)]
    apply(
        replica,
        9,
        *(Define(relation, definition) for relation, definition in definitions),
        TableChange(WALLETS, (), (), (), wallets, ()),
        Append(EVENTS, events, places),
        SetSequence("public", "ids", 77, 1),
    )
    stands = replica.applied(STRAND)
    replica.close()
    assert stands is not None
    return CopyStart(
        "c1", stands.position, stands.committed_at, 0, [(r, pack_definition(d)) for r, d in definitions], 29
    )


def copied(source: Kind, begun: CopyStart, chunk_rows: int = 4) -> list[Chunk | CopyEnd]:
    """All that is sent, as it is read at the other end."""
    reader: CopyReader = source.reader()  # type: ignore[assignment]
    reader.snapshot()
    found = chunks(reader, dict(in_force(begun.definitions).values()), 9, reader.sequences, chunk_rows)
    sent = [unpack_chunk(pack_chunk(chunk), number) for number, chunk in enumerate(found, 1)]
    reader.close()
    return sent


def places(kind: Kind) -> list[tuple[object, ...]]:
    name = "audit.events" if isinstance(kind, PostgresKind) else '"audit.events"'
    return kind.execute(f"SELECT what, _sequence, _ordinal FROM {name} ORDER BY 2, 3")


def own_sequences(kind: Kind) -> list[tuple[object, ...]]:
    name = "replicator.sequence" if isinstance(kind, PostgresKind) else "_replicator_sequence"
    return kind.execute(f"SELECT * FROM {name}")


@pytest.mark.parametrize("target_name", KINDS)
@pytest.mark.parametrize("source_name", KINDS)
def test_the_copy_is_the_other_region_wherever_it_was_interrupted(
    kind: Callable[[str], Kind], source_name: str, target_name: str
) -> None:
    source, target = kind(source_name), kind(target_name)
    begun = filled(source)
    sent = copied(source, begun)
    assert len(sent) == 7 + 1 + 1
    filling = CopyTarget(target.replica(), begun)
    filling.open()
    filling.begin()
    for chunk in sent:
        filling.close()
        filling = CopyTarget(target.replica(), begun)  # as after a kill
        filling.open()
        assert filling.chunks == chunk.number - 1
        if isinstance(chunk, CopyEnd):
            filling.finish(chunk)
        else:
            filling.add(chunk)
    reader = target.reader()
    stands = reader.applied(STRAND)
    assert stands is not None
    assert (stands.position, stands.blocks) == (begun.position, 9)
    reader.close()
    filling.clear()
    filling.close()
    for name in ("wallets", "audit.events"):
        assert contents(target, name) == contents(source, name)
    assert places(target) == places(source), "rows without a key keep their places"
    assert own_sequences(target) == [("public", "ids", 77, 1)]
    reader = target.reader()
    assert reader.applied(HALF_COPY) is None
    reader.close()
    replica = target.replica()
    replica.open()
    assert replica.definitions(STRAND) == {1: OLD_WALLETS, 2: WALLETS, 3: EVENTS}
    apply(replica, 10, TableChange(WALLETS, (), (), (), (), [row("odd", "1.00", None, None)]))
    assert replica.drifted_rows == 0, "what follows meets the rows that it expects"
    replica.close()


@pytest.mark.parametrize("name", KINDS)
def test_half_a_copy_has_no_position_and_is_not_replayed_into(kind: Callable[[str], Kind], name: str) -> None:
    source, target = kind("sqlite"), kind(name)
    begun = filled(source)
    filling = CopyTarget(target.replica(), begun)
    filling.open()
    filling.begin()
    first = copied(source, begun)[0]
    assert isinstance(first, Chunk)
    filling.add(first)
    filling.close()
    reader = target.reader()
    assert reader.applied(STRAND) is None
    reader.close()
    replica = target.replica()
    with pytest.raises(Halted) as caught:
        Replayer(_NoJournal(), replica, STRAND, 1, 1).open()  # type: ignore[arg-type]
    replica.close()
    assert caught.value.reason == "half_copied"
    assert "replicator bootstrap" in caught.value.cure


class _NoJournal:
    """It is not asked."""


@pytest.mark.parametrize("name", KINDS)
def test_another_copy_removes_the_half_one_and_what_was_there(kind: Callable[[str], Kind], name: str) -> None:
    source, target = kind("sqlite"), kind(name)
    begun = filled(source)
    old = target.replica()
    old.open()
    apply(old, 5, Define(1, OLD_WALLETS), TableChange(OLD_WALLETS, (), (), (), [row("gone", "9.00")], ()))
    old.close()
    old.open()
    old.begin()
    refused = QuarantinedStatement(5, 0, "t", 1, "public", "wallets", "INSERT", ("x",), None, b"", "refused", "why", 1)
    old.quarantine().add(STRAND, [refused])
    old.commit(applied(5))
    old.close()
    for attempt in ("c1", "c2"):
        filling = CopyTarget(target.replica(), begun._replace(copy=attempt))
        filling.open()
        filling.begin()
        assert contents(target) == []
        first = copied(source, begun)[0]
        assert isinstance(first, Chunk)
        filling.add(first)
        filling.close()
    assert len(contents(target)) == 4
    reader = target.reader()
    assert reader.quarantine().open(STRAND) == []
    assert [one.closed_by for one in reader.quarantine().closed(STRAND, 10)] == ["bootstrap"]
    reader.close()


def test_what_does_not_fit_is_refused(kind: Callable[[str], Kind]) -> None:
    source, target = kind("sqlite"), kind("sqlite")
    begun = filled(source)
    sent = copied(source, begun)
    filling = CopyTarget(target.replica(), begun)
    filling.open()
    filling.begin()
    first, second = sent[0], sent[1]
    assert isinstance(first, Chunk)
    assert isinstance(second, Chunk)
    for wrong in (second, first._replace(relation=1), first._replace(places=[(1, 1)] * 4), first._replace(relation=9)):
        with pytest.raises(Corrupt):
            filling.add(wrong)
    filling.add(first)
    with pytest.raises(Corrupt, match="4 rows came, there are 29"):
        filling.finish(CopyEnd(2, 29, []))
    filling.close()


def test_a_row_without_a_place_gets_a_running_number() -> None:
    class Primary:
        """A PostgreSQL primary keeps no places."""

        def placed_rows(self, table: str) -> list[tuple[list[str | None], None]]:
            return [(["up", None], None), (["down", "1"], None)]

    definitions: dict[int, Definition] = {3: EVENTS}
    found = list(chunks(Primary(), definitions, 42, list, 1))  # type: ignore[arg-type]
    assert [chunk.places for chunk in found if isinstance(chunk, Chunk)] == [[(42, 0)], [(42, 1)]]
    assert found[-1] == CopyEnd(3, 2, [])
    assert Position(STRAND, 1, 42, b"\0" * 32).sequence < 43, "later inserts have later sequences"
