"""Entries of one strand as one block of bytes, and back.

Guarantee: ``unpack(strand, pack(entries)) == entries``; bytes that were cut or padded are refused. Changes of content
are the checksum's to find (see ``spool``).

Format 1, little-endian; columns, because a batch packs many times faster by column than by entry:

    u8 format · u8 flags · u32 count
    sequences    i64 x count, only the first with flag RUN
    at           i64 x count
    started_at   i64 x count, with flag STARTED; the smallest i64 is none
    digests      u8 x count lengths, the bytes
    links        u8 x count lengths, the bytes; only the first link with flag CHAINED (each is the digest before it)
    bodies       u32 x count lengths, the bytes
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence
from itertools import accumulate, chain, pairwise

from settle_buffer.entry import Entry, at_of, body_of, digest_of, link_of, sequence_of
from settle_buffer.errors import Misuse

FORMAT = 1
RUN, CHAINED, STARTED = 1, 2, 4
NONE = -(2**63)
_HEAD = struct.Struct("<BBI")


def pack(entries: Sequence[Entry]) -> bytes:
    """Entries of one strand, at least one; raises Misuse for numbers or proofs out of range."""
    sequences = list(map(sequence_of, entries))
    digests = list(map(digest_of, entries))
    links = list(map(link_of, entries))
    bodies = list(map(body_of, entries))
    started = [NONE if entry[6] is None else entry[6] for entry in entries]
    flags = RUN if sequences == list(range(sequences[0], sequences[0] + len(sequences))) else 0
    if links[1:] == digests[:-1]:  # as in any chain: then the links need no room
        flags |= CHAINED
        links = links[:1]
    if started.count(NONE) != len(started):
        flags |= STARTED
    try:
        columns = [
            _HEAD.pack(FORMAT, flags, len(entries)),
            _numbers("q", sequences[:1] if flags & RUN else sequences),
            _numbers("q", list(map(at_of, entries))),
            _numbers("q", started) if flags & STARTED else b"",
            bytes(map(len, digests)),
            *digests,
            bytes(map(len, links)),
            *links,
            _numbers("I", list(map(len, bodies))),
        ]
    except (OverflowError, ValueError) as error:
        raise Misuse("bad_entry", f"an entry is out of range: {error}", place=f"strand {entries[0].strand}") from error
    return b"".join(chain(columns, bodies))


def unpack(strand: str, data: bytes) -> list[Entry]:
    """The entries that were packed; raises ValueError for what is no such packing."""
    try:
        return _unpack(strand, data)
    except (struct.error, IndexError) as error:
        raise ValueError(f"packed entries cannot be read: {error}") from error


def _unpack(strand: str, data: bytes) -> list[Entry]:
    form, flags, count = _HEAD.unpack_from(data)
    if form != FORMAT:
        raise ValueError(f"packing format {form} is not known here")
    place = _HEAD.size
    sequences: Sequence[int]
    sequences, place = _read_numbers(data, place, "q", 1 if flags & RUN else count)
    if flags & RUN:
        sequences = range(sequences[0], sequences[0] + count)
    ats, place = _read_numbers(data, place, "q", count)
    started: list[int | None] = [None] * count
    if flags & STARTED:
        numbers, place = _read_numbers(data, place, "q", count)
        started = [None if number == NONE else number for number in numbers]
    digests, place = _read_pieces(data, place + count, data[place : place + count])
    linked = 1 if flags & CHAINED else count
    links, place = _read_pieces(data, place + linked, data[place : place + linked])
    if flags & CHAINED:
        links += digests[:-1]
    lengths, place = _read_numbers(data, place, "I", count)
    bodies, place = _read_pieces(data, place, lengths)
    if place != len(data) or not len(digests) == len(links) == len(bodies) == count:
        raise ValueError("the length is not the one that the packing names")
    strands = [strand] * count
    return list(map(Entry._make, zip(strands, sequences, ats, digests, links, bodies, started, strict=True)))


def _numbers(code: str, numbers: list[int]) -> bytes:
    column = array(code, numbers)
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()


def _read_numbers(data: bytes, place: int, code: str, count: int) -> tuple[Sequence[int], int]:
    column = array(code)
    end = place + count * column.itemsize
    if end > len(data):
        raise ValueError("the packing is cut")
    column.frombytes(data[place:end])
    if sys.byteorder == "big":
        column.byteswap()
    return column, end


def _read_pieces(data: bytes, place: int, lengths: Sequence[int]) -> tuple[list[bytes], int]:
    edges = list(accumulate(lengths, initial=place))  # checked before the slices, which would be cut in silence
    if edges[-1] > len(data):
        raise ValueError("the packing is cut")
    return [data[start:end] for start, end in pairwise(edges)], edges[-1]
