"""Which keys of a replica are known to differ: on disk, for a restart proves nothing.

Guarantee: what was found is known to every later process of the region until it was looked at again and is right. Kept
are the keys that the findings list, each with its right line if that is known, and the number of the others by table.
A note that cannot be read is taken for a difference of its own: a scrub has to say that there is none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from replicator.errors import Unavailable
from replicator.storage.atomic_file import replace_file
from replicator.verify.findings import DivergentKey

UNREADABLE = "(the note of an earlier life cannot be read)"

Kept = tuple[list[DivergentKey], dict[str, int]]


class DivergenceFile:
    """The note of one replica at ``path``. All calls block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: Kept = ([], {})

    def read(self) -> Kept:
        """What was known when it was written last: the keys, and how many more by table."""
        try:
            note = json.loads(self._path.read_text(encoding="utf-8"))
            kept = [_key(fields) for fields in note["keys"]], {str(t): int(n) for t, n in note["more"].items()}
        except FileNotFoundError:
            return [], {}
        except (OSError, ValueError, KeyError, TypeError):
            return [], {UNREADABLE: 1}
        self._written = kept
        return kept

    def keep(self, keys: list[DivergentKey], more: dict[str, int]) -> None:
        """Make this what is known; durable on return. Raises Unavailable or Halted."""
        if (keys, more) == self._written:
            return
        try:
            if keys or more:
                note = {"keys": [_fields(key) for key in keys], "more": more}
                replace_file(self._path, [json.dumps(note), "\n"])
            else:
                self._path.unlink(missing_ok=True)
        except OSError as error:
            message = f"what differs cannot be noted: {error.strerror}"
            raise Unavailable("cannot_write", message, place=str(self._path), cure="check disk and rights") from error
        self._written = (keys, more)


def _fields(key: DivergentKey) -> list[Any]:
    right = None if key.right is None else key.right.hex()
    return [key.table, key.key_line.hex(), key.key, key.is_right_known, right, key.found_at]


def _key(fields: list[Any]) -> DivergentKey:
    match fields:
        case [str() as table, str() as line, str() as shown, bool() as is_known, right, int() as found_at]:
            known = None if right is None else bytes.fromhex(right)
            return DivergentKey(table, bytes.fromhex(line), shown, is_known, known, found_at, None)
    raise ValueError("a divergent key has six fields")
