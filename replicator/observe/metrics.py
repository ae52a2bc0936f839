"""The whole catalogue of metrics, in one table, read from one snapshot a scrape.

Guarantee: what a scrape shows belongs to one moment; a figure that is not known is left out, never shown as zero; the
names and labels are those of ``CATALOGUE``. There is no registry but the one that is passed in, and nothing is counted
in two places: counters are kept by whoever does the work and reported in the snapshot. The one metric that events feed
directly is the histogram ``settle_lateness_seconds``, which no snapshot could carry.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from replicator.marks import Mode
from replicator.observe import readings as read
from replicator.observe.snapshot import ROLES, StatusSource
from replicator.observe.status import blocked

PREFIX = "replicator_"
LATENESS_BUCKETS_SECONDS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
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
    # The settle buffer
    Family("settle_entries", "gauge", _S, "Entries that wait to settle", read.settle_field("entries")),
    Family("settle_bytes", "gauge", _S, "Bytes that wait to settle", read.settle_field("bytes")),
    Family("settle_open_gaps", "gauge", _S, "Gaps that are not closed", read.settle(read.open_gaps)),
    Family(
        "settle_oldest_gap_seconds",
        "gauge",
        _S,
        "Age of the oldest gap that is not closed",
        read.settle(read.oldest_gap),
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
        "digest_sequence", "gauge", _S, "Block of the last digests compared", read.strand(lambda s: s.digest_sequence)
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
    # Who follows
    Family("feed_followers", "gauge", (), "Open streams of the feed", read.region(lambda s: len(s.followers))),
    Family(
        "feed_sent_sequence",
        "gauge",
        ("strand", "follower"),
        "Last block sent to a follower",
        lambda s: {(f.strand, f.region): f.sent_sequence for f in s.followers}.items(),
    ),
)


class Metrics(Collector):
    """The catalogue on a registry: ``Metrics(registry, source)``.

    ``settle_lateness`` is to be observed with the seconds that an entry came behind the first of those that it had to
    wait for or that had to wait for it: ``metrics.settle_lateness.labels(region, strand).observe(seconds)``.
    """

    def __init__(self, registry: CollectorRegistry, source: StatusSource) -> None:
        self._source = source
        self.settle_lateness = Histogram(
            PREFIX + "settle_lateness_seconds",
            "How late entries came that were out of order",
            ("region", "strand"),
            buckets=LATENESS_BUCKETS_SECONDS,
            registry=registry,
        )
        ProcessCollector(registry=registry)
        registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """The names, so that two catalogues on one registry are refused. Reads no snapshot."""
        return (_family(family, []) for family in CATALOGUE)

    def collect(self) -> Iterator[Metric]:
        """Every metric of which something is known, from one snapshot."""
        snapshot = self._source.snapshot()
        for family in CATALOGUE:
            known = [
                ((snapshot.region, *labels), value) for labels, value in family.read(snapshot) if value is not None
            ]
            if known:
                yield _family(family, known)


def _family(family: Family, samples: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    kind = GaugeMetricFamily if family.kind == "gauge" else CounterMetricFamily
    metric = kind(PREFIX + family.name, family.help, labels=("region", *family.labels))
    for labels, value in samples:
        metric.add_metric(labels, value)
    return metric
