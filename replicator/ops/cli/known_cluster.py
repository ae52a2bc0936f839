"""What the verbs of failover share: the regions of a cluster, how each is, and what happens while one waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from replicator.errors import ConfigError, ReplicatorError, Unavailable
from replicator.ops.cli import printable

if TYPE_CHECKING:
    from replicator.transport.endpoint import Endpoint

POLL_SECONDS = 0.05
State = dict[str, Any]


class KnownCluster(NamedTuple):
    """The regions by name. ``own`` is the one whose configuration was named, with what it says of a switchover."""

    own: str
    regions: dict[str, Endpoint]
    switchover_seconds: float


def cluster_of(config_path: Path, ca: Path | None) -> KnownCluster:
    """The cluster of a configuration. Raises ConfigError if it has none."""
    from replicator.config import load
    from replicator.ops.cli.client import of_cluster

    config = load(config_path)
    if config.cluster is None:
        cure = "failover is for regions that name each other in [cluster]; config/reference.toml explains it"
        raise ConfigError("no_cluster", "this region is in no cluster", place=str(config_path), cure=cure)
    return KnownCluster(config.region.name, of_cluster(config, ca), config.failover.switchover_seconds)


def state_of(whom: Endpoint) -> State:
    """What a region says of its role. Raises ReplicatorError."""
    from replicator.ops.cli.client import ask, unreadable

    answer = ask(whom, "/v1/failover")
    if not isinstance(answer, dict) or not isinstance(answer.get("report"), dict):
        raise unreadable(whom.url, TypeError("no report"))
    return answer


def primary_of(cluster: KnownCluster) -> str:
    """The region that leads, as the first one that answers knows. Raises Unavailable."""
    names = [cluster.own, *(name for name in cluster.regions if name != cluster.own)]
    said = ""
    for name in names:
        try:
            state = state_of(cluster.regions[name])
        except ReplicatorError as error:
            said = str(error)
            continue
        if state["report"]["state"] == "primary":
            return name
        holder = (state["lease"] or {}).get("holder")
        if holder is not None and holder["region"] in cluster.regions:
            return str(holder["region"])
        said = f"{name} knows of no primary: {state['why']}"
    cure = "if the primary is lost: replicator failover CONFIG, with the configuration of the region that is to lead"
    raise Unavailable("no_primary", said, place="cluster", cure=cure)


class EventWatcher:
    """Shows what happens in some regions from now on, as it is seen."""

    def __init__(self, regions: dict[str, Endpoint], show: Callable[[str], None]) -> None:
        self._regions, self._show = regions, show
        self._seen: dict[str, int] = {}
        self.states: dict[str, State] = {}
        for _ in self.look():
            pass  # what has happened before is not shown

    def look(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Ask each region; gives the new events of each that answers."""
        for name, whom in self._regions.items():
            try:
                state = state_of(whom)
            except ReplicatorError:
                self.states.pop(name, None)
                continue
            self.states[name] = state
            events = [event for event in state["history"] if event["at_us"] > self._seen.get(name, -1)]
            if events:
                self._seen[name] = max(event["at_us"] for event in events)
            yield from ((name, event) for event in events)

    def until(self, done: Callable[[str, dict[str, Any]], bool], seconds: float) -> bool:
        """Show events until ``done`` says so of one of them, or of ``("", {})`` after a look; or the time is over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for name, event in self.look():
                self._show(printable(f"{name}: {event['event']}, now {event['state']}; {event['why']}".rstrip("; ")))
                if done(name, event):
                    return True
            if done("", {}):
                return True
            time.sleep(POLL_SECONDS)
        return False
