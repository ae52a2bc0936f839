"""What the verbs of failover share: the regions of a cluster, who leads, and what happens while a person waits.

Guarantee: an event is shown once, and none that had happened before the watcher was made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from replicator.errors import ConfigError, ReplicatorError, Unavailable
from replicator.ops.cli.common import Answer
from replicator.ops.terminal import printable

if TYPE_CHECKING:
    from replicator.transport.endpoint import Endpoint

POLL_SECONDS = 0.05


class KnownCluster(NamedTuple):
    """The sidecars of a cluster by region. ``own`` is the region whose configuration was named, and
    ``switchover_seconds`` the time that it allows for a switchover."""

    own: str
    sidecars: dict[str, Endpoint]
    switchover_seconds: float


def cluster_of(config_path: Path, ca: Path | None) -> KnownCluster:
    """The cluster of a configuration. Raises ConfigError if it has none."""
    from replicator.config import load
    from replicator.ops.cli.client import cluster_endpoints

    config = load(config_path)
    if config.cluster is None:
        cure = "failover is for regions that name each other in [cluster]; config/reference.toml explains it"
        raise ConfigError("no_cluster", "this region is in no cluster", place=str(config_path), cure=cure)
    return KnownCluster(config.region.name, cluster_endpoints(config, ca), config.failover.switchover_seconds)


def state_of(sidecar: Endpoint) -> Answer:
    """The region's part in failover, as ``GET /v1/failover`` gives it. Raises ReplicatorError."""
    from replicator.ops.cli.client import get_object, unreadable

    answer = get_object(sidecar, "/v1/failover")
    if not isinstance(answer.get("report"), dict):
        raise unreadable(sidecar.url, TypeError("no report"))
    return answer


def primary_of(cluster: KnownCluster) -> str:
    """The region that leads, as the first one that answers knows. Raises Unavailable."""
    names = [cluster.own, *(name for name in cluster.sidecars if name != cluster.own)]
    why = ""
    for name in names:
        try:
            state = state_of(cluster.sidecars[name])
        except ReplicatorError as error:
            why = str(error)
            continue
        if state["report"]["state"] == "primary":
            return name
        holder = (state["lease"] or {}).get("holder")
        if holder is not None and holder["region"] in cluster.sidecars:
            return str(holder["region"])
        why = f"{name} knows of no primary: {state['why']}"
    cure = "if the primary is lost: replicator failover CONFIG, with the configuration of the region that is to lead"
    raise Unavailable("no_primary", why, place="cluster", cure=cure)


class EventWatcher:
    """Shows what happens in some regions from now on. ``states`` holds each region's latest answer."""

    def __init__(self, sidecars: dict[str, Endpoint], show: Callable[[str], None]) -> None:
        self._sidecars, self._show = sidecars, show
        self._latest_us: dict[str, int] = {}  # of the events of each region, by its own clock
        self.states: dict[str, Answer] = {}
        for _ in self.look():
            pass  # what has happened before is not shown

    def look(self) -> Iterator[tuple[str, Answer]]:
        """Ask each region; gives the new events of each that answers."""
        for name, sidecar in self._sidecars.items():
            try:
                state = state_of(sidecar)
            except ReplicatorError:
                self.states.pop(name, None)
                continue
            self.states[name] = state
            events = [event for event in state["history"] if event["at_us"] > self._latest_us.get(name, -1)]
            if events:
                self._latest_us[name] = max(event["at_us"] for event in events)
            yield from ((name, event) for event in events)

    def until(self, done: Callable[[str, Answer], bool], seconds: float) -> bool:
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
