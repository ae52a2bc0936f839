"""The window that tunes itself."""

from __future__ import annotations

import random

from settle_buffer import AutoWindow
from settle_buffer.window import PERIOD, Window

AUTO = AutoWindow(miss=0.01, least_us=10_000, most_us=10_000_000)


def feed(window: Window, lateness_us: int, periods: int, spread: float = 0.2, seed: int = 1) -> list[int]:
    """Entries that are about this late, and the windows in force on the way."""
    dice = random.Random(seed)
    chosen: list[int] = []
    for _ in range(periods * PERIOD):
        window.observe(round(lateness_us * dice.uniform(1 - spread, 1 + spread)))
        if not chosen or chosen[-1] != window.us:
            chosen.append(window.us)
    return chosen


def test_it_begins_with_the_longest_and_shrinks_to_what_the_entries_need() -> None:
    window = Window(AUTO)
    assert window.us == AUTO.most_us
    feed(window, 100_000, 10)
    assert 100_000 <= window.us <= 200_000
    assert "0.01" in window.reason


def test_at_most_the_stated_share_misses_it() -> None:
    window = Window(AUTO)
    dice = random.Random(3)
    late = [round(dice.expovariate(1 / 50_000)) for _ in range(20 * PERIOD)]
    for lateness in late:
        window.observe(lateness)
    assert sum(lateness > window.us for lateness in late) / len(late) <= AUTO.miss
    assert window.us < 2 * sorted(late)[round(len(late) * (1 - AUTO.miss))]


def test_it_grows_at_once() -> None:
    window = Window(AUTO)
    feed(window, 50_000, 10)
    feed(window, 1_000_000, 1)
    assert window.us >= 1_000_000


def test_it_does_not_flap() -> None:
    window = Window(AUTO)
    feed(window, 100_000, 10)
    settled = window.us
    changes = [len(feed(window, late, 1, seed=late)) for late in (90_000, 110_000) * 10]
    assert max(changes) <= 2
    assert settled * 0.7 <= window.us <= settled * 1.5


def test_it_stays_within_its_bounds() -> None:
    window = Window(AUTO)
    feed(window, 1, 10)
    assert window.us == AUTO.least_us
    feed(window, 3_600_000_000, 3)
    assert window.us == AUTO.most_us


def test_a_fixed_window_is_what_was_configured_and_counts_all_the_same() -> None:
    window = Window(7)
    feed(window, 1_000, 2)
    assert (window.us, window.reason) == (7, "configured")
    assert sum(window.histogram) == 2 * PERIOD
