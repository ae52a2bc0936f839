"""What a region keeps of its role on disk: its durable state, its grant, and its last transitions.

Guarantee: ``keep`` returns when the file is durable (written aside, fsynced, renamed, its directory fsynced); a process
killed at any instruction finds the memory before or after it, whole. A file that cannot be read halts: a region that
does not know what it has promised must not take part.

A change is kept before anything that follows from it is done.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from replicator.cluster.decisions.model import DurableState
from replicator.cluster.failover.wire import memory_from, memory_json
from replicator.cluster.leases.base import Grant
from replicator.errors import Corrupt, Unavailable
from replicator.storage.atomic_file import replace_file

FORMAT = 1
TRANSITIONS_LIMIT = 200
FILE_LIMIT_BYTES = 1_000_000


class RoleTransition(NamedTuple):
    """An event of the past: wall time in µs, the event's name, the state after it, the epoch, why."""

    at_us: int
    event: str
    state: str
    epoch: int
    why: str


class StoredState(NamedTuple):
    """What the file holds: the durable state, the lease that was granted, and the last transitions, oldest first."""

    memory: DurableState
    grant: Grant | None = None
    transitions: tuple[RoleTransition, ...] = ()


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
            transitions = tuple(RoleTransition(*event) for event in fields["happened"])
            memory = memory_from(fields["memory"])
            return StoredState(memory, None if grant is None else Grant.from_json(grant), transitions)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            cure = "what this region has promised is not known: make it anew (replicator bootstrap CONFIG --replace)"
            raise Corrupt("role_unreadable", f"it cannot be read: {error}", place=str(self._path), cure=cure) from error

    def keep(self, stored: StoredState) -> None:
        """Durable on return. Raises Unavailable; then what was kept before may stand, or this."""
        fields: dict[str, Any] = {
            "format": FORMAT,
            "memory": memory_json(stored.memory),
            "grant": None if stored.grant is None else stored.grant.as_json(),
            "happened": [list(event) for event in stored.transitions[-TRANSITIONS_LIMIT:]],
        }
        try:
            replace_file(self._path, [json.dumps(fields)])
        except OSError as error:
            cure = "free disk space, or mend the disk; it is tried again by itself"
            raise Unavailable("role_unwritable", error.strerror or "", place=str(self._path), cure=cure) from error
