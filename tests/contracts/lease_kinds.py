"""Every kind of lease store: what the contract suite needs of each.

To add a store: a class here with these methods, named in ``KINDS``.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from replicator.cluster.leases.base import Lease
from replicator.cluster.leases.etcd import EtcdLease, EtcdOptions
from replicator.cluster.leases.static import StaticLease
from tests.etcd import Etcd

LASTING_SECONDS = 600
_numbers = itertools.count(1)


class LeaseKind(Protocol):
    """A store with nothing in it."""

    def lease(self, strand: str, *, brief: bool) -> Lease:
        """One more sidecar's way to it. ``brief``: grants end within seconds; otherwise not within a test."""


class SharedKind:
    """A file of this machine."""

    def __init__(self, directory: Path, _: Callable[[], Etcd]) -> None:
        self._directory = directory

    def lease(self, strand: str, *, brief: bool) -> Lease:
        return StaticLease(self._directory / f"{strand}.json", strand, 1.0 if brief else LASTING_SECONDS)


class EtcdKind:
    """A real etcd, and a prefix in it."""

    def __init__(self, _: Path, server: Callable[[], Etcd]) -> None:
        self._options = EtcdOptions((server().url,), LASTING_SECONDS, prefix=f"/test-{next(_numbers)}")

    def lease(self, strand: str, *, brief: bool) -> Lease:
        return EtcdLease(dataclasses.replace(self._options, ttl_seconds=2 if brief else LASTING_SECONDS), strand)


KINDS: dict[str, Callable[[Path, Callable[[], Etcd]], LeaseKind]] = {"shared file": SharedKind, "etcd": EtcdKind}
