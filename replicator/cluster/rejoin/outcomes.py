"""What became of sealed orphans: re-applied, or settled by a person. One file beside the seal, ``handled.jsonl``.

Guarantee: what is noted is durable on return, and nothing that was noted is ever written over: lines are only added. A
line that a kill or a full disk cut off was never noted, and goes when the next is added. ``sending`` is noted before a
transaction is sent to the primary, its outcome behind it; so one whose answer was lost is sent again, under the same
idempotency key.

A line is JSON: ``{"sequence", "became": "sending" | "reapplied" | "refused" | "settled", "who", "at", …}``; settled
says ``why``, re-applied where (``position``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from replicator.cluster.rejoin.durable_files import unwritable
from replicator.errors import Halted
from replicator.storage.atomic_file import sync_directory
from replicator.storage.data_dir import SealDir

SENDING, REAPPLIED, REFUSED, SETTLED = "sending", "reapplied", "refused", "settled"

Fields = dict[str, Any]


class OrphanOutcomes:
    """The notes of one seal, by sequence. Raises Halted if the file cannot be read."""

    def __init__(self, directory: Path) -> None:
        self._path = SealDir(directory).outcomes
        self.reapplied: dict[int, Fields] = {}
        self.settled: dict[int, Fields] = {}
        self.sending: set[int] = set()
        self._end = 0  # behind the last whole line
        try:
            content = self._path.read_bytes()
            self._end = content.rfind(b"\n") + 1
            for line in content[: self._end].splitlines():
                self._take(json.loads(line))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            cure = "put it back from a copy; without it nobody knows what was re-applied"
            raise Halted(
                "handled_unreadable", f"the file cannot be read: {error!r}", place=str(self._path), cure=cure
            ) from error

    def __len__(self) -> int:
        return len(self.reapplied.keys() | self.settled.keys())

    def note(self, became: str, sequences: Iterable[int], fields: Fields) -> None:
        """Durable on return. Raises Unavailable; then nothing was noted."""
        notes = [{"sequence": sequence, "became": became, **fields} for sequence in sequences]
        data = "".join(json.dumps(note) + "\n" for note in notes).encode()
        try:
            with self._path.open("r+b" if self._path.exists() else "xb") as file:
                file.seek(self._end)
                file.truncate()
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            sync_directory(self._path.parent)
        except OSError as error:
            raise unwritable(self._path, error) from error
        self._end += len(data)
        for note in notes:
            self._take(note)

    def _take(self, note: Fields) -> None:
        sequence, became = int(note["sequence"]), note["became"]
        if became == SENDING:
            self.sending.add(sequence)
            return
        if became == SETTLED:
            self.settled[sequence] = note
            return
        self.sending.discard(sequence)
        if became == REAPPLIED:
            self.reapplied[sequence] = note
