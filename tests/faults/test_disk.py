"""A full disk: a wait that is visible, work that goes on by itself once there is room, and nothing lost.

The disk is filled by the limit on a process' files, which needs no root and can be lifted while the process runs;
where a file system may be mounted, a real one is filled, too.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.sidecars import sequence
from tests.faults.regions import EMBEDDED, Region, assert_equal, follow, sqlite_replica, troubles

FULL = {"cannot_write", "disk_full", "spool_unavailable"}
ROOM_BYTES = 400_000  # what a process may still write
FILLER = "x" * 30_000


def is_full(status: dict[str, Any]) -> Callable[[str], bool]:
    """Says of a stage whether it waits for a full disk."""
    waiting = [t for t in troubles(status) if t["reason"] in FULL and t["cure"] and t["condition"] == "waiting"]
    return lambda stage: any(trouble["stage"] == stage for trouble in waiting)


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Region]:
    region = Region(tmp_path, "paris", "primary", EMBEDDED)
    region.start()
    region.reach_sequence("applied", 1)
    yield region
    region.end()


def test_an_embedded_ledger_whose_disk_is_full(primary: Region, tmp_path: Path) -> None:
    """Who writes is told, the status shows it, and no acknowledged wallet is lost; a follower sees them all."""
    tokyo = Region(tmp_path, "tokyo", "replica", follow(primary.url) + sqlite_replica())
    tokyo.start()
    try:
        acknowledged = 0
        primary.limit_files(ROOM_BYTES)
        while (answer := primary.write(acknowledged, 1, filler=FILLER)).status_code == 200:
            acknowledged += 1
        refusal = answer.json()
        assert answer.status_code == 503
        assert refusal["reason"] in FULL
        assert refusal["place"]
        assert refusal["cure"]
        primary.reach(lambda status: is_full(status)("apply") and not status["ready"], "a full disk in the status", 20)
        for path in ("/primary", "/health", "/readiness"):
            assert (primary.ask(path).status_code, primary.ask(path).json()["blocked"]["reason"] in FULL) == (503, True)
        assert primary.ask("/v1/tables/wallets/documents/w0000000").status_code == 200
        primary.limit_files(-1)
        primary.reach(lambda status: status["ready"], "room, though no balancer sends a write", 20)
        assert primary.ask("/primary").status_code == 200
        assert primary.write(acknowledged, 1).status_code == 200
        primary.reach_calm()
        status = primary.status()
        assert status is not None
        tokyo.reach_sequence("applied", sequence(status, "settled"))
        assert tokyo.wallets() == acknowledged + 1
        assert_equal(tokyo)
    finally:
        tokyo.end()


def test_a_region_that_is_killed_while_its_disk_is_full(primary: Region, tmp_path: Path) -> None:
    """Whichever of its files meets the limit first; also from there nothing is lost."""
    tokyo = Region(tmp_path, "tokyo", "replica", follow(primary.url) + sqlite_replica())
    tokyo.start()
    tokyo.reach(lambda status: status["ready"], "ready")
    tokyo.limit_files(ROOM_BYTES)
    try:
        for number in range(40):
            assert primary.write(number, 1, filler=FILLER).status_code == 200
        tokyo.reach(lambda status: any(map(is_full(status), ["settle", "apply"])), "a full disk in the status", 20)
        assert tokyo.ask("/liveness").status_code == 200
        tokyo.kill()
        tokyo.start()
        tokyo.reach_sequence("applied", 41)
        tokyo.reach_calm()
        assert tokyo.wallets() == 40
        assert_equal(tokyo)
    finally:
        tokyo.end()


@pytest.mark.parametrize("where", ["data", "replica"])
def test_a_file_system_that_is_full(primary: Region, tmp_path: Path, where: str) -> None:
    """The journal and the spool, or the replica, on a file system of 8 MB that somebody else fills."""
    tokyo = Region(tmp_path, "tokyo", "replica", follow(primary.url) + sqlite_replica("replica/ledger.db"))
    (tokyo.directory / "replica").mkdir()
    tokyo.data.mkdir()
    place = tokyo.directory / where
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    is_mounted = os.geteuid() == 0 and subprocess.run(mount, check=False).returncode == 0
    try:
        tokyo.start()
        tokyo.reach(lambda status: status["ready"], "ready")
        if is_mounted:
            with (place / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
        else:
            tokyo.limit_files(1)
        for number in range(10):
            assert primary.write(number, 1, filler=FILLER).status_code == 200
        stages = {"data": ["settle"], "replica": ["apply"]}[where] if is_mounted else ["settle", "apply"]
        tokyo.reach(lambda status: any(map(is_full(status), stages)), "a full disk in the status", 20)
        (place / "ballast").unlink(missing_ok=True)
        tokyo.limit_files(-1)
        tokyo.reach_sequence("applied", 11)
        tokyo.reach_calm()
        assert_equal(tokyo)
    finally:
        tokyo.end()
        if is_mounted:
            subprocess.run(["umount", str(place)], check=True)
