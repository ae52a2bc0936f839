"""How each metric is read from a snapshot. ``metrics.py`` has the catalogue that uses these.

Guarantee: pure; what is not known reads as None and is left out of the scrape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from replicator.cluster.decisions.detector import Level
from replicator.cluster.decisions.states import RoleState
from replicator.cluster.failover.status import FailoverView
from replicator.pipeline.acknowledge.view import AcknowledgeView
from replicator.status.marks import Mark, MarkName, StageCondition, StageView
from replicator.status.model import JournalView, Snapshot, StrandState
from replicator.storage.journal.keeper import RetentionReport
from replicator.storage.journal.regions import KnownRegion
from replicator.verify.view import VerifyView

Sample = tuple[tuple[str, ...], float | None]  # the labels behind "region", and the value; None: not known
Read = Callable[[Snapshot], Iterable[Sample]]


def region(value: Callable[[Snapshot], float | None]) -> Read:
    """One figure of the region."""
    return lambda snapshot: [((), value(snapshot))]


def strand(value: Callable[[StrandState], float | None]) -> Read:
    """A figure of each strand."""
    return lambda snapshot: [((state.progress.strand,), value(state)) for state in snapshot.strands]


def mark(name: MarkName) -> Read:
    """Where a mark is in each strand."""

    def sequence(state: StrandState) -> float | None:
        mark: Mark | None = state.progress.marks[name]
        return None if mark is None else mark.sequence

    return strand(sequence)


def stage(value: Callable[[Snapshot, StageView], float | None]) -> Read:
    """A figure of each stage of each strand."""
    return lambda snapshot: [
        ((state.progress.strand, stage.name), value(snapshot, stage))
        for state in snapshot.strands
        for stage in state.progress.stages
    ]


def lag(measure: Literal["blocks", "seconds"]) -> Read:
    """The lag of each stage and end to end."""

    def read(snapshot: Snapshot) -> Iterator[Sample]:
        for state in snapshot.strands:
            view = state.progress
            for stage in view.stages:
                yield (view.strand, stage.name), getattr(stage.lag, measure)
            yield (view.strand, "end_to_end"), getattr(view.end_to_end, measure)

    return read


def conditions(snapshot: Snapshot) -> Iterator[Sample]:
    """Each stage with each condition: 1 for the one that it is in."""
    for state in snapshot.strands:
        for stage in state.progress.stages:
            for condition in StageCondition:
                labels = (state.progress.strand, stage.name, condition.value)
                yield labels, float(stage.condition is condition)


def troubles(snapshot: Snapshot) -> Iterator[Sample]:
    """What stages wait for or were halted by, with the seconds since."""
    for state in snapshot.strands:
        for stage in state.progress.stages:
            if stage.trouble is not None:
                yield (state.progress.strand, stage.name, stage.trouble.reason), stage.trouble_age_seconds


def settle(value: Callable[[StrandState], float | None]) -> Read:
    """A figure of each strand that has a settle buffer."""
    return strand(lambda state: None if state.settle is None else value(state))


def duplicates(snapshot: Snapshot) -> Iterator[Sample]:
    """Dropped duplicates, by the stage that dropped them."""
    for state in snapshot.strands:
        if state.settle is not None:
            yield (state.progress.strand, "settle"), state.settle.duplicates
        if snapshot.source is not None:
            yield (state.progress.strand, "source"), snapshot.source.duplicates


def divergent(snapshot: Snapshot) -> Iterator[Sample]:
    """Keys that differ, by table."""
    for state in snapshot.strands:
        if state.verify is not None:
            for table, keys in state.verify.divergent_keys.items():
                yield (state.progress.strand, table), keys


def verify(value: Callable[[VerifyView], float | None]) -> Read:
    """A figure of each strand whose replica is watched."""
    return strand(lambda state: None if state.verify is None else value(state.verify))


def head(state: StrandState) -> float | None:
    """The head, if it was heard."""
    mark = state.progress.head
    return None if mark is None else mark.sequence


def oldest_gap(state: StrandState) -> float:
    """The age of the oldest gap, 0 without any."""
    assert state.settle is not None
    return max((gap.age_seconds for gap in state.settle.gaps), default=0.0)


def idle_strands(snapshot: Snapshot) -> float | None:
    """How many strands are idle; None where nothing settles."""
    settles = [state.settle for state in snapshot.strands if state.settle is not None]
    return sum(settle.idle_strands for settle in settles) if settles else None


def source(field: str) -> Read:
    """A field of the source's view."""
    return region(lambda snapshot: None if snapshot.source is None else getattr(snapshot.source, field))


def settle_field(field: str) -> Read:
    """A field of the settle buffer's view."""
    return settle(lambda state: getattr(state.settle, field))


def open_gaps(state: StrandState) -> float:
    """How many gaps are not closed."""
    assert state.settle is not None
    return len(state.settle.gaps)


def journal(value: Callable[[JournalView], float | None]) -> Read:
    """A figure of each strand's journal."""
    return strand(lambda state: None if state.journal is None else value(state.journal))


def kept(value: Callable[[RetentionReport], float | None]) -> Read:
    """A figure that the keeper of each strand's journal reports."""
    return journal(lambda view: value(view.report))


def acknowledge(value: Callable[[AcknowledgeView], float | None]) -> Read:
    """A figure of each strand whose writers wait for other regions."""
    return strand(lambda state: None if state.acknowledge is None else value(state.acknowledge))


def at_risk_amounts(snapshot: Snapshot) -> Iterator[Sample]:
    """The amounts that no other region has."""
    for state in snapshot.strands:
        for (table, currency), amount in state.at_risk_amounts.items():
            yield (state.progress.strand, table, currency), amount


def known_regions(value: Callable[[KnownRegion, JournalView], float | None]) -> Read:
    """A figure of each region that is not forgotten, beside this region's journal."""
    return lambda snapshot: [
        ((state.progress.strand, region.name), value(region, state.journal))
        for state in snapshot.strands
        if state.journal is not None
        for region in state.journal.regions
        if region.forgotten is None
    ]


def journal_holder(snapshot: Snapshot) -> Iterator[Sample]:
    """1 for who keeps what should go."""
    for state in snapshot.strands:
        if state.journal is not None and (hold := state.journal.report.held_by) is not None:
            yield (state.progress.strand, hold.who), 1.0


def failover(value: Callable[[FailoverView], float | None]) -> Read:
    """A figure of a region that is in a cluster."""
    return region(lambda snapshot: None if snapshot.failover is None else value(snapshot.failover))


def failover_states(snapshot: Snapshot) -> Iterator[Sample]:
    """Each state: 1 for the one that the region is in."""
    if snapshot.failover is not None:
        for state in RoleState:
            yield (state.value,), float(snapshot.failover.own.state == state.value)


def failover_levels(snapshot: Snapshot) -> Iterator[Sample]:
    """Each level of the detector: 1 for the present one."""
    if snapshot.failover is not None:
        for level in Level:
            yield (level.value,), float(snapshot.failover.level == level.value)


def failover_totals(snapshot: Snapshot) -> Iterator[Sample]:
    """Events since the start."""
    if snapshot.failover is not None:
        yield from (((event,), count) for event, count in snapshot.failover.totals.items())


def peer_ages(snapshot: Snapshot) -> Iterator[Sample]:
    """How long ago each of the other regions answered."""
    if snapshot.failover is not None:
        yield from (((peer.region,), peer.seen_age_seconds) for peer in snapshot.failover.peers)
