"""What is wrong for long is said once, then ever more seldom, and once more when it is over."""

from __future__ import annotations

import logging

import pytest

from replicator.cluster.failover.complaints import MOST_SECONDS, Complaints

log = logging.getLogger("replicator.test")


def test_a_database_that_is_away_for_a_night_is_a_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    complaints = Complaints("lease", log, lambda: now)
    for tick in range(12 * 3600 * 2):
        now = tick / 2
        complaints.about("the ledger", "connection refused" if tick % 2 else "starting up")
    said = [record.message for record in caplog.records]
    assert said[:2] == ["lease: starting up", "lease, for 10 s now: starting up"]
    assert len(said) < 10 + 12 * 3600 / MOST_SECONDS
    complaints.over("the ledger")
    complaints.over("the ledger")
    assert caplog.records[-1].message.startswith("lease: the ledger is well again, after 43200 s")
    assert len(caplog.records) == len(said) + 1


def test_another_trouble_is_said_at_once(caplog: pytest.LogCaptureFixture) -> None:
    complaints = Complaints("paris", log, lambda: 0.0)
    complaints.about("the ledger", "refused")
    complaints.about("the lease store", "silent")
    complaints.over("the lease store")
    complaints.about("the lease store", "silent")
    assert [record.message for record in caplog.records] == [
        "paris: refused",
        "paris: silent",
        "paris: the lease store is well again, after 0 s",
        "paris: silent",
    ]
