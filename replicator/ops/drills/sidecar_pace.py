"""The pace of the running sidecar, for the simulation of drills: what its changes of the primary take.

How long its loops sleep are its own numbers. What a ledger takes to close, to be promoted and to open was measured, on
two cores that have nothing else to do; a test holds it against a drill on running regions, so that neither drifts.
"""

from __future__ import annotations

import dataclasses

from replicator.cluster.failover.controller import TICK_SECONDS
from replicator.cluster.failover.executor import BRIEF_SECONDS
from replicator.cluster.failover.lease_keeper import look_seconds
from replicator.cluster.failover.peers import CALM_SECONDS, QUICK_SECONDS, SILENT_SECONDS
from replicator.config import Config
from replicator.config.models import PostgresReplicaSettings, PostgresSourceSettings
from replicator.ops.simulation.pace import SidecarPace, Span
from replicator.ops.simulation.weather import FAIR, Weather

WRITE_EVERY_SECONDS = 0.05  # as canaries do by default
DELAY_SECONDS = 0.02  # a network within a continent
IDLE_SECONDS = 0.5

_LOOPS = SidecarPace(
    decide=Span(TICK_SECONDS, 0.0),
    poll_calm_seconds=CALM_SECONDS,
    poll_quick_seconds=QUICK_SECONDS,
    silent_seconds=SILENT_SECONDS,
    pull=Span(0.15, 0.0),
    flow=Span(0.005, 0.015),
    brief_seconds=BRIEF_SECONDS,
    wakes=True,
    idle_seconds=IDLE_SECONDS,
)
EMBEDDED = _LOOPS._replace(close_fence=Span(0.001, 0.01), promote_least_seconds=0.02, open_fence=Span(0.001, 0.005))
POSTGRES = _LOOPS._replace(close_fence=Span(0.05, 0.05), promote_least_seconds=0.15, open_fence=Span(0.02, 0.04))
_ACTION_SECONDS = {EMBEDDED: 0.02, POSTGRES: 0.1}


def sidecar_weather(config: Config, ttl_seconds: float) -> Weather:
    """A world in which nothing goes wrong by itself, at the pace of this configuration's sidecar and ledger."""
    is_postgres = isinstance(config.source, PostgresSourceSettings) or isinstance(
        config.replica, PostgresReplicaSettings
    )
    pace = POSTGRES if is_postgres else EMBEDDED
    return dataclasses.replace(
        FAIR,
        delay_seconds=DELAY_SECONDS,
        action_seconds=_ACTION_SECONDS[pace],
        write_every_seconds=WRITE_EVERY_SECONDS,
        pace=pace._replace(look=Span(look_seconds(ttl_seconds), 0.0)),
    )
