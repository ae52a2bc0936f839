"""What a region remembers of its role, on disk: its memory, its grant, and what has happened.

Guarantee: ``keep`` returns when the file is durable (written aside, fsynced, renamed, its directory fsynced); a process
killed at any instruction finds the memory before or after it, whole. A file that cannot be read halts: a region that
does not know what it has promised must not take part.

A change is kept before anything that follows from it is done.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from replicator.cluster.failover.model import DurableState
from replicator.cluster.failover.wire import memory_from, memory_json
from replicator.cluster.leases.base import Grant
from replicator.errors import Corrupt, Unavailable
from replicator.storage.atomic_file import replace_file

FORMAT = 1
HAPPENED_LIMIT = 200
FILE_LIMIT_BYTES = 1_000_000


class RoleTransition(NamedTuple):
    """An event of the past: wall time in µs, the event's name, the state after it, the epoch, why."""

    at_us: int
    event: str
    state: str
    epoch: int
    why: str


class StoredState(NamedTuple):
    """All that is in the file."""

    memory: DurableState
    grant: Grant | None = None
    happened: tuple[RoleTransition, ...] = ()


class DurableStateFile:
    """The file. All methods block."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> StoredState | None:
        """What was kept last; None if nothing ever was. Raises Corrupt or Unavailable."""
        try:
            with self._path.open("rb") as file:
                data = file.read(FILE_LIMIT_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unavailable("role_unreadable", error.strerror or "", place=str(self._path)) from error
        try:
            fields = json.loads(data)
            if fields["format"] != FORMAT:
                raise ValueError(f"format {fields['format']} is not known here")
            grant = fields["grant"]
            happened = tuple(RoleTransition(*event) for event in fields["happened"])
            return StoredState(
                memory_from(fields["memory"]), None if grant is None else Grant.from_json(grant), happened
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            cure = "what this region has promised is not known: make it anew (replicator bootstrap CONFIG --replace)"
            raise Corrupt("role_unreadable", f"it cannot be read: {error}", place=str(self._path), cure=cure) from error

    def keep(self, kept: StoredState) -> None:
        """Durable on return. Raises Unavailable; then what was kept before may stand, or this."""
        fields: dict[str, Any] = {
            "format": FORMAT,
            "memory": memory_json(kept.memory),
            "grant": None if kept.grant is None else kept.grant.as_json(),
            "happened": [list(event) for event in kept.happened[-HAPPENED_LIMIT:]],
        }
        try:
            replace_file(self._path, [json.dumps(fields)])
        except OSError as error:
            cure = "free disk space, or mend the disk; it is tried again by itself"
            raise Unavailable("role_unwritable", error.strerror or "", place=str(self._path), cure=cure) from error
