"""The demo as people run it: it ends equal, it sees a difference, and it leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import trio

from replicator.config import load
from replicator.errors import ReplicatorError
from replicator.ops.demo.regions import NAMES
from replicator.ops.demo.story import DemoStory

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-P", "-m", "replicator", "demo"]  # as the installed program: not from where we are


class Silent:
    """Shows nothing."""

    def say(self, line: str) -> None:
        pass

    def figures(self, story: DemoStory) -> None:
        pass


def environment(tmp_path: Path) -> dict[str, str]:
    """ASCII only, and temporary files where the test sees them."""
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    return {**os.environ, **ascii_only, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}


def test_a_short_run_ends_equal_and_leaves_nothing(tmp_path: Path) -> None:
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    for directory in (here, temporary):
        directory.mkdir()
    (here / "replicator").mkdir()
    (here / "replicator" / "__init__.py").write_text("raise SystemExit('this is another package')")
    here.chmod(0o555)
    result = subprocess.run(
        [*COMMAND, "--seconds", "6", "--json"],
        cwd=here,
        env=environment(temporary),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=180,
    )
    assert result.returncode == 0, result.stderr.decode()
    report = json.loads(result.stdout)
    assert report["equal"] is True
    assert len(report["checks"]) >= 14
    assert all(check["passed"] for check in report["checks"])
    assert {check["region"] for check in report["checks"]} >= set(NAMES)
    assert [kill["region"] for kill in report["kills"]] == ["tokyo", "paris"]
    failover, switchover = report["changes"]
    assert (failover["kind"], switchover["kind"], switchover["region"]) == ("failover", "switchover", "paris")
    assert failover["region"] in ("tokyo", "virginia")
    assert 0 < switchover["blocked_seconds"] < failover["blocked_seconds"] < 20
    transactions, money, reads = report["transactions"], report["money"], report["reads_of_own_writes"]
    assert transactions["acknowledged"] > 20
    assert transactions["refused"] > 0
    assert transactions["repeated"] > 0
    assert money["in_wallets"] == money["topped_up"] - money["redeemed"] > 0
    assert reads["count"] > 0 == reads["stale"]
    assert reads["p50_ms"] <= reads["p99_ms"]
    assert report["said"].startswith("Shown: ")
    assert b"status page: http://127.0.0.1:" in result.stderr.splitlines()[0]
    assert list(temporary.iterdir()) == []
    assert running_below(temporary) == []


def test_a_terminal_that_knows_only_ascii_and_regions_that_are_kept(tmp_path: Path) -> None:
    kept = tmp_path / "kept-\N{LATIN SMALL LETTER E WITH ACUTE}"
    code, shown = on_a_terminal([*COMMAND, "--seconds", "1", "--keep", str(kept)], environment(tmp_path))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode("ascii"))
    assert code == 0, text
    assert "|region " in text  # the live table, in ASCII
    assert "tokyo: SIGKILL to the replica's sidecar" in text
    assert re.search(r"virginia \|replica .*\|equal at ", text)
    assert text.splitlines()[-1].startswith("Shown: ")
    assert running_below(kept) == []
    for name in NAMES:
        config = load(kept / name / "config.toml")
        assert config.region.files.journal.exists()
        with closing(sqlite3.connect(kept / name / "data" / "ledger.sqlite3")) as connection:
            assert connection.execute("SELECT * FROM payments").fetchone()


def on_a_terminal(command: list[str], variables: dict[str, str]) -> tuple[int, bytes]:
    """The exit code, and what a terminal of 80 columns got to show."""
    ours, theirs = pty.openpty()
    size = {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    with subprocess.Popen(command, env={**variables, **size}, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # how the end of a terminal reads
            while piece := os.read(ours, 65_536):
                shown += piece
    os.close(ours)
    return process.returncode, shown


@pytest.mark.slow  # it starts sidecars
async def test_a_difference_is_found_and_is_no_success(tmp_path: Path) -> None:
    story = DemoStory(tmp_path, 1.0, Silent())
    with story.regions.running():
        await story.start()
        stopping = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(story.customers.run, stopping)
            await trio.sleep(1)  # of traffic
            stopping.set()
        before = await story.verdict(1.0)
        wallet = edit_a_balance(story.regions["tokyo"].files.ledger_state)
        after = await story.verdict(1.0)
    assert (before.exit_code, [check for check in before.checks if not check.passed]) == (0, [])
    failed = {(check.region, check.what): check.told for check in after.checks if not check.passed}
    assert set(failed) == {("tokyo", "every row"), ("tokyo", "money")}
    assert all(wallet in told for told in failed.values())
    assert after.exit_code == 1
    assert after.sentence().startswith("NOT EQUAL: 2 of ")
    assert after.as_json()["equal"] is False


def edit_a_balance(database: Path) -> str:
    """Give a wallet one cent more, as somebody with sqlite3 would; the wallet."""
    with closing(sqlite3.connect(database)) as connection, connection:
        key, text = connection.execute("SELECT wallet_id, document FROM wallets LIMIT 1").fetchone()
        document = json.loads(text)
        document["balance"] += 1
        connection.execute("UPDATE wallets SET document = ? WHERE wallet_id = ?", (json.dumps(document), key))
    return str(key)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_it_and_nothing_is_left(tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        [*COMMAND, "--seconds", "60"], env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"status page: ")  # all three run
        assert len(running_below(tmp_path)) == len(NAMES)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert errors.decode().strip() == f"ended by {number.name}"
    assert running_below(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_demo_that_is_killed_takes_its_sidecars_along(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "--seconds", "60"], env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"status page: ")
        process.kill()
    deadline = time.monotonic() + 30
    while (left := running_below(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.1)  # polls other processes
    assert left == []


@pytest.mark.slow  # as above
async def test_a_sidecar_that_does_not_start_is_told_with_its_log(tmp_path: Path) -> None:
    story = DemoStory(tmp_path, 1.0, Silent())
    story.regions["tokyo"].config_path.write_text("[regoin]\n")
    with pytest.raises(ReplicatorError, match="exit code 2") as told, story.regions.running():
        await story.start()
    assert "did you mean 'region'" in str(told.value)
    assert running_below(tmp_path) == []


def test_what_is_kept_needs_a_directory_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    result = subprocess.run(
        [*COMMAND, "--keep", str(tmp_path)], capture_output=True, text=True, env=environment(tmp_path)
    )
    assert result.returncode == 2
    assert f"--keep {tmp_path}: there is something in it" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def running_below(directory: Path) -> list[str]:
    """Processes whose command line names something in the directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"{directory}/" in line and " run " in line:
            found.append(line)
    return found
