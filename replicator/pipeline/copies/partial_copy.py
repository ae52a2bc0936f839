"""Half a copy: what survives a kill, and who is kept away from it.

Two things are durable. The file ``copy.json`` in the data directory names the copy that is under way; it is written
before the replica is touched and removed last. The *mark* in the replica, a position of a strand of its own, says how
many chunks are in it; each chunk brings it forward in its own transaction, and the last one adds the true position.

Guarantee: as long as the file is there, or a mark without a position, the region does not run.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import NamedTuple

from replicator.errors import Halted
from replicator.format.position import Position, parse_position
from replicator.pipeline.copies.wire import CopyStart
from replicator.pipeline.replicas.base import AppliedMark
from replicator.storage.atomic_file import replace_file, sync_directory
from replicator.storage.data_dir import DataDir

HALF_COPY = "~copy"  # no strand's name: they have no "~"
CURE = "replicator bootstrap CONFIG goes on with the copy, or begins another one"


class PartialCopy(NamedTuple):
    """The copy that is under way: from which region, by which name, with what head. ``chunk_rows`` is how it is cut;
    ``cleared``: the files of what the region was before are put away."""

    url: str
    begun: CopyStart
    chunk_rows: int
    cleared: bool = False


def mark_of(begun: CopyStart, chunks: int, rows: int) -> AppliedMark:
    """The mark after so many chunks and rows of a copy."""
    return AppliedMark(Position(HALF_COPY, 0, chunks, _digest(begun.copy)), begun.committed_at, rows)


def is_of(mark: AppliedMark, copy: str) -> bool:
    """Whether a mark belongs to this copy."""
    return mark.position.hash == _digest(copy)


def _digest(copy: str) -> bytes:
    return hashlib.sha256(copy.encode()).digest()


def refuse_half(data_dir: DataDir) -> None:
    """Raise Halted if a copy is under way in this data directory."""
    if data_dir.partial_copy.exists():
        message = "this region is being made anew, and the copy is not whole yet"
        raise Halted("half_copied", message, place=str(data_dir.partial_copy), cure=CURE)


def refuse_marked(mark: AppliedMark | None, applied: AppliedMark | None) -> None:
    """Raise Halted if a replica holds half a copy. Beside a position a mark is only a rest: the copy was whole."""
    if mark is not None and applied is None:
        message = f"the replica holds half a copy: {mark.position.sequence} chunks, {mark.blocks:,} rows"
        raise Halted("half_copied", message, place="replica", cure=CURE)


def write_half(data_dir: DataDir, half: PartialCopy) -> None:
    """Durable on return."""
    begun = half.begun
    fields = {
        "from": half.url,
        "chunk_rows": half.chunk_rows,
        "cleared": half.cleared,
        **begun._asdict(),
        "position": str(begun.position),
        "definitions": [[relation, base64.b64encode(data).decode()] for relation, data in begun.definitions],
    }
    replace_file(data_dir.partial_copy, [json.dumps(fields)])


def read_half(data_dir: DataDir) -> PartialCopy | None:
    """The copy that is under way, None if there is none. Raises Halted if the file cannot be read."""
    path = data_dir.partial_copy
    try:
        fields = json.loads(path.read_text())
        definitions = [(int(relation), base64.b64decode(data)) for relation, data in fields["definitions"]]
        begun = CopyStart(
            str(fields["copy"]),
            parse_position(fields["position"]),
            int(fields["committed_at"]),
            int(fields["high_at"]),
            definitions,
            fields["rows"],
        )
        return PartialCopy(str(fields["from"]), begun, int(fields["chunk_rows"]), bool(fields.get("cleared", True)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        cure = "remove it, and bootstrap the region with --replace"
        raise Halted("copy_unreadable", f"the file cannot be read: {error!r}", place=str(path), cure=cure) from error


def remove_half(data_dir: DataDir) -> None:
    """The copy is whole. Durable on return."""
    data_dir.partial_copy.unlink(missing_ok=True)
    sync_directory(data_dir.path)
