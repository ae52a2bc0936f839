"""Where orphans meet the region's role: whom they are re-applied to, and when this region takes those of others.

Guarantee: orphans of another region are taken only while this one leads with its fence open; the sidecar's own session
would pass the fence at any other time, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replicator.cluster.failover.states import RoleState
from replicator.cluster.rejoin.orphans import Orphans
from replicator.cluster.rejoin.receive import OrphanReceiver, PostgresOrphanReceiver
from replicator.config import PostgresSourceSettings
from replicator.config.roles import source_of
from replicator.errors import Rejected
from replicator.pipeline.feed.client import Upstream
from replicator.runtime import wiring
from replicator.runtime.context import RegionContext

if TYPE_CHECKING:
    from replicator.cluster.failover.controller import Controller


def orphans_of(core: RegionContext, primary_url: Callable[[], str | None]) -> Orphans:
    """The sealed orphans of this region."""

    def upstream() -> Upstream | None:
        url = primary_url()
        return None if url is None else wiring.upstream(core.config, url)

    return Orphans(core.data_dir, core.journal, core.history, core.strand, upstream)


class OrphanTaker:
    """A PostgreSQL primary, while it is one."""

    def __init__(self, office: Controller) -> None:
        self._office = office

    def taking(self) -> OrphanReceiver:
        """Its database. Raises Rejected while it takes nothing."""
        office, place = self._office, f"region {self._office.rules.me}"
        source = source_of(office.config)
        if not isinstance(source, PostgresSourceSettings):
            cure = "the embedded ledger takes them as transactions of their own"
            raise Rejected("not_postgres", "this region's ledger is no database", status=409, place=place, cure=cure)
        if office.memory.state is not RoleState.PRIMARY or not office.term.is_open:
            cure = "ask the primary region; replicator status names it"
            raise Rejected("not_primary", "this region does not lead", status=409, place=place, cure=cure)
        core = office.core
        definitions = core.journal.definitions(core.strand).values()
        return PostgresOrphanReceiver(source.conninfo(), {definition.label: definition for definition in definitions})
