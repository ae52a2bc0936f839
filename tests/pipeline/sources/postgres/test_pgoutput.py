"""The assembler on messages made by hand: the malformed is refused, the large is cut, the old is dropped."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import Halted
from replicator.format.block import BlockPart, Draft
from replicator.format.definition import Column, Definition
from replicator.format.row import pack_row
from replicator.format.statement import unpack_statements
from replicator.pipeline.sources.postgres.pgoutput import Assembler, StreamTable, Unresolved
from replicator.pipeline.sources.postgres.reread import Reread, Sent

OID = 77
KEYED = Definition("public", "t", (Column("id", "integer"), Column("note", "text")), ("id",))
TABLE = StreamTable(5, KEYED, KEYED.key_places)


def framed(message: bytes) -> bytes:
    return b"w" + struct.pack(">QQq", 1, 1, 1000) + message


def begin(lsn: int, xid: int = 9) -> bytes:
    return framed(b"B" + struct.pack(">QqI", lsn, 0, xid))


def commit(end: int) -> bytes:
    return framed(b"C" + struct.pack(">BQQq", 0, end - 1, end, 0))


def tuple_(*cells: bytes | None, kind: bytes = b"t") -> bytes:
    out = struct.pack(">H", len(cells))
    for cell in cells:
        out += b"n" if cell is None else kind + struct.pack(">I", len(cell)) + cell
    return out


def insert(*cells: bytes | None, kind: bytes = b"t") -> bytes:
    return framed(b"I" + struct.pack(">I", OID) + b"N" + tuple_(*cells, kind=kind))


def assembler(skip_to: int = 0, part_bytes: int = 1 << 20) -> Assembler:
    made = Assembler(False, skip_to, part_bytes)
    made.define(OID, TABLE, new=False)
    return made


def take(target: Assembler, *messages: bytes) -> list[BlockPart | Draft]:
    for message in messages:
        target.take(message)
    return target.take_items()


def test_a_transaction_is_a_draft() -> None:
    (draft,) = take(assembler(), begin(100), insert(b"1", None), insert(b"2", b""), commit(200))
    assert isinstance(draft, Draft)
    assert (draft.txid, draft.origin, draft.committed_at, draft.statements) == ("9", "0/C8", 946684800000000, 2)
    assert draft.body is not None
    assert list(unpack_statements(draft.body)) == [[1, 5, pack_row([b"1", None])], [1, 5, pack_row([b"2", b""])]]


def test_a_transaction_that_was_taken_before_is_dropped_and_counted() -> None:
    target = assembler(skip_to=200, part_bytes=1)
    assert take(target, begin(150), insert(b"1", b"x"), insert(b"1", b"x"), commit(200)) == []
    assert target.duplicates == 1
    assert len(take(target, begin(200), insert(b"1", b"x"), commit(300))) == 2


def test_what_comes_again_is_compared_and_its_tables_are_not_looked_up() -> None:
    """The catalogs may have gone on since: they are asked by the first transaction that is new."""
    expected = Reread(100, [Sent(200, "9", 946684800000000), Sent(220, "message", 0)])
    target = Assembler(False, 220, reread=expected)
    note = framed(b"M" + struct.pack(">BQ", 0, 220) + b"note\0" + struct.pack(">I", 2) + b"hi")
    assert (
        take(target, begin(90), insert(b"1", b"x"), commit(95)) == []
    )  # the server need not begin just where it is told
    assert take(target, begin(150), insert(b"1", b"x"), commit(200), note) == []
    assert not expected.is_proven
    with pytest.raises(Unresolved):
        take(target, begin(250), insert(b"1", b"x"))
    assert expected.is_proven


def test_a_log_that_is_not_the_journals_halts() -> None:
    for again in ([], [begin(150, 8), insert(b"1", b"x"), commit(200)], [begin(140), insert(b"1", b"x"), commit(190)]):
        target = Assembler(False, 200, reread=Reread(100, [Sent(200, "9", 946684800000000)]))
        with pytest.raises(Halted, match="server_rolled_back"):
            take(target, *again, begin(300))
    target = Assembler(False, 200, reread=Reread(100))
    target.announce(OID, ignored=True)
    assert take(target, begin(140), insert(b"1", b"x"), commit(190)) == []
    target.passed(200)
    assert target.reread.is_proven


def test_an_empty_transaction_is_none_but_moves_the_place() -> None:
    target = assembler()
    assert take(target, begin(100), commit(200)) == []
    assert target.complete == 200
    assert target.sent == 0


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=60), st.integers(1, 400))
def test_parts_are_the_body_cut_between_statements(notes: list[bytes], part_bytes: int) -> None:
    messages = [begin(100), *(insert(b"1", note) for note in notes), commit(200)]
    (whole,) = take(assembler(), *messages)
    assert isinstance(whole, Draft)
    cut = take(assembler(part_bytes=part_bytes), *messages)
    parts, draft = cut[:-1], cut[-1]
    assert isinstance(draft, Draft)
    body = b"".join(part.data for part in parts if isinstance(part, BlockPart)) if parts else draft.body
    assert body == whole.body
    assert draft.statements == whole.statements == len(notes)
    assert (draft.body is None) == bool(parts)
    for part in parts:
        assert isinstance(part, BlockPart)
        assert len(list(unpack_statements(part.data))) == part.statements


def test_a_message_of_its_own_has_an_origin_that_skips_it_once() -> None:
    note = framed(b"M" + struct.pack(">BQ", 0, 500) + b"note\0" + struct.pack(">I", 2) + b"hi")
    (draft,) = take(assembler(), note)
    assert isinstance(draft, Draft)
    assert draft.origin == "0/1F4"
    again = assembler(skip_to=0x1F4)
    assert take(again, note) == []
    assert again.duplicates == 1


@pytest.mark.parametrize(
    "message",
    [
        framed(b"?"),
        framed(b""),
        framed(b"B123"),
        commit(1),
        insert(b"1", b"x")[:-1],
        insert(b"1", b"x") + b"y",
        insert(b"1", b"x", kind=b"b"),
        framed(b"I" + struct.pack(">I", OID) + b"K" + tuple_(b"1")),
        framed(b"U" + struct.pack(">I", OID) + b"X" + tuple_(b"1", b"x")),
        framed(b"D" + struct.pack(">I", OID) + b"N" + tuple_(b"1", None)),
        framed(b"T" + struct.pack(">IB", 2, 0) + struct.pack(">I", OID)),
        framed(b"M" + struct.pack(">BQ", 0, 500) + b"note\0" + struct.pack(">I", 9) + b"hi"),
        framed(b"M" + struct.pack(">BQ", 0, 500) + b"\xff\0" + struct.pack(">I", 0)),
    ],
)
def test_what_is_malformed_is_refused(message: bytes) -> None:
    target = assembler()
    with pytest.raises((ValueError, IndexError, struct.error)):
        target.take(message)
    assert target.take_items() == []


def test_a_table_that_is_not_defined_is_asked_for_and_nothing_is_done() -> None:
    target = Assembler(False, 0)
    target.take(begin(100))
    truncate = framed(b"T" + struct.pack(">IB", 1, 0) + struct.pack(">I", OID))
    for message in (insert(b"1", b"x"), truncate):
        with pytest.raises(Unresolved) as raised:
            target.take(message)
        assert raised.value.oid == OID
    target.define(OID, TABLE, new=True)
    (draft,) = take(target, insert(b"1", b"x"), truncate, commit(200))
    assert isinstance(draft, Draft)
    assert (draft.statements, draft.flags) == (3, 1)


def test_a_delete_without_a_key_halts() -> None:
    target = assembler()
    target.define(OID, StreamTable(5, Definition("public", "t", KEYED.columns, ()), ()), new=False)
    target.take(begin(100))
    with pytest.raises(Halted) as raised:
        target.take(framed(b"D" + struct.pack(">I", OID) + b"O" + tuple_(b"1", b"x")))
    assert raised.value.reason == "no_key"
