"""Which regions a drill is about: those of a configuration's cluster, of several configurations, or of addresses.

A configuration without a cluster stands for its own region and for the one that it follows. An address without a name
is asked for it.
"""

from __future__ import annotations

import dataclasses
import os
import urllib.parse
from collections.abc import Iterable, Sequence
from pathlib import Path

import trio

from replicator.config import Config
from replicator.errors import ConfigError, ReplicatorError, Unavailable
from replicator.ops.drills.regions import DeploymentRegions
from replicator.supervise import first_cause
from replicator.transport.endpoint import TOKEN_VARIABLE, Endpoint, own_endpoint

UNNAMED = "?"


def target_regions(configs: Iterable[Config], addresses: Sequence[str], ca: Path | None) -> list[Endpoint]:
    """The endpoints of all regions, each once, by name. Raises ReplicatorError. Runs an event loop of its own."""
    endpoints: dict[str, Endpoint] = {}
    for config in configs:
        for place in _of_config(config):
            endpoints.setdefault(place.url if place.name.startswith(UNNAMED) else place.name, place)
    token = os.environ.get(TOKEN_VARIABLE)
    for number, text in enumerate(addresses):
        name, url = _named(text, number)
        endpoints[name] = Endpoint(name, url, token, ca, f"the environment variable {TOKEN_VARIABLE}", "--ca")
    named = {place.name for place in endpoints.values() if not place.name.startswith(UNNAMED)}
    unnamed = [place for place in endpoints.values() if place.name.startswith(UNNAMED)]
    places = [place for place in endpoints.values() if place.name in named]
    known = {place.url for place in places}
    if unnamed:
        asked = _ask_names([place for place in unnamed if place.url not in known])
        places += [place for place in asked if place.name not in named]
    if not places:
        cure = "name a configuration with a [cluster], or --region URL for each region"
        raise ConfigError("nobody_to_ask", "no region is named", cure=cure)
    return places


def _of_config(config: Config) -> list[Endpoint]:
    own, cluster = own_endpoint(config), config.cluster
    if cluster is not None:
        token = cluster.token.reveal() if cluster.token else own.token
        keys = "[cluster] token", "[cluster] ca ="
        return [Endpoint(name, url, token, cluster.ca, *keys) for name, url in cluster.regions.items()]
    follow = config.follow
    if follow is None or follow.primary is None:
        return [own]
    token, keys = follow.token.reveal() if follow.token else own.token, ("[follow] token", "[follow] ca =")
    return [own, Endpoint(f"{UNNAMED}{follow.primary}", follow.primary, token, follow.ca, *keys)]


def _named(text: str, number: int) -> tuple[str, str]:
    name, equals, url = text.partition("=") if "://" not in text.partition("=")[0] else ("", "", text)
    parts = urllib.parse.urlsplit(url if equals else text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        cure = "write it like tokyo=https://tokyo.example:7400"
        raise ConfigError("bad_url", "this is no address", place=f"--region {text}", cure=cure)
    return name or f"{UNNAMED}{number}", (url if equals else text).rstrip("/")


def _ask_names(places: Sequence[Endpoint]) -> list[Endpoint]:
    named: list[Endpoint] = []

    async def ask() -> None:
        async with DeploymentRegions(places, trio.current_time) as regions:
            for place in places:
                status = await regions.ask(place.name, "/v1/status")
                if status is None or not isinstance(status.get("region"), str):
                    cure = "check that the address is that of a sidecar"
                    raise Unavailable("bad_answer", "it tells no name", place=place.url, cure=cure)
                named.append(dataclasses.replace(place, name=status["region"]))

    try:
        trio.run(ask)
    except* ReplicatorError as group:
        raise first_cause(group) from None
    return named
