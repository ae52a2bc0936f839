"""The catalogue is a contract: names, kinds and labels. What is not known is left out."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from replicator.status.metrics import CATALOGUE, PREFIX, Metrics
from replicator.status.model import Snapshot
from tests.status import samples

EXPECTED = {
    "replicator_journal_bytes": ("gauge", "region strand"),
    "replicator_journal_first_sequence": ("gauge", "region strand"),
    "replicator_journal_oldest_seconds": ("gauge", "region strand"),
    "replicator_journal_held": ("gauge", "region strand holder"),
    "replicator_journal_pruned_blocks_total": ("counter", "region strand"),
    "replicator_journal_forced_blocks_total": ("counter", "region strand"),
    "replicator_known_region_sequence": ("gauge", "region strand follower"),
    "replicator_known_region_age_seconds": ("gauge", "region strand follower"),
    "replicator_known_region_lost": ("gauge", "region strand follower"),
    "replicator_applied_blocks_total": ("counter", "region strand"),
    "replicator_applied_sequence": ("gauge", "region strand"),
    "replicator_at_risk_blocks": ("gauge", "region strand"),
    "replicator_source_waits": ("gauge", "region"),
    "replicator_at_risk_amount": ("gauge", "region strand table currency"),
    "replicator_at_risk_unknown": ("gauge", "region strand"),
    "replicator_acknowledged_sequence": ("gauge", "region strand"),
    "replicator_acknowledge_degraded": ("gauge", "region strand"),
    "replicator_acknowledge_waiting": ("gauge", "region strand"),
    "replicator_acknowledge_oldest_seconds": ("gauge", "region strand"),
    "replicator_copied_rows": ("gauge", "region"),
    "replicator_copy_rows_estimate": ("gauge", "region"),
    "replicator_verified_age_seconds": ("gauge", "region strand"),
    "replicator_checkpoints_total": ("counter", "region strand"),
    "replicator_mismatches_total": ("counter", "region strand"),
    "replicator_scrubs_total": ("counter", "region strand"),
    "replicator_scrub_sequence": ("gauge", "region strand"),
    "replicator_scrub_age_seconds": ("gauge", "region strand"),
    "replicator_digest_sequence": ("gauge", "region strand"),
    "replicator_divergent_keys": ("gauge", "region strand table"),
    "replicator_drifted_rows_total": ("counter", "region"),
    "replicator_duplicates_total": ("counter", "region strand stage"),
    "replicator_epoch": ("gauge", "region strand"),
    "replicator_feed_followers": ("gauge", "region"),
    "replicator_feed_sent_sequence": ("gauge", "region strand follower"),
    "replicator_drill_age_seconds": ("gauge", "region kind"),
    "replicator_drill_passed": ("gauge", "region kind"),
    "replicator_head_sequence": ("gauge", "region strand"),
    "replicator_heartbeat_age_seconds": ("gauge", "region strand stage"),
    "replicator_info": ("gauge", "region version"),
    "replicator_lag_blocks": ("gauge", "region strand stage"),
    "replicator_failover_level": ("gauge", "region level"),
    "replicator_failover_state": ("gauge", "region state"),
    "replicator_failover_total": ("counter", "region event"),
    "replicator_lease_known": ("gauge", "region"),
    "replicator_orphaned_transactions": ("gauge", "region"),
    "replicator_peer_seen_age_seconds": ("gauge", "region peer"),
    "replicator_promotable": ("gauge", "region"),
    "replicator_would_lose_blocks": ("gauge", "region"),
    "replicator_lag_seconds": ("gauge", "region strand stage"),
    "replicator_last_progress_timestamp_seconds": ("gauge", "region strand stage"),
    "replicator_lease_remaining_seconds": ("gauge", "region strand"),
    "replicator_mark_regressions_total": ("counter", "region strand"),
    "replicator_quarantined_statements": ("gauge", "region strand"),
    "replicator_ready": ("gauge", "region mode"),
    "replicator_received_sequence": ("gauge", "region strand"),
    "replicator_role": ("gauge", "region role"),
    "replicator_settle_bytes": ("gauge", "region strand"),
    "replicator_settle_clock_error_seconds": ("gauge", "region strand"),
    "replicator_settle_clock_offset_seconds": ("gauge", "region strand"),
    "replicator_settle_conflicts_total": ("counter", "region strand"),
    "replicator_settle_entries": ("gauge", "region strand"),
    "replicator_settle_gap_requests_total": ("counter", "region strand"),
    "replicator_settle_gaps_filled_total": ("counter", "region strand"),
    "replicator_settle_gaps_opened_total": ("counter", "region strand"),
    "replicator_settle_gaps_waived_total": ("counter", "region strand"),
    "replicator_settle_idle_strands": ("gauge", "region"),
    "replicator_settle_late_total": ("counter", "region strand"),
    "replicator_settle_oldest_gap_seconds": ("gauge", "region strand"),
    "replicator_settle_oldest_seconds": ("gauge", "region strand"),
    "replicator_settle_open_gaps": ("gauge", "region strand"),
    "replicator_settle_window_seconds": ("gauge", "region strand"),
    "replicator_settled_sequence": ("gauge", "region strand"),
    "replicator_slot_retained_bytes": ("gauge", "region"),
    "replicator_slot_safe_bytes": ("gauge", "region"),
    "replicator_stage_condition": ("gauge", "region strand stage condition"),
    "replicator_stage_trouble_seconds": ("gauge", "region strand stage reason"),
    "replicator_uptime_seconds": ("gauge", "region"),
    "replicator_verified_sequence": ("gauge", "region strand"),
}


class Fixed:
    """A status source that always says the same."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.asked = 0
        self._snapshot = snapshot

    def snapshot(self) -> Snapshot:
        self.asked += 1
        return self._snapshot


def scrape(snapshot: Snapshot) -> dict[str, float]:
    """The samples of a scrape, by ``name{label="value",…}`` with the region left out."""
    registry = CollectorRegistry()
    Metrics(registry, Fixed(snapshot))
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()) if name != "region")
            assert not sample.name.startswith(PREFIX) or sample.labels["region"] == snapshot.region
            found[f"{sample.name.removeprefix(PREFIX)}{{{labels}}}"] = sample.value
    return found


def test_the_catalogue_is_what_was_promised() -> None:
    catalogue = {f"{PREFIX}{f.name}": (f.kind, " ".join(("region", *f.labels))) for f in CATALOGUE}
    assert catalogue == EXPECTED
    assert len(CATALOGUE) == len(EXPECTED)


def test_a_scrape_of_everything_has_every_metric_with_its_labels() -> None:
    registry = CollectorRegistry()
    Metrics(registry, Fixed(samples.everything()))
    scraped = {
        sample.name: (family.type, set(sample.labels))
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
        if sample.name in EXPECTED
    }
    assert scraped == {name: (kind, set(labels.split())) for name, (kind, labels) in EXPECTED.items()}


def test_the_figures_of_a_region_that_is_cut_off() -> None:
    found = scrape(samples.cut_off())
    assert "lag_blocks{stage=end_to_end,strand=main}" not in found  # not known: the last word is too old
    assert found["lag_blocks{stage=apply,strand=main}"] == 50
    assert found["lag_seconds{stage=feed,strand=main}"] == pytest.approx(120.1)
    assert found["heartbeat_age_seconds{stage=feed,strand=main}"] == pytest.approx(120.1)
    assert found["stage_condition{condition=waiting,stage=feed,strand=main}"] == 1
    assert found["stage_condition{condition=idle,stage=feed,strand=main}"] == 0
    assert found["stage_trouble_seconds{reason=primary_unreachable,stage=feed,strand=main}"] == 115
    assert found["settle_open_gaps{strand=main}"] == 2
    assert found["settle_oldest_gap_seconds{strand=main}"] == 340
    assert found["settle_late_total{strand=main}"] == 1
    assert found["applied_blocks_total{strand=main}"] == 104_140
    assert found["verified_sequence{strand=main}"] == 100
    assert found["ready{mode=applied}"] == 0
    assert found["role{role=replica}"] == 1
    assert found["role{role=primary}"] == 0
    moved_at = samples.committed(99.98) / 1e6
    assert found["last_progress_timestamp_seconds{stage=apply,strand=main}"] == pytest.approx(moved_at, abs=0.001)


def test_what_is_not_known_is_left_out() -> None:
    names = {name.split("{")[0] for name in scrape(samples.copying())}
    assert not names & {"head_sequence", "received_sequence", "applied_blocks_total", "settle_entries", "lag_seconds"}
    assert not names & {"divergent_keys", "lease_remaining_seconds", "at_risk_blocks", "slot_safe_bytes"}
    assert "copied_rows" in names


def test_a_scrape_is_one_moment() -> None:
    source = Fixed(samples.healthy())
    registry = CollectorRegistry()
    Metrics(registry, source)
    assert source.asked == 0
    generate_latest(registry)
    assert source.asked == 1


def test_two_catalogues_on_one_registry_are_refused() -> None:
    registry = CollectorRegistry()
    Metrics(registry, Fixed(samples.healthy()))
    with pytest.raises(ValueError, match="Duplicated"):
        Metrics(registry, Fixed(samples.healthy()))


def test_the_figures_of_a_settle_buffer() -> None:
    found = scrape(samples.region(samples.healthy_progress(), settle=samples.settling()))
    expected = {
        "entries": 1,
        "oldest_seconds": 2.0,
        "open_gaps": 1,
        "oldest_gap_seconds": 2.0,
        "gaps_opened_total": 3,
        "gaps_filled_total": 2,
        "gap_requests_total": 2,
        "gaps_waived_total": 0,
        "conflicts_total": 0,
        "late_total": 0,
        "window_seconds": 1.0,
        "clock_offset_seconds": 1.5,
        "clock_error_seconds": 0.1,
    }
    assert {name: found[f"settle_{name}{{strand=main}}"] for name in expected} == pytest.approx(expected)
    assert found["settle_idle_strands{}"] == 0
    assert found["settle_bytes{strand=main}"] > 0


def test_lateness_is_a_histogram() -> None:
    registry = CollectorRegistry()
    Metrics(registry, Fixed(samples.region(samples.healthy_progress(), settle=samples.settling())))

    def value(name: str, **labels: str) -> float | None:
        labels |= {"region": "tokyo", "strand": "main"}
        return registry.get_sample_value(f"replicator_settle_lateness_seconds_{name}", labels)

    assert value("bucket", le="0.001") == 8  # all that left in order
    assert value("bucket", le="0.256") == 8
    assert value("bucket", le="0.512") == 9  # the hole that closed by itself
    assert value("bucket", le="+Inf") == value("count") == 9
    assert value("sum") == pytest.approx(0.3)


def test_a_region_without_a_settle_buffer_has_no_lateness() -> None:
    assert not [name for name in scrape(samples.primary()) if name.startswith("settle_")]


def test_failover_is_told_by_state_level_event_and_peer() -> None:
    scraped = scrape(samples.clustered())
    assert scraped["failover_state{state=following}"] == 1
    assert sum(value for name, value in scraped.items() if name.startswith("failover_state")) == 1
    assert scraped["failover_level{level=yellow}"] == 1
    assert scraped["failover_total{event=promoted}"] == 1
    assert scraped["failover_total{event=refused}"] == 0
    assert scraped["peer_seen_age_seconds{peer=virginia}"] == 12.4
    assert (scraped["promotable{}"], scraped["orphaned_transactions{}"], scraped["would_lose_blocks{}"]) == (1, 3, 2)
    assert not [name for name in scrape(samples.healthy()) if name.startswith(("failover", "peer", "promot", "orph"))]
