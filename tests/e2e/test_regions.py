"""Three regions of an embedded ledger as their users meet them: role URLs, read-your-writes, the feed's questions.

Real processes; a clock that jumps is put into them where Python reads the time.
"""

from __future__ import annotations

import datetime
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from replicator.format.block import Block
from replicator.format.wire import DefinitionFrame, End, Frame, FrameReader, Heartbeat
from tests.faults.regions import EMBEDDED, Region, assert_equal, follow, postgres_replica, sqlite_replica
from tests.servers import Postgres

# Read by every Python at its start: the wall clock is off by what the file beside it says, in seconds.
CLOCK = """
import pathlib, time
_file = pathlib.Path(__file__).with_name("offset")
_time, _time_ns = time.time, time.time_ns
def _offset():
    try:
        return int(_file.read_text() or 0)
    except (OSError, ValueError):
        return 0
time.time = lambda: _time() + _offset()
time.time_ns = lambda: _time_ns() + _offset() * 10**9
"""


class Trio:
    """Paris writes, Lima (PostgreSQL) and Tokyo (SQLite) follow; all live by a clock that a test sets."""

    def __init__(self, directory: Path, dsn: str) -> None:
        (directory / "clock").mkdir()
        (directory / "clock" / "sitecustomize.py").write_text(CLOCK)
        self.offset = directory / "clock" / "offset"
        environment = {"PYTHONPATH": str(directory / "clock")}
        self.paris = Region(directory, "paris", "primary", EMBEDDED, environment)
        follows = follow(self.paris.url)
        self.lima = Region(directory, "lima", "replica", follows + postgres_replica(dsn), environment)
        self.tokyo = Region(directory, "tokyo", "replica", follows + sqlite_replica(), environment)
        self.regions = [self.paris, self.lima, self.tokyo]

    def head(self) -> str:
        return str(self.paris.ask("/feed/v1/main/positions/head").json()["position"])

    def feed(self, query: str) -> list[Frame]:
        """What a finite question to the feed is answered with."""
        reader = FrameReader()
        reader.feed(self.paris.ask(f"/feed/v1/main?{query}").content)
        return list(reader)


@pytest.fixture(scope="module")
def regions(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    trio = Trio(tmp_path_factory.mktemp("regions"), postgres.create_database("regions_e2e"))
    for region in trio.regions:
        region.start()
    for region in trio.regions:
        region.reach_sequence("applied", 1)
    yield trio
    for region in trio.regions:
        region.end()


def test_role_urls(regions: Trio) -> None:
    """As a balancer asks them, with each method."""
    expected = {
        "/liveness": (200, 200),
        "/health": (200, 200),
        "/readiness": (200, 200),
        "/readiness?lag=10s&mode=settled": (200, 200),
        "/primary": (200, 503),
        "/replica": (503, 200),
        "/replica?lag=1000": (503, 200),
    }
    for path, (primary, replica) in expected.items():
        for region, status in ((regions.paris, primary), (regions.lima, replica), (regions.tokyo, replica)):
            for method in ("GET", "HEAD", "OPTIONS"):
                answer = httpx.request(method, region.url + path, trust_env=False, verify=False)
                assert answer.status_code == status, (region.name, method, path)
    for region in regions.regions:
        for path in ("/", "/metrics", "/cluster", "/history", "/v1/status"):
            assert region.ask(path).status_code == 200
    members = {member["name"] for member in regions.paris.ask("/cluster").json()["members"]}
    assert members == {"paris", "lima", "tokyo"}


def test_who_wrote_in_one_region_reads_it_in_every_other(regions: Trio) -> None:
    for number in range(6):
        written = regions.paris.write(number, 1)
        for region in regions.regions:
            path = f"/v1/tables/wallets/documents/w{number:07}?after={written.json()['position']}"
            answer = region.ask(path)
            assert answer.status_code == 200, answer.text
            assert answer.json()["document"]["wallet_id"] == f"w{number:07}"


def test_a_region_that_is_behind_says_when_to_come_back(regions: Trio) -> None:
    """Its replay is held; the answer is 503 with Retry-After, and afterwards the document."""
    for region in (regions.lima, regions.tokyo):
        held = httpx.post(f"{region.url}/v1/verify/hold?seconds=20", trust_env=False, verify=False)
        assert held.status_code == 200
    written = regions.paris.write(1000, 1)
    path = f"/v1/tables/wallets/documents/w0001000?after={written.json()['position']}"
    for region in (regions.lima, regions.tokyo):
        answer = region.ask(f"{path}&timeout=100ms")
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.json()["cure"]
        httpx.delete(f"{region.url}/v1/verify/hold", trust_env=False, verify=False)
        assert region.ask(f"{path}&timeout=10s").status_code == 200
    stranger = "main:1:3:" + "ab" * 32
    assert regions.tokyo.ask(f"/v1/tables/wallets/documents/x?after={stranger}").status_code == 409


def test_the_feed_by_range_and_by_time(regions: Trio) -> None:
    """after=, until=, from=, to=; definitions first where it starts from a time, an END where an end was asked."""
    regions.paris.write(2000, 1)
    blocks = [frame for frame in regions.feed("after=0&until=5") if isinstance(frame, Block)]
    assert [block.header.sequence for block in blocks] == [1, 2, 3, 4, 5]
    middle = blocks[2]
    at = datetime.datetime.fromtimestamp(middle.header.committed_at / 1e6, datetime.UTC)
    frames = regions.feed(f"from={at.isoformat()}&until=5".replace("+", "%2B"))
    kinds = [type(frame) for frame in frames]
    assert kinds[0] is Heartbeat
    assert kinds[1] is DefinitionFrame
    assert kinds[-1] is End
    assert [frame.header.sequence for frame in frames if isinstance(frame, Block)] == [3, 4, 5]
    frames = regions.feed(f"after=0&to={at.isoformat()}".replace("+", "%2B"))
    assert [frame.header.sequence for frame in frames if isinstance(frame, Block)] == [1, 2]
    resumed = regions.feed(f"after=2&hash={blocks[1].hash.hex()}&until=3")
    assert [frame for frame in resumed if isinstance(frame, Block)] == [middle]
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    frames = regions.feed(f"after=0&to={later.isoformat()}".replace("+", "%2B"))
    assert sum(isinstance(frame, Block) for frame in frames) == int(regions.head().split(":")[2])


def test_a_wall_clock_that_jumps_changes_nothing(regions: Trio) -> None:
    """A year ahead, then two years back, while blocks come: order, equality, readiness, lag and reads by time hold."""
    year = 365 * 86_400
    number = 3000
    for offset in (0, year, -year, 3600, 0):
        regions.offset.write_text(str(offset))
        for _ in range(5):
            assert regions.paris.write(number, 1).status_code == 200
            number += 1
        position = regions.head()
        for region in (regions.lima, regions.tokyo):
            path = f"/v1/tables/wallets/documents/w{number - 1:07}?after={position}&timeout=10s"
            assert region.ask(path).status_code == 200
            status = region.status()
            assert status is not None
            assert status["ready"], status["blocked"]
            (strand,) = status["strands"]
            assert (strand["lag"]["seconds"] or 0) < 30, strand["lag"]
            assert strand["regressions"] == 0
            assert region.ask("/readiness").status_code == 200
    assert_equal(regions.lima, regions.tokyo)
    frames = regions.feed(f"from={_time(time.time() - year / 2)}&until={regions.head().split(':')[2]}")
    sequences = [frame.header.sequence for frame in frames if isinstance(frame, Block)]
    assert sequences == list(range(sequences[0], int(regions.head().split(":")[2]) + 1))
    with sqlite3.connect(regions.tokyo.directory / "ledger.db") as lite:
        (rows,) = lite.execute("SELECT count(*) FROM wallets WHERE wallet_id >= 'w0003000'").fetchone()
    assert rows == 25


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat().replace("+", "%2B")
