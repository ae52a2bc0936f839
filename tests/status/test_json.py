"""Ready or one reason; every lag has a stage that it is put down to; the JSON says what the snapshot says."""

from __future__ import annotations

import dataclasses
import json

import pytest

from replicator.errors import Halted, ReplicatorError, Unavailable
from replicator.pipeline.sources.base import SourceReport
from replicator.status.json import cluster_json, history_json, status_json
from replicator.status.marks import Mode
from replicator.status.model import Snapshot
from replicator.status.progress import StrandProgress
from replicator.status.readiness import LagLimit, blocked, lag_cause
from replicator.status.settle_view import GapView, SettleView
from replicator.status.text import seconds_text, time_text
from tests.status import samples


def reason(
    snapshot: Snapshot, mode: Mode = "applied", *, seconds: float | None = 30, blocks: int | None = None
) -> str | None:
    error: ReplicatorError | None = blocked(snapshot, mode, LagLimit(seconds, blocks))
    return None if error is None else error.reason


def test_a_healthy_region_is_ready_in_both_modes() -> None:
    assert reason(samples.healthy()) is None
    assert reason(samples.healthy(), "settled") is None
    assert reason(samples.primary()) is None


def test_a_region_without_strands_is_starting() -> None:
    assert reason(dataclasses.replace(samples.healthy(), strands=())) == "starting"


def embedded(progress: StrandProgress, phase: str) -> Snapshot:
    return dataclasses.replace(samples.region(progress), role="primary", source=SourceReport("embedded", phase))


def test_an_embedded_ledger_that_takes_no_requests_yet_is_starting() -> None:
    assert reason(embedded(samples.healthy_progress(), "starting")) == "starting"
    assert reason(embedded(samples.healthy_progress(), "serving")) is None


def test_what_keeps_an_embedded_ledger_from_starting_is_the_reason() -> None:
    progress = samples.healthy_progress()
    cause = Unavailable("disk_full", "no room is left", place="ledger", cure="free some")
    progress.wait("apply", cause, samples.at(99))
    assert reason(embedded(progress, "starting")) == "disk_full"


def test_lag_beyond_the_limit_in_seconds_or_blocks_is_not_ready() -> None:
    assert reason(samples.healthy(), seconds=0.4) == "behind"
    assert reason(samples.healthy(), blocks=59) == "behind"
    assert reason(samples.healthy(), seconds=None, blocks=60) is None
    assert reason(samples.healthy(), "settled", seconds=None, blocks=10) is None
    assert reason(samples.healthy(), "settled", seconds=None, blocks=9) == "behind"


def test_the_reason_for_a_lag_is_what_the_stage_waits_for() -> None:
    error = blocked(samples.cut_off())
    assert error is not None
    assert error.reason == "primary_unreachable"
    assert error.cure == "start the primary's sidecar, or correct [follow] primary"


def test_a_short_wait_does_not_end_readiness() -> None:
    progress = samples.healthy_progress()
    progress.wait("feed", Unavailable("primary_unreachable", "refused"), samples.at(100))
    assert reason(samples.region(progress)) is None


def test_a_halted_apply_stage_ends_readiness_of_what_is_applied_but_not_of_what_is_settled() -> None:
    assert reason(samples.halted()) == "replica_table_differs"
    assert reason(samples.halted(), "settled") is None


def test_before_the_primary_was_heard_nothing_is_ready() -> None:
    progress = StrandProgress("main", ["feed", "settle", "apply"], samples.at(0))
    progress.advance("applied", 5, samples.committed(0), samples.at(0))
    assert reason(samples.region(progress, now_seconds=1)) == "not_heard"


def test_during_the_first_copy_the_copy_is_the_reason() -> None:
    error = blocked(samples.copying())
    assert error is not None
    assert error.reason == "copying"
    assert "120,000 of about 1,000,000 rows" in error.message


@pytest.mark.parametrize(
    ("snapshot", "cause"),
    [
        (samples.healthy(), "apply is catching up, 50 blocks to go"),
        (samples.cut_off(), "feed waits: connection refused"),
        (samples.halted(), "apply halted: the table <wallets> has another key: (id) instead of (wallet_id)"),
        (samples.primary(), "nothing: every stage is at the head"),
        (samples.copying(), "the first copy is under way: 120,000 of about 1,000,000 rows"),
    ],
)
def test_lag_is_put_down_to_a_stage(snapshot: Snapshot, cause: str) -> None:
    assert lag_cause(snapshot, snapshot.strands[0]) == cause


def test_a_stuck_stage_says_how_long_and_with_how_much() -> None:
    progress = StrandProgress("main", ["feed", "settle", "apply"], samples.at(0))
    progress.advance("applied", 3, samples.committed(0), samples.at(0))
    progress.advance("settled", 9, samples.committed(1), samples.at(1))
    progress.hear_head(9, samples.committed(1), samples.at(100), samples.at(100).monotonic)
    stuck = samples.region(progress, now_seconds=101)
    assert lag_cause(stuck, stuck.strands[0]) == ("apply is stuck: 6 blocks wait, no progress for 1 min 41 s")
    silent = samples.region(progress, now_seconds=200)
    assert lag_cause(silent, silent.strands[0]) == "feed is stuck: no heartbeat for 1 min 40 s"


def test_a_transaction_that_holds_the_source_up_is_named() -> None:
    held_up = "the first copy is held up by the transaction of pid 7"
    for snapshot, cause in (
        (samples.primary(), f"nothing: every stage is at the head; but {held_up}"),
        (samples.region(StrandProgress("main", ["source"], samples.at(0)), now_seconds=40), held_up),
    ):
        source = SourceReport("postgres", held_up=held_up)
        shown = dataclasses.replace(snapshot, source=source)
        assert lag_cause(shown, shown.strands[0]) == cause


def test_a_gap_is_named() -> None:
    gaps = (GapView(12, 12, "expired", 340.0), GapView(7, 9, "requested", 5.0))
    snapshot = samples.region(samples.healthy_progress(), settle=SettleView(gaps=gaps))
    assert (
        lag_cause(snapshot, snapshot.strands[0]) == "settle waits for 7 to 9, which did not come: requested, for 5.0 s"
    )


def test_a_halt_comes_before_a_wait() -> None:
    progress = samples.healthy_progress()
    progress.wait("feed", Unavailable("primary_unreachable", "refused"), samples.at(100))
    progress.halt("apply", Halted("bad_row", "a row"), samples.at(100))
    snapshot = samples.region(progress)
    assert lag_cause(snapshot, snapshot.strands[0]) == "apply halted: a row"


def test_the_status_is_json_and_says_what_the_snapshot_says() -> None:
    status = json.loads(json.dumps(status_json(samples.cut_off()), allow_nan=False))
    assert status["ready"] is False
    assert status["blocked"]["reason"] == "primary_unreachable"
    (strand,) = status["strands"]
    assert strand["marks"] == {"received": 104_200, "settled": 104_190, "applied": 104_140, "verified": 100}
    assert strand["lag"]["blocks"] is None  # the word is two minutes old: there may be more
    assert strand["lag"]["cause"] == "feed waits: connection refused"
    assert strand["position"] == f"main:3:104190:{samples.HASH.hex()}"
    gap = {"first": 104_197, "last": 104_197, "state": "expired", "age_seconds": 340.0, "missing": 1, "requests": 68}
    assert strand["settle"]["gaps"][1] == gap
    feed = strand["stages"][0]
    assert (feed["stage"], feed["condition"]) == ("feed", "waiting")
    assert feed["trouble"]["since_seconds"] == 115.0


@pytest.mark.parametrize("name", ["healthy", "cut_off", "halted", "primary", "copying"])
def test_every_state_gives_json(name: str) -> None:
    snapshot = getattr(samples, name)()
    for value in (status_json(snapshot), cluster_json(snapshot), history_json(snapshot.history)):
        assert json.loads(json.dumps(value, allow_nan=False)) == value


def test_the_cluster_is_who_is_known_here() -> None:
    assert [member["name"] for member in cluster_json(samples.primary())["members"]] == ["paris", "tokyo", "virginia"]
    assert cluster_json(samples.healthy())["members"][1] == {
        "name": None,
        "role": "primary",
        "url": "https://paris.example:7400",
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.04, "40 ms"),
        (3.21, "3.2 s"),
        (59.9, "59.9 s"),
        (60, "1 min 0 s"),
        (320, "5 min 20 s"),
        (7500, "2 h 5 min"),
        (273_600, "3 d 4 h"),
    ],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_times_are_rfc_3339_whatever_the_clock_says() -> None:
    assert time_text(1_790_000_000_123_456) == "2026-09-21T14:13:20.123Z"
    assert time_text(-1) == "1970-01-01T00:00:00.000Z"
    assert time_text(10**19) == "9999-12-31T23:59:59.999Z"
