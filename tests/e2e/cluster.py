"""Regions that may take over from each other: real sidecars, a real lease store, and lines between them to be cut.

    with cluster(tmp_path, etcd, acknowledge=1) as three: …

Each region knows the others, and etcd, under addresses of its own: the ports of its lines to them (``links``). Clients
and the test itself reach every region directly. ``judge`` is the verdict of all these tests: the same blocks, rows and
digests everywhere, each acknowledged write once.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import trio

from replicator.format.block import Header
from replicator.transport.endpoint import Endpoint
from replicator.verify.check import verify
from tests.e2e.links import Network
from tests.e2e.region import Region
from tests.e2e.sidecars import sqlite_rows
from tests.e2e.writers import Acknowledged, Writer
from tests.etcd import Etcd
from tests.faults.regions import WALLETS

NAMES = ("paris", "tokyo", "lima")  # paris begins as primary
TTL_SECONDS = 3
ETCD = "etcd"
PATIENCE_SECONDS = 60
_prefixes = itertools.count(1)


class Cluster:
    """Regions over one lease store. ``sections`` gives what is particular to a region's ledger. With K = 0 any number
    of blocks may be lost: what a primary had said to have, and not sent, would make a region wait for a person."""

    writer: type[Writer] = Writer
    region_kind: type[Region] = Region

    def __init__(
        self,
        directory: Path,
        etcd: Etcd,
        sections: Callable[[str], str],
        *,
        acknowledge: int = 0,
        linked: bool = True,
        failover: str = "",
        ttl_seconds: int = TTL_SECONDS,
    ) -> None:
        self.network = Network()
        self._linked = linked
        self._writers: list[Writer] = []
        self.regions = {
            name: self.region_kind(directory, name, "primary" if name == NAMES[0] else "replica", "") for name in NAMES
        }
        self.known_as = {region.url: name for name, region in self.regions.items()}
        self.prefix = f"/test-{next(_prefixes)}-{time.time_ns()}"
        for name, region in self.regions.items():
            urls = ", ".join(f'{other} = "{self._url(name, other)}"' for other in NAMES)
            store = self._port(name, ETCD, etcd.port)
            with region.config.open("a") as file:
                file.write(
                    f'[feed]\nheartbeat = "200ms"\n\n{sections(name)}\n[cluster]\nregions = {{ {urls} }}\n\n'
                    f'[lease]\nkind = "etcd"\nendpoints = ["http://127.0.0.1:{store}"]\nprefix = "{self.prefix}"\n'
                    f'ttl = "{ttl_seconds}s"\nmargin = "300ms"\n\n'
                    f'[failover]\nmode = "automatic"\nquiet = "1s"\nacknowledge = {acknowledge}\n'
                    f"max_lost_blocks = {0 if acknowledge else 1_000_000}\n{failover}\n"
                )

    def _port(self, source: str, target: str, port: int) -> int:
        return self.network.link(source, target, port) if self._linked else port

    def _url(self, source: str, target: str) -> str:
        region = self.regions[target]
        if source == target:
            return region.url
        url = f"http://127.0.0.1:{self._port(source, target, region.port)}"
        self.known_as[url] = target
        return url

    def __getitem__(self, name: str) -> Region:
        return self.regions[name]

    # -- running

    def start(self) -> None:
        """All regions, until one leads and the others follow it."""
        for region in self.regions.values():
            region.start()
        assert self.settled().name == NAMES[0]

    def close(self) -> None:
        """Nothing is left behind."""
        for region in self.regions.values():
            region.end()
        self.network.end()

    def writers(self, number: int = 4, **settings: Any) -> list[Writer]:
        """Clients that follow the primary, or with ``only`` ask one region."""
        addresses = {name: region.address for name, region in self.regions.items()}
        base = f"w{time.monotonic_ns()}"
        made = [self.writer(f"{base}-{n}", addresses, self.known_as, **settings) for n in range(number)]
        self._writers += made
        return made

    def switch_over(self, target: str, seconds: float = 30.0) -> None:
        """Order it; returns when it is accepted: the primary may have to hear of the target first."""

        def is_accepted() -> bool:
            status, answer = self.leads(*NAMES).order(verb="switchover", target=target, seconds=seconds)
            assert status == 202 or answer.get("reason") == "target_not_ready", f"{answer}\n{self.story()}"
            return status == 202

        self.wait(is_accepted, f"a switchover to {target} is accepted")

    # -- waiting

    def wait(self, done: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS) -> None:
        """Poll until ``done``; fails with every region's log if a process ended or it takes too long."""
        deadline = time.monotonic() + seconds
        while not done():
            ended = [
                r.name for r in self.regions.values() if r.process is not None and r.process.poll() not in (None, -9)
            ]
            faults = [fault for writer in self._writers for fault in writer.faults]
            if ended or faults or time.monotonic() > deadline:
                why = f"ended by themselves: {ended}; answers that should not be: {faults}"
                raise AssertionError(f"{what}: not reached; {why}\n{self.story()}")
            time.sleep(0.05)  # polls other processes

    def more(self, writers: Sequence[Writer], each: int = 20) -> None:
        """Wait until each of these has been told of so many more writes."""
        goals = [(writer, len(writer.acknowledged) + each) for writer in writers]
        self.wait(lambda: all(len(writer.acknowledged) >= goal for writer, goal in goals), "writes go on")

    def primary(self) -> Region | None:
        """The region that says that it leads with its fence open."""
        found = [r for r in self.regions.values() if (said := r.report()).get("state") == "primary" and said["open"]]
        assert len(found) <= 1, f"two primaries: {[region.report() for region in found]}\n{self.story()}"
        return found[0] if found else None

    def leads(self, *names: str) -> Region:
        """Wait until one of these leads."""
        found: list[Region] = []

        def done() -> bool:
            found[:] = [region for region in [self.primary()] if region is not None and region.name in names]
            return bool(found)

        self.wait(done, f"one of {names} is primary")
        return found[0]

    def settled(self) -> Region:
        """Wait until one region leads and all the others follow it and have applied what it has; who leads."""
        leader: list[Region] = []

        def done() -> bool:
            reports = {name: region.report() for name, region in self.regions.items()}
            leading = [name for name, said in reports.items() if said.get("state") == "primary" and said["open"]]
            if len(leading) != 1:
                return False
            head = reports[leading[0]]
            followers = [said for name, said in reports.items() if name != leading[0]]
            leader[:] = [self.regions[leading[0]]]
            return all(
                said.get("state") == "following"
                and said["hash"] == head["hash"]
                and said["applied"] == head["sequence"]
                for said in followers
            )

        self.wait(done, "one leads and all others follow")
        return leader[0]

    def story(self) -> str:
        """What the regions have written, and what they say now: for whoever looks at a failure."""
        lines = []
        for name, region in self.regions.items():
            lines += [f"---- {name}: {json.dumps(region.office() or {})[:3000]}", region.log()]
        return "\n".join(lines)

    # -- the verdict

    def judge(self, acknowledged: Sequence[Acknowledged], *, lost: bool = False) -> Region:
        """Wait until all is quiet; then every region has the same, and each acknowledged write once. With ``lost`` an
        acknowledged write may be missing: in every region alike. Who leads."""
        leader = self.settled()
        self.verified(leader)
        chains = {name: region.headers() for name, region in self.regions.items()}
        chain = chains[leader.name]
        assert all(one == chain for one in chains.values()), self.story()
        rows = {name: self.rows(name) for name in self.regions}
        assert all(one == rows[leader.name] for one in rows.values())
        times = Counter(row[0] for row in rows[leader.name])
        assert not [id for id, number in times.items() if number > 1], "done twice"
        missing = [one for one in acknowledged if one.id not in times]
        assert lost or not missing, f"{len(missing)} acknowledged writes are lost: {missing[:3]}\n{self.story()}"
        self.check_chain(chain, times)
        return leader

    def check_chain(self, chain: Sequence[Header], times: Mapping[str | None, int]) -> None:
        """An embedded ledger's blocks are named as the requests that they come from: each once, none without a row."""
        names = Counter(header.txid for header in chain if header.txid.startswith("w"))
        assert names == times

    def rows(self, name: str) -> list[tuple[str | None, ...]]:
        """The wallets of an embedded region: the first column is the write's id."""
        path = self[name].directory / "data" / "ledger.sqlite3"
        return list(sqlite_rows(path, "wallets", ["wallet_id", "user_id", "amount"]))

    def verified(self, leader: Region) -> None:
        """The product's own comparison of each region with the one that leads, every row at one position."""
        for region in self.regions.values():
            if region is not leader:
                ends = Endpoint(leader.name, leader.url, None, None), Endpoint(region.name, region.url, None, None)
                verdict = trio.run(verify, *ends)
                assert verdict.is_equal, f"{verdict}\n{self.story()}"


def embedded(name: str) -> str:
    """Sections of an embedded ledger's region."""
    return f'[source]\nkind = "embedded"\n{WALLETS}'


@contextlib.contextmanager
def cluster(
    directory: Path, etcd: Etcd, sections: Callable[[str], str] = embedded, **settings: Any
) -> Iterator[Cluster]:
    """Three regions that run, paris leading."""
    three = Cluster(directory, etcd, sections, **settings)
    try:
        three.start()
        yield three
    finally:
        three.close()


def lost_of(acknowledged: Sequence[Acknowledged], headers: Sequence[Header]) -> list[Acknowledged]:
    """The acknowledged writes that are on no such chain."""
    there: Mapping[str, int] = Counter(header.txid for header in headers)
    return [one for one in acknowledged if one.id not in there]
