"""What became of sealed orphans: re-applied, or settled by a person. One file beside the seal, ``handled.json``.

Guarantee: what is noted is durable on return. ``sending`` is noted before a transaction is sent to the primary and
taken back by its outcome, so that one whose answer was lost is sent again, under the same idempotency key.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from replicator.errors import Halted
from replicator.rejoin.files import write_file

FILE = "handled.json"

Fields = dict[str, Any]


@dataclasses.dataclass(slots=True)
class Handled:
    """By sequence, as text: ``{"who", "at", …}``. Settled says why, re-applied where (``position``)."""

    directory: Path
    reapplied: dict[str, Fields]
    settled: dict[str, Fields]
    sending: dict[str, Fields]

    def __len__(self) -> int:
        return len(self.reapplied.keys() | self.settled.keys())

    def save(self) -> None:
        """Durable on return. Raises Unavailable."""
        fields = {"reapplied": self.reapplied, "settled": self.settled, "sending": self.sending}
        write_file(self.directory / FILE, [json.dumps(fields, indent=1)])


def read_handled(directory: Path) -> Handled:
    """What is noted so far. Raises Halted if the file cannot be read."""
    path = directory / FILE
    try:
        fields = json.loads(path.read_text())
        return Handled(directory, *(dict(fields[name]) for name in ("reapplied", "settled", "sending")))
    except FileNotFoundError:
        return Handled(directory, {}, {}, {})
    except (OSError, ValueError, KeyError, TypeError) as error:
        cure = "put it back from a copy; without it nobody knows what was re-applied"
        raise Halted("handled_unreadable", f"the file cannot be read: {error!r}", place=str(path), cure=cure) from error
