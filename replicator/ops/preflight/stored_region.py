"""What the region has stored already, read without leaving a trace."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from replicator.config import Config
from replicator.format.definition import Definition
from replicator.format.position import Position, genesis
from replicator.storage.journal.store import Journal


@dataclasses.dataclass(frozen=True, slots=True)
class StoredRegion:
    """The journal's end, its tables, and what its source noted. A region that has not run has genesis and none."""

    head: Position
    definitions: tuple[Definition, ...] = ()
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)


def read_stored(config: Config) -> StoredRegion:
    """Raises Unavailable, Halted or Corrupt if the journal is there and cannot be read."""
    strand, path = config.region.strand, config.region.files.journal
    if not path.exists() or not path.stat().st_size:  # killed right after it had made the file
        return StoredRegion(genesis(strand))
    journal = Journal(path, traceless=True)
    try:
        return StoredRegion(journal.head(strand), tuple(journal.definitions(strand).values()), journal.notes())
    finally:
        journal.close()
