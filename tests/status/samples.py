"""Snapshots of regions in the states that matter, made from real Progress objects."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from replicator.cluster.decisions.model import MemberReport
from replicator.cluster.decisions.states import RoleState
from replicator.cluster.failover.status import FailoverView, MemberView
from replicator.errors import Halted, Unavailable
from replicator.format.position import Position
from replicator.pipeline.acknowledge import AcknowledgeView
from replicator.pipeline.feed.notices import GapCounts
from replicator.pipeline.feed.publish import ServedFollower
from replicator.pipeline.sources.base import SourceReport
from replicator.status.marks import Now
from replicator.status.model import (
    DrillView,
    JournalView,
    RegionEvent,
    ReplicaView,
    Snapshot,
    StrandState,
)
from replicator.status.progress import StrandProgress
from replicator.status.settle_view import GapView, SettleView, settle_view
from replicator.storage.journal.keeper import RetentionReport
from replicator.storage.journal.regions import KnownRegion
from replicator.storage.journal.retention import REGION, RetentionHold
from replicator.verify.view import DivergentKeyView, VerifyView
from settle_buffer import Entry, Event, SettleBuffer, SettleConfig

SECOND_US = 1_000_000
WALL_US = 1_790_000_000 * SECOND_US
HASH = bytes(range(32))


def at(seconds: float) -> Now:
    return Now(5000 + seconds, WALL_US + round(seconds * SECOND_US))


def committed(seconds: float) -> int:
    return at(seconds).wall_us


def healthy_progress() -> StrandProgress:
    """A replica region that is 60 blocks behind, which take it a moment."""
    progress = StrandProgress("main", ["feed", "settle", "apply"], at(0))
    progress.advance("verified", 100, committed(-60), at(0))
    progress.hear_head(104_200, committed(99.9), at(99.9), at(99.9).monotonic)
    progress.advance("received", 104_200, committed(99.9), at(99.95))
    progress.advance("settled", 104_190, committed(99.8), at(99.96))
    progress.advance("applied", 104_140, committed(99.5), at(99.98))
    return progress


def region(progress: StrandProgress, *, now_seconds: float = 100, settle: SettleView | None = None) -> Snapshot:
    """A replica region in this state."""
    view = progress.view(at(now_seconds))
    return Snapshot(
        region="tokyo",
        role="replica",
        version="0.1.0",
        at_us=at(now_seconds).wall_us,
        uptime_seconds=now_seconds,
        strands=(
            StrandState(
                progress=view,
                epoch=3,
                position=Position("main", 3, progress.sequence("settled"), HASH),
                applied_blocks=progress.sequence("applied"),
                settle=settle or SettleView(entries=12, bytes=4096, duplicates=7),
            ),
        ),
        replica=ReplicaView("sqlite", "/srv/tokyo/replica.sqlite3"),
        primary_url="https://paris.example:7400",
        history=(RegionEvent(WALL_US, "start", "replica", 3, "version 0.1.0"),),
    )


def healthy() -> Snapshot:
    return region(healthy_progress())


def cut_off() -> Snapshot:
    """The primary has not been reachable for two minutes, and a gap is open."""
    progress = healthy_progress()
    cause = Unavailable(
        "primary_unreachable",
        "connection refused",
        place="https://paris.example:7400",
        cure="start the primary's sidecar, or correct [follow] primary",
    )
    progress.wait("feed", cause, at(105))
    gaps = (GapView(104_191, 104_193, "requested", 121.5), GapView(104_197, 104_197, "expired", 340.0, 1, 68))
    return region(progress, now_seconds=220, settle=SettleView(entries=7, bytes=2048, gaps=gaps, late=1))


def halted() -> Snapshot:
    """A table of the replica is not what it should be."""
    progress = healthy_progress()
    cause = Halted(
        "replica_table_differs",
        "the table <wallets> has another key: (id) instead of (wallet_id)",
        place="replica /srv/tokyo/replica.sqlite3, table wallets",
        cure="drop or rename the table, then restart the sidecar",
    )
    progress.halt("apply", cause, at(99))
    return region(progress)


def quarantining() -> Snapshot:
    """Somebody gave the replica a constraint; the region goes on without what it refuses."""
    snapshot = healthy()
    held = {"wallets": 3, "audit.<events>": 1}
    state = dataclasses.replace(snapshot.strands[0], quarantined_statements=5, held_keys=held)
    return dataclasses.replace(snapshot, strands=(state,))


def primary() -> Snapshot:
    """A primary on PostgreSQL that two regions follow."""
    progress = StrandProgress("main", ["source"], at(0))
    progress.hear("source", at(99.5).monotonic)
    progress.advance("settled", 104_200, committed(99.9), at(99.9))
    return Snapshot(
        region="paris",
        role="primary",
        version="0.1.0",
        at_us=at(100).wall_us,
        uptime_seconds=90_061,
        strands=(StrandState(progress.view(at(100)), epoch=3, position=Position("main", 3, 104_200, HASH)),),
        source=SourceReport("postgres", "streaming", seen="0/1A2B3C4D", retained_bytes=16_777_216, duplicates=2),
        followers=(ServedFollower("tokyo", "main", 104_200), ServedFollower("virginia", "main", 104_150)),
        history=(RegionEvent(WALL_US, "start", "primary", 3),),
    )


def copying() -> Snapshot:
    """A primary that takes its first copy."""
    progress = StrandProgress("main", ["source"], at(0))
    return Snapshot(
        region="paris",
        role="primary",
        version="0.1.0",
        at_us=at(3).wall_us,
        uptime_seconds=3,
        strands=(StrandState(progress.view(at(3)), epoch=1),),
        source=SourceReport("postgres", "copying", copied_rows=120_000, copy_rows_estimate=1_000_000),
    )


def member(name: str, seen_age_seconds: float, **report: Any) -> MemberView:
    """A region of the cluster as its report says; it follows unless ``state`` says otherwise."""
    said = MemberReport(name, **{"state": RoleState.FOLLOWING, **report})
    return MemberView(name, f"https://{name}:1", seen_age_seconds, said)


def clustered() -> Snapshot:
    """A region of a cluster of three that follows paris: virginia is silent, orphans wait for a person."""
    own = member("tokyo", 0.0, epoch=3, sequence=104_190, applied=104_140, verified=104_100)
    marks = {"sequence": 104_200, "applied": 104_200, "verified": 104_200}
    paris = member("paris", 0.3, state=RoleState.PRIMARY, epoch=3, open=True, **marks)
    virginia = member("virginia", 12.4, epoch=3, sequence=104_000, applied=104_000, verified=104_000)
    view = FailoverView(
        own,
        (paris, virginia),
        mode="automatic",
        promised=3,
        why="a <reason>",
        level="yellow",
        level_why="the lease is held, but no region hears its holder",
        holder="paris",
        holder_epoch=3,
        order="switchover to tokyo (by ann@desk)",
        order_seconds=7.5,
        lost_blocks=2,
        lost_amounts={"wallets EUR": 12.5},
        refused="2 blocks would be lost",
        orphaned=3,
        totals={"promoted": 1, "refused": 0},
    )
    return dataclasses.replace(healthy(), failover=view)


def settling() -> SettleView:
    """A real settle buffer's status, with a hole that closed by itself, one that was asked for, and a heartbeat."""
    buffer = SettleBuffer(SettleConfig(window_us=1_000_000))
    buffer.start("main", 0, b"")
    counts = GapCounts()
    entries = [Entry("main", n, n, b"%d" % n, b"", b"body") for n in range(1, 12)]
    steps: list[Callable[[], Sequence[Event]]] = [
        lambda: buffer.offer(entries[:3] + entries[4:6], 0),
        lambda: buffer.offer(entries[3:4], 300_000),  # 300 ms late
        lambda: buffer.offer([*entries[7:8], *entries[9:10]], 400_000),
        lambda: buffer.handle_timer(1_500_000),
        lambda: buffer.offer(entries[6:7], 1_600_000),
        lambda: buffer.heartbeat("main", 3_500_000, 2_000_000),
        lambda: buffer.heartbeat("main", 3_600_000, 2_200_000),
    ]
    for step in steps:
        for event in step():
            counts.add(event)
    return settle_view(buffer.status(2_400_000), counts, "/srv/spool.damaged-1")


def everything() -> Snapshot:
    """A snapshot in which every figure is known."""
    snapshot = cut_off()
    (strand,) = snapshot.strands
    strand = dataclasses.replace(
        strand,
        settle=settling(),
        quarantined_statements=1,
        verify=VerifyView(
            verified=90,
            age_seconds=1.5,
            compared_at=90,
            checkpoints=12,
            mismatches=2,
            divergent_keys={"wallets": 2},
            wrong=(DivergentKeyView("wallets", "7", 88, 81, 85, ("lima",), "a write past the sidecar"),),
            scrubs=3,
            scrub_sequence=80,
            scrub_age_seconds=60.0,
        ),
        lease_remaining_seconds=3.5,
        at_risk_blocks=4,
        at_risk_amounts={("wallets", "EUR"): 12.5},
        at_risk_unknown=0,
        acknowledge=AcknowledgeView(1, 90, False, 2, 0.5, {"lima": 90}),
        journal=JournalView(
            RetentionReport(
                5_000_000, 40, 41, WALL_US - 86_400 * SECOND_US, RetentionHold("lima", 90, REGION), ("tokyo",), 40, 10
            ),
            (KnownRegion("lima", 90, WALL_US - 3_500_000),),
            WALL_US,
        ),
    )
    source = dataclasses.replace(copying(), role="replica").source
    assert source is not None
    source = dataclasses.replace(source, waited_for=True)
    return dataclasses.replace(
        snapshot,
        strands=(strand,),
        source=dataclasses.replace(source, retained_bytes=10, safe_bytes=20),
        followers=primary().followers,
        drills=(DrillView("switchover", "weekly", "passed", 86_400.0, 0.4, 0.0),),
        failover=clustered().failover,
    )
