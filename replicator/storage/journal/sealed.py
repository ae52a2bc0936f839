"""Sealed blocks: blocks of a journal kept in a directory of their own, before they are cut away.

Guarantee: a ``Seal`` stands for a directory whose every byte was proven: each file against the sums in ``seal.json``,
the blocks against their hashes and links from the fork to the last one. ``seal.json`` is written last, so a directory
without it is no seal. Nothing in the directory is ever written again, save beside what is sealed.

    blocks.frames   frames as the feed sends them (``format/wire.py``): the definitions in force at the fork, then the
                    blocks, each large one behind its parts, then an END
    report.json     what the blocks did, and how that stands to the region in charge; report.html, for people
    seal.json       what is sealed: the fork and the last position, counts, and the sum of each file

Any other implementation reads ``blocks.frames`` as it reads a feed. All calls block; memory is that of a frame.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from replicator.errors import Corrupt, Halted, ReplicatorError
from replicator.format.block import Block, LargeBody, check_link
from replicator.format.definition import Definition, unpack_definition
from replicator.format.position import Position, parse_position
from replicator.format.statement import unpack_statements
from replicator.format.wire import DefinitionFrame, Frame, FrameReader, StagedPart
from replicator.storage.data_dir import SealDir

FORMAT = 1
READ_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Seal:
    """Blocks behind ``fork``, up to and with ``last``, in ``directory``. What ``verified`` gives is proven."""

    directory: Path
    fork: Position
    last: Position
    blocks: int
    sealed_at: int  # µs since 1970
    theirs: Position  # the end of the chain of the region in charge, by which the report judges

    @property
    def id(self) -> str:
        """The directory's name: ``first-last-hash``."""
        return self.directory.name

    @property
    def strand(self) -> str:
        """The blocks' strand."""
        return self.fork.strand


def name_of(fork: Position, last: Position) -> str:
    """The name of a seal."""
    return f"{fork.sequence + 1}-{last.sequence}-{last.hash.hex()[:12]}"


def verified(directory: Path) -> Seal:
    """Prove every byte of a seal. Raises Halted (``seal_broken``)."""
    try:
        seal, sums = _read(directory)
        # The sums tell what was altered; the chain, whether what was sealed were the blocks at all.
        for file in SealDir(directory).summed:
            if file_sum(file) != sums[file.name]:
                raise ValueError(f"{file.name} is not the file that was sealed")
        _prove_chain(seal)
    except FileNotFoundError as error:
        raise _broken(directory, f"{Path(str(error.filename)).name} is missing") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ReplicatorError) as error:
        raise _broken(directory, str(error)) from error
    return seal


def read_seal(directory: Path) -> Seal:
    """What a seal says of itself, its bytes unproven. Raises Halted (``seal_broken``)."""
    try:
        return _read(directory)[0]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _broken(directory, str(error)) from error


def file_sum(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal_fields(seal: Seal, sums: dict[str, str]) -> dict[str, Any]:
    """What ``seal.json`` holds: ``sum`` is that of all the rest, as compact JSON with sorted names."""
    fields = {
        "format": FORMAT,
        "fork": str(seal.fork),
        "last": str(seal.last),
        "blocks": seal.blocks,
        "sealed_at": seal.sealed_at,
        "theirs": str(seal.theirs),
        "sha256": sums,
    }
    return {**fields, "sum": _sum(fields)}


def _sum(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _read(directory: Path) -> tuple[Seal, dict[str, str]]:
    path = SealDir(directory).seal
    fields = json.loads(path.read_text())
    if fields["format"] != FORMAT:
        raise ValueError(f"format {fields['format']} is not known here; this program reads format {FORMAT}")
    if fields.pop("sum") != _sum(fields):
        raise ValueError(f"{path.name} is not as it was written")
    fork, last, theirs = (parse_position(fields[name]) for name in ("fork", "last", "theirs"))
    seal = Seal(directory, fork, last, int(fields["blocks"]), int(fields["sealed_at"]), theirs)
    if directory.name.removesuffix(".part") != name_of(fork, last) or seal.blocks != last.sequence - fork.sequence:
        raise ValueError("the seal is of other blocks than the directory's name says")
    return seal, fields["sha256"]


def _prove_chain(seal: Seal) -> None:
    last = seal.fork
    for piece in SealedBlocks(seal).pieces():
        last = piece.behind
    if last != seal.last:
        raise ValueError(f"the blocks end at {last}, not at {seal.last}")


def _broken(directory: Path, why: str) -> Halted:
    return Halted(
        "seal_broken",
        f"the sealed blocks cannot be proven: {why}",
        place=str(directory),
        cure="put the directory back from a copy; as long as the journal still has the blocks, they are sealed anew:"
        " move the directory away",
    )


class SealedPiece(NamedTuple):
    """A block's body, or a part of it, the first of whose statements has this ordinal. ``behind`` is the position that
    is proven once the piece was read: the block's own, or the one before it while parts of it are to come."""

    sequence: int
    ordinal: int
    data: bytes
    behind: Position

    def statements(self) -> Iterator[list[Any]]:
        """Its statements."""
        return unpack_statements(self.data)


class SealedBlocks:
    """Reads what is sealed."""

    def __init__(self, seal: Seal) -> None:
        self._path = SealDir(seal.directory).blocks
        self._fork = seal.fork

    def definitions(self) -> dict[int, Definition]:
        """The definitions in force at the fork, by relation."""
        definitions = {}
        for frame in self._frames():
            if not isinstance(frame, DefinitionFrame):
                break
            definitions[frame.relation] = unpack_definition(frame.data)
        return definitions

    def pieces(self) -> Iterator[SealedPiece]:
        """The bodies of the blocks, in order. Raises Corrupt at what does not prove itself."""
        position, body = self._fork, LargeBody()
        for frame in self._frames():
            match frame:
                case StagedPart(sequence, _, part):
                    yield SealedPiece(sequence, body.add(part), part.data, position)
                case Block() as block:
                    check_link(position, block)
                    position = block.position
                    if block.body is not None:
                        yield SealedPiece(position.sequence, 0, block.body, position)
                        continue
                    body.prove(block.header)
                    body = LargeBody()
                    # The header stands behind its parts: only now is the position proven that they belong to.
                    yield SealedPiece(position.sequence, block.header.statements, b"", position)

    def _frames(self) -> Iterator[Frame]:
        reader, taken = FrameReader(), 0
        with self._path.open("rb") as file:
            while data := file.read(READ_BYTES):
                reader.feed(data)
                taken += len(data)
                yield from reader
        if reader.taken_bytes != taken:
            raise Corrupt("bad_frame", "the file ends within a frame", place=str(self._path))
