"""The lease store: the steps are those of the lease file, on the world's own clock, asked over a network."""

from __future__ import annotations

from replicator.cluster.leases.base import Grant, Holder, LeaseLost, LeaseView
from replicator.cluster.leases.record import BootMoment, LeaseRecord
from replicator.ops.simulation.schedule import Process

STRAND = "main"


class LeaseStore(Process):
    """A store of one lease. ``kept`` is what it holds durably. It may be unreachable (``is_away``).

    Each step answers what it leaves in the store, or Lost.
    """

    def __init__(self, ttl_seconds: float) -> None:
        self.ttl_seconds = ttl_seconds
        self.kept = LeaseRecord(0)
        self.is_away = False
        self._drawn = 0

    def look(self, now: float) -> LeaseView:
        """The lease as it stands."""
        return self.kept.view(BootMoment("", now))

    def claim(self, now: float, region: str, epoch: int, instead_of: Holder | None) -> LeaseRecord | LeaseLost:
        """Claim the lease for a region."""
        wanted = Holder(region, epoch, self._draw())
        try:
            self.kept = self.kept.claimed(
                wanted, self._draw(), instead_of, BootMoment("", now), self.ttl_seconds, STRAND
            )
        except LeaseLost as lost:
            return lost
        return self.kept

    def renew(self, now: float, grant: Grant) -> LeaseRecord | LeaseLost:
        """Begin the grant's time anew."""
        try:
            self.kept = self.kept.renewed(grant, BootMoment("", now), self.ttl_seconds, STRAND)
        except LeaseLost as lost:
            return lost
        return self.kept

    def keep(self, now: float, grant: Grant) -> LeaseRecord | LeaseLost:
        """Give the grant a new token."""
        try:
            self.kept = self.kept.kept_mine(grant, self._draw(), BootMoment("", now), STRAND)
        except LeaseLost as lost:
            return lost
        return self.kept

    def release(self, grant: Grant) -> bool:
        """Take the grant back."""
        self.kept = self.kept.released(grant)
        return True

    def _draw(self) -> str:
        self._drawn += 1
        return f"t{self._drawn}"
