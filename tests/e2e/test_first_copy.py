"""PostgreSQL regions that lose their primary before its first copy is whole: nobody leads with nothing, and nothing is
undone that only one region has."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import httpx

from tests.e2e.postgres_cluster import APP, PostgresCluster, postgres_cluster
from tests.etcd import Etcd

ROWS = 1_500


def test_no_empty_region_takes_over_and_the_tables_stay(tmp_path: Path, etcd: Etcd) -> None:
    """First the source cannot copy (wal_level), then the sidecar is killed while it copies, and is away for longer than
    its lease lasts."""
    three = PostgresCluster(tmp_path, etcd, conf={"max_prepared_transactions": "1"})
    paris, others = three["paris"], (three["tokyo"], three["lima"])
    try:
        with three.servers["paris"].connect() as session:
            session.execute("ALTER SYSTEM SET wal_level = 'replica'")
        three.servers["paris"].stop()
        three.servers["paris"].start()
        for region in three.regions.values():
            region.start()
        three.wait(lambda: "not begun the first copy: wal_level" in why(three, "paris"), "it does not stand")
        assert paris.report()["state"] == "demoted"
        answer = httpx.get(f"{paris.url}/primary", trust_env=False)
        assert answer.status_code == 503

        with three.servers["paris"].connect() as session:
            session.execute("ALTER SYSTEM SET wal_level = 'logical'")
        paris.kill()
        three.servers["paris"].stop()
        three.servers["paris"].start()
        # A copy begins at a moment at which nothing is open: it waits for this one.
        three.run("paris", "BEGIN", "SELECT pg_current_xact_id()", "PREPARE TRANSACTION 'open'")
        paris.start()
        assert three.leads("paris")
        three.wait(lambda: paris.report()["sequence"] >= 1, "the epoch has begun")
        paris.kill()
        three.wait(
            lambda: all("first copy has not reached it" in why(three, each.name) for each in others),
            "the others say why they do not lead",
        )
        refusal = others[0].order(verb="failover", allow_data_loss=True, reason="a person wants to", seconds=5.0)
        assert (refusal[0], refusal[1]["reason"]) == (409, "not_ready")
        three.run("paris", "ROLLBACK PREPARED 'open'")
        paris.start()
        three.wait(lambda: all(len(three.rows(name)) == 1 for name in three.regions), "the copy is everywhere")
        assert three.settled() is paris
        assert not any(event in ("stand", "promoted") for each in others for event in each.happened())
    finally:
        three.close()


def test_a_large_loss_waits_for_a_person(tmp_path: Path, etcd: Etcd) -> None:
    """A load that only a lost primary has is sealed, and stays where it is until somebody names its table, by the very
    command that the region prints."""
    with postgres_cluster(tmp_path, etcd) as three:
        paris = three["paris"]
        three.network.isolate("paris")
        load = f"INSERT INTO payments (write, amount) SELECT 'load ' || n, 1 FROM generate_series(1, {ROWS}) n"
        three.run("paris", load, user=APP)
        three.leads("tokyo", "lima")
        three.network.heal()
        three.wait(lambda: paris.report().get("state") == "halted", "it waits for a person")
        said = why(three, "paris")
        assert "undoes_too_much" in said
        assert len(three.rows("paris")) == ROWS + 1
        command = shlex.split(said.partition("replicator ")[2].partition(")")[0].replace("CONFIG", str(paris.config)))
        subprocess.run([sys.executable, "-m", "replicator", *command], check=True, capture_output=True)
        three.settled()
        assert all(len(three.rows(name)) == 1 for name in three.regions)
        assert sum(seal["blocks"] for seal in paris.seals()) >= 1


def why(three: PostgresCluster, name: str) -> str:
    """What a region's next step waits for, as it says."""
    return str((three[name].office() or {}).get("why", ""))
