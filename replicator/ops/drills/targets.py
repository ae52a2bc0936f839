"""Which regions a drill is about: those of a configuration's cluster, of several configurations, or of addresses.

A configuration without a cluster stands for its own region and for the one that it follows. An address without a name
is asked for it.
"""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Iterable, Sequence
from pathlib import Path

import trio

from replicator.config import Config
from replicator.errors import ConfigError, ReplicatorError, Unavailable
from replicator.ops.drills.regions import DeploymentRegions, RegionAddress
from replicator.supervise import first_cause

TOKEN_VARIABLE = "REPLICATOR_TOKEN"
UNNAMED = "?"


def places_of(configs: Iterable[Config], addresses: Sequence[str], ca: Path | None) -> list[RegionAddress]:
    """The regions, by name. Raises ReplicatorError. Starts an event loop of its own."""
    found: dict[str, RegionAddress] = {}
    for config in configs:
        for place in _of_config(config):
            found.setdefault(place.url if place.name.startswith(UNNAMED) else place.name, place)
    token = os.environ.get(TOKEN_VARIABLE)
    for number, text in enumerate(addresses):
        name, url = _named(text, number)
        found[name] = RegionAddress(name, url, token, ca)
    named = {place.name for place in found.values() if not place.name.startswith(UNNAMED)}
    unnamed = [place for place in found.values() if place.name.startswith(UNNAMED)]
    places = [place for place in found.values() if place.name in named]
    known = {place.url for place in places}
    if unnamed:
        asked = _ask_names([place for place in unnamed if place.url not in known])
        places += [place for place in asked if place.name not in named]
    if not places:
        cure = "name a configuration with a [cluster], or --region URL for each region"
        raise ConfigError("nobody_to_ask", "no region is named", cure=cure)
    return places


def _of_config(config: Config) -> list[RegionAddress]:
    own_token = config.http.token.reveal() if config.http.token else os.environ.get(TOKEN_VARIABLE)
    own = RegionAddress(config.region.name, config.url, own_token, config.http.certificate)
    cluster = config.cluster
    if cluster is not None:
        token = cluster.token.reveal() if cluster.token else own_token
        return [RegionAddress(name, url, token, cluster.ca) for name, url in cluster.regions.items()]
    follow = config.follow
    if follow is None or follow.primary is None:
        return [own]
    token = follow.token.reveal() if follow.token else own_token
    return [own, RegionAddress(f"{UNNAMED}{follow.primary}", follow.primary, token, follow.ca)]


def _named(text: str, number: int) -> tuple[str, str]:
    name, equals, url = text.partition("=") if "://" not in text.partition("=")[0] else ("", "", text)
    parts = urllib.parse.urlsplit(url if equals else text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        cure = "write it like tokyo=https://tokyo.example:7400"
        raise ConfigError("bad_url", "this is no address", place=f"--region {text}", cure=cure)
    return name or f"{UNNAMED}{number}", (url if equals else text).rstrip("/")


def _ask_names(places: Sequence[RegionAddress]) -> list[RegionAddress]:
    found: list[RegionAddress] = []

    async def ask() -> None:
        async with DeploymentRegions(places, trio.current_time) as regions:
            for place in places:
                status = await regions.ask(place.name, "/v1/status")
                if status is None or not isinstance(status.get("region"), str):
                    cure = "check that the address is that of a sidecar"
                    raise Unavailable("bad_answer", "it tells no name", place=place.url, cure=cure)
                found.append(RegionAddress(status["region"], place.url, place.token, place.ca))

    try:
        trio.run(ask)
    except* ReplicatorError as group:
        raise first_cause(group) from None
    return found
