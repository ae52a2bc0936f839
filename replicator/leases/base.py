"""What a lease is."""

from __future__ import annotations

from typing import NamedTuple


class Holder(NamedTuple):
    """Who holds a lease; ``token`` changes with each claim."""

    region: str
    epoch: int
    token: str


class LeaseView(NamedTuple):
    """The lease as the store shows it; ``epoch`` is the highest that was ever granted."""

    holder: Holder | None
    epoch: int
