"""A running region as its controller sees it: ``cluster/failover/region.py`` says what is asked of it."""

from __future__ import annotations

from collections.abc import Callable

from replicator.cluster.failover.at_risk import AtRisk
from replicator.cluster.failover.controller import Controller
from replicator.cluster.failover.membership import Membership
from replicator.cluster.failover.region import RoleFlow, StrandHealth
from replicator.cluster.rejoin.orphan_receiver import OrphanReceiver, PostgresOrphanReceiver
from replicator.cluster.rejoin.orphans import Orphans
from replicator.config import PostgresSourceSettings
from replicator.config.roles import in_role, source_of
from replicator.errors import Rejected
from replicator.pipeline.feed.client import Upstream
from replicator.pipeline.replicas.base import Replica
from replicator.runtime import wiring
from replicator.runtime.context import RegionContext
from replicator.runtime.identity import DatabaseNote
from replicator.runtime.role_adapters import role_adapter
from replicator.runtime.role_runner import RoleRunner
from replicator.status.marks import StageCondition

COPYING = ("copying", "streaming")  # a source's phases once it has what it needs


def controller(
    context: RegionContext, runner: RoleRunner, probe: Callable[[str], None] = lambda step: None
) -> Controller:
    """The controller of a region of a cluster; ``probe`` is called before and after all that it does or keeps."""
    config = context.config
    rules, lease = wiring.rules(config), wiring.lease(config, context.strand)
    context.status.controller = Controller(Membership(ControlledRegion(context, runner), rules, lease, probe))
    return context.status.controller


class ControlledRegion:
    """See ``cluster.failover.region.Region``."""

    def __init__(self, context: RegionContext, runner: RoleRunner) -> None:
        self.config, self.strand, self.data_dir = context.config, context.strand, context.data_dir
        self.journal, self.history, self.journal_head = context.journal, context.history, context.journal_head
        self.flow: RoleFlow = runner
        self.adapter = role_adapter(context, runner)
        self.look_again = context.look_again
        self._status = context.status

    @property
    def at_risk(self) -> AtRisk | None:
        """What would be lost with this region, while it is the primary."""
        return self._status.at_risk

    def health(self) -> StrandHealth:
        """How its strand is, by what status shows of it."""
        strand = self._status.strand_state()
        verify, halted, source_trouble = strand.verify, "", ""
        for stage in strand.progress.stages:
            # A halted feed speaks against no promotion: whom it follows may be the region that is lost.
            if stage.name in ("settle", "apply") and stage.condition is StageCondition.HALTED and stage.trouble:
                halted = halted or f"{stage.name} halted: {stage.trouble.message}"
            if stage.name == "apply" and stage.condition is StageCondition.WAITING and stage.trouble:
                halted = halted or f"apply waits: {stage.trouble.message}"  # who cannot be written to cannot lead
            if stage.name == "source" and stage.trouble:
                source_trouble = stage.trouble.message
        return StrandHealth(
            quarantined_statements=strand.quarantined_statements or 0,
            divergent_keys=0 if verify is None else sum(verify.divergent_keys.values()),
            verified=None if verify is None else verify.verified,
            halted=halted,
            source_trouble=source_trouble,
            is_copying=self._status.source is not None and self._status.source.report.phase in COPYING,
        )

    def upstream(self, url: str) -> Upstream:
        """How the region at ``url`` is followed."""
        upstream = wiring.upstream(self.config, url)
        assert upstream is not None
        return upstream

    def make_replica(self) -> Replica:
        """The writing side of its replica; opens nothing."""
        return wiring.replica(in_role(self.config, "replica", 1), DatabaseNote(self.config.region.files))

    def orphans(self, primary_url: Callable[[], str | None]) -> Orphans:
        """Its sealed orphans."""

        def primary() -> Upstream | None:
            url = primary_url()
            return None if url is None else self.upstream(url)

        return Orphans(self.data_dir, self.journal, self.history, self.strand, primary)

    def orphan_receiver(self) -> OrphanReceiver:
        """Its database, for orphans of other regions. Raises Rejected if its ledger is no database."""
        source = source_of(self.config)
        if not isinstance(source, PostgresSourceSettings):
            place = f"region {self.config.region.name}"
            cure = "the embedded ledger takes them as transactions of their own"
            raise Rejected("not_postgres", "this region's ledger is no database", status=409, place=place, cure=cure)
        definitions = self.journal.definitions(self.strand).values()
        return PostgresOrphanReceiver(source.conninfo(), {definition.label: definition for definition in definitions})
