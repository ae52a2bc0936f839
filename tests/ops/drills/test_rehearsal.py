"""A rehearsal on real standbys: it promotes a fork, compares it, leaves nothing, and disturbs nobody."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.sidecars import Sidecar, sequence
from tests.ops.drills.deployment import Drill, Pair
from tests.servers import Postgres

PLAN = """
kind = "rehearsal"
target = "tokyo"
[rehearsal]
writes = 30
[targets]
rpo_blocks = 0
rto = "30s"
"""


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    deployment = Pair(tmp_path)
    try:
        deployment.start()
        yield deployment
    finally:
        deployment.end()


def test_a_fork_of_a_sqlite_standby_is_promoted_and_thrown_away(pair: Pair, tmp_path: Path) -> None:
    before = pair.tokyo.status()
    drill = Drill(tmp_path / "drill", PLAN, str(pair.tokyo.config))
    code, said = drill.run()
    assert code == 0, said
    report = drill.report()
    assert report["outcome"] == "passed"
    (change,) = report["changes"]
    assert [step["step"] for step in change["steps"]] == ["decision", "drain", "verified", "promote", "first write"]
    standby, fork = report["regions"]
    assert (standby["compared"], fork["compared"]) == ("reference", "equal")
    assert standby["digests"] == fork["digests"]
    assert len(standby["digests"]["wallets"]) == 64
    assert fork["missing_blocks"] == 0
    assert report["canaries"]["acknowledged"] == 30
    assert drill.left() == []
    # Production has not noticed: the same epoch, no canary, no region that the journal is kept for.
    after = pair.tokyo.status()
    assert before is not None
    assert after is not None
    assert after["strands"][0]["epoch"] == before["strands"][0]["epoch"] == 1
    assert after["strands"][0]["journal"]["regions"] == []
    pair.write(1)
    pair.tokyo.reach(lambda status: sequence(status, "applied") >= pair.head(), "the next block")


def test_what_a_killed_rehearsal_left_is_removed_by_the_next(pair: Pair, tmp_path: Path) -> None:
    slow = PLAN.replace("writes = 30", "writes = 100000")
    process = Drill(tmp_path / "drill", slow, str(pair.tokyo.config)).start()
    fork = wait_for_fork(tmp_path / "drill" / "state")
    process.kill()
    process.communicate()
    assert (fork / "journal.sqlite3").exists()
    drill = Drill(tmp_path / "drill", PLAN, str(pair.tokyo.config))
    code, said = drill.run()
    assert code == 0, said
    assert "a drill was killed" in said
    assert drill.left() == []


def test_a_rehearsal_that_is_told_to_stop_throws_its_fork_away(pair: Pair, tmp_path: Path) -> None:
    drill = Drill(tmp_path / "drill", PLAN.replace("writes = 30", "writes = 100000"), str(pair.tokyo.config))
    process = drill.start()
    wait_for_fork(drill.state)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 3, output
    assert drill.report()["outcome"] == "stopped"
    assert "SIGTERM" in drill.report()["why"]
    assert drill.left() == []


def wait_for_fork(state: Path) -> Path:
    """The fork's directory, once it is promoted or nearly so."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = list(state.glob("*.fork/journal.sqlite3"))
        if found:
            return found[0].parent
        time.sleep(0.02)  # polls another process
    raise AssertionError("no fork was made")


def test_a_fork_of_a_postgres_standby_is_promoted_by_its_own_slot(postgres: Postgres, tmp_path: Path) -> None:
    primary, replica = postgres.create_database("drill_primary"), postgres.create_database("drill_replica")
    with postgres.connect("drill_primary") as db:
        db.execute("CREATE TABLE points (user_id text PRIMARY KEY, points int)")
        db.execute("INSERT INTO points SELECT 'u' || n, n FROM generate_series(1, 500) n")
    source = f'[source]\nkind = "postgres"\ndsn = "{primary}"\nslot = "drill_paris"\n'
    paris = Sidecar(tmp_path, "paris", "primary", source)
    rest = f'[follow]\nprimary = "{paris.url}"\n\n[replica]\nkind = "postgres"\ndsn = "{replica}"\n'
    tokyo = Sidecar(tmp_path, "tokyo", "replica", rest)
    try:
        paris.start()
        paris.reach(lambda status: bool(status["ready"]), "ready")
        tokyo.start()
        tokyo.reach(lambda status: bool(status["ready"]) and sequence(status, "applied") > 0, "ready")
        drill = Drill(tmp_path / "drill", PLAN, str(tokyo.config))
        code, said = drill.run()
        assert code == 0, said
        report = drill.report()
        assert [region["compared"] for region in report["regions"]] == ["reference", "equal"]
        assert "points" in report["regions"][1]["digests"]
        (note,) = report["notes"][:1]
        assert "through the fork's own slot" in note
        assert int(note.split()[0]) > 30
        assert drill.left() == []
        with postgres.connect() as db:
            names = [row[0] for row in db.execute("SELECT datname FROM pg_database")]
            ours = "SELECT slot_name FROM pg_replication_slots WHERE database ~ '^(drill|replicator_rehearsal)'"
            slots = [row[0] for row in db.execute(ours)]
        assert not [name for name in names if name.startswith("replicator_rehearsal")]
        assert slots == ["drill_paris"]
    finally:
        paris.end()
        tokyo.end()
