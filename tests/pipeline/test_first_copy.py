"""Whether the first copy is there, as the chain says."""

from __future__ import annotations

from pathlib import Path

from replicator.cluster.promotion.epoch_block import append_epoch
from replicator.format.block import Draft
from replicator.format.statement import pack_message
from replicator.pipeline.first_copy import has_first_copy, last_captured
from replicator.storage.journal.store import Journal

STRAND = "main"


def test_blocks_of_epochs_are_no_copy(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite3")
    journal.open()
    assert not has_first_copy(journal, STRAND)
    for epoch in (1, 2):
        append_epoch(journal, STRAND, epoch, 1)
        assert not has_first_copy(journal, STRAND)
    journal.append(STRAND, [Draft("copy", "0/7", 1, 0, 0, b"")], 2)  # of a ledger that was empty
    assert has_first_copy(journal, STRAND)
    assert not has_first_copy(journal, STRAND, 2)
    append_epoch(journal, STRAND, 3, 1)
    last = last_captured(journal, STRAND)
    assert last is not None
    assert last.sequence == 3
    journal.append(STRAND, [Draft("9", "0/9", 1, 0, 1, pack_message("n", b""))], 3)
    assert has_first_copy(journal, STRAND, 3)
    journal.close()
