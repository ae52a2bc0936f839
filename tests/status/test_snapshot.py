"""What status shows of work that moves no mark yet: a first copy, and a large block that arrives in parts."""

from __future__ import annotations

from pathlib import Path

import trio
import trio.testing

from replicator.config import PostgresSourceSettings, parse
from replicator.format.position import Position, genesis
from replicator.format.wire import Heartbeat
from replicator.pipeline.sources.postgres import PostgresSource as Postgres
from replicator.runtime import wiring
from replicator.status.marks import StageCondition
from replicator.status.progress import HEARTBEAT_LIMIT_SECONDS, StrandProgress
from replicator.status.snapshot import SnapshotBuilder
from replicator.status.stage_board import StageBoard, now
from replicator.storage.journal.head import JournalHead

PRIMARY = """
[region]
name = "paris"
role = "primary"
data_dir = "data"

[source]
kind = "postgres"
dsn = "host=127.0.0.1 dbname=ledger"
"""


async def test_a_first_copy_is_stuck_only_when_no_row_comes(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    config = parse(PRIMARY, tmp_path / "paris.toml", {})
    assert isinstance(config.source, PostgresSourceSettings)
    status = SnapshotBuilder(
        config,
        JournalHead(genesis("main")),
        StageBoard(StrandProgress("main", ["source"], now())),
    )
    status.source = source = Postgres(wiring.postgres_options(config.source))
    source.report.phase = "copying"

    def condition() -> StageCondition:
        (stage,) = status.snapshot().strands[0].progress.stages
        return stage.condition

    for _ in range(5):
        await trio.sleep(HEARTBEAT_LIMIT_SECONDS - 1)
        source.report.copied_rows += 1000
        assert condition() is StageCondition.WORKING
    await trio.sleep(HEARTBEAT_LIMIT_SECONDS + 1)
    assert condition() is StageCondition.STUCK


async def test_a_large_block_is_stuck_only_when_no_part_comes(autojump_clock: trio.testing.MockClock) -> None:
    board = StageBoard(StrandProgress("main", ["feed", "settle", "apply"], now()))
    board.heard(Heartbeat(Position("main", 1, 1, bytes(32)), 0, 0, None), trio.current_time())

    def condition() -> StageCondition:
        return board.progress.view(now()).stages[0].condition

    for _ in range(5):
        await trio.sleep(HEARTBEAT_LIMIT_SECONDS - 1)
        board.staged()
        assert condition() is StageCondition.WORKING
    await trio.sleep(HEARTBEAT_LIMIT_SECONDS + 1)
    assert condition() is StageCondition.STUCK


async def test_a_region_of_a_cluster_is_no_primary_before_its_controller_says_so(tmp_path: Path) -> None:
    cluster = '[cluster]\nregions = { paris = "http://a:1", tokyo = "http://b:1" }\n[lease]\nkind = "static"\n'
    for text, role in ((PRIMARY, "primary"), (PRIMARY + cluster, "replica")):
        config = parse(text, tmp_path / "paris.toml", {})
        status = SnapshotBuilder(
            config,
            JournalHead(genesis("main")),
            StageBoard(StrandProgress("main", ["source"], now())),
        )
        assert status.snapshot().role == role
