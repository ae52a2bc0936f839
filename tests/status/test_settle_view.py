"""What the settle buffer says of itself reaches the snapshot, the status and the page."""

from __future__ import annotations

import math
import re

from replicator.pipeline.feed.notices import GapCounts
from replicator.status.json import status_json
from replicator.status.model import Snapshot
from replicator.status.page import page
from replicator.status.readiness import lag_cause
from replicator.status.settle_view import SettleView, settle_view
from settle_buffer import AutoWindow, Entry, SettleBuffer, SettleConfig
from settle_buffer.window import EDGES_US
from tests.status import samples


def entry(sequence: int) -> Entry:
    return Entry("main", sequence, sequence, b"%d" % sequence, b"", b"body")


def view_of(buffer: SettleBuffer, now: int, set_aside: str = "") -> SettleView:
    return settle_view(buffer.status(now), GapCounts(), set_aside)


def shown(settle: SettleView) -> Snapshot:
    return samples.region(samples.healthy_progress(), settle=settle)


def test_a_gap_goes_through_its_states() -> None:
    buffer = SettleBuffer(SettleConfig(window_us=1_000_000, expire_after_us=9_000_000))
    buffer.start("main", 0, b"")
    buffer.offer([entry(5)], 0)
    seen = []
    for now in (500_000, 1_000_000, 6_000_000, 11_000_000):
        buffer.handle_timer(now)
        (gap,) = view_of(buffer, now).gaps
        seen.append((gap.state, gap.age_seconds, gap.requests))
    assert seen == [("open", 0.5, 0), ("requested", 1.0, 1), ("requested", 6.0, 2), ("expired", 11.0, 3)]
    buffer.offer([entry(2)], 12_000_000)
    (gap,) = view_of(buffer, 12_000_000).gaps
    assert (gap.first, gap.last, gap.missing) == (1, 4, 3)


def test_every_entry_is_in_one_bucket_of_lateness_and_none_above_its_edge() -> None:
    buffer = SettleBuffer(SettleConfig())
    for edge in EDGES_US:
        buffer.window.observe(edge)
    buffer.window.observe(10**12)
    lateness = view_of(buffer, 0).lateness
    assert sum(count for _, count in lateness) == len(EDGES_US) + 1
    for seconds, _ in lateness[:-1]:
        below = sum(count for edge, count in lateness if edge <= seconds)
        assert below == sum(edge / 1e6 <= seconds for edge in EDGES_US)
    assert lateness[-1][0] == math.inf
    assert view_of(buffer, 0).lateness_seconds == (sum(EDGES_US) + 10**12) / 1e6


def test_a_clock_that_was_not_told_is_not_known() -> None:
    buffer = SettleBuffer(SettleConfig())
    buffer.start("main", 0, b"")
    assert view_of(buffer, 0).clock_offset_seconds is None
    assert view_of(buffer, 0).clock_error_seconds is None


def test_a_full_buffer_is_the_cause_that_is_named() -> None:
    buffer = SettleBuffer(SettleConfig(entries_limit=2))
    buffer.start("main", 0, b"")
    buffer.offer([entry(2), entry(3)], 0)
    snapshot = shown(view_of(buffer, 0))
    assert "settle waits for 1" in lag_cause(snapshot, snapshot.strands[0])  # the gap is why it is full
    buffer = SettleBuffer(SettleConfig(entries_limit=2))
    buffer.start("main", 0, b"")
    buffer.stop("main", "conflict")
    buffer.offer([entry(1), entry(2)], 0)
    snapshot = shown(view_of(buffer, 0))
    assert lag_cause(snapshot, snapshot.strands[0]).startswith("the settle buffer is full (entries)")


def test_the_page_and_the_json_show_window_clock_and_a_spool_that_was_set_aside() -> None:
    buffer = SettleBuffer(SettleConfig(window_us=AutoWindow()))
    buffer.start("main", 0, b"")
    buffer.heartbeat("main", 2_500_000, 1_000_000)
    snapshot = shown(view_of(buffer, 0, "/srv/<spool>.damaged-1"))
    text = re.sub(r"<[^>]*>", "", page(snapshot))
    assert "Window: 1 min 0 s: the longest allowed, until enough was seen" in text
    assert "The feed's clock less ours: +1.500 s, give or take 0.000 s" in text
    assert "A damaged spool is kept as /srv/&lt;spool&gt;.damaged-1" in text
    settle = status_json(snapshot)["strands"][0]["settle"]
    assert settle["window_seconds"] == 60.0
    assert settle["clock_offset_seconds"] == 1.5
    assert settle["spool_set_aside"] == "/srv/<spool>.damaged-1"
    assert "lateness" not in settle
