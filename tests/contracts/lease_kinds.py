"""Every kind of lease store: what the contract suite needs of each.

To add a store: a class here with these methods, named in ``KINDS``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from replicator.leases.base import Clock, Lease, boot_seconds
from replicator.leases.etcd import EtcdLease, EtcdOptions
from replicator.leases.static import StaticLease
from tests.etcd import Etcd

_numbers = itertools.count(1)


class LeaseKind(Protocol):
    """A store with nothing in it."""

    def lease(self, strand: str = "main", clock: Clock = boot_seconds) -> Lease:
        """One more sidecar's way to it."""


class SharedKind:
    """A file of this machine."""

    def __init__(self, directory: Path, _: Callable[[], Etcd]) -> None:
        self._directory = directory

    def lease(self, strand: str = "main", clock: Clock = boot_seconds) -> Lease:
        return StaticLease(self._directory / f"{strand}.json", strand, ttl_seconds=1.0, clock=clock)


class EtcdKind:
    """A real etcd, and a prefix in it."""

    def __init__(self, _: Path, server: Callable[[], Etcd]) -> None:
        self._options = EtcdOptions((server().url,), ttl_seconds=2, prefix=f"/test-{next(_numbers)}")

    def lease(self, strand: str = "main", clock: Clock = boot_seconds) -> Lease:
        return EtcdLease(self._options, strand, clock)


KINDS = {"shared file": SharedKind, "etcd": EtcdKind}
