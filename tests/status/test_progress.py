"""Marks only move forward; lag is truthful whatever the clocks do; idle and stuck are told apart."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import Halted, Unavailable
from replicator.status.marks import MARKS, Lag, MarkName, Now, StageCondition, StageName, StageView
from replicator.status.progress import StrandProgress

S = 1_000_000  # microseconds in a second
WALL = 1_800_000_000 * S


def at(seconds: float, *, jump_seconds: float = 0) -> Now:
    """``seconds`` after the start, on a wall clock that is ``jump_seconds`` off."""
    return Now(1000 + seconds, WALL + round((seconds + jump_seconds) * S))


def committed(seconds: float) -> int:
    return WALL + round(seconds * S)


def replica() -> StrandProgress:
    return StrandProgress("main", ["feed", "settle", "apply"], at(0))


def stage(progress: StrandProgress, name: StageName, now: Now) -> StageView:
    return next(view for view in progress.view(now).stages if view.name == name)


def test_a_mark_that_goes_back_is_refused_and_counted() -> None:
    progress = replica()
    progress.advance("applied", 7, committed(0), at(1))
    with pytest.raises(Halted) as caught:
        progress.advance("applied", 6, committed(0), at(2))
    assert caught.value.reason == "mark_backwards"
    assert progress.sequence("applied") == 7
    assert progress.view(at(2)).regressions == 1


def test_a_reset_lowers_the_marks_behind_it_and_keeps_its_reason() -> None:
    progress = replica()
    for mark in MARKS:
        progress.advance(mark, 9, committed(0), at(1))
    progress.reset("settled", 4, committed(0), "resync", at(2))
    assert [progress.sequence(mark) for mark in MARKS] == [9, 4, 4, 4]
    view = progress.view(at(2))
    assert view.resets == ("settled set to 4: resync",)
    assert view.regressions == 0


def test_a_reset_without_a_reason_is_refused() -> None:
    with pytest.raises(ValueError, match="reason"):
        replica().reset("applied", 0, 0, " ", at(0))


def test_what_is_applied_was_settled_and_received() -> None:
    progress = replica()
    progress.advance("applied", 5, committed(0), at(1))
    assert [progress.sequence(mark) for mark in MARKS] == [5, 5, 5, 0]


def test_nothing_is_known_of_the_lag_before_the_primary_spoke() -> None:
    progress = replica()
    progress.advance("applied", 5, committed(-3600), at(0))
    assert progress.view(at(1)).end_to_end == Lag(None, None)


def test_at_the_head_the_lag_is_the_age_of_the_last_word() -> None:
    progress = replica()
    progress.advance("applied", 5, committed(-3600), at(0))
    progress.hear_head(5, committed(-3600), at(1), at(1).monotonic)
    assert progress.view(at(2)).end_to_end == Lag(0, 1.0)


def test_at_the_head_the_lag_grows_once_the_heartbeat_is_missed() -> None:
    progress = replica()
    progress.advance("applied", 5, committed(-3600), at(0))
    progress.hear_head(5, committed(-3600), at(1), at(1).monotonic)
    assert progress.view(at(61)).end_to_end == Lag(None, 60.0)


def test_a_heartbeat_that_does_not_know_the_ledgers_end_makes_no_calm() -> None:
    progress = replica()
    progress.advance("applied", 5, committed(-3600), at(0))
    progress.hear_head(5, committed(-3600), at(1), None)
    assert progress.view(at(2)).end_to_end == Lag(None, None)
    progress.hear_head(5, committed(-3600), at(3), at(1).monotonic)
    for second in range(4, 64):  # the feed lives, the ledger is not read
        progress.hear_head(5, committed(-3600), at(second), at(1).monotonic if second % 2 else None)
    assert progress.view(at(64)).end_to_end == Lag(None, 63.0)


def test_a_mark_is_complete_as_of_the_newest_word_that_it_has_reached() -> None:
    progress = replica()
    progress.advance("applied", 5, committed(0), at(0))
    for second, head in ((1, 5), (2, 7), (3, 9)):
        progress.hear_head(head, committed(second), at(second), at(second - 0.5).monotonic)
    assert progress.view(at(4)).end_to_end == Lag(4, 3.5)
    progress.advance("settled", 9, committed(3), at(4))
    progress.advance("applied", 8, committed(3), at(4))
    view = progress.view(at(4))
    assert (view.settled_lag, view.end_to_end) == (Lag(0, 1.5), Lag(1, 2.5))
    progress.advance("applied", 9, committed(3), at(5))
    assert progress.view(at(5)).end_to_end == Lag(0, 2.5)


def test_a_head_that_the_next_heartbeat_takes_back_is_forgotten() -> None:
    progress = replica()
    progress.advance("applied", 5, committed(0), at(0))
    progress.hear_head(1 << 52, committed(0), at(1), at(1).monotonic)
    progress.hear_head(6, committed(0), at(2), at(2).monotonic)
    head = progress.view(at(2)).head
    assert head is not None
    assert head.sequence == 6
    progress.advance("applied", 6, committed(0), at(3))
    assert progress.view(at(3)).end_to_end == Lag(0, 1.0)


def test_a_mark_that_is_set_back_is_not_complete_any_more() -> None:
    progress = replica()
    progress.advance("applied", 5, committed(0), at(0))
    progress.hear_head(5, committed(0), at(1), at(1).monotonic)
    progress.reset("applied", 3, committed(-9), "resync", at(2))
    assert progress.view(at(2)).end_to_end == Lag(2, 11.0)
    assert progress.complete_at("settled") == at(1).monotonic


def test_lag_is_the_age_of_the_oldest_missing_block() -> None:
    progress = replica()
    progress.advance("applied", 5, committed(10), at(10))
    progress.hear_head(6, committed(12), at(15), at(15).monotonic)
    assert progress.view(at(20)).end_to_end == Lag(1, 8.0)


def test_an_idle_hour_is_not_an_hour_of_lag() -> None:
    progress = replica()
    progress.advance("applied", 5, committed(0), at(0))
    for second in range(3600):
        progress.hear_head(5, committed(0), at(second), at(second).monotonic)
    progress.hear_head(50, committed(3600), at(3600), at(3600).monotonic)
    blocks, seconds = progress.view(at(3600)).end_to_end
    assert blocks == 45
    assert seconds == pytest.approx(1.0)


def test_a_catch_up_after_a_restart_shows_the_age_of_what_is_missing() -> None:
    progress = replica()
    progress.advance("applied", 5, committed(-7200), at(0))
    progress.hear_head(100_000, committed(0), at(0), at(0).monotonic)
    assert progress.view(at(0)).end_to_end == Lag(99_995, 7200.0)


def test_a_new_region_does_not_invent_the_age_of_what_it_misses() -> None:
    progress = replica()
    progress.hear_head(100_000, committed(0), at(0), at(0).monotonic)
    assert progress.view(at(0)).end_to_end == Lag(100_000, None)


def test_a_new_region_that_has_opened_its_empty_replica_does_not_invent_it_either() -> None:
    progress = replica()
    progress.advance("applied", 0, 0, at(0))
    progress.hear_head(2, committed(0), at(0), at(0).monotonic)
    assert progress.view(at(0)).end_to_end == Lag(2, None)


def test_each_stage_shows_its_own_part_of_the_lag() -> None:
    progress = replica()
    progress.advance("applied", 5, committed(0), at(0))
    progress.hear_head(9, committed(4), at(4), at(4).monotonic)
    progress.advance("received", 9, committed(4), at(5))
    progress.advance("settled", 8, committed(3), at(6))
    now = at(7)
    assert [stage(progress, name, now).lag.blocks for name in ("feed", "settle", "apply")] == [0, 1, 3]
    assert progress.view(now).settled_lag.blocks == 1
    assert progress.view(now).end_to_end.blocks == 4


@pytest.mark.parametrize("jump_seconds", [-86_400 * 365, 86_400 * 365])
def test_a_wall_clock_that_jumps_does_not_make_lag(jump_seconds: float) -> None:
    progress = replica()
    progress.advance("applied", 5, committed(0), at(0))
    progress.hear_head(5, committed(0), at(0), at(0).monotonic)
    now = at(2, jump_seconds=jump_seconds)
    progress.hear_head(8, committed(2), now, now.monotonic)
    blocks, seconds = progress.view(now).end_to_end
    assert blocks == 3
    assert seconds is not None
    assert 0 <= seconds <= 2


def test_a_committed_at_of_the_future_is_no_negative_lag() -> None:
    progress = replica()
    progress.advance("applied", 5, committed(9999), at(0))
    progress.hear_head(7, committed(9999), at(1), at(1).monotonic)
    assert progress.view(at(3)).end_to_end == Lag(2, 3.0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["received", "settled", "applied", "verified", "head"]),
            st.integers(0, 30),
            st.integers(-(10**12), 10**12),
            st.floats(0, 30),
            st.floats(-(10**7), 10**7),
        ),
        max_size=30,
    )
)
def test_whatever_happens_lag_is_never_negative_and_marks_keep_their_order(
    events: list[tuple[MarkName | Literal["head"], int, int, float, float]],
) -> None:
    progress = replica()
    seconds = 0.0
    for name, sequence, committed_at, pause, jump in events:
        seconds += pause
        now = at(seconds, jump_seconds=jump)
        if name == "head":
            progress.hear_head(sequence, committed_at, now, now.monotonic)
        elif sequence >= progress.sequence(name):
            progress.advance(name, sequence, committed_at, now)
    view = progress.view(at(seconds))
    sequences = [progress.sequence(mark) for mark in MARKS]
    assert sequences == sorted(sequences, reverse=True)
    for lag in (view.end_to_end, view.settled_lag, *(stage.lag for stage in view.stages)):
        assert lag.blocks is None or lag.blocks >= 0
        assert lag.seconds is None or lag.seconds >= 0


# -- idle, working, waiting, stuck, halted --------------------------------------------------------------------------


def test_a_quiet_feed_with_a_heartbeat_is_idle_and_without_one_is_stuck() -> None:
    progress = replica()
    progress.hear_head(0, 0, at(0), at(0).monotonic)
    assert stage(progress, "feed", at(9)).condition is StageCondition.IDLE
    assert stage(progress, "feed", at(11)).condition is StageCondition.STUCK
    assert stage(progress, "apply", at(11)).condition is StageCondition.IDLE


def test_a_feed_that_was_never_heard_is_stuck_after_the_limit() -> None:
    progress = replica()
    assert stage(progress, "feed", at(5)).condition is StageCondition.WORKING
    assert stage(progress, "feed", at(11)).condition is StageCondition.STUCK
    assert stage(progress, "feed", at(11)).heartbeat_age_seconds == 11


def test_work_that_does_not_move_is_stuck() -> None:
    progress = replica()
    progress.hear_head(9, committed(0), at(0), at(0).monotonic)
    progress.advance("received", 9, committed(0), at(0))
    progress.advance("settled", 9, committed(0), at(0))
    assert stage(progress, "apply", at(5)).condition is StageCondition.WORKING
    assert stage(progress, "apply", at(11)).condition is StageCondition.STUCK
    progress.work("apply", at(11))
    assert stage(progress, "apply", at(12)).condition is StageCondition.WORKING


def test_work_that_comes_after_an_idle_hour_is_not_stuck() -> None:
    progress = replica()
    progress.advance("applied", 5, committed(0), at(0))
    progress.hear_head(6, committed(3600), at(3600), at(3600).monotonic)
    progress.advance("received", 6, committed(3600), at(3600))
    progress.advance("settled", 6, committed(3600), at(3600))
    assert stage(progress, "apply", at(3601)).condition is StageCondition.WORKING


def test_a_wait_names_its_cause_and_keeps_its_beginning() -> None:
    progress = replica()
    progress.wait("apply", Unavailable("replica_down", "refused"), at(1))
    progress.wait("apply", Unavailable("replica_down", "refused"), at(4))
    view = stage(progress, "apply", at(5))
    assert view.condition is StageCondition.WAITING
    assert view.trouble_age_seconds == 4
    assert view.trouble is not None
    assert view.trouble.reason == "replica_down"
    progress.resume("apply")
    assert stage(progress, "apply", at(5)).trouble is None


def test_a_halt_stays_until_it_is_resumed() -> None:
    progress = replica()
    progress.halt("settle", Halted("gap_expired", "sequence 7 is missing"), at(1))
    assert stage(progress, "settle", at(100)).condition is StageCondition.HALTED


# -- the primary ----------------------------------------------------------------------------------------------------


def test_a_primary_without_a_block_is_at_its_head() -> None:
    progress = StrandProgress("main", ["source"], at(0))
    progress.hear("source", at(1).monotonic)
    assert progress.view(at(2)).end_to_end == Lag(0, 1.0)
    assert stage(progress, "source", at(2)).lag == Lag(None, 1.0)


def test_a_source_that_falls_silent_lags_by_the_age_of_its_heartbeat() -> None:
    progress = StrandProgress("main", ["source"], at(0))
    progress.hear("source", at(1).monotonic)
    assert stage(progress, "source", at(31)).lag == Lag(None, 30.0)
    assert stage(progress, "source", at(31)).condition is StageCondition.STUCK


def test_blocks_of_a_backlog_do_not_hide_a_late_heartbeat() -> None:
    progress = StrandProgress("main", ["source"], at(0))
    progress.hear("source", at(1).monotonic)
    progress.advance("applied", 900, committed(2), at(31))
    assert progress.view(at(31)).end_to_end == Lag(None, 30.0)
    assert stage(progress, "source", at(31)).condition is StageCondition.WORKING


def test_a_mark_whose_stage_does_not_run_here_goes_with_the_one_before_it() -> None:
    progress = StrandProgress("main", ["source"], at(0))
    progress.advance("received", 3, committed(1), at(1))
    assert [progress.sequence(mark) for mark in MARKS] == [3, 3, 3, 0]
    embedded = StrandProgress("main", ["apply"], at(0))
    embedded.advance("received", 3, committed(1), at(1))
    assert [embedded.sequence(mark) for mark in MARKS] == [3, 3, 0, 0]


def test_an_embedded_ledger_is_its_own_head() -> None:
    progress = StrandProgress("main", ["apply"], at(0))
    assert progress.view(at(99)).end_to_end == Lag(0, 0.0)
    progress.advance("settled", 3, committed(100), at(100))
    lag = progress.view(at(101)).end_to_end
    assert lag.blocks == 3
    assert lag.seconds == pytest.approx(1.0)
    progress.advance("applied", 3, committed(100), at(102))
    assert progress.view(at(103)).end_to_end == Lag(0, 0.0)


def test_before_it_has_a_stage_a_region_does_not_know_how_far_behind_it_is() -> None:
    """It has just started, and may be anywhere behind whoever leads by now."""
    progress = StrandProgress("main", [], at(0))
    progress.advance("settled", 5, 0, at(1))
    assert progress.view(at(2)).end_to_end == Lag(None, None)
