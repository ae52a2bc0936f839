"""What the regions are told of a report is what they take."""

from __future__ import annotations

from pathlib import Path

from replicator.ops.drills.report.form import DrillReport, summary
from replicator.status.drill_results import DrillResults, routes
from replicator.storage.data_dir import DataDir
from tests.ledger.region import served


async def test_a_region_keeps_the_summary_of_a_report(tmp_path: Path) -> None:
    report = DrillReport(
        id="d-7", kind="canary", name="c", way="live", began="now", seconds=3, outcome="missed", rpo_blocks=2
    )
    async with served(routes(DrillResults(DataDir(tmp_path)))) as client:
        answer = await client.post("/v1/drills", json=summary(report, "ann@desk"))
        assert answer.status_code == 200, answer.text
        (result,) = (await client.get("/v1/drills")).json()["drills"]
    assert (result["id"], result["outcome"], result["rpo_blocks"]) == ("d-7", "missed", 2)
    assert result["rto_seconds"] is None, "it was not measured"
