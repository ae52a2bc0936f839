"""The lease in a file: processes that die in the middle of a step, restarts of the machine, disks that refuse."""

from __future__ import annotations

import fcntl
import json
import math
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from replicator.cluster.leases.base import Holder, LeaseLost, LeaseView, usable_until
from replicator.cluster.leases.record import LeaseRecord, read_kept, write_kept
from replicator.cluster.leases.static import StaticLease
from replicator.errors import Halted, Unavailable

TTL_SECONDS = 60.0


class Machine:
    """Its clock and its boot."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.boot = "first"

    def restart(self, seconds: float = 5.0) -> None:
        self.seconds = seconds
        self.boot = "second"

    def lease(self, path: Path, ttl_seconds: float = TTL_SECONDS) -> StaticLease:
        return StaticLease(path, "main", ttl_seconds, lambda: self.seconds, lambda: self.boot)


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "lease.json"


# -- the machine ------------------------------------------------------------------------------------------------------


async def test_it_ends_with_its_time_and_not_before(machine: Machine, path: Path) -> None:
    lease = machine.lease(path)
    grant = await lease.claim("paris", 1)
    machine.seconds += TTL_SECONDS - 0.001
    assert (await lease.look()).holder == grant.holder
    assert usable_until(grant, 0.0, 0.002) < machine.seconds
    machine.seconds += 0.001
    assert await lease.look() == LeaseView(None, 1)
    with pytest.raises(LeaseLost):
        await lease.renew(grant)


@pytest.mark.parametrize("names_its_boot", [True, False])
@pytest.mark.parametrize("seconds", [5.0, 999.0])
async def test_a_restart_of_the_machine_ends_it_and_keeps_the_epoch(
    machine: Machine, path: Path, names_its_boot: bool, seconds: float
) -> None:
    machine.boot = "first" if names_its_boot else ""
    lease = machine.lease(path)
    grant = await lease.claim("paris", 3)
    machine.restart(seconds)
    machine.boot = machine.boot if names_its_boot else ""
    assert await lease.look() == LeaseView(None, 3)
    with pytest.raises(LeaseLost):
        await lease.renew(grant)
    assert (await lease.claim("tokyo", 4)).epoch == 4


async def test_a_restart_is_known_by_its_name_where_the_clock_has_come_as_far(machine: Machine, path: Path) -> None:
    lease = machine.lease(path)
    await lease.claim("paris", 3)
    machine.restart(machine.seconds + 1.0)
    assert await lease.look() == LeaseView(None, 3)


# -- by hand ----------------------------------------------------------------------------------------------------------


async def test_by_hand_it_does_not_end_not_even_with_a_restart(machine: Machine, path: Path) -> None:
    lease = machine.lease(path, math.inf)
    assert not lease.exclusive
    grant = await lease.claim("paris", 1)
    assert usable_until(grant, 0.01, 0.5) == math.inf
    machine.restart()
    assert (await lease.look()).holder == grant.holder
    renewed = await lease.renew(grant)
    assert renewed.ttl_seconds == math.inf
    await lease.release(renewed)
    with pytest.raises(LeaseLost):
        await lease.renew(renewed)
    with pytest.raises(LeaseLost):
        await lease.claim("paris", 1)


# -- processes that die -----------------------------------------------------------------------------------------------

DIES = """
import os, pathlib, sys, trio
from replicator.cluster.leases.static import StaticLease

path, step, last = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
calls = 0

def counted(real):
    def call(*arguments, **named):
        global calls
        calls += 1
        if calls == last and sys.argv[4] == "before":
            os._exit(9)
        answer = real(*arguments, **named)
        if calls == last:
            os._exit(9)
        return answer
    return call

async def main():
    lease = StaticLease(path, "main", 60.0)
    if step == "claim":
        await lease.claim("paris", 1)
    else:
        grant = await lease.claim("paris", 1)
        os.fsync, pathlib.Path.replace = counted(os.fsync), counted(pathlib.Path.replace)
        await lease.keep_mine(grant)

if step == "claim":
    os.fsync, pathlib.Path.replace = counted(os.fsync), counted(pathlib.Path.replace)
trio.run(main)
"""


def die(path: Path, step: str, call: int, when: str) -> None:
    """In a process of its own, before or after the ``call``: 1, the new file to disk; 2, its name; 3, that to disk."""
    died = subprocess.run([sys.executable, "-c", DIES, str(path), step, str(call), when], check=False)
    assert died.returncode == 9


@pytest.mark.parametrize(
    ("call", "when", "done"),
    [(1, "before", 0), (1, "after", 0), (2, "before", 0), (2, "after", 1), (3, "before", 1), (3, "after", 1)],
)
async def test_a_process_that_dies_in_a_claim_leaves_it_undone_or_done(
    path: Path, call: int, when: str, done: int
) -> None:
    die(path, "claim", call, when)
    lease = StaticLease(path, "main", TTL_SECONDS)
    view = await lease.look()
    assert view.epoch == done
    assert (view.holder is not None) == bool(done)
    grant = await lease.claim("paris", 1)  # again, as whoever has not heard an answer does
    assert view.holder in (None, grant.holder)
    assert await lease.look() == LeaseView(grant.holder, 1)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_process_that_dies_in_keeping_it_has_it_with_one_token_or_the_other(path: Path, when: str) -> None:
    die(path, "keep", 2, when)
    lease = StaticLease(path, "main", TTL_SECONDS)
    holder = (await lease.look()).holder
    assert holder is not None
    grant = await lease.claim("paris", 1)
    assert grant.token == holder.token
    with pytest.raises(LeaseLost):
        await lease.claim("tokyo", 2, instead_of=holder._replace(token="another"))


CONTENDS = """
import pathlib, sys, trio
from replicator.cluster.leases.base import LeaseLost
from replicator.cluster.leases.static import StaticLease

async def main():
    lease = StaticLease(pathlib.Path(sys.argv[1]), "main", 60.0)
    while (epoch := (await lease.look()).epoch + 1) <= 40:
        try:
            grant = await lease.claim(sys.argv[2], epoch)
        except LeaseLost:
            continue
        print(grant.epoch, flush=True)
        await lease.release(await lease.renew(grant))

trio.run(main)
"""


def test_processes_that_contend_are_each_given_what_no_other_was(path: Path) -> None:
    contenders = [
        subprocess.Popen([sys.executable, "-c", CONTENDS, str(path), region], stdout=subprocess.PIPE)
        for region in ("paris", "tokyo", "lima")
    ]
    epochs = [int(epoch) for process in contenders for epoch in process.communicate()[0].split()]
    assert [process.returncode for process in contenders] == [0, 0, 0]
    assert sorted(epochs) == list(range(1, 41))


# -- the file ---------------------------------------------------------------------------------------------------------


async def test_a_lock_that_is_held_for_long_is_unavailable_in_time(path: Path) -> None:
    lease = StaticLease(path, "main", 0.3)
    await lease.claim("paris", 1)
    with path.with_name("lease.json.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Unavailable) as silent:
            await lease.look()
    assert silent.value.reason == "lease_store_silent"
    assert (await lease.look()).epoch == 1


async def test_a_place_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable) as unusable:
        await StaticLease(tmp_path / "file" / "lease.json", "main", TTL_SECONDS).claim("paris", 1)
    assert unusable.value.reason == "lease_store_unusable"
    assert unusable.value.cure


async def test_a_full_disk_is_unavailable_and_leaves_what_was(path: Path) -> None:
    lease = StaticLease(path, "main", TTL_SECONDS)
    grant = await lease.claim("paris", 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handled = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))  # no file may grow: as on a disk that is full
    try:
        with pytest.raises(Unavailable) as full:
            await lease.claim("tokyo", 2, instead_of=grant.holder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handled)
    assert full.value.reason == "lease_store_unusable"
    assert await lease.look() == LeaseView(grant.holder, 1)


HELD = {"region": "paris", "epoch": 1, "token": "t", "lease_id": "l", "boot": "b", "began_at": 1.0, "ttl_seconds": 1.0}
GOOD: dict[str, Any] = {"strand": "main", "epoch": 1, "held": HELD}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "[" * 50_000,
        " " * 70_000,
        json.dumps({}),
        json.dumps({**GOOD, "strand": "audit"}),
        json.dumps({**GOOD, "epoch": "1"}),
        json.dumps({**GOOD, "epoch": 0}),
        json.dumps({**GOOD, "held": {**HELD, "token": 1}}),
        json.dumps({**GOOD, "held": {**HELD, "ttl_seconds": "long"}}),
        json.dumps({**GOOD, "held": {**HELD, "began_at": math.nan}}),
        json.dumps({**GOOD, "held": {**HELD, "epoch": 2}}),
        json.dumps({**GOOD, "held": [1]}),
    ],
    ids=lambda content: content[-40:].strip() or "empty",
)
def test_a_file_that_no_sidecar_has_written_halts_and_stays(path: Path, content: str) -> None:
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(Halted) as garbled:
        trio.run(StaticLease(path, "main", TTL_SECONDS).claim, "paris", 9)
    assert garbled.value.reason == "lease_file_garbled"
    assert path.read_text() == content


def test_the_file_says_what_was_granted(machine: Machine, path: Path) -> None:
    grant = trio.run(machine.lease(path).claim, "paris", 2)
    assert json.loads(path.read_text()) == {
        "strand": "main",
        "epoch": 2,
        "held": {
            "region": "paris",
            "epoch": 2,
            "token": grant.token,
            "lease_id": grant.lease_id,
            "boot": "first",
            "began_at": 1000.0,
            "ttl_seconds": TTL_SECONDS,
        },
    }
    assert sorted(os.listdir(path.parent)) == ["lease.json", "lease.json.lock"]


FILE_TEXT = (
    '{"strand": "main", "epoch": 3, "held": {"region": "paris", "epoch": 2, "token": "t", "lease_id": "l", "boot": "b",'
    ' "began_at": 1000.5, "ttl_seconds": %s}}'
)


@pytest.mark.parametrize("ttl_seconds", ["30.0", "null"])
def test_the_file_has_the_form_that_other_releases_read(tmp_path: Path, ttl_seconds: str) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    before.write_text(FILE_TEXT % ttl_seconds)
    kept = read_kept(before, "main")
    assert kept == LeaseRecord(
        3, Holder("paris", 2, "t"), "l", "b", 1000.5, 30.0 if ttl_seconds == "30.0" else math.inf
    )
    write_kept(after, "main", kept)
    assert after.read_bytes() == before.read_bytes()
    write_kept(after, "main", LeaseRecord(3))
    assert after.read_text() == '{"strand": "main", "epoch": 3, "held": null}'
    assert read_kept(after, "main") == LeaseRecord(3)
