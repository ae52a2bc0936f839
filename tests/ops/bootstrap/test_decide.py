"""What bootstrap does with what it finds; what survives a kill; what travels."""

from __future__ import annotations

from pathlib import Path

import msgpack
import pytest

from replicator.errors import Corrupt, Halted
from replicator.format.definition import Column, Definition, pack_definition
from replicator.format.position import Position
from replicator.ops.bootstrap.decide import CopyDecision, RegionContents, decide
from replicator.pipeline.copies.partial_copy import (
    PartialCopy,
    mark_of,
    read_half,
    refuse_half,
    refuse_marked,
    remove_half,
    write_half,
)
from replicator.pipeline.copies.wire import (
    Chunk,
    CopyEnd,
    CopyStart,
    pack_begun,
    pack_chunk,
    unpack_begun,
    unpack_chunk,
)
from replicator.pipeline.replicas.base import SetSequence
from replicator.storage.data_dir import DataDir

HERE = Position("main", 1, 50, b"\x01" * 32)
THERE = Position("main", 1, 90, b"\x02" * 32)
TABLE = Definition("public", "t", (Column("id", "int8", "binary"),), ("id",))
BEGUN = CopyStart("c1", THERE, 5, 6, [(1, pack_definition(TABLE))], 100)
HALF = PartialCopy("http://paris:7400", BEGUN, 5000)
MARK = mark_of(BEGUN, 3, 30)
OTHER_MARK = mark_of(BEGUN._replace(copy="c2"), 3, 30)


@pytest.mark.parametrize(
    ("found", "replace", "expected"),
    [
        (RegionContents(None, None, None, None), False, CopyDecision.BEGIN),
        (RegionContents(None, None, None, None), True, CopyDecision.BEGIN),
        (RegionContents(None, HERE, HERE, None), True, CopyDecision.REPLACE),
        (RegionContents(None, None, HERE, None), True, CopyDecision.REPLACE),  # killed while it was set aside
        (RegionContents(None, None, None, MARK), False, CopyDecision.ANEW),  # the moment is gone
        (RegionContents(HALF, None, None, None), False, CopyDecision.ANEW),  # killed before its first transaction
        (RegionContents(HALF, None, HERE, None), False, CopyDecision.ANEW),  # the same, of what is replaced
        (
            RegionContents(HALF, None, THERE, None),
            False,
            CopyDecision.ANEW,
        ),  # what is replaced happens to stand where the copy will
        (RegionContents(HALF, None, None, OTHER_MARK), False, CopyDecision.ANEW),
        (RegionContents(HALF, None, None, MARK), False, CopyDecision.RESUME),
        (RegionContents(HALF, None, THERE, MARK), False, CopyDecision.FINISH),
        (RegionContents(HALF, THERE, THERE, MARK), False, CopyDecision.FINISH),  # the journal was just begun
    ],
)
def test_the_way(found: RegionContents, replace: bool, expected: CopyDecision) -> None:
    assert decide(found, replace=replace) is expected


def test_another_region_that_is_named_is_copied_from_the_beginning() -> None:
    found = RegionContents(HALF, None, None, MARK)
    assert decide(found, replace=False, source="http://lima:7400") is CopyDecision.ANEW
    assert decide(found, replace=False, source=HALF.url) is CopyDecision.RESUME
    whole = RegionContents(HALF, None, THERE, MARK)
    assert decide(whole, replace=False, source="http://lima:7400") is CopyDecision.FINISH


@pytest.mark.parametrize("found", [RegionContents(None, HERE, HERE, None), RegionContents(None, HERE, None, None)])
def test_data_is_never_replaced_unasked(found: RegionContents) -> None:
    with pytest.raises(Halted) as caught:
        decide(found, replace=False)
    assert caught.value.reason == "region_has_data"
    assert "--replace" in caught.value.cure


def test_half_a_copy_survives_and_keeps_the_region_from_running(tmp_path: Path) -> None:
    assert read_half(DataDir(tmp_path)) is None
    refuse_half(DataDir(tmp_path))
    write_half(DataDir(tmp_path), HALF)
    assert read_half(DataDir(tmp_path)) == HALF
    with pytest.raises(Halted, match="not whole yet"):
        refuse_half(DataDir(tmp_path))
    remove_half(DataDir(tmp_path))
    remove_half(DataDir(tmp_path))
    refuse_half(DataDir(tmp_path))
    (tmp_path / "copy.json").write_text('{"from": 1}')
    with pytest.raises(Halted) as caught:
        read_half(DataDir(tmp_path))
    assert caught.value.reason == "copy_unreadable"


def test_a_mark_keeps_the_replica_from_being_replayed_into() -> None:
    refuse_marked(None, None)
    refuse_marked(MARK, MARK)
    with pytest.raises(Halted, match="3 chunks, 30 rows"):
        refuse_marked(MARK, None)


def test_what_travels_comes_back() -> None:
    assert unpack_begun(pack_begun(BEGUN)) == BEGUN
    keyed, keyless = Chunk(4, 1, [b"a", b"b"], None), Chunk(5, 1, [b"a"], [(90, 0)])
    last = CopyEnd(6, 3, [SetSequence("public", "s", 7, 1)])
    for chunk in (keyed, keyless, last):
        assert unpack_chunk(pack_chunk(chunk), chunk.number) == chunk


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgpack.packb([4, 1, ["text"], None]),
        msgpack.packb([4, 1, [b"a", b"b"], [[1, 1]]]),
        msgpack.packb([4, 1, [b"a"], [1]]),
        msgpack.packb([5, 1, [b"a"], None]),
        msgpack.packb([4, 0, 1, [["public", "s", "7", 1]]]),
        msgpack.packb([4, 0, 1, [["public"]]]),
        msgpack.packb({"a": 1}),
    ],
)
def test_what_is_no_chunk_is_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt):
        unpack_chunk(data, 4)


@pytest.mark.parametrize("data", [b"", b"\xc1", msgpack.packb([1]), msgpack.packb({"copy": "x"})])
def test_what_is_no_copy_is_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt):
        unpack_begun(data)
