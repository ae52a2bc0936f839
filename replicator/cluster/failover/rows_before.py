"""The row that stood under a key before a change, from the history index.

Guarantee: what is given was there; a row that the journal cannot complete, or that is older than the journal, is said
to be not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from replicator.ledger.key_past import KeyPast
from replicator.storage.journal.history import HistoryIndex


class RowsBefore:
    """The ``PriorRows`` of one strand, for reading the amounts at risk."""

    def __init__(self, history: HistoryIndex, strand: str) -> None:
        self._history = history
        self._strand = strand

    def indexed(self) -> int:
        """The sequence up to which it is found."""
        return self._history.indexed(self._strand)

    def before(self, table: str, key: Sequence[str], place: tuple[int, int]) -> Mapping[str, Any] | None:
        """The row before (sequence, ordinal), None if there was none. Raises ValueError if that is not known."""
        versions = KeyPast(self._history, self._strand, table, key).versions(place, 1)
        if not versions and self._history.begins_behind(self._strand):
            raise ValueError("the key's last change is older than the journal")
        if not versions or versions[0].row is None:
            return None
        if versions[0].unknown:
            raise ValueError("the journal cannot complete the row")
        return versions[0].row
