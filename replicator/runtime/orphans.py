"""Where orphans meet the region's role: whom they are re-applied to, and when this region takes those of others.

Guarantee: orphans of another region are taken only while this one leads with its fence open; the sidecar's own session
would pass the fence at any other time, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replicator.cluster.failover.states import State
from replicator.cluster.rejoin.orphans import Orphans
from replicator.cluster.rejoin.receive import PostgresTaking, Taking
from replicator.config import PostgresSource
from replicator.config.roles import source_of
from replicator.errors import Rejected
from replicator.pipeline.feed.client import Upstream
from replicator.runtime import wiring
from replicator.runtime.context import Core

if TYPE_CHECKING:
    from replicator.cluster.failover.controller import Office


def orphans_of(core: Core, primary_url: Callable[[], str | None]) -> Orphans:
    """The sealed orphans of this region."""

    def upstream() -> Upstream | None:
        url = primary_url()
        return None if url is None else wiring.upstream(core.config, url)

    return Orphans(core.data_dir, core.journal, core.history, core.strand, upstream)


class Taker:
    """A PostgreSQL primary, while it is one."""

    def __init__(self, office: Office) -> None:
        self._office = office

    def taking(self) -> Taking:
        """Its database. Raises Rejected while it takes nothing."""
        office, place = self._office, f"region {self._office.rules.me}"
        source = source_of(office.config)
        if not isinstance(source, PostgresSource):
            cure = "the embedded ledger takes them as transactions of their own"
            raise Rejected("not_postgres", "this region's ledger is no database", status=409, place=place, cure=cure)
        if office.memory.state is not State.PRIMARY or not office.term.is_open:
            cure = "ask the primary region; replicator status names it"
            raise Rejected("not_primary", "this region does not lead", status=409, place=place, cure=cure)
        core = office.core
        definitions = core.journal.definitions(core.strand).values()
        return PostgresTaking(source.conninfo(), {definition.label: definition for definition in definitions})
