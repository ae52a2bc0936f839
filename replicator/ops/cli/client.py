"""Asking a running sidecar over HTTP: where it is, and its answers as JSON.

Guarantee: whatever happens on the way is a ReplicatorError that names the address and the cure. Answers are bounded in
size and time. The verbs are synchronous: each question runs an event loop of its own, so none is for within trio.
"""

from __future__ import annotations

import dataclasses
import os
import urllib.parse
from pathlib import Path
from typing import Any

import trio

from replicator.config import Config, load
from replicator.errors import ConfigError, Rejected, ReplicatorError
from replicator.transport.answer import bad_answer, read_value
from replicator.transport.client import Bounds, Client, Request
from replicator.transport.endpoint import TOKEN_VARIABLE, Endpoint, own_endpoint

ANSWER_LIMIT_BYTES = 16_000_000
SILENCE_SECONDS = 5.0
GET_SECONDS, POST_SECONDS = 30.0, 30.0  # what changes something is durable before it is answered
OF_CLUSTERS = ("/v1/failover", "/v1/orphans")  # paths that only regions of a cluster have
TOKEN_KEY = f"[http] token in CONFIG, or the environment variable {TOKEN_VARIABLE},"


def sidecar_endpoint(config_path: Path | None, url: str | None, ca: Path | None) -> Endpoint:
    """The sidecar that the command line names: by its configuration, by its address, or by both."""
    config = None if config_path is None else load(config_path)
    if config is None and url is None:
        cure = "replicator status CONFIG, or replicator status --url URL"
        raise ConfigError("nobody_to_ask", "neither CONFIG nor --url is given", cure=cure)
    token = os.environ.get(TOKEN_VARIABLE)
    if config is not None and config.http.token is not None:
        token = config.http.token.reveal()
    if url is not None:
        return _readable(Endpoint("", _checked(url), token, ca, TOKEN_KEY, "--ca", is_proxied=True))
    assert config is not None
    own = own_sidecar(config)
    return own if ca is None else _readable(dataclasses.replace(own, ca_file=ca, ca_key="--ca", is_own=False))


def own_sidecar(config: Config) -> Endpoint:
    """The sidecar of this configuration, on this machine."""
    return _readable(dataclasses.replace(own_endpoint(config), token_key=TOKEN_KEY))


def cluster_endpoints(config: Config, ca: Path | None) -> dict[str, Endpoint]:
    """Every sidecar of the configuration's cluster, by the region's name."""
    assert config.cluster is not None
    token = config.cluster.token.reveal() if config.cluster.token else os.environ.get(TOKEN_VARIABLE)
    authorities, key = (ca, "--ca") if ca else (config.cluster.ca, "[cluster] ca =")
    token_key = f"[cluster] token, or the environment variable {TOKEN_VARIABLE},"
    regions = config.cluster.regions.items()
    endpoints = {name: _readable(Endpoint(name, url, token, authorities, token_key, key)) for name, url in regions}
    return {**endpoints, config.region.name: dataclasses.replace(own_endpoint(config), token_key=TOKEN_KEY)}


def _checked(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return url.rstrip("/")
    except ValueError:
        pass
    raise ConfigError("bad_url", "this is no address", place=f"--url {url}", cure="write it like http://127.0.0.1:7400")


def _readable(endpoint: Endpoint) -> Endpoint:
    """The same endpoint. Raises ConfigError if its certificates cannot be read: that is the command line's fault."""
    endpoint.tls()
    return endpoint


def get(sidecar: Endpoint, path: str) -> Any:
    """The JSON that the sidecar answers to GET ``path``. Raises Unavailable, or ReplicatorError for another answer."""
    bounds = Bounds(GET_SECONDS, ANSWER_LIMIT_BYTES, SILENCE_SECONDS)
    return trio.run(_exchange, sidecar, "GET", path, Request(bounds=bounds))


def post(sidecar: Endpoint, path: str, fields: dict[str, Any], seconds: float = POST_SECONDS) -> Any:
    """The JSON that the sidecar answers to POST ``path`` with these fields; raises as ``get`` does."""
    bounds = Bounds(seconds, ANSWER_LIMIT_BYTES)
    return trio.run(_exchange, sidecar, "POST", path, Request(bounds=bounds, fields=fields))


def get_object(sidecar: Endpoint, path: str) -> dict[str, Any]:
    """The JSON object that the sidecar answers to GET ``path``; raises as ``get`` does."""
    return _object(sidecar, get(sidecar, path))


def post_object(sidecar: Endpoint, path: str, fields: dict[str, Any], seconds: float = POST_SECONDS) -> dict[str, Any]:
    """The JSON object that the sidecar answers to POST ``path``; raises as ``get`` does."""
    return _object(sidecar, post(sidecar, path, fields, seconds))


def _object(sidecar: Endpoint, answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise unreadable(sidecar.url, TypeError("not an object"))
    return answer


async def _exchange(sidecar: Endpoint, method: str, path: str, request: Request) -> Any:
    async with Client(sidecar, request["bounds"]) as client:
        try:
            return read_value(await client.ask(method, path, **request), sidecar.place)
        except Rejected as refusal:
            if refusal.reason == "not_found" and path.startswith(
                OF_CLUSTERS
            ):  # there is no such path, not no such thing
                raise no_cluster(sidecar.place) from refusal
            raise


def no_cluster(place: str) -> ConfigError:
    """For a verb of a cluster's regions, asked of a region that is in none."""
    cure = (
        "name a region that has [cluster] in its configuration: there is nothing to move, and nothing sealed, elsewhere"
    )
    return ConfigError("no_cluster", "this region is in no cluster", place=place, cure=cure)


def unreadable(place: str, error: Exception) -> ReplicatorError:
    """For an answer that is JSON, but not what was asked for."""
    return bad_answer(place, f"it is another one than expected: {type(error).__name__} {error}")
