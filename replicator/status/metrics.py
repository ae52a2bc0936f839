"""The whole catalogue of metrics, in one table, read from one snapshot a scrape.

Guarantee: what a scrape shows belongs to one moment; a figure that is not known is left out, never shown as zero; the
names and labels are those of ``CATALOGUE`` and of the histogram ``settle_lateness_seconds``. There is no registry but
the one that is passed in, and nothing is counted in two places: counters are kept by whoever does the work and reported
in the snapshot.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from replicator.status import metric_readings as read
from replicator.status.marks import Mode
from replicator.status.model import ROLES, Snapshot, StatusSource
from replicator.status.readiness import blocked, is_promotable

PREFIX = "replicator_"
MODES: tuple[Mode, ...] = ("settled", "applied")


class Family(NamedTuple):
    """A metric: its name without the prefix, its labels behind ``region``, and how a snapshot is read for it."""

    name: str
    kind: Literal["gauge", "counter"]
    labels: tuple[str, ...]
    help: str
    read: read.Read


_S = ("strand",)
_STAGE = ("strand", "stage")

CATALOGUE: tuple[Family, ...] = (
    # What this is
    Family("info", "gauge", ("version",), "1; its label is the program's version", lambda s: [((s.version,), 1.0)]),
    Family("uptime_seconds", "gauge", (), "Time since the sidecar started", read.region(lambda s: s.uptime_seconds)),
    Family(
        "role",
        "gauge",
        ("role",),
        "1 for the role that the region has",
        lambda s: [((role,), float(s.role == role)) for role in ROLES],
    ),
    Family("epoch", "gauge", _S, "Term of write ownership", read.strand(lambda s: s.epoch)),
    Family(
        "ready",
        "gauge",
        ("mode",),
        "1 if /readiness answers 200 in this mode with its default lag",
        lambda s: [((mode,), float(blocked(s, mode) is None)) for mode in MODES],
    ),
    # How far it is
    Family("head_sequence", "gauge", _S, "The primary's last block, as last heard", read.strand(read.head)),
    Family("received_sequence", "gauge", _S, "Last block durable in this region", read.mark("received")),
    Family("settled_sequence", "gauge", _S, "Last block whose order is certain", read.mark("settled")),
    Family("applied_sequence", "gauge", _S, "Last block that readers of the replica see", read.mark("applied")),
    Family(
        "verified_sequence",
        "gauge",
        _S,
        "Last block at which replica and primary were proven equal",
        read.mark("verified"),
    ),
    Family(
        "applied_blocks_total",
        "counter",
        _S,
        "Blocks ever applied to the replica, counted in its own transactions",
        read.strand(lambda s: s.applied_blocks),
    ),
    # How far behind, and why
    Family("lag_blocks", "gauge", _STAGE, "Blocks that a stage, or end_to_end readers, are behind", read.lag("blocks")),
    Family("lag_seconds", "gauge", _STAGE, "Age of the oldest block that a stage has not got", read.lag("seconds")),
    Family(
        "last_progress_timestamp_seconds",
        "gauge",
        _STAGE,
        "When a stage last got on, Unix time",
        read.stage(lambda s, stage: s.at_us / 1e6 - stage.progress_age_seconds),
    ),
    Family(
        "heartbeat_age_seconds",
        "gauge",
        _STAGE,
        "Time since the last sign of life of the path up to this stage",
        read.stage(lambda s, stage: stage.heartbeat_age_seconds),
    ),
    Family("stage_condition", "gauge", (*_STAGE, "condition"), "1 for what the stage is doing", read.conditions),
    Family(
        "stage_trouble_seconds",
        "gauge",
        (*_STAGE, "reason"),
        "How long a stage has been waiting or halted, and for what",
        read.troubles,
    ),
    # The source
    Family("slot_retained_bytes", "gauge", (), "Log that the primary keeps for us", read.source("retained_bytes")),
    Family(
        "slot_safe_bytes",
        "gauge",
        (),
        "Log that may still be written before the slot is lost",
        read.source("safe_bytes"),
    ),
    Family("copied_rows", "gauge", (), "Rows of the first copy so far", read.source("copied_rows")),
    Family(
        "copy_rows_estimate",
        "gauge",
        (),
        "Rows that the first copy will have, about",
        read.source("copy_rows_estimate"),
    ),
    Family(
        "source_waits",
        "gauge",
        (),
        "1 if the primary's commits wait for other regions through us, 0 if they should and do not",
        read.source("waited_for"),
    ),
    # The settle buffer
    Family("settle_entries", "gauge", _S, "Entries that wait to settle", read.settle_field("entries")),
    Family("settle_bytes", "gauge", _S, "Bytes that wait to settle", read.settle_field("bytes")),
    Family(
        "settle_oldest_seconds",
        "gauge",
        _S,
        "How long what waits to settle has been waiting",
        read.settle_field("oldest_age_seconds"),
    ),
    Family("settle_open_gaps", "gauge", _S, "Gaps that are not closed", read.settle(read.open_gaps)),
    Family(
        "settle_oldest_gap_seconds",
        "gauge",
        _S,
        "Age of the oldest gap that is not closed",
        read.settle(read.oldest_gap),
    ),
    Family(
        "settle_gaps_opened_total",
        "counter",
        _S,
        "Holes in the sequence, mere reordering included",
        read.settle_field("gaps_opened"),
    ),
    Family("settle_gaps_filled_total", "counter", _S, "Gaps whose entries came", read.settle_field("gaps_filled")),
    Family("settle_gaps_waived_total", "counter", _S, "Gaps that a person gave up", read.settle_field("gaps_waived")),
    Family(
        "settle_gap_requests_total",
        "counter",
        _S,
        "Times that missing entries were asked for",
        read.settle_field("gap_requests"),
    ),
    Family(
        "settle_conflicts_total",
        "counter",
        _S,
        "Entries that contradicted another one: the strand halts",
        read.settle_field("conflicts"),
    ),
    Family(
        "settle_window_seconds",
        "gauge",
        _S,
        "How long an entry may be on its way, as configured or chosen",
        read.settle_field("window_seconds"),
    ),
    Family(
        "settle_clock_offset_seconds",
        "gauge",
        _S,
        "The feed's clock less ours, by its least delayed heartbeats",
        read.settle_field("clock_offset_seconds"),
    ),
    Family(
        "settle_clock_error_seconds",
        "gauge",
        _S,
        "By how much that may be wrong: what heartbeats' delays varied by",
        read.settle_field("clock_error_seconds"),
    ),
    Family(
        "settle_idle_strands",
        "gauge",
        (),
        "Strands that the others do not wait for",
        read.region(read.idle_strands),
    ),
    Family("settle_late_total", "counter", _S, "Entries that came behind what was released", read.settle_field("late")),
    Family("duplicates_total", "counter", _STAGE, "Entries that came again and were dropped", read.duplicates),
    # Safety
    Family(
        "mark_regressions_total",
        "counter",
        _S,
        "Attempts to move a mark back",
        read.strand(lambda s: s.progress.regressions),
    ),
    Family(
        "drifted_rows_total",
        "counter",
        (),
        "Rows of the replica that somebody else had changed",
        read.region(lambda s: None if s.replica is None else s.replica.drifted_rows),
    ),
    Family(
        "verified_age_seconds",
        "gauge",
        _S,
        "How long blocks behind the verified one have been waiting to be proven equal",
        read.verify(lambda v: v.age_seconds),
    ),
    Family(
        "digest_sequence", "gauge", _S, "Block at which rows were compared last", read.verify(lambda v: v.compared_at)
    ),
    Family("checkpoints_total", "counter", _S, "Comparisons with the journal", read.verify(lambda v: v.checkpoints)),
    Family("mismatches_total", "counter", _S, "Keys that were found wrong", read.verify(lambda v: v.mismatches)),
    Family("scrubs_total", "counter", _S, "Whole comparisons with the primary", read.verify(lambda v: v.scrubs)),
    Family(
        "scrub_sequence", "gauge", _S, "Block of the last whole comparison", read.verify(lambda v: v.scrub_sequence)
    ),
    Family(
        "scrub_age_seconds",
        "gauge",
        _S,
        "Time since the end of the last whole comparison",
        read.verify(lambda v: v.scrub_age_seconds),
    ),
    Family("divergent_keys", "gauge", ("strand", "table"), "Keys that differ from the primary", read.divergent),
    Family(
        "quarantined_statements",
        "gauge",
        _S,
        "Statements set aside because they could not be applied",
        read.strand(lambda s: s.quarantined_statements),
    ),
    Family(
        "lease_remaining_seconds",
        "gauge",
        _S,
        "Time left of the lease to be primary",
        read.strand(lambda s: s.lease_remaining_seconds),
    ),
    Family(
        "at_risk_blocks",
        "gauge",
        _S,
        "Blocks of this primary that no other region has",
        read.strand(lambda s: s.at_risk_blocks),
    ),
    Family(
        "at_risk_amount",
        "gauge",
        ("strand", "table", "currency"),
        "Sum of the absolute changes of a configured amount in those blocks",
        read.at_risk_amounts,
    ),
    Family(
        "at_risk_unknown",
        "gauge",
        _S,
        "Changes in those blocks whose amount is not known",
        read.strand(lambda s: s.at_risk_unknown),
    ),
    Family(
        "acknowledged_sequence",
        "gauge",
        _S,
        "Last block that as many other regions have as must",
        read.acknowledge(lambda a: a.acknowledged),
    ),
    Family(
        "acknowledge_degraded",
        "gauge",
        _S,
        "1 while writers are answered without the other regions that must have their block",
        read.acknowledge(lambda a: a.degraded),
    ),
    Family("acknowledge_waiting", "gauge", _S, "Writers that wait for them", read.acknowledge(lambda a: a.waiting)),
    Family(
        "acknowledge_oldest_seconds",
        "gauge",
        _S,
        "How long the oldest block that they do not have has been waiting",
        read.acknowledge(lambda a: a.oldest_seconds),
    ),
    # Failover
    Family("failover_state", "gauge", ("state",), "1 for the state that the region is in", read.failover_states),
    Family(
        "failover_level",
        "gauge",
        ("level",),
        "1 for what is thought of the primary: green there, yellow in doubt, red lost",
        read.failover_levels,
    ),
    Family(
        "failover_total",
        "counter",
        ("event",),
        "Changes of state since the start, by what led to them",
        read.failover_totals,
    ),
    Family(
        "promotable",
        "gauge",
        (),
        "1 if the region leads or could be promoted now; status has the reason if not",
        read.failover(lambda f: float(is_promotable(f.own))),
    ),
    Family(
        "lease_known",
        "gauge",
        (),
        "0 while the lease store does not answer: nobody can be promoted, and a primary stops when its lease ends",
        read.failover(lambda f: float(f.is_lease_known)),
    ),
    Family(
        "would_lose_blocks",
        "gauge",
        (),
        "Blocks known to be lost if the primary were gone now",
        read.failover(lambda f: f.lost_blocks),
    ),
    Family(
        "peer_seen_age_seconds", "gauge", ("peer",), "Time since another region of the cluster answered", read.peer_ages
    ),
    Family(
        "orphaned_transactions",
        "gauge",
        (),
        "Sealed transactions that only this region had, and that nobody has re-applied or settled",
        read.failover(lambda f: f.orphaned),
    ),
    # The journal
    Family("journal_bytes", "gauge", _S, "Blocks that are kept", read.kept(lambda k: k.bytes)),
    Family("journal_first_sequence", "gauge", _S, "First block that is kept", read.kept(lambda k: k.first_sequence)),
    Family(
        "journal_oldest_seconds", "gauge", _S, "Age of what is oldest", read.journal(lambda j: j.oldest_age_seconds)
    ),
    Family("journal_held", "gauge", ("strand", "holder"), "1 for who keeps what should go", read.journal_holder),
    Family("journal_pruned_blocks_total", "counter", _S, "Blocks removed", read.kept(lambda k: k.pruned_blocks)),
    Family(
        "journal_forced_blocks_total",
        "counter",
        _S,
        "Blocks removed, for the budget, that a known region needed",
        read.kept(lambda k: k.forced_blocks),
    ),
    Family(
        "known_region_sequence",
        "gauge",
        ("strand", "follower"),
        "Up to where a region has everything durably, as it said",
        read.known_regions(lambda region, journal: region.sequence),
    ),
    Family(
        "known_region_age_seconds",
        "gauge",
        ("strand", "follower"),
        "Time since a region last said so",
        read.known_regions(lambda region, journal: region.reported_age_seconds(journal.at_us)),
    ),
    Family(
        "known_region_lost",
        "gauge",
        ("strand", "follower"),
        "1 if what the region needs next was pruned",
        read.known_regions(lambda region, journal: float(region.state(journal.report.begins_behind) == "lost")),
    ),
    # Who follows
    Family("feed_followers", "gauge", (), "Open streams of the feed", read.region(lambda s: len(s.followers))),
    Family(
        "feed_sent_sequence",
        "gauge",
        ("strand", "follower"),
        "Last block sent to a follower",
        lambda s: {(f.strand, f.region): f.sent_sequence for f in s.followers}.items(),
    ),
    # Drills
    Family(
        "drill_age_seconds",
        "gauge",
        ("kind",),
        "Time since the last drill of a kind",
        lambda s: [((drill.kind,), drill.age_seconds) for drill in s.drills],
    ),
    Family(
        "drill_passed",
        "gauge",
        ("kind",),
        "1 if the last drill of a kind reached its targets",
        lambda s: [((drill.kind,), float(drill.outcome == "passed")) for drill in s.drills],
    ),
)


class Metrics(Collector):
    """The catalogue on a registry: ``Metrics(registry, source)``."""

    def __init__(self, registry: CollectorRegistry, source: StatusSource) -> None:
        self._source = source
        ProcessCollector(registry=registry)
        registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """The names, so that two catalogues on one registry are refused. Reads no snapshot."""
        yield from (_family(family, []) for family in CATALOGUE)
        yield _new_lateness()

    def collect(self) -> Iterator[Metric]:
        """Every metric of which something is known, from one snapshot."""
        snapshot = self._source.snapshot()
        for family in CATALOGUE:
            known = [
                ((snapshot.region, *labels), value) for labels, value in family.read(snapshot) if value is not None
            ]
            if known:
                yield _family(family, known)
        yield from _lateness(snapshot)


def _new_lateness() -> HistogramMetricFamily:
    text = "How late entries came: 0 in order, else how long the hole was open that they closed unasked"
    return HistogramMetricFamily(PREFIX + "settle_lateness_seconds", text, labels=("region", "strand"))


def _lateness(snapshot: Snapshot) -> Iterator[Metric]:
    metric = _new_lateness()
    for state in snapshot.strands:
        if state.settle is not None and state.settle.lateness:
            counts = itertools.accumulate(count for _, count in state.settle.lateness)
            edges = ("+Inf" if math.isinf(edge) else repr(edge) for edge, _ in state.settle.lateness)
            labels = (snapshot.region, state.progress.strand)
            metric.add_metric(labels, list(zip(edges, counts, strict=True)), state.settle.lateness_seconds)
    if metric.samples:
        yield metric


def _family(family: Family, samples: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    kind = GaugeMetricFamily if family.kind == "gauge" else CounterMetricFamily
    metric = kind(PREFIX + family.name, family.help, labels=("region", *family.labels))
    for labels, value in samples:
        metric.add_metric(labels, value)
    return metric
