"""The other regions of a cluster, and whether this region could take over from them.

Guarantee: asked is only what every region tells its peers. A region that does not answer is a warning: whoever starts
the first of them has no others yet.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator
from typing import Any

import trio

from replicator.cluster.failover.durable_state import DurableStateFile
from replicator.cluster.failover.serve import cluster_json
from replicator.cluster.fencing import preflight
from replicator.cluster.promotion.readiness import reasons
from replicator.config import (
    ClusterSettings,
    Config,
    EmbeddedSourceSettings,
    PostgresReplicaSettings,
    PostgresSourceSettings,
)
from replicator.config.finding import Finding, failed
from replicator.config.roles import replica_of, source_of
from replicator.errors import ConfigError, ReplicatorError
from replicator.ops.preflight.listener import is_local
from replicator.ops.preflight.stored_region import StoredRegion
from replicator.pipeline.sources.postgres import preflight as source_preflight
from replicator.runtime import wiring
from replicator.storage.journal.store import Journal
from replicator.transport.answer import ExchangeReasons
from replicator.transport.client import Bounds, Client
from replicator.transport.endpoint import Endpoint

ANSWER_SECONDS = 5.0
ANSWER_LIMIT_BYTES = 1 << 20
REASONS = ExchangeReasons()
_MUST = {"strand": "[region] strand", "regions": "the names in [cluster] regions", "lease": "[lease]"}
_SHOULD = {"mode": "[failover] mode", "acknowledge": "[failover] acknowledge", "ttl_seconds": "[lease] ttl"}


def check_cluster(config: Config, cluster: ClusterSettings, stored: StoredRegion) -> Iterator[Finding]:
    """Everything about ``[cluster]`` and ``[failover]``. Blocks; not for within trio."""
    yield from _encryption(config, cluster)
    yield from trio.run(_ask_all, config, cluster)
    yield from _check_durable_state(config)
    source = source_of(config)
    if isinstance(source, PostgresSourceSettings):
        yield from preflight.preflight(source.conninfo(), wiring.fenced_tables(source))
        yield from _promotable_database(config, source)
    elif isinstance(source, EmbeddedSourceSettings):
        yield from _promotable_ledger(stored)


# -- the others


async def _ask_all(config: Config, cluster: ClusterSettings) -> list[Finding]:
    findings: dict[str, list[Finding]] = {}
    token = cluster.token.reveal() if cluster.token else None
    keys = "[cluster] token", "[cluster] ca ="

    async def ask(name: str, url: str) -> None:
        findings[name] = await look_at(Endpoint(name, url, token, cluster.ca, *keys), config)

    async with trio.open_nursery() as nursery:
        for name, url in cluster.regions.items():
            nursery.start_soon(ask, name, url)
    return [finding for name in cluster.regions for finding in findings[name]]


async def look_at(endpoint: Endpoint, config: Config) -> list[Finding]:
    """What a region of the cluster says of itself, and how that fits this configuration."""
    name, place = endpoint.name, f"[cluster] {endpoint.name} = {endpoint.url}"
    try:
        async with Client(endpoint, Bounds(ANSWER_SECONDS, ANSWER_LIMIT_BYTES), REASONS) as client:
            answer = await client.json("GET", "/v1/failover")
        called, theirs = answer["report"]["region"], answer["cluster"]
        state, blocked = str(answer["report"]["state"]), str(answer["report"]["blocked"])
        settings = {key: theirs[key] for key in (*_MUST, *_SHOULD)}
    except ReplicatorError as error:
        is_first = name == config.region.name and error.reason == REASONS.unreachable  # this sidecar does not run yet
        return [] if is_first else [_trouble(place, error)]
    except (KeyError, TypeError) as error:
        return [_no_member(place, f"it tells no {error}")]
    if called != name:
        cure = "let each name in [cluster] regions have its own region's address"
        return [Finding("fail", f"{place} is the region {str(called)[:64]!r}", cure)]
    findings = list(_differences(place, settings, cluster_json(config)))
    could = f"; it could not be promoted: {blocked}" if blocked and state != "primary" else ""
    return [*findings, Finding("ok", f"{place} answers, and is {state[:20]}{could[:500]}")]


def _trouble(place: str, error: ReplicatorError) -> Finding:
    if error.reason == REASONS.unreachable:
        return Finding("warn", f"{place} does not answer: {error.message}", error.cure)
    if error.reason == REASONS.unauthorised:
        cure = "set [http] token and [cluster] token to the same in every region"
        return Finding("fail", f"{place} refuses the token", cure)
    return failed(error) if isinstance(error, ConfigError) else _no_member(place, error.message)


def _no_member(place: str, message: str) -> Finding:
    cure = "check the address; that region needs a [cluster] section, too, and this version"
    return Finding("fail", f"{place} is no region of a cluster: {message[:500]}", cure)


def _differences(place: str, theirs: dict[str, Any], ours: dict[str, Any]) -> Iterator[Finding]:
    """What is not the same there; what must be before what should be."""
    for key, name in _MUST.items():
        if theirs[key] != ours[key]:
            what = f"{place}: {name} is {_shown(theirs[key])} there and {_shown(ours[key])} here"
            yield Finding("fail", what, "let all regions of a cluster have the same")
    for key, name in _SHOULD.items():
        if theirs[key] != ours[key]:
            what = f"{place}: {name} is {_shown(theirs[key])} there and {_shown(ours[key])} here"
            yield Finding("warn", what, "let all regions have the same, unless that is meant")


def _shown(value: object) -> str:
    return ", ".join(map(str, value))[:300] if isinstance(value, list) else str(value)[:100]


def _encryption(config: Config, cluster: ClusterSettings) -> Iterator[Finding]:
    local = {name: is_local(urllib.parse.urlsplit(url).hostname or "") for name, url in cluster.regions.items()}
    for name, url in cluster.regions.items():
        if url.startswith("http:") and not local[name]:
            what = f"[cluster] {name} = {url}: rows, orders{' and token' if cluster.token else ''} travel unencrypted"
            yield Finding("warn", what, "use https, with a certificate in each region, or a private network")
    me = config.region.name
    if local[me] and not all(local.values()):
        what = f"[cluster] {me} = {cluster.regions[me]}: others would be sent to their own machine"
        yield Finding("fail", what, "name this region's address as the others reach it")


# -- this region


def _check_durable_state(config: Config) -> Iterator[Finding]:
    try:
        state = DurableStateFile(config.region.files.role).read()
    except ReplicatorError as error:
        yield failed(error)
        return
    if state is not None:
        yield Finding("ok", f"this region's role is kept: {state.memory.state}, epoch {state.memory.epoch}")


def _promotable_ledger(stored: StoredRegion) -> Iterator[Finding]:
    foreign = sorted(definition.label for definition in stored.definitions if not definition.documents)
    if foreign:
        what = f"it follows another kind of ledger (table {foreign[0]}), and could not be promoted"
        yield Finding("warn", what, "keep the copy of a PostgreSQL ledger in PostgreSQL")


def _promotable_database(config: Config, source: PostgresSourceSettings) -> Iterator[Finding]:
    """Once the region has followed: what a promotion would stumble over."""
    path, replica = config.region.files.journal, replica_of(config)
    state = DurableStateFile(config.region.files.role).read() if path.exists() else None
    if state is None and config.region.role == "replica":  # it has not followed yet: what can be told before
        for finding in source_preflight(wiring.postgres_options(source)):
            if finding.level == "fail":
                yield Finding("warn", f"could not be promoted: {finding.what}", finding.cure)
        return
    if state is None or state.memory.half != "replica" or not isinstance(replica, PostgresReplicaSettings):
        return
    journal = Journal(path, traceless=True)
    try:
        obstacles = reasons(replica.conninfo(), wiring.postgres_options(source), journal, config.region.strand)
    except ReplicatorError as error:
        obstacles = [str(error)]
    finally:
        journal.close()
    if not obstacles:
        yield Finding("ok", "the database could be promoted")
    for reason in obstacles:
        yield Finding("warn", f"could not be promoted: {reason}", "cure that before this region is needed")
