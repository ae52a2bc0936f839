"""Chains of entries for the tests."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

from settle_buffer import Entry, Event, Release

T = TypeVar("T")


def chain(strand: str, count: int, *, first: int = 1, previous: bytes = b"", body_bytes: int = 20) -> list[Entry]:
    """``count`` linked entries; the same arguments make the same entries."""
    entries = []
    for sequence in range(first, first + count):
        digest = hashlib.sha256(f"{strand}:{sequence}".encode()).digest()
        body = f"{strand}-{sequence}-".encode().ljust(body_bytes, b"x")
        entries.append(Entry(strand, sequence, sequence * 1_000, digest, previous, body))
        previous = digest
    return entries


def released(events: Sequence[Event]) -> list[Entry]:
    """All entries that the events release, in order."""
    return [entry for event in events if isinstance(event, Release) for entry in event.entries]


def of_kind(events: Sequence[Event], kind: type[T]) -> list[T]:
    """The events of one kind."""
    return [event for event in events if isinstance(event, kind)]
