"""SIGTERM: stopped within the deadline whatever hangs. SIGKILL again and again: nothing lost, nothing doubled."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.deployment import seed
from tests.faults.hostile import STREAM, HostileFeed
from tests.faults.regions import EMBEDDED, Region, assert_equal, follow, postgres_replica, sqlite_replica
from tests.servers import Postgres

DEADLINE = '[stop]\ndeadline = "3s"\n\n'
LEEWAY_SECONDS = 3
STORMS = 5


@pytest.fixture
def paris(tmp_path: Path) -> Iterator[Region]:
    region = Region(tmp_path, "paris", "primary", DEADLINE + EMBEDDED)
    region.start()
    region.reach_sequence("applied", 1)
    yield region
    region.end()


def test_a_follower_and_a_client_that_hang_do_not_hold_a_primary_up(paris: Region) -> None:
    """One reads the feed and stops reading, one begins a request and never ends it."""
    for number in range(20):
        assert paris.write(100 * number, 100, filler="x" * 2000).status_code == 200
    with (
        socket.create_connection(("127.0.0.1", paris.port)) as reader,
        socket.create_connection(("127.0.0.1", paris.port)) as writer,
    ):
        reader.sendall(b"GET /feed/v1/main?after=0 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert reader.recv(100)
        writer.sendall(b"POST /v1/transactions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        began = time.monotonic()
        assert paris.stop() in (0, 1)
        assert time.monotonic() - began < 3 + LEEWAY_SECONDS
    paris.start()
    paris.reach_sequence("applied", 1)
    assert paris.wallets() == 2000


def test_a_blocked_feed_does_not_hold_a_replica_up(paris: Region, tmp_path: Path) -> None:
    feed = HostileFeed(paris.port)

    def nothing(path: str) -> Iterator[bytes]:
        yield STREAM
        feed.closing.wait(60)

    feed.cases["tokyo"] = nothing
    tokyo = Region(tmp_path, "tokyo", "replica", DEADLINE + follow(feed.url("tokyo")) + sqlite_replica())
    tokyo.start()
    try:
        tokyo.reach(lambda status: feed.asked.get("tokyo", 0) > 0, "connected")
        assert tokyo.stop() == 0
    finally:
        feed.close()
        tokyo.end()


def test_a_database_that_does_not_answer_does_not_hold_a_replica_up(paris: Region, tmp_path: Path) -> None:
    """The server is stopped (SIGSTOP) in the midst of work. Ended at the deadline, the region is whole afterwards."""
    server = Postgres(tmp_path / "server")
    server.create()
    server.start()
    lima = Region(
        tmp_path, "lima", "replica", DEADLINE + follow(paris.url) + postgres_replica(server.create_database("ledger"))
    )
    lima.start()
    try:
        lima.reach(lambda status: status["ready"], "ready")
        with server.connect("ledger") as connection:
            (backend,) = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'replicator' AND datname = 'ledger' LIMIT 1"
            ).fetchone() or (0,)
        os.kill(backend, signal.SIGSTOP)
        try:
            for number in range(50):
                assert paris.write(number, 1).status_code == 200
            lima.reach(lambda status: status["strands"][0]["marks"]["settled"] >= 51, "settled")
            began = time.monotonic()
            lima.stop()
            assert time.monotonic() - began < 3 + LEEWAY_SECONDS
        finally:
            os.kill(backend, signal.SIGCONT)
        lima.start()
        lima.reach_sequence("applied", 51)
        lima.reach_calm()
        assert_equal(lima)
    finally:
        lima.end()
        server.stop()


def test_a_storm_of_restarts_loses_and_doubles_nothing(paris: Region, tmp_path: Path) -> None:
    """All three are killed again and again, some of them before they listen, while a client writes with keys."""
    draws = random.Random(number := seed())
    print(f"REPLICATOR_TEST_SEED={number}")
    tokyo = Region(tmp_path, "tokyo", "replica", follow(paris.url) + sqlite_replica())
    tokyo.start()
    stop = threading.Event()
    acknowledged: set[int] = set()
    writer = threading.Thread(target=_write_until, args=(paris, stop, acknowledged))
    writer.start()
    try:
        for _ in range(STORMS):
            for region in (paris, tokyo):
                time.sleep(draws.uniform(0.05, 1.2))  # the random moment itself
                region.kill()
                region.start()
        stop.set()
        writer.join()
        paris.reach_sequence("applied", 1)
        last = max(acknowledged, default=-1) + 1
        assert paris.write(last + 1_000_000, 1).status_code == 200
        head = int(paris.ask("/feed/v1/main/positions/head").json()["position"].split(":")[2])
        tokyo.reach_sequence("applied", head)
        assert tokyo.wallets() == len(acknowledged) + 1
        status = tokyo.status()
        assert status is not None
        assert status["strands"][0]["applied_blocks"] == head, "each block was applied once"
        assert_equal(tokyo)
    finally:
        stop.set()
        writer.join()
        tokyo.end()


def _write_until(region: Region, stop: threading.Event, acknowledged: set[int]) -> None:
    """Write a wallet after the other, each until it is acknowledged; the key makes repeating it safe."""
    number = 0
    with httpx.Client(trust_env=False, timeout=5, verify=False) as client:
        while not stop.is_set() or number not in acknowledged:
            document = {"wallet_id": f"w{number:07}", "user_id": "u"}
            statement = {"table": "wallets", "op": "insert", "document": document}
            try:
                body = {"id": f"key-{number}", "statements": [statement]}
                if client.post(f"{region.url}/v1/transactions", json=body).status_code == 200:
                    acknowledged.add(number)
                    if stop.is_set():
                        return
                    number += 1
                    continue
            except httpx.HTTPError:
                pass
            stop.wait(0.02)  # a client's pause before it tries again
