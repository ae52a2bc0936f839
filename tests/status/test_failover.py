"""What is shown of failover: who could be promoted, or the one reason why not; where readers and writers are sent."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from replicator.cluster.decisions.states import RoleState
from replicator.cluster.failover.status import SILENT_SECONDS, FailoverView, MemberView
from replicator.status.json import cluster_json, status_json
from replicator.status.model import Snapshot
from replicator.status.page import page
from replicator.status.readiness import blocked, is_promotable, not_promotable, promotable_text
from replicator.status.text import lease_text, lost_text
from tests.status import samples


def said(seen_age_seconds: float = 0.2, *, has_answered: bool = True, **report: Any) -> MemberView:
    view = samples.member("tokyo", seen_age_seconds, epoch=3, sequence=10, applied=10, verified=10, **report)
    return dataclasses.replace(view, has_answered=has_answered)


@pytest.mark.parametrize(
    ("standing", "text"),
    [
        (said(), "yes"),
        (said(state=RoleState.SUSPECTING), "yes"),
        (said(blocked="2 keys differ"), "2 keys differ"),
        (said(state=RoleState.PRIMARY, open=True), "leads"),
        (said(state=RoleState.PRIMARY, open=True, seen_age_seconds=60.0), "it has not answered for 60 s"),
        (said(state=RoleState.PRIMARY), "it is primary"),
        (said(state=RoleState.DRAINING), "it is draining"),
        (said(has_answered=False), "it has not answered yet"),
        (said(seen_age_seconds=SILENT_SECONDS + 1, blocked="2 keys differ"), "it has not answered for 4 s"),
    ],
)
def test_a_region_can_be_promoted_or_there_is_one_reason(standing: MemberView, text: str) -> None:
    assert promotable_text(standing) == text
    assert is_promotable(standing) == (text in ("yes", "leads"))
    assert bool(not_promotable(standing)) != is_promotable(standing)


def clustered(**changes: object) -> Snapshot:
    snapshot = samples.clustered()
    assert snapshot.failover is not None
    return dataclasses.replace(snapshot, failover=dataclasses.replace(snapshot.failover, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("following", None),
        ("claiming", None),
        ("demoted", "demoted"),
        ("rejoining", "rejoining"),
        ("halted", "role_halted"),
    ],
)
def test_rows_that_may_be_undone_are_for_no_reader(state: str, reason: str | None) -> None:
    found = blocked(clustered(own=said(state=RoleState(state))))
    assert (None if found is None else found.reason) == reason
    assert found is None or (found.cure and "a <reason>" in found.message)


def test_status_tells_every_region_of_the_cluster() -> None:
    told = json.loads(json.dumps(status_json(samples.clustered())))["failover"]
    assert [(one["region"], one["summary"]) for one in told["regions"]] == [
        ("paris", "leads"),
        ("tokyo", "yes"),
        ("virginia", "it has not answered for 12 s"),
    ]
    assert told["lease"]["holder"] == "paris"
    assert told["would_lose"]["blocks"] == 2
    assert told["orphaned_transactions"] == 3


def test_without_a_cluster_status_says_nothing_of_failover() -> None:
    assert "failover" not in status_json(samples.healthy())
    assert "Failover" not in page(samples.healthy())


def test_the_cluster_is_told_from_one_region() -> None:
    told = cluster_json(samples.clustered())
    members = {one["name"]: one for one in told["members"]}
    assert [members[name]["role"] for name in ("paris", "tokyo", "virginia")] == ["primary", "replica", "replica"]
    assert members["tokyo"]["behind_blocks"] == 60
    assert members["virginia"]["behind_blocks"] is None, "what a silent region said last is not the present"
    assert "ready" in members["tokyo"]


def test_words_for_people() -> None:
    view = FailoverView(said())
    assert lease_text(view) == "held by nobody"
    assert lease_text(dataclasses.replace(view, is_lease_known=False, lease_trouble="refused")).endswith(": refused")
    held = dataclasses.replace(view, holder="tokyo", holder_epoch=4, lease_remaining_seconds=2.25)
    assert lease_text(held) == "held by tokyo in epoch 4, for 2.2 s without renewal"
    failover = samples.clustered().failover
    assert failover is not None
    assert lost_text(failover).startswith("2 blocks, 12.50 of wallets EUR; that refuses")


def test_the_page_shows_the_cluster_and_what_to_do_as_text() -> None:
    html = page(samples.clustered())
    for text in ("it has not answered for 12 s", "a &lt;reason&gt;", "replicator orphans", "switchover to tokyo"):
        assert text in html
