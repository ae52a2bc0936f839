"""The steps of a change of the primary."""

from __future__ import annotations

from replicator.ops.drills.rules.observations import MarkLevel, TimelineEntry
from replicator.ops.drills.rules.timeline import spans, steps_of, verified_step
from tests.ops.drills.failover import FAILOVER


def test_the_steps_of_a_failover_are_those_of_the_attempt_that_led_to_it() -> None:
    steps = [(step.name, step.at, step.region) for step in steps_of(FAILOVER, 5.0, 15.0, "paris", "tokyo")]
    assert steps == [
        ("detection", 8.0, "lima"),
        ("decision", 8.3, "tokyo"),
        ("fence", 8.6, "tokyo"),
        ("drain", 8.7, "tokyo"),
        ("promote", 8.9, "tokyo"),
    ]


def test_the_steps_of_a_switchover_begin_with_the_old_primary_closing() -> None:
    entries = [
        TimelineEntry(5.01, "paris", "demoting", "to tokyo"),
        TimelineEntry(5.1, "tokyo", "claiming"),
        TimelineEntry(5.2, "tokyo", "fencing"),
        TimelineEntry(5.21, "tokyo", "draining"),
        TimelineEntry(5.22, "tokyo", "promoting"),
        TimelineEntry(5.3, "tokyo", "primary"),
    ]
    steps = [(step.name, step.at, step.region) for step in steps_of(entries, 5.0, 9.0, "paris", "tokyo")]
    assert steps[0] == ("decision", 5.01, "paris")
    assert [name for name, *_ in steps] == ["decision", "fence", "drain", "promote"]


def test_no_step_is_guessed() -> None:
    assert steps_of(FAILOVER, 5.0, 8.85, "paris", "tokyo") == []
    assert [step.name for step in steps_of([TimelineEntry(6.0, "tokyo", "primary")], 5, 9, "paris", "tokyo")] == [
        "promote"
    ]


def test_verified_is_the_first_other_region_that_has_proven_the_block() -> None:
    marks = {
        "tokyo": [MarkLevel(9.0, 50)],
        "lima": [MarkLevel(7.0, 49), MarkLevel(9.5, 50)],
        "paris": [MarkLevel(9.9, 51)],
    }
    step = verified_step(marks, "tokyo", 50, 9.0)
    assert step is not None
    assert (step.at, step.region) == (9.5, "lima")
    assert verified_step(marks, "tokyo", 52, 9.0) is None


def test_spans_join_what_is_one_state() -> None:
    found = spans(
        [TimelineEntry(1.0, "a", "following"), TimelineEntry(2.0, "a", "following"), TimelineEntry(3.0, "a", "away")],
        5.0,
    )
    assert [(span.state, span.began, span.ended) for span in found] == [("following", 1.0, 3.0), ("away", 3.0, 5.0)]
