"""Blocks: one committed transaction each, chained by hash.

Guarantee: a block's hash commits to its header, through the header to its body, and through ``previous`` to every
block before it. Two parties that hold the same hash hold the same history.

Encoding (format 1), canonical because only these bytes are hashed:

    header = msgpack array, integers in their shortest form, of
             [1, strand, sequence, epoch, transaction id, origin, committed_at, previous,
              flags, statements, body_bytes, body_hash]
    body   = the transaction's statements, one after another (see ``format/statement.py``)
    body_hash = SHA-256(body)            hash = SHA-256(header)

The two steps let a header prove the chain without its body, and let a body of any size be hashed as it streams by.
``previous`` of sequence 1 is 32 zero bytes. Test vectors: ``tests/vectors/blocks.json``.

A *large* block's body is not held in one piece: it travels and is stored as *parts*, cut between statements, and
its ``body`` here is None.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgpack

from replicator.errors import Corrupt
from replicator.format.position import HASH_BYTES, MAX_SEQUENCE, STRAND_PATTERN, Position

FORMAT = 1
HAS_DEFINITIONS = 1  # flag: the body defines tables; readers keep those statements at hand
HEADER_LIMIT_BYTES = 4096
BODY_LIMIT_BYTES = 1 << 20  # a body beyond this is cut into parts
TEXT_LIMIT = 255  # characters in a transaction id or an origin

# Bound once: these run several times for every transaction of every region.
_pack = msgpack.Packer().pack
_unpack = msgpack.unpackb
_sha256 = hashlib.sha256
_tuple = tuple.__new__


class Header(NamedTuple):
    """What a block says of itself.

    ``txid`` names the transaction in the source's own words, ``origin`` the place in the source's log after which
    reading goes on (PostgreSQL: the commit's end LSN). ``committed_at`` is microseconds since 1970 by the source's
    clock; clocks jump, so it orders nothing. ``statements`` counts the statements in the body.
    """

    format: int
    strand: str
    sequence: int
    epoch: int
    txid: str
    origin: str
    committed_at: int
    previous: bytes
    flags: int
    statements: int
    body_bytes: int
    body_hash: bytes


class Draft(NamedTuple):
    """A committed transaction before it has its place in the chain. ``body`` is None if it was staged in parts."""

    txid: str
    origin: str
    committed_at: int
    flags: int
    statements: int
    body: bytes | None


class BlockPart(NamedTuple):
    """A piece of the transaction that is now arriving, cut between statements; its Draft follows."""

    statements: int
    data: bytes


class LargeBody:
    """A large block's body as its parts go by, in order: what the block's header says, or has to say, of it."""

    def __init__(self) -> None:
        self._digest = _sha256()
        self.bytes = self.statements = self.parts = 0

    def add(self, part: BlockPart) -> int:
        """Take the next part; the ordinal of its first statement."""
        ordinal = self.statements
        self._digest.update(part.data)
        self.bytes += len(part.data)
        self.statements += part.statements
        self.parts += 1
        return ordinal

    @property
    def hash(self) -> bytes:
        """SHA-256 of the parts, one after another."""
        return self._digest.digest()

    def prove(self, header: Header) -> None:
        """Raise Corrupt unless this is the body that the header names."""
        if (self.hash, self.bytes, self.statements) != (header.body_hash, header.body_bytes, header.statements):
            raise Corrupt("body_mismatch", "the parts are not the body that the header names", place=_place(header))


class Block(NamedTuple):
    """A sealed block: ``encoded`` is its header as hashed, ``body`` None if it is large."""

    header: Header
    encoded: bytes
    hash: bytes
    body: bytes | None

    @property
    def position(self) -> Position:
        return Position(self.header.strand, self.header.epoch, self.header.sequence, self.hash)


def seal(draft: Draft, previous: Position, epoch: int, body_bytes: int, body_hash: bytes) -> Block:
    """Give a draft its place behind ``previous``."""
    fields = (
        FORMAT,
        previous.strand,
        previous.sequence + 1,
        epoch,
        draft.txid,
        draft.origin,
        draft.committed_at,
        previous.hash,
        draft.flags,
        draft.statements,
        body_bytes,
        body_hash,
    )
    encoded = _pack(fields)
    return Block(Header._make(fields), encoded, _sha256(encoded).digest(), draft.body)


def seal_small(drafts: Iterable[Draft], previous: Position, epoch: int) -> list[Block]:
    """``seal`` for drafts that carry their whole body, one behind the other."""
    strand, _, sequence, digest = previous
    blocks = []
    for txid, origin, committed_at, flags, statements, body in drafts:
        assert body is not None
        sequence += 1
        body_hash = _sha256(body).digest()
        fields = (
            FORMAT, strand, sequence, epoch, txid, origin, committed_at, digest, flags, statements, len(body), body_hash
        )  # fmt: skip
        encoded = _pack(fields)
        digest = _sha256(encoded).digest()
        # NamedTuple's own constructors are Python functions; without them sealing takes a quarter less.
        blocks.append(_tuple(Block, (_tuple(Header, fields), encoded, digest, body)))
    return blocks


def open_block(encoded: bytes, body: bytes | None) -> Block:
    """Read a header and prove the body against it; raises Corrupt.

    ``body`` is None for a large block, whose parts are proven as they are staged. The link to the block before is
    the caller's to check, with ``check_link``.
    """
    header = decode_header(encoded)
    # The length first: what claims a large body and carries a small one is refused without hashing it.
    if body is not None and (header.body_bytes != len(body) or header.body_hash != _sha256(body).digest()):
        raise Corrupt("body_mismatch", "the body is not the one that the header names", place=_place(header))
    return Block(header, encoded, _sha256(encoded).digest(), body)


def open_blocks(encoded: Sequence[bytes], bodies: Sequence[bytes]) -> Iterable[Block]:
    """``open_block`` for many blocks, none of them large. Iterating raises Corrupt, behind the blocks before the fault.

    The same checks, made column by column: a third less work a block. If any fails, all are opened one by one, which
    says what is wrong and where.
    """
    body_hashes = [_sha256(body).digest() for body in bodies]
    try:  # one fault among a page's headers sends the whole page the slow way: only damage and attacks pay
        headers = [_tuple(Header, _unpack(header)) for header in encoded]
        columns = list(zip(*headers, strict=True))
        proven = _are_fields(columns) and columns[10:] == [tuple(map(len, bodies)), tuple(body_hashes)]
    except (ValueError, TypeError, msgpack.UnpackException):
        proven = False
    if not proven or max(map(len, encoded)) > HEADER_LIMIT_BYTES:
        return map(open_block, encoded, bodies)
    return [
        _tuple(Block, (header, encoding, _sha256(encoding).digest(), body))
        for header, encoding, body in zip(headers, encoded, bodies, strict=True)
    ]


def decode_header(encoded: bytes) -> Header:
    """Read a header's fields, refusing whatever is not one; raises Corrupt."""
    try:
        if len(encoded) > HEADER_LIMIT_BYTES:  # before unpacking: a few bytes can ask for a lot of memory
            raise ValueError(f"{len(encoded)} bytes, at most {HEADER_LIMIT_BYTES} are taken")
        header = Header._make(_unpack(encoded))
        _check_fields(header)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise Corrupt("bad_header", f"a block header cannot be read: {error}") from error
    return header


def check_chain(previous: Position, blocks: Iterable[Block]) -> None:
    """``check_link`` for blocks that stand one behind the other."""
    strand, epoch, sequence, digest = previous
    for block in blocks:
        header = block.header
        sequence += 1
        if (header.sequence, header.previous, header.strand) != (sequence, digest, strand) or header.epoch < epoch:
            check_link(Position(strand, epoch, sequence - 1, digest), block)  # says what is wrong
        epoch, digest = header.epoch, block.hash


def check_link(previous: Position, block: Block) -> None:
    """Raise Corrupt unless ``block`` is the one right behind ``previous``."""
    header = block.header
    if header.sequence != previous.sequence + 1 or header.strand != previous.strand:
        raise Corrupt("broken_sequence", f"sequence {previous.sequence + 1} was expected", place=_place(header))
    if header.previous != previous.hash:
        raise Corrupt("broken_link", "the hash of the block before is another one", place=_place(header))
    # Epochs may repeat and skip, never fall: an older primary's block after a newer one's is what fencing is against.
    if header.epoch < previous.epoch:
        raise Corrupt("old_epoch", f"epoch {header.epoch} after epoch {previous.epoch}", place=_place(header))


_FIELD_TYPES = (int, str, int, int, str, str, int, bytes, int, int, int, bytes)


def _check_fields(header: Header) -> None:
    """Every block of every region passes here, more than once: the usual case is a few comparisons."""
    if tuple(map(type, header)) != _FIELD_TYPES:  # by type, not isinstance: True would be hashed as another byte than 1
        kinds = zip(Header._fields, header, _FIELD_TYPES, strict=True)
        wrong = [name for name, value, kind in kinds if type(value) is not kind]
        raise ValueError(f"{', '.join(wrong)} of another type than the format says")
    (format_, strand, sequence, epoch, txid, origin, at, previous, flags, statements, body_bytes, body_hash) = header
    if format_ != FORMAT:
        raise ValueError(f"format {format_} is not known here; this program reads format {FORMAT}")
    if not (0 < sequence <= MAX_SEQUENCE and 0 <= epoch <= MAX_SEQUENCE):
        raise ValueError("sequence or epoch out of range")
    if not -MAX_SEQUENCE <= at <= MAX_SEQUENCE:
        raise ValueError("a time that no 64 bits hold")
    if len(previous) != HASH_BYTES or len(body_hash) != HASH_BYTES:
        raise ValueError("a hash has 32 bytes")
    if len(txid) > TEXT_LIMIT or len(origin) > TEXT_LIMIT:
        raise ValueError(f"transaction id and origin have at most {TEXT_LIMIT} characters")
    if flags < 0 or statements < 0 or body_bytes < 0 or not _is_strand(strand):
        raise ValueError("strand, counts or flags out of range")


def _are_fields(columns: Sequence[tuple[Any, ...]]) -> bool:
    """Whether ``_check_fields`` takes every header of these, given as columns."""
    if len(columns) != len(_FIELD_TYPES):
        return False
    if any(set(map(type, column)) != {kind} for column, kind in zip(columns, _FIELD_TYPES, strict=True)):
        return False
    formats, strands, sequences, epochs, txids, origins, times, previous, flags, statements, sizes, body_hashes = (
        columns
    )
    return (
        set(formats) == {FORMAT}
        and min(sequences) > 0
        and max(sequences) <= MAX_SEQUENCE
        and min(epochs) >= 0
        and max(map(abs, times)) <= MAX_SEQUENCE
        and max(epochs) <= MAX_SEQUENCE
        and set(map(len, previous)) == set(map(len, body_hashes)) == {HASH_BYTES}
        and max(map(len, txids)) <= TEXT_LIMIT
        and max(map(len, origins)) <= TEXT_LIMIT
        and min(min(flags), min(statements), min(sizes)) >= 0
        and all(map(_is_strand, set(strands)))
    )


@functools.lru_cache(maxsize=1024)
def _is_strand(name: str) -> bool:
    return STRAND_PATTERN.fullmatch(name) is not None


def _place(header: Header) -> str:
    return f"strand {header.strand}, sequence {header.sequence}"
