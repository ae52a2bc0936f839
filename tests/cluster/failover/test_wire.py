"""Reports, memories and orders, there and back; and what is none is refused by name."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.cluster.decisions.model import DurableState, MemberReport, Order
from replicator.cluster.decisions.states import RoleState
from replicator.cluster.failover.wire import memory_from, memory_json, order_from, order_json, report_from, report_json
from replicator.cluster.leases.base import Holder

counts = st.integers(0, 2**53)
texts = st.text(max_size=50)
numbers = st.floats(0, 1e12, allow_nan=False)
reports = st.builds(
    MemberReport,
    region=texts,
    state=st.sampled_from(RoleState),
    epoch=counts,
    promised=counts,
    head_epoch=counts,
    sequence=counts,
    hash=texts,
    applied=counts,
    verified=counts,
    open=st.booleans(),
    priority=st.integers(0, 100),
    blocked=texts,
    heard_seconds=st.none() | numbers,
    heard_head=counts,
    at_risk=st.dictionaries(texts, numbers, max_size=5),
    at_risk_unknown=counts,
    led=counts,
)
memories = st.builds(
    DurableState,
    state=st.sampled_from(RoleState),
    half=st.sampled_from(["primary", "replica"]),
    epoch=counts,
    promised=counts,
    led=counts,
    mine=counts,
    closed_at=st.none() | counts,
    handed_to=texts,
    changed_at=st.none() | numbers,
    approved=st.booleans(),
    reopening=st.booleans(),
    why=texts,
)
orders = st.builds(
    Order,
    verb=st.sampled_from(["switchover", "failover", "take", "rejoin"]),
    until=st.just(0.0),
    target=texts,
    instead_of=st.none() | st.builds(Holder, texts, counts, texts),
    sequence=counts,
    allow_data_loss=st.booleans(),
    primary_is_fenced=st.booleans(),
    reason=texts,
)


@given(reports)
def test_a_report_comes_back(report: MemberReport) -> None:
    assert report_from(json.loads(json.dumps(report_json(report)))) == report


@given(memories)
def test_a_memory_comes_back(memory: DurableState) -> None:
    assert memory_from(json.loads(json.dumps(memory_json(memory)))) == memory


@given(orders, st.floats(0, 1000))
def test_an_order_comes_back_with_the_time_that_it_still_has(order: Order, seconds: float) -> None:
    read = order_from(json.loads(json.dumps(order_json(order, seconds))), 100.0)
    assert read.until == pytest.approx(100.0 + seconds)
    assert read == Order(**{**{name: getattr(order, name) for name in Order.__slots__}, "until": read.until})


def test_what_a_newer_region_adds_is_left_alone() -> None:
    fields = report_json(MemberReport("paris", RoleState.PRIMARY))
    assert report_from({**fields, "mood": "good"}) == MemberReport("paris", RoleState.PRIMARY)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("state", "king"),
        ("epoch", -1),
        ("epoch", 1.5),
        ("epoch", True),
        ("epoch", 2**70),
        ("open", 1),
        ("blocked", "x" * 10_000),
        ("heard_seconds", "soon"),
        ("heard_seconds", float("nan")),
        ("at_risk", []),
        ("at_risk", {"wallets EUR": "much"}),
        ("region", None),
    ],
)
def test_a_field_that_is_none_is_named(name: str, value: Any) -> None:
    fields = {**report_json(MemberReport("paris", RoleState.PRIMARY)), name: value}
    with pytest.raises(ValueError, match=name):
        report_from(fields)


@pytest.mark.parametrize("fields", [None, [], "report", 5])
def test_what_is_no_object_is_no_report(fields: Any) -> None:
    with pytest.raises(ValueError, match="object"):
        report_from(fields)


def test_an_order_lasts_an_hour_at_most() -> None:
    assert order_from({"verb": "failover", "seconds": 1e12}, 0.0).until == 3600.0


REPORT_TEXT = (
    '{"region": "paris", "state": "primary", "epoch": 7, "promised": 7, "head_epoch": 7, "sequence": 12, "hash": "ab",'
    ' "applied": 12, "verified": 11, "open": true, "priority": 2, "blocked": "", "heard_seconds": 0.5,'
    ' "heard_head": 12, "at_risk": {"wallets EUR": 2.5}, "at_risk_unknown": 1, "led": 7, "able": false,'
    ' "whole": true, "distance_ms": 31}'
)
MEMORY_TEXT = (
    '{"state": "demoting", "half": "primary", "epoch": 7, "promised": 7, "led": 7, "mine": 7, "closed_at": 12,'
    ' "handed_to": "tokyo", "changed_at": 3.25, "approved": false, "undo": ["public.wallets"],'
    ' "reopening": true, "why": "a drill"}'
)
ORDER_TEXT = (
    '{"verb": "take", "target": "tokyo", "instead_of": {"region": "paris", "epoch": 7, "token": "t"}, "sequence": 12,'
    ' "reason": "a drill", "seconds": 30.0}'
)


def test_what_is_sent_and_kept_has_the_form_that_other_releases_read() -> None:
    report, memory = report_from(json.loads(REPORT_TEXT)), memory_from(json.loads(MEMORY_TEXT))
    order = order_from(json.loads(ORDER_TEXT), 100.0)
    assert json.dumps(report_json(report)) == REPORT_TEXT.replace('"priority": 2', '"priority": 2.0')
    assert json.dumps(report_json(dataclasses.replace(report, priority=2))) == REPORT_TEXT
    assert json.dumps(memory_json(memory)) == MEMORY_TEXT
    assert json.dumps(order_json(order, 30)) == ORDER_TEXT


def test_a_report_of_an_older_release_is_read() -> None:
    text = REPORT_TEXT.replace(', "able": false', "").replace(', "distance_ms": 31', "")
    older = report_from(json.loads(text))
    assert older == dataclasses.replace(report_from(json.loads(REPORT_TEXT)), able=True, distance_ms=0)


@pytest.mark.parametrize("missing", ["region", "state"])
def test_what_a_report_lacks_is_named(missing: str) -> None:
    """A peer that answers so must not end the process that asked it."""
    fields = {
        name: value for name, value in report_json(MemberReport("paris", RoleState.PRIMARY)).items() if name != missing
    }
    with pytest.raises(ValueError, match=missing):
        report_from(fields)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("verb", "abdicate"),
        ("verb", None),
        ("sequence", "12"),
        ("allow_data_loss", "yes"),
        ("reason", 5),
        ("instead_of", {"region": "paris", "epoch": 7}),
        ("instead_of", ["paris", 7, "t"]),
        ("instead_of", {"region": "paris", "epoch": "7", "token": "t"}),
        ("seconds", True),
        ("seconds", None),
    ],
)
def test_an_order_that_is_none_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name if name != "seconds" else "number"):
        order_from({**json.loads(ORDER_TEXT), name: value}, 0.0)


def test_a_newer_regions_holder_is_understood() -> None:
    holder = {"region": "paris", "epoch": 7, "token": "t", "since": 5}
    assert order_from({**json.loads(ORDER_TEXT), "instead_of": holder}, 0.0).instead_of == Holder("paris", 7, "t")
