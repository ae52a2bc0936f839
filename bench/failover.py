"""How long writers are kept waiting when the primary changes, and what is lost with it.

    python -m bench.failover [RUNS]

    switchover   planned, under load: the longest time within which none of four writers was told of a write
    failover     SIGKILL of the whole primary region (sidecar and database) under load, lease of 3 s in etcd: from the
                 kill to the first acknowledged write elsewhere, and how many acknowledged writes are nowhere afterwards

Ten runs of each unless told, each table with every run. Three regions, real processes, one etcd, all on this machine.
A writer asks again every 20 ms when it is refused, goes where a refusal sends it, and keeps its idempotency key. A
failover's runs begin with a fresh deployment each; switchovers go round the regions of one.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.setting import directory, print_table
from tests.e2e.cluster import NAMES, TTL_SECONDS, Cluster, cluster
from tests.e2e.postgres_cluster import PostgresCluster, postgres_cluster
from tests.e2e.writers import Acknowledged, Writer, all_acknowledged, longest_gap, writing
from tests.etcd import Etcd, running

WRITERS = 4
WARM_SECONDS = 1.0
AFTER_SECONDS = 1.0
SWITCHOVER_GOAL_SECONDS = 0.5
FAILOVER_GOAL_SECONDS = TTL_SECONDS + 1.0

Deploy = Callable[[Path, Etcd, int], contextlib.AbstractContextManager[Cluster]]


def embedded(home: Path, etcd: Etcd, acknowledge: int) -> contextlib.AbstractContextManager[Cluster]:
    """Three embedded ledgers."""
    return cluster(home, etcd, acknowledge=acknowledge, linked=False)


def postgres(home: Path, etcd: Etcd, acknowledge: int) -> contextlib.AbstractContextManager[Cluster]:
    """Three PostgreSQL servers."""
    return postgres_cluster(home, etcd, acknowledge=acknowledge, conf={"fsync": "on"}, linked=False)


DEPLOYMENTS: dict[str, Deploy] = {"embedded": embedded, "PostgreSQL": postgres}


@contextlib.contextmanager
def deployed(deploy: Deploy, acknowledge: int) -> Iterator[Cluster]:
    """A deployment of its own, with an etcd of its own."""
    with directory() as home, running(Etcd(home / "etcd")) as etcd:
        home.chmod(0o711)  # PostgreSQL may run as another user
        with deploy(home, etcd, acknowledge) as three:
            yield three


def switchovers(deploy: Deploy, runs: int) -> list[float]:
    """The longest gap of each of so many switchovers, in seconds."""
    gaps = []
    with deployed(deploy, 0) as three:
        for number in range(1, runs + 1):
            target = NAMES[number % len(NAMES)]
            writers = three.writers(WRITERS, honours_retry_after=False)
            with writing(writers):
                time.sleep(WARM_SECONDS)
                began = time.monotonic()
                three.switch_over(target)
                three.leads(target)
                time.sleep(AFTER_SECONDS)
            gaps.append(longest_gap([write for write in all_acknowledged(writers) if write.heard > began - 0.1]))
            three.settled()
    return gaps


def failover(deploy: Deploy, acknowledge: int) -> tuple[float, int, int]:
    """Seconds from the kill to the first acknowledged write elsewhere; acknowledged writes that are lost, and all."""
    with deployed(deploy, acknowledge) as three:
        writers = three.writers(WRITERS, honours_retry_after=False)
        with writing(writers):
            time.sleep(WARM_SECONDS + TTL_SECONDS)
            three["paris"].kill()
            if isinstance(three, PostgresCluster):
                three.servers["paris"].kill()
            killed = time.monotonic()
            leader = three.leads("tokyo", "lima")
            seconds = first_elsewhere(three, writers) - killed
            time.sleep(AFTER_SECONDS)
        acknowledged = all_acknowledged(writers)
        return seconds, lost(three, leader.name, acknowledged), len(acknowledged)


def first_elsewhere(three: Cluster, writers: Sequence[Writer]) -> float:
    """When the first write was acknowledged by another region than paris."""

    def elsewhere() -> list[float]:
        return [write.heard for write in all_acknowledged(writers) if write.region != "paris" and not write.repeated]

    three.wait(elsewhere, "a write elsewhere")
    return min(elsewhere())


def lost(three: Cluster, leader: str, acknowledged: Sequence[Acknowledged]) -> int:
    """How many acknowledged writes the region that leads has not."""
    there = {row[0] for row in three.rows(leader)}
    return sum(write.id not in there for write in acknowledged)


def in_milliseconds(times: Sequence[float]) -> list[str]:
    """Every run, the median and the most."""
    return [*(f"{seconds * 1000:.0f}" for seconds in times), *_summary(times)]


def _summary(times: Sequence[float]) -> tuple[str, str]:
    return f"{statistics.median(times) * 1000:.0f}", f"{max(times) * 1000:.0f}"


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    head = [*(str(number) for number in range(1, runs + 1)), "median", "most"]
    rows: list[list[str]] = []
    for name, deploy in DEPLOYMENTS.items():
        rows.append([name, *in_milliseconds(switchovers(deploy, runs))])
    goal = f"goal {SWITCHOVER_GOAL_SECONDS * 1000:.0f}"
    print_table(f"switchover: nobody is told of a write for so long, ms ({goal})", ["ledger", *head], rows)
    times: list[list[str]] = []
    losses: list[list[object]] = []
    for name, deploy in DEPLOYMENTS.items():
        for acknowledge in (0, 1):
            outcomes = [failover(deploy, acknowledge) for _ in range(runs)]
            kind = f"{name}, K={acknowledge}"
            times.append([kind, *in_milliseconds([seconds for seconds, _, _ in outcomes])])
            lost_writes = [lost for _, lost, _ in outcomes]
            losses.append([kind, *lost_writes, statistics.median(lost_writes), max(lost_writes)])
    goal = f"goal {FAILOVER_GOAL_SECONDS * 1000:.0f}"
    title = f"failover, lease of {TTL_SECONDS} s: from the kill to the first acknowledged write, ms ({goal})"
    print_table(title, ["ledger", *head], times)
    print_table("failover: acknowledged writes that are lost (goal with K=1: 0)", ["ledger", *head], losses)


if __name__ == "__main__":
    main()
