"""The estimate of the feed's clock."""

from __future__ import annotations

import random

import pytest

from settle_buffer.clock import FeedClock

SECOND = 1_000_000


@pytest.mark.parametrize("skew", [0, -(10**12), 10**12])
def test_a_wrong_local_clock_cancels_and_the_estimate_stays_on_the_safe_side(skew: int) -> None:
    dice = random.Random(skew)
    clock = FeedClock(trust_us=60 * SECOND)
    delays = [dice.randint(5_000, 80_000) for _ in range(60)]
    for number, delay in enumerate(delays):
        sent = number * SECOND
        clock.heartbeat(sent, sent + delay + skew)
    true_now = 60 * SECOND
    estimate = clock.feed_now(true_now + skew)
    assert estimate == true_now - min(delays), "behind by the least delay, never ahead"
    assert clock.error_us == max(delays) - min(delays)
    assert clock.local(estimate) == true_now + skew


def test_it_does_not_run_further_than_it_is_trusted_without_a_heartbeat() -> None:
    clock = FeedClock(trust_us=10 * SECOND)
    clock.heartbeat(100 * SECOND, 5 * SECOND)
    assert clock.feed_now(3_600 * SECOND) == 110 * SECOND
    assert clock.local(111 * SECOND) is None


def test_entries_stand_in_until_a_heartbeat_comes() -> None:
    clock = FeedClock(trust_us=10 * SECOND)
    assert clock.feed_now(0) is None
    clock.entry(100 * SECOND, 7 * SECOND)
    clock.entry(90 * SECOND, 8 * SECOND)
    assert clock.offset_us == 93 * SECOND
    clock.heartbeat(50 * SECOND, 9 * SECOND)
    assert clock.offset_us == 41 * SECOND, "an entry from the future no longer counts"
