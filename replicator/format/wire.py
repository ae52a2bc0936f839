"""Frames: how blocks travel, and how the journal's pages hold them.

A stream of frames is msgpack arrays one after another, each beginning with its kind:

    [1 BLOCK,      header, body]                               a block; its body nil if it is large
    [2 PART,       sequence, number, statements, data]         a piece of the large block ``sequence``, from number 0;
                                                               all of them precede the block's frame
    [3 HEARTBEAT,  strand, epoch, sequence, hash,              the end of the sender's journal and when it was
                   committed_at, now, heard]                   committed, the sender's clock, and the time before which
                                                               everything that its ledger committed is in that
                                                               journal (µs since 1970; nil: not known); to a follower
         or                              … heard, trouble]     that asked for it, also what keeps that time from moving
    [4 DEFINITION, relation, definition]                       a definition from before the stream's first block
    [5 END,        reason]                                     the stream ends here as asked

Guarantee: a reader takes no byte on trust: kinds, types and sizes are checked here, contents by hash in
``format/block.py``. Test vectors: ``tests/vectors/frames.json``. Non-goal: authentication; that is the transport's.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgpack

from replicator.errors import Corrupt
from replicator.format.block import BODY_LIMIT_BYTES, Block, BlockPart, open_block, open_blocks
from replicator.format.position import MAX_SEQUENCE, Position

BLOCK, PART, HEARTBEAT, DEFINITION, END = range(1, 6)
# A part may hold one statement that is by itself larger than a body may be: a field has at most 1 GB.
FRAME_LIMIT_BYTES = (1 << 30) + (1 << 20)
_ELEMENTS_LIMIT = 9
CONTENT_TYPE = "application/vnd.ledger-feed+msgpack"
REPORTS_HEADER, PROMPT = "Feed-Reports", "prompt"  # asks the follower to report at once what is durable
ID_HEADER = "Feed-Region-Id"  # tells a region from another one that goes by its name
NAME_TAKEN = "name_taken"  # the refusal of the second of them
HEARTBEAT_HEADER, TROUBLE = "Feed-Heartbeat", "trouble"  # asks the server to say in heartbeats what troubles its ledger
_TROUBLE = re.compile(r"[a-z]{1,16}:[a-z0-9_]{1,64}")


class Heartbeat(NamedTuple):
    """The sender's end of the chain and its commit's time, the sender's clock, and the time before which everything
    that its ledger committed is in that chain; times in µs since 1970. ``trouble`` is what keeps that time from
    moving, as ``condition:reason``, where there is such a thing and the follower asked for it."""

    position: Position
    committed_at: int
    now: int
    heard: int | None
    trouble: str | None = None


class StagedPart(NamedTuple):
    """A piece of the large block ``sequence``."""

    sequence: int
    number: int
    part: BlockPart


class DefinitionFrame(NamedTuple):
    """A definition that the stream's blocks may name without carrying it."""

    relation: int
    data: bytes


class End(NamedTuple):
    """The sender has sent all that was asked for."""

    reason: str


Frame = Block | StagedPart | Heartbeat | DefinitionFrame | End

_pack = msgpack.Packer().pack


def pack_block(block: Block) -> bytes:
    """A block's frame."""
    return _pack((BLOCK, block.encoded, block.body))


def pack_blocks(blocks: Iterable[Block]) -> list[bytes]:
    """The frames of blocks."""
    return [_pack((BLOCK, encoded, body)) for _, encoded, _, body in blocks]


def pack_part(sequence: int, number: int, part: BlockPart) -> bytes:
    """A part's frame."""
    return _pack((PART, sequence, number, part.statements, part.data))


def pack_heartbeat(heartbeat: Heartbeat) -> bytes:
    """A heartbeat's frame."""
    # Nine elements only where there is trouble, and to who asked for it: an older follower knows eight.
    trouble = () if heartbeat.trouble is None else (heartbeat.trouble,)
    return _pack((HEARTBEAT, *heartbeat.position, heartbeat.committed_at, heartbeat.now, heartbeat.heard, *trouble))


def pack_definition_frame(relation: int, data: bytes) -> bytes:
    """A definition's frame."""
    return _pack((DEFINITION, relation, data))


def pack_end(reason: str) -> bytes:
    """The last frame of a stream that was asked to end."""
    return _pack((END, reason))


class FrameReader:
    """Frames out of bytes that arrive in pieces of any size. Holds at most one unfinished frame.

    Sans-I/O: ``feed`` bytes, then iterate over the frames that are whole by now. Raises Corrupt at the first byte that
    cannot be a frame; nothing after it can be trusted.
    """

    def __init__(self, limit_bytes: int = FRAME_LIMIT_BYTES) -> None:
        # Lengths are checked before room is made for them: an array header is five bytes that can ask for gigabytes.
        self._unpacker = msgpack.Unpacker(
            max_buffer_size=limit_bytes, max_array_len=_ELEMENTS_LIMIT, max_map_len=0, max_ext_len=0
        )

    def feed(self, data: bytes) -> None:
        """Take bytes as they came."""
        try:
            self._unpacker.feed(data)
        except msgpack.BufferFull as error:
            raise Corrupt("frame_too_large", "a frame passes the size limit") from error

    @property
    def taken_bytes(self) -> int:
        """How many of the bytes fed so far were read as whole frames."""
        return self._unpacker.tell()

    def __iter__(self) -> Iterator[Frame]:
        try:
            raws, fault = self._whole()  # what is whole counts, whatever is wrong with the bytes behind it
            for usual, group in itertools.groupby(raws, _is_block):
                run = list(group)
                yield from _read_blocks(run) if usual else map(_read_frame, run)
            if fault is not None:
                raise fault
        except Corrupt:
            raise
        except (ValueError, TypeError, LookupError, msgpack.UnpackException) as error:
            raise Corrupt("bad_frame", f"what arrived is not a frame: {error!r}") from error

    def _whole(self) -> tuple[list[Any], Exception | None]:
        """The arrays that are whole by now, and the error of the bytes behind them, if there is one."""
        raws: list[Any] = []
        try:
            raws.extend(self._unpacker)
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            return raws, error
        return raws, None


def _is_block(raw: Any) -> bool:
    return type(raw) is list and raw[:1] == [BLOCK]


def _read_blocks(run: Sequence[list[Any]]) -> Iterable[Frame]:
    """Blocks of the usual kind are opened all at once; if one of them is of another kind, one by one."""
    try:
        _, headers, bodies = zip(*run, strict=True)
        small = set(map(type, headers + bodies)) == {bytes}
    except ValueError:
        small = False
    if not small or max(map(len, bodies)) > 2 * BODY_LIMIT_BYTES:
        return map(_read_frame, run)
    return open_blocks(headers, bodies)


def _read_frame(raw: list[object]) -> Frame:
    match raw:
        case [1, bytes() as header, None]:
            return open_block(header, None)
        case [1, bytes() as header, bytes() as body] if len(body) <= 2 * BODY_LIMIT_BYTES:
            return open_block(header, body)
        case [2, int() as sequence, int() as number, int() as statements, bytes() as data]:
            if min(sequence, number, statements) < 0 or max(sequence, number, statements) > MAX_SEQUENCE:
                raise ValueError("a number out of range")
            return StagedPart(sequence, number, BlockPart(statements, data))
        case [
            3,
            str() as strand,
            int() as epoch,
            int() as sequence,
            bytes() as digest,
            int() as at,
            int() as now,
            heard,
            *trouble,
        ]:
            if len(digest) != 32 or not (heard is None or isinstance(heard, int)):
                raise ValueError("a heartbeat's hash or time")
            return Heartbeat(Position(strand, epoch, sequence, digest), at, now, heard, _trouble(trouble))
        case [4, int() as relation, bytes() as data]:
            return DefinitionFrame(relation, data)
        case [5, str() as reason]:
            return End(reason)
        case _:
            raise ValueError(f"an unknown shape: {raw!r:.80}")


def _trouble(rest: Sequence[object]) -> str | None:
    match rest:
        case [] | [None]:
            return None
        case [str() as trouble] if _TROUBLE.fullmatch(trouble):
            return trouble
        case _:
            raise ValueError("a heartbeat's trouble")


def unpack_page(data: bytes) -> Iterator[Block]:
    """The blocks of a journal page, proven against their hashes. Raises Corrupt."""
    reader = FrameReader()
    reader.feed(data)
    for frame in reader:
        if not isinstance(frame, Block):
            raise Corrupt("bad_page", "a journal page holds something other than blocks")
        yield frame
    if reader.taken_bytes != len(data):
        raise Corrupt("bad_page", "a journal page ends within a block")
