"""What a holder may rely on: it has stopped before the store can give the lease away, whatever the clocks do."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.cluster.leases.base import (
    NEVER,
    Grant,
    Holder,
    LeaseLost,
    LeaseView,
    boot_seconds,
    may_claim,
    usable_until,
)
from replicator.errors import Corrupt

FREE = LeaseView(None, 3)
HELD = LeaseView(Holder("paris", 3, "t1"), 3)


def granted(asked_at: float = 100.0, ttl_seconds: float = 10.0) -> Grant:
    return Grant("main", "paris", 3, "t1", "l1", asked_at, ttl_seconds)


@given(
    asked_at=st.floats(0, 1e8),
    ttl_seconds=st.floats(0.5, 86_400),
    clock_error=st.floats(0, 0.49),
    drift=st.floats(0, 1),
    store_rate=st.floats(0.5, 2),
    on_its_way_seconds=st.floats(0, 3600),
    margin_seconds=st.floats(1e-3, 10),
)
def test_the_holder_ends_before_the_store_whatever_the_rates_within_the_error(
    asked_at: float,
    ttl_seconds: float,
    clock_error: float,
    drift: float,
    store_rate: float,
    on_its_way_seconds: float,
    margin_seconds: float,
) -> None:
    """In true seconds from the moment of asking. The holder's clock is, against the store's, as slow as allowed or
    better; the store begins to count when the request arrives."""
    holder_rate = store_rate * (1 - clock_error * drift)
    store_ends = on_its_way_seconds + ttl_seconds / store_rate
    holders_clock_then = asked_at + store_ends * holder_rate
    grant = granted(asked_at, ttl_seconds)
    assert usable_until(grant, clock_error, margin_seconds) < holders_clock_then


def test_a_clock_worse_than_stated_would_be_found_by_that_property() -> None:
    grant = granted(asked_at=0.0, ttl_seconds=10.0)
    assert usable_until(grant, clock_error=0.01, margin_seconds=0.1) > 10.0 * (1 - 0.05)


def test_a_lease_without_an_end_is_usable_without_one_once_it_is_proven() -> None:
    assert usable_until(granted(ttl_seconds=math.inf), 0.01, 0.5) == math.inf
    assert usable_until(granted(asked_at=NEVER, ttl_seconds=math.inf), 0.01, 0.5) == NEVER


# -- the clock --------------------------------------------------------------------------------------------------------


def test_the_clock_counts_what_the_machine_slept() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= boot_seconds() <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_the_clock_is_the_same_for_all_processes() -> None:
    ask = "from replicator.cluster.leases.base import boot_seconds; print(boot_seconds())"
    before = boot_seconds()
    theirs = float(subprocess.run([sys.executable, "-c", ask], check=True, capture_output=True).stdout)
    assert before < theirs < boot_seconds()


# -- the decision -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("view", "epoch", "instead_of", "allowed"),
    [
        (LeaseView(None, 0), 1, None, True),
        (FREE, 4, None, True),
        (FREE, 9, None, True),
        (FREE, 3, None, False),
        (FREE, 1, None, False),
        (FREE, 4, HELD.holder, True),  # whom it would replace has gone already
        (HELD, 4, None, False),
        (HELD, 4, HELD.holder, True),
        (HELD, 3, HELD.holder, False),
        (HELD, 4, Holder("paris", 3, "t0"), False),  # the token decides
        (HELD, 4, Holder("lima", 1, "t1"), True),
    ],
)
def test_a_claim_needs_a_free_lease_or_its_token_and_an_epoch_above_all(
    view: LeaseView, epoch: int, instead_of: Holder | None, allowed: bool
) -> None:
    if allowed:
        may_claim(view, "tokyo", epoch, instead_of, "here")
        return
    with pytest.raises(LeaseLost) as lost:
        may_claim(view, "tokyo", epoch, instead_of, "here")
    assert lost.value.view == view
    assert lost.value.cure


# -- kept in a file ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ttl_seconds", [2.0, math.inf])
def test_a_grant_is_read_as_it_was_written_but_for_its_time(ttl_seconds: float) -> None:
    read = Grant.from_json(granted(ttl_seconds=ttl_seconds).as_json())
    assert read == granted(asked_at=NEVER, ttl_seconds=ttl_seconds)


GOOD = granted().as_json()


@pytest.mark.parametrize(
    "fields",
    [
        None,
        [],
        {},
        {**GOOD, "epoch": "3"},
        {**GOOD, "epoch": True},
        {**GOOD, "epoch": -1},
        {**GOOD, "epoch": 2**60},
        {**GOOD, "ttl_seconds": 0},
        {**GOOD, "ttl_seconds": math.nan},
        {**GOOD, "ttl_seconds": "10"},
        {**GOOD, "token": 5},
        {name: value for name, value in GOOD.items() if name != "strand"},
    ],
)
def test_what_is_no_grant_is_corrupt(fields: Any) -> None:
    with pytest.raises(Corrupt, match="no grant of a lease"):
        Grant.from_json(fields)
