"""The lease store: one lease, granted for a time, by compare-and-swap. The knobs that break it are for the mutants."""

from __future__ import annotations

from replicator.cluster.leases.base import Holder, LeaseView
from replicator.ops.simulation.schedule import Process


class LeaseStore(Process):
    """A store that is asked over a network. Its clock is the true one; it may be unreachable (``is_away``)."""

    def __init__(self, ttl_seconds: float) -> None:
        self.ttl_seconds = ttl_seconds
        self.holder: Holder | None = None
        self.epoch = 0
        self.expires_at = 0.0
        self.is_away = False
        self.compares = True
        self._tokens = 0

    def look(self, now: float) -> LeaseView:
        """The lease as it stands."""
        self._expire(now)
        return LeaseView(self.holder, self.epoch)

    def claim(self, now: float, region: str, epoch: int, instead_of: Holder | None) -> Holder | None:
        """The claim if it is granted: nobody holds the lease, or exactly he who is to be replaced."""
        self._expire(now)
        if self.holder is not None and self.holder[:2] == (region, epoch):
            self.expires_at = now + self.ttl_seconds
            return self.holder  # its answer was lost
        is_free = self.holder is None or self.holder == instead_of
        if self.compares and not (is_free and epoch > self.epoch):
            return None
        self.holder = Holder(region, epoch, self._token())
        self.epoch = epoch
        self.expires_at = now + self.ttl_seconds
        return self.holder

    def renew(self, now: float, holder: Holder) -> bool:
        """Whether the claim still stands; then it does for another ttl."""
        self._expire(now)
        if self.holder != holder:
            return False
        self.expires_at = now + self.ttl_seconds
        return True

    def keep(self, now: float, holder: Holder) -> Holder | None:
        """The claim under a new token, so that nobody can replace the old one; None if it is gone."""
        self._expire(now)
        if self.holder != holder:
            return None
        self.holder = Holder(holder.region, holder.epoch, self._token())
        self.expires_at = now + self.ttl_seconds
        return self.holder

    def release(self, now: float, holder: Holder) -> bool:
        """Give the claim back."""
        self._expire(now)
        if self.holder == holder:
            self.holder = None
        return True

    def _expire(self, now: float) -> None:
        if self.holder is not None and now >= self.expires_at:
            self.holder = None

    def _token(self) -> str:
        self._tokens += 1
        return f"t{self._tokens}"
